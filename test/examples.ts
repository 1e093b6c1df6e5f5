/**
 * The examples in README and docs: found in the text, compiled as in a user's project, and run as they are printed, by
 * processes that have nothing of the test runner's. What a text says of its examples can be checked:
 *
 *   expression // → value            what the statement gives, as Node.js prints it; `…` stands for anything in a line
 *   expression // → throws CODE
 *   $ command                        in a `console` block, with its output below
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import ts from 'typescript'

export const root = fileURLToPath(new URL('..', import.meta.url))

export interface Block {
  readonly language: string
  readonly code: string
  /** Of its first line in the file, from 0. */
  readonly line: number
}

export interface Chapter {
  readonly title: string
  readonly blocks: readonly Block[]
}

/** The chapters of a file below the root: what stands under a heading of the second level. */
export function chaptersOf(file: string): Chapter[] {
  const chapters: { title: string; blocks: Block[] }[] = [{ title: '', blocks: [] }]
  let open: { language: string; lines: string[]; line: number } | null = null
  for (const [i, line] of readFileSync(join(root, file), 'utf8').split('\n').entries()) {
    if (open !== null) {
      if (line !== '```') open.lines.push(line)
      else {
        const { language, lines } = open
        chapters.at(-1)!.blocks.push({ language, code: `${lines.join('\n')}\n`, line: open.line })
        open = null
      }
    } else if (line.startsWith('```')) open = { language: line.slice(3), lines: [], line: i + 1 }
    else if (line.startsWith('## ')) chapters.push({ title: line.slice(3), blocks: [] })
  }
  return chapters
}

/** The code of a chapter, which must be the only one there in its language. */
export function onlyCode(file: string, title: string, language: string): string {
  const chapter = chaptersOf(file).find((each) => each.title === title)
  const [block, ...rest] = chapter?.blocks.filter((each) => each.language === language) ?? []
  if (block === undefined || rest.length > 0) throw new Error(`no code, or several, in '${title}' of ${file}`)
  return block.code
}

/** A chapter's blocks in one language as one source, each line where it is in the file; the first is `prelude`. */
export function sourceOf({ blocks }: Chapter, language: string, prelude: string): string {
  const lines = [prelude]
  for (const block of blocks.filter((each) => each.language === language)) {
    while (lines.length < block.line) lines.push('')
    lines.push(...block.code.split('\n').slice(0, -1))
  }
  return `${lines.join('\n')}\n`
}

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end, by way of `env`, since the runner hands each child of ours its own NODE_OPTIONS. */
export async function run(
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  cwd: string = root,
): Promise<Outcome> {
  const variables = { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? '', ...environment }
  const set = Object.entries(variables).map(([name, value]) => `${name}=${value}`)
  const child = spawn('env', ['-i', ...set, ...command], { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { code: code as number | null, stdout, stderr }
}

/** What the compiler has to say about sources, by name, in a project that has the package as it is built. */
export async function typeErrors(t: Test, sources: Readonly<Record<string, string>>): Promise<string> {
  // Below the package's folder, so that its name leads to it.
  const directory = t.testdir()
  for (const [name, source] of Object.entries(sources)) {
    writeFileSync(join(directory, name), `${source}\nexport {}\n`)
  }
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
    types: ['node'],
    skipLibCheck: false,
  }
  writeFileSync(
    join(directory, 'tsconfig.json'),
    JSON.stringify({ compilerOptions, files: Object.keys(sources) }),
  )
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const { code, stdout } = await run([process.execPath, tsc, '--project', directory])
  return code === 0 ? stdout : stdout || `tsc ended with ${code}`
}

/** What a source says a statement gives. */
interface Claim {
  readonly expected: string
  /** Counted from 1. */
  readonly line: number
}

const claimForm = /^\/\/ → (.+)$/

/** The claims of a source, and the source with each of them turned into a call: `await __tell(line, give)`. */
function withClaims(source: string): { source: string; claims: Claim[] } {
  const file = ts.createSourceFile('example.ts', source, ts.ScriptTarget.ES2022)
  const claims: Claim[] = []
  const edits: { from: number; to: number; text: string }[] = []
  const visit = (node: ts.Node): void => {
    const [comment] = ts.getTrailingCommentRanges(source, node.end) ?? []
    const said = comment && claimForm.exec(source.slice(comment.pos, comment.end).trimEnd())
    if (said && ts.isExpressionStatement(node)) {
      const line = file.getLineAndCharacterOfPosition(node.end).line + 1
      claims.push({ expected: said[1]!, line })
      const expression = source.slice(node.expression.getStart(file), node.expression.end)
      const text = `await __tell(${line}, async () => (${expression}))`
      edits.push({ from: node.getStart(file), to: node.end, text })
    } else ts.forEachChild(node, visit)
  }
  visit(file)
  const all = source.match(/\/\/ → /g)?.length ?? 0
  if (claims.length !== all)
    throw new Error(`${all} claims, of which ${claims.length} are behind a statement`)
  let changed = source
  for (const { from, to, text } of edits.reverse())
    changed = changed.slice(0, from) + text + changed.slice(to)
  return { source: changed, claims }
}

const teller = `
import { inspect as __inspect } from 'node:util'
const __options = { depth: 9, compact: true, breakLength: Infinity }
const __tell = async (line, give) => {
  let told
  try {
    told = __inspect(await give(), __options)
  } catch (error) {
    told = 'throws ' + (error.code ?? error)
  }
  process.stdout.write(JSON.stringify([line, told]) + '\\n')
}`.replaceAll('\n', ';')

/** Runs a source as a program and compares what it gives with what it says. @returns the number of its claims */
export async function assertClaims(t: Test, source: string): Promise<number> {
  const { source: telling, claims } = withClaims(source)
  const { target, module } = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext }
  const { outputText } = ts.transpileModule(telling, { compilerOptions: { target, module } })
  const path = join(t.testdir(), 'example.mjs')
  writeFileSync(path, `${teller}\n${outputText}`)
  const { code, stdout, stderr } = await run([process.execPath, path])
  t.equal(stderr, '')
  t.equal(code, 0)
  const told = stdout
    .split('\n')
    .flatMap((line) => (line === '' ? [] : [JSON.parse(line) as [number, string]]))
  for (const { line, expected } of claims) {
    const given = told.filter((each) => each[0] === line).map((each) => each[1])
    if (given.length === 0) t.fail(`line ${line} was never reached`)
    for (const each of given) t.match(each, formOf(expected), `line ${line}: ${expected}`)
  }
  return claims.length
}

/** What a text stands for in which `…` is anything within a line. */
function formOf(expected: string): RegExp {
  const escaped = expected.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll('…', '.+')
  return new RegExp(`^${escaped}$`)
}

/** A directory that holds the command under its own name, for the PATH of `sh`. */
export function commandDirectory(directory: string): string {
  const folder = join(directory, 'bin')
  mkdirSync(folder, { recursive: true })
  const path = join(folder, 'mq-broker')
  writeFileSync(path, `#!/bin/sh\nexec "${process.execPath}" "${join(root, 'bin/mq-broker.js')}" "$@"\n`)
  chmodSync(path, 0o755)
  return folder
}

/** Types a `console` block's commands into one shell, and compares what each prints with what stands below it. */
export async function assertConsole(
  t: Test,
  code: string,
  environment: Readonly<Record<string, string>>,
  cwd: string,
): Promise<void> {
  const commands: { command: string; expected: string }[] = []
  for (const line of code.trimEnd().split('\n')) {
    if (line.startsWith('$ ')) commands.push({ command: line.slice(2), expected: '' })
    else commands.at(-1)!.expected += `${line}\n`
  }
  const separator = '\u001e'
  const script = commands.map(({ command }) => `${command}\nprintf '\\036'\n`).join('')
  const path = `${commandDirectory(cwd)}${delimiter}${process.env['PATH']}`
  const { stdout } = await run(
    ['sh', '-c', `exec 2>&1\n${script}`],
    { ...environment, HOME: cwd, PATH: path },
    cwd,
  )
  const printed = stdout.split(separator)
  for (const [i, { command, expected }] of commands.entries()) {
    t.match(printed[i] ?? '(never reached)', formOf(expected), `$ ${command}`)
  }
}

/** Whether a program is on the PATH. */
export async function isInstalled(program: string): Promise<boolean> {
  return (await run(['sh', '-c', `command -v ${program}`])).code === 0
}

/** What the README tells a reader to type does what it says. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { test, type Test } from 'tap'
import { startBroker } from './cli/process.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const readme = readFileSync(join(root, 'README.md'), 'utf8')

/** The code of a section, which must be the only one in its language. */
function codeOf(section: string, language: string): string {
  const [, body] = readme.split(`\n## ${section}\n`)
  const [, code, ...rest] = (body ?? '').split(/\n## /)[0]!.split(new RegExp(`^\`\`\`${language}\n`, 'm'))
  if (code === undefined || rest.length > 0) throw new Error(`no code, or several, in '${section}'`)
  return code.slice(0, code.indexOf('\n```') + 1)
}

/** Runs a program to its end, with nothing of the test runner's in its environment. */
async function run(command: string[], environment: Record<string, string> = {}) {
  const variables = { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? '', ...environment }
  const set = Object.entries(variables).map(([name, value]) => `${name}=${value}`)
  const child = spawn('env', ['-i', ...set, ...command], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { code: code as number | null, stdout, stderr }
}

const broker = (t: Test) => startBroker(t, join(t.testdir(), 'data'))

test('the client’s example prints what it sends', async (t) => {
  const { listen } = await broker(t)
  const example = codeOf('In TypeScript', 'ts')
  const here = example.replace("'127.0.0.1:7650'", `'${listen}'`)
  t.not(here, example, 'it says where the broker is')
  // The package finds itself by name in its own folder; as printed, the example needs no compiler.
  const { code, stdout, stderr } = await run([process.execPath, '--input-type=module', '--eval', here])
  t.equal(stderr, '')
  t.equal(code, 0)
  t.match(
    stdout,
    /^on disk as invoices\/0\/\d+-\d+\n\{ customer: 7, cents: 1250 \} \{ source: 'web' \} delivery 1\n$/,
  )
})

test('the client’s example has the types that the package declares', async (t) => {
  // Below the package's folder, so that its name leads to it.
  const directory = t.testdir()
  writeFileSync(join(directory, 'example.ts'), `${codeOf('In TypeScript', 'ts')}\nexport {}\n`)
  writeFileSync(
    join(directory, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: {
        module: 'nodenext',
        target: 'es2022',
        strict: true,
        noEmit: true,
        types: ['node'],
        skipLibCheck: false,
      },
      files: ['example.ts'],
    }),
  )
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const { code, stdout } = await run([process.execPath, tsc, '--project', directory])
  t.equal(stdout, '')
  t.equal(code, 0)
})

test('the first message: create, send, receive', async (t) => {
  const { listen } = await broker(t)
  const lines = codeOf('A first message', 'sh')
  // npx would look the command up in the registry where the package is not installed.
  const bin = join(root, 'bin/mq-broker.js')
  const script = lines.replaceAll('npx mq-broker', `"${process.execPath}" "${bin}"`)
  t.not(script, lines)
  const { code, stdout, stderr } = await run(['sh', '-e', '-c', script], { MQ_SERVER: listen })
  t.equal(stderr, '')
  t.equal(code, 0)
  t.match(stdout, /\norders\/0\/\d+-\d+\nhello\n$/)
})

test('the commands and scripts that it names are there', async (t) => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const named = [...readme.matchAll(/npm (?:run )?([a-z:]+)/g)].map(([, name]) => name!)
  t.strictSame(
    named.filter((name) => name !== 'ci' && scripts[name] === undefined),
    [],
  )
})

/** The bench as `npm run bench` runs it: compiled, with processes of its own. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'
import ts from 'typescript'
import { childEnvironment, projectRoot } from '../../bench/broker-process.ts'

/**
 * Types stripped, not checked: that is `npm run typecheck`, and takes ten times as long.
 * @param dir below the project, where node_modules and the command are found from
 * @returns the main file
 */
export function compileBench(dir: string): string {
  const root = projectRoot()
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => readFileSync(path, 'utf8'))
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  // By a single file nodenext cannot tell what the package is.
  const compilerOptions = { ...options, module: ts.ModuleKind.ESNext, sourceMap: false }
  for (const folder of ['src', 'bench']) {
    const files = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    for (const file of files) {
      if (!file.endsWith('.ts') || /node_modules|^peers\b/.test(file)) continue
      const source = readFileSync(join(root, folder, file), 'utf8')
      const output = join(dir, folder, file.replace(/\.ts$/, '.js'))
      mkdirSync(dirname(output), { recursive: true })
      writeFileSync(output, ts.transpileModule(source, { compilerOptions }).outputText)
    }
  }
  return join(dir, 'bench', 'main.js')
}

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** By way of `env`: the test runner hands each child its own NODE_OPTIONS, whatever it is given. */
export async function runCompiled(t: Test, main: string, args: readonly string[]): Promise<Outcome> {
  const assignments = Object.entries(childEnvironment()).map(([name, value]) => `${name}=${value}`)
  const child = spawn('env', ['-i', ...assignments, process.execPath, main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  // It ends its own children when it is told to go.
  t.teardown(() => void child.kill('SIGTERM'))
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { code: code as number | null, stdout, stderr }
}

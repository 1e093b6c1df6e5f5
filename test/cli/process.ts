/** Runs the real command as users do: the built bin, in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const bin = fileURLToPath(new URL('../../bin/mq-broker.js', import.meta.url))

/**
 * By way of `env`, which becomes the command: the test runner hooks `spawn` and hands each child its own NODE_OPTIONS,
 * whatever the caller gave. A module loaded that way runs before ours, as nothing of a user's does.
 */
function spawnBin(args: readonly string[], environment: Record<string, string>, redirections = '') {
  const assignments = Object.entries(cleanEnvironment(environment)).map(([name, value]) => `${name}=${value}`)
  const command = ['-i', ...assignments, process.execPath, bin, ...args]
  if (redirections === '') return spawn('env', command)
  return spawn('sh', ['-c', `exec env "$@" ${redirections}`, 'sh', ...command])
}

/** Without what the test runner and the developer's shell put there. */
function cleanEnvironment(extra: Record<string, string>): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(_?TAP|MQ_|NODE_|UV_|FORCE_COLOR|NO_COLOR)/.test(name),
  )
  return { ...(Object.fromEntries(kept) as Record<string, string>), ...extra }
}

export interface RunOptions {
  readonly input?: string | Uint8Array
  readonly environment?: Record<string, string>
  /** Paths that stand for its streams. */
  readonly stdin?: string
  readonly stdout?: string
}

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `mq-broker …args` to its end. */
export async function run(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { environment = {}, stdin, stdout: output } = options
  const from = stdin === undefined ? '' : `<'${stdin}'`
  const to = output === undefined ? '' : `>'${output}'`
  const child = spawnBin(args, environment, `${from}${to}`)
  // A command that never looks at its input closes it.
  child.stdin.on('error', () => {})
  child.stdin.end(options.input)
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { code: code as number | null, stdout, stderr }
}

/** A command that is still running; its streams are the caller's to read. */
export function runOn(t: Test, args: readonly string[], environment: Record<string, string> = {}) {
  const child = spawnBin(args, environment)
  t.teardown(() => end(child))
  return child
}

export interface RunningBroker {
  readonly node: string
  readonly listen: string
  readonly http: string
  readonly pid: number
  readonly child: ChildProcess
  /** What it has logged so far. */
  readonly log: () => string
  /** Sends the signal, and resolves once the process has ended. */
  end(signal: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  /** A command that talks to this broker. */
  run(args: readonly string[], options?: RunOptions): Promise<Outcome>
}

/** Starts a broker on free ports, and resolves once it has said that it serves. */
export async function startBroker(
  t: Test,
  dataDir: string,
  args: readonly string[] = [],
  environment: Record<string, string> = {},
): Promise<RunningBroker> {
  const ports = ['--listen', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const child = runOn(t, ['start', '--json', '--data-dir', dataDir, ...ports, ...args], environment)
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (log += chunk))
  const line = await firstLine(child)
  if (line === undefined) throw new Error(`the broker did not start: ${log}`)
  const { node, listen, http, pid } = JSON.parse(line)
  return {
    node,
    listen,
    http,
    pid,
    child,
    log: () => log,
    end: (signal) => end(child, signal),
    run: (args, options = {}) =>
      run(args, { ...options, environment: { ...options.environment, MQ_SERVER: listen } }),
  }
}

/** The first line on stdout, or undefined if the process ends without one. */
export async function firstLine(child: ChildProcess): Promise<string | undefined> {
  for await (const line of createInterface({ input: child.stdout! })) return line
  return undefined
}

async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL') {
  if (child.exitCode === null && child.signalCode === null) {
    // Its streams too, so that nothing it said is missing.
    const ended = once(child, 'close')
    child.kill(signal)
    await ended
  }
  return { code: child.exitCode, signal: child.signalCode }
}

/** One line that says what to do, and nothing of the program's insides. */
export function assertOneLine(t: Test, stderr: string, expected: RegExp): void {
  t.match(stderr, expected)
  t.match(stderr, /^mq-broker: [^\n]+\n$/, 'one line')
  t.notMatch(stderr, /\n\s+at /, 'no stack trace')
}

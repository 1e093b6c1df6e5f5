/** The real broker, as the command starts it, in a process of its own. For the bench, the crash loop and tests. */
import { spawn, spawnSync, type ChildProcess, type ChildProcessByStdio } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

export interface BrokerProcessOptions {
  readonly dataDir: string
  /** The package whose command runs. Default: this one. */
  readonly root?: string | undefined
  /** Default: any free port. */
  readonly listen?: string | undefined
  /** For node, before the script. */
  readonly execArgv?: readonly string[] | undefined
  /** What runs node, with its arguments: `strace -f …`. */
  readonly wrapper?: readonly string[] | undefined
  /** Variables besides ours: `MQ_SEGMENT_BYTES`. */
  readonly environment?: NodeJS.ProcessEnv | undefined
  /** For the command, besides those that it gets anyway. */
  readonly flags?: readonly string[] | undefined
  /** A channel to what `execArgv` loads into the broker: see `ask`. */
  readonly channel?: boolean | undefined
}

const startMs = 30_000
/** A broker promises to stop within ten seconds; a profile takes time to be written. */
const stopMs = 20_000
const stderrKeptChars = 4000

export class BrokerProcess {
  /** The broker's own, not that of what wraps it. */
  readonly pid: number
  /** host:port */
  readonly listen: string
  /** host:port of /readyz and /metrics */
  readonly http: string
  readonly #child: ChildProcess
  readonly #exited: Promise<string>
  readonly #stderr: () => string

  private constructor(
    { pid, listen, http }: { pid: number; listen: string; http: string },
    child: ChildProcess,
    exited: Promise<string>,
    stderr: () => string,
  ) {
    this.pid = pid
    this.listen = listen
    this.http = http
    this.#child = child
    this.#exited = exited
    this.#stderr = stderr
  }

  /** Resolves once it serves. @throws Error with what it said when it does not */
  static async start(options: BrokerProcessOptions): Promise<BrokerProcess> {
    const {
      dataDir,
      root = projectRoot(),
      listen = '127.0.0.1:0',
      execArgv = [],
      wrapper = [],
      environment = {},
      channel = false,
    } = options
    const where = ['--data-dir', dataDir, '--listen', listen, '--http', '127.0.0.1:0']
    const flags = [...where, '--log-level', 'warn', ...(options.flags ?? [])]
    const command = [...wrapper, process.execPath, ...execArgv, join(root, 'bin', 'mq-broker.js')]
    const [file, ...args] = [...command, 'start', '--json', ...flags]
    const child = spawn(file!, args, {
      env: { ...childEnvironment(), ...environment },
      stdio: ['ignore', 'pipe', 'pipe', ...(channel ? ['ipc' as const] : [])],
    }) as ChildProcessByStdio<null, Readable, Readable>
    ownChild(child)
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-stderrKeptChars)
    })
    const exited = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('close', (code, signal) => resolve(signal ?? `exit code ${code}`))
    })
    let stdout = ''
    const line = new Promise<string>((resolve) => {
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        stdout += text
        const end = stdout.indexOf('\n')
        if (end >= 0) resolve(stdout.slice(0, end))
      })
    })
    const ended = exited.then((how) =>
      Promise.reject(new Error(`the broker ended (${how}): ${stderr.trim()}`)),
    )
    try {
      const ready = JSON.parse(await within(startMs, 'the broker to serve', Promise.race([line, ended])))
      ended.catch(() => undefined)
      return new BrokerProcess(ready, child, exited, () => stderr.trim())
    } catch (error) {
      child.kill('SIGKILL')
      throw error
    }
  }

  /** What it logged last; warnings and worse. */
  get log(): string {
    return this.#stderr()
  }

  /** What the probe answers that is loaded into the broker. */
  ask<T>(question: string): Promise<T> {
    const answer = new Promise<T>((resolve) =>
      this.#child.once('message', (message) => resolve(message as T)),
    )
    this.#child.send(question)
    return within(stopMs, `the broker to answer ${question}`, answer)
  }

  /** kill -9; resolves once the process is gone. */
  async kill(): Promise<void> {
    this.#signal('SIGKILL')
    await within(stopMs, 'the killed broker to be gone', this.#exited)
  }

  /** SIGTERM; resolves once it has stopped in order. @throws Error when it does not */
  async stop(): Promise<void> {
    this.#signal('SIGTERM')
    try {
      const how = await within(stopMs, 'the broker to stop', this.#exited)
      if (how !== 'exit code 0') throw new Error(`the broker stopped with ${how}: ${this.log}`)
    } finally {
      this.#child.kill('SIGKILL')
    }
  }

  #signal(signal: 'SIGKILL' | 'SIGTERM'): void {
    // Once our child has ended its pid may be somebody else's.
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    process.kill(this.pid, signal)
  }
}

/** Ends a child with this process, however this one ends in order. */
export function ownChild(child: ChildProcess): void {
  const kill = () => void child.kill('SIGKILL')
  process.once('exit', kill)
  child.once('exit', () => process.off('exit', kill))
}

/** Ours, without what a test runner adds for its own children. */
export function childEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => name !== 'NODE_OPTIONS' && !name.startsWith('TAP_')),
  )
}

export async function within<T>(timeoutMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${timeoutMs} ms for ${what}`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** The folder of the command, from sources and from what was compiled to build/ alike; bench/ has a package.json, too. */
export function projectRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'bin', 'mq-broker.js'))) folder = dirname(folder)
  return folder
}

/**
 * Compiles the command unless it is as new as its sources: `npm run build:all` makes build/, but the command runs
 * from dist/, and to measure yesterday's broker is worse than to wait.
 */
export function buildCommandIfStale(): void {
  const root = projectRoot()
  const built = join(root, 'dist', 'cli', 'main.js')
  const builtMs = existsSync(built) ? statSync(built).mtimeMs : 0
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  const isStale = sources.some((file) => {
    if (!file.endsWith('.ts')) return false
    const source = join(root, 'src', file)
    const output = join(root, 'dist', `${file.slice(0, -3)}.js`)
    return statSync(source).mtimeMs > builtMs || !existsSync(output)
  })
  if (!isStale) return
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: childEnvironment(),
  })
  if (status !== 0) throw new Error('the command does not compile: run `npm run build`')
}

/**
 * A peer's server as a child of ours: on a free loopback port, with its data where we say, gone with this process.
 * What it prints goes to a file, so that nothing it starts holds a pipe of ours.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { delimiter, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { childEnvironment, ownChild, within } from '../broker-process.ts'
import type { Endpoint, Found, RunningServer } from './peer.ts'

export interface ServerOptions {
  /** For messages. */
  readonly name: string
  readonly file: string
  readonly args: readonly string[]
  readonly dir: string
  readonly environment?: NodeJS.ProcessEnv
  readonly user?: UnixUser | null
  readonly endpoint: Endpoint & { readonly port: number }
  /** Beyond that it listens on its port. Rejects or says no while it is not ready. */
  readonly isReady?: () => Promise<boolean>
  /** What ends it soonest; its data are of no use any more. Default SIGTERM. */
  readonly stopSignal?: NodeJS.Signals
  /** Ended after it. */
  readonly needs?: ServerProcess
}

export interface UnixUser {
  readonly uid: number
  readonly gid: number
}

const startMs = 60_000
const stopMs = 20_000
const pollMs = 30
const logKeptChars = 1500

export class ServerProcess implements RunningServer {
  readonly pid: number
  readonly endpoint: Endpoint
  readonly #options: ServerOptions
  readonly #child: ChildProcess
  readonly #exited: Promise<void>
  readonly #logFile: string

  private constructor(options: ServerOptions, child: ChildProcess, logFile: string) {
    this.#options = options
    this.#child = child
    this.#logFile = logFile
    this.pid = child.pid!
    this.endpoint = options.endpoint
    this.#exited = new Promise((resolve) => child.once('exit', () => resolve()))
  }

  /** Resolves once it serves. @throws Error with what it said when it does not */
  static async start(options: ServerOptions): Promise<ServerProcess> {
    const { name, file, args, dir, environment = {}, user = null, endpoint, isReady } = options
    const logFile = join(dir, `${name}.out`)
    const log = openSync(logFile, 'a')
    // The kernel ends it even when we are killed without a word.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', file, ...args], {
      cwd: dir,
      env: { ...childEnvironment(), ...environment },
      stdio: ['ignore', log, log],
      // A group of its own: a script's children end with it even when it cannot tell them.
      detached: true,
      ...(user ?? {}),
    })
    closeSync(log)
    const started = new Promise<void>((resolve, reject) => {
      child.once('spawn', () => resolve())
      child.once('error', reject)
    })
    await started
    ownChild(child)
    const server = new ServerProcess(options, child, logFile)
    const kill = () => server.#killGroup()
    process.once('exit', kill)
    child.once('exit', () => process.off('exit', kill))
    try {
      await within(startMs, `${name} to serve`, server.#ready(endpoint.port, isReady))
      return server
    } catch (error) {
      await server[Symbol.asyncDispose]()
      const message = error instanceof Error ? error.message : String(error)
      throw new Error(`${message}; it said: ${server.log()}`, { cause: error })
    }
  }

  async #ready(port: number, isReady = async () => true): Promise<void> {
    for (;;) {
      if (this.#hasEnded) throw new Error(`${this.#options.name} ended at its start`)
      if ((await listensOn(port)) && (await isReady().catch(() => false))) return
      await setTimeout(pollMs)
    }
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** The end of what it printed. */
  log(): string {
    return readFileSync(this.#logFile, 'utf8').slice(-logKeptChars).trim()
  }

  #killGroup(): void {
    try {
      process.kill(-this.pid, 'SIGKILL')
    } catch {
      // Nobody is left in it.
    }
  }

  /** Resolves once it is gone. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) {
      process.kill(this.pid, this.#options.stopSignal ?? 'SIGTERM')
      await within(stopMs, `${this.#options.name} to stop`, this.#exited).catch(() => undefined)
      this.#killGroup()
      await this.#exited
    }
    await this.#options.needs?.[Symbol.asyncDispose]()
  }
}

function listensOn(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

/** A port of the loopback address that nobody has at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Where Debian and others put servers that a user's PATH leaves out. */
const serverFolders = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin']

/** Path of a server's program; null when it is not on this machine. */
export function findProgram(name: string, folders: readonly string[] = []): string | null {
  const all = [...folders, ...(process.env['PATH'] ?? '').split(delimiter), ...serverFolders]
  return all.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null
}

/** A server's version as its program prints it. */
export function askVersion(program: string | null, name: string, args: string[], pattern: RegExp): Found {
  if (program === null) return { absent: `${name} is not on this machine` }
  const { stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 30_000 })
  const version = pattern.exec(`${stdout}${stderr}`)?.[1]
  return version === undefined ? { absent: `${name} does not tell its version` } : { version }
}

/** Clients that die: the real command, killed while it sends or holds messages under a lease. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { join } from 'node:path'
import { childEnvironment, ownChild, projectRoot, within } from '../../bench/broker-process.ts'
import { queues } from './load.ts'

const saysSomethingMs = 30_000

/** One after the other, until `stop`. */
export class Killed {
  count = 0
  readonly #server: string
  readonly #loop: Promise<void>
  #isOver = false
  #stop: () => void = () => undefined
  readonly #stopped = new Promise<void>((resolve) => (this.#stop = resolve))

  /** @param failed hears of a command that did not do its work */
  constructor(server: string, pauseMs: number, failed: (error: unknown) => void) {
    this.#server = server
    this.#loop = this.#run(pauseMs).catch(failed)
  }

  async stop(): Promise<void> {
    this.#isOver = true
    this.#stop()
    await this.#loop
  }

  async #run(pauseMs: number): Promise<void> {
    while (!this.#isOver) {
      if (this.count % 2 === 0) await this.#holding()
      else await this.#sending()
      this.count++
      await this.#pause(pauseMs)
    }
  }

  async #pause(ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await Promise.race([new Promise((resolve) => (timer = setTimeout(resolve, ms))), this.#stopped])
    clearTimeout(timer)
  }

  /** Killed once it has printed a message, or while it waits for one. */
  async #holding(): Promise<void> {
    const child = this.#spawn(['receive', queues.work, '--follow', '--visibility-timeout', '1s'])
    await this.#untilKilled(child, new Promise((resolve) => child.stdout.once('data', resolve)))
  }

  /** Killed while its input goes on. */
  async #sending(): Promise<void> {
    const child = this.#spawn(['send', queues.scratch, '-', '--json'])
    child.stdin.on('error', () => undefined)
    child.stdin.write('a line that nobody waits for\n'.repeat(100))
    await this.#untilKilled(child, new Promise((resolve) => child.stdout.once('data', resolve)))
  }

  #spawn(args: readonly string[]): ChildProcessWithoutNullStreams {
    const bin = join(projectRoot(), 'bin', 'mq-broker.js')
    const child = spawn(process.execPath, [bin, ...args, '--server', this.#server], {
      env: childEnvironment(),
    })
    ownChild(child)
    return child
  }

  async #untilKilled(child: ChildProcessWithoutNullStreams, busy: Promise<unknown>): Promise<void> {
    let stderr = ''
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
    const tooSoon = ended.then(() => Promise.reject(new Error(`a client ended by itself: ${stderr}`)))
    tooSoon.catch(() => undefined)
    try {
      await within(saysSomethingMs, 'a client to do its work', Promise.race([busy, tooSoon, this.#stopped]))
    } finally {
      child.kill('SIGKILL')
      await ended
    }
  }
}

/** The consumer's process: receives messages, acks each one, and keeps account of what arrived. */
import { connect, type MqClient } from '../src/index.ts'
import { Arrivals } from './bodies.ts'
import { within } from './broker-process.ts'
import { nowMs } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface ConsumeTask {
  readonly queue: string
  readonly bodyBytes: number
  readonly tag: number
}

/** Receives under way at once: while one's messages are acked the next is on its way. */
const receivers = 3
const receiveMax = 1000
/** Short, because the end of a run waits for it. */
const waitMs = 300

class Run {
  readonly arrivals: Arrivals
  readonly #queue: string
  #acked = 0
  #lastAckMs = 0
  #stopping = false
  #failure: Error | null = null
  #waiting: { total: number; resolve: () => void } | null = null
  readonly #loops: Promise<unknown>

  constructor(mq: MqClient, { queue, bodyBytes, tag }: ConsumeTask) {
    this.#queue = queue
    this.arrivals = new Arrivals(bodyBytes, tag)
    const loops = Array.from({ length: receivers }, () => this.#loop(mq))
    this.#loops = Promise.all(loops).catch((error: unknown) => {
      this.#failure = error instanceof Error ? error : new Error(String(error))
      this.#waiting?.resolve()
    })
  }

  async #loop(mq: MqClient): Promise<void> {
    while (!this.#stopping) {
      const messages = await mq.receive(this.#queue, { max: receiveMax, waitMs })
      if (messages.length === 0) continue
      for (const message of messages) this.arrivals.note(message.body)
      await Promise.all(messages.map((message) => message.ack()))
      this.#acked += messages.length
      this.#lastAckMs = nowMs()
      if (this.#waiting !== null && this.#acked >= this.#waiting.total) this.#waiting.resolve()
    }
  }

  /** Resolves once so many have been acked, or with fewer when the time is over. */
  async untilAcked(total: number, timeoutMs: number): Promise<{ acked: number; lastAckMs: number }> {
    if (this.#acked < total && this.#failure === null) {
      const reached = new Promise<void>((resolve) => (this.#waiting = { total, resolve }))
      // Late is no error here: the account says what is missing.
      await within(timeoutMs, 'the last ack', reached).catch(() => undefined)
      this.#waiting = null
    }
    if (this.#failure !== null) throw this.#failure
    return { acked: this.#acked, lastAckMs: this.#lastAckMs }
  }

  /** Ends it, after one more look for what should not be there, and says what came of all. */
  async stop(total: number) {
    this.#stopping = true
    await this.#loops
    if (this.#failure !== null) throw this.#failure
    const { duplicates, damaged } = this.arrivals
    return { acked: this.#acked, missing: this.arrivals.missing(total), duplicates, damaged }
  }
}

let client: MqClient | null = null
let run: Run | null = null

const steps = {
  async connect({ server }: { server: string }): Promise<void> {
    client = await connect({ servers: [server], name: 'bench-consumer' })
  },

  start(task: ConsumeTask): void {
    run = new Run(client!, task)
  },

  untilAcked: ({ total, timeoutMs }: { total: number; timeoutMs: number }) =>
    run!.untilAcked(total, timeoutMs),

  stop: ({ total }: { total: number }) => run!.stop(total),

  async close(_: null): Promise<void> {
    await client?.close()
    client = null
  },
}

export type ConsumerSteps = typeof steps

serveSteps(steps)

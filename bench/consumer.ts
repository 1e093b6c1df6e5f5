/** The consumer's process: receives messages, acks each one, and keeps account of what arrived. */
import { setTimeout } from 'node:timers/promises'
import { connect, type MqClient } from '../src/index.ts'
import { Acks } from './acks.ts'
import { Arrivals } from './bodies.ts'
import type { ConsumeMode } from './cases.ts'
import { serveSteps } from './steps.ts'

export interface ConsumeTask {
  readonly queue: string
  readonly bodyBytes: number
  readonly tag: number
  readonly mode: ConsumeMode
}

/** Receives under way at once: while one's messages are acked the next is on its way. */
const receivers = 3
const receiveMax = 1000
/** Short, because the end of a run waits for it. */
const waitMs = 300
/** Messages that have come and are not acked, for those that are pushed. */
const prefetch = 20_000

class Run {
  readonly arrivals: Arrivals
  readonly #queue: string
  readonly #acks = new Acks()
  #stopping = false
  readonly #loops: Promise<unknown>

  /** Ends what is pushed. */
  #end: (() => unknown) | null = null

  constructor(mq: MqClient, { queue, bodyBytes, tag, mode }: ConsumeTask) {
    this.#queue = queue
    this.arrivals = new Arrivals(bodyBytes, tag)
    const loops =
      mode === 'receive'
        ? Array.from({ length: receivers }, () => this.#loop(mq))
        : [mode === 'consume' ? this.#consume(mq) : this.#consumeBatches(mq)]
    this.#loops = Promise.all(loops).catch((error: unknown) => this.#acks.fail(error))
  }

  async #loop(mq: MqClient): Promise<void> {
    while (!this.#stopping) {
      const messages = await mq.receive(this.#queue, { max: receiveMax, waitMs })
      if (messages.length === 0) continue
      for (const message of messages) this.arrivals.note(message.body)
      await Promise.all(messages.map((message) => message.ack()))
      this.#acks.add(messages.length)
    }
  }

  async #consume(mq: MqClient): Promise<void> {
    const loop = mq.consume(this.#queue, { prefetch })
    this.#end = () => loop.return()
    const acked = (): void => this.#acks.add(1)
    for await (const message of loop) {
      this.arrivals.note(message.body)
      // As many at once as prefetch allows.
      message.ack().then(acked, (error: unknown) => this.#acks.fail(error))
    }
  }

  async #consumeBatches(mq: MqClient): Promise<void> {
    const loop = mq.consumeBatches(this.#queue, { max: receiveMax, prefetch })
    this.#end = () => loop.return()
    for await (const batch of loop) {
      const { messages } = batch
      for (const message of messages) this.arrivals.note(message.body)
      batch.ack().then(
        () => this.#acks.add(messages.length),
        (error: unknown) => this.#acks.fail(error),
      )
    }
  }

  untilAcked(total: number, timeoutMs: number) {
    return this.#acks.until(total, timeoutMs)
  }

  /** Ends it, after one more look for what should not be there, and says what came of all. */
  async stop(total: number) {
    this.#stopping = true
    if (this.#end !== null) {
      await setTimeout(waitMs)
      await this.#end()
    }
    await this.#loops
    this.#acks.assertGood()
    const { duplicates, damaged } = this.arrivals
    return { acked: this.#acks.count, missing: this.arrivals.missing(total), duplicates, damaged }
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

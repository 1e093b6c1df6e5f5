/** The consumer's process: receives messages, acks each one, and keeps account of what arrived. */
import { setTimeout } from 'node:timers/promises'
import type { MqClient } from '../src/index.ts'
import { Acks } from './acks.ts'
import { Arrivals } from './bodies.ts'
import type { ConsumeMode } from './cases.ts'
import { closeClients, connectClients, type ClientsTask } from './clients.ts'
import { serveSteps } from './steps.ts'

export interface ConsumeTask {
  /** Each is consumed; by each client at least once, where there are more of those. */
  readonly queues: readonly string[]
  readonly bodyBytes: number
  readonly tag: number
  readonly mode: ConsumeMode
  /** Keep when each message came: of its number, the first time. */
  readonly timed?: boolean | undefined
  /** Messages that have come and are not acked at most, for those that are pushed. */
  readonly prefetch?: number | undefined
}

/** Receives under way at once: while one's messages are acked the next is on its way. */
const receivers = 3
const receiveMax = 1000
/** Short, because the end of a run waits for it. */
const waitMs = 300
const prefetchDefault = 20_000

class Run {
  readonly arrivals: Arrivals
  readonly #prefetch: number
  readonly #acks = new Acks()
  #stopping = false
  readonly #loops: Promise<unknown>

  /** End what is pushed. */
  readonly #ends: (() => unknown)[] = []

  constructor(clients: readonly MqClient[], task: ConsumeTask) {
    const { queues, bodyBytes, tag, mode, timed = false, prefetch = prefetchDefault } = task
    const pairs = Math.max(clients.length, queues.length)
    this.#prefetch = Math.max(1, Math.floor(prefetch / pairs))
    this.arrivals = new Arrivals(bodyBytes, tag, timed)
    const loops = Array.from({ length: pairs }, (_, i) =>
      this.#run(mode, clients[i % clients.length]!, queues[i % queues.length]!),
    )
    this.#loops = Promise.all(loops).catch((error: unknown) => this.#acks.fail(error))
  }

  async #run(mode: ConsumeMode, mq: MqClient, queue: string): Promise<void> {
    switch (mode) {
      case 'receive':
        await Promise.all(Array.from({ length: receivers }, () => this.#loop(mq, queue)))
        return
      case 'consume':
        return this.#consume(mq, queue)
      case 'consumeBatches':
        return this.#consumeBatches(mq, queue)
    }
  }

  async #loop(mq: MqClient, queue: string): Promise<void> {
    while (!this.#stopping) {
      const messages = await mq.receive(queue, { max: receiveMax, waitMs })
      if (messages.length === 0) continue
      for (const message of messages) this.arrivals.note(message.body)
      await Promise.all(messages.map((message) => message.ack()))
      this.#acks.add(messages.length)
    }
  }

  async #consume(mq: MqClient, queue: string): Promise<void> {
    const loop = mq.consume(queue, { prefetch: this.#prefetch })
    this.#ends.push(() => loop.return())
    const acked = (): void => this.#acks.add(1)
    for await (const message of loop) {
      this.arrivals.note(message.body)
      // As many at once as prefetch allows.
      message.ack().then(acked, (error: unknown) => this.#acks.fail(error))
    }
  }

  async #consumeBatches(mq: MqClient, queue: string): Promise<void> {
    const loop = mq.consumeBatches(queue, { max: receiveMax, prefetch: this.#prefetch })
    this.#ends.push(() => loop.return())
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
    if (this.#ends.length > 0) {
      await setTimeout(waitMs)
      await Promise.all(this.#ends.map((end) => end()))
    }
    await this.#loops
    this.#acks.assertGood()
    const { duplicates, damaged } = this.arrivals
    return { acked: this.#acks.count, missing: this.arrivals.missing(total), duplicates, damaged }
  }
}

let clients: MqClient[] = []
let run: Run | null = null

const steps = {
  async connect(task: ClientsTask): Promise<void> {
    clients = await connectClients(task, 'bench-consumer')
  },

  start(task: ConsumeTask): void {
    run = new Run(clients, task)
  },

  untilAcked: ({ total, timeoutMs }: { total: number; timeoutMs: number }) =>
    run!.untilAcked(total, timeoutMs),

  receivedMs: ({ first }: { first: number }) => run!.arrivals.receivedMs(first),

  stop: ({ total }: { total: number }) => run!.stop(total),

  async close(_: null): Promise<void> {
    await closeClients(clients)
    clients = []
  },
}

export type ConsumerSteps = typeof steps

serveSteps(steps)

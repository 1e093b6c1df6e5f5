/**
 * Clients that do a bit of everything, so that each thing the broker writes is written, at every moment of another:
 * sends of all sizes, acks, nacks, dead letters, purges, queues that come and go, and some messages that nobody settles,
 * for which old segments are emptied by copying.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { MqError } from '../../src/errors.ts'
import { connect, type Message, type MqClient } from '../../src/index.ts'
import type { SeededRandom } from '../crash/random.ts'

const patientMs = 60_000
/** Calls that fail at once are not repeated at once. */
const pauseMs = 20
const lanes = 6

/** What is asked of all lives of the broker together, by its name and how often. */
export class Workload {
  readonly counts = new Map<string, number>()
  /** Called when a call has been confirmed. */
  onConfirm: () => void = () => undefined
  readonly #mq: MqClient
  readonly #random: SeededRandom
  #isOver = false
  #brief = 0
  #sent = 0
  #running: Promise<unknown> = Promise.resolve()
  readonly broken: Promise<never>
  #break: (error: unknown) => void = () => undefined

  private constructor(mq: MqClient, random: SeededRandom) {
    this.#mq = mq
    this.#random = random
    this.broken = new Promise<never>((_, reject) => (this.#break = reject))
    this.broken.catch(() => undefined)
  }

  static async start(server: string, random: SeededRandom): Promise<Workload> {
    const mq = await connect({ servers: [server], name: 'crash-images', timeoutMs: patientMs })
    mq.on('error', () => undefined)
    const self = new Workload(mq, random)
    const visibilityTimeoutMs = 600_000
    await mq.createQueue('orders', { partitions: 2, visibilityTimeoutMs })
    await mq.createQueue('jobs.dlq', { visibilityTimeoutMs })
    await mq.createQueue('jobs', { maxDeliveries: 2, visibilityTimeoutMs })
    await mq.createQueue('events', { visibilityTimeoutMs })
    await mq.createQueue('kept', { visibilityTimeoutMs })
    const lane = async (): Promise<void> => {
      while (!self.#isOver) await self.#step()
    }
    self.#running = Promise.all(Array.from({ length: lanes }, lane)).catch((error: unknown) =>
      self.#break(error),
    )
    return self
  }

  /** Resolves once every call under way has ended. */
  async stop(): Promise<void> {
    this.#isOver = true
    await this.#running
  }

  async close(): Promise<void> {
    this.#isOver = true
    await this.#mq.close()
  }

  async #step(): Promise<void> {
    const dice = this.#random.unit()
    if (dice < 0.5) await this.#send(this.#random.chance(0.6) ? 'orders' : 'jobs')
    else if (dice < 0.52) await this.#send('kept')
    else if (dice < 0.57) await this.#send('events')
    else if (dice < 0.75) await this.#receive('orders', 1)
    else if (dice < 0.92) await this.#receive('jobs', 0.6)
    else if (dice < 0.955) await this.#receive('jobs.dlq', 0.9)
    else if (dice < 0.97) await this.#call('purge', () => this.#mq.purgeQueue('events'))
    else await this.#briefQueue()
  }

  async #send(queue: string): Promise<void> {
    const random = this.#random
    if (random.chance(0.3)) {
      const entries = Array.from({ length: random.integer(2, 12) }, () => ({ body: this.#body(2000) }))
      await this.#call('send batch', () => this.#mq.sendBatch(queue, entries))
      return
    }
    // Most are small; some span pages, a few make a commit by themselves.
    const bytesMax = random.chance(0.75) ? 600 : random.chance(0.85) ? 20_000 : 150_000
    await this.#call('send', () => this.#mq.send(queue, this.#body(bytesMax)))
  }

  /** No two are equal. */
  #body(bytesMax: number): Buffer {
    const text = `${this.#sent++}:`
    return Buffer.alloc(Math.max(text.length, this.#random.integer(1, bytesMax)), text)
  }

  async #receive(queue: string, ackShare: number): Promise<void> {
    const random = this.#random
    const messages = await this.#call('receive', () =>
      this.#mq.receive(queue, { max: random.integer(1, 24) }),
    )
    await Promise.all((messages ?? []).map((message) => this.#settle(message, ackShare)))
  }

  async #settle(message: Message, ackShare: number): Promise<void> {
    const random = this.#random
    if (random.chance(0.03)) return
    if (random.chance(ackShare)) await this.#call('ack', () => message.ack())
    else if (random.chance(0.2)) await this.#call('dead letter', () => message.deadLetter('of no use'))
    else if (random.chance(0.2)) await this.#call('release', () => message.release())
    else await this.#call('nack', () => message.nack({ reason: 'not now' }))
  }

  async #briefQueue(): Promise<void> {
    const name = `brief-${this.#brief++}`
    await this.#call('create queue', () => this.#mq.createQueue(name))
    await this.#call('send', () => this.#mq.send(name, this.#body(5000)))
    // Some stay with their message, some without any, and nothing is written for them any more.
    if (this.#random.chance(0.4)) await this.#receive(name, 1)
    if (this.#random.chance(0.5)) await this.#call('delete queue', () => this.#mq.deleteQueue(name))
  }

  /** @throws what is no MqError */
  async #call<T>(what: string, call: () => Promise<T>): Promise<T | null> {
    if (this.#isOver) return null
    try {
      const answer = await call()
      this.counts.set(what, (this.counts.get(what) ?? 0) + 1)
      this.onConfirm()
      return answer
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      const key = `${what} ${error.code}`
      this.counts.set(key, (this.counts.get(key) ?? 0) + 1)
      await delay(pauseMs)
      return null
    }
  }
}

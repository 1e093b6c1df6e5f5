/** The clients of the crash loop: producers and consumers that go on through every crash and report to the history. */
import { setTimeout as delay } from 'node:timers/promises'
import { MqError } from '../../src/errors.ts'
import { connect, type Message, type MqClient } from '../../src/index.ts'
import { bodyOf, type History } from './history.ts'
import type { SeededRandom } from './random.ts'

export const queue = 'crash'
export const maxMessageBytes = 2048

const producers = 3
/** Sends that one producer has under way at once. */
const lanes = 8
const consumers = 2
const receivesPerConsumer = 2
/** Longer than any restart: what a crash interrupts is waited out. */
const patientMs = 60_000
/** Calls that fail at once are not repeated at once. */
const pauseMs = 5

interface Seat {
  client: MqClient
  readonly kind: 'producer' | 'consumer'
}

export class Load {
  readonly failures = new Map<string, number>()
  /** Clients that were replaced by new ones. */
  replaced = 0
  readonly #history: History
  readonly #random: SeededRandom
  readonly #server: string
  readonly #seats: Seat[] = []
  #producing: Promise<unknown> = Promise.resolve()
  #consuming: Promise<unknown> = Promise.resolve()
  #sendsStop = false
  #receivesStop = false
  /** Rejects when a client did what no client may do. */
  readonly broken: Promise<never>
  #break: (error: unknown) => void = () => undefined

  private constructor(server: string, history: History, random: SeededRandom) {
    this.#server = server
    this.#history = history
    this.#random = random
    this.broken = new Promise<never>((_, reject) => (this.#break = reject))
    this.broken.catch(() => undefined)
  }

  static async start(server: string, history: History, random: SeededRandom): Promise<Load> {
    const load = new Load(server, history, random)
    const first = await load.#connect()
    await first.createQueue(queue, { partitions: 2, visibilityTimeoutMs: 600_000, maxMessageBytes })
    for (let i = 0; i < producers; i++) {
      load.#seats.push({ kind: 'producer', client: i === 0 ? first : await load.#connect() })
    }
    for (let i = 0; i < consumers; i++) load.#seats.push({ kind: 'consumer', client: await load.#connect() })
    const run = (kind: Seat['kind'], count: number, loop: (seat: Seat) => Promise<void>) => {
      const loops = load.#seats
        .filter((seat) => seat.kind === kind)
        .flatMap((seat) => Array.from({ length: count }, () => loop(seat)))
      return Promise.all(loops).catch((error: unknown) => load.#break(error))
    }
    load.#producing = run('producer', lanes, (seat) => load.#produce(seat))
    load.#consuming = run('consumer', receivesPerConsumer, (seat) => load.#consume(seat))
    return load
  }

  /** Somebody gives up and comes back as another client: its calls under way end one way or another. */
  async replaceOne(): Promise<void> {
    const seat = this.#seats[this.#random.integer(0, this.#seats.length - 1)]!
    const former = seat.client
    const [next] = await Promise.all([this.#connect(), former.close()])
    seat.client = next
    this.replaced++
  }

  /** Resolves once every send has an outcome. */
  async stopSending(): Promise<void> {
    this.#sendsStop = true
    await this.#producing
  }

  /** Resolves once every receive and every ack has an outcome. */
  async stopReceiving(): Promise<void> {
    this.#receivesStop = true
    await this.#consuming
  }

  /** Receives and acks everything; to be called when nobody else has a lease. */
  async drain(emptyAfterMs: number): Promise<void> {
    const mq = await this.#connect()
    try {
      for (;;) {
        const messages = await mq.receive(queue, { max: 1000, waitMs: emptyAfterMs, timeoutMs: patientMs })
        if (messages.length === 0) return
        await Promise.all(messages.map((message) => this.#ack(message)))
      }
    } finally {
      await mq.close()
    }
  }

  /** Messages that the broker still has, in whatever state. */
  async messagesLeft(): Promise<number> {
    const mq = await this.#connect()
    try {
      const { messages } = await mq.describeQueue(queue)
      return messages.ready + messages.leased + messages.delayed
    } finally {
      await mq.close()
    }
  }

  async close(): Promise<void> {
    this.#sendsStop = this.#receivesStop = true
    await Promise.all(this.#seats.map((seat) => seat.client.close()))
  }

  async #connect(): Promise<MqClient> {
    const client = await connect({ servers: [this.#server], name: 'crash-loop', timeoutMs: patientMs })
    client.on('error', (error) => this.#count(`event ${error.code}`))
    return client
  }

  async #produce(seat: Seat): Promise<void> {
    const random = this.#random
    while (!this.#sendsStop) {
      // A few are impatient: their sends end in every way there is, at every moment of a crash.
      const timeoutMs = random.chance(0.03) ? random.integer(1, 60) : patientMs
      if (random.chance(0.01)) await this.#sendTooLarge(seat)
      else if (random.chance(0.1)) await this.#sendBatch(seat, random.integer(1, 20), timeoutMs)
      else await this.#send(seat, timeoutMs)
    }
  }

  async #send(seat: Seat, timeoutMs: number): Promise<void> {
    const number = this.#history.begin()
    try {
      const { id } = await seat.client.send(queue, bodyOf(number), { timeoutMs })
      this.#history.confirmed(number, id)
    } catch (error) {
      this.#history.sendFailed(number, error)
      await this.#failed('send', error)
    }
  }

  async #sendBatch(seat: Seat, count: number, timeoutMs: number): Promise<void> {
    const numbers = Array.from({ length: count }, () => this.#history.begin())
    try {
      const entries = numbers.map((number) => ({ body: bodyOf(number) }))
      const results = await seat.client.sendBatch(queue, entries, { timeoutMs })
      for (const [i, result] of results.entries()) {
        if (!(result instanceof MqError)) this.#history.confirmed(numbers[i]!, result.id)
        else {
          this.#history.sendFailed(numbers[i]!, result)
          await this.#failed('send', result)
        }
      }
    } catch (error) {
      for (const number of numbers) this.#history.sendFailed(number, error)
      await this.#failed('sendBatch', error)
    }
  }

  /** Definitely refused, whatever the broker is doing. */
  async #sendTooLarge(seat: Seat): Promise<void> {
    const number = this.#history.begin()
    const body = Buffer.concat([bodyOf(number), Buffer.alloc(maxMessageBytes)])
    try {
      const { id } = await seat.client.send(queue, body, { timeoutMs: patientMs })
      this.#history.confirmed(number, id)
      this.#break(new Error(`a message of ${body.length} bytes was accepted`))
    } catch (error) {
      this.#history.sendFailed(number, error)
      await this.#failed('send', error)
    }
  }

  async #consume(seat: Seat): Promise<void> {
    const random = this.#random
    while (!this.#receivesStop) {
      const max = random.integer(1, 64)
      let messages: Message[] = []
      try {
        messages = await seat.client.receive(queue, { max, waitMs: 100, timeoutMs: patientMs })
      } catch (error) {
        await this.#failed('receive', error)
      }
      // Some are left: they come again after the next crash.
      await Promise.all(messages.map((message) => this.#ack(message, random.chance(0.05))))
    }
  }

  async #ack(message: Message, leaveIt = false): Promise<void> {
    const delivery = this.#history.delivered(message)
    if (delivery === null || leaveIt) return
    try {
      await message.ack({ timeoutMs: patientMs })
      delivery.acked()
    } catch (error) {
      delivery.ackFailed(error)
      await this.#failed('ack', error)
    }
  }

  /** @throws what is no MqError */
  async #failed(call: string, error: unknown): Promise<void> {
    if (!(error instanceof MqError)) throw error
    this.#count(`${call} ${error.code}${error.outcome === undefined ? '' : ` (${error.outcome})`}`)
    await delay(pauseMs)
  }

  #count(what: string): void {
    this.failures.set(what, (this.failures.get(what) ?? 0) + 1)
  }
}

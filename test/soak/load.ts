/**
 * The clients of a soak, each kind of work as a loop of its own, all at a steady pace, so that what grows is the
 * broker's doing:
 *
 *   work    plain messages: a fast consumer, a slow one, one that never acks, clients that come and go
 *   poison  a share fails until it is a dead letter; dead letters are redriven, and acked then
 *   later   delayed messages
 *   churn-* queues that are made, used and deleted under a consumer
 *   purged  messages of which some are leased when all are purged
 *   scratch what processes send that are killed (killed.ts); purged now and then
 */
import { setTimeout as delay } from 'node:timers/promises'
import { MqError } from '../../src/errors.ts'
import { connect, type Message, type MqClient } from '../../src/index.ts'
import { SeededRandom } from '../crash/random.ts'
import { bodyOf, Ledger } from './ledger.ts'

export const queues = { work: 'work', poison: 'poison', later: 'later', scratch: 'scratch' } as const

/** How often each kind of work was done. */
export type Kind =
  | 'sends'
  | 'batches'
  | 'delayed'
  | 'fast'
  | 'slow'
  | 'neverAcked'
  | 'nacks'
  | 'redriven'
  | 'reconnects'
  | 'churned'
  | 'purged'

const tickMs = 50
/** Messages on their way above which producers wait: a slow machine makes a slower soak, not a longer queue. */
const openMax = 10_000
const maxDeliveries = 3
const drainMs = 60_000

export class Load {
  readonly ledger = new Ledger()
  readonly done: Record<Kind, number> = {
    sends: 0,
    batches: 0,
    delayed: 0,
    fast: 0,
    slow: 0,
    neverAcked: 0,
    nacks: 0,
    redriven: 0,
    reconnects: 0,
    churned: 0,
    purged: 0,
  }
  /** Rejects when something failed that must not. */
  readonly broken: Promise<never>
  readonly #server: string
  readonly #random: SeededRandom
  readonly #perTick: number
  readonly #producer: MqClient
  readonly #consumer: MqClient
  readonly #admin: MqClient
  /** Until the queues are drained: what consumes and redrives goes on. */
  readonly #consuming = new AbortController()
  #isLoading = true
  #loading: Promise<unknown> = Promise.resolve()
  #draining: Promise<unknown> = Promise.resolve()
  #break: (error: unknown) => void = () => undefined

  private constructor(server: string, seed: number, perSecond: number, clients: MqClient[]) {
    this.#server = server
    this.#random = new SeededRandom(seed)
    this.#perTick = Math.max(1, Math.round((perSecond * tickMs) / 1000))
    ;[this.#producer, this.#consumer, this.#admin] = clients as [MqClient, MqClient, MqClient]
    this.broken = new Promise<never>((_, reject) => (this.#break = reject))
    this.broken.catch(() => undefined)
  }

  static async start(server: string, options: { seed: number; perSecond: number }): Promise<Load> {
    const clients = await Promise.all(
      ['producer', 'consumer', 'admin'].map((name) => connect({ servers: [server], name: `soak-${name}` })),
    )
    const load = new Load(server, options.seed, options.perSecond, clients)
    const admin = load.#admin
    await admin.createQueue(queues.work, { partitions: 2, visibilityTimeoutMs: 2000 })
    await admin.createQueue(queues.poison, {
      visibilityTimeoutMs: 5000,
      maxDeliveries,
      backoff: { type: 'fixed', delayMs: 100 },
    })
    await admin.createQueue(queues.later)
    await admin.createQueue(queues.scratch)
    await admin.createQueue('purged')
    load.#draining = load.#all([load.#fast(), load.#slow(), load.#later(), load.#poisoned(), load.#redrive()])
    load.#loading = load.#all([
      load.#produce(),
      load.#neverAck(),
      load.#comeAndGo(),
      load.#churn(),
      load.#purge(),
    ])
    return load
  }

  /** Ends the load, takes what is left, and looks whether anything is missing. */
  async finish(): Promise<void> {
    this.#isLoading = false
    await this.#loading
    const deadlineMs = performance.now() + drainMs
    while (this.ledger.owed > 0 && performance.now() < deadlineMs) {
      await Promise.race([delay(tickMs), this.broken])
    }
    this.ledger.checkDrained()
    this.#consuming.abort()
    await this.#draining
    await this.#admin.purgeQueue(queues.scratch)
    // A consumer that was ended may have a message leased that nobody was told of: it must be none of ours by now.
    for (const queue of await this.#admin.listQueues()) {
      if (queue.messages > 0) this.ledger.violate('left behind', `${queue.messages} in ${queue.name}`)
    }
  }

  async close(): Promise<void> {
    this.#isLoading = false
    this.#consuming.abort()
    await Promise.all(
      [this.#producer, this.#consumer, this.#admin].map((mq) => mq.close({ timeoutMs: 1000 })),
    )
  }

  async #all(loops: Promise<void>[]): Promise<void> {
    const over = (error: unknown) => {
      if (!this.#consuming.signal.aborted) this.#break(error)
    }
    await Promise.all(loops.map((loop) => loop.catch(over)))
  }

  async #produce(): Promise<void> {
    const startMs = performance.now()
    const sending = new Set<Promise<void>>()
    for (let tick = 1; this.#isLoading; tick++) {
      if (this.ledger.open < openMax) {
        for (const sent of this.#tick()) {
          sending.add(sent)
          void sent.finally(() => sending.delete(sent))
        }
      }
      // To a beat, so that the pace does not depend on how long sending took.
      await delay(Math.max(0, startMs + tick * tickMs - performance.now()))
    }
    await Promise.all(sending)
  }

  #tick(): Promise<void>[] {
    const count = this.#perTick
    const batch = this.#random.integer(0, count)
    const sent = [this.#sendBatch(queues.work, batch)]
    for (let i = batch; i < count; i++) {
      const kind = this.#random.unit()
      sent.push(this.#send(kind < 0.4 ? queues.work : kind < 0.7 ? queues.poison : queues.later))
    }
    return sent
  }

  async #send(queue: string): Promise<void> {
    const delayMs = queue === queues.later ? this.#random.integer(1, 5000) : undefined
    const number = this.ledger.begin(delayMs === undefined ? 0 : Date.now() + delayMs)
    try {
      const { id } = await this.#producer.send(queue, bodyOf(number), { delayMs })
      this.ledger.confirmed(number, id)
      this.done[delayMs === undefined ? 'sends' : 'delayed']++
    } catch (error) {
      this.#sendFailed(number, error)
    }
  }

  async #sendBatch(queue: string, count: number): Promise<void> {
    if (count === 0) return
    const numbers = Array.from({ length: count }, () => this.ledger.begin())
    try {
      const results = await this.#producer.sendBatch(
        queue,
        numbers.map((number) => ({ body: bodyOf(number) })),
      )
      for (const [i, result] of results.entries()) {
        if (result instanceof MqError) this.#sendFailed(numbers[i]!, result)
        else this.ledger.confirmed(numbers[i]!, result.id)
      }
      this.done.batches++
    } catch (error) {
      for (const number of numbers) this.#sendFailed(number, error)
    }
  }

  /** Nothing here is to be refused. */
  #sendFailed(number: number, error: unknown): void {
    this.ledger.sendFailed(number, error)
    this.#break(error)
  }

  async #fast(): Promise<void> {
    const { signal } = this.#consuming
    const batches = this.#consumer.consumeBatches(queues.work, { max: 200, signal })
    for await (const batch of batches) {
      await Promise.all(batch.messages.map((message) => this.#ack(message, 'fast')))
    }
  }

  async #slow(): Promise<void> {
    const { signal } = this.#consuming
    for await (const message of this.#consumer.consume(queues.work, { prefetch: 16, signal })) {
      const { length } = message.body
      await delay(5 + (length % 20))
      await this.#ack(message, 'slow')
    }
  }

  async #later(): Promise<void> {
    const { signal } = this.#consuming
    for await (const message of this.#consumer.consume(queues.later, { signal }))
      this.#soon(this.#ack(message))
  }

  /** A tenth fails until it has been a dead letter. */
  async #poisoned(): Promise<void> {
    const { signal } = this.#consuming
    for await (const message of this.#consumer.consume(queues.poison, { signal })) {
      const held = this.ledger.delivered(message, true)
      if (held === null) continue
      const isPoison = message.body.length % 10 === 0
      if (!isPoison || held.nacks >= maxDeliveries) this.#soon(settled(held, message.ack(), held.acked))
      else {
        const nacked = () => {
          held.nacked()
          this.done.nacks++
        }
        this.#soon(settled(held, message.nack({ reason: 'it is poison' }), nacked))
      }
    }
  }

  async #redrive(): Promise<void> {
    while (!this.#consuming.signal.aborted) {
      const { messages } = await this.#admin.redrive(`${queues.poison}.dlq`)
      this.done.redriven += messages
      await delay(1000, undefined, { signal: this.#consuming.signal }).catch(() => undefined)
    }
  }

  /** Its leases run out; others get what it had. */
  async #neverAck(): Promise<void> {
    while (this.#isLoading) {
      const options = { max: 5, waitMs: 500, visibilityTimeoutMs: 500 }
      const messages = await this.#consumer.receive(queues.work, options)
      for (const message of messages) this.ledger.delivered(message)
      this.done.neverAcked += messages.length
      await delay(100)
    }
  }

  async #comeAndGo(): Promise<void> {
    while (this.#isLoading) {
      const mq = await connect({ servers: [this.#server], name: 'soak-visitor' })
      const number = this.ledger.begin()
      const { id } = await mq.send(queues.work, bodyOf(number))
      this.ledger.confirmed(number, id)
      for (const message of await mq.receive(queues.work, { max: 3, waitMs: 100 })) await this.#ack(message)
      await mq.close()
      this.done.reconnects++
      await delay(300)
    }
  }

  /** A queue of a name that was used before is another queue: nothing of the former is in it. */
  async #churn(): Promise<void> {
    for (let generation = 0; this.#isLoading; generation++) {
      const name = `churn-${generation % 4}`
      const mq = this.#admin
      await mq.createQueue(name)
      const bodies = Array.from({ length: 10 }, (_, i) => ({ body: `${generation}/${i}` }))
      await mq.sendBatch(name, bodies)
      const watched = this.#untilDeleted(name, generation)
      for (const message of await mq.receive(name, { max: 3 })) {
        this.#checkGeneration(message, generation)
        await message.ack()
      }
      await mq.deleteQueue(name)
      await watched
      this.done.churned++
      await delay(200)
    }
  }

  /** Consumes from a queue and is there when it goes. */
  async #untilDeleted(name: string, generation: number): Promise<void> {
    try {
      for await (const message of this.#consumer.consume(name, { prefetch: 3 })) {
        this.#checkGeneration(message, generation)
      }
    } catch (error) {
      if (!(error instanceof MqError) || !['QUEUE_DELETED', 'QUEUE_NOT_FOUND'].includes(error.code))
        throw error
    }
  }

  #checkGeneration(message: Message, generation: number): void {
    const text = message.text()
    if (!text.startsWith(`${generation}/`)) {
      this.ledger.violate(
        'invented',
        `${message.id} of an earlier queue of its name came: ${text} in ${generation}`,
      )
    }
  }

  async #purge(): Promise<void> {
    const mq = this.#admin
    for (let round = 0; this.#isLoading; round++) {
      await mq.sendBatch(
        'purged',
        Array.from({ length: 20 }, () => ({ body: `${round}` })),
      )
      await mq.receive('purged', { max: 5 })
      const { messages } = await mq.purgeQueue('purged')
      if (messages !== 20) this.ledger.violate('lost', `of 20 messages a purge found ${messages}`)
      const left = await mq.receive('purged', { max: 10 })
      if (left.length > 0) this.ledger.violate('twice', `${left.length} messages came after they were purged`)
      await mq.purgeQueue(queues.scratch)
      this.done.purged++
      await delay(500)
    }
  }

  /** Nobody waits for it, but it must not fail. */
  #soon(work: Promise<void>): void {
    work.catch((error: unknown) => this.#break(error))
  }

  async #ack(message: Message, kind?: Kind): Promise<void> {
    const held = this.ledger.delivered(message)
    if (held === null) return
    await settled(held, message.ack(), () => {
      held.acked()
      if (kind !== undefined) this.done[kind]++
    })
  }
}

async function settled(
  held: { failed(error: unknown): void },
  settle: Promise<unknown>,
  done: () => void,
): Promise<void> {
  try {
    await settle
    done()
  } catch (error) {
    held.failed(error)
  }
}

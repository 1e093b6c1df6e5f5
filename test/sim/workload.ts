/**
 * What clients do. Each client process runs a few fibers, each of which does one operation after the other, drawn
 * from the seed; every operation is entered into the history and told to the shadow, at its begin and at its end.
 */
import type { MqClient } from '../../src/client/client.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { Message } from '../../src/client/message.ts'
import type { MqError } from '../../src/errors.ts'
import { type SeededRandom } from '../../src/sim/random.ts'
import type { SimProcess } from '../../src/sim/world.ts'
import type { OperationKind, QueueConfig, SimConfig } from './config.ts'
import { outcomeOf, type History, type Operation } from './history.ts'
import type { Sent, Shadow } from './shadow.ts'
import { Violation } from './violation.ts'

/** What the clients of one run share. */
export interface Workload {
  readonly config: SimConfig
  readonly history: History
  readonly shadow: Shadow
  /** False once the workload is over: fibers end after the operation they are in. */
  goOn(): boolean
  /** Something that must not happen has: the run is over. */
  fail(error: unknown): void
}

interface Held {
  readonly queue: string
  readonly message: Message
}

/** Receipts that a client keeps for later, at most. */
const heldMax = 200

export class Client {
  readonly name: string
  readonly process: SimProcess
  readonly #workload: Workload
  readonly #random: SeededRandom
  readonly #held: Held[] = []
  /** Receipts that were settled, or let go: to be tried again when they are old. */
  readonly #old: Held[] = []
  #mq: MqClient | null = null
  #connecting: Promise<MqClient | null> | null = null
  #bodies = 0
  /** Fibers that have not ended. */
  #running: number

  constructor(process: SimProcess, label: string, workload: Workload) {
    this.process = process
    this.name = label
    this.#workload = workload
    this.#random = process.random.fork('workload')
    this.#running = workload.config.fibers
  }

  get isDone(): boolean {
    return this.#running === 0
  }

  start(): void {
    for (let i = 0; i < this.#workload.config.fibers; i++) {
      this.#fiber(`${this.name}.${i}`, i === 0).catch((error: unknown) => this.#workload.fail(error))
    }
  }

  /** Creates the queues that faults kept from being created, receives from all, and acks what comes, until told to stop. */
  async drain(isDrained: () => boolean): Promise<void> {
    const { config, history } = this.#workload
    await this.#createQueues(() => true)
    await Promise.all(
      allQueues(config).map(async ({ name: queue }) => {
        while (!isDrained()) {
          const mq = await this.#connected()
          if (mq === null) {
            await this.#sleep(100)
            continue
          }
          // Long enough for the slowest disk and network: a lease that ends before its ack would go round for ever.
          const messages = await this.#receive(mq, queue, {
            max: 1000,
            waitMs: 200,
            visibilityTimeoutMs: 10_000,
          })
          if (messages.length > 0)
            await this.#ack(
              mq,
              queue,
              messages.map((message) => ({ queue, message })),
              'ackMany',
            )
          else await this.#sleep(5)
        }
      }),
    )
    history.note(`${this.name} has drained`)
  }

  async #fiber(fiber: string, creates: boolean): Promise<void> {
    const { config } = this.#workload
    // Without queues nothing happens. Every client tries, at once: one of them creates, the others find it created.
    if (creates) await this.#createQueues(() => this.#workload.goOn())
    while (this.#workload.goOn()) {
      const mq = await this.#connected()
      if (mq === null) {
        await this.#sleep(100)
        continue
      }
      await this.#operation(mq, fiber)
      if (config.pauseMs > 0) await this.#sleep(this.#random.between(0, 2 * config.pauseMs))
      // An operation may end at once, again and again: time must go on.
      else if (this.#random.chance(0.2)) await this.#sleep(this.#random.between(0, 1))
    }
    // A send of unknown outcome is sent again on and on: only a closed client is at rest.
    if (this.#running === 1) await this.#close()
    this.#running--
  }

  async #close(): Promise<void> {
    const mq = this.#mq
    if (mq === null) return
    this.#mq = null
    const operation = this.#workload.history.begin(this.name, 'close ')
    await mq.close()
    this.#workload.history.end(operation, 'ok', '', '')
  }

  async #createQueues(goOn: () => boolean): Promise<void> {
    for (const { name, options } of this.#workload.config.created) {
      while (goOn()) {
        const mq = await this.#connected()
        if (mq !== null && (await this.createQueue(mq, name, options))) break
        await this.#sleep(100)
      }
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.process.env.clock.after(ms, resolve))
  }

  /** The connection, or null if there is none for now. */
  async #connected(): Promise<MqClient | null> {
    if (this.#mq !== null) return this.#mq
    this.#connecting ??= this.#connect()
    return this.#connecting
  }

  async #connect(): Promise<MqClient | null> {
    const { history } = this.#workload
    const operation = history.begin(this.name, 'connect ')
    try {
      const mq = await connectWith(this.process.env, {
        servers: ['broker:7650'],
        name: this.name,
        timeoutMs: 5000,
      })
      this.#mq = mq
      history.end(operation, 'ok', '', '')
      return mq
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      return null
    } finally {
      this.#connecting = null
    }
  }

  async #operation(mq: MqClient, fiber: string): Promise<void> {
    const { config } = this.#workload
    const kind = pickWeighted(this.#random, config.weights)
    const isFilled = kind === 'send' || kind === 'sendBatch'
    const { name: queue } = this.#random.pick(isFilled ? config.queues : allQueues(config))
    switch (kind) {
      case 'createQueue': {
        const { name, options } = this.#random.pick(config.created)
        await this.createQueue(mq, name, options)
        return
      }
      case 'send':
        return this.#send(mq, fiber, queue)
      case 'sendBatch':
        return this.#sendBatch(mq, fiber, queue)
      case 'receive': {
        const messages = await this.#receive(mq, queue, {
          max: 1 + this.#random.int(config.receiveMax),
          waitMs: this.#random.int(config.waitMsMax + 1),
          ...(this.#random.chance(0.3)
            ? { visibilityTimeoutMs: 50 + this.#random.int(config.visibilityTimeoutMsMax) }
            : {}),
        })
        for (const message of messages) this.#held.push({ queue, message })
        while (this.#held.length > heldMax) this.#retire(this.#held.shift()!)
        return
      }
      case 'ack':
      case 'doubleAck': {
        const held = this.#takeHeld()
        if (held === undefined) return
        const first = this.#ack(mq, held.queue, [held], 'ack')
        first.catch((error: unknown) => this.#workload.fail(error))
        // Sometimes before the first answer is there, sometimes after.
        if (kind === 'doubleAck' && this.#random.chance(0.5)) await this.#ack(mq, held.queue, [held], 'ack')
        await first
        if (kind === 'doubleAck') await this.#ack(mq, held.queue, [held], 'ack')
        this.#retire(held)
        return
      }
      case 'ackMany': {
        const some = this.#held.splice(0, 1 + this.#random.int(50)).filter((held) => held.queue === queue)
        if (some.length > 0) await this.#ack(mq, queue, some, 'ackMany')
        for (const held of some) this.#retire(held)
        return
      }
      case 'ackOld': {
        if (this.#old.length === 0) return
        const held = this.#random.pick(this.#old)
        return this.#ack(mq, held.queue, [held], 'ack')
      }
      case 'extend': {
        if (this.#held.length === 0) return
        return this.#extend(mq, this.#random.pick(this.#held))
      }
      case 'nack':
      case 'nackMany': {
        const some =
          kind === 'nack'
            ? [this.#takeHeld()].filter((held) => held !== undefined)
            : this.#held.splice(0, 1 + this.#random.int(50)).filter((held) => held.queue === queue)
        if (some.length > 0) await this.#nack(mq, some[0]!.queue, some, kind)
        for (const held of some) this.#retire(held)
        return
      }
      case 'release': {
        const held = this.#takeHeld()
        if (held === undefined) return
        await this.#release(held)
        this.#retire(held)
        return
      }
      case 'letExpire': {
        const held = this.#takeHeld()
        if (held !== undefined) this.#retire(held)
        return
      }
      case 'reconnect':
        return this.#close()
      case 'consume':
        return this.#consume(mq, queue)
      case 'consumeBatches':
        return this.#consumeBatches(mq, queue)
      case 'work':
        return this.#work(mq, queue)
      case 'purge':
        return this.#purge(mq, queue)
      case 'peek':
        return this.#peek(mq, queue)
      case 'updateQueue':
        return this.#updateQueue(mq, queue)
      case 'deadLetter': {
        const held = this.#takeHeld()
        if (held === undefined) return
        await this.#deadLetter(held)
        this.#retire(held)
        return
      }
      case 'redrive':
        return this.#redrive(mq)
      case 'deleteQueue':
        return this.#deleteQueue(mq, queue)
    }
  }

  #takeHeld(): Held | undefined {
    if (this.#held.length === 0) return undefined
    return this.#held.splice(this.#random.int(this.#held.length), 1)[0]
  }

  #retire(held: Held): void {
    this.#old.push(held)
    if (this.#old.length > heldMax) this.#old.shift()
  }

  /** A time-out or a signal, now and then. */
  #limits(): { timeoutMs?: number; signal?: AbortSignal } {
    const { config } = this.#workload
    const limits: { timeoutMs?: number; signal?: AbortSignal } = {}
    if (this.#random.chance(config.shortTimeoutChance)) limits.timeoutMs = this.#random.int(2000)
    if (this.#random.chance(config.abortChance)) {
      const controller = new AbortController()
      this.process.env.clock.after(this.#random.between(0, 500), () => controller.abort())
      limits.signal = controller.signal
    }
    return limits
  }

  /** @returns whether the queue is there */
  async createQueue(mq: MqClient, queue: string, options: object): Promise<boolean> {
    const { history } = this.#workload
    const operation = history.begin(this.name, `createQueue ${queue}`)
    try {
      await mq.createQueue(queue, options)
      history.end(operation, 'ok', '', '')
      return true
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      // With other options: they were changed since, or the broker made it.
      return code === 'QUEUE_EXISTS'
    }
  }

  #message(queue: string): Sent {
    const { config } = this.#workload
    const token = `${this.name}-${this.#bodies++}`
    const head = Buffer.from(`${token}|`)
    const padding = this.#random.bytes(this.#random.int(config.bodyBytesMax))
    const headers: Record<string, string> = {}
    if (this.#random.chance(0.2)) headers['trace'] = `${token}·${this.#random.int(1e6)}`
    return { token, queue, body: Buffer.concat([head, padding]), headers, ...this.#delay() }
  }

  /** A delay of a message, now and then, said in either way. */
  #delay(): Pick<Sent, 'delayMs' | 'deliverAt'> {
    const { delayChance, delayMsMax } = this.#workload.config
    if (!this.#random.chance(delayChance)) return {}
    const delayMs = this.#random.int(delayMsMax + 1)
    if (this.#random.chance(0.5)) return { delayMs }
    return { deliverAt: Math.floor(this.process.env.clock.nowMs()) + delayMs }
  }

  async #send(mq: MqClient, fiber: string, queue: string): Promise<void> {
    const { history, shadow } = this.#workload
    const sent = this.#message(queue)
    const limits = this.#limits()
    const operation = history.begin(this.name, `send ${queue} ${sent.token} ${sent.body.byteLength}`)
    shadow.sendBegan(sent)
    try {
      const receipt = await mq.send(queue, sent.body, {
        ...limits,
        headers: sent.headers,
        delayMs: sent.delayMs,
        deliverAt: sent.deliverAt,
      })
      history.end(operation, 'ok', '', `${receipt.id}${receipt.duplicate ? ' duplicate' : ''}`)
      shadow.sendEnded(sent.token, 'ok', receipt.id, fiber)
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      shadow.sendEnded(sent.token, outcome, null, fiber)
    }
  }

  async #sendBatch(mq: MqClient, fiber: string, queue: string): Promise<void> {
    const { config, history, shadow } = this.#workload
    const batch = Array.from({ length: 1 + this.#random.int(config.batchMax) }, () => this.#message(queue))
    const limits = this.#limits()
    const operation = history.begin(this.name, `sendBatch ${queue} ${batch[0]!.token} + ${batch.length - 1}`)
    for (const sent of batch) shadow.sendBegan(sent)
    const entries = batch.map(({ body, headers, delayMs, deliverAt }) => ({
      body,
      headers,
      delayMs,
      deliverAt: deliverAt === undefined ? undefined : new Date(deliverAt),
    }))
    let results: readonly ({ id: string | null } | MqError)[]
    try {
      results = await mq.sendBatch(queue, entries, limits)
      const saw = results.map((result) => (result instanceof Error ? result.code : (result.id ?? 'null')))
      history.end(operation, 'ok', '', saw.join(' '))
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      for (const { token } of batch) shadow.sendEnded(token, outcome, null, fiber)
      return
    }
    for (let i = 0; i < batch.length; i++) {
      const result = results[i]!
      if (result instanceof Error) shadow.sendEnded(batch[i]!.token, outcomeOf(result).outcome, null, fiber)
      else shadow.sendEnded(batch[i]!.token, 'ok', result.id, fiber)
    }
  }

  async #receive(
    mq: MqClient,
    queue: string,
    options: { max: number; waitMs: number; visibilityTimeoutMs?: number },
  ): Promise<Message[]> {
    const { history, shadow } = this.#workload
    const limits = this.#limits()
    const crashesBefore = shadow.crashes
    const operation = history.begin(this.name, `receive ${queue} ${options.max} ${options.waitMs}`)
    let messages: Message[]
    try {
      messages = await mq.receive(queue, { ...options, ...limits })
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      return []
    }
    history.end(operation, 'ok', '', namesOf(messages))
    this.#tellDelivered(operation, queue, messages, options.visibilityTimeoutMs, false, crashesBefore)
    return messages
  }

  /** For a loop or a worker: how much it fetches, and for how long the broker leases that. */
  #consumeOptions(): { prefetch: number; visibilityTimeoutMs?: number } {
    const { prefetchMax, visibilityTimeoutMsMax } = this.#workload.config
    return {
      prefetch: 1 + this.#random.int(prefetchMax),
      ...(this.#random.chance(0.3)
        ? { visibilityTimeoutMs: 50 + this.#random.int(visibilityTimeoutMsMax) }
        : {}),
    }
  }

  /** Notes what a loop or a worker got. The lease was granted after that began. */
  #noteDelivered(
    operation: Operation,
    queue: string,
    messages: readonly Message[],
    visibilityTimeoutMs: number | undefined,
    crashesBefore: number,
  ): void {
    this.#workload.history.note(`${this.name} #${operation.number} got ${namesOf(messages)}`)
    this.#tellDelivered(operation, queue, messages, visibilityTimeoutMs, true, crashesBefore)
  }

  #tellDelivered(
    operation: Operation,
    queue: string,
    messages: readonly Message[],
    visibilityTimeoutMs: number | undefined,
    isRenewed: boolean,
    crashesBefore: number,
  ): void {
    for (const { id, body, headers, deliveryCount, receipt } of messages) {
      this.#workload.shadow.delivered({
        queue,
        id,
        body,
        headers,
        deliveryCount,
        receipt,
        receiveBeganMs: operation.beginMs,
        visibilityTimeoutMs,
        isRenewed,
        crashesBefore,
      })
    }
  }

  /** A loop over messages, left in one way or another after a while. */
  async #loop<T>(
    what: string,
    begin: () => AsyncIterableIterator<T, undefined>,
    queue: string,
    got: (operation: Operation, item: T, crashesBefore: number) => Promise<void>,
  ): Promise<void> {
    const { history, shadow } = this.#workload
    const crashesBefore = shadow.crashes
    const operation = history.begin(this.name, what)
    const most = 1 + this.#random.int(100)
    let loop: AsyncIterableIterator<T, undefined> | null = null
    const timer = this.process.env.clock.after(this.#random.between(0, 3000), () => void loop?.return?.())
    let count = 0
    try {
      loop = begin()
      for await (const item of loop) {
        await got(operation, item, crashesBefore)
        if (++count >= most) break
      }
      history.end(operation, 'ok', '', String(count))
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, String(count))
    }
    shadow.mayComeBack(queue)
    timer.cancel()
  }

  async #consume(mq: MqClient, queue: string): Promise<void> {
    const options = this.#consumeOptions()
    const { prefetch, visibilityTimeoutMs } = options
    const loop = () => mq.consume(queue, options)
    await this.#loop(
      `consume ${queue} ${prefetch}`,
      loop,
      queue,
      async (operation, message, crashesBefore) => {
        this.#noteDelivered(operation, queue, [message], visibilityTimeoutMs, crashesBefore)
        const held = { queue, message }
        const chance = this.#random.unit()
        if (chance < 0.5) await this.#ack(mq, queue, [held], 'ack')
        else if (chance < 0.8) {
          this.#ack(mq, queue, [held], 'ack').catch((error: unknown) => this.#workload.fail(error))
        } else if (chance < 0.9) this.#held.push(held)
        else this.#retire(held)
        if (this.#random.chance(0.2)) await this.#sleep(this.#random.between(0, 200))
      },
    )
  }

  async #consumeBatches(mq: MqClient, queue: string): Promise<void> {
    const { history, shadow } = this.#workload
    const options = { ...this.#consumeOptions(), max: 1 + this.#random.int(50) }
    const { prefetch, visibilityTimeoutMs, max } = options
    const loop = () => mq.consumeBatches(queue, options)
    await this.#loop(
      `consumeBatches ${queue} ${prefetch} ${max}`,
      loop,
      queue,
      async (consuming, batch, crashesBefore) => {
        const { messages } = batch
        this.#noteDelivered(consuming, queue, messages, visibilityTimeoutMs, crashesBefore)
        if (this.#random.chance(0.1)) return
        const operation = history.begin(this.name, `ackBatch ${messages.length}`)
        for (const { receipt } of messages) shadow.ackBegan(receipt)
        try {
          await batch.ack(this.#limits())
          history.end(operation, 'ok', '', '')
          for (const { receipt } of messages) shadow.ackEnded(receipt, 'ok', '')
        } catch (error) {
          const { outcome, code } = outcomeOf(error)
          history.end(operation, outcome, code, '')
          // That is said of one of them; of the others nobody knows.
        }
      },
    )
  }

  /** A worker for a while, whose handler takes its time and sometimes throws. */
  async #work(mq: MqClient, queue: string): Promise<void> {
    const { history, shadow } = this.#workload
    const options = { ...this.#consumeOptions(), concurrency: 1 + this.#random.int(8) }
    const { prefetch, visibilityTimeoutMs, concurrency } = options
    const crashesBefore = shadow.crashes
    const operation = history.begin(this.name, `work ${queue} ${concurrency} ${prefetch}`)
    let count = 0
    const handler = async (message: Message): Promise<void> => {
      count++
      this.#noteDelivered(operation, queue, [message], visibilityTimeoutMs, crashesBefore)
      if (this.#random.chance(0.5)) await this.#sleep(this.#random.between(0, 300))
      if (this.#random.chance(0.1)) {
        shadow.givenUp(message.receipt)
        throw new Error('does not want it')
      }
      // What comes of it the worker keeps to itself.
      shadow.ackBegan(message.receipt)
    }
    try {
      const worker = mq.work(queue, handler, options)
      await this.#sleep(this.#random.between(0, 3000))
      const closing = worker.close({ graceMs: this.#random.int(500) })
      await closing
      // Handlers that are given up may throw later, and what they had is released.
      shadow.mayComeBack(queue)
      history.end(operation, 'ok', worker.error?.code ?? '', String(count))
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
    }
  }

  async #ack(mq: MqClient, queue: string, some: readonly Held[], how: 'ack' | 'ackMany'): Promise<void> {
    const { history, shadow } = this.#workload
    const receipts = some.map(({ message }) => message.receipt)
    const limits = this.#limits()
    const operation = history.begin(this.name, `${how} ${some.map(({ message }) => message.id).join(' ')}`)
    for (const receipt of receipts) shadow.ackBegan(receipt)
    try {
      if (how === 'ack') {
        // Either of the two ways to say it; a receipt works on any connection.
        if (this.#random.chance(0.5)) await some[0]!.message.ack(limits)
        else {
          const error = (await mq.ack(queue, receipts, limits))[0]!
          if (error !== null) throw error
        }
        history.end(operation, 'ok', '', '')
        shadow.ackEnded(receipts[0]!, 'ok', '')
        return
      }
      const results = await mq.ack(queue, receipts, limits)
      history.end(operation, 'ok', '', results.map((error) => error?.code ?? 'ok').join(' '))
      for (let i = 0; i < receipts.length; i++) {
        const error = results[i] ?? null
        if (error === null) shadow.ackEnded(receipts[i]!, 'ok', '')
        else {
          const { outcome, code } = outcomeOfSettle(error)
          shadow.ackEnded(receipts[i]!, outcome, code)
        }
      }
    } catch (error) {
      const { outcome, code } = outcomeOfSettle(error)
      history.end(operation, outcome, code, '')
      for (const receipt of receipts) shadow.ackEnded(receipt, outcome, code)
    }
  }

  async #nack(mq: MqClient, queue: string, some: readonly Held[], how: 'nack' | 'nackMany'): Promise<void> {
    const { config, history, shadow } = this.#workload
    const receipts = some.map(({ message }) => message.receipt)
    const limits = this.#limits()
    const delayMs = this.#random.chance(config.delayChance)
      ? this.#random.int(config.delayMsMax + 1)
      : undefined
    const options = { ...limits, delayMs, reason: this.#random.chance(0.3) ? 'it did not work' : undefined }
    const ids = some.map(({ message }) => message.id).join(' ')
    const operation = history.begin(this.name, `${how} ${ids} ${delayMs ?? ''}`)
    for (const receipt of receipts) shadow.nackBegan(receipt)
    const ended = (receipt: string, outcome: 'ok' | 'failed' | 'unknown', code: string): void =>
      shadow.nackEnded(receipt, operation.beginMs, delayMs, outcome, code)
    try {
      if (how === 'nack' && this.#random.chance(0.5)) {
        await some[0]!.message.nack(options)
        history.end(operation, 'ok', '', '')
        ended(receipts[0]!, 'ok', '')
        return
      }
      const results = await mq.nack(queue, receipts, options)
      history.end(operation, 'ok', '', results.map((error) => error?.code ?? 'ok').join(' '))
      results.forEach((error, i) => {
        if (error === null) return ended(receipts[i]!, 'ok', '')
        const { outcome, code } = outcomeOfSettle(error)
        ended(receipts[i]!, outcome, code)
      })
    } catch (error) {
      const { outcome, code } = outcomeOfSettle(error)
      history.end(operation, outcome, code, '')
      for (const receipt of receipts) ended(receipt, outcome, code)
    }
  }

  async #release({ message }: Held): Promise<void> {
    const { history, shadow } = this.#workload
    const limits = this.#limits()
    const operation = history.begin(this.name, `release ${message.id}`)
    shadow.releaseBegan(message.receipt)
    try {
      await message.release(limits)
      history.end(operation, 'ok', '', '')
      shadow.releaseEnded(message.receipt, 'ok', '')
    } catch (error) {
      const { outcome, code } = outcomeOfSettle(error)
      history.end(operation, outcome, code, '')
      shadow.releaseEnded(message.receipt, outcome, code)
    }
  }

  async #deadLetter({ message }: Held): Promise<void> {
    const { history, shadow } = this.#workload
    const limits = this.#limits()
    const reason = this.#random.chance(0.5) ? `no use ${this.#random.int(10)}` : undefined
    const operation = history.begin(this.name, `deadLetter ${message.id} ${reason ?? ''}`)
    shadow.deadLetterBegan(message.receipt, reason)
    try {
      await message.deadLetter(reason, limits)
      history.end(operation, 'ok', '', '')
      shadow.deadLetterEnded(message.receipt, 'ok', '')
    } catch (error) {
      const { outcome, code } = outcomeOfSettle(error)
      history.end(operation, outcome, code, '')
      shadow.deadLetterEnded(message.receipt, outcome, code)
    }
  }

  async #redrive(mq: MqClient): Promise<void> {
    const { config, history, shadow } = this.#workload
    if (config.deadLetterQueues.length === 0) return
    const { name: from } = this.#random.pick(config.deadLetterQueues)
    const to = this.#random.chance(0.3) ? this.#random.pick(config.queues).name : undefined
    const max = this.#random.chance(0.5) ? 1 + this.#random.int(20) : undefined
    const dryRun = this.#random.chance(0.1)
    const what = `redrive ${from} ${to ?? '-'} ${max ?? 'all'}${dryRun ? ' dry' : ''}`
    const operation = history.begin(this.name, what)
    if (!dryRun) shadow.admin.redriveBegan(from, to ?? null)
    try {
      const done = await mq.redrive(from, { to, max, dryRun, ...this.#limits() })
      const { messages, skipped, targets } = done
      history.end(operation, 'ok', '', `${messages} ${skipped} ${JSON.stringify(targets)}`)
      const sum = Object.values(targets).reduce((a, b) => a + b, 0)
      const isStray = to !== undefined && Object.keys(targets).some((name) => name !== to)
      if (sum !== messages || messages > (max ?? Infinity) || isStray)
        throw new Violation('', `${what} says ${JSON.stringify(done)}`)
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
    }
  }

  async #purge(mq: MqClient, queue: string): Promise<void> {
    const { history, shadow } = this.#workload
    const dryRun = this.#random.chance(0.2)
    const operation = history.begin(this.name, `purge ${queue}${dryRun ? ' dry' : ''}`)
    const purge = dryRun ? null : shadow.admin.purgeBegan(queue)
    try {
      const { messages } = await mq.purgeQueue(queue, { dryRun, ...this.#limits() })
      history.end(operation, 'ok', '', String(messages))
      if (purge !== null) shadow.admin.purgeEnded(purge, 'ok')
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      if (purge !== null) shadow.admin.purgeEnded(purge, outcome)
    }
  }

  /** Mostly it is created again soon: without it less happens. */
  async #deleteQueue(mq: MqClient, queue: string): Promise<void> {
    const { config, history, shadow } = this.#workload
    const operation = history.begin(this.name, `deleteQueue ${queue}`)
    const deletion = shadow.admin.deletionBegan(queue)
    try {
      await mq.deleteQueue(queue, this.#limits())
      history.end(operation, 'ok', '', '')
      shadow.admin.deletionEnded(queue, deletion, 'ok')
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      shadow.admin.deletionEnded(queue, deletion, outcome)
    }
    const created = config.created.find(({ name }) => name === queue)
    if (created === undefined || this.#random.chance(0.2)) return
    await this.#sleep(this.#random.between(0, 300))
    await this.createQueue(mq, queue, created.options)
  }

  async #peek(mq: MqClient, queue: string): Promise<void> {
    const { history, shadow } = this.#workload
    const max = 1 + this.#random.int(this.#random.pick([1, 20, 1000]))
    const operation = history.begin(this.name, `peek ${queue} ${max}`)
    try {
      const messages = await mq.peek(queue, { max, ...this.#limits() })
      const saw = messages.map(({ id, deliveryCount, state }) => `${id}×${deliveryCount} ${state}`)
      history.end(operation, 'ok', '', saw.join(' '))
      for (const { id, body, headers, deliveryCount } of messages)
        shadow.peeked({ queue, id, body, headers, deliveryCount }, operation.beginMs)
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
    }
  }

  /** What is changed is always the same: see `Admin`. */
  async #updateQueue(mq: MqClient, queue: string): Promise<void> {
    const { config, history, shadow } = this.#workload
    const { visibilityTimeoutMsMax, delayMsMax } = config
    const options = {
      visibilityTimeoutMs: 50 + this.#random.int(visibilityTimeoutMsMax - 49),
      delayMs: this.#random.chance(0.5) ? 0 : this.#random.int(delayMsMax + 1),
      backoff: {
        type: this.#random.pick(['fixed', 'exponential'] as const),
        delayMs: 1 + this.#random.int(Math.ceil(delayMsMax / 4)),
        maxMs: delayMsMax,
        jitter: this.#random.pick([0, 0.5, 1]),
      },
    }
    const operation = history.begin(this.name, `updateQueue ${queue} ${JSON.stringify(options)}`)
    const change = shadow.admin.changeBegan(queue, options)
    try {
      await mq.updateQueue(queue, { ...options, ...this.#limits() })
      history.end(operation, 'ok', '', '')
      shadow.admin.changeEnded(queue, change, 'ok')
    } catch (error) {
      const { outcome, code } = outcomeOf(error)
      history.end(operation, outcome, code, '')
      shadow.admin.changeEnded(queue, change, outcome)
    }
  }

  async #extend(mq: MqClient, held: Held): Promise<void> {
    const { config, history, shadow } = this.#workload
    const { queue, message } = held
    const extendMs = 20 + this.#random.int(config.visibilityTimeoutMsMax)
    const limits = this.#limits()
    const operation: Operation = history.begin(this.name, `extend ${message.id} ${extendMs}`)
    shadow.extendBegan(message.receipt, extendMs)
    try {
      if (this.#random.chance(0.5)) await message.extend(extendMs, limits)
      else {
        const error = (await mq.extend(queue, [message.receipt], { ...limits, ms: extendMs }))[0]!
        if (error !== null) throw error
      }
      history.end(operation, 'ok', '', '')
      shadow.extendEnded(message.receipt, operation.beginMs, extendMs, 'ok', '')
    } catch (error) {
      const { outcome, code } = outcomeOfSettle(error)
      history.end(operation, outcome, code, '')
      shadow.extendEnded(message.receipt, operation.beginMs, extendMs, outcome, code)
    }
  }
}

function allQueues({ queues, deadLetterQueues }: SimConfig): readonly QueueConfig[] {
  return [...queues, ...deadLetterQueues]
}

function namesOf(messages: readonly Message[]): string {
  return messages.map((m) => `${m.id}×${m.deliveryCount}`).join(' ')
}

/** LEASE_LOST is definite, whatever else the error says. */
function outcomeOfSettle(error: unknown): { outcome: 'failed' | 'unknown'; code: string } {
  const { outcome, code } = outcomeOf(error)
  return code === 'LEASE_LOST' && !(error as MqError).outcome
    ? { outcome: 'failed', code }
    : { outcome, code }
}

export function pickWeighted<K extends string>(
  random: SeededRandom,
  weights: Readonly<Record<K, number>>,
): K {
  const entries = Object.entries(weights) as [K, number][]
  let rest = random.unit() * entries.reduce((sum, [, weight]) => sum + weight, 0)
  for (const [kind, weight] of entries) {
    rest -= weight
    if (rest < 0) return kind
  }
  return entries.findLast(([, weight]) => weight > 0)![0]
}

export type { OperationKind }

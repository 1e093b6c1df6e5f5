/** Loops over messages: `consume` and `consumeBatches`. */
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import { acking, releasing, type Settling } from './acker.ts'
import type { Core } from './core.ts'
import { deadLettering, nacking, settling, type Message } from './message.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import {
  checkInteger,
  checkSignal,
  checkVisibilityTimeout,
  type CallOptions,
  type NackOptions,
} from './options.ts'
import { Subscription, type SubscriptionContext, type SubscriptionSpec } from './subscription.ts'
import type { TurnWork } from './turn.ts'

export interface ConsumeOptions {
  /** Messages at most that have come and are not settled, 1 to 65,536. Default 256. */
  prefetch?: number | undefined
  /** How long they are leased, in milliseconds. Default: the queue's; 1 to 12 hours. */
  visibilityTimeoutMs?: number | undefined
  /**
   * Whether the lease of a message that was handed out is renewed until it is settled. Default true. With false it
   * runs out as one of `receive` does, and `prefetch` counts only what was not handed out.
   */
  renew?: boolean | undefined
  /** Ends the loop: it throws ABORTED. */
  signal?: AbortSignal | undefined
}

export interface ConsumeBatchesOptions extends ConsumeOptions {
  /** Messages in a batch at most, 1 (default 100) to 10,000. `prefetch` is twice as many, or 256, by default. */
  max?: number | undefined
}

const consumeOptions = { prefetch: true, visibilityTimeoutMs: true, renew: true, signal: true } as const
const consumeOptionNames = optionNames<ConsumeOptions>(consumeOptions)
const consumeBatchesOptionNames = optionNames<ConsumeBatchesOptions>({ ...consumeOptions, max: true })

const prefetchDefault = 256
const batchDefault = 100

/** @throws MqError INVALID_FIELD, INVALID_OPTION, ABORTED */
export function consumeSpec(name: string, options: ConsumeOptions, least = 1): SubscriptionSpec {
  const { prefetch, visibilityTimeoutMs, renew = true } = options
  const byDefault = Math.min(Math.max(prefetchDefault, 2 * least), limits.creditMessagesMax)
  if (typeof renew !== 'boolean') throw new MqError('INVALID_OPTION', "'renew' must be true or false")
  return {
    name,
    prefetch: checkInteger('prefetch', prefetch ?? byDefault, 1, limits.creditMessagesMax),
    visibilityTimeoutMs: checkVisibilityTimeout(visibilityTimeoutMs),
    keeps: renew,
    signal: checkSignal(options.signal),
  }
}

interface Waiting<T> {
  readonly resolve: (result: IteratorResult<T, undefined>) => void
  readonly reject: (error: MqError) => void
}

/**
 * Messages handed out in one turn before the next ones wait for its end. A loop that waits for nothing else would take all
 * there is at once: their acks would leave, and anything else be read, only then; and V8 would find them all alive.
 */
const inTurnMax = 1000

/** What `consume` and `consumeBatches` return: for one loop. */
export class Consumer<T> implements AsyncIterableIterator<T, undefined> {
  readonly #core: Core
  readonly #subscription: Subscription
  readonly #take: () => T | null
  readonly #countOf: (value: T) => number
  /** Messages handed out in this turn; with any, its end is waited for. */
  #handedOut = 0
  readonly #turnWork: TurnWork = { inTurn: false, atEndOfTurn: () => this.#atEndOfTurn() }
  /** Calls of `next` that found nothing, oldest first. */
  readonly #waiting: Waiting<T>[] = []
  /** It has thrown, or was left. */
  #isDone = false

  private constructor(
    core: Core,
    subscription: Subscription,
    take: () => T | null,
    countOf: (value: T) => number,
  ) {
    this.#core = core
    this.#subscription = subscription
    this.#take = take
    this.#countOf = countOf
    subscription.onChange = () => this.#onChange()
  }

  /** @internal */
  static ofMessages(context: SubscriptionContext, queue: string, options: ConsumeOptions): Consumer<Message> {
    checkOptionNames(options, consumeOptionNames)
    const subscription = new Subscription(context, consumeSpec(queue, options))
    const take = () => subscription.take()?.message ?? null
    return new Consumer(context.core, subscription, take, () => 1)
  }

  /** @internal */
  static ofBatches(
    context: SubscriptionContext,
    queue: string,
    options: ConsumeBatchesOptions,
  ): Consumer<Batch> {
    const { core } = context
    checkOptionNames(options, consumeBatchesOptionNames)
    const max = checkInteger('max', options.max ?? batchDefault, 1, limits.batchMessagesMax)
    const subscription = new Subscription(context, consumeSpec(queue, options, max))
    const take = () => {
      const messages = subscription.takeUpTo(max).map(({ message }) => message)
      return messages.length === 0 ? null : new Batch(core, messages)
    }
    return new Consumer(core, subscription, take, ({ messages }) => messages.length)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next, as soon as there is one. */
  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#isDone) return Promise.resolve(done)
    this.#subscription.start()
    if (this.#waiting.length === 0) {
      const value = this.#next()
      if (value !== null) return Promise.resolve({ value, done: false })
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#onChange()
    })
  }

  /** Leaves the loop: what was not handed out is released. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.#isDone = true
    this.#subscription.end()
    this.#subscription.letGo()
    this.#onChange()
    return Promise.resolve(done)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #atEndOfTurn(): void {
    this.#handedOut = 0
    this.#onChange()
  }

  /** The next one, if there is one for this turn. */
  #next(): T | null {
    if (this.#handedOut >= inTurnMax) return null
    const value = this.#take()
    if (value === null) return null
    this.#handedOut += this.#countOf(value)
    this.#core.turn.add(this.#turnWork)
    return value
  }

  #onChange(): void {
    const { isOver } = this.#subscription
    if (isOver) this.#subscription.letGo()
    while (this.#waiting.length > 0) {
      const value = isOver || this.#isDone ? null : this.#next()
      if (value !== null) {
        this.#waiting.shift()!.resolve({ value, done: false })
        continue
      }
      if (!isOver && !this.#isDone) return
      const { resolve, reject } = this.#waiting.shift()!
      const { error } = this.#subscription
      if (error !== null && !this.#isDone) reject(error)
      else resolve(done)
      this.#isDone = true
    }
  }
}

const done = Object.freeze({ value: undefined, done: true as const })

/** Messages that came together. */
export class Batch {
  readonly messages: readonly Message[]
  readonly #core: Core

  /** @internal */
  constructor(core: Core, messages: readonly Message[]) {
    this.#core = core
    this.messages = messages
  }

  /**
   * Acks all: resolves once that is on disk.
   * @throws MqError the first that a message was refused with, LEASE_LOST above all, when all have been answered; the
   *   others are acked
   */
  ack(options: CallOptions = {}): Promise<void> {
    return this.#settle(() => settling(acking, options), options)
  }

  /** All failed: they are ready again, after `delayMs`. @throws MqError as `ack` */
  nack(options: NackOptions = {}): Promise<void> {
    return this.#settle(() => nacking(options), options)
  }

  /** All are ready again, and did not fail. @throws MqError as `ack` */
  release(options: CallOptions = {}): Promise<void> {
    return this.#settle(() => settling(releasing, options), options)
  }

  /**
   * All go to the queue's dead-letter queue, as with `Message.deadLetter`.
   * @throws MqError as `ack`; NO_DEAD_LETTER_QUEUE
   */
  deadLetter(reason?: string, options: CallOptions = {}): Promise<void> {
    return this.#settle(() => settling(deadLettering(reason), options), options)
  }

  #settle(howOf: () => Settling, options: CallOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const how = howOf()
      this.#core.checkOpen()
      checkSignal(options.signal)
      let left = this.messages.length
      let first: MqError | null = null
      const end = (): void => {
        if (--left > 0) return
        if (first === null) resolve()
        else reject(first)
      }
      const failed = (error: MqError): void => {
        first ??= error
        end()
      }
      for (const message of this.messages) {
        try {
          message.settle(how, options, end, failed)
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          failed(error)
        }
      }
    })
  }
}

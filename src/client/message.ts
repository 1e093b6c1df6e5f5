import type { MqError } from '../errors.ts'
import { limits, type Epoch, type LeaseId, type Offset, type PartitionId } from '../types.ts'
import { attributes, type BatchView } from '../wire/batch.ts'
import { messageId } from '../wire/message-id.ts'
import { settleAction } from '../wire/messages.ts'
import { acking, leaseLost, releasing, type AckTarget, type Settling } from './acker.ts'
import type { Core } from './core.ts'
import { encodeReceipt } from './delivery-receipt.ts'
import { extendItems } from './extend.ts'
import { checkOptionNames } from './option-names.ts'
import {
  callOptionNames,
  checkInteger,
  checkNackOptions,
  checkReason,
  checkSignal,
  checkTimeout,
  noOptions,
  unsupported,
  type CallOptions,
  type NackOptions,
} from './options.ts'
import type { Queue } from './queues.ts'
import { decodeValue, textOf, type Serializer } from './serializer.ts'

/** What the messages of one delivery share. */
export interface DeliveryContext {
  readonly core: Core
  readonly serializer: Serializer
  readonly queue: Queue
  readonly partition: PartitionId
  readonly leaseEpoch: Epoch
  readonly lease: LeaseId
  readonly epoch: Epoch
  readonly base: Offset
  readonly sentAtMs: number
  readonly deliveryCount: number | readonly number[]
  readonly view: BatchView
  /** Who looks after the leases, if anybody does. */
  readonly keeper: LeaseKeeper | null
}

/** Hears what becomes of the messages of one delivery, by their index in it. */
export interface LeaseKeeper {
  /** A settle is on its way. */
  settling(index: number): void
  /** It came to nothing: the message is under its lease, as before. */
  unsettled(index: number): void
  /** Settled, or its lease lost. */
  gone(index: number): void
}

const noHeaders: Readonly<Record<string, string>> = Object.freeze({})

/** What a nack with `options` does. @throws MqError INVALID_FIELD */
export function nacking(options: NackOptions): Settling {
  return { action: settleAction.nack, options: checkNackOptions(options) }
}

/** A settle that has no options of its own. @throws MqError INVALID_OPTION */
export function settling(how: Settling, options: CallOptions): Settling {
  checkOptionNames(options, callOptionNames)
  return how
}

/** What dead-lettering does. @throws MqError INVALID_FIELD */
export function deadLettering(reason: string | undefined): Settling {
  const checked = checkReason(reason)
  return {
    action: settleAction.deadLetter,
    options: checked === null ? null : { delayMs: null, reason: checked },
  }
}

/** A message under a lease: nobody else gets it until the lease ends. */
export class Message {
  readonly #delivery: DeliveryContext
  readonly #index: number
  /** The body, as it was sent: a view that stays valid. Strings are UTF-8; other values are in `value()`. */
  readonly body: Uint8Array
  /** A settle, in whatever way, is under way or was done. */
  #settling = false

  /** @internal */
  constructor(delivery: DeliveryContext, index: number, body: Uint8Array) {
    this.#delivery = delivery
    this.#index = index
    this.body = body
  }

  /** Unique for ever; an opaque text. */
  get id(): string {
    const { queue, partition, epoch } = this.#delivery
    return messageId(queue.name, partition, epoch, this.#offset)
  }

  /** The queue's name. */
  get queue(): string {
    return this.#delivery.queue.name
  }

  get headers(): Readonly<Record<string, string>> {
    const headers = attributes(this.#delivery.view)?.['headers']?.[this.#index]
    return (headers as Record<string, string> | null | undefined) ?? noHeaders
  }

  /** The key that orders messages, if it has one. */
  get key(): string | undefined {
    return (attributes(this.#delivery.view)?.['key']?.[this.#index] as string | null | undefined) ?? undefined
  }

  /** 0 to 9; 9 is delivered first. */
  get priority(): number {
    return (attributes(this.#delivery.view)?.['priority']?.[this.#index] as number | null | undefined) ?? 0
  }

  /** 1 on the first delivery; one more after each that failed. */
  get deliveryCount(): number {
    const { deliveryCount } = this.#delivery
    return typeof deliveryCount === 'number' ? deliveryCount : deliveryCount[this.#index]!
  }

  /** When the broker took it, in ms since 1970, by the broker's clock. */
  get sentAtMs(): number {
    return this.#delivery.sentAtMs
  }

  /** A text with which any connection can settle this delivery while its lease lasts. */
  get receipt(): string {
    const { queue, partition, leaseEpoch, lease } = this.#delivery
    const { queueId, name } = queue
    return encodeReceipt({ queueId, partition, leaseEpoch, lease, offset: this.#offset, queue: name })
  }

  /** The body as UTF-8 text. */
  text(): string {
    return textOf(this.body)
  }

  /**
   * The body as what was sent: a string, bytes, or a value.
   * @throws MqError UNSUPPORTED for a serializer this client does not have, INVALID_FIELD
   */
  value<T = unknown>(): T {
    const { serializer } = this.#delivery.view
    const name = serializer === null || typeof serializer === 'string' ? serializer : serializer[this.#index]!
    return decodeValue(this.#delivery.serializer, name, this.body) as T
  }

  /**
   * Settles the message for good: resolves once that is on disk.
   * @throws MqError LEASE_LOST when the lease has ended or the message was settled before; TIMEOUT, ABORTED, CLOSED
   */
  ack(options: CallOptions & { outputs?: unknown } = noOptions): Promise<void> {
    return new Promise((settled, failed) => {
      if (options.outputs !== undefined) throw unsupported('ack({ outputs })')
      this.settle(settling(acking, options), options, settled, failed)
    })
  }

  /**
   * Says that the delivery failed: the message is delivered again, at once or after a delay, with a higher
   * `deliveryCount`. Resolves once that is on disk.
   * @throws MqError LEASE_LOST when the lease has ended or the message was settled before; INVALID_FIELD; TIMEOUT,
   *   ABORTED, CLOSED
   */
  nack(options: NackOptions = noOptions): Promise<void> {
    return new Promise((settled, failed) => this.settle(nacking(options), options, settled, failed))
  }

  /**
   * Gives the message back untried: it is ready at once, and this delivery does not count. Resolves once that is on
   * disk.
   * @throws MqError LEASE_LOST when the lease has ended or the message was settled before; TIMEOUT, ABORTED, CLOSED
   */
  release(options: CallOptions = noOptions): Promise<void> {
    return new Promise((settled, failed) =>
      this.settle(settling(releasing, options), options, settled, failed),
    )
  }

  /**
   * Gives the message up: it goes to the queue's dead-letter queue at once, whatever its `deliveryCount`, with `reason`
   * in its header `mq-dead-letter-error`. Resolves once that it goes there is on disk; it is there soon after.
   * @param reason why: up to 1 KiB of UTF-8
   * @throws MqError NO_DEAD_LETTER_QUEUE: the queue has none, and the message is under its lease as before; LEASE_LOST
   *   when the lease has ended or the message was settled before; INVALID_FIELD; TIMEOUT, ABORTED, CLOSED
   */
  deadLetter(reason?: string, options: CallOptions = noOptions): Promise<void> {
    return new Promise((settled, failed) =>
      this.settle(settling(deadLettering(reason), options), options, settled, failed),
    )
  }

  /**
   * @internal Settles the message and calls what is due then.
   * @throws MqError LEASE_LOST when it is being settled already; INVALID_OPTION, ABORTED, CLOSED, DISCONNECTED
   */
  settle(how: Settling, options: CallOptions, settled: () => void, failed: (error: MqError) => void): void {
    if (this.#settling) throw leaseLost()
    const signal = checkSignal(options.signal)
    const { core, queue, partition, leaseEpoch, lease, keeper } = this.#delivery
    const dueMs = core.turn.nowMs + checkTimeout(options.timeoutMs)
    core.checkOpen()
    const settlement = new Settlement(this, keeper, this.#index, settled, failed, dueMs, signal)
    queue.ackers[partition]!.settle(how, leaseEpoch, lease, this.#offset, settlement)
    this.#settling = true
    keeper?.settling(this.#index)
  }

  /** @internal A settle came to nothing: there may be another. */
  unsettled(): void {
    this.#settling = false
  }

  /**
   * Lets the lease end `ms` from now.
   * @throws MqError LEASE_LOST
   */
  async extend(ms: number, options: CallOptions = {}): Promise<void> {
    checkOptionNames(options, callOptionNames)
    const { core, queue, partition, leaseEpoch, lease } = this.#delivery
    const items = [{ leaseEpoch, lease, offset: this.#offset, count: 1 }]
    const refused = await extendItems(core, queue, partition, checkExtendMs(ms), items, options)
    if (refused !== null) throw leaseLost()
  }

  get #offset(): Offset {
    return this.#delivery.base + this.#index
  }
}

/** Tells those whom it concerns what became of one settle of a message. */
class Settlement implements AckTarget {
  readonly #message: Message
  readonly #keeper: LeaseKeeper | null
  readonly #index: number
  readonly #settled: () => void
  readonly #failed: (error: MqError) => void
  readonly dueMs: number
  readonly signal: AbortSignal | undefined

  constructor(
    message: Message,
    keeper: LeaseKeeper | null,
    index: number,
    settled: () => void,
    failed: (error: MqError) => void,
    dueMs: number,
    signal: AbortSignal | undefined,
  ) {
    this.#message = message
    this.#keeper = keeper
    this.#index = index
    this.#settled = settled
    this.#failed = failed
    this.dueMs = dueMs
    this.signal = signal
  }

  settled(): void {
    this.#keeper?.gone(this.#index)
    this.#settled()
  }

  failed(error: MqError): void {
    // Whether it is settled is the broker's to say, should it be asked again.
    this.#message.unsettled()
    if (error.code === 'LEASE_LOST') this.#keeper?.gone(this.#index)
    else this.#keeper?.unsettled(this.#index)
    this.#failed(error)
  }
}

/** @throws MqError INVALID_FIELD */
export function checkExtendMs(ms: number): number {
  return checkInteger('extendMs', ms, 1, limits.visibilityTimeoutMsMax)
}

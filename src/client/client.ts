import { MqError } from '../errors.ts'
import {
  limits,
  type EffectiveQueueOptions,
  type QueueDescription,
  type QueueOptions,
  type QueueOptionsChange,
  type QueueSummary,
} from '../types.ts'
import { encodeClientFrame, peekedOfResult } from '../wire/codec.ts'
import { settleAction, type RequestId } from '../wire/messages.ts'
import { acking } from './acker.ts'
import { runCall } from './call.ts'
import type { Core } from './core.ts'
import type { Emitter } from './emitter.ts'
import type { ClientEvents } from './events.ts'
import { checkExtendMs, type Message } from './message.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import {
  callOptionNames,
  checkInteger,
  checkNackOptions,
  checkQueueName,
  checkSignal,
  checkTimeout,
  defaults,
  noOptions,
  unsupported,
  type CallOptions,
  type NackOptions,
} from './options.ts'
import { peekedMessages, type PeekedMessage } from './peeked.ts'
import type { BatchEntry, Producer, SendOptions } from './producer.ts'
import { unexpected, type Queues } from './queues.ts'
import { redrive, type Redriven, type RedriveOptions } from './redrive.ts'
import type { Receiver, ReceiveOptions } from './receiver.ts'
import { Consumer, type Batch, type ConsumeBatchesOptions, type ConsumeOptions } from './consumer.ts'
import type { SubscriptionContext } from './subscription.ts'
import { Worker, type BatchHandler, type Handler, type WorkOptions } from './worker.ts'
import type { SendReceipt } from './receipt.ts'
import type { Serializer } from './serializer.ts'

/** @internal What `connectWith` puts together. */
export interface ClientParts {
  readonly core: Core
  readonly events: Emitter<ClientEvents>
  readonly queues: Queues
  readonly producer: Producer
  readonly receiver: Receiver
  readonly subscriptions: SubscriptionContext
  readonly serializer: Serializer
  /** Set while the client takes new calls. */
  readonly gate: { closed: MqError | null }
}

/**
 * A client of an mq-broker. Every call takes `{ signal, timeoutMs }` (30 s by default), waits out a lost connection
 * within its time, and rejects with an `MqError`; of a TIMEOUT, `outcome` says whether a broker may have done it.
 */
export class MqClient {
  readonly #parts: ClientParts
  #closing: Promise<void> | null = null

  /** @internal Use `connect`. */
  constructor(parts: ClientParts) {
    this.#parts = parts
  }

  /**
   * Sends a message and resolves once it is held as the queue's `confirm` and `storage` say. Strings and bytes are
   * sent as they are, anything else through the serializer. The body is copied before this returns.
   */
  send(queue: string, body: unknown, options: SendOptions = noOptions): Promise<SendReceipt> {
    return this.#parts.producer.send(queue, body, options)
  }

  /** Sends many. Resolves to a receipt or an MqError for each, in order; a bad entry harms no other. */
  sendBatch(
    queue: string,
    entries: readonly BatchEntry[],
    options: CallOptions = {},
  ): Promise<(SendReceipt | MqError)[]> {
    return this.#parts.producer.sendBatch(queue, entries, options)
  }

  /**
   * Takes messages under a lease: as soon as there is one, everything that is ready up to `max` and 16 MiB; none when
   * `waitMs` is over. What arrives after the call was given up is delivered again when its lease has ended.
   */
  receive(queue: string, options: ReceiveOptions = {}): Promise<Message[]> {
    return this.#run(() => {
      checkQueueName(queue)
      return this.#parts.receiver.receive(queue, options)
    })
  }

  /** Acks deliveries by their receipts: null or an MqError for each, in order. */
  ack(queue: string, receipts: readonly string[], options: CallOptions = {}): Promise<(MqError | null)[]> {
    return this.#run(() => {
      checkOptionNames(options, callOptionNames)
      checkQueueName(queue)
      return this.#parts.receiver.settle(queue, acking, receipts, options)
    })
  }

  /**
   * Says of deliveries, by their receipts, that they failed: null or an MqError for each, in order. See `Message.nack`.
   */
  nack(queue: string, receipts: readonly string[], options: NackOptions = {}): Promise<(MqError | null)[]> {
    return this.#run(() => {
      checkQueueName(queue)
      const how = { action: settleAction.nack, options: checkNackOptions(options) }
      return this.#parts.receiver.settle(queue, how, receipts, options)
    })
  }

  /** Lets the leases of deliveries end `ms` from now: null or an MqError for each, in order. */
  extend(
    queue: string,
    receipts: readonly string[],
    options: CallOptions & { ms: number },
  ): Promise<(MqError | null)[]> {
    return this.#run(() => {
      checkOptionNames(options, extendOptionNames)
      checkQueueName(queue)
      return this.#parts.receiver.extend(queue, receipts, checkExtendMs(options.ms), options)
    })
  }

  /** Creates a queue; one that exists with equal options counts as created. @throws MqError QUEUE_EXISTS, … */
  async createQueue(name: string, options: QueueOptions & CallOptions = {}): Promise<void> {
    const { signal, timeoutMs, ...set } = options
    const given = Object.fromEntries(Object.entries(set).filter(([, value]) => value !== undefined))
    await this.#admin(name, 'creating', { signal, timeoutMs }, (id) =>
      encodeClientFrame({ op: 'createQueue', id, name, options: given }),
    )
    // What this client knew under the name may have been deleted by another before.
    this.#parts.queues.forget(name)
  }

  /** Deletes a queue and all its messages. @throws MqError QUEUE_NOT_FOUND */
  async deleteQueue(name: string, options: CallOptions = {}): Promise<void> {
    checkOptionNames(options, callOptionNames)
    const { queues, core } = this.#parts
    const begunMs = core.clock.monotonicMs()
    const timeoutMs = checkTimeout(options.timeoutMs)
    const queueId = await this.#run(() => {
      checkQueueName(name)
      return queues.idOf(name, timeoutMs, checkSignal(options.signal))
    })
    const leftMs = timeoutMs - (core.clock.monotonicMs() - begunMs)
    // By its id: sent again after a lost answer, the request must not delete a later queue of the same name.
    await this.#admin(name, 'deleting', { ...options, timeoutMs: Math.max(0, leftMs) }, (id) =>
      encodeClientFrame({ op: 'deleteQueue', id, name, queueId }),
    )
    queues.forget(name)
  }

  /**
   * Changes options of a queue while it works; what is not named stays, null brings a default back: `maxDeliveries:
   * null` sets no limit any more. Leases that are out keep their time, and other clients learn
   * of a new `maxMessageBytes` when they next look the queue up.
   * @returns the options in force
   * @throws MqError QUEUE_NOT_FOUND; INVALID_FIELD; UNSUPPORTED: partitions, replicas and storage cannot be changed
   */
  async updateQueue(name: string, options: QueueOptionsChange & CallOptions): Promise<EffectiveQueueOptions> {
    const { signal, timeoutMs, ...set } = options
    const change = Object.fromEntries(Object.entries(set).filter(([, value]) => value !== undefined))
    const result = await this.#admin(name, 'updating', { signal, timeoutMs }, (id) =>
      encodeClientFrame({ op: 'updateQueue', id, name, options: change }),
    )
    this.#parts.queues.forget(name)
    return result as EffectiveQueueOptions
  }

  /**
   * Removes all messages of a queue, ready, delayed or leased; whoever has one leased has lost it. What is sent
   * meanwhile stays, but a call that loses its connection is sent again, and purges again.
   * @param options `dryRun`: nothing is removed, only counted
   * @returns how many messages
   * @throws MqError QUEUE_NOT_FOUND; STOPPING
   */
  async purgeQueue(
    name: string,
    options: CallOptions & { dryRun?: boolean | undefined } = {},
  ): Promise<{ messages: number }> {
    checkOptionNames(options, purgeOptionNames)
    const dryRun = options.dryRun === true
    const result = await this.#admin(name, 'purging', options, (id) =>
      encodeClientFrame({ op: 'purgeQueue', id, name, dryRun }),
    )
    return result as { messages: number }
  }

  /**
   * Looks at the oldest messages that are not settled, without leasing them: partition by partition, in the order
   * of the log, those that consumers have included.
   * @param options `max`: how many at most, 1 to 1,000; default 1. Fewer may come when they are large (4 MiB in all).
   * @throws MqError QUEUE_NOT_FOUND, INVALID_FIELD
   */
  async peek(
    queue: string,
    options: CallOptions & { max?: number | undefined } = {},
  ): Promise<PeekedMessage[]> {
    checkOptionNames(options, peekOptionNames)
    const max = checkInteger('max', options.max ?? 1, 1, limits.receiveMessagesMax)
    const result = await this.#admin(queue, 'looking into', options, (id) =>
      encodeClientFrame({ op: 'peek', id, name: queue, max }),
    )
    return peekedMessages(queue, peekedOfResult(result), this.#parts.serializer)
  }

  /**
   * Sends the messages that are ready in a dead-letter queue back to the queues they came from, or all to one, in the
   * order of the log; headers stay, deliveries count from 1 again. What comes into it meanwhile stays. Done in steps:
   * after an error `details` says what was done, `{ messages, skipped }`, and `outcome` whether the last step may have
   * been done besides. A step that loses its connection is sent again, and what the lost answer counted is missing from
   * the result; with `max` it is not, since more than `max` could be redriven: DISCONNECTED, outcome unknown.
   * @throws MqError QUEUE_NOT_FOUND: it, or `to`, is not there; INVALID_NAME, INVALID_FIELD; DISCONNECTED
   */
  redrive(deadLetterQueue: string, options: RedriveOptions = {}): Promise<Redriven> {
    return redrive(this.#parts.core, deadLetterQueue, options)
  }

  /** All queues, by name. */
  async listQueues(options: CallOptions = {}): Promise<QueueSummary[]> {
    checkOptionNames(options, callOptionNames)
    const all: QueueSummary[] = []
    for (;;) {
      const after = all.at(-1)?.name ?? null
      const page = await this.#ok('listing queues', options, (id) =>
        encodeClientFrame({ op: 'listQueues', id, after, limit: listPage }),
      )
      if (!Array.isArray(page)) throw unexpected('LIST_QUEUES', typeof page)
      all.push(...(page as QueueSummary[]))
      if (page.length < listPage) return all
    }
  }

  /** @throws MqError QUEUE_NOT_FOUND */
  async describeQueue(name: string, options: CallOptions = {}): Promise<QueueDescription> {
    checkOptionNames(options, callOptionNames)
    const result = await this.#admin(name, 'describing', options, (id) =>
      encodeClientFrame({ op: 'describeQueue', id, name }),
    )
    return result as QueueDescription
  }

  on<Name extends keyof ClientEvents>(name: Name, listener: (...args: ClientEvents[Name]) => void): this {
    this.#parts.events.on(name, listener)
    return this
  }

  off<Name extends keyof ClientEvents>(name: Name, listener: (...args: ClientEvents[Name]) => void): this {
    this.#parts.events.off(name, listener)
    return this
  }

  /**
   * Takes no new calls, ends loops over messages, and resolves when everything under way has ended. Workers are closed
   * before, `close` follows.
   */
  drain(): Promise<void> {
    this.#parts.gate.closed ??= new MqError('CLOSED', 'the client is draining', { outcome: 'failed' })
    this.#parts.core.activity.endStreams()
    return new Promise((resolve) => this.#parts.core.activity.whenIdle(resolve))
  }

  /**
   * Ends the client: gives what is under way up to `timeoutMs` (5,000) while a broker is connected, rejects the rest
   * with CLOSED. Never rejects, never waits for a dead server. Idempotent.
   */
  close(options: { timeoutMs?: number | undefined } = {}): Promise<void> {
    const { timeoutMs } = options
    // Whoever closes can't be refused for how it is done.
    const isTime = typeof timeoutMs === 'number' && timeoutMs >= 0
    this.#closing ??= this.#close(isTime ? timeoutMs : defaults.closeTimeoutMs)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /**
   * Messages as they come, to be looped over once: the broker pushes them, at most `prefetch` (256) that are not
   * settled. Their leases are renewed until they are settled or the loop is left; leaving it releases what was not
   * handed out. Lost connections and restarts of the broker are survived. The loop ends when the client is closed; it
   * throws QUEUE_NOT_FOUND, QUEUE_DELETED, and ABORTED when `signal` aborts.
   * @throws MqError INVALID_NAME, INVALID_FIELD, INVALID_OPTION, CLOSED
   */
  consume(queue: string, options: ConsumeOptions = {}): Consumer<Message> {
    const { subscriptions } = this.#begin(queue)
    return Consumer.ofMessages(subscriptions, queue, options)
  }

  /**
   * As `consume`, in batches of what has come, 1 to `max` (100) messages; each can be acked as a whole.
   * @throws MqError as `consume`
   */
  consumeBatches(queue: string, options: ConsumeBatchesOptions = {}): Consumer<Batch> {
    const { subscriptions } = this.#begin(queue)
    return Consumer.ofBatches(subscriptions, queue, options)
  }

  /**
   * Runs `handler` on each message: what it returns from is acked, what it throws on is nacked with the error's
   * message as the reason; what it has settled by itself stays so. With `batch` it gets an array, and may return those
   * that it did: the others are nacked. Leases are renewed meanwhile; when one is lost all the same, the handler's
   * `signal` aborts.
   * @throws MqError as `consume`
   */
  work(queue: string, handler: Handler, options?: WorkOptions & { batch?: undefined }): Worker
  work(queue: string, handler: BatchHandler, options: WorkOptions & { batch: number }): Worker
  work(queue: string, handler: Handler | BatchHandler, options: WorkOptions = {}): Worker {
    const { core, subscriptions } = this.#begin(queue)
    return new Worker(core, subscriptions, queue, handler, options)
  }

  #begin(queue: string): ClientParts {
    this.#parts.core.checkOpen()
    checkQueueName(queue)
    return this.#parts
  }

  /** Not built yet. */
  cluster(): Promise<never> {
    return Promise.reject(unsupported('cluster'))
  }

  async #close(timeoutMs: number): Promise<void> {
    const { core, gate, events } = this.#parts
    const closed = new MqError('CLOSED', 'the client was closed', { outcome: 'failed' })
    gate.closed = closed
    core.activity.endStreams()
    core.activity.endOnClose()
    if (core.session.isConnected && core.activity.count > 0) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          timer.cancel()
          core.activity.forget(done)
          core.session.onOffline = before
          resolve()
        }
        const before = core.session.onOffline
        core.session.onOffline = done
        const timer = core.clock.after(timeoutMs, done)
        core.activity.whenIdle(done)
      })
    }
    core.activity.abandon('CLOSED')
    core.deadlines.clear()
    core.session.close(core.session.isConnected)
    events.emit('close')
  }

  #admin(
    name: string,
    what: string,
    options: CallOptions,
    encode: (id: RequestId) => Uint8Array,
  ): Promise<unknown> {
    return this.#run(() => {
      checkQueueName(name)
      return this.#ok(`${what} queue '${name}'`, options, encode)
    })
  }

  async #ok(what: string, options: CallOptions, encode: (id: RequestId) => Uint8Array): Promise<unknown> {
    this.#parts.core.checkOpen()
    return runCall<unknown>(this.#parts.core, {
      what,
      timeoutMs: checkTimeout(options.timeoutMs),
      signal: checkSignal(options.signal),
      encode,
      read(answer) {
        if (answer.op !== 'ok') throw unexpected(what, answer.op)
        return answer.result
      },
    })
  }

  /** What is thrown before there is a promise becomes its rejection. */
  async #run<T>(call: () => Promise<T>): Promise<T> {
    this.#parts.core.checkOpen()
    return call()
  }
}

const listPage = 1000
const callOptions = { signal: true, timeoutMs: true } as const
const extendOptionNames = optionNames<CallOptions & { ms: number }>({ ...callOptions, ms: true })
const purgeOptionNames = optionNames<CallOptions & { dryRun?: boolean }>({ ...callOptions, dryRun: true })
const peekOptionNames = optionNames<CallOptions & { max?: number }>({ ...callOptions, max: true })

/**
 * One short handler for each command. A handler answers exactly once, or throws the MqError that is the answer.
 * Names, ids and ranges have been checked where frames are decoded (`wire/codec.ts`).
 */
import type { RequestHandler } from '../frontend/listener.ts'
import type { Request, Session } from '../frontend/session.ts'
import { invariant, MqError } from '../errors.ts'
import type { Reply, SettleEvent } from '../partition/leader.ts'
import type { QueueOptions } from '../types.ts'
import { lookupToResult, peekedToResult } from '../wire/codec.ts'
import { largestMessageBytes } from '../wire/batch.ts'
import type {
  Credit,
  ExtendRequest,
  LookupResult,
  ReceiveRequest,
  RedriveRequest,
  RequestId,
  SendRequest,
  SettleRequest,
  SubscribeRequest,
} from '../wire/messages.ts'
import type { RunningBroker } from './broker.ts'
import { checkedBatch } from './checked-batch.ts'
import type { ReplyTo } from './partition.ts'
import { peek } from './peek.ts'
import { tellSources } from './peers.ts'
import { purge } from './purge.ts'
import type { Queue, Waiter } from './queue.ts'
import { redrive } from './redrive.ts'
import { changeQueueOptions, parseQueueOptions, sameOptions } from './queue-options.ts'
import { similarNames } from '../similar-names.ts'
import { Subscription } from './subscription.ts'

/** The request of one operation. */
type Of<Op extends Request['op']> = Extract<Request, { op: Op }>

/** Long polls that may wait on one connection. */
const longPollsMax = 256
const supportedAttributes: ReadonlySet<string> = new Set(['headers', 'deliverAt', 'delay'])
/** Subscriptions that may stand on one connection. */
const subscriptionsMax = 256
const confirmCode = { replicas: 0, leader: 1, none: 2 } as const
const storageCode = { disk: 0, memory: 1 } as const

// Told to clients only, and to a thousand at once when they go: a stack for each would cost more than all the rest.
const unsubscribed = new MqError('CANCELLED', 'the subscription was given up')
const receiveGivenUp = new MqError('CANCELLED', 'the receive was given up')

export class Commands implements RequestHandler {
  readonly #broker: RunningBroker
  /** Creations and deletions, one at a time. */
  #admin: Promise<void> = Promise.resolve()
  /** Receives that wait, and where; a session with none is not in it. */
  readonly #longPolls = new Map<Session, Map<Waiter, Queue>>()
  /** By the ids that name them; a session with none is not in it. */
  readonly #subscriptions = new Map<Session, Map<RequestId, Subscription>>()

  constructor(broker: RunningBroker) {
    this.#broker = broker
  }

  handle(session: Session, request: Request, frame: Uint8Array, headroom: number): void {
    switch (request.op) {
      case 'send':
        return this.#send(session, request, frame, headroom)
      case 'receive':
        return this.#receive(session, request)
      case 'settle':
        return this.#settle(session, request)
      case 'extend':
        return this.#extend(session, request)
      case 'subscribe':
        return this.#subscribe(session, request)
      case 'unsubscribe':
        this.#subscriptions.get(session)?.get(request.subscription)?.end(unsubscribed)
        return this.#ok(session, request.id, null)
      case 'lookup':
        return this.#ok(session, request.id, lookupToResult(this.#lookup(request.name)))
      case 'createQueue':
        return this.#exclusively(session, request.id, () => this.#createQueue(session, request))
      case 'deleteQueue':
        return this.#exclusively(session, request.id, () => this.#deleteQueue(session, request))
      case 'updateQueue':
        return this.#exclusively(session, request.id, () => this.#updateQueue(session, request))
      case 'purgeQueue':
        return this.#purge(session, request)
      case 'peek':
        checkRoom(session)
        return this.#ok(session, request.id, peekedToResult(peek(this.#named(request.name), request.max)))
      case 'describeQueue':
        checkRoom(session)
        return this.#ok(session, request.id, this.#named(request.name).describe(this.#broker.nodeId))
      case 'listQueues':
        checkRoom(session)
        return this.#ok(session, request.id, this.#listQueues(request.after, request.limit))
      case 'redrive':
        return this.#redrive(session, request)
      case 'unsupported':
        throw new MqError('UNSUPPORTED', `operation ${request.nr} is not built yet`)
      case 'forbidden':
        throw new MqError('FORBIDDEN', `operation ${request.nr} is between nodes only`)
    }
  }

  /** Resolves once every administrative command so far has been carried out or refused. */
  idle(): Promise<void> {
    return this.#admin
  }

  /** Its deliveries are read again: queues on which it waits serve it. */
  drained(session: Session): void {
    for (const queue of this.#longPolls.get(session)?.values() ?? []) if (queue.hasReady) queue.ready()
    // It may have hundreds, and drains with each turn: those that have nothing come to it when they do.
    for (const { queue } of this.#subscriptions.get(session)?.values() ?? [])
      if (queue.hasReady) queue.ready()
  }

  /** What is for a subscription that has ended is late, and of no use. */
  credit(session: Session, credit: Credit): void {
    this.#subscriptions.get(session)?.get(credit.id)?.credit(credit)
  }

  #send(session: Session, request: SendRequest, frame: Uint8Array, headroom: number): void {
    const queue = this.#broker.queueOfId(request.queueId)
    const partition = queue.partition(request.partition)
    const { batch, count, crc, id } = request
    const { view, columns } = checkedBatch(batch, count, crc, supportedAttributes)
    const ownDelays = columns.includes('delay') || columns.includes('deliverAt')
    const { meters } = this.#broker
    const { clock } = this.#broker.env
    const begunMs = clock.monotonicMs()
    const to: ReplyTo = {
      answer: (reply) => {
        if (reply.kind === 'refused') return session.refuse(id, reply.error)
        invariant(reply.kind === 'sent', 'a send is answered as a send')
        meters.sendConfirm.observeMs(clock.monotonicMs() - begunMs)
        session.answer(id, {
          op: 'sent',
          id,
          epoch: reply.epoch,
          base: reply.base,
          duplicate: reply.duplicate,
          confirm: confirmCode[queue.options.confirm],
          storage: storageCode[queue.options.storage],
        })
      },
    }
    const event = {
      producerId: request.producerId,
      producerEpoch: request.producerEpoch,
      sequence: request.sequence,
      opening: request.opening,
      count,
      crc,
      batch,
      // What is lent is copied, whatever lies before it.
      headroom: headroom === 0 ? 0 : headroom + batch.byteOffset - frame.byteOffset,
      ownDelays,
    }
    partition.leader.send(to, event, partition.now(), this.#whyNot(queue, largestMessageBytes(view)))
  }

  /** Why a batch that is new can't be taken. */
  #whyNot(queue: Queue, largestBytes: number): MqError | null {
    const { maxMessageBytes } = queue.options
    if (largestBytes > maxMessageBytes) {
      return new MqError(
        'MESSAGE_TOO_LARGE',
        `a message has ${largestBytes} bytes, ${queue.name} takes ${maxMessageBytes}`,
        {
          details: { bytes: largestBytes, maxMessageBytes },
        },
      )
    }
    return this.#broker.whyFull
  }

  #receive(session: Session, request: ReceiveRequest): void {
    const queue = this.#broker.queueOfId(request.queueId)
    if (request.partition !== null) queue.partition(request.partition)
    if (request.mode !== 0) throw new MqError('UNSUPPORTED', 'receiving at most once is not built yet')
    if (!this.#broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
    const { id } = request
    const waiting = this.#longPolls.get(session)
    if (request.waitMs > 0 && waiting !== undefined && waiting.size >= longPollsMax) {
      throw new MqError('THROTTLED', `${longPollsMax} long polls wait on this connection`)
    }
    // Nobody can say that nothing is ready: it is, and there is no room for it.
    if (request.waitMs === 0) checkRoom(session)
    const waiter: Waiter = {
      partition: request.partition,
      max: request.max,
      get maxBytes() {
        return Math.min(request.maxBytes, session.roomBytes)
      },
      waitMs: request.waitMs,
      visibilityTimeoutMs: request.visibilityTimeoutMs,
      canTake: () => session.canTake,
      deliver: (deliveries) => {
        this.#waitsNoMore(session, waiter)
        session.answerDelivered(id, deliveries)
      },
      refuse: (error) => {
        this.#waitsNoMore(session, waiter)
        session.refuse(id, error)
      },
    }
    if (!queue.receive(waiter)) return
    if (waiting === undefined) this.#longPolls.set(session, new Map([[waiter, queue]]))
    else waiting.set(waiter, queue)
    session.onCancel(id, () => {
      // Given up by CANCEL or by the end of the connection; the answer of a closed session goes nowhere.
      if (queue.cancel(waiter)) waiter.refuse(receiveGivenUp)
    })
  }

  #waitsNoMore(session: Session, waiter: Waiter): void {
    const waiting = this.#longPolls.get(session)
    if (waiting?.delete(waiter) && waiting.size === 0) this.#longPolls.delete(session)
  }

  #subscribe(session: Session, request: SubscribeRequest): void {
    const queue = this.#broker.queueOfId(request.queueId)
    if (request.partition !== null) queue.partition(request.partition)
    if (request.mode !== 0) throw new MqError('UNSUPPORTED', 'receiving at most once is not built yet')
    if (!this.#broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
    const { id } = request
    const standing = this.#subscriptions.get(session) ?? new Map<RequestId, Subscription>()
    if (standing.size >= subscriptionsMax) {
      throw new MqError('QUOTA_EXCEEDED', `${subscriptionsMax} subscriptions stand on this connection`)
    }
    const subscription = new Subscription(session, queue, request, () => {
      if (standing.delete(id) && standing.size === 0) this.#subscriptions.delete(session)
    })
    standing.set(id, subscription)
    this.#subscriptions.set(session, standing)
    session.onCancel(id, () => subscription.end(unsubscribed))
    queue.subscribe(subscription)
  }

  #settle(session: Session, request: SettleRequest): void {
    const partition = this.#broker.queueOfId(request.queueId).partition(request.partition)
    const { action, options, outputs, items } = request
    if (outputs !== null) throw new MqError('UNSUPPORTED', 'outputs are not built yet')
    const event: SettleEvent = {
      producerId: request.producerId,
      producerEpoch: request.producerEpoch,
      sequence: request.sequence,
      opening: request.opening,
      action,
      items,
      delayMs: options?.delayMs ?? null,
      reason: options?.reason ?? null,
    }
    partition.leader.settle(settledTo(session, request.id), event, partition.now())
  }

  #extend(session: Session, request: ExtendRequest): void {
    const partition = this.#broker.queueOfId(request.queueId).partition(request.partition)
    partition.leader.extend(settledTo(session, request.id), request.items, request.extendMs, partition.now())
    partition.arm()
  }

  #lookup(name: string): LookupResult {
    const queue = this.#named(name)
    return {
      queueId: queue.id,
      name,
      options: { ...queue.options },
      partitions: queue.partitions.map(({ id, leader }) => ({
        partition: id,
        address: null,
        epoch: leader.state.epoch,
        logEnd: leader.state.logEnd,
      })),
    }
  }

  async #createQueue(session: Session, { name, options: given }: Of<'createQueue'>): Promise<null> {
    const options = parseQueueOptions(name, given)
    const existing = this.#broker.queues.get(name)
    if (existing !== undefined) {
      if (sameOptions(existing.optionsSet, options)) return null
      throw new MqError('QUEUE_EXISTS', `queue ${name} exists with other options`, {
        details: { options: existing.options },
      })
    }
    const missing = this.#missingDeadLetterQueue(options)
    this.#checkRoom(missing === null ? 1 : 2, (options.partitions ?? 1) + (missing === null ? 0 : 1))
    // First, so that the queue is never without it. Should it come to no more, it is a queue as any other.
    if (missing !== null) this.#noteCreated(session, await this.#create(missing, {}))
    this.#noteCreated(session, await this.#create(name, options))
    return null
  }

  #noteCreated(session: Session, { name, optionsSet: options }: Queue): void {
    this.#note(session, 'queue created', { queue: name, options })
  }

  /** The queue that is to take dead letters and is not there. */
  #missingDeadLetterQueue({ deadLetterQueue }: QueueOptions): string | null {
    return deadLetterQueue === undefined || this.#broker.queues.has(deadLetterQueue) ? null : deadLetterQueue
  }

  /** @throws MqError QUOTA_EXCEEDED, DISK_FULL */
  #checkRoom(queues: number, partitions: number): void {
    const { maxQueues, maxPartitions } = this.#broker.options
    if (this.#broker.queues.size + queues > maxQueues)
      throw new MqError('QUOTA_EXCEEDED', `there would be over ${maxQueues} queues`)
    let sum = partitions
    for (const queue of this.#broker.queues.values()) sum += queue.partitions.length
    if (sum > maxPartitions)
      throw new MqError('QUOTA_EXCEEDED', `there would be over ${maxPartitions} partitions`)
    const { whyFull } = this.#broker
    if (whyFull !== null) throw whyFull
  }

  /**
   * The queue of this name, which is made with default options if it is missing.
   * @throws MqError STOPPING, QUOTA_EXCEEDED, DISK_FULL
   */
  ensureQueue(name: string): Promise<Queue> {
    return this.#inTurn(async () => {
      const existing = this.#broker.queues.get(name)
      if (existing !== undefined) return existing
      if (!this.#broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
      this.#checkRoom(1, 1)
      const queue = await this.#create(name, {})
      this.#broker.limitedLog.write('warn', 'dead-letter queue made anew', { queue: name })
      return queue
    })
  }

  async #create(name: string, options: QueueOptions): Promise<Queue> {
    const { record, epoch } = await this.#broker.meta.createQueue(name, options)
    const queue = await this.#broker.openQueue(record, epoch, true)
    await this.#broker.log.flushed()
    // Found any sooner, its partitions would refuse sends for a moment, and so mix up the order of a client's.
    this.#broker.addQueue(queue)
    return queue
  }

  async #deleteQueue(session: Session, { name, queueId }: Of<'deleteQueue'>): Promise<null> {
    // A repetition, perhaps: by now the name may be another queue's.
    if (queueId !== null && this.#broker.meta.wasDeleted(queueId)) return null
    const queue = this.#named(name)
    if (queueId !== null && queue.id !== queueId) {
      throw new MqError('QUEUE_NOT_FOUND', `queue ${name} is another one now`)
    }
    const { messages } = queue
    queue.isLeaving = true
    try {
      await tellSources(this.#broker, queue)
      await this.#broker.meta.deleteQueue(name)
    } catch (error) {
      queue.isLeaving = false
      throw error
    }
    await this.#broker.closeQueue(queue)
    this.#note(session, 'queue deleted', { queue: name, messages })
    return null
  }

  async #updateQueue(session: Session, { name, options: change }: Of<'updateQueue'>): Promise<unknown> {
    const queue = this.#named(name)
    const options = changeQueueOptions(name, queue.optionsSet, change)
    const missing = this.#missingDeadLetterQueue(options)
    if (missing !== null) {
      this.#checkRoom(1, 1)
      this.#noteCreated(session, await this.#create(missing, {}))
    }
    await this.#broker.meta.updateQueue(name, options)
    queue.update(options)
    this.#note(session, 'queue updated', { queue: name, change })
    return { ...queue.options }
  }

  /** Not one after the other, as other changes are: it may take long, and harms none of them. */
  #purge(session: Session, { id, name, dryRun }: Of<'purgeQueue'>): void {
    const broker = this.#broker
    if (!broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
    const queue = this.#named(name)
    if (dryRun) {
      return this.#ok(session, id, { messages: queue.messages })
    }
    const isOpen = (): boolean => broker.serving && broker.queuesById.has(queue.id)
    purge(queue, broker.log, isOpen)
      .then((messages) => {
        this.#note(session, 'queue purged', { queue: name, messages })
        this.#ok(session, id, { messages })
      })
      .catch((error: unknown) => this.#failed(session, id, error))
  }

  #redrive(session: Session, request: RedriveRequest): void {
    const { id, name, to, dryRun } = request
    if (!this.#broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
    const queue = this.#named(name)
    if (to === name) throw new MqError('INVALID_FIELD', 'messages are redriven to another queue', field('to'))
    if (to !== null) this.#named(to)
    const { whyFull } = this.#broker
    if (!dryRun && whyFull !== null) throw whyFull
    const gone = (): MqError =>
      this.#broker.queuesById.has(queue.id)
        ? new MqError('STOPPING', 'the broker is stopping')
        : new MqError('QUEUE_DELETED', `queue ${name} was deleted`)
    redrive(queue, request, this.#broker.log, gone, (other) => this.#broker.queues.get(other))
      .then((result) => {
        const { messages, skipped, targets } = result
        if (!dryRun && messages > 0) {
          this.#note(session, 'messages redriven', { queue: name, messages, skipped, targets })
        }
        this.#ok(session, id, result)
      })
      .catch((error: unknown) => this.#failed(session, id, error))
  }

  /** What was done to a queue as a whole, and who did it. */
  #note(session: Session, what: string, fields: Readonly<Record<string, unknown>>): void {
    this.#broker.limitedLog.write('info', what, {
      ...fields,
      client: session.clientName,
      remote: session.remote,
    })
  }

  #listQueues(after: string | null, limit: number): unknown[] {
    return this.#broker.names.after(after, limit).map((name) => {
      const { options, messages } = this.#broker.queues.get(name)!
      return { name, options, messages }
    })
  }

  #ok(session: Session, id: RequestId, result: unknown): void {
    session.answer(id, { op: 'ok', id, result })
  }

  /** Runs an administrative command after those before it, and answers with what it returns. */
  #exclusively(session: Session, id: RequestId, run: () => Promise<unknown>): void {
    void this.#inTurn(async () => {
      try {
        if (!this.#broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
        this.#ok(session, id, await run())
      } catch (error) {
        this.#failed(session, id, error)
      }
    })
  }

  /** What changes queues is done one after the other. */
  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const done = this.#admin.then(run)
    this.#admin = done.then(
      () => undefined,
      () => undefined,
    )
    return done
  }

  #failed(session: Session, id: RequestId, error: unknown): void {
    if (error instanceof MqError && error.code !== 'STORAGE_FAILED') session.refuse(id, error)
    else this.#broker.failedWith(error)
  }

  #named(name: string): Queue {
    const queue = this.#broker.queues.get(name)
    if (queue !== undefined) return queue
    const similar = similarNames(name, this.#broker.queues.keys())
    const hint = similar.length === 0 ? '' : `; there is ${similar.join(', ')}`
    throw new MqError('QUEUE_NOT_FOUND', `there is no queue ${name}${hint}`, { details: { similar } })
  }
}

function field(name: string): { details: { field: string } } {
  return { details: { field: name } }
}

/** Before an answer that may be large. @throws MqError THROTTLED */
function checkRoom(session: Session): void {
  if (session.canTake) return
  throw new MqError('THROTTLED', 'too many answers wait to be read, on all connections together')
}

function settledTo(session: Session, id: RequestId): ReplyTo {
  return {
    answer(reply: Reply): void {
      if (reply.kind === 'refused') return session.refuse(id, reply.error)
      invariant(reply.kind === 'settled', 'a settle is answered as a settle')
      session.answer(id, { op: 'settled', id, refused: reply.refused })
    },
  }
}

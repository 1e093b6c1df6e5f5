import { MqError } from '../errors.ts'
import { limits, type Offset, type PartitionId, type ProducerId, type QueueId } from '../types.ts'
import { encodeClientFrame, lookupOfResult } from '../wire/codec.ts'
import type { LookupResult } from '../wire/messages.ts'
import { Acker } from './acker.ts'
import type { BuilderPool } from './builder-pool.ts'
import { Call, runCall, type CallSpec } from './call.ts'
import { Channel } from './channel.ts'
import type { Core } from './core.ts'
import { failedBefore } from './ending.ts'
import { Fifo } from './fifo.ts'
import { Sender } from './sender.ts'

/** A queue as this client knows it: what LOOKUP told, and what it has under way there. */
export class Queue {
  readonly queueId: QueueId
  readonly name: string
  /** Body and headers together, in bytes; as it was when the queue was last looked up. */
  maxMessageBytes: number
  /** One for each partition, by its number. */
  readonly channels: readonly Channel[]
  readonly sender: Sender
  /** One for each partition, by its number. */
  readonly ackers: readonly Acker[]
  readonly #queues: Queues

  constructor(core: Core, queues: Queues, builders: BuilderPool, found: LookupResult) {
    this.queueId = found.queueId
    this.name = found.name
    this.maxMessageBytes = maxMessageBytesOf(found)
    this.channels = found.partitions.map(
      ({ partition, logEnd }) => new Channel(core, queues, this, partition, logEnd),
    )
    this.sender = new Sender(core, this, builders)
    this.ackers = this.channels.map((channel) => new Acker(core, this, channel))
    this.#queues = queues
    for (const channel of this.channels) {
      channel.onRoom = () => {
        // Acks first: they make room where it is scarce, at the broker.
        this.ackers[channel.partition]!.pump()
        this.sender.pump()
      }
    }
  }

  /** Puts on their way what there is room for. */
  pump(): void {
    for (const acker of this.ackers) acker.pump()
    this.sender.pump()
  }

  /** Something is under way: it must be pumped, even if it had been forgotten. */
  begins(): void {
    this.#queues.isLive(this)
  }

  /** The broker says that it does not exist any more, or its options may have changed: its name is looked up anew. */
  isGone(): void {
    this.#queues.forget(this.name, this)
  }

  /** Nothing is under way: forgetting it loses nothing. */
  get isIdle(): boolean {
    return this.sender.isIdle && this.channels.every((c) => c.isIdle) && this.ackers.every((a) => a.isIdle)
  }
}

/** Somebody who needs a queue that is being looked up. */
export interface LookupWaiter {
  /** Its time is over: it is passed over. */
  readonly isOver: boolean
  found(queue: Queue): void
  notFound(error: MqError): void
}

interface Lookup {
  readonly waiters: Fifo<LookupWaiter>
  readonly call: Call<LookupResult>
}

/** Queues kept while nothing is under way in them. */
const queuesMax = 1024

/** The queues that this client has looked up. */
export class Queues {
  readonly #core: Core
  readonly #builders: BuilderPool
  readonly #clientId: ProducerId
  /** What a name stood for when it was last looked up; the least lately looked up first. */
  readonly #byName = new Map<string, Queue>()
  /** The latest with this id, of those that live. */
  readonly #byId = new Map<QueueId, Queue>()
  /** Those of a name, and forgotten ones that had something under way when they were last looked at. */
  readonly #live = new Set<Queue>()
  readonly #lookups = new Map<string, Lookup>()
  /** A channel with the client's own producer id was forgotten: its sequences must not begin again. */
  #clientIdIsSpent = false

  constructor(core: Core, builders: BuilderPool, clientId: ProducerId) {
    this.#core = core
    this.#builders = builders
    this.#clientId = clientId
  }

  /** There is a connection again: what waited for one leaves. */
  pump(): void {
    for (const queue of [...this.#live]) queue.pump()
  }

  /** The queue of this name, if it is known. */
  find(name: string): Queue | undefined {
    return this.#byName.get(name)
  }

  /** Tells the waiter now if the queue is known, else after a LOOKUP. Waiters of one name are told in order. */
  lookup(name: string, waiter: LookupWaiter): void {
    const known = this.#byName.get(name)
    if (known !== undefined) {
      waiter.found(known)
      return
    }
    const running = this.#lookups.get(name)
    if (running !== undefined) {
      running.waiters.push(waiter)
      return
    }
    let lookup: Lookup | null = null
    const end = (tell: (waiter: LookupWaiter) => void) => {
      // Its last waiter may have gone, and another begun a lookup of its own.
      if (lookup === null || this.#lookups.get(name) !== lookup) return
      this.#lookups.delete(name)
      for (const each of lookup.waiters) if (!each.isOver) tell(each)
    }
    const call = new Call(
      this.#core,
      this.#spec(name),
      (found) => {
        const queue = this.#keep(found)
        end((each) => each.found(queue))
      },
      (error) => end((each) => each.notFound(failedBefore(error))),
    )
    lookup = { waiters: new Fifo(), call }
    lookup.waiters.push(waiter)
    this.#lookups.set(name, lookup)
    try {
      call.begin()
    } catch (error) {
      this.#lookups.delete(name)
      if (!(error instanceof MqError)) throw error
      waiter.notFound(error)
    }
  }

  /** The time of a waiter for `name` is over. When nobody waits any more, the lookup is given up. */
  waiterEnded(name: string): void {
    const lookup = this.#lookups.get(name)
    if (lookup === undefined) return
    // Mostly the first ones end first; the rest goes with the answer.
    while (lookup.waiters.first?.isOver === true) lookup.waiters.shift()
    if (lookup.waiters.size > 0) return
    this.#lookups.delete(name)
    lookup.call.cancel()
  }

  /** As `lookup`, for a call with a time-out of its own. */
  async get(name: string, timeoutMs: number, signal: AbortSignal | undefined): Promise<Queue> {
    const known = this.#byName.get(name)
    if (known !== undefined) return known
    try {
      return this.#keep(await runCall(this.#core, this.#spec(name, timeoutMs, signal)))
    } catch (error) {
      throw error instanceof MqError ? failedBefore(error) : error
    }
  }

  /** The id that a name has now, whatever is known of it. @throws MqError QUEUE_NOT_FOUND */
  async idOf(name: string, timeoutMs: number, signal: AbortSignal | undefined): Promise<QueueId> {
    try {
      return (await runCall(this.#core, this.#spec(name, timeoutMs, signal))).queueId
    } catch (error) {
      throw error instanceof MqError ? failedBefore(error) : error
    }
  }

  /** Where a partition's log ends now. @throws MqError QUEUE_DELETED when the name has another queue by now */
  async logEnd(queue: Queue, partition: PartitionId): Promise<Offset> {
    const found = await runCall(this.#core, this.#spec(queue.name))
    if (found.queueId !== queue.queueId) throw new MqError('QUEUE_DELETED', `queue ${queue.name} was deleted`)
    return found.partitions[partition]?.logEnd ?? 0
  }

  /** The name is looked up again before it is next used. What is under way goes on. */
  forget(name: string, onlyIf?: Queue): void {
    if (onlyIf !== undefined && this.#byName.get(name) !== onlyIf) return
    this.#byName.delete(name)
    this.#sweep()
  }

  /** Its messages outlive what is kept of their queue: acking one may begin something in a forgotten queue. */
  isLive(queue: Queue): void {
    this.#live.add(queue)
  }

  /** A producer id for a new channel. */
  producerId(): ProducerId {
    return this.#clientIdIsSpent ? this.freshProducerId() : this.#clientId
  }

  freshProducerId(): ProducerId {
    return Buffer.from(this.#core.random.bytes(16)).toString('latin1')
  }

  #spec(name: string, timeoutMs = Infinity, signal?: AbortSignal): CallSpec<LookupResult> {
    return {
      what: `looking up '${name}'`,
      timeoutMs,
      signal,
      encode: (id) => encodeClientFrame({ op: 'lookup', id, name }),
      read(answer) {
        if (answer.op !== 'ok') throw unexpected('LOOKUP', answer.op)
        const found = lookupOfResult(answer.result)
        const { partitions } = found
        const isWhole = partitions.every(({ partition }, i) => partition === i)
        if (partitions.length < 1 || partitions.length > limits.partitionsMax || !isWhole) {
          throw new MqError('INVALID_FIELD', 'the answer to LOOKUP must name each partition once, in order')
        }
        return found
      },
    }
  }

  #keep(found: LookupResult): Queue {
    let queue = this.#byId.get(found.queueId)
    if (queue === undefined) {
      queue = new Queue(this.#core, this, this.#builders, found)
      this.#byId.set(queue.queueId, queue)
      this.#live.add(queue)
    } else {
      queue.maxMessageBytes = maxMessageBytesOf(found)
      for (const { partition, logEnd } of found.partitions) queue.channels[partition]?.lookedUp(logEnd)
    }
    this.#byName.delete(found.name)
    this.#byName.set(found.name, queue)
    if (this.#byName.size > queuesMax) this.#forgetOldest()
    this.#sweep()
    return queue
  }

  #forgetOldest(): void {
    for (const [name, queue] of this.#byName) {
      if (!queue.isIdle) continue
      this.#byName.delete(name)
      return
    }
  }

  /** Lets go of queues that no name leads to and where nothing is under way any more. */
  #sweep(): void {
    if (this.#live.size <= this.#byName.size) return
    for (const queue of this.#live) {
      if (this.#byName.get(queue.name) === queue || !queue.isIdle) continue
      this.#live.delete(queue)
      if (this.#byId.get(queue.queueId) === queue) this.#byId.delete(queue.queueId)
      this.#clientIdIsSpent = true
    }
  }
}

function maxMessageBytesOf({ options: { maxMessageBytes } }: LookupResult): number {
  return typeof maxMessageBytes === 'number' ? maxMessageBytes : 1 << 20
}

/** Whether the broker says that there is no queue with the id that it was asked about. */
export function isGone({ code }: MqError): boolean {
  return code === 'QUEUE_DELETED' || code === 'QUEUE_NOT_FOUND'
}

/** An answer of the wrong kind: the broker's defect. */
export function unexpected(what: string, got: string): MqError {
  return new MqError('INTERNAL', `the broker answered ${what} with '${got}'`, { outcome: 'unknown' })
}

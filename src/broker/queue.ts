/**
 * A queue on this node: its partitions, and those who wait for messages. Waiters are served in the order they came;
 * partitions take turns. A receive costs what its batches cost, however many messages are in them.
 */
import type { Clock, Random, Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import type { Histogram } from '../observe/histogram.ts'
import type { QueueFigures } from '../observe/metrics.ts'
import { backoffDelayMs } from '../partition/backoff.ts'
import { leaderDefaults, type LeaderOptions } from '../partition/leader.ts'
import type { Target } from '../partition/outbox.ts'
import type { Run } from '../partition/range-map.ts'
import type { EffectiveQueueOptions, PartitionId, QueueDescription, QueueId, QueueOptions } from '../types.ts'
import { bodyLength, crcOf, readBatch, sliceBatch } from '../wire/batch.ts'
import type { Delivery } from '../wire/messages.ts'
import type { Partition } from './partition.ts'
import { effectiveOptions } from './queue-options.ts'

/** Takers that are served in one turn: each may get megabytes, and there may be as many as connections. */
const takersPerTurn = 64

/** Somebody who takes messages under lease. */
export interface Taker {
  readonly partition: PartitionId | null
  /** What it takes at once: messages, and bytes of batches. */
  readonly max: number
  readonly maxBytes: number
  readonly visibilityTimeoutMs: number | null
  /** False while its connection takes no more: it keeps its place and is passed over. One that can't wait can take. */
  canTake(): boolean
  /** @param messages how many are in them */
  deliver(deliveries: Delivery[], messages: number): void
  refuse(error: MqError): void
}

/** One receive that has not been answered. */
export interface Waiter extends Taker {
  readonly waitMs: number
}

/** What queues share. */
export interface QueueContext {
  readonly clock: Clock
  readonly random: Random
  /** How long messages waited that are delivered for the first time, one observation for each delivery. */
  readonly deliveryLatency: Histogram
  /** The partition of a queue that takes dead letters of this one; `nowhere` while there is no such queue. */
  deadLetterTarget(queueName: string, partition: PartitionId): Target
}

export class Queue {
  readonly id: QueueId
  readonly name: string
  /** In force; changed by `update` only. */
  options: EffectiveQueueOptions
  /** As set: what an equal creation is compared with. */
  optionsSet: QueueOptions
  /** What its leaders go by; changed with the options. */
  readonly leaderOptions: LeaderOptions = { ...leaderDefaults }
  readonly partitions: Partition[] = []
  /** It is about to be deleted, and takes nothing from outboxes any more. */
  isLeaving = false
  readonly #clock: Clock
  readonly #random: Random
  readonly #deliveryLatency: Histogram
  readonly #deadLetterTarget: QueueContext['deadLetterTarget']
  /**
   * In the order in which they are served next: receives, with the end of their wait, and those subscriptions (null)
   * that have credit.
   */
  readonly #waiting = new Map<Taker, Timer | null>()
  /** All of them, whether they have credit or not. */
  readonly #subscriptions = new Set<Taker>()
  #turn = 0
  #dispatchDue = false
  /** Messages in what was taken last. */
  #taken = 0
  readonly #run: Run = { start: 0, end: 0, value: 0 }

  constructor(id: QueueId, name: string, options: QueueOptions, context: QueueContext) {
    this.id = id
    this.name = name
    this.#clock = context.clock
    this.#random = context.random
    this.#deliveryLatency = context.deliveryLatency
    this.#deadLetterTarget = (name, partition) => context.deadLetterTarget(name, partition)
    this.optionsSet = options
    this.options = effectiveOptions(options)
    this.#tellLeaders()
  }

  /** Its options are these from now on; leases that were granted stay as they are. */
  update(options: QueueOptions): void {
    this.optionsSet = options
    this.options = effectiveOptions(options)
    this.#tellLeaders()
  }

  #tellLeaders(): void {
    const { delayMs, backoff, maxDeliveries, deadLetterQueue } = this.options
    this.leaderOptions.delayMs = delayMs
    this.leaderOptions.maxDeliveries = maxDeliveries
    this.leaderOptions.deadLetterTarget =
      deadLetterQueue === null ? null : (partition) => this.#deadLetterTarget(deadLetterQueue, partition)
    this.leaderOptions.backoffMs =
      backoff === null ? null : (failures) => backoffDelayMs(backoff, failures, this.#random.unit())
  }

  /** @throws MqError INVALID_FIELD: there is none; CORRUPT_LOG: it is halted */
  partition(id: PartitionId): Partition {
    const partition = this.partitions[id]
    if (partition === undefined) {
      throw new MqError('INVALID_FIELD', `partition ${id} of ${this.partitions.length}`, {
        details: { field: 'partition' },
      })
    }
    if (partition.halted !== null) throw partition.halted
    return partition
  }

  get messages(): number {
    return this.partitions.reduce((sum, p) => sum + p.leader.state.live.size, 0)
  }

  /**
   * Answers now if anything is ready or nothing is to be waited for; else when something comes.
   * @returns true if the waiter waits
   */
  receive(waiter: Waiter): boolean {
    // Among those who wait, who came first is served first: a newcomer that can wait takes its place in the line.
    const isServed = waiter.waitMs === 0 || (this.#waiting.size === 0 && waiter.canTake())
    const deliveries = isServed ? this.#take(waiter) : []
    if (deliveries.length > 0 || waiter.waitMs === 0) {
      waiter.deliver(deliveries, this.#taken)
      return false
    }
    const timer = this.#clock.after(waiter.waitMs, () => {
      this.#waiting.delete(waiter)
      waiter.deliver([], 0)
    })
    this.#waiting.set(waiter, timer)
    if (this.#waiting.size > 1) this.ready()
    return true
  }

  /** Serves `taker` from now on, in its turn, whenever it has credit (`max` and `maxBytes` above 0). */
  subscribe(taker: Taker): void {
    this.#subscriptions.add(taker)
    this.credited(taker)
  }

  /** A subscription may have got credit: it takes its place at the end of the line, unless it stands in it. */
  credited(taker: Taker): void {
    if (!hasCredit(taker) || this.#waiting.has(taker) || !this.#subscriptions.has(taker)) return
    this.#waiting.set(taker, null)
    this.ready()
  }

  /** Gives a receive or a subscription up. @returns false when it had its answer */
  cancel(taker: Taker): boolean {
    const wasSubscribed = this.#subscriptions.delete(taker)
    this.#waiting.get(taker)?.cancel()
    return this.#waiting.delete(taker) || wasSubscribed
  }

  /** There are messages that whoever comes may be given. */
  get hasReady(): boolean {
    return this.partitions.some(({ leader }) => leader.readyCount > 0)
  }

  /** Something is ready, or a connection takes more again: waiters are served at the end of this turn, at once. */
  ready(): void {
    if (this.#dispatchDue || this.#waiting.size === 0) return
    this.#dispatchDue = true
    this.#clock.soon(() => {
      this.#dispatchDue = false
      this.#dispatch()
    })
  }

  /** Everybody who waits hears `error`. */
  refuseWaiting(error: MqError): void {
    for (const taker of [...this.#waiting.keys(), ...this.#subscriptions]) {
      if (this.cancel(taker)) taker.refuse(error)
    }
  }

  describe(nodeId: string): QueueDescription {
    const live = this.messages
    const leased = this.partitions.reduce((sum, p) => sum + p.leader.leasedCount, 0)
    const delayed = this.partitions.reduce((sum, p) => sum + p.leader.delayedCount, 0)
    return {
      name: this.name,
      options: this.options,
      // What waits for the disk in between counts as ready: it will be, and nobody has it.
      messages: { ready: live - leased - delayed, leased, delayed },
      partitions: this.partitions.map(({ id, leader }) => ({
        id,
        leader: nodeId,
        epoch: leader.state.epoch,
        inSync: [nodeId],
        replicas: [nodeId],
        logStart: leader.state.logStart,
        logEnd: leader.state.logEnd,
        highWatermark: leader.highWatermark,
      })),
    }
  }

  /** For metrics: counts since the broker began, and what is there now. */
  figures(): QueueFigures {
    const sum = { sent: 0, delivered: 0, acked: 0, failed: 0, deadLettered: 0 }
    let quarantined = 0
    let moving = 0
    let oldestMs = Infinity
    for (const partition of this.partitions) {
      const { counts, state } = partition.leader
      sum.sent += counts.sent
      sum.delivered += counts.delivered
      sum.acked += counts.acked
      sum.failed += counts.failed
      sum.deadLettered += counts.deadLettered
      quarantined += state.quarantined.size
      moving += state.outbox.moving.size
      oldestMs = Math.min(oldestMs, partition.oldestMs() ?? Infinity)
    }
    const states = { ...this.describe('').messages, moving, quarantined }
    return {
      queue: this.name,
      ...sum,
      states,
      oldestAgeMs: oldestMs === Infinity ? 0 : Math.max(0, this.#clock.nowMs() - oldestMs),
    }
  }

  #dispatch(): void {
    // Who is served and stays goes to the end of the line, and is not looked at again in this turn.
    let left = this.#waiting.size
    let isServing = false
    let servedInTurn = 0
    for (const [taker, timer] of this.#waiting) {
      if (left-- === 0) break
      if (!this.hasReady) return
      if (!taker.canTake()) continue
      if (servedInTurn++ === takersPerTurn) {
        isServing = true
        break
      }
      const deliveries = this.#take(taker)
      if (deliveries.length === 0) continue
      timer?.cancel()
      this.#waiting.delete(taker)
      // Before it hears of them: what it hears may end its connection, and with it its place.
      const stays = this.#subscriptions.has(taker)
      if (stays) this.#waiting.set(taker, null)
      taker.deliver(deliveries, this.#taken)
      if (!stays) continue
      if (hasCredit(taker)) isServing = true
      else this.#waiting.delete(taker)
    }
    // A share for each, and others get their turn in between.
    if (isServing) this.ready()
  }

  /** Leases what is ready, up to the waiter's limits. */
  #take(waiter: Taker): Delivery[] {
    const deliveries: Delivery[] = []
    const room = { messages: waiter.max, bytes: waiter.maxBytes }
    if (waiter.partition !== null)
      this.#takeFrom(this.partitions[waiter.partition]!, waiter, room, deliveries)
    else {
      for (let i = 0; i < this.partitions.length && room.messages > 0 && room.bytes > 0; i++) {
        this.#takeFrom(this.partitions[(this.#turn + i) % this.partitions.length]!, waiter, room, deliveries)
      }
      this.#turn = (this.#turn + 1) % this.partitions.length
    }
    this.#taken = waiter.max - room.messages
    const nowMs = this.#clock.nowMs()
    for (const { deliveryCount, sentAtMs } of deliveries) {
      if (deliveryCount === 1) this.#deliveryLatency.observeMs(nowMs - sentAtMs)
    }
    return deliveries
  }

  #takeFrom(
    partition: Partition,
    waiter: Taker,
    room: { messages: number; bytes: number },
    into: Delivery[],
  ): void {
    const run = this.#run
    const first = into.length
    const ranges: number[] = []
    for (let from = 0; room.messages > 0 && room.bytes > 0 && partition.leader.nextReady(from, run);) {
      const { start, value: deliveryCount } = run
      const entry = partition.read(start)
      if (entry === null) continue
      const view = (entry.view ??= readBatch(entry.payload))
      const skipped = start - entry.base
      let count = Math.min(run.end - start, entry.count - skipped, room.messages)
      if (entry.payload.length > room.bytes) {
        // A message that is larger than all the room still goes, alone: it must go some time.
        let fits = 0
        let bytes = 0
        while (fits < count) {
          bytes += bodyLength(view, skipped + fits)
          if (bytes > room.bytes) break
          fits++
        }
        if (fits === 0 && into.length > 0) {
          room.bytes = 0
          break
        }
        count = Math.max(1, fits)
      }
      let whole = count === entry.count
      let batch = whole ? entry.payload : sliceBatch(view, skipped, count)
      // Bodies were counted; what goes with them may be more than they are.
      while (batch.length > room.bytes && count > 1) {
        whole = false
        count >>= 1
        batch = sliceBatch(view, skipped, count)
      }
      if (batch.length > room.bytes && into.length > 0) {
        room.bytes = 0
        break
      }
      into.push({
        partition: partition.id,
        leaseEpoch: partition.leader.state.epoch,
        lease: 0,
        leaseMs: 0,
        epoch: entry.epoch,
        base: start,
        sentAtMs: entry.timeMs,
        deliveryCount,
        crc: whole ? entry.payloadCrc : crcOf(batch),
        batch,
      })
      room.messages -= count
      room.bytes -= batch.length
      from = start + count
      if (ranges.at(-1) === start) ranges[ranges.length - 1] = from
      else ranges.push(start, from)
    }
    if (ranges.length === 0) return
    const visibilityTimeoutMs = waiter.visibilityTimeoutMs ?? this.options.visibilityTimeoutMs
    const lease = partition.lease(ranges, visibilityTimeoutMs)
    for (let i = first; i < into.length; i++) {
      into[i]!.lease = lease
      into[i]!.leaseMs = visibilityTimeoutMs
    }
  }
}

function hasCredit({ max, maxBytes }: Taker): boolean {
  return max > 0 && maxBytes > 0
}

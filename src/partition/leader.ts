/**
 * A partition's leader, pure: every decision of one partition, from events and the time they bring, to entries to
 * append and answers to give. It holds no socket, no file and no clock.
 *
 *   send     → BATCH entry … once committed: SENT, and the messages are ready
 *   receive  → a lease over ready messages, at once: what is ready is committed
 *   settle   → SETTLE entry … once committed: SETTLED; after a nack or a release they are ready again
 *   expiry   → FAIL entry … once committed: ready again
 *
 * What fails too often moves, by the same entry, to the outbox (`outbox.ts`), and is forwarded once that is committed.
 * `accept` is the other end: outputs of another partition's outbox, which a leader takes as it takes a send.
 *
 * "Ready" may be a while off: a message that the fold has delayed waits for its time first. That time is on the
 * leader's clock, which is the wall clock but never goes back and never stands still (`#timeMs`).
 *
 * Two kinds of effect, never mixed: `sink.reply` now, for refusals and for what changed nothing; `#onceCommitted`
 * for whatever depends on an entry, released in log order when the high watermark has passed it. The fold is applied
 * when an entry is appended, so the next decision sees it; the world sees it only once it is committed. A failed
 * append is never rolled back: the process stops.
 */
import { crc32 } from 'node:zlib'
import { invariant, MqError, type MqErrorCode } from '../errors.ts'
import {
  limits,
  type Epoch,
  type LeaseId,
  type Offset,
  type OutputPosition,
  type PartitionId,
  type ProducerId,
} from '../types.ts'
import { pack } from '../wire/msgpack.ts'
import { encodeEntry, noProducer, type EntryHeader, type LogName } from './entry.ts'
import { refusedNumbersOf, type Outcome, type PartitionState, type ProducerState } from './fold.ts'
import { Counts } from './counts.ts'
import { Leases } from './leases.ts'
import {
  comingBack,
  comparePositions,
  movedBecause,
  noPosition,
  nowhere,
  type Moved,
  type Outputs,
  type Target,
} from './outbox.ts'
import {
  delaysOf,
  encodeBody,
  failCause,
  pushRange,
  settledBy,
  type EntryBody,
  type Ranges,
} from './payload.ts'
import { RangeMap, type Run } from './range-map.ts'
import { TimerHeap } from './timer-heap.ts'

/** The moment of an event: wall clock for what entries record, monotonic for what runs out. */
export interface Now {
  wallMs: number
  monotonicMs: number
}

/** Who sends, and which of its requests this is. */
export interface Sequenced {
  producerId: ProducerId
  producerEpoch: number
  sequence: number
  opening: Offset
}

export interface SendEvent extends Sequenced {
  count: number
  /** crc32 of `batch`, already checked against its bytes. */
  crc: number
  batch: Uint8Array
  /** Bytes before `batch` in its buffer that may be overwritten. */
  headroom: number
  /** The batch has a column of delays. */
  ownDelays: boolean
}

export interface LeasedItem {
  leaseEpoch: Epoch
  lease: LeaseId
  offset: Offset
  count: number
}

export interface SettleEvent extends Sequenced {
  /** One of `settledBy`. */
  action: number
  items: readonly LeasedItem[]
  /** Of a nack: how long the messages rest; null: as the queue's backoff says. */
  delayMs: number | null
  /** Of a nack or a dead-letter. */
  reason: string | null
}

/** Outputs of another partition's outbox, in their order. */
export interface ForwardEvent {
  /** `sourceId` of that partition. */
  source: ProducerId
  /** Of the output before the first one here, of those to this partition. */
  previous: OutputPosition
  /** Of the last one here. */
  position: OutputPosition
  count: number
  /** crc32 of `batch`, already checked against its bytes. */
  crc: number
  batch: Uint8Array
  headroom: number
}

export type Reply =
  | { kind: 'sent'; epoch: Epoch; base: Offset; duplicate: boolean }
  | { kind: 'settled'; refused: Ranges | null }
  /** The last output that is here of the source that asked. */
  | { kind: 'forwarded'; position: OutputPosition }
  | { kind: 'refused'; error: MqError }

/** Where a leader's decisions go. `Ref` is whatever the caller wants back with its answer. */
export interface LeaderSink<Ref> {
  /** To be made durable, in this order. The bytes must not change until then. */
  append(entry: Uint8Array, base: Offset, next: Offset): void
  reply(ref: Ref, reply: Reply): void
  /** Messages became ready: whoever waits may take them. */
  ready(): void
  /** There are outputs, some of which may be committed now: they may be forwarded. */
  outputs(): void
}

/** They may change while the leader leads: what it decides from then on goes by them. */
export interface LeaderOptions {
  /** Producers remembered at most; past it the longest unused quarter is forgotten, by an entry. */
  producersMax: number
  /** Requests that may wait for the watermark, and as many repetitions of such; past it: THROTTLED. */
  awaitingMax: number
  /** Numbers in the ranges that settles could not settle, remembered for retries: two a range. Past it the longest
   * unused producers that have any are forgotten, by an entry. */
  refusedNumbersMax: number
  /** The queue's delay of messages that have none of their own; 0: none. */
  delayMs: number
  /** How long a message rests that has failed this often (≥ 1); null: not at all. Chance may have a part in it. */
  backoffMs: ((failures: number) => number) | null
  /** The delivery after whose failure a message is given up; null: none. */
  maxDeliveries: number | null
  /** Where messages go that are given up: for this partition, `nowhere` while that is missing. null: they don't. */
  deadLetterTarget: ((partition: PartitionId) => Target) | null
}

export const leaderDefaults: LeaderOptions = {
  producersMax: 2000,
  awaitingMax: 100_000,
  refusedNumbersMax: 1 << 18,
  delayMs: 0,
  backoffMs: null,
  maxDeliveries: null,
  deadLetterTarget: null,
}

/** An effect that waits for the watermark. */
interface Awaiting<Ref> {
  /** Released once high watermark ≥ this. Never decreases along the queue. */
  after: Offset
  ref: Ref | undefined
  reply: Reply | undefined
  /** Flat `start, count, …` that becomes ready, or delayed where the fold says so. */
  ready: Ranges | undefined
}

/** Ranges that one PURGE or FAIL entry carries at most. */
const rangesPerEntryMax = 4096
/** Leased ranges that expire in one turn, and delayed runs that become ready in one: those of one lease or block more. */
export const duePerTurnMax = 2048
/** Offsets that have a timer together. Whoever wakes one looks at all of them. */
const wakeBlockOffsets = 64
/** Entries whose outputs are looked at for one forward. */
const entriesPerForwardMax = 1000
/** What an entry's header has room for. */
const producerEpochMax = 0xffff_ffff

export class Leader<Ref> {
  readonly state: PartitionState
  /** For metrics; nothing is decided by it. */
  readonly counts = new Counts()
  readonly #name: LogName
  readonly #sink: LeaderSink<Ref>
  readonly #options: LeaderOptions
  readonly #leases = new Leases()
  /** Committed, live, not leased, not delayed, not waiting: what the next receive gets. */
  readonly #ready = new RangeMap()
  /** Committed, live, and ready once the time is reached that the fold has for it. Neighbours with other times are one run. */
  readonly #delayed = new RangeMap()
  /**
   * For each block of offsets in which runs of one time begin in `#delayed`: its number, and when the first of them is
   * due, or sooner. A timer a run would take as much memory as the runs.
   */
  readonly #wakes = new TimerHeap()
  /** What was delayed until then is ready. On the leader's clock. */
  #wokenMs = 0
  /** What the leader's clock is ahead of the monotonic one, in ms. Never less than before. */
  #aheadMs = -Infinity
  /** In order of `after`. `#awaitingHead` items at the front are done. */
  #awaiting: Awaiting<Ref>[] = []
  #awaitingHead = 0
  #highWatermark: Offset
  #mode: 'starting' | 'leading' | 'handedOver' = 'starting'

  /** @param state the fold of the whole committed log; the leader owns it from here on */
  constructor(
    name: LogName,
    state: PartitionState,
    sink: LeaderSink<Ref>,
    options: LeaderOptions = leaderDefaults,
  ) {
    this.#name = name
    this.state = state
    this.#sink = sink
    this.#options = options
    this.#highWatermark = state.logEnd
  }

  get highWatermark(): Offset {
    return this.#highWatermark
  }

  get readyCount(): number {
    return this.#ready.size
  }

  get leasedCount(): number {
    return this.#leases.messages
  }

  /** Messages that wait for their time. */
  get delayedCount(): number {
    return this.#delayed.size
  }

  get leaseCount(): number {
    return this.#leases.count
  }

  /** Serves: EPOCH_START is committed and nothing was handed over. */
  get leading(): boolean {
    return this.#mode === 'leading' && this.#highWatermark > this.#epochStart
  }

  #epochStart: Offset = 0

  /** Monotonic time of the next expiry, or of the end of a delay if the wall clock goes as it does; or Infinity. */
  get nextDueMs(): number {
    if (this.#mode !== 'leading') return Infinity
    return Math.min(this.#leases.nextDueMs, this.#wakes.peekDueMs() - this.#aheadMs)
  }

  /**
   * The time that entries record and delays are measured by. When the wall clock is set back it goes on from where it
   * was, so that a delay of a second lasts a second; when that is set forward, so is this.
   */
  #timeMs({ wallMs, monotonicMs }: Now): number {
    this.#aheadMs = Math.max(this.#aheadMs, wallMs - monotonicMs)
    // A hair's breadth for what is lost in the sum: else a timer could fire at its time and find it not reached.
    return Math.max(this.state.timeMs, wallMs, Math.floor(monotonicMs + this.#aheadMs + 0.01))
  }

  /**
   * Begins an epoch, which was drawn and is durable. Until EPOCH_START is committed nothing is served.
   * @param rotten messages whose stored bytes do not verify. Those that a handed-over lease still holds were delivered
   *   when they were good, and may be acked; they are found out when they would be delivered again.
   */
  start(epoch: Epoch, now: Now, rotten: Ranges = []): void {
    invariant(this.#mode === 'starting', 'a leader starts once')
    this.#mode = 'leading'
    this.#aheadMs = this.state.timeMs - now.monotonicMs
    this.#wokenMs = this.#timeMs(now)
    const handed = this.state.handedOver
    if (handed !== null) {
      this.#leases.takeOver(handed.nextLease, handed.leases, now.monotonicMs, now.wallMs)
    }
    this.#epochStart = this.state.logEnd
    this.#append({ kind: 'epochStart', previous: this.state.epoch }, now, epoch)
    const ready: Ranges = []
    const run: Run = { start: 0, end: 0, value: 0 }
    const free = this.state.live.clone()
    this.#leases.forEach((start, end) => free.delete(start, end))
    const quarantined: Ranges = []
    for (let i = 0; i < rotten.length; i += 2) {
      const end = rotten[i]! + rotten[i + 1]!
      free.forEachIn(rotten[i]!, end, (from, to) => quarantined.push(from, to - from))
      free.delete(rotten[i]!, end)
      this.state.outbox.moving.forEachIn(rotten[i]!, end, (from, to) => quarantined.push(from, to - from))
    }
    if (quarantined.length > 0) this.#append({ kind: 'quarantine', ranges: quarantined }, now, epoch)
    for (let from = 0; free.nextRun(from, run); from = run.end) ready.push(run.start, run.end - run.start)
    this.#onceCommitted(undefined, undefined, ready)
  }

  /**
   * @param refusal why a new batch can't be taken, if so. A retry of one that was accepted is answered all the same:
   *   to refuse it would be to call a message failed that will be delivered.
   */
  send(ref: Ref, event: SendEvent, now: Now, refusal: MqError | null = null): void {
    const known = this.#admit(ref, event, event.crc)
    if (known === 'refused') return
    if (known === 'new' && refusal !== null) {
      this.#sink.reply(ref, { kind: 'refused', error: refusal })
      return
    }
    if (known !== 'new') {
      if (known.count === 0) {
        this.#refuse(ref, 'DUPLICATE_MISMATCH', `sequence ${event.sequence} was a settle before`)
        return
      }
      const reply: Reply = { kind: 'sent', epoch: known.epoch, base: known.base, duplicate: true }
      this.#again(ref, known.base + known.count, reply)
      return
    }
    this.#append({ kind: 'batch', payloadCrc: event.crc, delays: null }, now, this.state.epoch, event, event)
    // Only now is the base known: making room for a producer may have appended an entry before the batch.
    const base = this.state.logEnd - event.count
    this.#onceCommitted(ref, { kind: 'sent', epoch: this.state.epoch, base, duplicate: false }, [
      base,
      event.count,
    ])
  }

  settle(ref: Ref, event: SettleEvent, now: Now): void {
    const requestCrc = settleCrc(event)
    const known = this.#admit(ref, event, requestCrc)
    if (known === 'refused') return
    if (known !== 'new') {
      if (known.count > 0) {
        this.#refuse(ref, 'DUPLICATE_MISMATCH', `sequence ${event.sequence} was a send before`)
        return
      }
      this.#again(ref, known.base + 1, { kind: 'settled', refused: known.refused })
      return
    }
    if (event.action === settledBy.deadLetter && this.#options.deadLetterTarget === null) {
      this.#refuse(ref, 'NO_DEAD_LETTER_QUEUE', 'this queue has no dead-letter queue')
      return
    }
    const settled: Ranges = []
    const refused: Ranges = []
    for (const item of event.items) {
      const end = item.offset + item.count
      let from = item.offset
      const taken = (start: Offset, stop: Offset): void => {
        pushRange(refused, from, start)
        pushRange(settled, start, stop)
        from = stop
      }
      this.#leases.release(item.lease, item.leaseEpoch, item.offset, end, now.monotonicMs, taken)
      pushRange(refused, from, end)
    }
    const answer: Reply = { kind: 'settled', refused: refused.length === 0 ? null : refused }
    if (settled.length === 0) {
      // A refusal appends nothing; asked again it is refused again, since a lost lease never comes back.
      this.#sink.reply(ref, answer)
      return
    }
    this.#makeRoomForRefused(refused.length, event.producerId, now)
    const { action, reason } = event
    let again: Failing = { ranges: settled, notBefore: null, moved: null }
    if (action === settledBy.nack) again = this.#failing(settled, event.delayMs, reason, this.#timeMs(now))
    else if (action === settledBy.deadLetter) {
      again = { ranges: [], notBefore: null, moved: this.#deadLetter(settled, movedBecause.rejected, reason) }
    }
    this.#append(
      {
        kind: 'settle',
        action,
        settled: again.ranges,
        refused: answer.refused,
        requestCrc,
        reason,
        notBefore: again.notBefore,
        moved: again.moved,
      },
      now,
      this.state.epoch,
      event,
    )
    this.#onceCommitted(ref, answer, action === settledBy.ack ? undefined : again.ranges)
  }

  /** What becomes of messages whose delivery fails now: most rest, and those that have failed too often are given up. */
  #failing(ranges: Ranges, delayMs: number | null, error: string | null, timeMs: number): Failing {
    const { maxDeliveries, deadLetterTarget } = this.#options
    if (maxDeliveries === null || deadLetterTarget === null) {
      return { ...this.#resting(ranges, delayMs, timeMs), moved: null }
    }
    const rest: Ranges = []
    const givenUp: Ranges = []
    for (let i = 0; i < ranges.length; i += 2) {
      this.state.live.forEachIn(ranges[i]!, ranges[i]! + ranges[i + 1]!, (from, to, delivery) => {
        pushRange(delivery >= maxDeliveries ? givenUp : rest, from, to)
      })
    }
    const moved = givenUp.length === 0 ? null : this.#deadLetter(givenUp, movedBecause.maxDeliveries, error)
    return { ...this.#resting(rest, delayMs, timeMs), moved }
  }

  #deadLetter(ranges: Ranges, why: number, error: string | null): Moved {
    const target = this.#options.deadLetterTarget?.(this.#name.partition) ?? nowhere
    return { why, target, error, ranges }
  }

  /**
   * When messages whose delivery fails now are ready again: `ranges`, cut where they have failed a different number of
   * times and so rest for different times.
   */
  #resting(
    ranges: Ranges,
    delayMs: number | null,
    timeMs: number,
  ): { ranges: Ranges; notBefore: number[] | null } {
    const { backoffMs } = this.#options
    if (delayMs !== null) {
      if (delayMs === 0) return { ranges, notBefore: null }
      return { ranges, notBefore: new Array<number>(ranges.length / 2).fill(timeMs + delayMs) }
    }
    if (backoffMs === null) return { ranges, notBefore: null }
    const cut: Ranges = []
    const notBefore: number[] = []
    for (let i = 0; i < ranges.length; i += 2) {
      this.state.live.forEachIn(ranges[i]!, ranges[i]! + ranges[i + 1]!, (from, to, failures) => {
        cut.push(from, to - from)
        notBefore.push(timeMs + backoffMs(failures))
      })
    }
    return { ranges: cut, notBefore }
  }

  /** Lets leases end `extendMs` from now. Nothing is appended: leases are memory. */
  extend(ref: Ref, items: readonly LeasedItem[], extendMs: number, now: Now): void {
    if (this.#refuseUnlessLeading(ref)) return
    const refused: Ranges = []
    for (const item of items) {
      const end = item.offset + item.count
      let from = item.offset
      const held = (start: Offset, stop: Offset): void => {
        pushRange(refused, from, start)
        from = stop
      }
      const { monotonicMs } = now
      this.#leases.extend(
        item.lease,
        item.leaseEpoch,
        item.offset,
        end,
        monotonicMs,
        monotonicMs + extendMs,
        held,
      )
      pushRange(refused, from, end)
    }
    this.#sink.reply(ref, { kind: 'settled', refused: refused.length === 0 ? null : refused })
  }

  /** The first ready run, cut to messages whose next delivery has one and the same number (`into.value`). */
  nextReady(from: Offset, into: Run): boolean {
    if (!this.leading || !this.#ready.nextRun(from, into)) return false
    const { start, end } = into
    invariant(this.state.live.nextRun(start, into) && into.start === start, 'what is ready is live')
    into.end = Math.min(into.end, end)
    return true
  }

  /**
   * Leases ready messages: what one receive takes from this partition, under one number.
   * @param ranges flat `start, end, …`, ascending, all ready
   */
  lease(ranges: readonly number[], visibilityTimeoutMs: number, now: Now): LeaseId {
    invariant(this.leading, 'only a leader leases')
    for (let i = 0; i < ranges.length; i += 2) {
      invariant(this.#ready.covers(ranges[i]!, ranges[i + 1]!), 'only what is ready is leased')
      this.#ready.delete(ranges[i]!, ranges[i + 1]!)
      this.counts.delivered += ranges[i + 1]! - ranges[i]!
    }
    return this.#leases.grant(this.state.epoch, ranges, now.monotonicMs + visibilityTimeoutMs)
  }

  /** Whether a message waits to be delivered, for nothing but a consumer. */
  isReady(offset: Offset): boolean {
    return this.#ready.has(offset)
  }

  /** Ready messages in `[start, end)` whose stored bytes do not verify: out of the way, for good, and counted. */
  quarantine(start: Offset, end: Offset, now: Now): void {
    const ranges: Ranges = []
    this.#ready.forEachIn(start, end, (from, to) => ranges.push(from, to - from))
    if (ranges.length === 0) return
    for (let i = 0; i < ranges.length; i += 2) this.#ready.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
    this.#append({ kind: 'quarantine', ranges }, now, this.state.epoch)
  }

  /**
   * Settles messages below `end` that are ready, delayed or leased, as many as one entry takes, by the leader's own decision:
   * whoever has them leased has lost them. To be called again, once that is committed, until there are none.
   * @returns how many messages
   */
  purge(end: Offset, now: Now): number {
    if (!this.leading) return 0
    const ranges: Ranges = []
    const run: Run = { start: 0, end: 0, value: 0 }
    let left = rangesPerEntryMax
    for (let from = 0; left > 0 && this.#ready.nextRun(from, run) && run.start < end; from = run.end) {
      pushRange(ranges, run.start, Math.min(run.end, end))
      left--
    }
    for (let i = 0; i < ranges.length; i += 2) this.#ready.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
    const delayed: Ranges = []
    for (let from = 0; left > 0 && this.#delayed.nextRun(from, run) && run.start < end; from = run.end) {
      delayed.push(run.start, Math.min(run.end, end) - run.start)
      // What was sent since waits on: its run may begin elsewhere now, where no timer would look for it.
      if (run.end > end) this.#wakes.push(this.state.delayed.get(end), blockOf(end))
      left--
    }
    for (let i = 0; i < delayed.length; i += 2)
      this.#delayed.delete(delayed[i]!, delayed[i]! + delayed[i + 1]!)
    ranges.push(...delayed)
    this.#leases.takeBelow(end, left, (start, stop) => pushRange(ranges, start, stop))
    if (ranges.length === 0) return 0
    this.#append({ kind: 'purge', ranges }, now, this.state.epoch)
    let messages = 0
    for (let i = 1; i < ranges.length; i += 2) messages += ranges[i]!
    return messages
  }

  /**
   * Moves ready messages to the outbox, by the leader's own decision.
   * @param ranges flat `offset, count, …`, all ready
   * @returns the position of the last one
   */
  move(ranges: Ranges, target: Target, now: Now): OutputPosition {
    invariant(this.leading, 'only a leader moves messages')
    let messages = 0
    for (let i = 0; i < ranges.length; i += 2) {
      const end = ranges[i]! + ranges[i + 1]!
      invariant(this.#ready.covers(ranges[i]!, end), 'only what is ready is moved')
      this.#ready.delete(ranges[i]!, end)
      messages += ranges[i + 1]!
    }
    const moved: Moved = { why: movedBecause.redriven, target, error: null, ranges }
    this.#append({ kind: 'move', moved }, now, this.state.epoch)
    return { epoch: this.state.epoch, offset: this.state.logEnd - 1, index: messages - 1 }
  }

  /** What is to be forwarded to `target` next, and has been committed; undefined: nothing. */
  nextOutputs(target: Target): { previous: OutputPosition; outputs: readonly Outputs[] } | undefined {
    const destination = this.state.outbox.destination(target)
    if (!this.leading || destination === undefined) return undefined
    const { pending, last } = destination
    let committed = 0
    const most = Math.min(pending.length, entriesPerForwardMax)
    while (committed < most && pending[committed]!.offset < this.#highWatermark) committed++
    return committed === 0 ? undefined : { previous: last, outputs: pending.slice(0, committed) }
  }

  /**
   * The target says that outputs up to `position` are there.
   * @returns false when it says what can't be: it knows outputs that were never issued, or not those it had confirmed
   */
  forwarded(target: Target, position: OutputPosition, now: Now): boolean {
    const destination = this.state.outbox.destination(target)
    if (!this.leading || destination === undefined) return true
    const order = comparePositions(position, destination.last)
    if (order === 0) return true
    if (order < 0 || comparePositions(position, destination.issued) > 0) return false
    this.#append({ kind: 'forwarded', target, position }, now, this.state.epoch)
    return true
  }

  /** What waits for `from`, which is not there, goes to another target or, without one, comes back. */
  redirect(from: Target, to: Target | null, now: Now): void {
    const destination = this.state.outbox.destination(from)
    if (!this.leading || destination === undefined) return
    const back: Ranges = []
    const returning = comingBack(destination, to)
    for (let i = 0; i < returning.length; i += 3) back.push(returning[i]!, returning[i + 1]!)
    this.#append({ kind: 'redirect', from, to }, now, this.state.epoch)
    this.#onceCommitted(undefined, undefined, back)
  }

  /** Messages of the outbox in `[start, end)` whose stored bytes do not verify: nobody's output any more. */
  quarantineOutputs(start: Offset, end: Offset, now: Now): void {
    const ranges: Ranges = []
    this.state.outbox.moving.forEachIn(start, end, (from, to) => ranges.push(from, to - from))
    if (ranges.length > 0) this.#append({ kind: 'quarantine', ranges }, now, this.state.epoch)
  }

  /** The queues of these sources are deleted, and forward nothing any more. */
  forget(sources: readonly ProducerId[], now: Now): void {
    if (this.state.sources.size === 0) return
    const known = sources.filter((id) => this.state.sources.has(id))
    if (this.leading && known.length > 0)
      this.#append({ kind: 'forget', sources: known }, now, this.state.epoch)
  }

  /** Takes outputs of another partition, unless they are here or others are missing before them. */
  accept(ref: Ref, event: ForwardEvent, now: Now): void {
    if (this.#admitNew(ref) === 'refused') return
    const { source, previous, position, count, crc, batch, headroom } = event
    const last = this.state.sources.get(source) ?? noPosition
    if (comparePositions(last, previous) !== 0) {
      // A copy that was late, or the source knows less than it did: it hears how far it is, once that is certain.
      this.#again(ref, this.state.logEnd, { kind: 'forwarded', position: last })
      return
    }
    const from = {
      producerId: source,
      producerEpoch: position.index,
      sequence: position.offset,
      opening: position.epoch as number,
    }
    const send: SendEvent = { ...from, count, crc, batch, headroom, ownDelays: false }
    this.#append({ kind: 'batch', payloadCrc: crc, delays: null }, now, this.state.epoch, from, send, true)
    const base = this.state.logEnd - count
    this.#onceCommitted(ref, { kind: 'forwarded', position }, [base, count])
  }

  /** What state a live, committed message is in, and up to which offset its neighbours are in it too, at least. */
  stateAt(offset: Offset): { state: 'ready' | 'delayed' | 'leased'; end: Offset } {
    const run: Run = { start: 0, end: 0, value: 0 }
    let end = Infinity
    if (this.#ready.nextRun(offset, run)) {
      if (run.start === offset) return { state: 'ready', end: run.end }
      end = run.start
    }
    if (this.#delayed.nextRun(offset, run)) {
      if (run.start === offset) return { state: 'delayed', end: run.end }
      end = Math.min(end, run.start)
    }
    return { state: 'leased', end }
  }

  /**
   * Time has passed: leases that ran out are failed deliveries, and what was delayed until now is ready. Of very many
   * only some, so that others are served in between: the rest stays due (`nextDueMs`) for the next tick. Nobody can use
   * an expired lease meanwhile; a hand-over writes it down as expired.
   */
  tick(now: Now): void {
    if (this.#mode !== 'leading') return
    const timeMs = this.#timeMs(now)
    const expired: Ranges = []
    const visit = (start: Offset, end: Offset): void => void expired.push(start, end - start)
    this.#leases.expire(now.monotonicMs, visit, duePerTurnMax)
    for (let i = 0; i < expired.length; i += 2 * rangesPerEntryMax) {
      const failed = expired.slice(i, i + 2 * rangesPerEntryMax)
      const { ranges, notBefore, moved } = this.#failing(failed, null, 'the lease expired', timeMs)
      this.#append(
        { kind: 'fail', cause: failCause.expired, ranges, notBefore, moved },
        now,
        this.state.epoch,
      )
      this.#onceCommitted(undefined, undefined, ranges)
    }
    this.#wake(timeMs)
  }

  /** What is delayed no longer is ready. */
  #wake(timeMs: number): void {
    this.#wokenMs = timeMs
    if (this.#wakes.peekDueMs() > timeMs) return
    let looked = -1
    // What is delayed until a time that has been reached and comes now is ready before what is left: it waits for nothing.
    for (let left = duePerTurnMax; left > 0; left--) {
      const block = this.#wakes.popDue(timeMs)
      if (block === -1) break
      // Timers of one block for one time come one after the other: the first has done it.
      if (block !== looked) left -= this.#wakeBlock(block, timeMs)
      looked = block
    }
    this.#sink.ready()
  }

  /** Whatever is due in the block, and what continues the last of it, is ready. @returns how many runs */
  #wakeBlock(block: number, timeMs: number): number {
    const end = (block + 1) * wakeBlockOffsets
    const due: Ranges = []
    let nextMs = Infinity
    const run: Run = { start: 0, end: 0, value: 0 }
    for (let at = block * wakeBlockOffsets; this.#delayed.nextRun(at, run) && run.start < end; at = run.end) {
      const stop = run.end
      this.state.delayed.forEachIn(run.start, Math.min(stop, end), (first, last, notBeforeMs) => {
        if (notBeforeMs <= timeMs) due.push(first, last)
        else if (notBeforeMs < nextMs) nextMs = notBeforeMs
      })
      const isLastDue = stop > end && due.at(-1) === end
      if (!isLastDue || this.state.delayed.get(end) !== this.state.delayed.get(end - 1)) continue
      this.state.delayed.nextRun(end, run)
      due[due.length - 1] = run.end = Math.min(run.end, stop)
    }
    for (let i = 0; i < due.length; i += 2) {
      this.#delayed.delete(due[i]!, due[i + 1]!)
      this.#ready.set(due[i]!, due[i + 1]!)
    }
    if (nextMs < Infinity) this.#wakes.push(nextMs, block)
    return due.length / 2
  }

  /** Committed messages, which nobody has, become ready now or when the fold says. */
  #settleDown(start: Offset, end: Offset): void {
    const { delayed } = this.state
    if (delayed.isEmpty) {
      this.#ready.set(start, end)
      return
    }
    let from = start
    let block = -1
    let blockMs = Infinity
    delayed.forEachIn(start, end, (first, stop, notBeforeMs) => {
      if (notBeforeMs <= this.#wokenMs) return
      this.#ready.set(from, first)
      // What continues a run is found with it.
      const continues = first > 0 && this.#delayed.has(first - 1) && delayed.get(first - 1) === notBeforeMs
      this.#delayed.set(first, stop)
      from = stop
      if (continues) return
      if (block !== blockOf(first)) {
        if (block !== -1) this.#wakes.push(blockMs, block)
        block = blockOf(first)
        blockMs = Infinity
      }
      if (notBeforeMs < blockMs) blockMs = notBeforeMs
    })
    if (block !== -1) this.#wakes.push(blockMs, block)
    this.#ready.set(from, end)
  }

  /** The high watermark moved: answers that waited for it go out, in log order. */
  committed(highWatermark: Offset): void {
    invariant(
      highWatermark >= this.#highWatermark && highWatermark <= this.state.logEnd,
      `watermark ${highWatermark} after ${this.#highWatermark} in a log that ends at ${this.state.logEnd}`,
    )
    this.#highWatermark = highWatermark
    let head = this.#awaitingHead
    let anyReady = false
    while (head < this.#awaiting.length && this.#awaiting[head]!.after <= highWatermark) {
      const { ref, reply, ready } = this.#awaiting[head++]!
      if (ready !== undefined) {
        for (let i = 0; i < ready.length; i += 2) this.#settleDown(ready[i]!, ready[i]! + ready[i + 1]!)
        anyReady = true
      }
      if (reply !== undefined) this.#sink.reply(ref!, reply)
    }
    this.#awaitingHead = head
    if (head === this.#awaiting.length || head > 1024) {
      this.#awaiting.splice(0, head)
      this.#awaitingHead = 0
    }
    if (anyReady || (highWatermark > this.#epochStart && !this.#announced)) {
      this.#announced = true
      this.#sink.ready()
    }
    if (!this.state.outbox.moving.isEmpty) this.#sink.outputs()
  }

  #announced = false

  /** A planned stop: writes the lease table down and serves nothing more. */
  handOver(now: Now): void {
    if (this.#mode !== 'leading') return
    this.tick(now)
    const leases = this.#leases.handOver(now.monotonicMs, now.wallMs)
    this.#append({ kind: 'leases', nextLease: this.#leases.nextLease, leases }, now, this.state.epoch)
    this.#mode = 'handedOver'
  }

  /** The queue is gone: everybody who waits is told. Appends nothing; the leader is not used again. */
  abandon(error: MqError): void {
    this.#mode = 'handedOver'
    const waiting = this.#awaiting.slice(this.#awaitingHead)
    this.#awaiting = []
    this.#awaitingHead = 0
    for (const { ref, reply } of waiting)
      if (reply !== undefined) this.#sink.reply(ref!, { kind: 'refused', error })
  }

  /**
   * Throws when a message is in more than one of ready, leased, delayed, waiting and quarantined, or in none.
   * For tests and the simulator: it costs as much as the state is large.
   */
  checkInvariants(): void {
    this.#ready.checkInvariants()
    this.state.live.checkInvariants()
    if (this.#mode === 'starting') return
    const rest = this.state.live.clone()
    const take = (what: string, start: Offset, end: Offset): void => {
      invariant(rest.covers(start, end), `${what} ${start}–${end} is not live, or in two states`)
      rest.delete(start, end)
    }
    const run: Run = { start: 0, end: 0, value: 0 }
    for (let from = 0; this.#ready.nextRun(from, run); from = run.end) take('ready', run.start, run.end)
    const wakes = new Map<number, number>()
    this.#wakes.forEach((dueMs, block) => wakes.set(block, Math.min(dueMs, wakes.get(block) ?? Infinity)))
    for (let from = 0; this.#delayed.nextRun(from, run); from = run.end) {
      const { start, end } = run
      take('delayed', start, end)
      this.state.delayed.forEachIn(start, end, (first, _stop, notBeforeMs) => {
        invariant((wakes.get(blockOf(first)) ?? Infinity) <= notBeforeMs, 'what is delayed has a timer')
      })
      invariant(this.state.delayed.covers(start, end), 'what is delayed is so by the log')
    }
    for (let from = 0; this.state.delayed.nextRun(from, run); from = run.end) {
      invariant(this.state.live.covers(run.start, run.end), 'what is delayed is live')
    }
    let leased = 0
    this.#leases.forEach((start, end) => {
      take('leased', start, end)
      leased += end - start
    })
    invariant(leased === this.#leases.messages, 'leased messages are counted')
    for (const { ready, after } of this.#awaiting.slice(this.#awaitingHead)) {
      invariant(after > this.#highWatermark, 'nothing that is due waits')
      for (let i = 0; i < (ready?.length ?? 0); i += 2)
        take('waiting', ready![i]!, ready![i]! + ready![i + 1]!)
    }
    invariant(rest.isEmpty, `messages in no state: ${String(rest.toArray())}`)
    for (let from = 0; this.state.quarantined.nextRun(from, run); from = run.end) {
      invariant(this.state.live.countIn(run.start, run.end) === 0, 'what is quarantined is not live')
    }
    for (let from = 0; this.state.outbox.moving.nextRun(from, run); from = run.end) {
      const { start, end } = run
      const isElsewhere = this.state.live.countIn(start, end) + this.state.quarantined.countIn(start, end) > 0
      invariant(!isElsewhere, 'what is in the outbox is nowhere else')
    }
    this.state.outbox.checkInvariants()
    invariant(this.#highWatermark <= this.state.logEnd, 'the watermark is within the log')
  }

  /**
   * Is this request new, one whose outcome is known, or one to refuse (and refused by now)? What the fold knows holds
   * whether or not this leader still serves, or serves yet: who asks again for something that was done is never told
   * that it was refused.
   */
  #admit(ref: Ref, event: Sequenced, crc: number): 'new' | 'refused' | Outcome {
    if (this.#mode === 'starting') {
      this.#refuseUnlessLeading(ref)
      return 'refused'
    }
    if (event.producerEpoch > producerEpochMax) {
      return this.#refuse(ref, 'INVALID_FIELD', `a producer epoch is at most ${producerEpochMax}`)
    }
    const producer = this.state.producers.get(event.producerId)
    if (producer === undefined || event.producerEpoch > producer.epoch) {
      if (this.#refuseUnlessLeading(ref)) return 'refused'
      // Opened in a part of the log that a crash took, or nowhere: remembered, it would lift the floor above the log.
      if (event.opening > this.state.logEnd) {
        return this.#refuse(
          ref,
          'UNKNOWN_PRODUCER',
          'this producer opened beyond the end of the log',
          'unknown',
        )
      }
      if (producer === undefined && event.opening < this.state.floor) {
        return this.#refuse(ref, 'UNKNOWN_PRODUCER', 'this producer was forgotten', 'unknown')
      }
      return this.#admitNew(ref)
    }
    if (event.producerEpoch < producer.epoch) {
      const message = `producer epoch ${event.producerEpoch} is older than ${producer.epoch}`
      return this.#refuse(ref, 'PRODUCER_FENCED', message, 'unknown')
    }
    const { outcomes } = producer
    const last = outcomes.at(-1)
    if (last === undefined || event.sequence > last.sequence) return this.#admitNew(ref)
    for (let i = outcomes.length - 1; i >= 0; i--) {
      const outcome = outcomes[i]!
      if (outcome.sequence > event.sequence) continue
      if (outcome.sequence < event.sequence) break
      return outcome.crc === crc
        ? outcome
        : this.#refuse(ref, 'DUPLICATE_MISMATCH', `sequence ${event.sequence} came before with other bytes`)
    }
    if (event.sequence < outcomes[0]!.sequence && outcomes.length >= limits.unansweredMax) {
      return this.#refuse(
        ref,
        'OUT_OF_ORDER_SEQUENCE',
        `sequence ${event.sequence} lies below the window`,
        'unknown',
      )
    }
    return this.#refuse(
      ref,
      'REFUSED_BEFORE',
      `sequence ${event.sequence} was not accepted when it first came`,
    )
  }

  #admitNew(ref: Ref): 'new' | 'refused' {
    if (this.#refuseUnlessLeading(ref)) return 'refused'
    if (this.#waiting < this.#options.awaitingMax) return 'new'
    return this.#refuse(ref, 'THROTTLED', 'too many requests wait for the disk')
  }

  #refuseUnlessLeading(ref: Ref): boolean {
    if (this.leading) return false
    this.#refuse(
      ref,
      'STOPPING',
      this.#mode === 'handedOver' ? 'the broker is stopping' : 'the partition is starting',
    )
    return true
  }

  #refuse(ref: Ref, code: MqErrorCode, message: string, outcome: 'failed' | 'unknown' = 'failed'): 'refused' {
    this.#sink.reply(ref, { kind: 'refused', error: new MqError(code, message, { outcome }) })
    return 'refused'
  }

  #append(
    body: EntryBody,
    now: Now,
    epoch: Epoch,
    from?: Sequenced,
    batch?: SendEvent,
    isForwarded = false,
  ): void {
    const { state } = this
    if (from !== undefined && !isForwarded && !state.producers.has(from.producerId))
      this.#makeRoomForProducer(now)
    const header: EntryHeader = {
      kind: body.kind,
      count: batch?.count ?? 1,
      base: state.logEnd,
      epoch,
      timeMs: this.#timeMs(now),
      producerId: from?.producerId ?? noProducer,
      producerEpoch: from?.producerEpoch ?? 0,
      sequence: from?.sequence ?? 0,
      opening: from?.opening ?? 0,
      notBeforeMs: 0,
      ownDelays: false,
      isForwarded,
    }
    let entry: Buffer
    if (body.kind === 'batch') {
      invariant(batch !== undefined, 'a batch entry needs its batch')
      const { delayMs } = this.#options
      if (delayMs > 0) header.notBeforeMs = header.timeMs + delayMs
      if (batch.ownDelays) {
        header.ownDelays = true
        body.delays = delaysOf(batch.batch, header)
      }
      entry = encodeEntry(this.#name, header, batch.batch, batch.crc, state.chain, batch.headroom)
    } else {
      const payload = encodeBody(body)
      entry = encodeEntry(this.#name, header, payload, crc32(payload), state.chain)
    }
    // The entry's own copy of the chain may be read back from a buffer that storage recycles: keep eight bytes.
    state.apply(header, body, Uint8Array.prototype.slice.call(entry, 4, 12))
    this.counts.entry(body, header.count)
    this.#sink.append(entry, header.base, header.base + header.count)
  }

  #makeRoomForProducer(now: Now): void {
    const { producers } = this.state
    if (producers.size < this.#options.producersMax) return
    this.#evict([...producers].sort(byUse).slice(0, Math.max(1, producers.size >> 2)), now)
  }

  /**
   * What settles could not settle is remembered for their retries, and a client decides how much that is. The longest
   * unused producers that have any are forgotten for it; never the one that asks, whose own share is bounded.
   */
  #makeRoomForRefused(numbers: number, by: ProducerId, now: Now): void {
    let excess = this.state.refusedNumbers + numbers - this.#options.refusedNumbersMax
    if (numbers === 0 || excess <= 0) return
    const evicted: Producer[] = []
    for (const [id, producer] of [...this.state.producers].sort(byUse)) {
      if (excess <= 0) break
      const held = refusedNumbersOf(producer.outcomes)
      if (id === by || held === 0) continue
      evicted.push([id, producer])
      excess -= held
    }
    if (evicted.length > 0) this.#evict(evicted, now)
  }

  #evict(evicted: readonly Producer[], now: Now): void {
    const floor = 1 + Math.max(...evicted.map(([, p]) => p.opening))
    this.#append({ kind: 'evict', floor, producers: evicted.map(([id]) => id) }, now, this.state.epoch)
  }

  /** Answers a retry with what it was answered first, once that is committed. */
  #again(ref: Ref, after: Offset, reply: Reply): void {
    const due = Math.max(after, this.#lastAfter())
    // While nothing is committed, repetitions of one request would pile up without end. They have a share of their own:
    // what was taken before has its answer when nothing new is taken any more.
    if (due > this.#highWatermark && this.#waiting >= 2 * this.#options.awaitingMax) {
      this.#refuse(ref, 'THROTTLED', 'too many requests wait for the disk')
      return
    }
    this.#push({ after: due, ref, reply, ready: undefined })
  }

  /** Effects that wait for the watermark. */
  get #waiting(): number {
    return this.#awaiting.length - this.#awaitingHead
  }

  #onceCommitted(ref: Ref | undefined, reply: Reply | undefined, ready: Ranges | undefined): void {
    this.#push({ after: this.state.logEnd, ref, reply, ready })
  }

  #lastAfter(): Offset {
    return this.#awaiting.length > this.#awaitingHead ? this.#awaiting.at(-1)!.after : 0
  }

  #push(effect: Awaiting<Ref>): void {
    invariant(effect.after >= this.#lastAfter(), 'effects wait in log order')
    if (effect.after <= this.#highWatermark && this.#awaiting.length === this.#awaitingHead) {
      if (effect.reply !== undefined) this.#sink.reply(effect.ref!, effect.reply)
      invariant(effect.ready === undefined, 'what becomes ready follows an entry')
      return
    }
    this.#awaiting.push(effect)
  }
}

/** Failed messages: those that are ready again, some time, and those that leave. */
interface Failing {
  ranges: Ranges
  notBefore: number[] | null
  moved: Moved | null
}

type Producer = readonly [ProducerId, ProducerState]

function blockOf(offset: Offset): number {
  return Math.floor(offset / wakeBlockOffsets)
}

function byUse([, a]: Producer, [, b]: Producer): number {
  return a.lastUsedMs - b.lastUsedMs
}

function settleCrc(event: SettleEvent): number {
  const { action, items, delayMs, reason } = event
  return crc32(pack([action, items.map((i) => [i.leaseEpoch, i.lease, i.offset, i.count]), delayMs, reason]))
}

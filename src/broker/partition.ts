/** Joins one partition's pure leader to its log, its timer and the queue that waits for messages. */
import type { Clock, Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import { CorruptEntry, logName, type Entry } from '../partition/entry.ts'
import { PartitionState } from '../partition/fold.ts'
import { Leader, type LeaderOptions, type LeaderSink, type Now, type Reply } from '../partition/leader.ts'
import type { Run } from '../partition/range-map.ts'
import type { CheckpointWriter } from '../storage/checkpoint-writer.ts'
import type { SharedLog } from '../storage/log.ts'
import type { PartitionLog } from '../storage/partition-log.ts'
import type { Epoch, Offset, PartitionId, ProducerId, QueueId } from '../types.ts'
import type { Checkpointed, Checkpoints } from './checkpoints.ts'
import { Forwarder, type ForwarderContext } from './forwarder.ts'
import type { Logger } from './logger.ts'

/** Where one request's answer goes. */
export interface ReplyTo {
  answer(reply: Reply): void
}

export class Partition implements LeaderSink<ReplyTo>, Checkpointed {
  readonly id: PartitionId
  readonly #queueName: string
  readonly #context: PartitionContext
  /** Made when there is something to forward: most partitions never have anything. */
  #forwarder: Forwarder | null = null
  readonly leader: Leader<ReplyTo>
  /** Why this partition serves nothing, if so: its log could not be read. */
  readonly halted: MqError | null
  readonly #log: PartitionLog
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #onReady: () => void
  readonly #now: Now = { wallMs: 0, monotonicMs: 0 }
  #timer: Timer | null = null
  #armedMs = Infinity
  #checkpointed: Offset
  /** One is to be written although nothing has changed. */
  #isCheckpointAsked = false
  #open = true
  /** The entry of the oldest message, as it was last looked up. */
  #oldest = { base: 0, end: 0, timeMs: 0 }

  private constructor(
    queueName: string,
    id: PartitionId,
    log: PartitionLog,
    state: PartitionState,
    halted: MqError | null,
    context: PartitionContext,
    options: LeaderOptions,
    onReady: () => void,
  ) {
    this.#queueName = queueName
    this.#context = context
    this.id = id
    this.halted = halted
    this.#log = log
    this.#clock = context.clock
    this.#logger = context.logger
    this.#onReady = onReady
    this.#checkpointed = state.logEnd
    this.leader = new Leader(log.name, state, this, options)
    log.nextHeld = (from, into) => this.#nextHeld(from, into)
    log.askCheckpoint = () => {
      this.#isCheckpointAsked = true
      this.checkpoint()
    }
    log.recheck = (segment, from, end) => this.#recheck(segment, from, end)
    context.attach(log)
    log.onDurable = (end) => {
      this.leader.committed(end)
      // What was committed may be ready in a while.
      this.arm()
    }
  }

  /**
   * Reads what the log has and begins `epoch`; serves once the log has been flushed.
   * @param isNew the queue was never there: nor can anything be in the log
   */
  static start(
    { id: queueId, name: queueName }: { readonly id: QueueId; readonly name: string },
    id: PartitionId,
    epoch: Epoch,
    shared: SharedLog,
    context: PartitionContext,
    options: LeaderOptions,
    onReady: () => void,
    isNew: boolean,
  ): Partition {
    const name = logName(queueId, id)
    try {
      const { log, state, rotten, entriesRead } = shared.recover(name, isNew)
      if (entriesRead > 0) context.recovered(entriesRead)
      const partition = new Partition(queueName, id, log, state, null, context, options, onReady)
      const quarantinedBefore = state.quarantined.size
      partition.leader.start(epoch, partition.now(), rotten)
      const messages = state.quarantined.size - quarantinedBefore
      if (messages > 0) {
        const fields = { queueId, partition: id, messages }
        context.logger.error(fields, 'messages quarantined: their stored bytes do not verify')
      }
      return partition
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      // One bad log must not take the others down; and going on without its entries would be to lie.
      const halted = new MqError(
        'CORRUPT_LOG',
        `partition ${id} of queue ${queueId} is halted: ${error.message}`,
      )
      context.logger.error(
        { queueId, partition: id, reason: error.message },
        'partition halted: its log cannot be read',
      )
      const log = shared.unreadable(name)
      return new Partition(queueName, id, log, new PartitionState(), halted, context, options, onReady)
    }
  }

  get queueId(): QueueId {
    return this.#log.name.queueId
  }

  /** What its outbox holds is forwarded by this. */
  get forwarder(): Forwarder {
    this.#forwarder ??= new Forwarder(this, this.#queueName, this.#context.forwarding)
    return this.#forwarder
  }

  /** The present moment. One object, reused: the leader keeps none. */
  now(): Now {
    this.#now.wallMs = this.#clock.nowMs()
    this.#now.monotonicMs = this.#clock.monotonicMs()
    return this.#now
  }

  append(entry: Uint8Array, base: Offset, next: Offset): void {
    this.#log.append(entry, base, next)
  }

  reply(to: ReplyTo, reply: Reply): void {
    if (this.#open) to.answer(reply)
  }

  ready(): void {
    this.arm()
    if (this.#open) this.#onReady()
  }

  outputs(): void {
    if (this.#open) this.forwarder.wake()
  }

  /** A queue is deleted: its outputs come no more, and none go to it. */
  queueDeleted(queueId: QueueId, sources: readonly ProducerId[]): void {
    if (this.halted !== null || !this.#open) return
    const { leader } = this
    leader.forget(sources, this.now())
    for (const { target, pending } of [...leader.state.outbox.destinations.values()]) {
      // What still waits for it is redirected by whoever forwards it.
      if (target.queueId === queueId && pending.length === 0) leader.redirect(target, null, this.now())
    }
  }

  /** Leases `ranges` (flat `start, end, …`). @returns the lease's number */
  lease(ranges: readonly number[], visibilityTimeoutMs: number): number {
    const lease = this.leader.lease(ranges, visibilityTimeoutMs, this.now())
    this.arm()
    return lease
  }

  /** The entry that holds a ready offset; null when it has rotted, and is out of the way now. */
  read(offset: Offset): Entry | null {
    try {
      const entry = this.#log.read(offset)
      if (entry.kind === 'batch') return entry
      throw new CorruptEntry(`the entry at offset ${offset} is a ${entry.kind}, not a batch`)
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      this.#quarantine(offset, error)
      return null
    }
  }

  /** @returns the end of what can't be read */
  #quarantine(offset: Offset, { message: reason }: CorruptEntry): Offset {
    const end = this.#log.recordEnd(offset)
    this.#logger.error(
      { queueId: this.#log.name.queueId, partition: this.id, offset, end, reason },
      'messages quarantined: their stored bytes do not verify',
    )
    this.leader.quarantine(offset, end, this.now())
    return end
  }

  /**
   * Rot was seen among messages of `[from, end)`: those that wait to be delivered are quarantined now, if a reader would
   * not get them. Leased and delayed ones are when they become ready. What one look does not come to, a reader will.
   */
  #recheck(segment: string, from: Offset, end: Offset): void {
    if (!this.#open || this.halted !== null) return
    const run: Run = { start: 0, end: 0, value: 0 }
    let bytes = 0
    for (
      let at = from;
      bytes < recheckBytesMax && this.#log.nextHeldIn(segment, at, run) && run.start < end;
    ) {
      at = Math.max(at, run.start)
      try {
        const entry = this.#log.look(at)
        bytes += entry.bytes.length
        at = entry.base + entry.count
      } catch (error) {
        if (!(error instanceof CorruptEntry)) throw error
        at = this.leader.isReady(at) ? this.#quarantine(at, error) : Math.max(at + 1, this.#log.recordEnd(at))
      }
    }
  }

  /** The batch that holds a live offset, for whoever only looks; null and the end of what cannot be read. */
  look(offset: Offset): { entry: Entry | null; end: Offset } {
    try {
      const entry = this.#log.look(offset)
      return { entry, end: entry.base + entry.count }
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      return { entry: null, end: this.#log.recordEnd(offset) }
    }
  }

  /** When the oldest message that is not settled was sent, in ms since 1970; null when there is none. */
  oldestMs(): number | null {
    const { live, timeMs } = this.leader.state
    if (live.isEmpty) return null
    const offset = live.firstStart()
    // On its way to the disk: of this moment.
    if (offset >= this.#log.durableEnd) return timeMs
    if (offset < this.#oldest.base || offset >= this.#oldest.end) {
      try {
        this.#oldest = this.#log.headerAt(offset)
      } catch (error) {
        // Whoever is to be given the message will find it out, and quarantine it.
        if (!(error instanceof CorruptEntry)) throw error
        return timeMs
      }
    }
    return this.#oldest.timeMs
  }

  /** Adds the names of the segments that hold messages which are not settled. */
  liveSegments(into: Set<string>): void {
    const run: Run = { start: 0, end: 0, value: 0 }
    for (const { segment } of [...this.#log.extents, ...this.#log.copies]) {
      if (this.#log.nextHeldIn(segment.name, 0, run)) into.add(segment.name)
    }
  }

  /** The first run of messages at or after `from` that are still to be delivered, or forwarded. */
  #nextHeld(from: Offset, into: Run): boolean {
    const { live, outbox } = this.leader.state
    if (outbox.moving.isEmpty || !outbox.moving.nextRun(from, into)) return live.nextRun(from, into)
    const { start, end } = into
    if (live.nextRun(from, into) && into.start < start) return true
    into.start = start
    into.end = end
    return true
  }

  /** The fold is stored soon, if it has changed since it was stored last. */
  checkpoint(): void {
    if (this.#open && this.halted === null) this.#context.checkpoints.want(this)
  }

  beginCheckpoint(): CheckpointWriter | null {
    const { state } = this.leader
    if (!this.#isCheckpointAsked && state.logEnd === this.#checkpointed) return null
    this.#isCheckpointAsked = false
    this.#checkpointed = state.logEnd
    return this.#log.beginCheckpoint(state)
  }

  /** A planned stop: leases are written down, nothing more is served. Done once the log has been flushed. */
  handOver(): void {
    this.#disarm()
    this.#forwarder?.close()
    if (this.halted === null) this.leader.handOver(this.now())
  }

  /** Serves no more, whatever is on its way; `reason` is what waiting requests hear, if anything. */
  close(reason?: MqError): void {
    if (!this.#open) return
    this.#disarm()
    this.#forwarder?.close(reason)
    this.#context.checkpoints.forget(this)
    this.#context.detach(this.#log)
    this.#log.onDurable = () => undefined
    this.#log.cached.close()
    if (reason !== undefined) this.leader.abandon(reason)
    this.#open = false
  }

  /** Sees that the timer runs by the next expiry, which a lease or an extension may have brought nearer. */
  arm(): void {
    let dueMs = this.leader.nextDueMs
    if (dueMs >= this.#armedMs || !this.#open) return
    // Delays end by the wall clock, which may be set forward meanwhile; and may be longer than a timer can count.
    if (this.leader.delayedCount > 0) dueMs = Math.min(dueMs, this.#clock.monotonicMs() + recheckMs)
    if (dueMs >= this.#armedMs) return
    this.#timer?.cancel()
    this.#armedMs = dueMs
    this.#timer = this.#clock.after(Math.max(0, dueMs - this.#clock.monotonicMs()), () => {
      this.#timer = null
      this.#armedMs = Infinity
      this.leader.tick(this.now())
      this.arm()
    })
  }

  #disarm(): void {
    this.#timer?.cancel()
    this.#timer = null
    this.#armedMs = Infinity
  }
}

/** What is read in one turn because something has rotted. */
const recheckBytesMax = 4 << 20

/** While messages are delayed, the wall clock is looked at this often. */
const recheckMs = 60_000

/** What partitions share. */
export interface PartitionContext {
  readonly clock: Clock
  readonly logger: Logger
  readonly forwarding: ForwarderContext
  readonly checkpoints: Checkpoints
  /** Counts log entries that a start had to read. */
  recovered(entries: number): void
  /** What this log needs of the disk is to be kept. */
  attach(log: PartitionLog): void
  detach(log: PartitionLog): void
}

/**
 * The log of every partition of this process, over numbered segments that they share.
 *
 *   append → queue → one commit of everything queued (≤ `commitBytesMax`) → on disk → each partition's `durable`
 *
 * One commit is under way at a time, and what comes meanwhile is the next group: an idle broker commits at the end
 * of the turn, a busy one in groups as large as the disk is slow. Whatever is told as durable was: the promise of a
 * commit resolves after its sync. A failed commit is never told as anything; the process stops.
 */
import type { Clock, Put, Random, Segment, Store, Timer } from '../env.ts'
import { invariant, type MqError } from '../errors.ts'
import { nextChain } from '../partition/chain.ts'
import {
  CorruptEntry,
  decodeHeader,
  entryLength,
  payloadVerifies,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import { decodeCheckpoint } from '../partition/checkpoint.ts'
import { PartitionState } from '../partition/fold.ts'
import { decodeBody, type Ranges } from '../partition/payload.ts'
import type { Offset } from '../types.ts'
import { asStorageError, isDiskFull, watchdog } from './disk-failure.ts'
import { EntryCache } from './entry-cache.ts'
import type { Journal } from './journal.ts'
import { JournaledSegment } from './journaled-segment.ts'
import { journalId, nextName, openSegments, type OpenedSegments } from './open-segments.ts'
import { checkpointBody } from './checkpoint-writer.ts'
import { asBuffer, copyPrefix, PartitionLog, reading, type Queued } from './partition-log.ts'

export interface LogOptions {
  /** Size at which the log rolls on to the next segment, in bytes. */
  segmentBytes: number
  /** A commit takes this many bytes of what is queued, and always one entry. */
  commitBytesMax: number
  /** How long the journal is when it is made, in bytes, whole blocks of 4096, at least twice what a group takes; 0: none. */
  journalBytes: number
  /** A commit of up to this many bytes goes to the journal; 0: none does. */
  journaledBytesMax: number
  /** How long after a commit what the journal has moves to its segment, in milliseconds, when no other commit comes. */
  moveAfterMs: number
  /** Queued and committing bytes above which `backlogged` is true: whoever feeds the log stops reading. */
  queuedBytesMax: number
  /**
   * Room that is kept on the disk, in bytes: when the disk is full, what was taken and what settles goes there. Sends are
   * refused until there is as much again. 0: none.
   */
  reserveBytes: number
  /** How long a full disk is left alone before the commit is tried again, in milliseconds. */
  fullRetryMs: number
  /** A commit that takes longer has failed, as far as anybody can tell, in milliseconds. */
  commitTimeoutMs: number
  /** Memory for the entries that were committed or read last, of all partitions together; 0: none. */
  cacheBytes: number
  /** How often closed segments are looked at, whether they can go, in milliseconds. */
  retentionMs: number
  /** How long a segment is kept for a few messages in it before those are copied, in milliseconds. */
  copyAfterMs: number
  /** What is encoded of checkpoints in one turn, in bytes, a piece more perhaps; others are served in between. */
  checkpointBytesPerTurn: number
  /** What is read of closed segments to find rot early, in bytes a second, at most; 0: nothing is. */
  verifyBytesPerSecond: number
  /** How long after a closed segment was read whole it is read again, in milliseconds. */
  verifyEveryMs: number
}

export const logDefaults: LogOptions = {
  segmentBytes: 64 << 20,
  commitBytesMax: 2 << 20,
  journalBytes: 4 << 20,
  journaledBytesMax: 64 << 10,
  moveAfterMs: 1000,
  queuedBytesMax: 32 << 20,
  // All that may be queued, and as much for settles.
  reserveBytes: 64 << 20,
  fullRetryMs: 500,
  commitTimeoutMs: 60_000,
  cacheBytes: 32 << 20,
  retentionMs: 1000,
  copyAfterMs: 30_000,
  checkpointBytesPerTurn: 512 << 10,
  verifyBytesPerSecond: 8 << 20,
  verifyEveryMs: 24 * 3_600_000,
}

export interface LogEvents {
  /** The disk failed: nothing may be told any more. Called once. */
  failed(error: MqError): void
  /** The log goes on in another segment: the time for checkpoints. */
  rolled(): void
  /** No longer backlogged. */
  relieved(): void
  /** The disk is full (true), or there is room again (false): what could wait should. */
  full(isFull: boolean): void
  /** Not even what was reserved is left: a commit waits for room. */
  blocked?(): void
  /** A group was committed, for which the disk took `tookMs`. */
  committed?(tookMs: number, puts: readonly Put[]): void
  /** A segment that nobody needed is gone. */
  removed?(name: string): void
  /** The last segment is damaged, and never written to again: the log goes on in another. */
  damaged?(name: string, what: string): void
}

/** What a start finds of one partition. */
export interface Recovered {
  readonly log: PartitionLog
  /** The fold of all entries. */
  readonly state: PartitionState
  /** Batches in it whose messages can't be read any more. */
  readonly rotten: Ranges
  readonly entriesRead: number
}

/** The newest that can be read. */
interface FoundCheckpoint {
  readonly state: PartitionState
  readonly firstSegment: string
  /** Null: there is none, and the state is that of an empty log. */
  readonly segment: string | null
  readonly bytes: number
  /** The newest that can't be read, if that is, or may be, newer. */
  readonly unreadable: { readonly segment: string; readonly why: string } | null
}

/** Entries below this size share a record with their neighbours in a commit. */
const smallEntryBytes = 4096
const recordBytesMax = 64 << 10

export class SharedLog {
  readonly cache: EntryCache
  readonly #store: Store
  readonly #clock: Clock
  readonly #random: Random
  readonly #options: LogOptions
  readonly #events: LogEvents
  readonly #segments: Segment[]
  /** The last of them. */
  #current: JournaledSegment
  readonly #journal: Journal | null
  /** Those whose messages and checkpoints are to be kept. */
  readonly #partitions = new Set<PartitionLog>()
  /** Segments that had copies when they were opened. */
  readonly #withCopies = new Set<Segment>()
  #next: Promise<Segment> | null = null
  #queue: Queued[] = []
  #queuedBytes = 0
  #mode: 'idle' | 'scheduled' | 'committing' | 'failed' | 'closed' = 'idle'
  #full = false
  #hasReserve = false
  #reservesGiven = 0
  #isRollWanted = false
  /** A commit waits for room. */
  #isBlocked = false
  /** Moves what is in the journal. */
  #moving: Timer | null = null
  /** Ends once there is a reserve again, or the log is at its end. */
  #reserving: Promise<void> = Promise.resolve()
  #wasBacklogged = false
  #commits = 0
  /** Appended so far, and how much of it is on disk. */
  #appended = 0
  #durable = 0
  /** The last removal of a segment, and its sealing. */
  #removing: Promise<void> = Promise.resolve()
  #sealing: Promise<void> = Promise.resolve()
  /** Resolved once `#durable` ≥ `after`, which never decreases along the list. */
  #flushing: { after: number; orFull: boolean; resolve: () => void }[] = []

  private constructor(
    store: Store,
    clock: Clock,
    random: Random,
    { closed, current, next, journal }: OpenedSegments,
    options: LogOptions,
    events: LogEvents,
  ) {
    this.#store = store
    this.#clock = clock
    this.#random = random
    this.#segments = [...closed, current]
    this.#current = current
    current.onMove = (move) => void this.#watchMove(move)
    this.#next = next === null ? null : Promise.resolve(next)
    this.#journal = journal
    for (const segment of this.#segments) {
      const found = (): boolean => {
        this.#withCopies.add(segment)
        return false
      }
      segment.scan(Uint8Array.of(copyPrefix), Uint8Array.of(copyPrefix + 1), found, found)
    }
    this.#options = options
    this.#events = events
    this.cache = new EntryCache(options.cacheBytes, clock)
  }

  /** Opens the segments of a locked store, and the first one where there is none. */
  static async open(
    store: Store,
    clock: Clock,
    random: Random,
    options: LogOptions,
    events: LogEvents,
  ): Promise<SharedLog> {
    const damaged = (name: string, what: string): void => events.damaged?.(name, what)
    const opened = await openSegments(store, { ...options, random, damaged })
    const log = new SharedLog(store, clock, random, opened, options, events)
    log.#moveSoon()
    if (options.reserveBytes > 0) {
      await log.#takeReserve()
      if (!log.#hasReserve) log.#reserving = log.#reserve()
    }
    return log
  }

  /** Commits that reached the disk. */
  get commits(): number {
    return this.#commits
  }

  get segmentCount(): number {
    return this.#segments.length
  }

  /** The segments there are, oldest first, with the bytes in use in each. */
  get segments(): readonly { readonly name: string; readonly usedBytes: number }[] {
    return this.#segments
  }

  /** Those that nothing is written to any more, oldest first: sealed. */
  get closedSegments(): readonly Segment[] {
    return this.#segments.slice(0, -1)
  }

  get partitions(): Iterable<PartitionLog> {
    return this.#partitions
  }

  /** Undefined: there is none, or its queue is deleted. Looks at all of them. */
  partitionOf(name: LogName): PartitionLog | undefined {
    for (const log of this.#partitions) if (Buffer.compare(log.name.bytes, name.bytes) === 0) return log
    return undefined
  }

  /** Entries and checkpoints so far. */
  get appended(): number {
    return this.#appended
  }

  get backlogged(): boolean {
    return this.#queuedBytes > this.#options.queuedBytesMax
  }

  get isFull(): boolean {
    return this.#full
  }

  /** Not even what was reserved is left. */
  get isBlocked(): boolean {
    return this.#isBlocked
  }

  /** How often the reserve was given for what must go on. */
  get reservesGiven(): number {
    return this.#reservesGiven
  }

  /**
   * One partition's part of it, with the fold of what is there.
   *
   * Of what can't be read nobody knows whether it was there. So each such place is a doubt, and what ends it is an entry
   * that follows, by its offset and its chain, all that was read. A doubt that is left at the end may be the newest
   * settles: then the fold can't be known.
   * @param isNew nothing of it can be there: no doubt, wherever something can't be read
   * @throws CorruptEntry when the fold can't be known
   */
  recover(name: LogName, isNew = false): Recovered {
    const log = new PartitionLog(name, this)
    if (isNew) return { log, state: new PartitionState(), rotten: [], entriesRead: 0 }
    const checkpoint = this.#newestCheckpoint(log)
    const { state, firstSegment } = checkpoint
    const rotten: Ranges = []
    let entriesRead = 0
    let doubt: string | null = null
    let lastEntryIn = ''
    for (const segment of this.#segments) {
      if (this.#withCopies.has(segment)) log.findCopies(segment)
      const { base: first, damage } = log.first(segment)
      if (first === undefined) {
        if (damage !== null && segment.name >= firstSegment) doubt ??= damage.what
        continue
      }
      log.extents.push({ segment, first })
      if (segment.name < firstSegment) continue
      const visit = (_key: Uint8Array, value: Uint8Array): boolean => {
        const record = asBuffer(value)
        for (let at = 0; at < record.length; at += entryLength(record, at)) {
          const entry = decodeHeader(name, record, at)
          if (!foldNext(state, entry)) rotten.push(entry.base, entry.count)
          entriesRead++
          doubt = null
          lastEntryIn = segment.name
        }
        return true
      }
      segment.scan(log.key(state.logEnd), log.endKey, visit, ({ what }) => (doubt ??= what))
    }
    doubt ??= this.#doubtOf(checkpoint, lastEntryIn)
    if (doubt !== null) throw new CorruptEntry(`what follows offset ${state.logEnd} may be lost: ${doubt}`)
    log.durableEnd = log.told = state.logEnd
    if (checkpoint.segment !== null) {
      // All of them, as far as anybody has looked; the next checkpoint will know better.
      const holds = [...log.extents, ...log.copies].map(({ segment }) => segment.name)
      log.checkpointed = { segment: checkpoint.segment, from: firstSegment, holds, bytes: checkpoint.bytes }
    }
    return { log, state, rotten, entriesRead }
  }

  /**
   * A checkpoint that can't be read costs only time, if the one before it and a longer tail say the same. They do if the
   * tail reaches that far, or if no segment between them is gone; else they say what was true long ago.
   */
  #doubtOf({ firstSegment, unreadable }: FoundCheckpoint, lastEntryIn: string): string | null {
    if (unreadable === null || lastEntryIn >= unreadable.segment) return null
    const between = this.#segments.filter(({ name }) => firstSegment <= name && name <= unreadable.segment)
    const isWhole = between.length === Number(unreadable.segment) - Math.max(1, Number(firstSegment)) + 1
    return isWhole ? null : unreadable.why
  }

  /** What this partition needs is kept from now on. */
  attach(log: PartitionLog): void {
    this.#partitions.add(log)
  }

  /** Its queue is deleted: nothing of it is needed any more. */
  detach(log: PartitionLog): void {
    this.#partitions.delete(log)
  }

  /** A partition whose log can't be read: all that there is of it is kept, for whoever can tell what happened. */
  unreadable(name: LogName): PartitionLog {
    const log = new PartitionLog(name, this)
    const kept = this.#segments.filter((segment) => log.isIn(segment))
    log.kept = new Set(kept.map((segment) => segment.name))
    return log
  }

  /**
   * Removes a closed segment that nobody needs. Resolves once it is gone, or the disk has failed, or the log was closed
   * before.
   */
  async remove(name: string): Promise<void> {
    const i = this.#segments.findIndex((segment) => segment.name === name)
    invariant(i >= 0 && i < this.#segments.length - 1, `segment ${name} is not a closed one`)
    for (const log of this.#partitions) {
      invariant(log.needs(name) === 'nothing', `segment ${name} is needed`)
      log.forget(name)
    }
    const [segment] = this.#segments.splice(i, 1)
    const removed = this.#removeSegment(segment!)
    this.#removing = removed
    await removed
  }

  async #removeSegment(segment: Segment): Promise<void> {
    const watchdog = this.#watchdog('removing a segment')
    try {
      await segment.close()
      await this.#store.remove(segment.name)
      this.#events.removed?.(segment.name)
    } catch (error) {
      this.#fail(asStorageError('removing a segment', error))
    } finally {
      watchdog.cancel()
    }
  }

  #newestCheckpoint(log: PartitionLog): FoundCheckpoint {
    let unreadable: FoundCheckpoint['unreadable'] = null
    for (let i = this.#segments.length - 1; i >= 0; i--) {
      const segment = this.#segments[i]!
      const { name } = segment
      try {
        const value = reading(() => segment.get(log.checkpointKey))
        if (value === undefined) continue
        const body = checkpointBody(log.name, value)
        if (body === null) throw new CorruptEntry(`the checkpoint in segment ${name} has rotted`)
        return { ...decodeCheckpoint(body), segment: name, bytes: 4 + body.length, unreadable }
      } catch (error) {
        if (!(error instanceof CorruptEntry)) throw error
        unreadable ??= { segment: name, why: error.message }
      }
    }
    return { state: new PartitionState(), firstSegment: '', segment: null, bytes: 0, unreadable }
  }

  /** @internal for PartitionLog */
  enqueue(queued: Queued): void {
    this.#appended++
    if (this.#mode === 'failed' || this.#mode === 'closed') return
    this.#queue.push(queued)
    this.#queuedBytes += queued.bytes.length
    if (this.backlogged) this.#wasBacklogged = true
    if (this.#mode === 'idle') {
      this.#mode = 'scheduled'
      this.#clock.soon(() => {
        if (this.#mode !== 'scheduled') return
        this.#mode = 'committing'
        void this.#commitAll()
      })
    }
  }

  /** The segment in which what is appended from now on will be, or a later one. */
  get currentSegment(): string {
    return this.#segments.at(-1)!.name
  }

  /** Goes on in another segment after the next commit, so that this one can be given back. */
  rollEarly(): void {
    this.#isRollWanted = true
  }

  /**
   * Resolves once all that was appended before is on disk, whatever comes after it; never, if the disk failed.
   * @param orFull or once the disk is full, and that may take until somebody makes room
   */
  flushed(orFull = false): Promise<void> {
    if (this.#durable === this.#appended || (orFull && this.#full)) return Promise.resolve()
    return new Promise((resolve) => this.#flushing.push({ after: this.#appended, orFull, resolve }))
  }

  /**
   * For a stop: nothing stays in the journal, so that whoever looks at the segments alone finds all there is; on a full disk
   * it stays where it is. Between commits, and nothing is appended meanwhile.
   */
  async emptyJournal(): Promise<void> {
    if (this.#mode !== 'idle' || this.#journal === null) return
    // So at the next start it has nothing, whatever can be read of the segment.
    await this.#move(() => this.#journal!.renew(journalId(this.#random)))
  }

  /**
   * What is in the journal alone and rots there before anything follows it can't be told from a write that was cut. So it
   * moves once nothing has been committed for a while.
   */
  #moveSoon(): void {
    this.#moving?.cancel()
    this.#moving = this.#current.isWhole
      ? null
      : this.#clock.after(this.#options.moveAfterMs, () => {
          if (this.#mode === 'idle') void this.#move(() => Promise.resolve())
        })
  }

  async #move(then: () => Promise<void>): Promise<void> {
    this.#mode = 'committing'
    await this.#watchMove(this.#current.flush().then(then))
    if (this.#mode === 'committing') await this.#commitAll()
  }

  /** Closes the segments. What is queued and not yet on disk is lost, as it was never told: call `flushed` first. */
  async close(): Promise<void> {
    this.#mode = 'closed'
    this.#moving?.cancel()
    const next = await this.#next?.catch(() => null)
    if (next) await next.close()
    await this.#removing
    await this.#sealing
    await this.#reserving
    await Promise.allSettled(this.#segments.map((segment) => segment.close()))
    await this.#journal?.close()
  }

  async #commitAll(): Promise<void> {
    while (this.#queue.length > 0 && this.#mode === 'committing') {
      const group = this.#takeGroup()
      const segment = this.#current
      const puts = toPuts(group)
      if (!(await this.#commit(puts))) return
      this.#commits++
      this.#tell(group, segment)
      if (segment.usedBytes >= this.#options.segmentBytes || this.#isRollWanted) {
        this.#isRollWanted = false
        if (!this.#current.isWhole && !(await this.#commit(null))) return
        if (!(await this.#roll())) return
      } else if (segment.usedBytes >= this.#options.segmentBytes / 2) void this.#prepareNext()
    }
    if (this.#mode !== 'committing') return
    this.#mode = 'idle'
    this.#moveSoon()
  }

  /** As much of the queue as one commit takes. */
  #takeGroup(): Queued[] {
    let bytes = 0
    let n = 0
    while (
      n < this.#queue.length &&
      (n === 0 || bytes + this.#queue[n]!.bytes.length <= this.#options.commitBytesMax)
    ) {
      bytes += this.#queue[n++]!.bytes.length
    }
    if (n < this.#queue.length) return this.#queue.splice(0, n)
    const group = this.#queue
    this.#queue = []
    return group
  }

  /**
   * @param puts null: what is in the journal is moved to the segment
   * @returns false when the log is at its end: failed, or closed meanwhile
   */
  async #commit(puts: readonly Put[] | null): Promise<boolean> {
    for (;;) {
      const watchdog = this.#watchdog('a commit')
      const begunMs = this.#clock.monotonicMs()
      try {
        await (puts === null ? this.#current.flush() : this.#current.commit(puts))
        watchdog.cancel()
        this.#events.committed?.(this.#clock.monotonicMs() - begunMs, puts ?? [])
        this.#isBlocked = false
        if (this.#hasReserve || this.#options.reserveBytes === 0) this.#setFull(false)
        // The watchdog may have given the disk up meanwhile: then nothing may be told.
        return this.#mode === 'committing'
      } catch (error) {
        watchdog.cancel()
        if (this.#mode !== 'committing') return false
        if (!isDiskFull(error)) {
          this.#fail(asStorageError('a commit', error))
          return false
        }
      }
      // Nothing was written. The entries were decided and can't be taken back: they wait for room.
      if (await this.giveReserve()) continue
      this.#block()
      await this.#pause()
      if (this.#mode !== 'committing') return false
    }
  }

  /**
   * The disk was found full: what was reserved is there for what is on its way, and no send is taken until there is a
   * reserve again.
   * @returns whether it is worth to try once more
   */
  async giveReserve(): Promise<boolean> {
    if (!this.#hasReserve) return false
    this.#hasReserve = false
    this.#reservesGiven++
    this.#setFull(true)
    try {
      await this.#store.release()
    } catch (error) {
      this.#fail(asStorageError('giving the reserve', error))
      return false
    }
    this.#reserving = this.#reserve()
    return true
  }

  /** Tries until there is a reserve. What waits to be written goes first. */
  async #reserve(): Promise<void> {
    while (!this.#hasReserve) {
      await this.#pause()
      if (this.#mode === 'failed' || this.#mode === 'closed') return
      if (!this.#isBlocked) await this.#takeReserve()
    }
  }

  async #takeReserve(): Promise<void> {
    try {
      this.#hasReserve = await this.#store.reserve(this.#options.reserveBytes)
    } catch (error) {
      this.#fail(asStorageError('keeping a reserve', error))
      return
    }
    this.#setFull(!this.#hasReserve)
  }

  #tell(group: readonly Queued[], segment: Segment): void {
    const touched: PartitionLog[] = []
    for (const { log, bytes, base, end, checkpoint, isCopy } of group) {
      this.#queuedBytes -= bytes.length
      if (checkpoint !== undefined) {
        log.checkpointed = { ...checkpoint, segment: segment.name }
        log.checkpointsUnderWay--
        continue
      }
      if (isCopy === true) {
        log.copied(segment, base, end)
        continue
      }
      if (log.extents.at(-1)?.segment !== segment) log.extents.push({ segment, first: base })
      if (log.told === log.durableEnd) touched.push(log)
      log.durableEnd = end
      log.cached.committed(bytes, base, end)
    }
    for (const log of touched) {
      log.told = log.durableEnd
      log.onDurable(log.durableEnd)
    }
    this.#durable += group.length
    while (this.#flushing.length > 0 && this.#flushing[0]!.after <= this.#durable) {
      this.#flushing.shift()!.resolve()
    }
    if (this.#wasBacklogged && this.#queuedBytes <= this.#options.queuedBytesMax / 2) {
      this.#wasBacklogged = false
      this.#events.relieved()
    }
  }

  /** Opens the next segment ahead of time, so that a roll waits for nothing. */
  #prepareNext(): Promise<Segment> {
    if (this.#next === null) {
      this.#next = this.#store.open(nextName(this.currentSegment), { create: true })
      // Whoever awaits it handles the error; until then it must not count as unhandled.
      this.#next.catch(() => undefined)
    }
    return this.#next
  }

  async #roll(): Promise<boolean> {
    for (;;) {
      const watchdog = this.#watchdog('making a segment')
      try {
        const next = await this.#prepareNext()
        watchdog.cancel()
        this.#next = null
        if (this.#mode !== 'committing') {
          await next.close()
          return false
        }
        const closed = this.#current
        this.#current = JournaledSegment.fresh(next, this.#journal)
        this.#current.onMove = (move) => void this.#watchMove(move)
        this.#segments.push(this.#current)
        this.#sealing = this.#seal(closed)
        this.#isBlocked = false
        if (this.#hasReserve || this.#options.reserveBytes === 0) this.#setFull(false)
        this.#events.rolled()
        return true
      } catch (error) {
        watchdog.cancel()
        this.#next = null
        if (this.#mode !== 'committing') return false
        if (!isDiskFull(error)) {
          this.#fail(asStorageError('a commit', error))
          return false
        }
      }
      if (await this.giveReserve()) continue
      this.#block()
      await this.#pause()
      if (this.#mode !== 'committing') return false
    }
  }

  /**
   * What moves for no group's sake fails as a commit does, but for a full disk: then it stays where it is. Resolves once it has
   * ended, in whatever way.
   */
  #watchMove(move: Promise<void>): Promise<void> {
    const watchdog = this.#watchdog('a commit')
    const failed = (error: unknown): void => {
      if (!isDiskFull(error)) this.#fail(asStorageError('a commit', error))
    }
    return move.catch(failed).finally(() => watchdog.cancel())
  }

  /** Nothing is written to it any more, and reads go on. */
  async #seal(segment: Segment): Promise<void> {
    try {
      await segment.seal()
    } catch (error) {
      this.#fail(asStorageError('closing a segment', error))
    }
  }

  /** Gives the disk up when what it does never ends. */
  #watchdog(what: string): Timer {
    return watchdog(this.#clock, this.#options.commitTimeoutMs, what, (error) => this.#fail(error))
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => void this.#clock.after(this.#options.fullRetryMs, resolve))
  }

  #block(): void {
    this.#isBlocked = true
    this.#setFull(true)
    this.#events.blocked?.()
  }

  #setFull(full: boolean): void {
    if (this.#full === full) return
    this.#full = full
    this.#events.full(full)
    if (!full) return
    for (const { orFull, resolve } of this.#flushing) if (orFull) resolve()
    this.#flushing = this.#flushing.filter(({ orFull }) => !orFull)
  }

  #fail(error: MqError): void {
    if (this.#mode === 'failed' || this.#mode === 'closed') return
    this.#mode = 'failed'
    this.#events.failed(error)
  }
}

/**
 * Applies an entry whose header verifies.
 * @returns false: the payload does not; it is a batch, applied as any other, and nobody will get its messages
 * @throws CorruptEntry it does not follow, or can't be known; state is as before
 */
export function foldNext(state: PartitionState, entry: Entry): boolean {
  assertNext(entry, state)
  const isRotten = !payloadVerifies(entry)
  if (isRotten && entry.kind !== 'batch')
    throw new CorruptEntry(`a rotten ${entry.kind} at offset ${entry.base}`)
  state.apply(entry, decodeBody(entry, isRotten), Uint8Array.from(entry.chain))
  return !isRotten
}

/** An entry that verifies may still not be what follows: its predecessor is missing, or its chain has rotted. */
function assertNext(entry: Entry, state: PartitionState): void {
  if (entry.base !== state.logEnd) {
    throw new CorruptEntry(`an entry at offset ${entry.base} where ${state.logEnd} is next`)
  }
  const chain = nextChain(state.chain, entry.epoch, entry.base, entry.crc)
  if (Buffer.compare(chain, entry.chain) !== 0)
    throw new CorruptEntry(`chain of the entry at offset ${entry.base}`)
}

/** One put for each record; small neighbours of one partition share one. */
function toPuts(group: readonly Queued[]): Put[] {
  const puts: Put[] = []
  const open = new Map<PartitionLog, { base: Offset; end: Offset; parts: Uint8Array[]; bytes: number }>()
  const close = (log: PartitionLog): void => {
    const record = open.get(log)
    if (record === undefined) return
    open.delete(log)
    puts.push({
      key: log.key(record.base),
      value: record.parts.length === 1 ? record.parts[0]! : Buffer.concat(record.parts),
    })
  }
  for (const { log, bytes, base, end, beginsRecord, checkpoint, isCopy } of group) {
    if (isCopy === true) {
      puts.push({ key: log.key(base, copyPrefix), value: bytes })
      continue
    }
    if (checkpoint !== undefined) {
      puts.push({ key: log.checkpointKey, value: bytes })
      continue
    }
    const record = open.get(log)
    if (record !== undefined) {
      invariant(base === record.end, `appended ${base} where ${record.end} was next`)
      if (!beginsRecord && bytes.length <= smallEntryBytes && record.bytes + bytes.length <= recordBytesMax) {
        record.parts.push(bytes)
        record.bytes += bytes.length
        record.end = end
        continue
      }
      close(log)
    }
    if (bytes.length <= smallEntryBytes) open.set(log, { base, end, parts: [bytes], bytes: bytes.length })
    else puts.push({ key: log.key(base), value: bytes })
  }
  for (const log of [...open.keys()]) close(log)
  return puts
}

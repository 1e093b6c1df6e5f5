/**
 * The log of every partition of this process, over numbered segments that they share.
 *
 *   append → queue → one commit of everything queued (≤ `commitBytesMax`) → on disk → each partition's `durable`
 *
 * One commit is under way at a time, and what comes meanwhile is the next group: an idle broker commits at the end
 * of the turn, a busy one in groups as large as the disk is slow. Whatever is told as durable was: the promise of a
 * commit resolves after its sync. A failed commit is never told as anything; the process stops.
 */
import { crc32 } from 'node:zlib'
import type { Clock, Put, Segment, Store, Timer } from '../env.ts'
import { invariant, MqError } from '../errors.ts'
import {
  CorruptEntry,
  decodeEntry,
  decodeHeader,
  entryLength,
  nextChain,
  payloadVerifies,
  peekEntry,
  writeU64,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import { PartitionState } from '../partition/fold.ts'
import { decodeBody, type Ranges } from '../partition/payload.ts'
import type { Offset } from '../types.ts'
import { asStorageError, watchdog } from './disk-failure.ts'
import { EntryCache, PartitionEntries } from './entry-cache.ts'

export interface LogOptions {
  /** Size at which the log rolls on to the next segment, in bytes. */
  segmentBytes: number
  /** A commit takes this many bytes of what is queued, and always one entry. */
  commitBytesMax: number
  /** Queued and committing bytes above which `backlogged` is true: whoever feeds the log stops reading. */
  queuedBytesMax: number
  /** How long a full disk is left alone before the commit is tried again, in milliseconds. */
  fullRetryMs: number
  /** A commit that takes longer has failed, as far as anybody can tell, in milliseconds. */
  commitTimeoutMs: number
  /** Memory for the entries that were committed or read last, of all partitions together; 0: none. */
  cacheBytes: number
  /** How often closed segments are looked at, whether they can go, in milliseconds. */
  retentionMs: number
}

export const logDefaults: LogOptions = {
  segmentBytes: 64 << 20,
  commitBytesMax: 2 << 20,
  queuedBytesMax: 32 << 20,
  fullRetryMs: 500,
  commitTimeoutMs: 60_000,
  cacheBytes: 32 << 20,
  retentionMs: 1000,
}

export interface LogEvents {
  /** The disk failed: nothing may be told any more. Called once. */
  failed(error: MqError): void
  /** The log goes on in another segment: the time for checkpoints. */
  rolled(): void
  /** No longer backlogged. */
  relieved(): void
  /** The disk is full (true), or takes commits again (false). */
  full(isFull: boolean): void
  /** A group was committed, for which the disk took `tookMs`. */
  committed?(tookMs: number, puts: readonly Put[]): void
  /** A segment that nobody needed is gone. */
  removed?(name: string): void
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

interface Queued {
  readonly log: PartitionLog
  /** An entry and where it ends; or a checkpoint (`end` −1). */
  readonly bytes: Uint8Array
  readonly base: Offset
  readonly end: Offset
  readonly checkpoint?: Checkpointed
}

/** A checkpoint, as retention sees it. */
interface Checkpointed {
  /** Where it is. */
  readonly segment: string
  /** The first segment that may hold entries after it. */
  readonly from: string
  /** Segments before that which have messages that it calls unsettled. */
  readonly holds: readonly string[]
}

/** Entries below this size share a record with their neighbours in a commit. */
const smallEntryBytes = 4096
const recordBytesMax = 64 << 10

export class SharedLog {
  readonly cache: EntryCache
  readonly #store: Store
  readonly #clock: Clock
  readonly #options: LogOptions
  readonly #events: LogEvents
  readonly #segments: Segment[]
  /** Those whose messages and checkpoints are to be kept. */
  readonly #partitions = new Set<PartitionLog>()
  #next: Promise<Segment> | null = null
  #queue: Queued[] = []
  #queuedBytes = 0
  #mode: 'idle' | 'scheduled' | 'committing' | 'failed' | 'closed' = 'idle'
  #full = false
  #wasBacklogged = false
  #commits = 0
  /** Appended so far, and how much of it is on disk. */
  #appended = 0
  #durable = 0
  /** The last removal of a segment. */
  #removing: Promise<void> = Promise.resolve()
  /** Resolved once `#durable` ≥ `after`, which never decreases along the list. */
  #flushing: { after: number; resolve: () => void }[] = []

  private constructor(
    store: Store,
    clock: Clock,
    segments: Segment[],
    options: LogOptions,
    events: LogEvents,
  ) {
    this.#store = store
    this.#clock = clock
    this.#segments = segments
    this.#options = options
    this.#events = events
    this.cache = new EntryCache(options.cacheBytes)
  }

  /** Opens the segments of a locked store, and the first one where there is none. */
  static async open(store: Store, clock: Clock, options: LogOptions, events: LogEvents): Promise<SharedLog> {
    const names = (await store.list()).filter((name) => segmentName.test(name))
    const segments: Segment[] = []
    try {
      for (const name of names) segments.push(await store.open(name, { create: false }))
      if (segments.length === 0) segments.push(await store.open('00000001', { create: true }))
    } catch (error) {
      await Promise.allSettled(segments.map((segment) => segment.close()))
      throw error
    }
    return new SharedLog(store, clock, segments, options, events)
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

  get partitions(): Iterable<PartitionLog> {
    return this.#partitions
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

  /**
   * One partition's part of it, with the fold of what is there.
   * @throws CorruptEntry when the fold can't be known
   */
  recover(name: LogName): Recovered {
    const log = new PartitionLog(name, this)
    const { state, firstSegment, segment: checkpointSegment } = this.#newestCheckpoint(log)
    const rotten: Ranges = []
    let entriesRead = 0
    for (const segment of this.#segments) {
      const first = log.firstBase(segment)
      if (first === undefined) continue
      log.extents.push({ segment, first })
      if (segment.name < firstSegment) continue
      segment.scan(log.key(state.logEnd), log.endKey, (_key, value) => {
        const record = asBuffer(value)
        for (let at = 0; at < record.length; at += entryLength(record, at)) {
          const entry = decodeHeader(name, record, at)
          assertNext(entry, state)
          const isRotten = !payloadVerifies(entry)
          if (isRotten) {
            if (entry.kind !== 'batch')
              throw new CorruptEntry(`a rotten ${entry.kind} at offset ${entry.base}`)
            rotten.push(entry.base, entry.count)
          }
          state.apply(entry, decodeBody(entry, isRotten), Uint8Array.from(entry.chain))
          entriesRead++
        }
        return true
      })
    }
    log.durableEnd = log.told = state.logEnd
    if (checkpointSegment !== null) {
      // All of them, as far as anybody has looked; the next checkpoint will know better.
      const holds = log.extents.map(({ segment }) => segment.name)
      log.checkpointed = { segment: checkpointSegment, from: firstSegment, holds }
    }
    return { log, state, rotten, entriesRead }
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
    const kept = this.#segments.filter(
      (segment) => log.firstBase(segment) !== undefined || segment.get(log.checkpointKey) !== undefined,
    )
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

  #newestCheckpoint(log: PartitionLog): {
    state: PartitionState
    firstSegment: string
    segment: string | null
  } {
    for (let i = this.#segments.length - 1; i >= 0; i--) {
      const value = this.#segments[i]!.get(log.checkpointKey)
      if (value === undefined) continue
      const stored = Buffer.from(value)
      const body = stored.subarray(4)
      // A rotten checkpoint costs only time: the one before it and a longer tail say the same.
      if (stored.length > 4 && checkpointCrc(log.name, body) === stored.readUInt32BE(0))
        return { ...PartitionState.decode(body), segment: this.#segments[i]!.name }
    }
    return { state: new PartitionState(), firstSegment: '', segment: null }
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

  /** Resolves once all that was appended before is on disk, whatever comes after it; never, if the disk failed. */
  flushed(): Promise<void> {
    if (this.#durable === this.#appended) return Promise.resolve()
    return new Promise((resolve) => this.#flushing.push({ after: this.#appended, resolve }))
  }

  /** Closes the segments. What is queued and not yet on disk is lost, as it was never told: call `flushed` first. */
  async close(): Promise<void> {
    this.#mode = 'closed'
    const next = await this.#next?.catch(() => null)
    if (next) await next.close()
    await this.#removing
    await Promise.allSettled(this.#segments.map((segment) => segment.close()))
  }

  async #commitAll(): Promise<void> {
    while (this.#queue.length > 0 && this.#mode === 'committing') {
      const group = this.#takeGroup()
      const segment = this.#segments.at(-1)!
      const puts = toPuts(group)
      if (!(await this.#commit(segment, puts))) return
      this.#commits++
      this.#tell(group, segment)
      if (segment.usedBytes >= this.#options.segmentBytes) {
        if (!(await this.#roll())) return
      } else if (segment.usedBytes >= this.#options.segmentBytes / 2) void this.#prepareNext()
    }
    if (this.#mode === 'committing') this.#mode = 'idle'
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

  /** @returns false when the log is at its end: failed, or closed meanwhile */
  async #commit(segment: Segment, puts: readonly Put[]): Promise<boolean> {
    for (;;) {
      const watchdog = this.#watchdog('a commit')
      const begunMs = this.#clock.monotonicMs()
      try {
        await segment.commit(puts)
        watchdog.cancel()
        this.#events.committed?.(this.#clock.monotonicMs() - begunMs, puts)
        this.#setFull(false)
        // The watchdog may have given the disk up meanwhile: then nothing may be told.
        return this.#mode === 'committing'
      } catch (error) {
        watchdog.cancel()
        if (this.#mode !== 'committing') return false
        if (!(error instanceof MqError && error.code === 'DISK_FULL')) {
          this.#fail(asStorageError('a commit', error))
          return false
        }
      }
      // Nothing was written. The entries were decided and can't be taken back: they wait for room.
      this.#setFull(true)
      await this.#pause()
      if (this.#mode !== 'committing') return false
    }
  }

  #tell(group: readonly Queued[], segment: Segment): void {
    const touched: PartitionLog[] = []
    for (const { log, bytes, base, end, checkpoint } of group) {
      this.#queuedBytes -= bytes.length
      if (end < 0) {
        log.checkpointed = { ...checkpoint!, segment: segment.name }
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
      const name = String(Number(this.currentSegment) + 1).padStart(8, '0')
      this.#next = this.#store.open(name, { create: true })
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
        this.#segments.push(next)
        this.#setFull(false)
        this.#events.rolled()
        return true
      } catch (error) {
        watchdog.cancel()
        this.#next = null
        if (this.#mode !== 'committing') return false
        if (!(error instanceof MqError && error.code === 'DISK_FULL')) {
          this.#fail(asStorageError('a commit', error))
          return false
        }
      }
      this.#setFull(true)
      await this.#pause()
      if (this.#mode !== 'committing') return false
    }
  }

  /** Gives the disk up when what it does never ends. */
  #watchdog(what: string): Timer {
    return watchdog(this.#clock, this.#options.commitTimeoutMs, what, (error) => this.#fail(error))
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => void this.#clock.after(this.#options.fullRetryMs, resolve))
  }

  #setFull(full: boolean): void {
    if (this.#full === full) return
    this.#full = full
    this.#events.full(full)
  }

  #fail(error: MqError): void {
    if (this.#mode === 'failed' || this.#mode === 'closed') return
    this.#mode = 'failed'
    this.#events.failed(error)
  }
}

const segmentName = /^\d{8}$/

interface Extent {
  segment: Segment
  /** Base of this partition's first record there. */
  first: Offset
}

/** One partition's view of the shared log. */
export class PartitionLog {
  readonly name: LogName
  readonly endKey: Buffer
  readonly checkpointKey: Buffer
  /** Everything below is on disk. */
  durableEnd: Offset = 0
  /** @internal what `onDurable` said last */
  told: Offset = 0
  /** Where records are, ascending in both. */
  readonly extents: Extent[] = []
  /** Everything below `end` is on disk; called once a commit, with rising ends. */
  onDurable: (end: Offset) => void = () => undefined
  /** @internal */
  readonly cached: PartitionEntries
  /** The newest on disk. */
  checkpointed: Checkpointed | null = null
  /** Of a log that can't be read: the segments that have any of it. */
  kept: ReadonlySet<string> | null = null
  /** Whether a message in `[first, end)` is to be kept. */
  holds: (first: Offset, end: Offset) => boolean = () => true
  /** A checkpoint is wanted: that of long ago is all that keeps a segment. */
  askCheckpoint: () => void = () => undefined
  readonly #shared: SharedLog

  constructor(name: LogName, shared: SharedLog) {
    this.name = name
    this.#shared = shared
    this.cached = new PartitionEntries(shared.cache)
    this.endKey = this.key(Number.MAX_SAFE_INTEGER)
    this.checkpointKey = Buffer.concat([Uint8Array.of(checkpointPrefix), name.bytes])
  }

  /** To be made durable, in order. The bytes must not change until `onDurable` has passed `end`. */
  append(entry: Uint8Array, base: Offset, end: Offset): void {
    this.#shared.enqueue({ log: this, bytes: entry, base, end })
  }

  /** For what a closed segment is needed, if it is. */
  needs(name: string): 'messages' | 'start' | 'nothing' {
    if (this.kept !== null) return this.kept.has(name) ? 'messages' : 'nothing'
    const i = this.extents.findIndex(({ segment }) => segment.name === name)
    if (i >= 0 && this.holds(this.extents[i]!.first, this.extents[i + 1]?.first ?? this.durableEnd)) {
      return 'messages'
    }
    const { checkpointed } = this
    if (checkpointed === null) return i >= 0 ? 'start' : 'nothing'
    if (checkpointed.segment === name) return 'start'
    // What was settled since then, a crash may yet bring back.
    return i >= 0 && (checkpointed.from <= name || checkpointed.holds.includes(name)) ? 'start' : 'nothing'
  }

  /** @internal A segment is gone. */
  forget(name: string): void {
    const i = this.extents.findIndex(({ segment }) => segment.name === name)
    if (i >= 0) this.extents.splice(i, 1)
  }

  /** Stores the fold of everything appended so far. */
  checkpoint(state: PartitionState): void {
    const from = this.#shared.currentSegment
    const body = state.encode(from)
    const bytes = Buffer.allocUnsafeSlow(4 + body.length)
    bytes.writeUInt32BE(checkpointCrc(this.name, body), 0)
    bytes.set(body, 4)
    const holds = this.extents
      .filter(({ first }, i) => this.holds(first, this.extents[i + 1]?.first ?? this.durableEnd))
      .map(({ segment }) => segment.name)
    this.#shared.enqueue({ log: this, bytes, base: -1, end: -1, checkpoint: { segment: '', from, holds } })
  }

  /**
   * The entry that holds `offset`, which is below `durableEnd`: as it was appended, or verified, in memory that does
   * not change.
   * @throws CorruptEntry when it is not there as it was written
   */
  read(offset: Offset): Entry {
    const cached = this.cached.find(offset)
    if (cached !== null) return cached
    const { value, at } = this.#find(offset)
    const entry = decodeEntry(this.name, Buffer.from(value.subarray(at, at + entryLength(value, at))), 0)
    this.cached.read(entry)
    return entry
  }

  /**
   * The entry that holds `offset`, which is below `durableEnd`, verified, in memory of its own; past the cache, as
   * `headerAt`.
   * @throws CorruptEntry
   */
  look(offset: Offset): Entry {
    const { value, at } = this.#find(offset)
    return decodeEntry(this.name, Buffer.from(value.subarray(at, at + entryLength(value, at))), 0)
  }

  /**
   * The header of the entry that holds `offset`, which is below `durableEnd`: for whoever only looks, so past the
   * cache, which is for readers.
   * @throws CorruptEntry
   */
  headerAt(offset: Offset): { base: Offset; end: Offset; timeMs: number } {
    const { value, at } = this.#find(offset)
    const { base, count, timeMs } = decodeHeader(this.name, value, at)
    return { base, end: base + count, timeMs }
  }

  /** Where the entry that holds `offset` is; the bytes are valid until the segment is next called. */
  #find(offset: Offset): { value: Buffer; at: number } {
    const found = this.#segmentOf(offset)?.floor(this.key(offset))
    if (found === undefined || !this.owns(found.key))
      throw new CorruptEntry(`no record holds offset ${offset}`)
    const value = asBuffer(found.value)
    for (let at = 0; at < value.length;) {
      const { base, count, length } = peekEntry(value, at)
      // A count that has rotted may reach over its neighbours: only a header that verifies says whose offset it is.
      if (offset >= base && offset < base + count && verifies(this.name, value, at)) return { value, at }
      at += length
    }
    throw new CorruptEntry(`no entry that verifies holds offset ${offset}`)
  }

  /**
   * The end (exclusive) of what can't be read around `offset`: that of its entry, if the header verifies, else at most
   * that of its record. Neighbours in the record that verify are not given up for it.
   */
  recordEnd(offset: Offset): Offset {
    const segment = this.#segmentOf(offset)
    let end = this.durableEnd
    for (const { first } of this.extents) if (first > offset) end = Math.min(end, first)
    segment?.scan(this.key(offset + 1), this.endKey, (key) => {
      end = Math.min(end, this.#baseOf(key))
      return false
    })
    const record = segment?.floor(this.key(offset))
    if (record !== undefined && this.owns(record.key)) {
      end = Math.min(end, edgeAfter(offset, this.name, asBuffer(record.value)) ?? end)
    }
    return end
  }

  /** Base of this partition's first record in a segment. */
  firstBase(segment: Segment): Offset | undefined {
    let first: Offset | undefined
    segment.scan(this.key(0), this.endKey, (key) => {
      first = this.#baseOf(key)
      return false
    })
    return first
  }

  key(base: Offset): Buffer {
    const key = Buffer.allocUnsafe(29)
    key[0] = entryPrefix
    key.set(this.name.bytes, 1)
    writeU64(key, base, 21)
    return key
  }

  owns(key: Uint8Array): boolean {
    return (
      key.length === 29 &&
      key[0] === entryPrefix &&
      Buffer.compare(key.subarray(1, 21), this.name.bytes) === 0
    )
  }

  #baseOf(key: Uint8Array): Offset {
    const bytes = asBuffer(key)
    return bytes.readUInt32BE(21) * 0x1_0000_0000 + bytes.readUInt32BE(25)
  }

  #segmentOf(offset: Offset): Segment | undefined {
    for (let i = this.extents.length - 1; i >= 0; i--)
      if (this.extents[i]!.first <= offset) return this.extents[i]!.segment
    return undefined
  }
}

/** Where the first entry of a record whose header verifies begins or ends above `offset`, if one does. */
function edgeAfter(offset: Offset, name: LogName, record: Buffer): Offset | undefined {
  try {
    for (let at = 0; at < record.length; at += entryLength(record, at)) {
      const { base, count } = peekEntry(record, at)
      if (base + count > offset && verifies(name, record, at)) return base > offset ? base : base + count
    }
  } catch (error) {
    // A length that has rotted: nothing behind it can be found.
    if (!(error instanceof CorruptEntry)) throw error
  }
  return undefined
}

function verifies(name: LogName, record: Buffer, at: number): boolean {
  try {
    decodeHeader(name, record, at)
    return true
  } catch (error) {
    if (error instanceof CorruptEntry) return false
    throw error
  }
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

const entryPrefix = 0x4c
const checkpointPrefix = 0x43

function checkpointCrc(name: LogName, body: Uint8Array): number {
  return (crc32(body) ^ name.crc) >>> 0
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
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
  for (const { log, bytes, base, end } of group) {
    if (end < 0) {
      // The entries after a checkpoint begin a record, so that a start reads none of those before it.
      close(log)
      puts.push({ key: log.checkpointKey, value: bytes })
      continue
    }
    const record = open.get(log)
    if (record !== undefined) {
      invariant(base === record.end, `appended ${base} where ${record.end} was next`)
      if (bytes.length <= smallEntryBytes && record.bytes + bytes.length <= recordBytesMax) {
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

/** One partition's view of the shared log: where its entries are, what of them is needed, and reading them. */
import type { Damage, Segment } from '../env.ts'
import { MqError } from '../errors.ts'
import {
  CorruptEntry,
  decodeEntry,
  decodeHeader,
  entryLength,
  peekEntry,
  readU64,
  writeU64,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import { capture, piecesOf } from '../partition/checkpoint.ts'
import type { PartitionState } from '../partition/fold.ts'
import { RangeMap, type Run } from '../partition/range-map.ts'
import type { Offset } from '../types.ts'
import { CheckpointWriter } from './checkpoint-writer.ts'
import { ownCopy, PartitionEntries, type EntryCache } from './entry-cache.ts'

/** Something on its way to the disk. */
export interface Queued {
  readonly log: PartitionLog
  /** An entry and where it ends; or a checkpoint. */
  readonly bytes: Uint8Array
  readonly base: Offset
  readonly end: Offset
  /** A checkpoint goes up to this entry: a start begins to read here, so it shares no record with those before it. */
  readonly beginsRecord: boolean
  readonly checkpoint?: Checkpointed
  /** The entry is on disk already, in a segment that is to go. */
  readonly isCopy?: true
}

/** A checkpoint, as retention sees it. */
export interface Checkpointed {
  /** Where it is. */
  readonly segment: string
  /** The first segment that may hold entries after it. */
  readonly from: string
  /** Segments before that which have messages that it calls unsettled. */
  readonly holds: readonly string[]
  readonly bytes: number
}

interface Extent {
  segment: Segment
  /** Base of this partition's first record there. */
  first: Offset
}

/** Batches that were copied to a segment from older ones. They lie before all else that the partition has there. */
interface Copies {
  segment: Segment
  batches: RangeMap
}

/** What it is a part of. */
interface Shared {
  readonly cache: EntryCache
  readonly currentSegment: string
  enqueue(queued: Queued): void
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
  /** Where batches are that were copied, by segments, ascending. Of several copies the newest counts. */
  readonly copies: Copies[] = []
  /** Everything below `end` is on disk; called once a commit, with rising ends. */
  onDurable: (end: Offset) => void = () => undefined
  /** @internal */
  readonly cached: PartitionEntries
  /** The newest on disk. */
  checkpointed: Checkpointed | null = null
  /** Newer ones that are on their way there. */
  checkpointsUnderWay = 0
  /** Of a log that can't be read: the segments that have any of it. */
  kept: ReadonlySet<string> | null = null
  /** The first run of messages at or after `from` that are to be kept. */
  nextHeld: (from: Offset, into: Run) => boolean = (from, into) => {
    into.start = from
    into.end = Number.MAX_SAFE_INTEGER
    return true
  }
  /** A checkpoint is wanted: that of long ago is all that keeps a segment. */
  askCheckpoint: () => void = () => undefined
  /** Rot was found where messages in `[from, end)` are, in that segment. */
  recheck: (segment: string, from: Offset, end: Offset) => void = () => undefined
  readonly #shared: Shared
  /** The offset of the last checkpoint that was begun. */
  #captured: Offset = -1
  /** What `read` last took from the store: the base of its record, and the offset that was asked for. */
  #lastRecord: Offset = -1
  #lastRead: Offset = -1
  readonly #run: Run = { start: 0, end: 0, value: 0 }

  constructor(name: LogName, shared: Shared) {
    this.name = name
    this.#shared = shared
    this.cached = new PartitionEntries(shared.cache, name)
    this.endKey = this.key(Number.MAX_SAFE_INTEGER)
    this.checkpointKey = Buffer.concat([Uint8Array.of(checkpointPrefix), name.bytes])
  }

  /** To be made durable, in order. The bytes must not change until `onDurable` has passed `end`. */
  append(entry: Uint8Array, base: Offset, end: Offset): void {
    this.#shared.enqueue({ log: this, bytes: entry, base, end, beginsRecord: base === this.#captured })
  }

  /** For what a closed segment is needed, if it is. */
  needs(name: string): 'all' | 'messages' | 'start' | 'nothing' {
    if (this.kept !== null) return this.kept.has(name) ? 'all' : 'nothing'
    if (this.nextHeldIn(name, 0, this.#run)) return 'messages'
    const { checkpointed } = this
    const isThere = [...this.extents, ...this.copies].some(({ segment }) => segment.name === name)
    if (checkpointed === null) return isThere ? 'start' : 'nothing'
    if (checkpointed.segment === name) return 'start'
    // What was settled since then, a crash may yet bring back.
    return isThere && (checkpointed.from <= name || checkpointed.holds.includes(name)) ? 'start' : 'nothing'
  }

  /** @internal A segment is gone. */
  forget(name: string): void {
    for (const places of [this.extents, this.copies]) {
      const i = places.findIndex(({ segment }) => segment.name === name)
      if (i >= 0) places.splice(i, 1)
    }
  }

  /** The first run at or after `from` of messages that are to be kept and are in this segment, but for older copies. */
  nextHeldIn(name: string, from: Offset, into: Run): boolean {
    const c = this.copies.findIndex(({ segment }) => segment.name === name)
    if (c >= 0) {
      const newer = this.copies.slice(c + 1)
      const batches: Run = { start: 0, end: 0, value: 0 }
      for (let at = from; this.copies[c]!.batches.nextRun(at, batches); at = batches.end) {
        if (this.#nextHeldOnly(Math.max(at, batches.start), batches.end, newer, into)) return true
      }
    }
    const i = this.extents.findIndex(({ segment }) => segment.name === name)
    if (i < 0) return false
    const end = this.extents[i + 1]?.first ?? this.durableEnd
    return this.#nextHeldOnly(Math.max(from, this.extents[i]!.first), end, this.copies, into)
  }

  /** The first run in `[from, end)` of messages that are to be kept and are not in `copies`. */
  #nextHeldOnly(from: Offset, end: Offset, copies: readonly Copies[], into: Run): boolean {
    for (let at = from; at < end && this.nextHeld(at, into) && into.start < end;) {
      const stop = Math.min(into.end, end)
      at = Math.max(at, into.start)
      for (let copied = true; copied && at < stop;) {
        copied = false
        for (const { batches } of copies) {
          if (!batches.nextRun(at, into) || into.start > at) continue
          at = into.end
          copied = true
        }
      }
      if (at >= stop) continue
      let nextCopied = stop
      for (const { batches } of copies)
        if (batches.nextRun(at, into)) nextCopied = Math.min(nextCopied, into.start)
      into.start = at
      into.end = nextCopied
      return true
    }
    return false
  }

  /** How many of this partition's offsets are in the segment. */
  offsetsIn(name: string): number {
    const i = this.extents.findIndex(({ segment }) => segment.name === name)
    const copied = this.copies.find(({ segment }) => segment.name === name)?.batches.size ?? 0
    return i < 0 ? copied : copied + (this.extents[i + 1]?.first ?? this.durableEnd) - this.extents[i]!.first
  }

  /**
   * Appends a copy of the batch that holds `offset`, so that its segment is not needed for it any more.
   * @returns where the batch ends, and its bytes
   * @throws CorruptEntry it can't be read
   */
  copy(offset: Offset): { end: Offset; bytes: number } {
    const { bytes, base, count } = this.look(offset)
    this.#shared.enqueue({ log: this, bytes, base, end: base + count, beginsRecord: false, isCopy: true })
    return { end: base + count, bytes: bytes.length }
  }

  /** @internal A copy is on disk. */
  copied(segment: Segment, base: Offset, end: Offset): void {
    let copies = this.copies.at(-1)
    if (copies?.segment !== segment) this.copies.push((copies = { segment, batches: new RangeMap() }))
    copies.batches.set(base, end)
  }

  /** @internal At the start: what has been copied to this segment, which comes after those that were told before. */
  findCopies(segment: Segment): void {
    const visit = (_key: Buffer, record: Buffer): boolean => {
      const { base, count } = peekEntry(record, 0)
      // Of one that has rotted nobody knows what it is a copy of: its messages are found missing when they are read.
      if (verifies(this.name, record, 0)) this.copied(segment, base, base + count)
      return true
    }
    this.scanCopies(segment, visit, passOver)
  }

  /**
   * Begins to store the fold of everything appended so far; what is appended from now on is not in it. One at a time:
   * of two under way the older could be stored last, and name as its tail what the newer one let go.
   */
  beginCheckpoint(state: PartitionState): CheckpointWriter {
    const from = this.#shared.currentSegment
    const holds = [...this.extents, ...this.copies]
      .map(({ segment }) => segment.name)
      .filter((name) => this.nextHeldIn(name, 0, this.#run))
    this.#captured = state.logEnd
    this.checkpointsUnderWay++
    return new CheckpointWriter(this.name, piecesOf(capture(state, from)), (bytes) => {
      const checkpoint = { segment: '', from, holds, bytes: bytes.length }
      this.#shared.enqueue({ log: this, bytes, base: -1, end: -1, beginsRecord: false, checkpoint })
    })
  }

  /**
   * The entry that holds `offset`, which is below `durableEnd`: as it was appended, or verified, in memory that does
   * not change.
   * @throws CorruptEntry when it is not there as it was written
   */
  read(offset: Offset): Entry {
    const cached = this.cached.find(offset)
    if (cached !== null) return cached
    const { value, at, record } = this.#find(offset)
    // Whoever goes on in a record is given the rest of it from one copy, which is not read again for each entry. Not so
    // whoever takes one here and there: all of the copy lives while one of its messages is on its way.
    const goesOn = record === this.#lastRecord && offset > this.#lastRead
    this.#lastRecord = record
    this.#lastRead = offset
    const length = entryLength(value, at)
    const copied = goesOn && this.cached.hasSpare(value.length - at) ? value.length - at : length
    const bytes = ownCopy(value.subarray(at, at + copied))
    const entry = decodeEntry(this.name, bytes, 0)
    this.cached.read(entry, bytes.subarray(length))
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
  #find(offset: Offset): { value: Buffer; at: number; record: Offset } {
    const { segment, prefix } = this.#placeOf(offset)
    const found = segment && reading(() => segment.floor(this.key(offset, prefix)))
    if (found === undefined || !this.owns(found.key, prefix))
      throw new CorruptEntry(`no record holds offset ${offset}`)
    const value = asBuffer(found.value)
    for (let at = 0; at < value.length;) {
      const { base, count, length } = peekEntry(value, at)
      // A count that has rotted may reach over its neighbours: only a header that verifies says whose offset it is.
      if (offset >= base && offset < base + count && verifies(this.name, value, at))
        return { value, at, record: recordBase(found.key) }
      at += length
    }
    throw new CorruptEntry(`no entry that verifies holds offset ${offset}`)
  }

  /**
   * The end (exclusive) of what can't be read around `offset`: that of its entry, if the header verifies, else at most
   * that of its record. Neighbours in the record that verify are not given up for it.
   */
  recordEnd(offset: Offset): Offset {
    const { segment, prefix } = this.#placeOf(offset)
    let end = this.durableEnd
    for (const { first } of this.extents) if (first > offset) end = Math.min(end, first)
    for (const { batches } of this.copies)
      if (batches.nextRun(offset + 1, this.#run)) end = Math.min(end, this.#run.start)
    const nextRecord = (key: Uint8Array): boolean => {
      end = Math.min(end, recordBase(key))
      return false
    }
    // Behind pages that make no sense, too: what is on them is lost, up to the next record that is not.
    segment?.scan(
      this.key(offset + 1, prefix),
      this.key(Number.MAX_SAFE_INTEGER, prefix),
      nextRecord,
      passOver,
    )
    try {
      const record = segment && reading(() => segment.floor(this.key(offset, prefix)))
      if (record !== undefined && this.owns(record.key, prefix)) {
        end = Math.min(end, edgeAfter(offset, this.name, asBuffer(record.value)) ?? end)
      }
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
    }
    return end
  }

  /** Whether a segment has anything of this partition, as far as it can be read, or may have where it can't. */
  isIn(segment: Segment): boolean {
    const { base, damage } = this.first(segment)
    let isIn = base !== undefined || damage !== null
    const found = (): boolean => {
      isIn = true
      return false
    }
    this.scanCopies(segment, found, found)
    try {
      return isIn || reading(() => segment.get(this.checkpointKey)) !== undefined
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      return true
    }
  }

  /** Visits the copies of this partition's batches in a segment, as `Segment.scan`. */
  scanCopies(
    segment: Segment,
    visit: (key: Buffer, record: Buffer) => boolean,
    skip?: (damage: Damage) => void,
  ): void {
    const end = this.key(Number.MAX_SAFE_INTEGER, copyPrefix)
    segment.scan(this.key(0, copyPrefix), end, (key, value) => visit(asBuffer(key), asBuffer(value)), skip)
  }

  /** Base of this partition's first record in a segment that can be read, and what may be before it and can't. */
  first(segment: Segment): { base: Offset | undefined; damage: Damage | null } {
    let base: Offset | undefined
    let damage: Damage | null = null
    const visit = (key: Uint8Array): boolean => {
      base = recordBase(key)
      return false
    }
    segment.scan(this.key(0), this.endKey, visit, (found) => (damage ??= found))
    return { base, damage }
  }

  key(base: Offset, prefix = entryPrefix): Buffer {
    const key = Buffer.allocUnsafe(29)
    key[0] = prefix
    key.set(this.name.bytes, 1)
    writeU64(key, base, 21)
    return key
  }

  owns(key: Uint8Array, prefix = entryPrefix): boolean {
    return (
      key.length === 29 && key[0] === prefix && Buffer.compare(key.subarray(1, 21), this.name.bytes) === 0
    )
  }

  /** In which segment the entry that holds `offset` is, and what its key begins with. */
  #placeOf(offset: Offset): { segment: Segment | undefined; prefix: number } {
    for (let i = this.copies.length - 1; i >= 0; i--) {
      const { segment, batches } = this.copies[i]!
      if (batches.has(offset)) return { segment, prefix: copyPrefix }
    }
    for (let i = this.extents.length - 1; i >= 0; i--) {
      if (this.extents[i]!.first <= offset) return { segment: this.extents[i]!.segment, prefix: entryPrefix }
    }
    return { segment: undefined, prefix: entryPrefix }
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

/**
 * A read, where what can't be read counts as any other rot.
 * @throws CorruptEntry a part of the segment makes no sense, or the disk does not give it
 */
export function reading<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof MqError && error.code === 'CORRUPT_LOG') throw new CorruptEntry(error.message)
    throw error
  }
}

/** What can't be read is told by whoever needs it. */
const passOver = (): void => undefined

/** Of a record's key, or a copy's. */
export function recordBase(key: Uint8Array): Offset {
  return readU64(asBuffer(key), 21)
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

export const entryPrefix = 0x4c
export const checkpointPrefix = 0x43
/** A key by itself: which of the journal's records a segment has. */
export const journalPrefix = 0x4a
export const copyPrefix = 0x52

export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

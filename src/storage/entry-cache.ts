/**
 * Entries between their commit and their delivery, of all partitions of this process, in bounded memory. A consumer
 * that keeps up with the producers is served from here: nothing is read, copied or verified again.
 *
 * An entry is let go as soon as a later one is asked for: what lives shortly costs the garbage collector next to
 * nothing, and what is kept for long is far dearer than a read. For that reason nothing is kept for a reader that has
 * fallen behind either, until it has caught up: when the memory is full, or an entry has waited for long, the partition
 * whose entry is the oldest has all of its own let go, so that a backlog costs none.
 *
 * It keeps the very bytes that were appended, which nobody changes any more. Where they are a small part of the memory
 * that holds them, as a small batch is of a pool, they are copied: else they would keep all of it.
 *
 * What is let go without ever having been handed out is nobody's any more, and its memory is given back.
 *
 * Of what was read from the store the last entry is kept, and for a reader that goes on in a record of many what that has
 * behind it: unverified, since it may never be asked for; each entry is verified when it is.
 */
import type { Clock } from '../env.ts'
import { buffers } from '../buffers.ts'
import {
  CorruptEntry,
  decodeEntry,
  entryKind,
  parseEntry,
  peekEntry,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import type { Offset } from '../types.ts'

/** Whoever has not come for an entry by then has fallen behind, in milliseconds. */
const waitMsMax = 10_000
/** What an entry costs beside its bytes, roughly. */
const overheadBytes = 256
/** Up to this size a copy costs less than what else may be in the same memory. */
const smallEntryBytes = 4096

/** One entry that is there; a link of the list of all of them, by age. */
interface Cached {
  readonly base: Offset
  readonly end: Offset
  readonly bytes: Buffer
  readonly costBytes: number
  /** By the monotonic clock. */
  readonly addedMs: number
  readonly owner: PartitionEntries
  /** Parsed when it is first asked for. */
  entry: Entry | null
  /** Of what was read: what its record has behind it, unverified. */
  readonly after: Buffer
  /** Somebody may have a view of the bytes. */
  isHandedOut: boolean
  older: Cached | null
  newer: Cached | null
}

export class EntryCache {
  /** Reads answered from here, and those that were not. */
  hits = 0
  misses = 0
  readonly #bytesMax: number
  readonly #clock: Pick<Clock, 'monotonicMs'>
  #bytes = 0
  #oldest: Cached | null = null
  #newest: Cached | null = null

  constructor(bytesMax: number, clock: Pick<Clock, 'monotonicMs'>) {
    this.#bytesMax = bytesMax
    this.#clock = clock
  }

  /** Memory that is kept, at most `bytesMax`. */
  get bytes(): number {
    return this.#bytes
  }

  /** @internal Whether what takes so much memory can be kept at all. */
  hasRoomFor(bytes: number): boolean {
    return overheadBytes + bytes <= this.#bytesMax
  }

  /** @internal Whether so much can be kept without a thought: half of the memory is for what was just committed. */
  hasSpare(bytes: number): boolean {
    return this.#bytes + overheadBytes + bytes <= this.#bytesMax / 2
  }

  /** @internal Keeps an entry, in memory of its own; one that was read is there parsed. The caller has asked `hasRoomFor`. */
  add(
    owner: PartitionEntries,
    bytes: Buffer,
    base: Offset,
    end: Offset,
    entry: Entry | null = null,
    after = nothing,
  ): Cached {
    const costBytes = overheadBytes + bytes.buffer.byteLength
    const cached: Cached = {
      base,
      end,
      bytes,
      costBytes,
      addedMs: this.#clock.monotonicMs(),
      owner,
      entry,
      after,
      isHandedOut: entry !== null,
      older: this.#newest,
      newer: null,
    }
    if (this.#newest === null) this.#oldest = cached
    else this.#newest.newer = cached
    this.#newest = cached
    this.#bytes += costBytes
    return cached
  }

  /** @internal To be called once the owner has what was added: that may be let go too. */
  trim(): void {
    while (this.#bytes > this.#bytesMax) this.#oldest!.owner.forget(this.#oldest!)
    this.dropLate()
  }

  /** Lets go of what has waited for too long; to be called now and then, too, while nothing is added. */
  dropLate(): void {
    const lateMs = this.#clock.monotonicMs() - waitMsMax
    while (this.#oldest !== null && this.#oldest.addedMs <= lateMs) this.#oldest.owner.forget(this.#oldest)
  }

  /** @internal Its owner has forgotten it, or is about to. */
  remove(cached: Cached): void {
    const { older, newer } = cached
    if (older === null) this.#oldest = newer
    else older.newer = newer
    if (newer === null) this.#newest = older
    else newer.older = older
    // It may be old to the garbage collector by now, which would keep the next one for it, and so all of them in turn.
    cached.older = cached.newer = null
    this.#bytes -= cached.costBytes
    if (!cached.isHandedOut) buffers.giveBack(cached.bytes)
  }
}

const nothing: Buffer = Buffer.alloc(0)

/** The bytes, without much else in the same memory. */
function ownBytes(bytes: Uint8Array): Buffer {
  const { length } = bytes
  if (length > smallEntryBytes && bytes.buffer.byteLength <= 2 * length)
    return Buffer.from(bytes.buffer, bytes.byteOffset, length)
  return ownCopy(bytes)
}

/**
 * A copy in memory of its own. No pool: one entry of a quiet partition would keep the memory of others that have long been
 * passed.
 */
export function ownCopy(bytes: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  copy.set(bytes)
  return copy
}

/** What the cache has of one partition. */
export class PartitionEntries {
  readonly #cache: EntryCache
  readonly #name: LogName
  /** Of what was appended, ascending by offset, and so by age. `#head` items at the front are gone. */
  #appended: (Cached | null)[] = []
  #head = 0
  /** The reader has been here. */
  #readEnd: Offset = 0
  /** The end of the last batch that was not kept until it was read: the reader must pass it before more is kept. */
  #gapEnd: Offset = 0
  /** What was last read from the store: small receives come back to it, and then want what its record has behind it. */
  #read: Cached | null = null

  constructor(cache: EntryCache, name: LogName) {
    this.#cache = cache
    this.#name = name
  }

  /** An entry is on the disk, and may be asked for. Nobody else has its bytes. */
  committed(bytes: Uint8Array, base: Offset, end: Offset): void {
    const isBatch = bytes[13] === entryKind.batch
    const isKept = isBatch && this.#readEnd >= this.#gapEnd && this.#cache.hasRoomFor(bytes.length)
    const kept = isKept ? ownBytes(bytes) : null
    if (kept?.buffer !== bytes.buffer) buffers.giveBack(bytes)
    if (kept !== null) {
      this.#appended.push(this.#cache.add(this, kept, base, end))
      this.#cache.trim()
    } else if (isBatch) this.#gapEnd = Math.max(this.#gapEnd, end)
  }

  /** Whether what a record of so many bytes has may be kept beside the entry that is asked for. */
  hasSpare(bytes: number): boolean {
    return this.#gapEnd !== Infinity && this.#cache.hasSpare(bytes)
  }

  /**
   * An entry was read from the store, and verified; `after` is what its record has behind it, which was not. Both are in
   * memory that holds nothing else.
   */
  read(entry: Entry, after = nothing): void {
    this.#dropRead()
    const { base, bytes } = entry
    const end = base + entry.count
    this.#readEnd = Math.max(this.#readEnd, end)
    if (this.#gapEnd === Infinity || !this.#cache.hasRoomFor(bytes.buffer.byteLength)) return
    this.#read = this.#cache.add(this, bytes, base, end, entry, after)
    this.#cache.trim()
  }

  /** The entry that holds `offset`, if it is here. */
  find(offset: Offset): Entry | null {
    const cached = this.#find(offset)
    if (cached === null) {
      const entry = this.#next(offset)
      if (entry === null) this.#cache.misses++
      else this.#cache.hits++
      return entry
    }
    this.#cache.hits++
    this.#readEnd = Math.max(this.#readEnd, cached.end)
    cached.isHandedOut = true
    return (cached.entry ??= parseEntry(cached.bytes))
  }

  /** Nobody will ask for anything of this partition any more. */
  close(): void {
    this.#gapEnd = Infinity
    this.#dropAppended()
    this.#dropRead()
  }

  /** @internal There is no room for this one, which is the oldest there is; nor for those behind it, then. */
  forget(oldest: Cached): void {
    if (oldest === this.#read) return this.#dropRead()
    this.#gapEnd = Math.max(this.#gapEnd, this.#appended.at(-1)!.end)
    this.#dropAppended()
  }

  #dropRead(): void {
    if (this.#read !== null) this.#cache.remove(this.#read)
    this.#read = null
  }

  #dropAppended(): void {
    for (let i = this.#head; i < this.#appended.length; i++) this.#cache.remove(this.#appended[i]!)
    this.#appended = []
    this.#head = 0
  }

  /** Forgets the first of `#appended`. */
  #drop(): void {
    this.#appended[this.#head++] = null
    if (this.#head < 256 || this.#head * 2 < this.#appended.length) return
    this.#appended.splice(0, this.#head)
    this.#head = 0
  }

  #find(offset: Offset): Cached | null {
    const read = this.#read
    if (read !== null && holds(read, offset)) return read
    // Mostly the first or the one behind it, so this does not search; and each is passed over once.
    for (;;) {
      const first = this.#appended[this.#head]
      if (!first || offset < first.base) return null
      if (offset < first.end) return first
      // Beyond the last: whoever asked was wrong, or reads what was not kept.
      if (offset >= this.#appended.at(-1)!.end) return null
      this.#cache.remove(first)
      this.#drop()
    }
  }

  /** The entry that holds `offset`, if it is behind what was last read in the same record, and verifies. */
  #next(offset: Offset): Entry | null {
    const after = this.#read?.after ?? nothing
    const entry = entryIn(this.#name, after, offset)
    if (entry === null) return null
    this.read(entry, after.subarray(entry.bytes.byteOffset + entry.bytes.length - after.byteOffset))
    return entry
  }
}

/**
 * Null too where something makes no sense: whoever reads it from the store finds out what.
 * @throws MqError NEWER_DATA_FORMAT
 */
function entryIn(name: LogName, record: Buffer, offset: Offset): Entry | null {
  try {
    for (let at = 0; at < record.length;) {
      const { base, count, length } = peekEntry(record, at)
      if (offset < base) return null
      if (offset < base + count) return decodeEntry(name, record, at)
      at += length
    }
  } catch (error) {
    if (!(error instanceof CorruptEntry)) throw error
  }
  return null
}

function holds(cached: Cached, offset: Offset): boolean {
  return offset >= cached.base && offset < cached.end
}

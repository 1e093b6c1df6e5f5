/**
 * What has been committed lately in small groups: a file of fixed length beside the segments, to which a group is one
 * write. A commit of LMDB's costs two syncs and a page for each level of its tree, whatever its size; so a small group is
 * made durable here, and moves to its segment with many others in one transaction.
 *
 * The file has two halves. While what one of them has moves, groups go to the other.
 *
 * Each record takes whole blocks of its own, so that a write never touches what is confirmed. Records are numbered within
 * their segment, from 1. The transaction that moves them says in the segment up to which number, and only then does
 * something else go where they are. So at a start what counts is the records of that segment above the number that it
 * names, which must follow each other.
 *
 * A record that does not verify is no record: a write that was under way at a crash, which nobody was told of. If there is
 * one with a higher number, it had been confirmed: then it is rot, and what is lost nobody knows.
 *
 * What clients send stands within records, and could look like one. So each has the file's id, which nobody can guess.
 */
import { crc32 } from 'node:zlib'
import type { JournalFile, Put } from '../env.ts'
import { keyBytesMax } from '../env.ts'
import { MqError } from '../errors.ts'
import { readU64, writeU64 } from '../partition/entry.ts'

/** What a disk writes whole, or a file system at once. The first one is the file's header. */
const blockBytes = 4096
const fileMagic = Buffer.from('MQJRNL1\n')
const idBytes = 8
const recordMagic = 0x4d514a31
/** magic u32, crc32 of what follows it u32, length u32, puts u32, id of the file, segment u32, number u64. */
const headerBytes = 16 + idBytes + 12
/** Of each put, before key and value: their lengths, u8 and u32. */
const putHeaderBytes = 5

export interface JournalRecord {
  readonly segment: string
  readonly number: number
  /** The bytes lie in the journal's memory, and change once it is cleared. */
  readonly puts: readonly Put[]
}

export class Journal {
  /** Null: it is only read. */
  readonly #file: JournalFile | null
  /** As the file is, up to where the next record goes. */
  readonly #memory: Buffer
  readonly #groupBytesMax: number
  readonly #halves: readonly [Half, Half]
  /** Where records go. */
  #half: Half
  /** Where the next one goes. */
  #at: number

  private constructor(file: JournalFile | null, bytes: Uint8Array, groupBytesMax: number) {
    const { buffer, byteOffset, length } = bytes
    const memory = Buffer.from(buffer, byteOffset, length - (length % blockBytes))
    if (memory.length === 0 || !memory.subarray(0, headerEnd).equals(fileHeader(idOf(memory))))
      throw new MqError('CORRUPT_LOG', 'JOURNAL: its header does not verify')
    this.#file = file
    this.#memory = memory
    this.#groupBytesMax = groupBytesMax
    const middle = toBlocks((blockBytes + memory.length) / 2)
    this.#halves = [
      { start: blockBytes, end: middle, last: 0 },
      { start: middle, end: memory.length, last: 0 },
    ]
    this.#half = this.#halves[0]
    this.#at = this.#half.start
  }

  /** What the file has when it is made. */
  static initial(bytes: number, id: Uint8Array): Uint8Array {
    const memory = new Uint8Array(bytes)
    memory.set(fileHeader(id))
    return memory
  }

  /**
   * @param groupBytesMax what a group may take in it, in bytes; 0: nothing is written to it
   * @throws MqError CORRUPT_LOG, STORAGE_FAILED
   */
  static async open(file: JournalFile, groupBytesMax: number): Promise<Journal> {
    return new Journal(file, await file.read(), groupBytesMax)
  }

  /** What a file has, for whoever only reads it. @throws MqError CORRUPT_LOG */
  static of(bytes: Uint8Array): Journal {
    return new Journal(null, bytes, 0)
  }

  /** The last one that it has records of; null: none. */
  get segment(): string | null {
    let last: string | null = null
    for (const { segment } of this.#records()) if (last === null || segment > last) last = segment
    return last
  }

  /**
   * The records of a segment above the number that it names, and behind them the journal goes on.
   * @throws MqError CORRUPT_LOG: one of them can't be read
   */
  recover(segment: string, applied: number): JournalRecord[] {
    const records = [...this.#records()].filter(
      (record) => record.segment === segment && record.number > applied,
    )
    records.sort((a, b) => a.number - b.number)
    this.clear()
    let last = applied
    for (const { number, at, end } of records) {
      if (number !== ++last) {
        const message = `JOURNAL: record ${last} of segment ${segment} can't be read, and later ones are there`
        throw new MqError('CORRUPT_LOG', message)
      }
      this.#half = this.#halves[at < this.#halves[1].start ? 0 : 1]
      this.#half.last = number
      this.#at = end
    }
    return records
  }

  *#records(): Generator<FoundRecord, void> {
    for (let at = blockBytes; at < this.#memory.length; at += blockBytes) {
      const record = readRecord(this.#memory, at)
      if (record !== null) yield record
    }
  }

  /** Whether a group is small enough for it. */
  takes(puts: readonly Put[]): boolean {
    const bytes = recordBytes(puts)
    return bytes <= this.#groupBytesMax && toBlocks(bytes) <= this.#memory.length - this.#halves[1].start
  }

  /** Whether there is room for a group that it takes; else `turn` makes some. */
  hasRoom(puts: readonly Put[]): boolean {
    return toBlocks(this.#at + recordBytes(puts)) <= this.#half.end
  }

  /** Up to which number records must be in the segment before `turn`. */
  get otherLast(): number {
    return this.#other.last
  }

  /** What is written from now on goes to the other half, over what is there. */
  turn(): void {
    this.#half = this.#other
    this.#at = this.#half.start
    this.#half.last = 0
  }

  get #other(): Half {
    return this.#halves[this.#half === this.#halves[0] ? 1 : 0]
  }

  /**
   * Writes a group that it takes and has room for, and resolves once that is on disk.
   * @returns the puts as they lie in its memory: valid until they are overwritten
   * @throws MqError DISK_FULL: the next one goes to the same place; STORAGE_FAILED: the process must stop
   */
  async append(segment: string, number: number, puts: readonly Put[]): Promise<Put[]> {
    const { copies, end } = writeRecord(this.#memory, this.#at, { segment, number, puts })
    const next = toBlocks(end)
    await this.#file!.write(this.#at, this.#memory.subarray(this.#at, next))
    this.#at = next
    this.#half.last = number
    return copies
  }

  /** All that it has is in the segment. */
  clear(): void {
    this.#at = this.#half.start
    for (const half of this.#halves) half.last = 0
  }

  /** Nothing that it has counts any more, whatever segments say: it gets another id. */
  async renew(id: Uint8Array): Promise<void> {
    this.#memory.set(fileHeader(id))
    // Its first sector, which a disk writes whole or not at all.
    await this.#file!.write(0, this.#memory.subarray(0, headerEnd))
    this.clear()
  }

  async close(): Promise<void> {
    await this.#file?.close()
  }
}

interface Half {
  readonly start: number
  readonly end: number
  /** Number of its last record that may not be in the segment yet; 0: none. */
  last: number
}

interface FoundRecord extends JournalRecord {
  readonly at: number
  /** Where the next one may begin. */
  readonly end: number
}

const headerEnd = fileMagic.length + idBytes + 4

function fileHeader(id: Uint8Array): Buffer {
  const header = Buffer.concat([fileMagic, id], headerEnd)
  header.writeUInt32BE(crc32(header.subarray(0, -4)), headerEnd - 4)
  return header
}

function idOf(memory: Buffer): Buffer {
  return memory.subarray(fileMagic.length, fileMagic.length + idBytes)
}

function toBlocks(bytes: number): number {
  return Math.ceil(bytes / blockBytes) * blockBytes
}

function recordBytes(puts: readonly Put[]): number {
  let bytes = headerBytes
  for (const { key, value } of puts) bytes += putHeaderBytes + key.length + value.length
  return bytes
}

function writeRecord(
  into: Buffer,
  at: number,
  { segment, number, puts }: JournalRecord,
): { copies: Put[]; end: number } {
  into.writeUInt32BE(recordMagic, at)
  into.writeUInt32BE(puts.length, at + 12)
  into.set(idOf(into), at + 16)
  into.writeUInt32BE(Number(segment), at + 16 + idBytes)
  writeU64(into, number, at + 20 + idBytes)
  const copies: Put[] = []
  let end = at + headerBytes
  for (const { key, value } of puts) {
    into[end] = key.length
    into.writeUInt32BE(value.length, end + 1)
    const keyAt = end + putHeaderBytes
    const valueAt = keyAt + key.length
    end = valueAt + value.length
    into.set(key, keyAt)
    into.set(value, valueAt)
    copies.push({ key: into.subarray(keyAt, valueAt), value: into.subarray(valueAt, end) })
  }
  into.writeUInt32BE(end - at, at + 8)
  into.writeUInt32BE(crc32(into.subarray(at + 8, end)), at + 4)
  return { copies, end }
}

/** Null: there is none there that verifies. */
function readRecord(from: Buffer, at: number): FoundRecord | null {
  if (from.readUInt32BE(at) !== recordMagic) return null
  if (!from.subarray(at + 16, at + 16 + idBytes).equals(idOf(from))) return null
  const end = at + from.readUInt32BE(at + 8)
  if (end < at + headerBytes || end > from.length) return null
  if (crc32(from.subarray(at + 8, end)) !== from.readUInt32BE(at + 4)) return null
  const puts: Put[] = []
  let next = at + headerBytes
  for (let left = from.readUInt32BE(at + 12); left > 0; left--) {
    if (next + putHeaderBytes > end) return null
    const keyAt = next + putHeaderBytes
    const valueAt = keyAt + from[next]!
    if (valueAt - keyAt > keyBytesMax) return null
    next = valueAt + from.readUInt32BE(keyAt - 4)
    if (next > end) return null
    puts.push({ key: from.subarray(keyAt, valueAt), value: from.subarray(valueAt, next) })
  }
  const segment = String(from.readUInt32BE(at + 16 + idBytes)).padStart(8, '0')
  return { segment, number: readU64(from, at + 20 + idBytes), puts, at, end: toBlocks(end) }
}

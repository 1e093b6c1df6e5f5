/** The entries of one partition's log, in their order, for somebody who wants to know what happened. */
import type { Segment } from '../env.ts'
import { MqError } from '../errors.ts'
import { nextChain } from '../partition/chain.ts'
import {
  CorruptEntry,
  decodeHeader,
  entryLength,
  payloadVerifies,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import { decodeBody, type EntryBody } from '../partition/payload.ts'
import type { Offset } from '../types.ts'
import type { DataDirectory } from './data-directory.ts'
import { copyPrefix, entryPrefix, recordBase } from './partition-log.ts'

export interface DumpedEntry {
  readonly segment: string
  /** It stands in a later segment than it was written to, whose own is gone. */
  readonly isCopy: boolean
  readonly entry: Entry
  /** Null when its payload cannot be read. */
  readonly body: EntryBody | null
  /** What is wrong with it. */
  readonly rot: string | null
}

/** What stands in an entry's place when nothing can be said of it, or when there is none. */
export interface DumpedHole {
  readonly segment: string | null
  readonly offset: Offset
  readonly end: Offset | null
  /** Null: what is not there was settled, and given back. */
  readonly rot: string | null
}

export type Dumped = DumpedEntry | DumpedHole

/** From the entry that holds `from` on. Holds a piece of about a megabyte of each segment that it reads. */
export function* dumpLog(directory: DataDirectory, name: LogName, from: Offset): Generator<Dumped> {
  const log = directory.logOf(name)
  let next: Offset | null = null
  let chain: Uint8Array | null = null
  const sources: Generator<Found>[] = [
    ownRecords(
      directory,
      log.extents.map(({ segment }) => segment),
      log.key.bind(log),
      from,
    ),
    ...log.copies.map(({ segment }) => recordsOf(directory, segment, log.key.bind(log), copyPrefix, from)),
  ]
  for (const record of merged(sources)) {
    // The batch itself is there, and came first; or a copy of it did.
    if (record.isCopy && next !== null && record.base < next) continue
    let at: Offset = record.base
    if (next !== null && record.base > next) yield hole(null, next, record.base)
    if (next !== record.base) chain = null
    for (const found of entriesOf(name, record)) {
      if (!('entry' in found)) {
        chain = null
        yield { ...found, offset: at }
        continue
      }
      const { entry } = found
      at = entry.base + entry.count
      let { rot } = found
      if (chain !== null) {
        const expected = nextChain(chain, entry.epoch, entry.base, entry.crc)
        if (Buffer.compare(expected, entry.chain) !== 0) rot ??= 'its chain does not follow'
      }
      chain = entry.chain
      if (at > from) yield { ...found, rot }
    }
    next = Math.max(at, next ?? 0)
  }
}

function hole(
  rot: string | null,
  offset: Offset,
  end: Offset | null,
  segment: string | null = null,
): DumpedHole {
  return { segment, offset, end, rot }
}

/** A record, in memory of its own. */
interface Found {
  readonly segment: string
  readonly isCopy: boolean
  readonly base: Offset
  readonly record: Buffer
}

function* entriesOf(name: LogName, { segment, isCopy, base, record }: Found): Generator<Dumped> {
  for (let at = 0; at < record.length;) {
    let length: number
    try {
      length = entryLength(record, at)
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      yield hole(`the rest of the record cannot be read: ${error.message}`, base, null, segment)
      return
    }
    let entry: Entry | null = null
    try {
      entry = decodeHeader(name, record, at)
      const isRotten = !payloadVerifies(entry)
      const body = isRotten && entry.kind !== 'batch' ? null : decodeBody(entry, isRotten)
      yield { segment, isCopy, entry, body, rot: isRotten ? 'its payload has rotted' : null }
    } catch (error) {
      if (!(error instanceof CorruptEntry || error instanceof MqError)) throw error
      if (entry === null) yield hole(error.message, base, null, segment)
      else yield { segment, isCopy, entry, body: null, rot: error.message }
    }
    at += length
  }
}

type KeyOf = (base: Offset, prefix?: number) => Buffer

function* ownRecords(
  directory: DataDirectory,
  segments: readonly Segment[],
  keyOf: KeyOf,
  from: Offset,
): Generator<Found> {
  for (const segment of segments) yield* recordsOf(directory, segment, keyOf, entryPrefix, from)
}

const pieceBytes = 1 << 20

/** The records of a segment whose entries are not all below `from`. */
function* recordsOf(
  directory: DataDirectory,
  segment: Segment,
  keyOf: KeyOf,
  prefix: number,
  from: Offset,
): Generator<Found> {
  let start = keyOf(from, prefix)
  directory.reading(segment, () => {
    const before = segment.floor(start)
    if (before !== undefined && Buffer.compare(before.key, keyOf(0, prefix)) >= 0)
      start = Buffer.from(before.key)
  })
  const end = keyOf(Number.MAX_SAFE_INTEGER, prefix)
  for (;;) {
    const piece: Found[] = []
    let bytes = 0
    const visit = (key: Uint8Array, value: Uint8Array): boolean => {
      const record = Buffer.from(value)
      piece.push({ segment: segment.name, isCopy: prefix === copyPrefix, base: recordBase(key), record })
      return (bytes += record.length) < pieceBytes
    }
    directory.reading(segment, () =>
      segment.scan(start, end, visit, (damage) => directory.tellDamage(segment, damage)),
    )
    if (piece.length === 0) return
    yield* piece
    start = keyOf(piece.at(-1)!.base + 1, prefix)
  }
}

/** All of them, by their bases; of equal ones those of an earlier source first. */
function* merged(sources: readonly Generator<Found>[]): Generator<Found> {
  const heads = sources.map((source) => source.next())
  for (;;) {
    let least = -1
    for (const [i, head] of heads.entries()) {
      if (head.done === true) continue
      const other = heads[least]
      if (other === undefined || (other.done !== true && head.value.base < other.value.base)) least = i
    }
    if (least < 0) return
    yield heads[least]!.value as Found
    heads[least] = sources[least]!.next()
  }
}

/** The entry codec: LOG.md's layout, and nothing else. What an entry means is fold.ts's. */
import { crc32 } from 'node:zlib'
import { buffers } from '../buffers.ts'
import { invariant, MqError } from '../errors.ts'
import type { Epoch, Offset, PartitionId, ProducerId, QueueId } from '../types.ts'
import type { BatchView } from '../wire/batch.ts'
import { nextChain } from './chain.ts'

export const entryFormat = 1
export const headerBytes = 96
/** Header bytes before this one are the header's crc and the chain, which that crc does not cover. */
const coveredFrom = 12

export const entryKind = {
  batch: 1,
  settle: 2,
  fail: 3,
  epochStart: 4,
  leases: 5,
  evict: 6,
  quarantine: 7,
  move: 8,
  forwarded: 9,
  redirect: 10,
  forget: 11,
  purge: 16,
} as const

export type EntryKind = keyof typeof entryKind
/** By number; most numbers have none. */
const kindNames: (EntryKind | undefined)[] = []
for (const name of Object.keys(entryKind) as EntryKind[]) kindNames[entryKind[name]] = name

export const noProducer: ProducerId = '\0'.repeat(16)

/** What one partition's log is called, in the forms that the codec and the storage want. */
export interface LogName {
  readonly queueId: QueueId
  readonly partition: PartitionId
  /** Queue id (16 bytes) and partition (u32): what keys begin with and crcs cover. */
  readonly bytes: Uint8Array
  readonly crc: number
}

export function logName(queueId: QueueId, partition: PartitionId): LogName {
  const bytes = Buffer.alloc(20)
  invariant(
    bytes.write(queueId, 'hex') === 16 && queueId.length === 32,
    `queue id ${queueId} is not 16 bytes`,
  )
  bytes.writeUInt32BE(partition, 16)
  return { queueId, partition, bytes, crc: crc32(bytes) }
}

export interface EntryHeader {
  kind: EntryKind
  /** Offsets taken, ≥ 1. */
  count: number
  base: Offset
  epoch: Epoch
  /** Milliseconds since 1970; never less than the previous entry's. */
  timeMs: number
  producerId: ProducerId
  producerEpoch: number
  sequence: number
  opening: Offset
  /**
   * Of a batch: when its messages become ready, in ms since 1970, for those that say nothing of it themselves. 0: at
   * once.
   */
  notBeforeMs: number
  /** Of a batch: some of its messages have delays of their own, which stand in its columns. */
  ownDelays: boolean
  /**
   * Of a batch: it came from another partition's outbox, which stands for the producer; the position of its last output
   * stands in `opening` (epoch), `sequence` (offset) and `producerEpoch` (index).
   */
  isForwarded: boolean
}

/** Flag bits of an entry. */
const flagOwnDelays = 1
const flagForwarded = 2
const flagsKnown = flagOwnDelays | flagForwarded

/** A decoded entry; `bytes`, `payload` and `chain` are views into what was read. */
export interface Entry extends EntryHeader {
  /** Of the header, and so of the whole entry: it covers `payloadCrc`. */
  crc: number
  payloadCrc: number
  chain: Uint8Array
  payload: Uint8Array
  bytes: Buffer
  /** Of a batch, once somebody has been given a part of it: parsed once, not for each of its messages. */
  view: BatchView | null
}

export function writeU64(into: Buffer, value: number, at: number): void {
  into.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at)
  into.writeUInt32BE(value >>> 0, at + 4)
}

export function readU64(from: Buffer, at: number): number {
  return from.readUInt32BE(at) * 0x1_0000_0000 + from.readUInt32BE(at + 4)
}

/**
 * Writes an entry. When the bytes before `payload` are the caller's (`headroom` of them, 96 wanted), the header goes
 * there and nothing is copied: the frame that brought a batch becomes the value on disk. Else both are copied.
 * @param payloadCrc crc32 of `payload`
 * @returns the entry's bytes; its chain is at 4–12
 */
export function encodeEntry(
  name: LogName,
  header: EntryHeader,
  payload: Uint8Array,
  payloadCrc: number,
  previousChain: Uint8Array,
  headroom = 0,
): Buffer {
  let bytes: Buffer
  if (headroom >= headerBytes) {
    bytes = Buffer.from(payload.buffer, payload.byteOffset - headerBytes, headerBytes + payload.length)
  } else {
    bytes = buffers.take(headerBytes + payload.length)
    bytes.set(payload, headerBytes)
  }
  bytes[12] = entryFormat
  bytes[13] = entryKind[header.kind]
  bytes[14] = 0
  bytes[15] = (header.ownDelays ? flagOwnDelays : 0) | (header.isForwarded ? flagForwarded : 0)
  bytes.writeUInt32BE(payload.length, 16)
  bytes.writeUInt32BE(header.count, 20)
  writeU64(bytes, header.base, 24)
  writeU64(bytes, header.epoch, 32)
  writeU64(bytes, header.timeMs, 40)
  bytes.write(header.producerId, 48, 16, 'latin1')
  bytes.writeUInt32BE(header.producerEpoch, 64)
  bytes.writeUInt32BE(payloadCrc, 68)
  writeU64(bytes, header.sequence, 72)
  writeU64(bytes, header.opening, 80)
  writeU64(bytes, header.notBeforeMs, 88)
  const crc = headerCrc(name, bytes)
  bytes.writeUInt32BE(crc, 0)
  bytes.set(nextChain(previousChain, header.epoch, header.base, crc), 4)
  return bytes
}

function headerCrc(name: LogName, bytes: Uint8Array): number {
  return (crc32(bytes.subarray(coveredFrom, headerBytes)) ^ name.crc) >>> 0
}

/** The bytes at `at` can't be an entry of this log: rot, or a reader's mistake. Never served. */
export class CorruptEntry extends Error {
  override readonly name = 'CorruptEntry'
}

/** Length of the entry that begins at `at`, from its header alone. */
export function entryLength(bytes: Buffer, at: number): number {
  if (at + headerBytes > bytes.length) throw new CorruptEntry(`header cut short at ${at} of ${bytes.length}`)
  const length = headerBytes + bytes.readUInt32BE(at + 16)
  if (at + length > bytes.length) throw new CorruptEntry(`payload cut short at ${at} of ${bytes.length}`)
  return length
}

/**
 * Reads and verifies the entry that begins at `at`.
 * @throws CorruptEntry when a crc does not match; MqError NEWER_DATA_FORMAT when they do but the format, kind or
 *   flags are unknown: a newer version wrote it.
 */
export function decodeEntry(name: LogName, record: Buffer, at: number): Entry {
  const entry = decodeHeader(name, record, at)
  if (!payloadVerifies(entry)) {
    throw new CorruptEntry(`the payload of the ${entry.kind} entry at offset ${entry.base} has rotted`)
  }
  return entry
}

export function payloadVerifies(entry: Entry): boolean {
  return crc32(entry.payload) === entry.payloadCrc
}

/** Like `decodeEntry`, but the payload is there unverified: see `payloadVerifies`. */
export function decodeHeader(name: LogName, record: Buffer, at: number): Entry {
  const bytes = record.subarray(at, at + entryLength(record, at))
  if (headerCrc(name, bytes) !== bytes.readUInt32BE(0))
    throw new CorruptEntry(`the header of the entry at offset ${readU64(bytes, 24)} has rotted`)
  return parseEntry(bytes)
}

/**
 * An entry whose bytes were verified before, or are those that were written.
 * @throws MqError NEWER_DATA_FORMAT
 */
export function parseEntry(bytes: Buffer): Entry {
  const kind = kindNames[bytes[13]!]
  const flags = bytes.readUInt16BE(14)
  if (bytes[12] !== entryFormat || kind === undefined || (flags & ~flagsKnown) !== 0) {
    throw new MqError(
      'NEWER_DATA_FORMAT',
      `entry of format ${bytes[12]}, kind ${bytes[13]}, flags ${flags}: written by a newer version`,
    )
  }
  return {
    kind,
    count: bytes.readUInt32BE(20),
    base: readU64(bytes, 24),
    epoch: readU64(bytes, 32),
    timeMs: readU64(bytes, 40),
    producerId: bytes.toString('latin1', 48, 64),
    producerEpoch: bytes.readUInt32BE(64),
    sequence: readU64(bytes, 72),
    opening: readU64(bytes, 80),
    notBeforeMs: readU64(bytes, 88),
    ownDelays: (flags & flagOwnDelays) !== 0,
    isForwarded: (flags & flagForwarded) !== 0,
    crc: bytes.readUInt32BE(0),
    payloadCrc: bytes.readUInt32BE(68),
    chain: bytes.subarray(4, 12),
    payload: bytes.subarray(headerBytes),
    bytes,
    view: null,
  }
}

/**
 * What a reader that only needs to find its way may trust before the crc is checked: nothing. Base and count.
 * @throws CorruptEntry when there is no room for it
 */
export function peekEntry(record: Buffer, at: number): { base: Offset; count: number; length: number } {
  const length = entryLength(record, at)
  return { base: readU64(record, at + 24), count: record.readUInt32BE(at + 20), length }
}

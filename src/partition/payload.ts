/** Payloads of the entries that are not batches, as LOG.md lays them out: one msgpack array each. */
import type { Epoch, LeaseId, Offset, OutputPosition, ProducerId } from '../types.ts'
import { integerColumn, readBatch } from '../wire/batch.ts'
import { pack, unpack } from '../wire/msgpack.ts'
import { CorruptEntry, type Entry, type EntryHeader } from './entry.ts'
import { movedBecause, type Moved, type Target } from './outbox.ts'

/**
 * Flat `offset, count, …`, in the order in which they were decided: that of a settle's items, that in which leases ran
 * out. No message is in two of them, but for what a settle refused, where a client may have named it twice.
 */
export type Ranges = number[]

/** Adds `[start, end)`, to the last range if it goes on from there. */
export function pushRange(ranges: Ranges, start: Offset, end: Offset): void {
  if (start >= end) return
  const last = ranges.length - 2
  if (last >= 0 && ranges[last]! + ranges[last + 1]! === start) ranges[last + 1]! += end - start
  else ranges.push(start, end - start)
}

/** A lease as a planned stop writes it down. */
export interface HandedLease {
  lease: LeaseId
  epoch: Epoch
  /** Flat `offset, count, expiry in ms since 1970, …`. */
  ranges: number[]
}

export const failCause = { expired: 0 } as const

/** What a settle does with the messages that its leases hold: as the wire's `settleAction`. */
export const settledBy = { ack: 0, nack: 1, release: 2, deadLetter: 3 } as const

export type EntryBody =
  | {
      kind: 'batch'
      payloadCrc: number
      /** Flat `offset, count, notBefore, …` where messages have delays of their own; null: the header's for all. */
      delays: number[] | null
    }
  | {
      kind: 'settle'
      action: number
      settled: Ranges
      refused: Ranges | null
      requestCrc: number
      reason: string | null
      /** For each settled range: when it becomes ready again, in ms since 1970, 0 at once. null: all at once. */
      notBefore: number[] | null
      /** What leaves for the dead-letter queue: not among the settled. */
      moved: Moved | null
    }
  | { kind: 'fail'; cause: number; ranges: Ranges; notBefore: number[] | null; moved: Moved | null }
  | { kind: 'epochStart'; previous: Epoch }
  | { kind: 'leases'; nextLease: LeaseId; leases: HandedLease[] }
  | { kind: 'evict'; floor: Offset; producers: ProducerId[] }
  | { kind: 'quarantine'; ranges: Ranges }
  | { kind: 'purge'; ranges: Ranges }
  | { kind: 'move'; moved: Moved }
  | { kind: 'forwarded'; target: Target; position: OutputPosition }
  | { kind: 'redirect'; from: Target; to: Target | null }
  | { kind: 'forget'; sources: ProducerId[] }

export function encodeBody(body: Exclude<EntryBody, { kind: 'batch' }>): Uint8Array {
  switch (body.kind) {
    case 'settle':
      return pack([
        body.action,
        body.settled,
        body.refused,
        body.requestCrc,
        body.reason,
        body.notBefore,
        body.moved && movedFields(body.moved),
      ])
    case 'fail':
      return pack([body.cause, body.ranges, body.notBefore, null, body.moved && movedFields(body.moved)])
    case 'epochStart':
      return pack([body.previous])
    case 'leases':
      return pack([body.nextLease, body.leases.map((l) => [l.lease, l.epoch, l.ranges])])
    case 'evict':
      return pack([body.floor, body.producers.map((id) => Buffer.from(id, 'latin1'))])
    case 'quarantine':
    case 'purge':
      return pack([body.ranges])
    case 'move':
      return pack([movedFields(body.moved)])
    case 'forwarded': {
      const { epoch, offset, index } = body.position
      return pack([targetFields(body.target), epoch, offset, index])
    }
    case 'redirect':
      return pack([targetFields(body.from), body.to && targetFields(body.to)])
    case 'forget':
      return pack([body.sources.map((id) => Buffer.from(id, 'latin1'))])
  }
}

/**
 * The entry's crc has been verified: what does not fit here was written wrong, and the partition halts.
 * @param rotten the payload of a batch does not verify. Nobody will ever get its messages, so their own delays do not
 *   matter.
 */
export function decodeBody(entry: Entry, rotten = false): EntryBody {
  if (entry.kind === 'batch') {
    const delays = entry.ownDelays && !rotten ? storedDelays(entry) : null
    return { kind: 'batch', payloadCrc: entry.payloadCrc, delays }
  }
  const fields = list(unpacked(entry), entry)
  switch (entry.kind) {
    case 'settle': {
      const settled = ranges(fields[1], entry)
      return {
        kind: 'settle',
        action: integer(fields[0], entry),
        settled,
        refused: fields[2] === null ? null : integers(fields[2], entry),
        requestCrc: integer(fields[3], entry),
        reason: text(fields[4], entry),
        notBefore: times(fields[5], settled, entry),
        moved: movedOf(fields[6], entry),
      }
    }
    case 'fail': {
      const failed = ranges(fields[1], entry)
      return {
        kind: 'fail',
        cause: integer(fields[0], entry),
        ranges: failed,
        notBefore: times(fields[2], failed, entry),
        moved: movedOf(fields[4], entry),
      }
    }
    case 'epochStart':
      return { kind: 'epochStart', previous: integer(fields[0], entry) }
    case 'leases':
      return {
        kind: 'leases',
        nextLease: integer(fields[0], entry),
        leases: list(fields[1], entry).map((item) => {
          const [lease, epoch, held] = list(item, entry)
          return { lease: integer(lease, entry), epoch: integer(epoch, entry), ranges: triples(held, entry) }
        }),
      }
    case 'evict':
      return {
        kind: 'evict',
        floor: integer(fields[0], entry),
        producers: list(fields[1], entry).map((id) => bytes16(id, entry).toString('latin1')),
      }
    case 'purge':
      return { kind: 'purge', ranges: ranges(fields[0], entry) }
    case 'quarantine':
      return { kind: 'quarantine', ranges: ranges(fields[0], entry) }
    case 'move': {
      const moved = movedOf(fields[0], entry)
      if (moved === null) throw malformed(entry)
      return { kind: 'move', moved }
    }
    case 'forwarded': {
      const [, epoch, offset, index] = fields.map((field, i) => (i === 0 ? 0 : integer(field, entry)))
      if (index === undefined) throw malformed(entry)
      return {
        kind: 'forwarded',
        target: targetOf(fields[0], entry),
        position: { epoch: epoch!, offset: offset!, index },
      }
    }
    case 'redirect':
      return {
        kind: 'redirect',
        from: targetOf(fields[0], entry),
        to: fields[1] === null ? null : targetOf(fields[1], entry),
      }
    case 'forget':
      return {
        kind: 'forget',
        sources: list(fields[0], entry).map((id) => bytes16(id, entry).toString('latin1')),
      }
  }
}

/**
 * When the messages of a batch with delays of their own become ready: flat `offset, count, notBefore, …`, without
 * those that are ready at once.
 */
export function delaysOf(
  batch: Uint8Array,
  { base, timeMs, notBeforeMs }: Pick<EntryHeader, 'base' | 'timeMs' | 'notBeforeMs'>,
): number[] {
  const view = readBatch(batch)
  const deliverAts = integerColumn(view, 'deliverAt')
  const ownDelays = integerColumn(view, 'delay')
  const delays: number[] = []
  for (let i = 0; i < view.count; i++) {
    const delay = ownDelays?.[i] ?? null
    const notBefore = deliverAts?.[i] ?? (delay === null ? notBeforeMs : timeMs + delay)
    if (notBefore <= timeMs) continue
    const last = delays.length - 3
    if (last >= 0 && delays[last]! + delays[last + 1]! === base + i && delays[last + 2] === notBefore) {
      delays[last + 1]!++
    } else delays.push(base + i, 1, notBefore)
  }
  return delays
}

function storedDelays(entry: Entry): number[] {
  try {
    return delaysOf(entry.payload, entry)
  } catch {
    throw malformed(entry)
  }
}

function malformed(entry: Entry): CorruptEntry {
  return new CorruptEntry(`the ${entry.kind} entry at offset ${entry.base} is malformed`)
}

/** What msgpack itself can't read is malformed too: nothing but CorruptEntry may leave here. */
function unpacked(entry: Entry): unknown {
  try {
    return unpack(entry.payload)
  } catch {
    throw malformed(entry)
  }
}

function list(value: unknown, entry: Entry): unknown[] {
  if (!Array.isArray(value)) throw malformed(entry)
  return value
}

function integer(value: unknown, entry: Entry): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw malformed(entry)
  return value
}

function bytes16(value: unknown, entry: Entry): Buffer {
  if (!(value instanceof Uint8Array) || value.length !== 16) throw malformed(entry)
  return Buffer.from(value)
}

function targetFields({ queueId, partition }: Target): unknown[] {
  return [Buffer.from(queueId, 'hex'), partition]
}

function targetOf(value: unknown, entry: Entry): Target {
  const [queueId, partition] = list(value, entry)
  return { queueId: bytes16(queueId, entry).toString('hex'), partition: integer(partition, entry) }
}

function movedFields({ why, target, error, ranges }: Moved): unknown[] {
  return [why, targetFields(target), error, ranges]
}

function movedOf(value: unknown, entry: Entry): Moved | null {
  if (value === null) return null
  const [why, target, error, moving] = list(value, entry)
  const moved = {
    why: integer(why, entry),
    target: targetOf(target, entry),
    error: text(error, entry),
    ranges: ranges(moving, entry),
  }
  if (moved.why > movedBecause.redriven) throw malformed(entry)
  return moved
}

function integers(value: unknown, entry: Entry): number[] {
  return list(value, entry).map((n) => integer(n, entry))
}

function ranges(value: unknown, entry: Entry): Ranges {
  const flat = integers(value, entry)
  if (flat.length % 2 !== 0) throw malformed(entry)
  for (let i = 0; i < flat.length; i += 2) assertRange(flat[i]!, flat[i + 1]!, entry)
  return flat
}

function text(value: unknown, entry: Entry): string | null {
  if (value !== null && typeof value !== 'string') throw malformed(entry)
  return value
}

/** One time for each range, or null. */
function times(value: unknown, of: Ranges, entry: Entry): number[] | null {
  if (value === null) return null
  const each = integers(value, entry)
  if (2 * each.length !== of.length) throw malformed(entry)
  return each
}

function triples(value: unknown, entry: Entry): number[] {
  const flat = integers(value, entry)
  if (flat.length % 3 !== 0) throw malformed(entry)
  for (let i = 0; i < flat.length; i += 3) assertRange(flat[i]!, flat[i + 1]!, entry)
  return flat
}

function assertRange(start: number, count: number, entry: Entry): void {
  if (count < 1 || !Number.isSafeInteger(start + count)) throw malformed(entry)
}

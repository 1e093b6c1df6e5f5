/** Payloads of the entries that are not batches, as LOG.md lays them out: one msgpack array each. */
import type { Epoch, LeaseId, Offset, ProducerId } from '../types.ts'
import { pack, unpack } from '../wire/msgpack.ts'
import { CorruptEntry, type Entry } from './entry.ts'

/**
 * Flat `offset, count, …`, in the order in which they were decided: that of a settle's items, that in which leases ran
 * out. No message is in two of them, but for what a settle refused, where a client may have named it twice.
 */
export type Ranges = number[]

/** A lease as a planned stop writes it down. */
export interface HandedLease {
  lease: LeaseId
  epoch: Epoch
  /** Flat `offset, count, expiry in ms since 1970, …`. */
  ranges: number[]
}

export const failCause = { expired: 0, nack: 1 } as const

export type EntryBody =
  | { kind: 'batch'; payloadCrc: number }
  | { kind: 'settle'; action: number; settled: Ranges; refused: Ranges | null; requestCrc: number }
  | { kind: 'fail'; cause: number; ranges: Ranges }
  | { kind: 'epochStart'; previous: Epoch }
  | { kind: 'leases'; nextLease: LeaseId; leases: HandedLease[] }
  | { kind: 'evict'; floor: Offset; producers: ProducerId[] }
  | { kind: 'quarantine'; ranges: Ranges }
  | { kind: 'purge'; ranges: Ranges }

export function encodeBody(body: Exclude<EntryBody, { kind: 'batch' }>): Uint8Array {
  switch (body.kind) {
    case 'settle':
      return pack([body.action, body.settled, body.refused, body.requestCrc, null, null])
    case 'fail':
      return pack([body.cause, body.ranges, null, null])
    case 'epochStart':
      return pack([body.previous])
    case 'leases':
      return pack([body.nextLease, body.leases.map((l) => [l.lease, l.epoch, l.ranges])])
    case 'evict':
      return pack([body.floor, body.producers.map((id) => Buffer.from(id, 'latin1'))])
    case 'quarantine':
    case 'purge':
      return pack([body.ranges])
  }
}

/** The entry's crc has been verified: what does not fit here was written wrong, and the partition halts. */
export function decodeBody(entry: Entry): EntryBody {
  if (entry.kind === 'batch') return { kind: 'batch', payloadCrc: entry.payloadCrc }
  const fields = list(unpacked(entry), entry)
  switch (entry.kind) {
    case 'settle':
      return {
        kind: 'settle',
        action: integer(fields[0], entry),
        settled: ranges(fields[1], entry),
        refused: fields[2] === null ? null : integers(fields[2], entry),
        requestCrc: integer(fields[3], entry),
      }
    case 'fail':
      return { kind: 'fail', cause: integer(fields[0], entry), ranges: ranges(fields[1], entry) }
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
        producers: list(fields[1], entry).map((id) => {
          if (!(id instanceof Uint8Array) || id.length !== 16) throw malformed(entry)
          return Buffer.from(id).toString('latin1')
        }),
      }
    case 'purge':
      return { kind: 'purge', ranges: ranges(fields[0], entry) }
    case 'quarantine':
      return { kind: 'quarantine', ranges: ranges(fields[0], entry) }
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

function integers(value: unknown, entry: Entry): number[] {
  return list(value, entry).map((n) => integer(n, entry))
}

function ranges(value: unknown, entry: Entry): Ranges {
  const flat = integers(value, entry)
  if (flat.length % 2 !== 0) throw malformed(entry)
  for (let i = 0; i < flat.length; i += 2) assertRange(flat[i]!, flat[i + 1]!, entry)
  return flat
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

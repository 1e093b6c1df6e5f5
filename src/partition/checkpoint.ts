/**
 * A checkpoint: the fold of a log up to one offset, as LOG.md lays it out.
 *
 *   capture (at once) → pieces (over as many turns as it takes) → on its way to the disk
 *
 * Entries go on being applied while the pieces are made, and the checkpoint must be the fold at one offset exactly.
 * So nothing that a capture refers to is ever changed: range maps copy the chunk that they are to change (their
 * `snapshot`), outcomes, positions and outputs are replaced, not written to, and lists of them are copied here. A
 * capture costs pointers, not ranges.
 */
import { MqError } from '../errors.ts'
import type { Epoch, LeaseId, Offset, OutputPosition, ProducerId } from '../types.ts'
import { pack, PartReader } from '../wire/msgpack.ts'
import { CorruptEntry } from './entry.ts'
import { PartitionState, refusedNumbersOf, type Outcome, type ProducerState } from './fold.ts'
import {
  fieldsOf,
  Outbox,
  positionOf,
  type Destination,
  type Outputs,
  type StoredDestination,
  type StoredPosition,
} from './outbox.ts'
import type { HandedLease } from './payload.ts'
import { RangeMap, type RangeSnapshot } from './range-map.ts'

const checkpointVersion = 3
const fieldCount = 14

/** What one piece holds at most of runs, outcomes, or whatever else there may be many of; one item more, perhaps. */
export const itemsPerPieceMax = 4096

/** A state at one offset, which does not change any more. */
export interface Capture {
  readonly firstSegment: string
  readonly logEnd: Offset
  readonly epoch: Epoch
  readonly chain: Uint8Array
  readonly timeMs: number
  readonly live: RangeSnapshot
  readonly quarantined: RangeSnapshot
  readonly delayed: RangeSnapshot
  readonly floor: Offset
  readonly producers: readonly (readonly [ProducerId, Readonly<ProducerState>])[]
  readonly handedOver: { readonly nextLease: LeaseId; readonly leases: readonly HandedLease[] } | null
  readonly sources: readonly (readonly [ProducerId, OutputPosition])[]
  readonly outbox: readonly Readonly<Destination>[]
}

/** @param firstSegment the first that may hold entries from the state's log end up */
export function capture(state: PartitionState, firstSegment: string): Capture {
  const { logEnd, epoch, chain, timeMs, floor, handedOver } = state
  return {
    firstSegment,
    logEnd,
    epoch,
    chain,
    timeMs,
    live: state.live.snapshot(),
    quarantined: state.quarantined.snapshot(),
    delayed: state.delayed.snapshot(),
    floor,
    producers: Array.from(
      state.producers,
      ([id, p]) => [id, { ...p, outcomes: p.outcomes.slice() }] as const,
    ),
    handedOver,
    sources: [...state.sources],
    outbox: Array.from(state.outbox.destinations.values(), (d) => ({ ...d, pending: d.pending.slice() })),
  }
}

/** The checkpoint, without its crc, in pieces of bounded work. */
export function* piecesOf(captured: Capture): Generator<Uint8Array, void, void> {
  const { firstSegment, logEnd, epoch, chain, timeMs, handedOver } = captured
  const head = [checkpointVersion, firstSegment, logEnd, epoch, chain, timeMs]
  yield Buffer.concat([headerOfList(fieldCount), itemsOf(head)])
  yield* runs(captured.live)
  yield* runs(captured.quarantined)
  yield* runs(captured.delayed)
  yield pack(captured.floor)
  yield* list(captured.producers, ([, { outcomes }]) => 1 + outcomes.length, producerFields)
  if (handedOver === null) yield pack(null)
  else {
    yield Buffer.concat([headerOfList(2), pack(handedOver.nextLease)])
    const leaseFields = ({ lease, epoch, ranges }: HandedLease): unknown => [lease, epoch, ranges]
    yield* list(handedOver.leases, ({ ranges }) => 1 + ranges.length / 3, leaseFields)
  }
  yield* list(
    captured.sources,
    () => 1,
    ([id, position]) => [Buffer.from(id, 'latin1'), ...fieldsOf(position)],
  )
  yield headerOfList(captured.outbox.length)
  for (const { target, last, issued, pending } of captured.outbox) {
    const fields = [Buffer.from(target.queueId, 'hex'), target.partition, fieldsOf(last), fieldsOf(issued)]
    yield Buffer.concat([headerOfList(5), itemsOf(fields)])
    yield* list(pending, ({ ranges }) => 1 + ranges.length / 4, outputsFields)
  }
}

/** All of a checkpoint at once, for whoever has nobody to serve meanwhile. */
export function encodeCheckpoint(state: PartitionState, firstSegment: string): Uint8Array {
  return Buffer.concat([...piecesOf(capture(state, firstSegment))])
}

function producerFields([id, p]: readonly [ProducerId, Readonly<ProducerState>]): unknown {
  return [Buffer.from(id, 'latin1'), p.epoch, p.opening, p.lastUsedMs, p.outcomes.map(outcomeFields)]
}

function outcomeFields(o: Outcome): unknown {
  return o.count > 0
    ? [o.sequence, o.epoch, o.base, o.count, o.crc]
    : [o.sequence, o.epoch, o.base, 0, o.crc, o.refused]
}

function outputsFields({ epoch, offset, why, error, timeMs, ranges }: Outputs): unknown {
  return [epoch, offset, why, error, timeMs, ranges]
}

/** @param weigh how much work an item is */
function* list<T>(
  items: readonly T[],
  weigh: (item: T) => number,
  fields: (item: T) => unknown,
): Generator<Uint8Array, void, void> {
  yield headerOfList(items.length)
  let group: unknown[] = []
  let weight = 0
  for (const item of items) {
    group.push(fields(item))
    weight += weigh(item)
    if (weight < itemsPerPieceMax) continue
    yield itemsOf(group)
    group = []
    weight = 0
  }
  if (group.length > 0) yield itemsOf(group)
}

/** One after the other, as they stand in a list. */
function itemsOf(values: readonly unknown[]): Uint8Array {
  return pack(values).subarray(headerOfList(values.length).length)
}

function headerOfList(length: number): Uint8Array {
  if (length < 16) return Uint8Array.of(0x90 | length)
  if (length < 0x1_0000) return Uint8Array.of(0xdc, length >>> 8, length)
  return Uint8Array.of(0xdd, length >>> 24, length >>> 16, length >>> 8, length)
}

/** A list of all runs as start, end, value, … */
function* runs({ runs: count, chunks }: RangeSnapshot): Generator<Uint8Array, void, void> {
  yield headerOfList(3 * count)
  for (let c = 0; c < chunks.length;) {
    const first = c
    let inPiece = 0
    for (; c < chunks.length && inPiece < itemsPerPieceMax; c++) inPiece += chunks[c]!.count
    if (inPiece === 0) continue
    const bytes = Buffer.allocUnsafe(inPiece * 3 * integerBytesMax)
    let at = 0
    for (let i = first; i < c; i++) {
      const chunk = chunks[i]!
      for (let n = 0; n < chunk.count * 3; n++) at = writeInteger(bytes, chunk.runs[n]!, at)
    }
    yield Uint8Array.prototype.slice.call(bytes, 0, at)
  }
}

const integerBytesMax = 9

/** As `pack` writes it. @returns the position behind it */
function writeInteger(bytes: Buffer, value: number, at: number): number {
  if (value < 0x80) {
    bytes[at] = value
    return at + 1
  }
  if (value < 0x100) {
    bytes[at] = 0xcc
    bytes[at + 1] = value
    return at + 2
  }
  if (value < 0x1_0000) {
    bytes[at] = 0xcd
    bytes[at + 1] = value >>> 8
    bytes[at + 2] = value
    return at + 3
  }
  if (value < 0x1_0000_0000) {
    bytes[at] = 0xce
    bytes[at + 1] = value >>> 24
    bytes[at + 2] = value >>> 16
    bytes[at + 3] = value >>> 8
    bytes[at + 4] = value
    return at + 5
  }
  bytes[at] = 0xcb
  return bytes.writeDoubleBE(value, at + 1)
}

/** Without a list of the numbers in between: there may be millions. */
function readRuns(fields: PartReader): RangeMap {
  return RangeMap.read(fields.list(), () => fields.integer())
}

/**
 * @throws CorruptEntry when the bytes, whose crc the caller has verified, do not hold a checkpoint; MqError
 *   NEWER_DATA_FORMAT
 */
export function decodeCheckpoint(bytes: Uint8Array): { state: PartitionState; firstSegment: string } {
  try {
    const fields = new PartReader(bytes)
    const count = fields.list()
    const version = fields.next()
    if (version !== checkpointVersion) {
      throw new MqError(
        'NEWER_DATA_FORMAT',
        `checkpoint of version ${String(version)}: written by a newer version`,
      )
    }
    if (count !== fieldCount) throw new CorruptEntry(`${count} fields`)
    const firstSegment = fields.next() as string
    const state = new PartitionState()
    state.logEnd = fields.integer()
    state.epoch = fields.integer()
    state.chain = Uint8Array.from(fields.next() as Uint8Array)
    state.timeMs = fields.integer()
    state.live = readRuns(fields)
    state.quarantined = readRuns(fields)
    state.delayed = readRuns(fields)
    state.floor = fields.integer()
    const producers = fields.next() as [
      ...[Uint8Array, number, number, number],
      (number | number[] | null)[][],
    ][]
    for (const p of producers) {
      state.producers.set(Buffer.from(p[0]).toString('latin1'), {
        epoch: p[1],
        opening: p[2],
        lastUsedMs: p[3],
        outcomes: p[4].map((o) => ({
          sequence: o[0] as number,
          epoch: o[1] as number,
          base: o[2] as number,
          count: o[3] as number,
          crc: o[4] as number,
          refused: (o[5] as number[] | null | undefined) ?? null,
        })),
      })
    }
    for (const { outcomes } of state.producers.values()) state.refusedNumbers += refusedNumbersOf(outcomes)
    const handed = fields.next() as [number, [number, number, number[]][]] | null
    if (handed !== null) {
      state.handedOver = {
        nextLease: handed[0],
        leases: handed[1].map(([lease, epoch, ranges]) => ({ lease, epoch, ranges })),
      }
    }
    for (const [id, ...position] of fields.next() as [Uint8Array, ...StoredPosition][]) {
      state.sources.set(Buffer.from(id).toString('latin1'), positionOf(position))
    }
    state.outbox = Outbox.decode(fields.next() as StoredDestination[])
    return { state, firstSegment }
  } catch (cause) {
    if (cause instanceof MqError && cause.code !== 'INVALID_FIELD') throw cause
    throw new CorruptEntry(`not a checkpoint: ${String(cause)}`)
  }
}

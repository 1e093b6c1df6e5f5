/**
 * The outbox of a partition, as the fold keeps it: messages that have left the queue and are to be sent to another
 * partition, in order, each once.
 *
 *   moved by an entry → forwarded, as the wire's FORWARD, until the target has them → done by an entry
 *
 * Each is an output with a position: epoch and offset of the entry that moved it, and its index among that entry's
 * outputs. The target remembers the position of the last one it took, so a forward that comes twice does nothing. A
 * position is given to one output only, for ever: what is redirected is issued anew, by the entry that redirects it.
 */
import { createHash } from 'node:crypto'
import type { Epoch, Offset, OutputPosition, PartitionId, ProducerId, QueueId } from '../types.ts'
import { invariant } from '../errors.ts'
import { RangeMap } from './range-map.ts'

/** A partition of a queue, to which outputs go. */
export interface Target {
  readonly queueId: QueueId
  readonly partition: PartitionId
}

/** The queue's dead-letter queue, while there is none. */
export const nowhere: Target = { queueId: '0'.repeat(32), partition: 0 }

export function sameTarget(a: Target, b: Target): boolean {
  return a.partition === b.partition && a.queueId === b.queueId
}

/** Why a message moves. */
export const movedBecause = { maxDeliveries: 0, rejected: 1, redriven: 2 } as const

/** Messages that one entry moves. */
export interface Moved {
  /** One of `movedBecause`. */
  why: number
  target: Target
  error: string | null
  /** Flat `offset, count, …`. */
  ranges: number[]
}

/** Before the first output. */
export const noPosition: OutputPosition = { epoch: 0, offset: 0, index: 0 }

export function comparePositions(a: OutputPosition, b: OutputPosition): number {
  return a.epoch - b.epoch || a.offset - b.offset || a.index - b.index
}

/** By what a target knows a source: see PROTOCOL.md, FORWARD. */
export function sourceId({ queueId, partition }: Target): ProducerId {
  const name = Buffer.alloc(26)
  name.write('outbox', 0, 'latin1')
  name.write(queueId, 6, 'hex')
  name.writeUInt32BE(partition, 22)
  return createHash('sha256').update(name).digest().toString('latin1', 0, 16)
}

/** Outputs that one entry issued and that are not done. Replaced, never changed: a checkpoint under way may have it. */
export interface Outputs {
  readonly epoch: Epoch
  readonly offset: Offset
  readonly why: number
  readonly error: string | null
  /** When they were moved, in ms since 1970. */
  readonly timeMs: number
  /** Flat `start, count, deliveries, index of the first, …`; never empty, indexes rise. */
  readonly ranges: readonly number[]
}

export interface Destination {
  readonly target: Target
  /** Of the last output that is done. */
  last: OutputPosition
  /** Of the newest output there ever was; the target can't know a later one. */
  issued: OutputPosition
  /** In the order of their positions. */
  pending: Outputs[]
}

const perRange = 4

export class Outbox {
  readonly #destinations = new Map<string, Destination>()
  /** Messages that wait: their batches stay. */
  readonly #moving = new RangeMap()

  /** Those that had outputs, with or without any now. */
  get destinations(): ReadonlyMap<string, Destination> {
    return this.#destinations
  }

  /** Messages that are not forwarded yet. */
  get moving(): RangeMap {
    return this.#moving
  }

  get isEmpty(): boolean {
    return this.#destinations.size === 0
  }

  destination(target: Target): Destination | undefined {
    return this.#destinations.get(keyOf(target))
  }

  /**
   * @param entry the one that moves them
   * @param taken what of the ranges leaves the queue: flat `start, end, deliveries, …`
   */
  move(moved: Moved, taken: readonly number[], entry: { epoch: Epoch; base: Offset; timeMs: number }): void {
    const ranges: number[] = []
    let index = 0
    for (let i = 0; i < taken.length; i += 3) {
      const [start, end, deliveries] = [taken[i]!, taken[i + 1]!, taken[i + 2]!]
      ranges.push(start, end - start, deliveries, index)
      index += end - start
      this.#moving.set(start, end)
    }
    if (ranges.length === 0) return
    const { why, error, target } = moved
    const { epoch, base: offset, timeMs } = entry
    issue(this.#at(target), { epoch, offset, why, error, timeMs, ranges })
  }

  /** Outputs up to `position` are done. */
  forwarded(target: Target, position: OutputPosition): void {
    const destination = this.#at(target)
    invariant(comparePositions(position, destination.last) >= 0, 'what was forwarded stays so')
    destination.last = position
    const { pending } = destination
    let done = 0
    while (done < pending.length) {
      const outputs = pending[done]!
      if (comparePositions(endOf(outputs), position) > 0) {
        pending[done] = this.#trimmed(outputs, position)
        break
      }
      for (let i = 0; i < outputs.ranges.length; i += perRange) {
        this.#moving.delete(outputs.ranges[i]!, outputs.ranges[i]! + outputs.ranges[i + 1]!)
      }
      done++
    }
    pending.splice(0, done)
  }

  /** What is left of an entry's outputs; the part that is done leaves. */
  #trimmed(outputs: Outputs, position: OutputPosition): Outputs {
    if (outputs.epoch !== position.epoch || outputs.offset !== position.offset) return outputs
    const left: number[] = []
    const { ranges } = outputs
    for (let i = 0; i < ranges.length; i += perRange) {
      const [start, count, deliveries, first] = [ranges[i]!, ranges[i + 1]!, ranges[i + 2]!, ranges[i + 3]!]
      const done = Math.min(count, Math.max(0, position.index + 1 - first))
      this.#moving.delete(start, start + done)
      if (done < count) left.push(start + done, count - done, deliveries, first + done)
    }
    return { ...outputs, ranges: left }
  }

  /**
   * What waits for `from` is issued anew, for `to`, or comes back: redriven messages always do.
   * @returns what comes back: flat `start, count, number of the next delivery, …`
   */
  redirect(from: Target, to: Target | null, entry: { epoch: Epoch; base: Offset }): number[] {
    const destination = this.destination(from)
    if (destination === undefined) return []
    this.#destinations.delete(keyOf(from))
    const back = comingBack(destination, to)
    for (let i = 0; i < back.length; i += 3) this.#moving.delete(back[i]!, back[i]! + back[i + 1]!)
    let index = 0
    for (const { why, error, timeMs, ranges } of destination.pending) {
      if (to === null || why === movedBecause.redriven) continue
      const anew: number[] = []
      for (let i = 0; i < ranges.length; i += perRange) {
        anew.push(ranges[i]!, ranges[i + 1]!, ranges[i + 2]!, index)
        index += ranges[i + 1]!
      }
      const { epoch, base: offset } = entry
      issue(this.#at(to), { epoch, offset, why, error, timeMs, ranges: anew })
    }
    return back
  }

  /** Messages in `[start, end)` that can't be read any more are nobody's output. @returns them: flat `start, end, …` */
  remove(start: Offset, end: Offset): number[] {
    const gone: number[] = []
    this.#moving.forEachIn(start, end, (from, to) => gone.push(from, to))
    if (gone.length === 0) return gone
    this.#moving.delete(start, end)
    for (const destination of this.#destinations.values()) {
      destination.pending = destination.pending
        .map((outputs) => ({ ...outputs, ranges: without(outputs.ranges, start, end) }))
        .filter(({ ranges }) => ranges.length > 0)
    }
    return gone
  }

  #at(target: Target): Destination {
    const key = keyOf(target)
    let destination = this.#destinations.get(key)
    if (destination === undefined) {
      destination = { target, last: noPosition, issued: noPosition, pending: [] }
      this.#destinations.set(key, destination)
    }
    return destination
  }

  /** From a checkpoint. */
  static decode(stored: readonly StoredDestination[]): Outbox {
    const outbox = new Outbox()
    for (const [queueId, partition, last, issued, pending] of stored) {
      const destination = outbox.#at({ queueId: Buffer.from(queueId).toString('hex'), partition })
      destination.last = positionOf(last)
      destination.issued = positionOf(issued)
      destination.pending = pending.map(([epoch, offset, why, error, timeMs, ranges]) => {
        for (let i = 0; i < ranges.length; i += perRange)
          outbox.#moving.set(ranges[i]!, ranges[i]! + ranges[i + 1]!)
        return { epoch, offset, why, error, timeMs, ranges }
      })
    }
    return outbox
  }

  /** Throws when it contradicts itself. For tests and the simulator: it costs as much as it is large. */
  checkInvariants(): void {
    this.#moving.checkInvariants()
    const rest = this.#moving.clone()
    for (const { last, issued, pending } of this.#destinations.values()) {
      let before = last
      for (const outputs of pending) {
        const { epoch, offset, ranges } = outputs
        invariant(ranges.length > 0, 'outputs that wait are some')
        for (let i = 0; i < ranges.length; i += perRange) {
          const position = { epoch, offset, index: ranges[i + 3]! }
          invariant(comparePositions(before, position) < 0, 'outputs are in order')
          before = { epoch, offset, index: position.index + ranges[i + 1]! - 1 }
          invariant(rest.covers(ranges[i]!, ranges[i]! + ranges[i + 1]!), 'an output waits once')
          rest.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
        }
      }
      invariant(comparePositions(before, issued) <= 0, 'no output is newer than the newest')
    }
    invariant(rest.isEmpty, 'what moves is somebody’s output')
  }
}

export type StoredDestination = [
  queueId: Uint8Array,
  partition: PartitionId,
  last: StoredPosition,
  issued: StoredPosition,
  pending: [Epoch, Offset, number, string | null, number, number[]][],
]

export type StoredPosition = [Epoch, Offset, number]

export function fieldsOf({ epoch, offset, index }: OutputPosition): StoredPosition {
  return [epoch, offset, index]
}

export function positionOf([epoch, offset, index]: StoredPosition): OutputPosition {
  return { epoch, offset, index }
}

function issue(destination: Destination, outputs: Outputs): void {
  destination.pending.push(outputs)
  destination.issued = endOf(outputs)
}

/** What a redirection to `to` would bring back: flat `start, count, number of the next delivery, …`. */
export function comingBack(destination: Destination, to: Target | null): number[] {
  const back: number[] = []
  for (const { why, ranges } of destination.pending) {
    const isRedriven = why === movedBecause.redriven
    if (to !== null && !isRedriven) continue
    for (let i = 0; i < ranges.length; i += perRange) {
      // A dead letter's last delivery failed, and has its number; what was redriven had none under way.
      back.push(ranges[i]!, ranges[i + 1]!, ranges[i + 2]! + (isRedriven ? 0 : 1))
    }
  }
  return back
}

/** OutputPosition of the first of them. */
export function startOf({ epoch, offset, ranges }: Outputs): OutputPosition {
  return { epoch, offset, index: ranges[3]! }
}

/** OutputPosition of the last of them. */
export function endOf({ epoch, offset, ranges }: Outputs): OutputPosition {
  const last = ranges.length - perRange
  return { epoch, offset, index: ranges[last + 3]! + ranges[last + 1]! - 1 }
}

function without(ranges: readonly number[], from: Offset, to: Offset): number[] {
  const left: number[] = []
  for (let i = 0; i < ranges.length; i += perRange) {
    const [start, count, deliveries, first] = [ranges[i]!, ranges[i + 1]!, ranges[i + 2]!, ranges[i + 3]!]
    const end = start + count
    const cutFrom = Math.min(end, Math.max(start, from))
    const cutTo = Math.max(start, Math.min(end, to))
    if (cutFrom >= cutTo) left.push(start, count, deliveries, first)
    else {
      if (start < cutFrom) left.push(start, cutFrom - start, deliveries, first)
      if (cutTo < end) left.push(cutTo, end - cutTo, deliveries, first + cutTo - start)
    }
  }
  return left
}

function keyOf({ queueId, partition }: Target): string {
  return `${queueId}/${partition}`
}

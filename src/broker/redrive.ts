/** Sends messages on: dead letters to where they came from, or any to another queue. Through the outbox, each once. */
import { MqError } from '../errors.ts'
import type { Target } from '../partition/outbox.ts'
import { pushRange, type Ranges } from '../partition/payload.ts'
import type { Run } from '../partition/range-map.ts'
import { attributes, messageBytes, type BatchView } from '../wire/batch.ts'
import { deadLetterHeader } from '../wire/dead-letter.ts'
import { partitionOfId } from '../wire/message-id.ts'
import type { SharedLog } from '../storage/log.ts'
import type { PartitionId } from '../types.ts'
import type { RedriveRequest, RedriveResult } from '../wire/messages.ts'
import { BatchReader, readBytesMax } from './batch-reader.ts'
import type { Partition } from './partition.ts'
import type { Queue } from './queue.ts'

/**
 * One step.
 * @param gone why the queue is not served any more
 * @param find the queue of this name, if there is one
 * @returns once what it moved is in its queues
 * @throws MqError INVALID_FIELD; QUEUE_DELETED: what was moved may have arrived
 */
export async function redrive(
  queue: Queue,
  { to, max, dryRun, cursor }: RedriveRequest,
  log: SharedLog,
  gone: () => MqError,
  find: (name: string) => Queue | undefined,
): Promise<RedriveResult> {
  const begun = stretches(queue, cursor)
  // What was sent before the first step is ready then.
  if (cursor === null) await log.flushed()
  for (const [partition] of begun) {
    // What serves no more has nothing ready, and that would read as if nothing were left.
    if (!partition.leader.leading) throw gone()
  }
  const targets = Object.create(null) as Record<string, number>
  const result: RedriveResult = { messages: 0, skipped: 0, targets, cursor: null }
  const left: number[] = []
  const room = { messages: max, bytes: readBytesMax }
  const arrivals: Promise<void>[] = []
  const arrived = async (partition: Partition, { name, target, ranges }: Move): Promise<void> => {
    const position = partition.leader.move(ranges, target, partition.now())
    if (await partition.forwarder.forwarded(target, position)) return
    // They are ready again.
    for (let i = 1; i < ranges.length; i += 2) {
      result.messages -= ranges[i]!
      targets[name]! -= ranges[i]!
    }
    if (targets[name] === 0) Reflect.deleteProperty(targets, name)
  }
  for (const [partition, offset, end] of begun) {
    const moves: Moves = new Map()
    const next = select(partition, queue, offset, end, to, find, room, moves, result)
    if (next < end) left.push(partition.id, next, end)
    if (dryRun) continue
    for (const move of moves.values()) arrivals.push(arrived(partition, move))
  }
  if (left.length > 0) result.cursor = left
  await Promise.all(arrivals)
  return result
}

interface Move {
  /** The target's queue. */
  readonly name: string
  readonly target: Target
  readonly ranges: Ranges
}

type Moves = Map<string, Move>

type Stretch = readonly [partition: Partition, offset: number, end: number]

/**
 * What is still to be looked at. All of it is checked before anything is moved.
 * @throws MqError INVALID_FIELD, CORRUPT_LOG
 */
function stretches(queue: Queue, cursor: readonly number[] | null): Stretch[] {
  if (cursor === null) {
    return queue.partitions
      .filter(({ halted }) => halted === null)
      .map((partition) => [partition, 0, partition.leader.state.logEnd])
  }
  const found: Stretch[] = []
  for (let i = 0; i < cursor.length; i += 3) {
    const [id, offset, end] = [cursor[i]!, cursor[i + 1]!, cursor[i + 2]!]
    if (found.some(([other]) => other.id === id) || offset > end) {
      throw new MqError('INVALID_FIELD', 'cursor must be as the step before answered it', {
        details: { field: 'cursor' },
      })
    }
    found.push([queue.partition(id), offset, end])
  }
  return found
}

/** Chooses ready messages from `offset` on. @returns the first offset that was not looked at */
function select(
  partition: Partition,
  queue: Queue,
  offset: number,
  end: number,
  to: string | null,
  find: (name: string) => Queue | undefined,
  room: { messages: number; bytes: number },
  moves: Moves,
  result: RedriveResult,
): number {
  const run: Run = { start: 0, end: 0, value: 0 }
  const reader = new BatchReader(partition)
  let at = offset
  while (room.messages > 0 && room.bytes > 0) {
    if (!partition.leader.nextReady(at, run) || run.start >= end) return end
    at = run.start
    const before = reader.bytes
    const { entry, view, end: entryEnd } = reader.at(at)
    room.bytes -= reader.bytes - before
    const stop = Math.min(run.end, entryEnd, end, at + room.messages)
    // What has rotted is found out, and quarantined, by whoever is to be given it.
    for (; entry !== null && at < stop; at++) {
      room.messages--
      const i = at - entry.base
      const name = to ?? headerOf(view, i, deadLetterHeader.originQueue)
      const target = name === undefined || name === queue.name ? undefined : find(name)
      const id = partitionFor(headerOf(view, i, deadLetterHeader.originId), partition.id, target)
      if (target === undefined || id === null || messageBytes(view, i) > target.options.maxMessageBytes) {
        result.skipped++
        continue
      }
      result.messages++
      result.targets[target.name] = (result.targets[target.name] ?? 0) + 1
      addTo(moves, target.name, { queueId: target.id, partition: id }, at)
    }
    at = Math.max(at, stop)
  }
  return at
}

/** The partition that a message came from, if it says so; null: halted, so that it would wait there, seen by nobody. */
function partitionFor(
  originId: string | undefined,
  otherwise: PartitionId,
  target: Queue | undefined,
): PartitionId | null {
  if (target === undefined) return null
  const id = (partitionOfId(originId ?? '') ?? otherwise) % target.partitions.length
  return target.partitions[id]!.halted === null ? id : null
}

function headerOf(view: BatchView, i: number, name: string): string | undefined {
  return (attributes(view)?.['headers']?.[i] as Record<string, string> | null | undefined)?.[name]
}

function addTo(moves: Moves, name: string, target: Target, offset: number): void {
  const key = `${target.queueId}/${target.partition}`
  let move = moves.get(key)
  if (move === undefined) moves.set(key, (move = { name, target, ranges: [] }))
  pushRange(move.ranges, offset, offset + 1)
}

/** Sends messages on: dead letters to where they came from, or any to another queue. Through the outbox, each once. */
import { MqError } from '../errors.ts'
import type { Entry } from '../partition/entry.ts'
import type { Target } from '../partition/outbox.ts'
import type { Ranges } from '../partition/payload.ts'
import type { Run } from '../partition/range-map.ts'
import { attributes, messageBytes, readBatch, type BatchView } from '../wire/batch.ts'
import { partitionOfId } from '../wire/message-id.ts'
import type { SharedLog } from '../storage/log.ts'
import type { RedriveRequest, RedriveResult } from '../wire/messages.ts'
import { deadLetterHeader } from './dead-letter.ts'
import type { Partition } from './partition.ts'
import type { Queue } from './queue.ts'

/** Bytes of batches that one step reads. */
const lookedBytesMax = 4 << 20

/**
 * One step.
 * @param find the queue of this name, if there is one
 * @returns once what it moved is in its queues
 * @throws MqError INVALID_FIELD; QUEUE_DELETED: what was moved may have arrived
 */
export async function redrive(
  queue: Queue,
  { to, max, dryRun, cursor }: RedriveRequest,
  log: SharedLog,
  find: (name: string) => Queue | undefined,
): Promise<RedriveResult> {
  const begun = stretches(queue, cursor)
  // What was sent before the first step is ready then.
  if (cursor === null) await log.flushed()
  const result: RedriveResult = { messages: 0, skipped: 0, targets: {}, cursor: null }
  const left: number[] = []
  const room = { messages: max, bytes: lookedBytesMax }
  const arrivals: Promise<void>[] = []
  for (const [id, offset, end] of begun) {
    const partition = queue.partition(id)
    const moves: Moves = new Map()
    const next = select(partition, queue, offset, end, to, find, room, moves, result)
    if (next < end) left.push(id, next, end)
    if (dryRun) continue
    for (const { target, ranges } of moves.values()) {
      const position = partition.leader.move(ranges, target, partition.now())
      arrivals.push(partition.forwarder.forwarded(target, position))
    }
  }
  if (left.length > 0) result.cursor = left
  await Promise.all(arrivals)
  return result
}

type Moves = Map<string, { readonly target: Target; readonly ranges: Ranges }>

/** What is still to be looked at: `[partition, offset, end]`. */
function stretches(queue: Queue, cursor: readonly number[] | null): (readonly [number, number, number])[] {
  if (cursor === null) {
    return queue.partitions
      .filter(({ halted }) => halted === null)
      .map(({ id, leader }) => [id, 0, leader.state.logEnd] as const)
  }
  const found: (readonly [number, number, number])[] = []
  for (let i = 0; i < cursor.length; i += 3) {
    const [id, offset, end] = [cursor[i]!, cursor[i + 1]!, cursor[i + 2]!]
    if (found.some(([other]) => other === id) || offset > end) {
      throw new MqError('INVALID_FIELD', 'cursor must be as the step before answered it', {
        details: { field: 'cursor' },
      })
    }
    found.push([id, offset, end])
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
  let at = offset
  let looked: { entry: Entry | null; end: number } = { entry: null, end: -1 }
  let view: BatchView | null = null
  while (room.messages > 0 && room.bytes > 0) {
    if (!partition.leader.nextReady(at, run) || run.start >= end) return end
    at = run.start
    if (at >= looked.end) {
      looked = partition.look(at)
      view = looked.entry === null ? null : readBatch(looked.entry.payload)
      room.bytes -= looked.entry?.payload.length ?? 0
    }
    const stop = Math.min(run.end, looked.end, end, at + room.messages)
    // What has rotted is found out, and quarantined, by whoever is to be given it.
    for (; view !== null && at < stop; at++) {
      room.messages--
      const i = at - looked.entry!.base
      const name = to ?? headerOf(view, i, deadLetterHeader.originQueue)
      const target = name === undefined || name === queue.name ? undefined : find(name)
      if (target === undefined || messageBytes(view, i) > target.options.maxMessageBytes) {
        result.skipped++
        continue
      }
      result.messages++
      result.targets[target.name] = (result.targets[target.name] ?? 0) + 1
      const { length } = target.partitions
      const id = (partitionOfId(headerOf(view, i, deadLetterHeader.originId) ?? '') ?? partition.id) % length
      addTo(moves, { queueId: target.id, partition: id }, at)
    }
    at = Math.max(at, stop)
  }
  return at
}

function headerOf(view: BatchView, i: number, name: string): string | undefined {
  return (attributes(view)?.['headers']?.[i] as Record<string, string> | null | undefined)?.[name]
}

function addTo(moves: Moves, target: Target, offset: number): void {
  const key = `${target.queueId}/${target.partition}`
  let move = moves.get(key)
  if (move === undefined) moves.set(key, (move = { target, ranges: [] }))
  const { ranges } = move
  const last = ranges.length - 2
  if (last >= 0 && ranges[last]! + ranges[last + 1]! === offset) ranges[last + 1]!++
  else ranges.push(offset, 1)
}

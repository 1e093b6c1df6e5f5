/** Looks into a queue without touching it: nothing is leased, counted or cached. */
import type { Run } from '../partition/range-map.ts'
import { bodyLength, crcOf, readBatch, sliceBatch } from '../wire/batch.ts'
import type { Peeked } from '../wire/messages.ts'
import type { Partition } from './partition.ts'
import type { Queue } from './queue.ts'

/** What an answer holds at most, but for a single message that is larger. */
const answerBytesMax = 4 << 20
/** Batches looked at for one answer: many may hold little that is still there. */
const batchesMax = 1000

/** The first `max` messages that are not settled, in the order of the log, one partition after the other. */
export function peek(queue: Queue, max: number): Peeked[] {
  const found: Peeked[] = []
  const room = { messages: max, bytes: answerBytesMax, batches: batchesMax }
  for (const partition of queue.partitions) {
    if (room.messages > 0 && partition.halted === null) peekInto(found, partition, room)
  }
  return found
}

function peekInto(
  found: Peeked[],
  partition: Partition,
  room: { messages: number; bytes: number; batches: number },
): void {
  const { leader } = partition
  const run: Run = { start: 0, end: 0, value: 0 }
  for (let from = 0; room.messages > 0 && room.batches > 0; room.batches--) {
    // What is not committed is not there yet.
    if (!leader.state.live.nextRun(from, run) || run.start >= leader.highWatermark) return
    const { start, value: nextDelivery } = run
    const { entry, end: entryEnd } = partition.look(start)
    const { state, end: stateEnd } = leader.stateAt(start)
    if (entry === null) {
      from = entryEnd
      continue
    }
    const view = readBatch(entry.payload)
    const skipped = start - entry.base
    const most = Math.min(run.end, entryEnd, stateEnd) - start
    let count = 0
    for (; count < most && count < room.messages; count++) {
      const bytes = bodyLength(view, skipped + count)
      if (bytes > room.bytes && (found.length > 0 || count > 0)) break
      room.bytes -= bytes
    }
    if (count === 0) {
      room.messages = 0
      return
    }
    const batch = count === entry.count ? entry.payload : sliceBatch(view, skipped, count)
    found.push({
      partition: partition.id,
      epoch: entry.epoch,
      base: start,
      sentAtMs: entry.timeMs,
      deliveries: state === 'leased' ? nextDelivery : nextDelivery - 1,
      state,
      crc: crcOf(batch),
      batch,
    })
    room.messages -= count
    from = start + count
  }
}

import { MqError } from '../errors.ts'
import type { PartitionState } from '../partition/fold.ts'
import type { SharedLog } from '../storage/log.ts'
import type { Offset } from '../types.ts'
import type { Queue } from './queue.ts'

/** Times that nothing can be purged and something is left. */
const fruitlessMax = 10

/**
 * Settles everything that is ready, delayed or leased when it begins. Each entry is on disk before the next is decided, so
 * others are served in between, however much there is. What is sent meanwhile stays.
 * @returns how many messages that was
 * @throws MqError STOPPING, QUEUE_DELETED: what was purged so far is gone
 */
export async function purge(queue: Queue, log: SharedLog, isOpen: () => boolean): Promise<number> {
  const ends = queue.partitions.map(({ leader }) => leader.state.logEnd)
  // What was sent before is ready then.
  await log.flushed()
  let messages = 0
  for (const partition of queue.partitions) {
    if (partition.halted !== null) throw partition.halted
    const { leader } = partition
    const end = ends[partition.id]!
    // A message on its way from one state to another, as by a release, can be purged once that is on the disk.
    for (let fruitless = 0; fruitless < fruitlessMax && hasLiveBelow(leader.state, end);) {
      if (!isOpen()) throw new MqError('STOPPING', 'the queue or the broker ended before all was purged')
      const purged = leader.purge(end, partition.now())
      messages += purged
      if (purged === 0) fruitless++
      await log.flushed()
    }
  }
  // What others have settled meanwhile was left to them: a crash must not bring it back after the answer.
  await log.flushed()
  return messages
}

function hasLiveBelow({ live }: PartitionState, end: Offset): boolean {
  return !live.isEmpty && live.firstStart() < end
}

import { MqError } from '../errors.ts'
import type { SharedLog } from '../storage/log.ts'
import type { Queue } from './queue.ts'

/** A message whose lease runs out just then may be missed by one pass, and is ready in the next. */
const passesMax = 10

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
  for (let pass = 0; pass < passesMax; pass++) {
    const before = messages
    for (const partition of queue.partitions) {
      for (;;) {
        if (!isOpen()) throw new MqError('STOPPING', 'the queue or the broker ended before all was purged')
        if (partition.halted !== null) throw partition.halted
        const purged = partition.leader.purge(ends[partition.id]!, partition.now())
        if (purged === 0) break
        messages += purged
        await log.flushed()
      }
    }
    if (messages === before) break
  }
  return messages
}

/** What other nodes ask of this one: so far, to take what their outboxes forward. */
import { invariant, MqError } from '../errors.ts'
import { comparePositions, sourceId } from '../partition/outbox.ts'
import type { Queue } from './queue.ts'
import { decodeForward, encodeForwardAnswer } from '../wire/peer.ts'
import { checkedBatch } from './checked-batch.ts'
import type { RunningBroker } from './broker.ts'
import type { Partition } from './partition.ts'

/** Columns that a forwarded batch may have: others mean something to one queue only, and became headers. */
const forwardedAttributes: ReadonlySet<string> = new Set(['headers', 'key', 'priority'])

/**
 * Takes a FORWARD; its answer comes once all that it rests on is on disk.
 * @throws MqError the frame can't be read
 */
export function answerForward(broker: RunningBroker, frame: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve) => {
    const request = decodeForward(frame)
    const { id } = request
    const refuse = (error: MqError): void => resolve(encodeForwardAnswer({ id, error }))
    try {
      const { batch, count, crc, sourceQueueId, sourcePartition, previous, position } = request
      const partition = partitionOf(broker, request.queueId, request.partition)
      // Its outputs that are here are forgotten: a late copy would be taken for new.
      if (broker.meta.wasDeleted(sourceQueueId)) {
        throw new MqError('QUEUE_DELETED', 'the queue that this comes from was deleted')
      }
      const source = sourceId({ queueId: sourceQueueId, partition: sourcePartition })
      checkedBatch(batch, count, crc, forwardedAttributes)
      if (comparePositions(previous, position) >= 0) {
        throw new MqError('INVALID_FIELD', 'position must come after previous')
      }
      const { whyFull } = broker
      if (whyFull !== null) throw whyFull
      partition.leader.accept(
        {
          answer(reply) {
            if (reply.kind === 'refused') return refuse(reply.error)
            invariant(reply.kind === 'forwarded', 'a forward is answered as a forward')
            resolve(encodeForwardAnswer({ id, position: reply.position }))
          },
        },
        // The frame may be delivered again: what is before the batch in it is not to be overwritten.
        { source, previous, position, count, crc, batch, headroom: 0 },
        partition.now(),
      )
    } catch (error) {
      if (error instanceof MqError) return refuse(error)
      // Thrown on, it would look like a request that was lost, and be repeated for ever.
      broker.failedWith(error)
    }
  })
}

function partitionOf(broker: RunningBroker, queueId: string, id: number): Partition {
  if (!broker.serving) throw new MqError('STOPPING', 'the broker is stopping')
  const queue: Queue = broker.queueOfId(queueId)
  if (queue.isLeaving) throw new MqError('STOPPING', 'the queue is being deleted')
  return queue.partition(id)
}

/**
 * Before a queue is deleted: every outbox hears what the queue has taken from it, and has that on the disk. Afterwards
 * nobody knows any more, and an output whose answer was lost would be issued anew for the queue's successor, although it
 * has been here, and perhaps been acked. The queue must be leaving: nothing comes after this.
 */
export async function tellSources(broker: RunningBroker, queue: Queue): Promise<void> {
  const { id: queueId } = queue
  if (queue.partitions.every(({ leader }) => leader.state.sources.size === 0)) return
  // What it has taken is certain only then.
  await broker.log.flushed()
  for await (const source of broker.partitionsInTurns()) {
    if (source.halted !== null) continue
    const id = sourceId({ queueId: source.queueId, partition: source.id })
    for (const { id: partition, leader } of queue.partitions) {
      const position = leader.state.sources.get(id)
      if (position !== undefined) source.leader.forwarded({ queueId, partition }, position, source.now())
    }
  }
  await broker.log.flushed()
}

import { MqError } from '../errors.ts'
import type { PartitionId } from '../types.ts'
import { encodeClientFrame } from '../wire/codec.ts'
import type { LeasedRange } from '../wire/messages.ts'
import { runCall } from './call.ts'
import type { Core } from './core.ts'
import { checkSignal, checkTimeout, type CallOptions } from './options.ts'
import { isGone, unexpected, type Queue } from './queues.ts'

/** EXTEND of messages of one partition. Resolves to flat `offset, count` of those whose lease is lost, or null. */
export async function extendItems(
  core: Core,
  queue: Queue,
  partition: PartitionId,
  extendMs: number,
  items: LeasedRange[],
  options: CallOptions,
): Promise<number[] | null> {
  core.checkOpen()
  const { queueId } = queue
  return runCall(core, {
    what: 'extending a lease',
    timeoutMs: checkTimeout(options.timeoutMs),
    signal: checkSignal(options.signal),
    encode: (id) => encodeClientFrame({ op: 'extend', id, queueId, partition, extendMs, items }),
    read(answer) {
      if (answer.op !== 'settled') throw unexpected('EXTEND', answer.op)
      return answer.refused
    },
  }).catch((error: unknown) => {
    if (error instanceof MqError && isGone(error)) queue.isGone()
    throw error
  })
}

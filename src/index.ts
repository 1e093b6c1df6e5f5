/** The client: what users of `mq-broker` import. No server code, no native addon. */
import { connectWith } from './client/connect.ts'
import { inProcess } from './client/in-process.ts'
import type { MqClient } from './client/client.ts'
import type { ConnectOptions } from './client/options.ts'
import { systemClock, systemRandom } from './system.ts'
import { socketNetwork } from './wire/sockets.ts'

export { MqError, errorTable } from './errors.ts'
export type { MqErrorCode, Outcome } from './errors.ts'
export { MqClient } from './client/client.ts'
export { Message } from './client/message.ts'
export { Batch, Consumer } from './client/consumer.ts'
export type { ConsumeBatchesOptions, ConsumeOptions } from './client/consumer.ts'
export { Worker } from './client/worker.ts'
export type { BatchHandler, Handler, WorkContext, WorkOptions } from './client/worker.ts'
export { SendReceipt } from './client/receipt.ts'
export type { ClientEvents } from './client/events.ts'
export type { CallOptions, ConnectOptions, NackOptions } from './client/options.ts'
export { PeekedMessage } from './client/peeked.ts'
export type { BatchEntry, MessageOptions, SendOptions } from './client/producer.ts'
export type { ReceiveOptions } from './client/receiver.ts'
export type { Redriven, RedriveOptions } from './client/redrive.ts'
export type { Serializer } from './client/serializer.ts'
export type {
  Backoff,
  Confirm,
  EffectiveBackoff,
  EffectiveQueueOptions,
  PartitionDescription,
  QueueDescription,
  QueueOptions,
  QueueOptionsChange,
  QueueSummary,
  Storage,
} from './types.ts'

/**
 * Connects to a broker. The client reconnects by itself from then on.
 * @throws MqError DISCONNECTED when no broker answers within `timeoutMs` (5,000); INVALID_OPTION, UNSUPPORTED, ABORTED
 */
export function connect(options: ConnectOptions = {}): Promise<MqClient> {
  const env = inProcess.envOf(options.servers)
  return connectWith(env ?? { clock: systemClock, random: systemRandom, network: socketNetwork }, options)
}

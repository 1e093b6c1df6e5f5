import { MqError } from '../errors.ts'
import { attributes, crcOf, forEachMessage, readBatch, type BatchView } from '../wire/batch.ts'
import { messageId } from '../wire/message-id.ts'
import type { Peeked } from '../wire/messages.ts'
import { decodeValue, textOf, type Serializer } from './serializer.ts'

/** A message as `peek` found it: somebody else may have it, and it cannot be settled by who only looked. */
export class PeekedMessage {
  readonly id: string
  /** The queue's name. */
  readonly queue: string
  /** `leased`: a consumer has it, or it is just on its way back. */
  readonly state: 'ready' | 'delayed' | 'leased'
  readonly body: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly key?: string | undefined
  /** 0 to 9. */
  readonly priority: number
  /** How often it has been delivered so far; 0: never. */
  readonly deliveryCount: number
  /** When the broker took it, in ms since 1970, by the broker's clock. */
  readonly sentAtMs: number
  readonly #serializer: Serializer
  readonly #serializerName: string | null

  /** @internal */
  constructor(
    queue: string,
    peeked: Peeked,
    view: BatchView,
    index: number,
    body: Uint8Array,
    own: Serializer,
  ) {
    const { partition, epoch, base, state, deliveries, sentAtMs } = peeked
    const columns = attributes(view)
    this.id = messageId(queue, partition, epoch, base + index)
    this.queue = queue
    this.state = state
    this.body = body
    this.headers = (columns?.['headers']?.[index] as Record<string, string> | null | undefined) ?? {}
    const key = columns?.['key']?.[index]
    if (typeof key === 'string') this.key = key
    this.priority = (columns?.['priority']?.[index] as number | null | undefined) ?? 0
    this.deliveryCount = deliveries
    this.sentAtMs = sentAtMs
    this.#serializer = own
    const { serializer } = view
    this.#serializerName =
      serializer === null || typeof serializer === 'string' ? serializer : serializer[index]!
  }

  /** The body as UTF-8 text. */
  text(): string {
    return textOf(this.body)
  }

  /**
   * The body as what was sent: a string, bytes, or a value.
   * @throws MqError UNSUPPORTED for a serializer this client does not have, INVALID_FIELD
   */
  value<T = unknown>(): T {
    return decodeValue(this.#serializer, this.#serializerName, this.body) as T
  }
}

/** @throws MqError CORRUPT_BATCH */
export function peekedMessages(
  queue: string,
  peeked: readonly Peeked[],
  serializer: Serializer,
): PeekedMessage[] {
  const messages: PeekedMessage[] = []
  for (const each of peeked) {
    // The answer's bytes are the connection's; what is handed out stays.
    const batch = Uint8Array.from(each.batch)
    if (crcOf(batch) !== each.crc) {
      throw new MqError('CORRUPT_BATCH', `what was read of '${queue}' was damaged`, { outcome: 'failed' })
    }
    const view = readBatch(batch)
    forEachMessage(view, (i, at, length) => {
      messages.push(new PeekedMessage(queue, each, view, i, batch.subarray(at, at + length), serializer))
    })
  }
  return messages
}

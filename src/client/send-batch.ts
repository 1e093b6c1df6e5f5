/** One batch of messages, from the first to the answer. */
import { buffers } from '../buffers.ts'
import type { MqError } from '../errors.ts'
import type { Offset, PartitionId } from '../types.ts'
import {
  attributeNames,
  attributes,
  BatchBuilder,
  crcOf,
  messageBody,
  readBatch,
  type MessageAttributes,
} from '../wire/batch.ts'
import { encodeSend } from '../wire/codec.ts'
import type { RequestId, Sequenced } from '../wire/messages.ts'
import type { SequencedWork } from './channel.ts'
import type { Core } from './core.ts'
import { isGone, unexpected, type Queue } from './queues.ts'
import { SendReceipt } from './receipt.ts'
import type { Answer } from './session.ts'
import { Waiters, type Waiter } from './waiters.ts'

/** Who waits for a message's confirmation. */
export interface Sending extends Waiter {
  readonly sent: (receipt: SendReceipt, tag: number) => void
  readonly failed: (error: MqError, tag: number) => void
  /** What these two are called with. */
  readonly tag: number
  /** What counts against the client's `maxPendingBytes` meanwhile. */
  readonly heldBytes: number
}

const confirms = ['replicas', 'leader', 'none'] as const
const storages = ['disk', 'memory'] as const

export class SendBatch implements SequencedWork {
  readonly #queue: Queue
  /** Told of bytes that nobody waits for any more. */
  readonly #released: (bytes: number) => void
  /** Told of the end. */
  readonly #ended: () => void
  readonly #waiters: Waiters<Sending>
  /** Of those who wait. */
  #waitingBytes = 0
  #batch: Uint8Array | null = null
  #crc = 0
  #partition: PartitionId = 0

  constructor(core: Core, queue: Queue, released: (bytes: number) => void, ended: () => void) {
    this.#queue = queue
    this.#released = released
    this.#ended = ended
    this.#waiters = new Waiters(core, 'sending a message', ({ failed, tag, heldBytes }, error) => {
      this.#waitingBytes -= heldBytes
      failed(error, tag)
      released(heldBytes)
    })
  }

  add(sending: Sending): void {
    this.#waitingBytes += sending.heldBytes
    this.#waiters.add(sending)
  }

  seal(batch: Uint8Array): void {
    this.#batch = batch
  }

  /** Just before it leaves for a partition. @returns false when nobody wants it any more, and it must not */
  leavesFor(partition: PartitionId): boolean {
    if (this.#waiters.waiting === 0) {
      this.#ended()
      return false
    }
    if (this.#waiters.waiting < this.#waiters.length) this.#leaveOut()
    this.#partition = partition
    this.#crc = crcOf(this.#batch!)
    return true
  }

  encode(id: RequestId, as: Sequenced): readonly Uint8Array[] {
    this.#waiters.onWire = true
    return encodeSend({
      id,
      queueId: this.#queue.queueId,
      partition: this.#partition,
      producerId: as.producerId,
      producerEpoch: as.producerEpoch,
      sequence: as.sequence,
      opening: as.opening,
      count: this.#waiters.length,
      crc: this.#crc,
      batch: this.#batch!,
    })
  }

  answered(answer: Answer, hasLeft: boolean): void {
    if (answer.op !== 'sent') {
      this.refused(unexpected('SEND', answer.op))
      return
    }
    // Otherwise it may still lie in a socket, and what is written there next would go to this broker.
    if (hasLeft) buffers.giveBack(this.#batch!)
    this.#batch = null
    const base: Offset = answer.base
    const shared = {
      queue: this.#queue.name,
      partition: this.#partition,
      epoch: answer.epoch,
      base,
      duplicate: answer.duplicate,
      confirm: confirms[answer.confirm] ?? 'replicas',
      storage: storages[answer.storage] ?? 'disk',
    }
    this.#end(({ sent, tag }, i) => sent(new SendReceipt(shared, i), tag))
  }

  refused(error: MqError): void {
    if (isGone(error)) this.#queue.isGone()
    this.#end(({ failed, tag }) => failed(error, tag))
  }

  #end(tell: (sending: Sending, i: number) => void): void {
    this.#ended()
    const bytes = this.#waitingBytes
    this.#waitingBytes = 0
    this.#waiters.end(tell)
    this.#released(bytes)
  }

  /** Some were given up before the batch left, and were told that nothing was done: so they must not leave. */
  #leaveOut(): void {
    const view = readBatch(this.#batch!)
    const columns = attributes(view)
    const { serializer } = view
    const builder = new BatchBuilder()
    this.#waiters.closeUp((from) => {
      builder.add(
        messageBody(view, from),
        serializer === null || typeof serializer === 'string' ? serializer : serializer[from]!,
        columns === null ? null : attributesOf(columns, from),
      )
    })
    this.#batch = builder.finish()
  }
}

/** What one message has in the columns that this client writes. */
function attributesOf(columns: Readonly<Record<string, unknown[]>>, i: number): MessageAttributes | null {
  const attributes: Record<string, unknown> = {}
  for (const name of attributeNames) {
    const value = columns[name]?.[i] ?? undefined
    if (value !== undefined) attributes[name] = value
  }
  return Object.keys(attributes).length > 0 ? attributes : null
}

import type { Confirm, Epoch, Offset, PartitionId, Storage } from '../types.ts'
import { messageId } from '../wire/message-id.ts'

/** What the messages of one confirmed batch have in common. */
export interface SentBatch {
  readonly queue: string
  readonly partition: PartitionId
  readonly epoch: Epoch
  /** The offset of the batch's first message. */
  readonly base: Offset
  readonly duplicate: boolean
  readonly confirm: Confirm
  readonly storage: Storage
}

/** What `send` resolves with: proof of what held the message when it was confirmed. */
export class SendReceipt {
  readonly #batch: SentBatch
  readonly #index: number

  /** @internal */
  constructor(batch: SentBatch, index: number) {
    this.#batch = batch
    this.#index = index
  }

  /** The message's id, unique for ever; an opaque text. null when the queue's `confirm` is `none`. */
  get id(): string | null {
    const { queue, partition, epoch, base, confirm } = this.#batch
    return confirm === 'none' ? null : messageId(queue, partition, epoch, base + this.#index)
  }

  /** The broker had the message already: an earlier copy of the same request was accepted. */
  get duplicate(): boolean {
    return this.#batch.duplicate
  }

  /** What had the message when it was confirmed: every in-sync replica, the leader, or perhaps nobody. */
  get confirm(): Confirm {
    return this.#batch.confirm
  }

  /** Whether those had it on disk, or in memory. */
  get storage(): Storage {
    return this.#batch.storage
  }

  toJSON(): { id: string | null; duplicate: boolean; confirm: Confirm; storage: Storage } {
    return { id: this.id, duplicate: this.duplicate, confirm: this.confirm, storage: this.storage }
  }

  [Symbol.for('nodejs.util.inspect.custom')](): object {
    return this.toJSON()
  }
}

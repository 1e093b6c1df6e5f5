/** One SUBSCRIBE, until its answer: a standing taker of a queue's messages, with its credit. */
import { MqError } from '../errors.ts'
import type { Session } from '../frontend/session.ts'
import { limits, type PartitionId } from '../types.ts'
import type { Credit, Delivery, SubscribeRequest } from '../wire/messages.ts'
import type { Queue, Taker } from './queue.ts'

/** What one PUSH carries at most, but for a single larger message: others of the connection get their turn in between. */
const pushBytesMax = 4 << 20
const pushMessagesMax = limits.batchMessagesMax

export class Subscription implements Taker {
  readonly partition: PartitionId | null
  readonly visibilityTimeoutMs: number | null
  readonly #session: Session
  readonly #queue: Queue
  readonly #id: number
  /** Never below 0. */
  #messages: number
  /** Below 0 after a message that was larger than what was left. */
  #bytes: number
  readonly #onEnd: () => void

  constructor(session: Session, queue: Queue, request: SubscribeRequest, onEnd: () => void) {
    this.#session = session
    this.#queue = queue
    this.#id = request.id
    this.partition = request.partition
    this.visibilityTimeoutMs = request.visibilityTimeoutMs
    this.#messages = request.messages
    this.#bytes = request.bytes
    this.#onEnd = onEnd
  }

  get queue(): Queue {
    return this.#queue
  }

  get max(): number {
    return Math.min(this.#messages, pushMessagesMax)
  }

  get maxBytes(): number {
    return Math.min(this.#bytes, pushBytesMax, this.#session.roomBytes)
  }

  canTake(): boolean {
    return this.#session.canTake
  }

  deliver(deliveries: Delivery[], messages: number): void {
    this.#messages -= messages
    for (const { batch } of deliveries) this.#bytes -= batch.length
    this.#session.push(this.#id, deliveries)
  }

  credit({ messages, bytes }: Credit): void {
    this.#messages += messages
    this.#bytes += bytes
    if (this.#messages <= limits.creditMessagesMax && this.#bytes <= limits.creditBytesMax) {
      this.#queue.credited(this)
      return
    }
    const field = this.#messages > limits.creditMessagesMax ? 'messages' : 'bytes'
    const most = `${limits.creditMessagesMax} messages and ${limits.creditBytesMax} bytes`
    this.end(new MqError('INVALID_FIELD', `credit is at most ${most}`, { details: { field } }))
  }

  /** Nothing is pushed any more; `error` is its answer. */
  end(error: MqError): void {
    if (this.#queue.cancel(this)) this.refuse(error)
  }

  /** Its queue has let go of it. */
  refuse(error: MqError): void {
    this.#onEnd()
    this.#session.refuse(this.#id, error)
  }
}

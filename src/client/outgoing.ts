import type { MqError } from '../errors.ts'
import type { Work } from './activity.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, aborted, timedOut, type Abandonment } from './ending.ts'
import type { Producer, Sending } from './producer.ts'
import type { LookupWaiter, Queue, Queues } from './queues.ts'

/** A message that can't be put into a batch yet: its queue is not known, or too much is unconfirmed. */
export class Outgoing implements LookupWaiter, Deadline, Work {
  place: Place | null = null
  isOver = false
  /** As it was found. */
  queue: Queue | null = null
  readonly name: string
  readonly sending: Sending
  readonly #core: Core
  readonly #producer: Producer
  #lookingUp = false

  constructor(core: Core, producer: Producer, name: string, sending: Sending) {
    this.#core = core
    this.#producer = producer
    this.name = name
    const { message } = sending
    // The caller may use its buffer again once `send` has returned.
    this.sending =
      typeof message.body === 'string'
        ? sending
        : { ...sending, message: { ...message, body: Uint8Array.prototype.slice.call(message.body) } }
  }

  begin(): void {
    const { deadlines, activity, turn } = this.#core
    activity.begin(this)
    deadlines.set(this, turn.nowMs, Math.max(0, this.sending.dueMs - turn.nowMs))
    this.sending.signal?.addEventListener('abort', this.#onAbort)
  }

  lookUp(queues: Queues): void {
    if (this.#lookingUp) return
    this.#lookingUp = true
    queues.lookup(this.name, this)
  }

  /** It waits no more. */
  leave(): void {
    if (this.isOver) return
    this.isOver = true
    this.#core.deadlines.remove(this)
    this.sending.signal?.removeEventListener('abort', this.#onAbort)
    this.#core.activity.end(this)
  }

  found(queue: Queue): void {
    this.queue = queue
    this.#producer.next()
  }

  notFound(error: MqError): void {
    this.#fail(error)
  }

  expire(): void {
    this.#fail(timedOut('sending a message', false))
  }

  abandon(why: Abandonment): void {
    this.#fail(abandoned('sending a message', why, false))
  }

  readonly #onAbort = (): void => this.#fail(aborted('sending a message', this.sending.signal, false))

  #fail(error: MqError): void {
    if (this.isOver) return
    this.leave()
    this.sending.target.failed(error, this.sending.tag)
    this.#producer.next()
  }
}

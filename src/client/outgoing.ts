import type { MqError } from '../errors.ts'
import type { Work } from './activity.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, aborted, timedOut, type Abandonment } from './ending.ts'
import type { Producer } from './producer.ts'
import type { LookupWaiter, Queue, Queues } from './queues.ts'
import type { Sending } from './send-batch.ts'
import type { OutgoingMessage } from './sender.ts'

/** A message that can't be put into a batch yet: its queue is not known, or too much is unconfirmed. */
export class Outgoing implements LookupWaiter, Deadline, Work {
  place: Place | null = null
  isOver = false
  /** As it was found. */
  queue: Queue | null = null
  readonly name: string
  readonly message: OutgoingMessage
  readonly sending: Sending
  readonly #core: Core
  readonly #queues: Queues
  readonly #producer: Producer
  #lookingUp = false

  constructor(
    core: Core,
    queues: Queues,
    producer: Producer,
    name: string,
    message: OutgoingMessage,
    sending: Sending,
  ) {
    this.#core = core
    this.#queues = queues
    this.#producer = producer
    this.name = name
    this.sending = sending
    // The caller may use its buffer again once `send` has returned.
    this.message =
      typeof message.body === 'string'
        ? message
        : { ...message, body: Uint8Array.prototype.slice.call(message.body) }
  }

  begin(): void {
    const { deadlines, activity, turn } = this.#core
    activity.begin(this)
    deadlines.set(this, turn.nowMs, Math.max(0, this.sending.dueMs - turn.nowMs))
    const { signal } = this.sending
    if (signal !== undefined) this.#core.aborts.add(signal, this.#onAbort)
  }

  /** Asks for its queue. All that wait for one name share an answer. */
  lookUp(): void {
    if (this.#lookingUp) return
    this.#lookingUp = true
    this.#queues.lookup(this.name, this)
  }

  /**
   * Its signal has aborted, or its time is over, and it was not told yet: the one before it was, and made room for it
   * in the same moment. It must not be sent.
   */
  get isUnwanted(): boolean {
    const { signal, dueMs } = this.sending
    return signal?.aborted === true || dueMs <= this.#core.turn.nowMs
  }

  giveUp(): void {
    if (this.sending.signal?.aborted === true) this.#onAbort()
    else this.expire()
  }

  /** It waits no more. */
  leave(): void {
    if (this.isOver) return
    this.isOver = true
    this.#core.deadlines.remove(this)
    const { signal } = this.sending
    if (signal !== undefined) this.#core.aborts.remove(signal, this.#onAbort)
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
    this.sending.failed(error, this.sending.tag)
    if (this.#lookingUp) this.#queues.waiterEnded(this.name)
    this.#producer.next()
  }
}

/**
 * A request with one answer, other than sends and settles: it is sent again on each new connection, and again after
 * a pause when the broker could not serve it just then, until its time is over. One that must not be done twice ends
 * with the connection that it was on.
 */
import type { Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import type { RequestId } from '../wire/messages.ts'
import type { Work } from './activity.ts'
import { checkOnline, isRetried, retryPause, type Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, aborted, answerLost, mayHaveBegun, timedOut, type Abandonment } from './ending.ts'
import { errorOf, type Answer, type Request } from './session.ts'

export interface CallSpec<T> {
  /** For messages: what is done. */
  readonly what: string
  /** From now, in milliseconds; Infinity: no end. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal | undefined
  /** Whether the broker should hear that the call was given up, and can end it. */
  readonly cancellable?: boolean
  /** Whether closing the client ends it at once. */
  readonly endsOnClose?: boolean
  /** Whether it may be sent again when a connection ended before its answer came. Default true. */
  readonly repeatable?: boolean
  /** The frame; called for each connection. */
  encode(id: RequestId): Uint8Array
  /** The result. Only answers other than ERROR come here. */
  read(answer: Answer): T
  /** It will be sent again because of this error. */
  retrying?(error: MqError): void
}

/** @throws MqError the broker's refusal; TIMEOUT, ABORTED, CLOSED, DISCONNECTED, THROTTLED */
export function runCall<T>(core: Core, spec: CallSpec<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    new Call(core, spec, resolve, reject).begin()
  })
}

export class Call<T> implements Request, Deadline, Work {
  place: Place | null = null
  readonly #core: Core
  readonly #spec: CallSpec<T>
  readonly #resolve: (result: T) => void
  readonly #reject: (error: MqError) => void
  /** In the session's table: its id; 0 while it pauses and once it has ended. */
  #id = 0
  /** On the present connection, unanswered. */
  #onWire = false
  /** A connection ended while it was there: nobody knows whether it was done. */
  #doubtful = false
  #pause: Timer | null = null
  #ended = false
  #onAbort: (() => void) | null = null

  constructor(core: Core, spec: CallSpec<T>, resolve: (result: T) => void, reject: (error: MqError) => void) {
    this.#core = core
    this.#spec = spec
    this.#resolve = resolve
    this.#reject = reject
  }

  /** @throws MqError DISCONNECTED, THROTTLED: it has not begun */
  begin(): void {
    const { signal, timeoutMs, what } = this.#spec
    const { session, activity, deadlines, turn } = this.#core
    checkOnline(this.#core)
    if (session.isFull)
      throw new MqError('THROTTLED', 'too many calls wait for an answer', { outcome: 'failed' })
    activity.begin(this)
    if (timeoutMs !== Infinity) deadlines.set(this, turn.nowMs, timeoutMs)
    if (signal !== undefined) {
      this.#onAbort = () => this.#giveUp(aborted(what, signal, this.#mayBeDone))
      this.#core.aborts.add(signal, this.#onAbort)
    }
    this.#id = session.start(this)
  }

  get endsOnClose(): boolean {
    return this.#spec.endsOnClose === true
  }

  get #mayBeDone(): boolean {
    return this.#onWire || this.#doubtful
  }

  encode(id: RequestId): readonly Uint8Array[] {
    this.#onWire = true
    return [this.#spec.encode(id)]
  }

  interrupted(): boolean {
    this.#doubtful = true
    this.#onWire = false
    if (this.#spec.repeatable !== false) return true
    this.#id = 0
    this.#giveUp(answerLost(this.#spec.what))
    return false
  }

  answered(answer: Answer): false {
    this.#id = 0
    this.#onWire = false
    if (answer.op === 'error') this.#refused(errorOf(answer))
    else {
      let result: T
      try {
        result = this.#spec.read(answer)
      } catch (error) {
        if (!(error instanceof MqError)) throw error
        this.#end()
        this.#reject(error)
        return false
      }
      this.#end()
      this.#resolve(result)
    }
    return false
  }

  #refused(error: MqError): void {
    if (isRetried(error.code)) {
      this.#spec.retrying?.(error)
      this.#pause = this.#core.clock.after(retryPause(this.#core, error.details), () => {
        this.#pause = null
        this.#id = this.#core.session.start(this)
      })
      return
    }
    this.#end()
    const { code, message, details } = error
    const outcome = this.#doubtful || mayHaveBegun(code) ? 'unknown' : 'failed'
    this.#reject(new MqError(code, message, { outcome, details }))
  }

  expire(): void {
    this.#giveUp(timedOut(this.#spec.what, this.#mayBeDone))
  }

  abandon(why: Abandonment): void {
    this.#giveUp(abandoned(this.#spec.what, why, this.#mayBeDone))
  }

  /** Nobody wants it any more. */
  cancel(): void {
    this.#giveUp(new MqError('CANCELLED', `${this.#spec.what} was given up`, { outcome: 'unknown' }))
  }

  #giveUp(error: MqError): void {
    if (this.#ended) return
    this.#forget()
    this.#end()
    this.#reject(error)
  }

  #forget(): void {
    if (this.#id !== 0) this.#core.session.forget(this.#id, this.#spec.cancellable === true)
    this.#id = 0
  }

  #end(): void {
    this.#ended = true
    this.#pause?.cancel()
    this.#pause = null
    this.#core.deadlines.remove(this)
    const { signal } = this.#spec
    if (signal !== undefined && this.#onAbort !== null) this.#core.aborts.remove(signal, this.#onAbort)
    this.#core.activity.end(this)
  }
}

import type { MqError } from '../errors.ts'
import type { Work } from './activity.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, aborted, timedOut, type Abandonment } from './ending.ts'

/** Who waits for an answer, and how long. */
export interface Waiter {
  /** Monotonic time at which it gives up. */
  readonly dueMs: number
  /** Ends its waiting. */
  readonly signal: AbortSignal | undefined
}

interface Watch {
  readonly signal: AbortSignal
  readonly run: () => void
}

/**
 * Those who wait for the answer to one batch, by their places in it. Each is told once: the answer, or before it that
 * its time is over, its signal has aborted, or the client lets go. The batch itself goes its way.
 */
export class Waiters<Target extends Waiter> implements Deadline, Work {
  place: Place | null = null
  /** The batch was given to a connection: nobody but the broker knows what becomes of it. */
  onWire = false
  readonly #core: Core
  /** For messages: what is done. */
  readonly #what: string
  readonly #fail: (target: Target, error: MqError) => void
  /** Null once told. */
  readonly #targets: (Target | null)[] = []
  /** Of those that have a signal; null while none has. */
  #watches: (Watch | undefined)[] | null = null
  /** Those not told yet. While there are any, this is under way. */
  #waiting = 0

  constructor(core: Core, what: string, fail: (target: Target, error: MqError) => void) {
    this.#core = core
    this.#what = what
    this.#fail = fail
  }

  /** Places in the batch, also of those who were told. */
  get length(): number {
    return this.#targets.length
  }

  /** Those not told yet. */
  get waiting(): number {
    return this.#waiting
  }

  isWaiting(i: number): boolean {
    return this.#targets[i] !== null
  }

  /** Adds one at the next place. */
  add(target: Target): void {
    const { dueMs, signal } = target
    this.#targets.push(target)
    if (this.#waiting++ === 0) this.#core.activity.begin(this)
    // Nearly always all of a batch have one time-out, so the first one's stands for them.
    if (this.place === null || dueMs < this.place.dueMs) {
      const { nowMs } = this.#core.turn
      this.#core.deadlines.set(this, nowMs, Math.max(0, dueMs - nowMs))
    }
    if (signal !== undefined) this.#watch(this.#targets.length - 1, signal)
  }

  #watch(i: number, signal: AbortSignal): void {
    const watch: Watch = {
      signal,
      run: () => {
        // By then it may have another place.
        const at = this.#watches!.indexOf(watch)
        this.#giveUp(at, aborted(this.#what, signal, this.onWire))
      },
    }
    this.#watches ??= []
    this.#watches[i] = watch
    this.#core.aborts.add(signal, watch.run)
  }

  /** Forgets those who were told, so that the others close up. `kept` hears where each of them stood. */
  closeUp(kept: (from: number) => void): void {
    let to = 0
    for (let from = 0; from < this.#targets.length; from++) {
      if (this.#targets[from] === null) continue
      this.#targets[to] = this.#targets[from]!
      if (this.#watches !== null) this.#watches[to] = this.#watches[from]
      kept(from)
      to++
    }
    this.#targets.length = to
    if (this.#watches !== null) this.#watches.length = to
  }

  /** The answer is there: tells it to those who still wait. */
  end(tell: (target: Target, i: number) => void): void {
    for (let i = 0; i < this.#targets.length; i++) {
      if (this.#targets[i] !== null) tell(this.take(i), i)
    }
  }

  expire(nowMs: number): void {
    let next = Infinity
    for (let i = 0; i < this.#targets.length; i++) {
      const target = this.#targets[i] ?? null
      if (target === null) continue
      if (target.dueMs <= nowMs) this.#giveUp(i, timedOut(this.#what, this.onWire))
      else next = Math.min(next, target.dueMs)
    }
    if (next !== Infinity) this.#core.deadlines.set(this, nowMs, next - nowMs)
  }

  abandon(why: Abandonment): void {
    for (let i = 0; i < this.#targets.length; i++) {
      if (this.#targets[i] !== null) this.#giveUp(i, abandoned(this.#what, why, this.onWire))
    }
  }

  #giveUp(i: number, error: MqError): void {
    this.#fail(this.take(i), error)
  }

  /** Takes one that waits out, to be told by whoever calls. */
  take(i: number): Target {
    const target = this.#targets[i]!
    this.#targets[i] = null
    const watch = this.#watches?.[i]
    if (watch !== undefined) {
      this.#watches![i] = undefined
      this.#core.aborts.remove(watch.signal, watch.run)
    }
    if (--this.#waiting === 0) {
      this.#core.deadlines.remove(this)
      this.#core.activity.end(this)
    }
    return target
  }
}

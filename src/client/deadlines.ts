import type { Clock, Timer } from '../env.ts'

/** Something that gives up at a time. It stands in at most one place of one `Deadlines`. */
export interface Deadline {
  /** Where it stands; null when it stands nowhere. Only `Deadlines` writes this. */
  place: Place | null
  /** The time is over. It has been taken out; it may add itself again. */
  expire(nowMs: number): void
}

/** A link of a list. */
export interface Place {
  readonly target: Deadline
  readonly list: List
  readonly dueMs: number
  before: Place | null
  after: Place | null
}

interface List {
  readonly delayMs: number
  first: Place | null
  last: Place | null
}

/**
 * Any number of deadlines behind one timer. Those with the same delay fall due in the order in which they were set,
 * so each delay has a list, and setting and removing cost a link, not a search; a client uses few delays, nearly
 * always one. The timer is left alone by removals: it finds the next deadline when it runs.
 */
export class Deadlines {
  readonly #clock: Clock
  /** Invariant: no list is empty; within a list, due times never decrease. */
  readonly #lists = new Map<number, List>()
  #timer: Timer | null = null
  /** When `#timer` runs; invariant: no later than the earliest deadline. */
  #timerDueMs = Infinity

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Calls `target.expire` once `delayMs` have passed since `nowMs`, instead of when it was set to before. */
  set(target: Deadline, nowMs: number, delayMs: number): void {
    this.remove(target)
    let list = this.#lists.get(delayMs)
    if (list === undefined) {
      list = { delayMs, first: null, last: null }
      this.#lists.set(delayMs, list)
    }
    // A caller may have read the clock a little earlier than the one before it: the order of the list wins.
    const dueMs = Math.max(nowMs + delayMs, list.last?.dueMs ?? -Infinity)
    const place: Place = { target, list, dueMs, before: list.last, after: null }
    if (list.last === null) list.first = place
    else list.last.after = place
    list.last = place
    target.place = place
    if (dueMs < this.#timerDueMs) this.#arm(dueMs)
  }

  /** Idempotent. */
  remove(target: Deadline): void {
    const place = target.place
    if (place === null) return
    target.place = null
    const { list, before, after } = place
    if (before === null) list.first = after
    else before.after = after
    if (after === null) list.last = before
    else after.before = before
    if (list.first === null) this.#lists.delete(list.delayMs)
  }

  /** Forgets everything; nothing expires any more unless it is set again. */
  clear(): void {
    for (const list of this.#lists.values()) {
      for (let place = list.first; place !== null; place = place.after) place.target.place = null
    }
    this.#lists.clear()
    this.#timer?.cancel()
    this.#timer = null
    this.#timerDueMs = Infinity
  }

  #arm(dueMs: number): void {
    this.#timer?.cancel()
    this.#timerDueMs = dueMs
    this.#timer = this.#clock.after(Math.max(0, dueMs - this.#clock.monotonicMs()), () => this.#run())
  }

  #run(): void {
    this.#timer = null
    this.#timerDueMs = Infinity
    const nowMs = this.#clock.monotonicMs()
    for (const list of [...this.#lists.values()]) {
      for (let place = list.first; place !== null && place.dueMs <= nowMs; place = list.first) {
        const { target } = place
        this.remove(target)
        target.expire(nowMs)
      }
    }
    let nextMs = Infinity
    for (const list of this.#lists.values()) nextMs = Math.min(nextMs, list.first?.dueMs ?? Infinity)
    // `expire` may have armed the timer for what it set again, but not for what was there before.
    if (nextMs < this.#timerDueMs) this.#arm(nextMs)
  }
}

import type { Clock } from '../env.ts'

/** Something that has work for the end of the turn. */
export interface TurnWork {
  /** Whether it stands in the list; only `Turn` writes this. */
  inTurn: boolean
  atEndOfTurn(): void
}

/** Gathers what happens in one turn, so that it leaves as one batch. */
export class Turn {
  readonly #clock: Clock
  #work: TurnWork[] = []
  #nowMs = -1
  #scheduled = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The monotonic time at which something was first done in this turn: one look at the clock serves them all. */
  get nowMs(): number {
    if (this.#nowMs < 0) {
      this.#nowMs = this.#clock.monotonicMs()
      this.#schedule()
    }
    return this.#nowMs
  }

  add(work: TurnWork): void {
    if (work.inTurn) return
    work.inTurn = true
    this.#work.push(work)
    this.#schedule()
  }

  /** A long turn: the next look at `nowMs` is at the clock. */
  refresh(): void {
    this.#nowMs = -1
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#clock.soon(() => {
      this.#scheduled = false
      this.#nowMs = -1
      const work = this.#work
      this.#work = []
      for (const each of work) {
        each.inTurn = false
        each.atEndOfTurn()
      }
    })
  }
}

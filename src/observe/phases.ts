import type { Clock } from '../env.ts'

/** How long each part of something took. */
export class Phases {
  readonly #clock: Clock
  readonly #begunMs: number
  #lastMs: number
  /** By phase, in the order in which they ended, in whole milliseconds. */
  readonly tookMs: Record<string, number> = {}

  constructor(clock: Clock) {
    this.#clock = clock
    this.#begunMs = this.#lastMs = clock.monotonicMs()
  }

  /** What came since the phase before it was this one. */
  end(phase: string): void {
    const nowMs = this.#clock.monotonicMs()
    this.tookMs[phase] = Math.round(nowMs - this.#lastMs)
    this.#lastMs = nowMs
  }

  get totalMs(): number {
    return Math.round(this.#lastMs - this.#begunMs)
  }
}

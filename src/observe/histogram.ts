/** Upper bounds, in seconds: what an fdatasync takes on good and bad disks, and how long messages wait. */
export const latencyBounds: readonly number[] = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600,
]

/** Counts durations by size. Plain numbers in place: observing costs a short search and two additions. */
export class Histogram {
  readonly bounds: readonly number[]
  /** One for each bound, not summed up, and one for what is above the last. */
  readonly counts: number[]
  sum = 0

  constructor(bounds: readonly number[] = latencyBounds) {
    this.bounds = bounds
    this.counts = new Array<number>(bounds.length + 1).fill(0)
  }

  /** @param ms a duration in milliseconds; a clock that was set back counts as none */
  observeMs(ms: number): void {
    const seconds = Math.max(0, ms / 1000)
    let i = 0
    while (i < this.bounds.length && seconds > this.bounds[i]!) i++
    this.counts[i]!++
    this.sum += seconds
  }
}

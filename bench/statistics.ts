/** The few statistics the bench reports. */

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = Float64Array.from(values).sort()
  return { median: percentile(sorted, 0.5), min: sorted[0] ?? NaN, max: sorted.at(-1) ?? NaN }
}

/** The value at or below which `share` of them lie; NaN of nothing. `sorted` is ascending. */
export function percentile(sorted: Float64Array, share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? NaN
}

export interface Latency {
  readonly p50Ms: number
  readonly p99Ms: number
  readonly p999Ms: number | null
}

/** From number `first` on; those that are not done are left out. */
export function latencyOf(sentMs: Float64Array, doneMs: Float64Array, first: number): Latency {
  const times = sentMs.slice(first).map((at, i) => (doneMs[first + i] ?? NaN) - at)
  const sorted = times.filter((ms) => !Number.isNaN(ms)).sort()
  return {
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    p999Ms: percentile(sorted, 0.999),
  }
}

/** Milliseconds since 1970 with a fraction: what processes of one machine can compare. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now()
}

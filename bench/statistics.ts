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

/** Milliseconds since 1970 with a fraction: what processes of one machine can compare. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now()
}

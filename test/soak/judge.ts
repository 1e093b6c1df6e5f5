/**
 * Whether a measure stayed flat. The first third of a run is warm-up and does not count. Of the rest
 *
 *   trend  the slope × its length: how much the measure changed, after a line through it
 *   step   the median of its last third less that of its first
 *
 * must both stay within an allowance: a share of the level, or an absolute amount where that is more. The slope is
 * Theil's and Sen's, the median of the slopes between all pairs of points: a garbage collector's saw or a few bad
 * seconds do not move it, as they would a least-squares line.
 */
export interface Bound {
  /** Growth is bad; of a rate, decline is. */
  readonly bad: 'up' | 'down'
  /** Of the level, that it may change in a run. */
  readonly share: number
  /** That it may change however small it is, in the measure's unit. */
  readonly amount: number
}

export interface Verdict {
  /** The median of the first third that counts. */
  readonly level: number
  readonly trend: number
  readonly step: number
  readonly allowed: number
  readonly isFlat: boolean
}

const pointsMax = 240
const pointsMin = 12

/**
 * @param times ascending, any unit
 * @throws Error when there is too little to judge
 */
export function judge(times: readonly number[], values: readonly number[], bound: Bound): Verdict {
  const startTime = times[0]! + (times.at(-1)! - times[0]!) / 3
  const from = times.findIndex((time) => time >= startTime)
  const points = thin(times.slice(from), values.slice(from))
  if (points.length < pointsMin) throw new Error(`${points.length} points are too few to judge`)
  const third = Math.floor(points.length / 3)
  const level = median(points.slice(0, third).map(({ value }) => value))
  const step = median(points.slice(-third).map(({ value }) => value)) - level
  const trend = slopeOf(points) * (points.at(-1)!.time - points[0]!.time)
  const allowed = Math.max(bound.amount, bound.share * Math.abs(level))
  const worst = bound.bad === 'up' ? Math.max(trend, step) : Math.max(-trend, -step)
  return { level, trend, step, allowed, isFlat: worst <= allowed }
}

interface Point {
  readonly time: number
  readonly value: number
}

/** At most `pointsMax`, each the median of its part: all pairs of them are looked at. */
function thin(times: readonly number[], values: readonly number[]): Point[] {
  const each = Math.ceil(times.length / pointsMax)
  const points: Point[] = []
  for (let at = 0; at < times.length; at += each) {
    points.push({ time: median(times.slice(at, at + each)), value: median(values.slice(at, at + each)) })
  }
  return points
}

function slopeOf(points: readonly Point[]): number {
  const slopes: number[] = []
  for (const [i, { time, value }] of points.entries()) {
    for (const later of points.slice(i + 1)) slopes.push((later.value - value) / (later.time - time))
  }
  return median(slopes)
}

function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort()
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

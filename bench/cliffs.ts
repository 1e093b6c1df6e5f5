/** Whether what was measured grows in a straight line, or falls off somewhere. */

/** One step of what grows, as far as it is judged. */
export interface Point {
  readonly bodyBytes: number
  readonly perSecond: number
  /** At a fixed pace; null: not measured. */
  readonly receivedP50Ms: number | null
  /** Of the machine, while it was measured. */
  readonly othersShare: number
}

/** What a step lost against the one before it; null where it did not lose enough to tell. */
export interface Cliff {
  /** Share of the rate. */
  readonly rateLost: number | null
  /** Times the latency. */
  readonly latencyTimes: number | null
  /** Others had so much of the machine in one of the two that it may be their doing. */
  readonly isDoubtful: boolean
}

/** A step may lose so much. */
const lostMax = 0.25
/** The same of a latency: for one client at a time, a quarter fewer messages are a third more time. */
const latencyTimesMax = 1 / (1 - lostMax)
/** Less than that is what timers and the disk differ by. */
const latencyNoiseMs = 0.5
const othersShareMax = 0.2

/** Null: none. */
export function cliffOf(before: Point, now: Point): Cliff | null {
  const rateLost = rateLostOf(before, now)
  const latencyTimes = latencyTimesOf(before, now)
  const cliff = {
    rateLost: rateLost > lostMax ? rateLost : null,
    latencyTimes: latencyTimes > latencyTimesMax ? latencyTimes : null,
    isDoubtful: Math.max(before.othersShare, now.othersShare) > othersShareMax,
  }
  return cliff.rateLost === null && cliff.latencyTimes === null ? null : cliff
}

/**
 * A message costs something by itself and something for each of its bytes: as bodies grow, messages a second fall and
 * bytes a second rise. It is a loss only when both fall, and as large as the smaller of both; at one size they are the same.
 */
function rateLostOf(before: Point, now: Point): number {
  const messages = now.perSecond / before.perSecond
  const bytes = messages * (now.bodyBytes / before.bodyBytes)
  return 1 - Math.max(messages, bytes)
}

/** Of what its bytes explain: a message that is ten times as long may take ten times as long. */
function latencyTimesOf(before: Point, now: Point): number {
  if (before.receivedP50Ms === null || now.receivedP50Ms === null) return 1
  const explainedMs = before.receivedP50Ms * Math.max(1, now.bodyBytes / before.bodyBytes)
  return now.receivedP50Ms - explainedMs < latencyNoiseMs ? 1 : now.receivedP50Ms / explainedMs
}

/** How long a message rests after a failed delivery. */
import { limits, type Backoff } from '../types.ts'

/**
 * @param failures failed deliveries so far, the newest included; ≥ 1
 * @param unit drawn from [0, 1): what `jitter` leaves to chance
 * @returns whole milliseconds, at most a year
 */
export function backoffDelayMs(backoff: Backoff, failures: number, unit: number): number {
  const { type, delayMs, maxMs = limits.delayMsMax, jitter = 0 } = backoff
  const grown = type === 'fixed' ? delayMs : delayMs * 2 ** (failures - 1)
  // The part left to chance comes off: `maxMs` is never exceeded.
  return Math.round(Math.min(grown, maxMs, limits.delayMsMax) * (1 - jitter * unit))
}

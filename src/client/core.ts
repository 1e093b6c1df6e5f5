import type { Clock, Random } from '../env.ts'
import { MqError, type MqErrorCode } from '../errors.ts'
import type { AbortWatch } from './abort-watch.ts'
import type { Activity } from './activity.ts'
import type { Deadlines } from './deadlines.ts'
import type { Emitter } from './emitter.ts'
import type { ClientEvents } from './events.ts'
import type { Session } from './session.ts'
import type { Turn } from './turn.ts'

/** What the parts of one client share. */
export interface Core {
  readonly clock: Clock
  readonly random: Random
  readonly session: Session
  readonly events: Emitter<ClientEvents>
  readonly deadlines: Deadlines
  /** Everything that `drain` and `close` wait for. */
  readonly activity: Activity
  readonly turn: Turn
  readonly aborts: AbortWatch
  /** While there is no connection, calls fail rather than wait. */
  readonly failsOffline: boolean
  /** @throws MqError CLOSED once the client drains or was closed */
  checkOpen(): void
}

const retryPauseMs = 100
const retryPauseMsMax = 60_000

/** Refusals after which the client asks again by itself: the broker did not look at the request, or had no room. */
export function isRetried(code: MqErrorCode): boolean {
  return code === 'THROTTLED' || code === 'STOPPING' || code === 'NOT_LEADER' || code === 'STALE_EPOCH'
}

/** How long to leave a broker alone that said THROTTLED, STOPPING or the like. */
export function retryPause(
  core: Core,
  details: Readonly<Record<string, unknown>> | null | undefined,
): number {
  const asked = details?.['retryAfterMs']
  if (typeof asked === 'number' && asked >= 0) return Math.min(asked, retryPauseMsMax)
  return retryPauseMs * (0.5 + core.random.unit())
}

/** @throws MqError DISCONNECTED */
export function checkOnline(core: Core): void {
  if (core.failsOffline && !core.session.isReady) {
    throw new MqError('DISCONNECTED', 'no broker is connected', {
      outcome: 'failed',
      cause: core.session.lastError,
    })
  }
}

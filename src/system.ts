import { randomBytes } from 'node:crypto'
import type { Clock, Random } from './env.ts'
import { invariant } from './errors.ts'

/** Node keeps a delay in 31 bits; anything above fires at once. */
const delayMsMax = 2 ** 31 - 1

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(delayMs, run) {
    invariant(!Number.isNaN(delayMs), 'a timer needs a delay')
    const dueMs = performance.now() + delayMs
    let timeout: NodeJS.Timeout
    // Node counts whole milliseconds, so a timer can fire a fraction early: then, and after each part of a very
    // long delay, the rest is waited for.
    const arm = (restMs: number) => {
      timeout = setTimeout(
        () => {
          const leftMs = dueMs - performance.now()
          if (leftMs > 0) arm(leftMs)
          else run()
        },
        Math.min(Math.ceil(restMs), delayMsMax),
      )
    }
    arm(delayMs)
    return { cancel: () => clearTimeout(timeout) }
  },
  soon(run) {
    setImmediate(run)
  },
}

export const systemRandom: Random = {
  bytes: (length) => randomBytes(length),
  unit: () => Math.random(),
}

/** Resolves once every microtask and `nextTick` there is, and each that these bring about, has run. */
export function afterMicrotasks(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}

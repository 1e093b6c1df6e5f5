/**
 * The way from an outbox to its target, as bad as a network between two nodes: it loses, delays and repeats what is
 * forwarded, and loses and delays the answers. What is late may come after what was sent later.
 */
import type { Clock } from '../../src/env.ts'
import type { SeededRandom } from '../../src/sim/random.ts'

export interface LinkFaults {
  readonly latencyMs: readonly [number, number]
  /** Of each frame, and of each answer: it never arrives. */
  readonly dropChance: number
  /** Of each frame: a copy of it arrives too, some time. */
  readonly repeatChance: number
  /** Of each frame, and of each answer: it takes up to `delayMsMax` longer. */
  readonly delayChance: number
  readonly delayMsMax: number
}

type Carry = (frame: Uint8Array) => Promise<Uint8Array>

/**
 * @param clock of the process: what is on its way when that crashes is lost
 * @param faults as they are at the moment
 */
export function faultyLink(
  clock: Clock,
  random: SeededRandom,
  faults: () => LinkFaults,
): (deliver: Carry) => Carry {
  const travel = (arrive: () => void): void => {
    const { dropChance, latencyMs, delayChance, delayMsMax } = faults()
    if (random.chance(dropChance)) return
    const delayMs = random.chance(delayChance) ? random.between(0, delayMsMax) : 0
    clock.after(random.between(latencyMs[0], latencyMs[1]) + delayMs, arrive)
  }
  return (deliver) => (frame) =>
    new Promise((resolve, reject) => {
      const copies = random.chance(faults().repeatChance) ? 2 : 1
      for (let i = 0; i < copies; i++) {
        // Of its own: whoever sent it may use its memory again.
        const copy = Uint8Array.from(frame)
        travel(() => {
          deliver(copy).then(
            (answer) => travel(() => resolve(answer)),
            (error: unknown) =>
              travel(() => reject(error instanceof Error ? error : new Error(String(error)))),
          )
        })
      }
    })
}

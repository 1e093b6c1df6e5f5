/** Work that takes long is done over several turns of the event loop, so that others are served in between. */
import type { Clock } from './env.ts'

/** Resolves once whatever waits already has had its turn. */
export function turn(clock: Clock): Promise<void> {
  return new Promise((resolve) => clock.soon(resolve))
}

/** Visits the items, at most `perTurn` of them in one turn. They may change in between, as far as their iterator allows. */
export async function* inTurns<T>(
  items: Iterable<T>,
  perTurn: number,
  clock: Clock,
): AsyncGenerator<T, void> {
  let visited = 0
  for (const item of items) {
    if (visited === perTurn) {
      visited = 0
      await turn(clock)
    }
    visited++
    yield item
  }
}

/**
 * A world whose time stands still until it is moved, while everything that needs no time goes on by itself: bytes
 * arrive, commits end and promises resolve in real turns of the event loop, as events of one virtual moment.
 *
 *   something is due now → run what is due, until nothing is → rest
 *   advance(ms)          → the same, at each moment up to then at which something falls due
 *
 * What the world does not simulate (a real disk) is `tracked`: time does not move on while any of it is under way.
 */
import { invariant } from '../errors.ts'
import type { SimWorld } from './world.ts'

export class MovedClock {
  readonly #world: SimWorld
  /** Runs and advances, one at a time. */
  #last: Promise<void> = Promise.resolve()
  #settling = false
  /** Something became due since the last look. */
  #woken = false
  /** Tracked operations under way, and who waits for one of them to end. */
  #outside = 0
  #outsideEnded: () => void = () => undefined

  constructor(world: SimWorld) {
    this.#world = world
    world.onDue = () => this.#wake()
  }

  /**
   * Moves time on by `ms`, from one due moment to the next. Resolves when what fell due, and all that it brought
   * about, is done. Calls are carried out one after the other.
   * @throws what the code that ran has thrown: a defect
   */
  advance(ms: number): Promise<void> {
    return this.#exclusively(async () => {
      await this.#settle()
      const untilMs = this.#world.exactMs + ms
      while (this.#world.nextMs <= untilMs) {
        await this.#world.run({ untilMs: this.#world.nextMs })
        await this.#settle()
      }
      await this.#world.run({ untilMs })
    })
  }

  /** Something outside of the world, for which time waits. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#outside++
    const end = (): void => {
      this.#outside--
      invariant(this.#outside >= 0, 'an operation ends once')
      this.#outsideEnded()
    }
    work.then(end, end)
    return work
  }

  #wake(): void {
    this.#woken = true
    if (this.#settling) return
    this.#settling = true
    // A defect must not go unseen: what is thrown here is a rejection that nobody handles.
    void this.#exclusively(async () => {
      try {
        while (this.#woken) await this.#settle()
      } finally {
        this.#settling = false
      }
    })
  }

  /** Runs all that is due, and what that brings about, at this moment. */
  async #settle(): Promise<void> {
    for (;;) {
      this.#woken = false
      await this.#world.advance(0)
      if (this.#outside > 0) await new Promise<void>((resolve) => (this.#outsideEnded = resolve))
      else if (!this.#woken) return
    }
  }

  #exclusively(work: () => Promise<void>): Promise<void> {
    const done = this.#last.then(work)
    this.#last = done.catch(() => undefined)
    return done
  }
}

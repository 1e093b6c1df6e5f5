/**
 * Writes checkpoints one after the other, a little in each turn, so that others are served in between, however large a
 * state is and however many partitions there are. One is under way at a time: a capture keeps what changes meanwhile,
 * and two of one partition must not overtake each other.
 */
import type { Clock } from '../env.ts'
import type { CheckpointWriter } from '../storage/checkpoint-writer.ts'

export interface Checkpointed {
  /** Captures its fold; null: it has changed in nothing, or is closed. */
  beginCheckpoint(): CheckpointWriter | null
}

/** What it costs to find that nothing has changed, in bytes of encoding. */
const lookCostBytes = 256

export class Checkpoints {
  readonly #clock: Clock
  readonly #bytesPerTurn: number
  readonly #failed: (error: unknown) => void
  /** In the order in which they were asked for. */
  readonly #wanted = new Set<Checkpointed>()
  #current: { of: Checkpointed; writer: CheckpointWriter } | null = null
  #isDue = false
  #isOpen = true
  #whenIdle: (() => void)[] = []

  /** @param failed hears of a defect */
  constructor(clock: Clock, bytesPerTurn: number, failed: (error: unknown) => void) {
    this.#clock = clock
    this.#bytesPerTurn = bytesPerTurn
    this.#failed = failed
  }

  /** Soon one is captured, which has in it all that has been appended by now. Asked again before that: one for both. */
  want(partition: Checkpointed): void {
    if (!this.#isOpen) return
    this.#wanted.add(partition)
    this.#arm()
  }

  /** It is closed: what has not been queued is not written. */
  forget(partition: Checkpointed): void {
    this.#wanted.delete(partition)
    if (this.#current?.of === partition) this.#current = null
  }

  /** Resolves once all that were asked for are queued, or it was closed. */
  idle(): Promise<void> {
    if (this.#isIdle) return Promise.resolve()
    return new Promise((resolve) => this.#whenIdle.push(resolve))
  }

  close(): void {
    this.#isOpen = false
    this.#wanted.clear()
    this.#current = null
    this.#tellIdle()
  }

  get #isIdle(): boolean {
    return this.#wanted.size === 0 && this.#current === null
  }

  #arm(): void {
    if (this.#isDue) return
    this.#isDue = true
    this.#clock.soon(() => {
      this.#isDue = false
      try {
        this.#turn()
      } catch (error) {
        this.#failed(error)
        return
      }
      if (this.#isIdle) this.#tellIdle()
      else this.#arm()
    })
  }

  #turn(): void {
    for (let cost = 0; cost < this.#bytesPerTurn;) {
      this.#current ??= this.#begin()
      if (this.#current === null) {
        if (this.#wanted.size === 0) return
        cost += lookCostBytes
        continue
      }
      const stepBytes = this.#current.writer.step()
      if (stepBytes === 0) this.#current = null
      cost += stepBytes
    }
  }

  #begin(): { of: Checkpointed; writer: CheckpointWriter } | null {
    for (const partition of this.#wanted) {
      this.#wanted.delete(partition)
      const writer = partition.beginCheckpoint()
      return writer && { of: partition, writer }
    }
    return null
  }

  #tellIdle(): void {
    const waiting = this.#whenIdle
    this.#whenIdle = []
    for (const resolve of waiting) resolve()
  }
}

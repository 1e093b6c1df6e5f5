import { BatchBuilder } from '../wire/batch.ts'

/** Builders kept for the next batch: they know what to expect of it. */
const idleMax = 8

/** Batch builders are lent to whoever builds a batch: a client has many queues, and few batches open at once. */
export class BuilderPool {
  readonly #idle: BatchBuilder[] = []
  #lent = 0

  /** Builders in use. */
  get lent(): number {
    return this.#lent
  }

  take(): BatchBuilder {
    this.#lent++
    return this.#idle.pop() ?? new BatchBuilder()
  }

  /** Takes back one that is empty. */
  give(builder: BatchBuilder): void {
    this.#lent--
    if (this.#idle.length < idleMax) this.#idle.push(builder)
  }
}

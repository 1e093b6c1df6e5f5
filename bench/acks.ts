/** How many messages a consumer's process has acked, and who waits for more. */
import { within } from './broker-process.ts'
import { nowMs } from './statistics.ts'

export class Acks {
  #count = 0
  #lastMs = 0
  #failure: Error | null = null
  #waiting: { total: number; resolve: () => void } | null = null

  get count(): number {
    return this.#count
  }

  add(count: number): void {
    this.#count += count
    this.#lastMs = nowMs()
    if (this.#waiting !== null && this.#count >= this.#waiting.total) this.#waiting.resolve()
  }

  /** Nothing more will come; the first reason counts. */
  fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error))
    this.#waiting?.resolve()
  }

  /** @throws why it failed, if so */
  assertGood(): void {
    if (this.#failure !== null) throw this.#failure
  }

  /** Resolves once so many have been acked, or with fewer when the time is over. @throws as `assertGood` */
  async until(total: number, timeoutMs: number): Promise<{ acked: number; lastAckMs: number }> {
    if (this.#count < total && this.#failure === null) {
      const reached = new Promise<void>((resolve) => (this.#waiting = { total, resolve }))
      // Late is no error here: the account says what is missing.
      await within(timeoutMs, 'the last ack', reached).catch(() => undefined)
      this.#waiting = null
    }
    this.assertGood()
    return { acked: this.#count, lastAckMs: this.#lastMs }
  }
}

import type { Abandonment } from './ending.ts'

/** Something under way that somebody waits for. */
export interface Work {
  /** Rejects all that still waits for it. */
  abandon(why: Abandonment): void
  /** Of no use once the client closes: not waited for. */
  readonly endsOnClose?: boolean
}

/** Something that goes on by itself until its user, or the client, ends it. */
export interface Stream {
  /** The client takes no more calls. */
  end(): void
}

/** What is under way in a client, so that `drain` and `close` can wait until nothing is, or let go of it all. */
export class Activity {
  readonly #works = new Set<Work>()
  readonly #waiting = new Set<() => void>()
  /** Nobody waits for these: they are ended when the client drains or closes. */
  readonly streams = new Set<Stream>()

  get count(): number {
    return this.#works.size
  }

  begin(work: Work): void {
    this.#works.add(work)
  }

  /** Idempotent. */
  end(work: Work): void {
    if (!this.#works.delete(work) || this.#works.size > 0) return
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const run of waiting) run()
  }

  /** What begins meanwhile is let go of too: one that leaves a line lets the next one move up, into a batch. */
  abandon(why: Abandonment): void {
    for (const work of this.#works) work.abandon(why)
  }

  endStreams(): void {
    for (const stream of [...this.streams]) stream.end()
  }

  /** Lets go of what only waits for something new. */
  endOnClose(): void {
    for (const work of [...this.#works]) if (work.endsOnClose === true) work.abandon('CLOSED')
  }

  /** Runs `run` once nothing is under way: now, or later. */
  whenIdle(run: () => void): void {
    if (this.#works.size === 0) run()
    else this.#waiting.add(run)
  }

  /** Takes `whenIdle(run)` back. */
  forget(run: () => void): void {
    this.#waiting.delete(run)
  }
}

/**
 * What the administrative commands of a run may have done, and when: purges, changes of options, redrives. Each was
 * done at some time between its begin and its answer; without an answer at any time since, or never. So the oracle
 * asks what may have been, and what surely was.
 */
import type { QueueOptions } from '../../src/types.ts'

/** A command that takes its time. */
export interface Span {
  readonly beganMs: number
  /** Infinity: not yet, as far as anybody was told. */
  endedMs: number
  /** It was done, between those. */
  confirmed: boolean
}

interface Change extends Span {
  readonly options: QueueOptions
}

interface Redrive {
  readonly from: string
  /** null: each to where it came from. */
  readonly to: string | null
}

interface AdminOfQueue {
  /** As created; a change gives all that is ever changed. */
  readonly created: QueueOptions
  changes: Change[]
  readonly purges: Span[]
  readonly deletions: Span[]
}

/** It takes all messages, as a purge does, and its options with it. */
interface Deletion {
  readonly purge: Span
  readonly change: Span
}

export class Admin {
  readonly #nowMs: () => number
  readonly #queues: ReadonlyMap<string, AdminOfQueue>
  readonly #redrives: Redrive[] = []

  /** @param queues with those that are made by the broker, with options that are known to come out so */
  constructor(
    nowMs: () => number,
    queues: Iterable<{ readonly name: string; readonly options: QueueOptions }>,
  ) {
    this.#nowMs = nowMs
    this.#queues = new Map(
      [...queues].map(({ name, options }) => [
        name,
        { created: options, changes: [], purges: [], deletions: [] },
      ]),
    )
  }

  get queueNames(): string[] {
    return [...this.#queues.keys()]
  }

  /** Options that are never changed. */
  fixed(queue: string): Pick<QueueOptions, 'maxDeliveries' | 'deadLetterQueue'> {
    return this.#queues.get(queue)?.created ?? {}
  }

  /** @param options what is changed; always the same names, in one run */
  changeBegan(queue: string, options: QueueOptions): Span {
    const change = { beganMs: this.#nowMs(), endedMs: Infinity, confirmed: false, options }
    this.#queues.get(queue)!.changes.push(change)
    return change
  }

  /** A change that failed did nothing. */
  changeEnded(queue: string, change: Span, outcome: 'ok' | 'failed' | 'unknown'): void {
    const of = this.#queues.get(queue)!
    if (outcome === 'failed') of.changes = of.changes.filter((each) => each !== change)
    if (outcome !== 'ok') return
    change.endedMs = this.#nowMs()
    change.confirmed = true
  }

  /** The options that may have been in force at some time since then: at least one. */
  optionsSince(queue: string, sinceMs: number): QueueOptions[] {
    const { created, changes } = this.#queues.get(queue)!
    /** Another change surely came after those that had ended by this time, before all this. */
    let overruledMs = -Infinity
    for (const { confirmed, beganMs, endedMs } of changes) {
      if (confirmed && endedMs < sinceMs) overruledMs = Math.max(overruledMs, beganMs)
    }
    const versions = changes.filter(({ endedMs }) => endedMs >= overruledMs)
    return [
      ...(overruledMs === -Infinity ? [created] : []),
      ...versions.map(({ options }) => ({ ...created, ...options })),
    ]
  }

  purgeBegan(queue: string): Span {
    const purge = { beganMs: this.#nowMs(), endedMs: Infinity, confirmed: false }
    this.#queues.get(queue)!.purges.push(purge)
    return purge
  }

  /** A purge that failed may have done a part. */
  purgeEnded(purge: Span, outcome: 'ok' | 'failed' | 'unknown'): void {
    if (outcome === 'unknown') return
    purge.endedMs = this.#nowMs()
    purge.confirmed = outcome === 'ok'
  }

  /** Whether a message that was in the queue at some time since then may have been purged. */
  mayHavePurged(queue: string, sinceMs: number): boolean {
    return this.#queues.get(queue)?.purges.some(({ endedMs }) => endedMs >= sinceMs) ?? false
  }

  /** Whether a message that was there at a time had been purged by another. */
  hasPurged(queue: string, thereMs: number, byMs: number): boolean {
    return this.#queues
      .get(queue)!
      .purges.some(({ confirmed, beganMs, endedMs }) => confirmed && thereMs < beganMs && endedMs < byMs)
  }

  /** Whoever creates the queue again gives it the options that it had at first. */
  deletionBegan(queue: string): Deletion {
    const purge = this.purgeBegan(queue)
    this.#queues.get(queue)!.deletions.push(purge)
    return { purge, change: this.changeBegan(queue, {}) }
  }

  deletionEnded(queue: string, { purge, change }: Deletion, outcome: 'ok' | 'failed' | 'unknown'): void {
    this.purgeEnded(purge, outcome)
    this.changeEnded(queue, change, outcome)
    const of = this.#queues.get(queue)!
    if (outcome === 'failed') of.deletions.splice(of.deletions.indexOf(purge), 1)
  }

  /** Whether the queue may have been deleted, with what it had to forward, at some time since then. */
  mayHaveDeleted(queue: string, sinceMs: number): boolean {
    return this.#queues.get(queue)?.deletions.some(({ endedMs }) => endedMs >= sinceMs) ?? false
  }

  redriveBegan(from: string, to: string | null): void {
    this.#redrives.push({ from, to })
  }

  /** @param origin the queue that the dead letters came from */
  mayHaveRedriven(from: string, to: string, origin: string): boolean {
    return this.#redrives.some((each) => each.from === from && (each.to ?? origin) === to)
  }

  /** Whether anything may have come out of a queue by a redrive. */
  hasRedriven(from: string): boolean {
    return this.#redrives.some((each) => each.from === from)
  }
}

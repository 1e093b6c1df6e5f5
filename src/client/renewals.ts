/**
 * Keeps leases from running out while their messages are held: each is renewed at about a third of its length, those
 * of a partition that are due about then together. Without the broker's word a lease counts as lost when its time is over.
 */
import type { PartitionId } from '../types.ts'
import type { LeasedRange } from '../wire/messages.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { extendItems } from './extend.ts'
import type { Held } from './held.ts'
import type { Queue } from './queues.ts'

/** Ranges in one EXTEND, but for a delivery that has more by itself. */
const itemsMax = 1024

/** One EXTEND. */
interface Renewal {
  readonly items: LeasedRange[]
  readonly held: Held[]
  /** The offset behind its last item: an answer names what it refuses by offset, so each stands in it once. */
  end: number
}

export class Renewals implements Deadline {
  place: Place | null = null
  readonly #core: Core
  readonly #queue: Queue
  /** Waiting to be due. */
  readonly #held = new Set<Held>()
  #stopped = false

  constructor(core: Core, queue: Queue) {
    this.#core = core
    this.#queue = queue
  }

  add(held: Held): void {
    if (this.#stopped) return
    this.#held.add(held)
    this.#arm(held.dueMs)
  }

  /** Idempotent. */
  remove(held: Held): void {
    this.#held.delete(held)
  }

  /** Nothing is renewed any more, nor found to be lost. */
  stop(): void {
    this.#stopped = true
    this.#held.clear()
    this.#core.deadlines.remove(this)
  }

  /** All at once: to learn which leases a broker still knows. */
  renewNow(): void {
    const nowMs = this.#core.clock.monotonicMs()
    for (const held of this.#held) held.dueMs = nowMs
    if (this.#held.size > 0) this.expire(nowMs)
  }

  #arm(dueMs: number): void {
    if (this.place !== null && this.place.dueMs <= dueMs) return
    const nowMs = this.#core.clock.monotonicMs()
    // Whole, so that there are few different delays.
    this.#core.deadlines.set(this, nowMs, Math.max(1, Math.ceil(dueMs - nowMs)))
  }

  expire(nowMs: number): void {
    const byPartition = new Map<PartitionId, Held[]>()
    let nextMs = Infinity
    for (const held of this.#held) {
      // Not quite due ones go along: soon all of a partition go together.
      if (held.dueMs > nowMs + held.leaseMs / 12) {
        nextMs = Math.min(nextMs, held.dueMs)
        continue
      }
      this.#held.delete(held)
      const due = byPartition.get(held.partition)
      if (due === undefined) byPartition.set(held.partition, [held])
      else due.push(held)
    }
    if (nextMs !== Infinity) this.#arm(nextMs)
    for (const [partition, due] of byPartition) {
      for (const renewal of renewalsOf(due)) this.#renew(partition, renewal)
    }
  }

  #renew(partition: PartitionId, { items, held }: Renewal): void {
    const nowMs = this.#core.clock.monotonicMs()
    const { leaseMs } = held[0]!
    const expiresMs = Math.min(...held.map((each) => each.expiresMs))
    const options = { timeoutMs: Math.max(0, expiresMs - nowMs) }
    extendItems(this.#core, this.#queue, partition, leaseMs, items, options).then(
      (refused) => {
        for (const each of held) {
          if (refused !== null) each.refused(refused)
          each.renewed(nowMs)
          if (each.left > 0) this.add(each)
        }
      },
      () => {
        if (this.#stopped) return
        const thenMs = this.#core.clock.monotonicMs()
        for (const each of held) {
          if (each.expiresMs <= thenMs + 1) each.expired()
          else if (each.left > 0) {
            each.dueMs = thenMs + each.leaseMs / 12
            this.add(each)
          }
        }
      },
    )
  }
}

/** Those of one partition, put together. */
function renewalsOf(held: Held[]): Renewal[] {
  held.sort((a, b) => a.base - b.base)
  const renewals: Renewal[] = []
  for (const each of held) {
    let renewal = renewals.find(
      ({ items, end, held: [first] }) =>
        items.length < itemsMax && end <= each.base && first!.leaseMs === each.leaseMs,
    )
    if (renewal === undefined) renewals.push((renewal = { items: [], held: [], end: 0 }))
    each.addTo(renewal.items)
    renewal.held.push(each)
    renewal.end = each.base + each.count
  }
  return renewals
}

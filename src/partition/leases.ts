/**
 * Leases: which messages are out, and until when. The leader's memory and nobody else's; they end with its epoch,
 * unless a planned stop hands them over. A lease covers what one receive took from this partition, as ranges, so a
 * batch costs one lease however many messages it has. Each range has its own expiry, because `extend` of one message
 * must not extend its neighbours.
 */
import { invariant } from '../errors.ts'
import { limits, type Epoch, type LeaseId, type Offset } from '../types.ts'
import type { HandedLease } from './payload.ts'
import { TimerHeap } from './timer-heap.ts'

interface Lease {
  readonly id: LeaseId
  /** Of the leader that granted it: what its receipts say. */
  readonly epoch: Epoch
  /** Flat `start, end, expiresMs (monotonic), …`, ascending, not overlapping. Never empty while the lease exists. */
  ranges: number[]
  /** When the heap will look at this lease next; ≤ the earliest expiry. Other heap entries of it are stale. */
  scheduledMs: number
}

export type RangeVisitor = (start: Offset, end: Offset) => void

export class Leases {
  #leases = new Map<LeaseId, Lease>()
  #timers = new TimerHeap()
  #next: LeaseId = 1
  /** Messages out. */
  #messages = 0

  get messages(): number {
    return this.#messages
  }

  get count(): number {
    return this.#leases.size
  }

  /** Infinity when nothing is leased. May be early (a settled lease's), never late. */
  get nextDueMs(): number {
    return this.#timers.peekDueMs()
  }

  /** Timers in memory, stale ones included. For tests and metrics. */
  get timerCount(): number {
    return this.#timers.size
  }

  /** Grants a lease over `ranges` (flat `start, end, …`, ascending, at least one). */
  grant(epoch: Epoch, ranges: readonly number[], expiresMs: number): LeaseId {
    invariant(ranges.length >= 2, 'a lease of nothing')
    const triples: number[] = []
    for (let i = 0; i < ranges.length; i += 2) {
      triples.push(ranges[i]!, ranges[i + 1]!, expiresMs)
      this.#messages += ranges[i + 1]! - ranges[i]!
    }
    const lease: Lease = { id: this.#next++, epoch, ranges: triples, scheduledMs: expiresMs }
    this.#leases.set(lease.id, lease)
    this.#schedule(lease, expiresMs)
    return lease.id
  }

  /**
   * Ends the part of `[start, end)` that this lease holds and has not expired; `taken` sees it, ascending.
   * @returns how many messages that was
   */
  release(id: LeaseId, epoch: Epoch, start: Offset, end: Offset, nowMs: number, taken: RangeVisitor): number {
    const lease = this.#find(id, epoch)
    if (lease === undefined) return 0
    const r = lease.ranges
    // The plain path: a whole range of the lease, in the order it was delivered.
    if (r[0] === start && r[1]! <= end && r[2]! > nowMs && (r.length === 3 || r[3]! >= end)) {
      const size = r[1]! - start
      taken(start, r[1]!)
      if (r.length === 3) this.#leases.delete(id)
      else r.splice(0, 3)
      this.#messages -= size
      return size
    }
    const kept: number[] = []
    let released = 0
    for (let i = 0; i < r.length; i += 3) {
      const [from, to, expiresMs] = [r[i]!, r[i + 1]!, r[i + 2]!]
      const cutFrom = Math.max(from, start)
      const cutTo = Math.min(to, end)
      if (cutFrom >= cutTo || expiresMs <= nowMs) {
        kept.push(from, to, expiresMs)
        continue
      }
      if (from < cutFrom) kept.push(from, cutFrom, expiresMs)
      if (cutTo < to) kept.push(cutTo, to, expiresMs)
      released += cutTo - cutFrom
      taken(cutFrom, cutTo)
    }
    this.#keep(lease, kept)
    this.#messages -= released
    return released
  }

  /** Lets the part of `[start, end)` that this lease still holds end at `expiresMs` instead; `held` sees that part. */
  extend(
    id: LeaseId,
    epoch: Epoch,
    start: Offset,
    end: Offset,
    nowMs: number,
    expiresMs: number,
    held: RangeVisitor,
  ): number {
    const lease = this.#find(id, epoch)
    if (lease === undefined) return 0
    const next: number[] = []
    let extended = 0
    for (let i = 0; i < lease.ranges.length; i += 3) {
      const [from, to, expires] = [lease.ranges[i]!, lease.ranges[i + 1]!, lease.ranges[i + 2]!]
      const cutFrom = Math.max(from, start)
      const cutTo = Math.min(to, end)
      if (cutFrom >= cutTo || expires <= nowMs) {
        pushRange(next, from, to, expires)
        continue
      }
      if (from < cutFrom) pushRange(next, from, cutFrom, expires)
      pushRange(next, cutFrom, cutTo, expiresMs)
      if (cutTo < to) pushRange(next, cutTo, to, expires)
      extended += cutTo - cutFrom
      held(cutFrom, cutTo)
    }
    lease.ranges = next
    if (extended > 0 && expiresMs < lease.scheduledMs) this.#schedule(lease, expiresMs)
    return extended
  }

  /**
   * Ends what expired by `nowMs`; `expired` sees it. After `rangesMax` ranges, and the rest of that lease, what is left
   * stays due: it can't be settled or extended any more, and is ended by the next call.
   */
  expire(nowMs: number, expired: RangeVisitor, rangesMax = Infinity): void {
    let left = rangesMax
    while (left > 0) {
      const id = this.#timers.popDue(nowMs)
      if (id === -1) return
      const lease = this.#leases.get(id)
      if (lease === undefined) continue
      const kept: number[] = []
      let earliest = Infinity
      for (let i = 0; i < lease.ranges.length; i += 3) {
        const [from, to, expiresMs] = [lease.ranges[i]!, lease.ranges[i + 1]!, lease.ranges[i + 2]!]
        if (expiresMs > nowMs) {
          kept.push(from, to, expiresMs)
          earliest = Math.min(earliest, expiresMs)
        } else {
          this.#messages -= to - from
          left--
          expired(from, to)
        }
      }
      this.#keep(lease, kept)
      // A stale entry of a lease that is scheduled later needs no second one.
      if (kept.length > 0 && lease.scheduledMs <= nowMs) this.#schedule(lease, earliest)
    }
  }

  /** Ends up to `rangesMax` ranges that are out below `end`, whoever has them; `taken` sees them. */
  takeBelow(end: Offset, rangesMax: number, taken: RangeVisitor): void {
    let left = rangesMax
    for (const lease of this.#leases.values()) {
      if (left <= 0) return
      const kept: number[] = []
      for (let i = 0; i < lease.ranges.length; i += 3) {
        const [from, to, expiresMs] = [lease.ranges[i]!, lease.ranges[i + 1]!, lease.ranges[i + 2]!]
        if (from >= end || left <= 0) {
          kept.push(from, to, expiresMs)
          continue
        }
        const cut = Math.min(to, end)
        if (cut < to) kept.push(cut, to, expiresMs)
        this.#messages -= cut - from
        left--
        taken(from, cut)
      }
      this.#keep(lease, kept)
    }
  }

  /** Everything out, for a hand-over. Expiries become wall-clock times, which outlive the process. */
  handOver(nowMs: number, wallMs: number): HandedLease[] {
    return [...this.#leases.values()].map(({ id, epoch, ranges }) => {
      const triples: number[] = []
      for (let i = 0; i < ranges.length; i += 3) {
        triples.push(
          ranges[i]!,
          ranges[i + 1]! - ranges[i]!,
          Math.max(0, Math.ceil(wallMs + ranges[i + 2]! - nowMs)),
        )
      }
      return { lease: id, epoch, ranges: triples }
    })
  }

  /** Takes over what the leader before handed on, at the start. */
  takeOver(nextLease: LeaseId, leases: readonly HandedLease[], nowMs: number, wallMs: number): void {
    invariant(this.#leases.size === 0, 'leases are taken over before any is granted')
    this.#next = nextLease
    for (const handed of leases) {
      const ranges: number[] = []
      let earliest = Infinity
      for (let i = 0; i < handed.ranges.length; i += 3) {
        const [start, count, wall] = [handed.ranges[i]!, handed.ranges[i + 1]!, handed.ranges[i + 2]!]
        // A wall clock that was set back must not make a lease longer than any may be.
        const expiresMs = nowMs + Math.min(Math.max(0, wall - wallMs), limits.visibilityTimeoutMsMax)
        ranges.push(start, start + count, expiresMs)
        earliest = Math.min(earliest, expiresMs)
        this.#messages += count
      }
      this.#leases.set(handed.lease, { id: handed.lease, epoch: handed.epoch, ranges, scheduledMs: earliest })
      this.#timers.push(earliest, handed.lease)
    }
  }

  get nextLease(): LeaseId {
    return this.#next
  }

  forEach(visit: (start: Offset, end: Offset, expiresMs: number, lease: LeaseId) => void): void {
    for (const { id, ranges } of this.#leases.values()) {
      for (let i = 0; i < ranges.length; i += 3) visit(ranges[i]!, ranges[i + 1]!, ranges[i + 2]!, id)
    }
  }

  #find(id: LeaseId, epoch: Epoch): Lease | undefined {
    const lease = this.#leases.get(id)
    // Numbers start anew with each epoch, so the number alone could be another leader's receipt.
    return lease?.epoch === epoch ? lease : undefined
  }

  #keep(lease: Lease, ranges: number[]): void {
    lease.ranges = ranges
    if (ranges.length === 0) this.#leases.delete(lease.id)
  }

  #schedule(lease: Lease, dueMs: number): void {
    lease.scheduledMs = dueMs
    this.#timers.push(dueMs, lease.id)
    // Settled leases leave their timers behind; with a lease of hours those must not pile up.
    if (this.#timers.size > 2 * this.#leases.size + 64) {
      this.#timers.compact((due, id) => this.#leases.get(id)?.scheduledMs === due)
    }
  }
}

function pushRange(ranges: number[], start: number, end: number, expiresMs: number): void {
  const last = ranges.length - 3
  if (last >= 0 && ranges[last + 1] === start && ranges[last + 2] === expiresMs) ranges[last + 1] = end
  else ranges.push(start, end, expiresMs)
}

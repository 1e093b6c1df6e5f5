// Due times of a partition: visibility timeouts, delays, retries. A binary heap of (dueMs, id) pairs in one
// Float64Array, so that a timer costs 16 bytes and no object.
//
// There is no removal: whoever settles a message early leaves its timer behind, ignores it when it pops, and
// calls `compact` when such timers may be many.

const PAIRS_MIN_ALLOCATED = 16

/** Min-heap of timers. Those due at the same time pop in the order of their ids: a simulated run repeats. */
export class TimerHeap {
  /** dueMs, id, dueMs, id ... Invariant: pair i does not come before its parent, pair (i - 1) >>> 1. */
  #pairs = new Float64Array(PAIRS_MIN_ALLOCATED * 2)
  #size = 0

  /** Number of timers, stale ones included. */
  get size(): number {
    return this.#size
  }

  /** Number of timers there is memory for. For tests and metrics. */
  get capacity(): number {
    return this.#pairs.length / 2
  }

  /** Throws RangeError when `dueMs` is not finite, or `id` is no safe integer or is negative. */
  push(dueMs: number, id: number): void {
    if (!Number.isFinite(dueMs)) throw new RangeError(`due time ${dueMs} is not finite`)
    if (!Number.isSafeInteger(id) || id < 0) throw new RangeError(`timer id ${id} is not a safe integer`)
    if (this.#size * 2 === this.#pairs.length) this.#reallocate()
    this.#siftUp(this.#size++, dueMs, id)
  }

  /** When the next timer is due, or Infinity. */
  peekDueMs(): number {
    return this.#size === 0 ? Infinity : this.#pairs[0]!
  }

  /** Removes the next timer due at or before `nowMs` and returns its id, or -1. */
  popDue(nowMs: number): number {
    if (this.#size === 0 || !(this.#pairs[0]! <= nowMs)) return -1
    const pairs = this.#pairs
    const id = pairs[1]!
    const last = --this.#size * 2
    if (last > 0) this.#siftDown(0, pairs[last]!, pairs[last + 1]!)
    this.#shrink()
    return id
  }

  /** Visits all timers, in no order. For tests and the simulator. */
  forEach(visit: (dueMs: number, id: number) => void): void {
    for (let i = 0; i < this.#size; i++) visit(this.#pairs[i * 2]!, this.#pairs[i * 2 + 1]!)
  }

  /** Drops the timers that `keep` refuses, and memory no longer needed. `keep` must not change the heap. */
  compact(keep: (dueMs: number, id: number) => boolean): void {
    const pairs = this.#pairs
    let kept = 0
    for (let i = 0; i < this.#size; i++) {
      const dueMs = pairs[i * 2]!
      const id = pairs[i * 2 + 1]!
      if (!keep(dueMs, id)) continue
      pairs[kept * 2] = dueMs
      pairs[kept * 2 + 1] = id
      kept++
    }
    this.#size = kept
    for (let i = (kept >>> 1) - 1; i >= 0; i--) this.#siftDown(i, pairs[i * 2]!, pairs[i * 2 + 1]!)
    this.#shrink()
  }

  /** Places a pair at i or, past all that come after it, nearer the root. */
  #siftUp(i: number, dueMs: number, id: number): void {
    const pairs = this.#pairs
    while (i > 0) {
      const parent = (i - 1) >>> 1
      const parentDueMs = pairs[parent * 2]!
      const parentId = pairs[parent * 2 + 1]!
      if (!comesBefore(dueMs, id, parentDueMs, parentId)) break
      pairs[i * 2] = parentDueMs
      pairs[i * 2 + 1] = parentId
      i = parent
    }
    pairs[i * 2] = dueMs
    pairs[i * 2 + 1] = id
  }

  /** Places a pair at i or, past all that come before it, nearer the leaves. */
  #siftDown(i: number, dueMs: number, id: number): void {
    const pairs = this.#pairs
    const size = this.#size
    for (;;) {
      let child = i * 2 + 1
      if (child >= size) break
      const sibling = child + 1
      if (
        sibling < size &&
        comesBefore(pairs[sibling * 2]!, pairs[sibling * 2 + 1]!, pairs[child * 2]!, pairs[child * 2 + 1]!)
      )
        child = sibling
      const childDueMs = pairs[child * 2]!
      const childId = pairs[child * 2 + 1]!
      if (!comesBefore(childDueMs, childId, dueMs, id)) break
      pairs[i * 2] = childDueMs
      pairs[i * 2 + 1] = childId
      i = child
    }
    pairs[i * 2] = dueMs
    pairs[i * 2 + 1] = id
  }

  /** A quarter full is shrunk to half full: neither the next push nor the next pop reallocates again. */
  #shrink(): void {
    if (this.capacity > PAIRS_MIN_ALLOCATED && this.#size * 4 <= this.capacity) this.#reallocate()
  }

  #reallocate(): void {
    const pairs = new Float64Array(Math.max(PAIRS_MIN_ALLOCATED, this.#size * 2) * 2)
    pairs.set(this.#pairs.subarray(0, this.#size * 2))
    this.#pairs = pairs
  }
}

function comesBefore(dueMs: number, id: number, otherDueMs: number, otherId: number): boolean {
  return dueMs < otherDueMs || (dueMs === otherDueMs && id < otherId)
}

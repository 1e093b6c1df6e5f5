// Offsets of a partition that are in some state (leased, settled, delayed ...), kept as maximal runs.
//
// A consumer that settles in order leaves one run, however many messages it read. One that settles at
// random leaves up to a run for every second message, so the map has to be quick with millions of them.
//
// The runs lie in offset order in a list of chunks. A chunk is one Float64Array of triples (start, end,
// value). `#firsts` repeats the first start of every chunk in one flat array, because a search that had to
// open chunk after chunk would spend its time on cache misses.
//
// Every change is the same splice: the runs that touch [start, end) are replaced by at most three, namely
// what is left of the first, the new run, and what is left of the last. Then the chunks are settled:
//
//   - a chunk above its limit is split: in half, or, at the end of the map, so that the full part stays full
//     (offsets mostly arrive in order);
//   - neighbours which together hold no more than three quarters of the limit become one. The gap between
//     three quarters and one keeps a map that goes up and down around a limit from copying each time.
//
// A snapshot shares the chunks. Each belongs to the generation in which it was made; a snapshot begins a new one, and
// the map changes no chunk of an earlier generation but a copy (`#own`). So a snapshot costs a pointer a chunk, and
// memory only for what changes while somebody reads it; a chunk is copied at most once for each snapshot.

/** Consecutive offsets with one value: `start` is inclusive, `end` exclusive. */
export type Run = { start: number; end: number; value: number }

export type RangeMapOptions = {
  /** Runs a chunk may hold before it is split, at least 2. Tests lower it to see splits and merges. */
  chunkRunsMax?: number
}

type Chunk = { runs: Float64Array; count: number; generation: number }

/** The runs of a map as they were at one moment, as chunks of triples (start, end, value). */
export type RangeSnapshot = {
  /** Number of runs. */
  readonly runs: number
  readonly chunks: readonly { readonly runs: Readonly<Float64Array>; readonly count: number }[]
}

const CHUNK_RUNS_MAX = 256
const CHUNK_RUNS_MIN_ALLOCATED = 4
const FIRSTS_MIN_ALLOCATED = 4
/** A splice may put three runs in place of one before the chunk is split. */
const OVERFLOW_RUNS = 2

/** The replacement runs of the splice under way. Shared, as a splice neither yields nor nests. */
const patch = new Float64Array(9)

/**
 * Map from offsets (safe integers; the greatest `end` is 2^53 - 1) to positive integers. An offset that is
 * absent has value 0. Adjacent runs with the same value are always one run.
 *
 * Every method throws RangeError for an offset that is no safe integer or is negative, for a range that ends
 * before it starts, and for a value that is no integer above 0. An empty range is allowed and holds nothing.
 */
export class RangeMap {
  readonly #chunkRunsMax: number
  /** Invariant: two neighbours together hold more runs than this, so memory stays near what is needed. */
  readonly #mergeRunsMax: number
  /** Invariant: there is a chunk, and only a sole chunk may be empty (kept, so that 0 <-> 1 is free). */
  #chunks: Chunk[] = [emptyChunk(0)]
  /** Snapshots that were taken. Invariant: a chunk of an earlier generation is never changed. */
  #generation = 0
  /** Invariant: `#firsts[c]` is the first start of chunk c, unless that is empty. */
  #firsts: Float64Array = new Float64Array(FIRSTS_MIN_ALLOCATED)
  /** Invariant: the sum of the chunks' counts. */
  #runs = 0
  /** Invariant: the sum of the runs' lengths. */
  #size = 0

  /** Throws RangeError when `chunkRunsMax` is no integer above 1. */
  constructor(options: RangeMapOptions = {}) {
    const chunkRunsMax = options.chunkRunsMax ?? CHUNK_RUNS_MAX
    if (!Number.isSafeInteger(chunkRunsMax) || chunkRunsMax < 2) {
      throw new RangeError(`chunkRunsMax ${chunkRunsMax} is not an integer above 1`)
    }
    this.#chunkRunsMax = chunkRunsMax
    this.#mergeRunsMax = Math.floor((chunkRunsMax * 3) / 4)
  }

  /**
   * Reads what `toArray` wrote. Runs that could be one are joined. Throws RangeError unless `flat` is triples
   * of start, end, value in ascending order, none empty and none overlapping.
   */
  static fromArray(flat: ArrayLike<number>, options: RangeMapOptions = {}): RangeMap {
    let at = 0
    return RangeMap.read(flat.length, () => flat[at++] ?? 0, options)
  }

  /** As `fromArray`, from numbers that come one at a time: there may be millions. */
  static read(numbers: number, next: () => number, options: RangeMapOptions = {}): RangeMap {
    if (numbers % 3 !== 0) throw new RangeError(`${numbers} numbers are not triples of start, end, value`)
    const map = new RangeMap(options)
    let previousEnd = 0
    for (let at = 0; at < numbers; at += 3) {
      const start = next()
      const end = next()
      if (start < previousEnd) throw new RangeError(`run at ${start} starts before ${previousEnd}`)
      if (start === end) throw new RangeError(`run at ${start} is empty`)
      map.set(start, end, next())
      previousEnd = end
    }
    return map
  }

  /** Number of runs. */
  get runs(): number {
    return this.#runs
  }

  /** Number of offsets present. */
  get size(): number {
    return this.#size
  }

  get isEmpty(): boolean {
    return this.#runs === 0
  }

  /** Number of chunks in memory, at least 1. For tests and metrics. */
  get chunks(): number {
    return this.#chunks.length
  }

  /** Bytes of the arrays in memory. Takes time in the number of chunks. For tests and metrics. */
  get allocatedBytes(): number {
    let bytes = this.#firsts.byteLength
    for (const { runs } of this.#chunks) bytes += runs.byteLength
    return bytes
  }

  /** The lowest offset present, or -1. */
  firstStart(): number {
    return this.#runs === 0 ? -1 : this.#chunks[0]!.runs[0]!
  }

  /** One past the highest offset present, or -1. */
  lastEnd(): number {
    if (this.#runs === 0) return -1
    const last = this.#chunks[this.#chunks.length - 1]!
    return last.runs[last.count * 3 - 2]!
  }

  /** Gives every offset in [start, end) this value, whatever it had. */
  set(start: number, end: number, value: number = 1): void {
    assertRange(start, end)
    if (!Number.isSafeInteger(value) || value < 1)
      throw new RangeError(`value ${value} is not an integer above 0`)
    if (start === end) return
    // The plain path of a partition: the next offset joins the last run.
    const c = this.#chunks.length - 1
    const last = this.#chunks[c]!
    const at = last.count * 3 - 3
    if (at >= 0 && last.runs[at + 1] === start && last.runs[at + 2] === value) {
      this.#own(c).runs[at + 1] = end
      this.#size += end - start
      return
    }
    this.#overwrite(start, end, value)
  }

  /** Makes every offset in [start, end) absent. */
  delete(start: number, end: number): void {
    assertRange(start, end)
    if (start === end || this.#runs === 0) return
    // The other plain path: the lowest offsets leave the first run, and some of it stays.
    const runs = this.#chunks[0]!.runs
    const first = runs[0]!
    if (start <= first && end < runs[1]!) {
      if (end <= first) return
      this.#own(0).runs[0] = end
      this.#firsts[0] = end
      this.#size -= end - first
      return
    }
    this.#overwrite(start, end, 0)
  }

  /** Makes every offset absent and gives the memory back. */
  clear(): void {
    this.#chunks = [emptyChunk(this.#generation)]
    this.#firsts = new Float64Array(FIRSTS_MIN_ALLOCATED)
    this.#runs = 0
    this.#size = 0
  }

  /** The value of this offset, 0 if it is absent. */
  get(offset: number): number {
    assertOffset(offset)
    const chunk = this.#chunks[this.#chunkAt(offset)]!
    const i = runEndingAfter(chunk, offset)
    return i < chunk.count && chunk.runs[i * 3]! <= offset ? chunk.runs[i * 3 + 2]! : 0
  }

  has(offset: number): boolean {
    return this.get(offset) !== 0
  }

  /** Whether every offset in [start, end) is present, with whatever values. True for an empty range. */
  covers(start: number, end: number): boolean {
    assertRange(start, end)
    if (start === end) return true
    let c = this.#chunkAt(start)
    let chunk = this.#chunks[c]!
    let i = runEndingAfter(chunk, start)
    let covered = start
    for (;;) {
      // A run that goes on where the one before ended may well be the first of the next chunk.
      if (i === chunk.count) {
        if (++c === this.#chunks.length) return false
        chunk = this.#chunks[c]!
        i = 0
      }
      if (chunk.runs[i * 3]! > covered) return false
      covered = chunk.runs[i * 3 + 1]!
      if (covered >= end) return true
      i++
    }
  }

  /**
   * Writes the first run that ends after `from` into `into`, its start clipped to `from`. Returns false, and
   * leaves `into` alone, when there is none. To visit all runs, go on with `into.end`; the map may change
   * between two calls.
   */
  nextRun(from: number, into: Run): boolean {
    assertOffset(from)
    let c = this.#chunkAt(from)
    let chunk = this.#chunks[c]!
    let i = runEndingAfter(chunk, from)
    if (i === chunk.count) {
      if (++c === this.#chunks.length) return false
      chunk = this.#chunks[c]!
      i = 0
    }
    const start = chunk.runs[i * 3]!
    into.start = start < from ? from : start
    into.end = chunk.runs[i * 3 + 1]!
    into.value = chunk.runs[i * 3 + 2]!
    return true
  }

  /** Visits the runs in [start, end) in order, clipped to it. `visit` must not change the map. */
  forEachIn(start: number, end: number, visit: (start: number, end: number, value: number) => void): void {
    assertRange(start, end)
    if (start === end) return
    let c = this.#chunkAt(start)
    let i = runEndingAfter(this.#chunks[c]!, start)
    for (; c < this.#chunks.length; c++, i = 0) {
      const { runs, count } = this.#chunks[c]!
      for (; i < count; i++) {
        const runStart = runs[i * 3]!
        const runEnd = runs[i * 3 + 1]!
        if (runStart >= end) return
        visit(runStart < start ? start : runStart, runEnd > end ? end : runEnd, runs[i * 3 + 2]!)
      }
    }
  }

  /** Number of offsets present in [start, end). Takes time in the number of runs there. */
  countIn(start: number, end: number): number {
    assertRange(start, end)
    if (start <= this.firstStart() && end >= this.lastEnd()) return this.#size
    let count = 0
    this.forEachIn(start, end, (runStart, runEnd) => {
      count += runEnd - runStart
    })
    return count
  }

  /** All runs as start, end, value, start, end, value ... */
  toArray(): number[] {
    const flat: number[] = []
    for (const { runs, count } of this.#chunks) {
      for (let at = 0; at < count * 3; at++) flat.push(runs[at]!)
    }
    return flat
  }

  /** All runs as they are now, whatever becomes of the map. Takes time in the number of chunks. */
  snapshot(): RangeSnapshot {
    this.#generation++
    return { runs: this.#runs, chunks: this.#chunks.slice() }
  }

  clone(): RangeMap {
    const map = new RangeMap({ chunkRunsMax: this.#chunkRunsMax })
    map.#chunks = this.#chunks.map(({ runs, count }) => ({ runs: runs.slice(), count, generation: 0 }))
    map.#firsts = this.#firsts.slice()
    map.#runs = this.#runs
    map.#size = this.#size
    return map
  }

  /** Whether both hold the same values at the same offsets, however they are chunked. */
  equals(other: RangeMap): boolean {
    if (this.#runs !== other.#runs || this.#size !== other.#size) return false
    let c = 0
    let at = 0
    for (const { runs, count } of this.#chunks) {
      for (let mine = 0; mine < count * 3; mine++) {
        if (at === other.#chunks[c]!.count * 3) {
          c++
          at = 0
        }
        if (runs[mine] !== other.#chunks[c]!.runs[at++]) return false
      }
    }
    return true
  }

  /** Throws an Error that names what is broken. Reads the whole map: for tests and the simulator. */
  checkInvariants(): void {
    const broken = (what: string) => new Error(`RangeMap: ${what}`)
    const chunks = this.#chunks
    let runs = 0
    let size = 0
    let previousEnd = -1
    let previousValue = 0
    if (chunks.length === 0) throw broken('there is no chunk')
    for (let c = 0; c < chunks.length; c++) {
      const chunk = chunks[c]!
      if (chunk.count === 0 && chunks.length > 1) throw broken(`chunk ${c} of ${chunks.length} is empty`)
      if (chunk.count > this.#chunkRunsMax) throw broken(`chunk ${c} holds ${chunk.count} runs`)
      if (chunk.count * 3 > chunk.runs.length) throw broken(`chunk ${c} holds more than its array can`)
      if (chunk.count > 0 && this.#firsts[c] !== chunk.runs[0]) throw broken(`chunk ${c} starts elsewhere`)
      if (c > 0 && this.#mergeable(c - 1)) throw broken(`chunks ${c - 1} and ${c} should be one`)
      for (let i = 0; i < chunk.count; i++) {
        const start = chunk.runs[i * 3]!
        const end = chunk.runs[i * 3 + 1]!
        const value = chunk.runs[i * 3 + 2]!
        if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || start >= end) {
          throw broken(`[${start}, ${end}) is not a run`)
        }
        if (!Number.isSafeInteger(value) || value < 1) throw broken(`[${start}, ${end}) has value ${value}`)
        if (start < previousEnd) throw broken(`[${start}, ${end}) starts before ${previousEnd}`)
        if (start === previousEnd && value === previousValue) throw broken(`runs meet at ${start}`)
        runs++
        size += end - start
        previousEnd = end
        previousValue = value
      }
    }
    if (runs !== this.#runs) throw broken(`there are ${runs} runs but ${this.#runs} are counted`)
    if (size !== this.#size) throw broken(`there are ${size} offsets but ${this.#size} are counted`)
  }

  /** Chunk c, to be changed: where a snapshot may have it, a copy in its place. */
  #own(c: number): Chunk {
    const chunk = this.#chunks[c]!
    if (chunk.generation === this.#generation) return chunk
    const { runs, count } = chunk
    return (this.#chunks[c] = { runs: runs.slice(), count, generation: this.#generation })
  }

  /** The last chunk that starts at or before `offset`, else the first. */
  #chunkAt(offset: number): number {
    const firsts = this.#firsts
    let low = 0
    let high = this.#chunks.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (firsts[middle]! <= offset) low = middle
      else high = middle
    }
    return low
  }

  /** Gives [start, end) this value, where 0 makes it absent. The range is not empty. */
  #overwrite(start: number, end: number, value: number): void {
    const chunks = this.#chunks
    const firsts = this.#firsts
    // A run that only meets the range at an edge takes part in a set, for it may have to become one with it.
    const reach = value === 0 ? 0 : 1
    const after = start - reach
    const before = end + reach

    // The touched runs are those which end after `after` and start before `before`: from run i of chunk c ...
    let c = this.#chunkAt(after)
    let chunk = chunks[c]!
    let i = runEndingAfter(chunk, after)
    if (i === chunk.count && c + 1 < chunks.length && firsts[c + 1]! < before) {
      chunk = chunks[++c]!
      i = 0
    }
    // ... to the one before run j of chunk d.
    let d = c
    let last = chunk
    let j = i
    let touched = 0
    let sizeBefore = 0
    for (;;) {
      while (j < last.count && last.runs[j * 3]! < before) {
        sizeBefore += last.runs[j * 3 + 1]! - last.runs[j * 3]!
        touched++
        j++
      }
      if (j < last.count || d + 1 === chunks.length || firsts[d + 1]! >= before) break
      last = chunks[++d]!
      j = 0
    }
    if (touched === 0 && value === 0) return

    // What replaces them. The first ends at `start` or later and the last starts at `end` or earlier, so what
    // is left of them meets the range.
    let runStart = start
    let runEnd = end
    let restEnd = 0
    let restValue = 0
    let length = 0
    let sizeAfter = 0
    if (touched > 0) {
      const firstStart = chunk.runs[i * 3]!
      const firstValue = chunk.runs[i * 3 + 2]!
      if (firstStart < start) {
        if (firstValue === value) runStart = firstStart
        else {
          patch[0] = firstStart
          patch[1] = start
          patch[2] = firstValue
          sizeAfter = start - firstStart
          length = 3
        }
      }
      const lastEnd = last.runs[j * 3 - 2]!
      const lastValue = last.runs[j * 3 - 1]!
      if (lastEnd > end) {
        if (lastValue === value) runEnd = lastEnd
        else {
          restEnd = lastEnd
          restValue = lastValue
        }
      }
    }
    if (value !== 0) {
      patch[length] = runStart
      patch[length + 1] = runEnd
      patch[length + 2] = value
      sizeAfter += runEnd - runStart
      length += 3
    }
    if (restValue !== 0) {
      patch[length] = end
      patch[length + 1] = restEnd
      patch[length + 2] = restValue
      sizeAfter += restEnd - end
      length += 3
    }
    const replacements = length / 3
    chunk = this.#own(c)
    last = c === d ? chunk : this.#own(d)
    this.#size += sizeAfter - sizeBefore
    this.#runs += replacements - touched

    if (c === d) {
      if (replacements !== touched) this.#resizeGap(chunk, i, j, replacements)
    } else {
      this.#resizeGap(chunk, i, chunk.count, replacements)
      this.#resizeGap(last, 0, j, 0)
      if (last.count > 0) firsts[d] = last.runs[0]!
    }
    const runs = chunk.runs
    for (let k = 0, at = i * 3; k < length; k++, at++) runs[at] = patch[k]!
    if (i === 0 && chunk.count > 0) firsts[c] = runs[0]!

    if (c !== d) {
      this.#removeChunks(c + 1, d)
      this.#mergeAround(c + 1)
      // A chunk that overflows is too big to have been merged just now, so c still is its place.
      if (chunk.count > this.#chunkRunsMax) this.#split(c)
      else this.#mergeAround(Math.min(c, this.#chunks.length - 1))
    } else if (chunk.count > this.#chunkRunsMax) this.#split(c)
    else if (replacements < touched && chunk.count < this.#mergeRunsMax) this.#mergeAround(c)
  }

  #split(c: number): void {
    const chunk = this.#own(c)
    const isLast = c === this.#chunks.length - 1
    const keep = isLast ? this.#chunkRunsMax : chunk.count >>> 1
    const count = chunk.count - keep
    const { generation } = chunk
    // At the end of the map it is to become as full as the one before it: growing by and by would leave holes behind.
    const allocated = isLast ? this.#chunkRunsMax + OVERFLOW_RUNS : this.#allocatedRuns(count)
    const right: Chunk = { runs: new Float64Array(allocated * 3), count, generation }
    right.runs.set(chunk.runs.subarray(keep * 3, chunk.count * 3))
    chunk.count = keep

    const chunks = this.#chunks.length
    if (chunks === this.#firsts.length) this.#firsts = reallocated(this.#firsts, chunks * 2)
    this.#firsts.copyWithin(c + 2, c + 1, chunks)
    this.#firsts[c + 1] = right.runs[0]!
    this.#chunks.splice(c + 1, 0, right)
    // Half of a full chunk may fit a neighbour that was too small to stand beside anything but a full one.
    if (!isLast) this.#mergeAround(c + 1)
    this.#mergeAround(c)
  }

  /** Makes room for `length` runs in place of the runs from i up to j. What the room holds is undefined. */
  #resizeGap(chunk: Chunk, i: number, j: number, length: number): void {
    const count = chunk.count + length - (j - i)
    if (count * 3 > chunk.runs.length) chunk.runs = reallocated(chunk.runs, this.#allocatedRuns(count) * 3)
    if (j < chunk.count) chunk.runs.copyWithin((i + length) * 3, j * 3, chunk.count * 3)
    chunk.count = count
  }

  #shrink(c: number): void {
    const { runs, count } = this.#chunks[c]!
    const length = this.#allocatedRuns(count) * 3
    if (runs.length >= length * 2)
      this.#chunks[c] = { runs: reallocated(runs, length), count, generation: this.#generation }
  }

  /** Runs to allocate for a chunk of `count` runs, so that it grows by doubling and stops at its limit. */
  #allocatedRuns(count: number): number {
    return Math.min(Math.max(CHUNK_RUNS_MIN_ALLOCATED, count * 2), this.#chunkRunsMax + OVERFLOW_RUNS)
  }

  /** Joins chunk c with its neighbours until it, and what it became, is too big to be joined. */
  #mergeAround(c: number): void {
    while (c + 1 < this.#chunks.length && this.#mergeable(c)) this.#mergeWithNext(c)
    while (c > 0 && this.#mergeable(c - 1)) this.#mergeWithNext(--c)
    this.#shrink(c)
  }

  /** Whether chunk c and the next must become one. */
  #mergeable(c: number): boolean {
    const left = this.#chunks[c]!.count
    const right = this.#chunks[c + 1]!.count
    return left === 0 || right === 0 || left + right <= this.#mergeRunsMax
  }

  #mergeWithNext(c: number): void {
    if (this.#chunks[c]!.count === 0) return this.#removeChunks(c, c + 1)
    const left = this.#own(c)
    const right = this.#chunks[c + 1]!
    const at = left.count
    this.#resizeGap(left, at, at, right.count)
    left.runs.set(right.runs.subarray(0, right.count * 3), at * 3)
    this.#removeChunks(c + 1, c + 2)
  }

  #removeChunks(from: number, to: number): void {
    if (from === to) return
    const chunks = this.#chunks.length
    this.#firsts.copyWithin(from, to, chunks)
    this.#chunks.splice(from, to - from)
    const allocated = Math.max(FIRSTS_MIN_ALLOCATED, this.#chunks.length * 2)
    if (this.#firsts.length >= allocated * 2) this.#firsts = reallocated(this.#firsts, allocated)
  }
}

function assertOffset(offset: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0)
    throw new RangeError(`offset ${offset} is not a safe integer`)
}

function assertRange(start: number, end: number): void {
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || start > end) {
    throw new RangeError(`[${start}, ${end}) is not a range of offsets`)
  }
}

function emptyChunk(generation: number): Chunk {
  return { runs: new Float64Array(CHUNK_RUNS_MIN_ALLOCATED * 3), count: 0, generation }
}

/** The first run of the chunk that ends after `offset`, or the chunk's count. */
function runEndingAfter(chunk: Chunk, offset: number): number {
  const runs = chunk.runs
  let low = 0
  let high = chunk.count
  while (low < high) {
    const middle = (low + high) >>> 1
    if (runs[middle * 3 + 1]! > offset) high = middle
    else low = middle + 1
  }
  return low
}

function reallocated(array: Float64Array, length: number): Float64Array {
  const copy = new Float64Array(length)
  copy.set(array.length > length ? array.subarray(0, length) : array)
  return copy
}

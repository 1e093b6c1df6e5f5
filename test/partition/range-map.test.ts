import fc from 'fast-check'
import t from 'tap'
import { RangeMap, type RangeSnapshot, type Run } from '../../src/partition/range-map.ts'

/** The naive version: `cells[offset]` is the value, 0 if absent. */
type Cells = number[]
/** Value 0 deletes. */
type Op = { start: number; end: number; value: number }

const OFFSET_MAX = Number.MAX_SAFE_INTEGER

function apply(map: RangeMap, { start, end, value }: Op, base = 0): void {
  if (value === 0) map.delete(base + start, base + end)
  else map.set(base + start, base + end, value)
}

function applied(cells: Cells, { start, end, value }: Op): Cells {
  return cells.map((was, offset) => (offset >= start && offset < end ? value : was))
}

/** The maximal runs of the cells that lie in [start, end). */
function runsOf(cells: Cells, start = 0, end = cells.length): Run[] {
  const runs: Run[] = []
  for (let offset = start; offset < end; offset++) {
    const value = cells[offset] ?? 0
    const last = runs.at(-1)
    if (value === 0) continue
    if (last?.end === offset && last.value === value) last.end = offset + 1
    else runs.push({ start: offset, end: offset + 1, value })
  }
  return runs
}

const flat = (runs: Run[], base = 0) =>
  runs.flatMap(({ start, end, value }) => [base + start, base + end, value])

/** Throws when any accessor of the map differs from the cells. Their offset 0 is offset `base` of the map. */
function compare(map: RangeMap, cells: Cells, base = 0): void {
  const same = (what: string, found: unknown, wanted: unknown, ...at: number[]) => {
    if (found === wanted) return
    throw new Error(`${what}(${String(at)}) of ${String(cells)}: ${String(found)}, wanted ${String(wanted)}`)
  }
  map.checkInvariants()
  const runs = runsOf(cells)
  const length = cells.length
  same('toArray', map.toArray().join(), flat(runs, base).join())
  same('runs', map.runs, runs.length)
  same('size', map.size, cells.filter((value) => value !== 0).length)
  same('isEmpty', map.isEmpty, runs.length === 0)
  same('firstStart', map.firstStart(), runs.length === 0 ? -1 : base + runs[0]!.start)
  same('lastEnd', map.lastEnd(), runs.length === 0 ? -1 : base + runs.at(-1)!.end)
  const run: Run = { start: 0, end: 0, value: 0 }
  for (let start = 0; start < length; start++) {
    same('get', map.get(base + start), cells[start], start)
    same('has', map.has(base + start), cells[start] !== 0, start)
    const next = runs.find(({ end }) => end > start)
    same('nextRun', map.nextRun(base + start, run), next !== undefined, start)
    if (next !== undefined) {
      same('nextRun start', run.start, base + Math.max(start, next.start), start)
      same('nextRun end', run.end, base + next.end, start)
      same('nextRun value', run.value, next.value, start)
    }
    let present = 0
    for (let end = start; end <= length; end++) {
      if (end > start && cells[end - 1] !== 0) present++
      same('covers', map.covers(base + start, base + end), present === end - start, start, end)
      same('countIn', map.countIn(base + start, base + end), present, start, end)
    }
  }
  same('nextRun', map.nextRun(base + length, run), false, length)
}

function compareVisits(map: RangeMap, cells: Cells): void {
  for (let start = 0; start <= cells.length; start++) {
    for (let end = start; end <= cells.length; end++) {
      const visited: number[] = []
      map.forEachIn(start, end, (...run) => visited.push(...run))
      const wanted = flat(runsOf(cells, start, end))
      if (visited.join() !== wanted.join())
        throw new Error(`forEachIn [${start}, ${end}) of ${String(cells)}: ${String(visited)}`)
    }
  }
}

function everyOp(length: number, values: number[]): Op[] {
  const ops: Op[] = []
  for (let start = 0; start < length; start++) {
    for (let end = start + 1; end <= length; end++) {
      for (const value of values) ops.push({ start, end, value })
    }
  }
  return ops
}

/** Repeatable numbers in [0, below). */
function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

/** What the merge rule allows in chunks of 256: two neighbours hold more than 192 runs. */
const chunksMax = (runs: number) => 1 + Math.ceil(runs / 96)
/** A run is 24 bytes, an array at least a quarter full, and 516 runs of memory hold more than 192. */
const bytesMax = (runs: number) => 8192 + runs * 24 * 2.7

void t.test('exhaustive', async (t) => {
  /** Compares after each operation of every sequence, and shares the work of those that begin alike. */
  function compareEverySequence(length: number, depth: number, chunkRunsMax: number): number {
    const ops = everyOp(length, [0, 1, 2])
    let compared = 0
    const visit = (map: RangeMap, cells: Cells, left: number) => {
      for (const op of ops) {
        const next = map.clone()
        const nextCells = applied(cells, op)
        apply(next, op)
        compare(next, nextCells)
        compared++
        if (left > 1) visit(next, nextCells, left - 1)
      }
    }
    visit(new RangeMap({ chunkRunsMax }), new Array<number>(length).fill(0), depth)
    return compared
  }

  t.equal(compareEverySequence(6, 3, 256), 63 + 63 ** 2 + 63 ** 3, 'up to 3 operations on 6 offsets')
  t.equal(
    compareEverySequence(6, 3, 2),
    63 + 63 ** 2 + 63 ** 3,
    'up to 3 operations on 6 offsets in tiny chunks',
  )
  t.equal(compareEverySequence(3, 4, 2), 18 + 18 ** 2 + 18 ** 3 + 18 ** 4, 'up to 4 operations on 3 offsets')

  /** Sequences of any length: goes on until no operation gives contents in an unseen number of chunks. */
  function compareEveryState(length: number, chunkRunsMax: number): Map<string, RangeMap> {
    const ops = everyOp(length, [0, 1, 2])
    const empty = new RangeMap({ chunkRunsMax })
    const seen = new Map<string, RangeMap>()
    const pending: { map: RangeMap; cells: Cells }[] = [
      { map: empty, cells: new Array<number>(length).fill(0) },
    ]
    seen.set(`${String(pending[0]!.cells)}/1`, empty)
    for (let state = pending.pop(); state !== undefined; state = pending.pop()) {
      for (const op of ops) {
        const map = state.map.clone()
        const cells = applied(state.cells, op)
        apply(map, op)
        compare(map, cells)
        const key = `${String(cells)}/${map.chunks}`
        if (seen.has(key)) continue
        compareVisits(map, cells)
        seen.set(key, map)
        pending.push({ map, cells })
      }
    }
    return seen
  }

  for (const chunkRunsMax of [2, 3, 4]) {
    const states = compareEveryState(6, chunkRunsMax)
    const contents = new Set([...states.keys()].map((key) => key.split('/')[0]))
    t.equal(contents.size, 3 ** 6, `every content of 6 offsets is reached in chunks of ${chunkRunsMax}`)
    t.ok(states.size > contents.size, 'and some are reached in several layouts')
    let differing = 0
    for (const [key, map] of states) {
      for (const [otherKey, other] of states) {
        if (map.equals(other) !== (key.split('/')[0] === otherKey.split('/')[0])) differing++
      }
    }
    t.equal(differing, 0, 'maps are equal exactly when their contents are, whatever the layout')
  }
})

void t.test('agrees with a naive map', async (t) => {
  const op = (length: number) =>
    fc
      .record({
        start: fc.nat(length - 1),
        length: fc.oneof(fc.constant(1), fc.nat(3), fc.nat(length)),
        value: fc.constantFrom(0, 0, 1, 1, 2, 3),
      })
      .map(({ start, length: width, value }) => ({ start, end: Math.min(length, start + width), value }))

  t.doesNotThrow(
    () =>
      fc.assert(
        fc.property(
          fc.integer({ min: 2, max: 9 }),
          fc.constantFrom(0, 2 ** 31 - 30, 2 ** 32 - 30, OFFSET_MAX - 60),
          fc.array(op(60), { maxLength: 150, size: 'max' }),
          (chunkRunsMax, base, ops) => {
            const map = new RangeMap({ chunkRunsMax })
            let cells = new Array<number>(60).fill(0)
            for (const each of ops) {
              apply(map, each, base)
              cells = applied(cells, each)
              map.checkInvariants()
            }
            compare(map, cells, base)
            if (base === 0) compareVisits(map, cells)
          },
        ),
        { numRuns: 300 },
      ),
    'with short and long ranges, near every limit of the numbers',
  )

  t.doesNotThrow(
    () =>
      fc.assert(
        fc.property(
          fc.integer({ min: 2, max: 9 }),
          fc.array(op(500), { minLength: 300, maxLength: 600, size: 'max' }),
          fc.array(op(500), { maxLength: 3 }),
          (chunkRunsMax, singles, wide) => {
            const map = new RangeMap({ chunkRunsMax })
            let cells = new Array<number>(500).fill(0)
            for (const each of [
              ...singles.map(({ start, value }) => ({ start, end: start + 1, value })),
              ...wide,
            ]) {
              apply(map, each)
              cells = applied(cells, each)
              map.checkInvariants()
            }
            compare(map, cells)
          },
        ),
        { numRuns: 30 },
      ),
    'with many chunks, of which a wide range then removes a part',
  )

  t.doesNotThrow(
    () =>
      fc.assert(
        fc.property(fc.array(op(60), { maxLength: 100 }), (ops) => {
          const map = new RangeMap({ chunkRunsMax: 3 })
          for (const each of ops) apply(map, each)
          const copy = RangeMap.fromArray(map.toArray())
          copy.checkInvariants()
          if (!copy.equals(map) || !map.equals(copy))
            throw new Error('what was read differs from what was written')
        }),
      ),
    'and survives being written and read',
  )
})

void t.test('a snapshot stays as it was', async (t) => {
  const ops = fc.array(
    fc.record({ start: fc.nat(60), length: fc.nat(9), value: fc.nat(3), isSnapshot: fc.boolean() }),
    { maxLength: 60 },
  )
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(ops, fc.integer({ min: 2, max: 5 }), (steps, chunkRunsMax) => {
        const map = new RangeMap({ chunkRunsMax })
        let cells: Cells = Array.from({ length: 70 }, () => 0)
        const taken: { snapshot: RangeSnapshot; wanted: string }[] = []
        for (const { start, length, value, isSnapshot } of steps) {
          if (isSnapshot) taken.push({ snapshot: map.snapshot(), wanted: flat(runsOf(cells)).join() })
          apply(map, { start, end: start + length, value })
          cells = applied(cells, { start, end: start + length, value })
        }
        compare(map, cells)
        for (const { snapshot, wanted } of taken) {
          const found = snapshot.chunks.flatMap(({ runs, count }) => [...runs.subarray(0, 3 * count)])
          if (found.join() !== wanted) throw new Error(`${found.join()}, wanted ${wanted}`)
          if (snapshot.runs * 3 !== found.length) throw new Error(`${snapshot.runs} runs`)
        }
      }),
      { numRuns: 1000 },
    ),
  )
})

void t.test('a snapshot copies nothing but what changes', async (t) => {
  const map = new RangeMap()
  for (let i = 0; i < 100_000; i++) map.set(2 * i, 2 * i + 1)
  const { chunks } = map.snapshot()
  map.delete(50_000, 50_001)
  map.set(200_000, 200_001)
  const now = new Set(map.snapshot().chunks)
  t.equal(chunks.filter((chunk) => !now.has(chunk)).length, 2)
})

void t.test('a map that was never set is empty', async (t) => {
  const map = new RangeMap()
  t.equal(map.isEmpty, true)
  t.equal(map.firstStart(), -1)
  t.equal(map.lastEnd(), -1)
  t.equal(map.chunks, 1)
})

void t.test('a value that is not given is 1', async (t) => {
  const map = new RangeMap()
  map.set(3, 5)
  t.strictSame(map.toArray(), [3, 5, 1])
})

void t.test('a gap of one offset, once set, leaves one run', async (t) => {
  const map = RangeMap.fromArray([0, 4, 1, 5, 9, 1])
  map.set(4, 5)
  t.strictSame(map.toArray(), [0, 9, 1])
})

void t.test('runs that meet with different values stay two', async (t) => {
  const map = RangeMap.fromArray([0, 4, 1])
  map.set(4, 9, 2)
  t.strictSame(map.toArray(), [0, 4, 1, 4, 9, 2])
})

void t.test('another value in the middle of a run leaves three', async (t) => {
  const map = RangeMap.fromArray([0, 9, 1])
  map.set(4, 5, 2)
  t.strictSame(map.toArray(), [0, 4, 1, 4, 5, 2, 5, 9, 1])
})

void t.test('a run of every offset there can be', async (t) => {
  const map = new RangeMap()
  map.set(0, OFFSET_MAX)
  map.delete(1, OFFSET_MAX - 1)
  t.strictSame(map.toArray(), [0, 1, 1, OFFSET_MAX - 1, OFFSET_MAX, 1])
})

void t.test('an empty range changes nothing', async (t) => {
  const map = RangeMap.fromArray([0, 9, 1])
  map.set(4, 4, 2)
  map.delete(5, 5)
  t.strictSame(map.toArray(), [0, 9, 1])
})

void t.test('a cleared map is empty', async (t) => {
  const map = RangeMap.fromArray([0, 9, 1, 10, 11, 2])
  map.clear()
  map.checkInvariants()
  t.ok(map.equals(new RangeMap()))
})

void t.test('a clone does not follow its original', async (t) => {
  const map = RangeMap.fromArray([0, 9, 1])
  const clone = map.clone()
  map.delete(0, 9)
  t.strictSame(clone.toArray(), [0, 9, 1])
})

void t.test('nextRun leaves the run alone when there is none', async (t) => {
  const run: Run = { start: 1, end: 2, value: 3 }
  RangeMap.fromArray([0, 9, 1]).nextRun(9, run)
  t.strictSame(run, { start: 1, end: 2, value: 3 })
})

void t.test('runs can be visited while they are deleted', async (t) => {
  const map = RangeMap.fromArray([0, 2, 1, 4, 5, 2, 7, 9, 1], { chunkRunsMax: 2 })
  const run: Run = { start: 0, end: 0, value: 0 }
  const starts: number[] = []
  for (let from = 0; map.nextRun(from, run); from = run.end) {
    starts.push(run.start)
    map.delete(run.start, run.end)
  }
  t.strictSame(starts, [0, 4, 7])
})

void t.test('written runs that could be one are read as one', async (t) => {
  t.strictSame(RangeMap.fromArray([0, 4, 1, 4, 9, 1]).toArray(), [0, 9, 1])
})

void t.test('a map that was split and then drained from the front gives its memory back', async (t) => {
  const map = new RangeMap()
  for (let offset = 0; offset < 2000; offset += 2) map.set(offset, offset + 1)
  for (let offset = 0; offset < 2000; offset += 2) map.delete(offset, offset + 1)
  t.equal(map.allocatedBytes, new RangeMap().allocatedBytes)
})

void t.test('refuses', async (t) => {
  const map = RangeMap.fromArray([0, 9, 1])
  const cases: Record<string, () => unknown> = {
    'a range that ends before it starts': () => map.set(5, 4),
    'a negative start': () => map.delete(-1, 4),
    'a fractional start': () => map.set(0.5, 4),
    'an end past the safe integers': () => map.set(0, OFFSET_MAX + 1),
    'an end that is no number': () => map.delete(0, NaN),
    'value 0': () => map.set(0, 4, 0),
    'a fractional value': () => map.set(0, 4, 1.5),
    'a negative offset to get': () => map.get(-1),
    'a fractional offset to have': () => map.has(0.5),
    'a range to cover that ends before it starts': () => map.covers(5, 4),
    'a range to count that ends before it starts': () => map.countIn(5, 4),
    'a range to visit that ends before it starts': () => map.forEachIn(5, 4, () => {}),
    'a negative offset to go on from': () => map.nextRun(-1, { start: 0, end: 0, value: 0 }),
    'chunks of one run': () => new RangeMap({ chunkRunsMax: 1 }),
    'written runs with a number too many': () => RangeMap.fromArray([0, 4, 1, 5]),
    'written runs that overlap': () => RangeMap.fromArray([0, 4, 1, 3, 5, 1]),
    'written runs that descend': () => RangeMap.fromArray([4, 6, 1, 0, 2, 1]),
    'a written run that is empty': () => RangeMap.fromArray([4, 4, 1]),
    'a written run that ends before it starts': () => RangeMap.fromArray([4, 3, 1]),
    'a written run that starts below 0': () => RangeMap.fromArray([-1, 3, 1]),
    'a written run at fractions': () => RangeMap.fromArray([0, 3.5, 1]),
    'a written run with value 0': () => RangeMap.fromArray([0, 3, 0]),
    'a written run with a hole for a value': () => RangeMap.fromArray([0, 3, undefined as unknown as number]),
  }
  for (const [what, act] of Object.entries(cases)) t.throws(act, RangeError, what)
  t.strictSame(map.toArray(), [0, 9, 1], 'and is left as it was')
})

void t.test('at scale', async (t) => {
  void t.test('random toggles', async (t) => {
    const offsets = 400_000
    const random = randomFrom(1)
    const map = new RangeMap()
    const cells = new Uint8Array(offsets)
    for (let i = 0; i < 200_000; i++) {
      const offset = random(offsets)
      if (cells[offset] === 0) map.set(offset, offset + 1)
      else map.delete(offset, offset + 1)
      cells[offset] = 1 - cells[offset]!
    }
    map.checkInvariants()
    const wanted = RangeMap.fromArray(flat(runsOf([...cells])))
    t.ok(map.equals(wanted), 'leave what was toggled an odd number of times')
    t.ok(map.chunks <= chunksMax(map.runs), `${map.chunks} chunks suffice for ${map.runs} runs`)
    t.ok(map.allocatedBytes <= bytesMax(map.runs), `and ${map.allocatedBytes} bytes`)
  })

  void t.test('runs that come in order fill their chunks', async (t) => {
    const map = new RangeMap()
    for (let offset = 0; offset < 200_000; offset += 2) map.set(offset, offset + 1)
    t.equal(map.chunks, Math.ceil(map.runs / 256))
  })

  void t.test('runs that come in reverse', async (t) => {
    const map = new RangeMap()
    for (let offset = 200_000; offset > 0; offset -= 2) map.set(offset, offset + 1)
    map.checkInvariants()
    t.ok(map.chunks <= chunksMax(map.runs), `${map.chunks} chunks suffice for ${map.runs} runs`)
    t.ok(map.allocatedBytes <= bytesMax(map.runs), `and ${map.allocatedBytes} bytes`)
  })

  void t.test('what random deletion leaves', async (t) => {
    const map = new RangeMap()
    const random = randomFrom(2)
    for (let offset = 0; offset < 200_000; offset += 2) map.set(offset, offset + 1)
    for (let i = 0; i < 400_000; i++) {
      const offset = random(200_000)
      map.delete(offset, offset + 1)
    }
    map.checkInvariants()
    t.ok(map.chunks <= chunksMax(map.runs), `${map.chunks} chunks suffice for ${map.runs} runs`)
    t.ok(map.allocatedBytes <= bytesMax(map.runs), `and ${map.allocatedBytes} bytes`)
  })

  void t.test('one deletion of everything leaves one chunk', async (t) => {
    const map = new RangeMap()
    for (let offset = 0; offset < 200_000; offset += 2) map.set(offset, offset + 1)
    map.delete(0, 200_000)
    map.checkInvariants()
    t.equal(map.chunks, 1)
    t.equal(map.allocatedBytes, new RangeMap().allocatedBytes, 'and gives the memory back')
  })

  void t.test('one set across all runs leaves one', async (t) => {
    const map = new RangeMap()
    for (let offset = 0; offset < 200_000; offset += 2) map.set(offset, offset + 1)
    map.set(1, 199_999)
    map.checkInvariants()
    t.strictSame(map.toArray(), [0, 199_999, 1])
  })
})

import fc from 'fast-check'
import t from 'tap'
import { TimerHeap } from '../../src/partition/timer-heap.ts'

type Timer = { dueMs: number; id: number }

function heapOf(timers: Timer[]): TimerHeap {
  const heap = new TimerHeap()
  for (const { dueMs, id } of timers) heap.push(dueMs, id)
  return heap
}

function popAll(heap: TimerHeap, nowMs = Number.MAX_VALUE): number[] {
  const ids: number[] = []
  for (let id = heap.popDue(nowMs); id !== -1; id = heap.popDue(nowMs)) ids.push(id)
  return ids
}

const inOrder = (timers: Timer[]) => timers.toSorted((a, b) => a.dueMs - b.dueMs || a.id - b.id)
const idsInOrder = (timers: Timer[]) => inOrder(timers).map(({ id }) => id)

void t.test('an empty heap', async (t) => {
  const heap = new TimerHeap()
  t.equal(heap.peekDueMs(), Infinity, 'is due never')
  t.equal(heap.popDue(Number.MAX_VALUE), -1, 'pops nothing')
  t.equal(heap.size, 0)
})

void t.test('a timer is due at its time and not before', async (t) => {
  const heap = heapOf([{ dueMs: 100, id: 7 }])
  t.equal(heap.popDue(99.9), -1)
  t.equal(heap.popDue(100), 7)
})

void t.test('a timer that is not due stays', async (t) => {
  const heap = heapOf([{ dueMs: 100, id: 7 }])
  heap.popDue(99)
  t.equal(heap.size, 1)
})

void t.test('the earliest timer is the one to wait for', async (t) => {
  const heap = heapOf([
    { dueMs: 300, id: 1 },
    { dueMs: 100, id: 2 },
    { dueMs: 200, id: 3 },
  ])
  t.equal(heap.peekDueMs(), 100)
})

void t.test('timers due at the same time pop in the order of their ids', async (t) => {
  const heap = heapOf([
    { dueMs: 100, id: 3 },
    { dueMs: 100, id: 1 },
    { dueMs: 100, id: 2 },
  ])
  t.strictSame(popAll(heap), [1, 2, 3])
})

void t.test('a timer set twice pops twice', async (t) => {
  const heap = heapOf([
    { dueMs: 100, id: 1 },
    { dueMs: 100, id: 1 },
  ])
  t.strictSame(popAll(heap), [1, 1])
})

void t.test('times may lie below zero', async (t) => {
  const heap = heapOf([
    { dueMs: 0, id: 1 },
    { dueMs: -5, id: 2 },
  ])
  t.equal(heap.popDue(-1), 2)
})

void t.test('compact drops the timers that are not kept', async (t) => {
  const heap = heapOf([
    { dueMs: 300, id: 1 },
    { dueMs: 100, id: 2 },
    { dueMs: 200, id: 3 },
  ])
  heap.compact((dueMs, id) => dueMs > 100 && id !== 1)
  t.strictSame(popAll(heap), [3])
})

void t.test('compact gives memory back', async (t) => {
  const heap = new TimerHeap()
  for (let id = 0; id < 100_000; id++) heap.push(id, id)
  heap.compact((_, id) => id % 100 === 0)
  t.ok(heap.capacity < heap.size * 4, `${heap.size} timers in memory for ${heap.capacity}`)
})

void t.test('timers that popped give memory back', async (t) => {
  const heap = new TimerHeap()
  for (let id = 0; id < 100_000; id++) heap.push(id, id)
  popAll(heap)
  t.equal(heap.capacity, new TimerHeap().capacity)
})

void t.test('refuses', async (t) => {
  const heap = new TimerHeap()
  t.throws(() => heap.push(NaN, 1), RangeError, 'a time that is no number')
  t.throws(() => heap.push(Infinity, 1), RangeError, 'a time that never comes')
  t.throws(() => heap.push(1, -1), RangeError, 'an id that means there is none')
  t.throws(() => heap.push(1, 0.5), RangeError, 'a fractional id')
  t.equal(heap.size, 0, 'and stays empty')
})

void t.test('every order of pushing pops in the same order', async (t) => {
  // 6 timers with two ties, in all 720 orders, popped at once and after every choice of what to keep.
  const timers = [10, 20, 20, 30, 30, 40].map((dueMs, id) => ({ dueMs, id }))
  const permutations = (rest: Timer[]): Timer[][] =>
    rest.length === 0
      ? [[]]
      : rest.flatMap((first, i) => permutations(rest.toSpliced(i, 1)).map((others) => [first, ...others]))
  const wrong: string[] = []
  for (const order of permutations(timers)) {
    if (popAll(heapOf(order)).join() !== idsInOrder(timers).join()) wrong.push(JSON.stringify(order))
    for (let kept = 0; kept < 64; kept++) {
      const isKept = (id: number) => ((kept >> id) & 1) === 1
      const heap = heapOf(order)
      heap.compact((_, id) => isKept(id))
      const wanted = idsInOrder(timers.filter(({ id }) => isKept(id)))
      if (popAll(heap).join() !== wanted.join())
        wrong.push(`${JSON.stringify(order)} keeping ${kept.toString(2)}`)
    }
  }
  t.strictSame(wrong, [])
})

void t.test('agrees with a sorted list', async (t) => {
  type Action = { push: Timer } | { popAtMs: number } | { keepModulo: number }
  const action: fc.Arbitrary<Action> = fc.oneof(
    { weight: 6, arbitrary: fc.record({ push: fc.record({ dueMs: fc.nat(50), id: fc.nat(50) }) }) },
    { weight: 4, arbitrary: fc.record({ popAtMs: fc.nat(60) }) },
    { weight: 1, arbitrary: fc.record({ keepModulo: fc.integer({ min: 1, max: 4 }) }) },
  )
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(action, { maxLength: 300, size: 'max' }), (actions) => {
        const heap = new TimerHeap()
        let list: Timer[] = []
        for (const each of actions) {
          if ('push' in each) {
            heap.push(each.push.dueMs, each.push.id)
            list = inOrder([...list, each.push])
          } else if ('popAtMs' in each) {
            const wanted = list[0] !== undefined && list[0].dueMs <= each.popAtMs ? list.shift()!.id : -1
            const id = heap.popDue(each.popAtMs)
            if (id !== wanted) throw new Error(`popped ${id}, wanted ${wanted}`)
          } else {
            heap.compact((_, id) => id % each.keepModulo === 0)
            list = list.filter(({ id }) => id % each.keepModulo === 0)
          }
          if (heap.size !== list.length) throw new Error(`size ${heap.size}, wanted ${list.length}`)
          if (heap.peekDueMs() !== (list[0]?.dueMs ?? Infinity)) throw new Error(`due ${heap.peekDueMs()}`)
        }
      }),
    ),
  )
})

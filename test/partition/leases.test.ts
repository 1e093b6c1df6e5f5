import fc from 'fast-check'
import t from 'tap'
import { Leases } from '../../src/partition/leases.ts'

const epoch = 7

/** Leases kept message by message. */
class NaiveLeases {
  readonly held = new Map<number, { lease: number; epoch: number; expiresMs: number }>()

  grant(lease: number, ranges: readonly number[], expiresMs: number): void {
    for (let i = 0; i < ranges.length; i += 2) {
      for (let n = ranges[i]!; n < ranges[i + 1]!; n++) this.held.set(n, { lease, epoch, expiresMs })
    }
  }

  /** Those of [start, end) which this lease holds. */
  heldIn(lease: number, ofEpoch: number, start: number, end: number, nowMs: number): number[] {
    const found: number[] = []
    for (let n = start; n < end; n++) {
      const one = this.held.get(n)
      if (one !== undefined && one.lease === lease && one.epoch === ofEpoch && one.expiresMs > nowMs)
        found.push(n)
    }
    return found
  }

  release(lease: number, ofEpoch: number, start: number, end: number, nowMs: number): number[] {
    const taken = this.heldIn(lease, ofEpoch, start, end, nowMs)
    for (const n of taken) this.held.delete(n)
    return taken
  }

  extend(
    lease: number,
    ofEpoch: number,
    start: number,
    end: number,
    nowMs: number,
    expiresMs: number,
  ): number[] {
    const extended = this.heldIn(lease, ofEpoch, start, end, nowMs)
    for (const n of extended) this.held.get(n)!.expiresMs = expiresMs
    return extended
  }

  expire(nowMs: number): number[] {
    const expired = [...this.held].filter(([, { expiresMs }]) => expiresMs <= nowMs).map(([n]) => n)
    for (const n of expired) this.held.delete(n)
    return ascending(expired)
  }

  describe(): string {
    return ascending([...this.held.keys()])
      .map((n) => `${n}:${this.held.get(n)!.lease}@${this.held.get(n)!.expiresMs}`)
      .join(' ')
  }
}

const ascending = (list: number[]) => list.toSorted((a, b) => a - b)

function describe(leases: Leases): string {
  const all: [number, string][] = []
  leases.forEach((start, end, expiresMs, lease) => {
    for (let n = start; n < end; n++) all.push([n, `${n}:${lease}@${expiresMs}`])
  })
  return all
    .toSorted(([a], [b]) => a - b)
    .map(([, text]) => text)
    .join(' ')
}

/** The offsets that a visitor saw. */
function seen(visit: (visitor: (start: number, end: number) => void) => unknown): number[] {
  const offsets: number[] = []
  visit((start, end) => {
    for (let n = start; n < end; n++) offsets.push(n)
  })
  return offsets
}

const release = (leases: Leases, lease: number, start: number, end: number, nowMs: number, ofEpoch = epoch) =>
  seen((taken) => leases.release(lease, ofEpoch, start, end, nowMs, taken))

const extend = (
  leases: Leases,
  lease: number,
  start: number,
  end: number,
  nowMs: number,
  expiresMs: number,
) => seen((held) => leases.extend(lease, epoch, start, end, nowMs, expiresMs, held))

const expire = (leases: Leases, nowMs: number) => seen((expired) => leases.expire(nowMs, expired))

/** One lease of messages 10–14, until 100. */
function five(): { leases: Leases; lease: number } {
  const leases = new Leases()
  return { leases, lease: leases.grant(epoch, [10, 15], 100) }
}

void t.test('no lease', async (t) => {
  const leases = new Leases()
  t.equal(leases.nextDueMs, Infinity, 'is due never')
  t.strictSame(expire(leases, 1e15), [], 'expires never')
  t.strictSame(leases.handOver(0, 0), [], 'is handed over')
})

void t.test('a lease', async (t) => {
  await t.test('has a number of its own', async (t) => {
    const leases = new Leases()
    const numbers = [1, 2, 3].map((n) => leases.grant(epoch, [n, n + 1], 100))
    t.strictSame(numbers, [1, 2, 3])
  })
  await t.test('counts its messages', async (t) => {
    const leases = new Leases()
    leases.grant(epoch, [0, 3, 5, 6], 100)
    t.strictSame([leases.count, leases.messages], [1, 4])
  })
  await t.test('of nothing is a defect', async (t) => {
    t.throws(() => new Leases().grant(epoch, [], 100), { name: 'InvariantError' })
  })
})

void t.test('release', async (t) => {
  await t.test('of all ends the lease', async (t) => {
    const { leases, lease } = five()
    release(leases, lease, 10, 15, 0)
    t.strictSame([leases.count, leases.messages], [0, 0])
  })
  await t.test('of a part leaves the rest', async (t) => {
    const { leases, lease } = five()
    release(leases, lease, 11, 13, 0)
    t.equal(describe(leases), '10:1@100 13:1@100 14:1@100')
  })
  await t.test('of more than it holds takes what it holds', async (t) => {
    const { leases, lease } = five()
    t.strictSame(release(leases, lease, 0, 1000, 0), [10, 11, 12, 13, 14])
  })
  await t.test('a second time takes nothing', async (t) => {
    const { leases, lease } = five()
    release(leases, lease, 10, 15, 0)
    t.strictSame(release(leases, lease, 10, 15, 0), [])
  })
  await t.test('under another epoch takes nothing', async (t) => {
    const { leases, lease } = five()
    t.strictSame(release(leases, lease, 10, 15, 0, epoch - 1), [])
  })
  await t.test('under another number takes nothing', async (t) => {
    const { leases, lease } = five()
    leases.grant(epoch, [20, 21], 100)
    t.strictSame(release(leases, lease + 1, 10, 15, 0), [])
  })
  await t.test('at the moment of expiry comes too late', async (t) => {
    const { leases, lease } = five()
    t.strictSame(release(leases, lease, 10, 15, 100), [])
  })
  await t.test('just before it does not', async (t) => {
    const { leases, lease } = five()
    t.equal(release(leases, lease, 10, 15, 99.999).length, 5)
  })
  await t.test('too late leaves the messages to expire', async (t) => {
    const { leases, lease } = five()
    release(leases, lease, 10, 15, 100)
    t.strictSame(expire(leases, 100), [10, 11, 12, 13, 14])
  })
})

void t.test('extend', async (t) => {
  await t.test('of one message leaves its neighbours', async (t) => {
    const { leases, lease } = five()
    extend(leases, lease, 12, 13, 0, 200)
    t.strictSame(expire(leases, 100), [10, 11, 13, 14])
  })
  await t.test('of all lets none expire', async (t) => {
    const { leases, lease } = five()
    extend(leases, lease, 10, 15, 0, 200)
    t.strictSame(expire(leases, 199), [])
  })
  await t.test('of all, twice, keeps one range', async (t) => {
    const { leases, lease } = five()
    extend(leases, lease, 12, 13, 0, 200)
    extend(leases, lease, 10, 15, 0, 300)
    t.strictSame(leases.handOver(0, 0), [{ lease, epoch, ranges: [10, 5, 300] }])
  })
  await t.test('can bring the end nearer', async (t) => {
    const { leases, lease } = five()
    extend(leases, lease, 12, 13, 0, 50)
    t.equal(leases.nextDueMs, 50)
    t.strictSame(expire(leases, 50), [12])
  })
  await t.test('after the end comes too late', async (t) => {
    const { leases, lease } = five()
    t.strictSame(extend(leases, lease, 10, 15, 100, 200), [])
    t.strictSame(expire(leases, 100).length, 5)
  })
  await t.test('of what was released finds nothing', async (t) => {
    const { leases, lease } = five()
    release(leases, lease, 10, 12, 0)
    t.strictSame(extend(leases, lease, 10, 15, 0, 200), [12, 13, 14])
  })
})

void t.test('expiry', async (t) => {
  await t.test('comes once', async (t) => {
    const { leases } = five()
    expire(leases, 100)
    t.strictSame(expire(leases, 200), [])
  })
  await t.test('is not early', async (t) => {
    t.strictSame(expire(five().leases, 99.999), [])
  })
  await t.test('frees the count', async (t) => {
    const { leases } = five()
    expire(leases, 100)
    t.strictSame([leases.count, leases.messages], [0, 0])
  })
  await t.test('of several leases comes in the order of their ends', async (t) => {
    const leases = new Leases()
    leases.grant(epoch, [0, 1], 300)
    leases.grant(epoch, [1, 2], 100)
    leases.grant(epoch, [2, 3], 200)
    t.strictSame(expire(leases, 300), [1, 2, 0])
  })
  await t.test('is awaited again after an extension', async (t) => {
    const { leases, lease } = five()
    extend(leases, lease, 10, 15, 0, 200)
    expire(leases, 100)
    t.equal(leases.nextDueMs, 200)
  })
})

void t.test('a hand-over', async (t) => {
  await t.test('keeps number and epoch, so that receipts stay good', async (t) => {
    const { leases, lease } = five()
    const next = new Leases()
    next.takeOver(leases.nextLease, leases.handOver(0, 0), 0, 0)
    t.equal(release(next, lease, 10, 15, 0).length, 5)
  })
  await t.test('never gives a number twice', async (t) => {
    const { leases } = five()
    const next = new Leases()
    next.takeOver(leases.nextLease, leases.handOver(0, 0), 0, 0)
    t.equal(next.grant(epoch, [20, 21], 100), 2)
  })
  await t.test('carries what is left of the time to another clock', async (t) => {
    const { leases } = five()
    const next = new Leases()
    // 40 ms are left; the stop takes 15 of them, and the next process counts from elsewhere.
    next.takeOver(leases.nextLease, leases.handOver(60, 1_000_000), 7, 1_000_015)
    t.equal(next.nextDueMs, 7 + 25)
  })
  await t.test('lets a lease that ran out meanwhile expire at once', async (t) => {
    const { leases } = five()
    const next = new Leases()
    next.takeOver(leases.nextLease, leases.handOver(0, 1_000_000), 7, 2_000_000)
    t.strictSame(expire(next, 7), [10, 11, 12, 13, 14])
  })
  await t.test('to a clock that went back leases nothing beyond the longest lease there is', async (t) => {
    const { leases } = five()
    const next = new Leases()
    next.takeOver(leases.nextLease, leases.handOver(0, 1e12), 0, 0)
    t.ok(next.nextDueMs <= 12 * 3_600_000, `due after ${next.nextDueMs} ms`)
  })
  await t.test('to one who has leases is a defect', async (t) => {
    const { leases } = five()
    t.throws(() => leases.takeOver(5, [], 0, 0), { name: 'InvariantError' })
  })
})

void t.test('timers of settled leases do not pile up', async (t) => {
  const leases = new Leases()
  let most = 0
  for (let n = 0; n < 100_000; n++) {
    const lease = leases.grant(epoch, [n, n + 1], n + 12 * 3_600_000)
    release(leases, lease, n, n + 1, n)
    most = Math.max(most, leases.timerCount)
  }
  t.ok(most <= 70, `${most} timers at most`)
})

void t.test('nor do those of a lease that is always brought nearer', async (t) => {
  const { leases, lease } = five()
  for (let n = 0; n < 10_000; n++) extend(leases, lease, 10, 15, 0, 100 - n / 1000)
  t.ok(leases.timerCount <= 70, `${leases.timerCount} timers`)
})

void t.test('nor do those of a lease that is always extended', async (t) => {
  const { leases, lease } = five()
  for (let n = 0; n < 10_000; n++) {
    extend(leases, lease, 10, 15, n, n + 100)
    expire(leases, n)
  }
  t.ok(leases.timerCount <= 70, `${leases.timerCount} timers`)
})

void t.test('three steps of any kind on four messages agree with message by message', async (t) => {
  type Step = { name: string; run(leases: Leases, naive: NaiveLeases): [number[], number[]] }
  const steps: Step[] = []
  for (let start = 0; start < 5; start++) {
    for (let end = start + 1; end <= 5; end++) {
      for (const nowMs of [0, 100]) {
        steps.push({
          name: `release ${start}–${end} at ${nowMs}`,
          run: (leases, naive) => [
            release(leases, 1, start, end, nowMs),
            naive.release(1, epoch, start, end, nowMs),
          ],
        })
      }
      for (const expiresMs of [50, 150]) {
        steps.push({
          name: `extend ${start}–${end} to ${expiresMs}`,
          run: (leases, naive) => [
            extend(leases, 1, start, end, 0, expiresMs),
            naive.extend(1, epoch, start, end, 0, expiresMs),
          ],
        })
      }
    }
  }
  for (const nowMs of [50, 100, 150]) {
    steps.push({
      name: `expire at ${nowMs}`,
      run: (leases, naive) => [ascending(expire(leases, nowMs)), naive.expire(nowMs)],
    })
  }
  let wrong = ''
  let tried = 0
  for (const first of steps) {
    for (const second of steps) {
      for (const third of steps) {
        const leases = new Leases()
        const naive = new NaiveLeases()
        leases.grant(epoch, [0, 2, 3, 5], 100)
        naive.grant(1, [0, 2, 3, 5], 100)
        for (const step of [first, second, third]) {
          const [found, wanted] = step.run(leases, naive)
          if (
            found.join() !== wanted.join() ||
            describe(leases) !== naive.describe() ||
            leases.messages !== naive.held.size ||
            leases.count !== (naive.held.size > 0 ? 1 : 0) ||
            (naive.held.size > 0 &&
              leases.nextDueMs > Math.min(...[...naive.held.values()].map((h) => h.expiresMs)))
          ) {
            wrong ||= `${first.name}, ${second.name}, ${third.name}: ${found.join()} for ${wanted.join()}`
          }
        }
        tried++
      }
    }
  }
  t.equal(wrong, '')
  t.equal(tried, steps.length ** 3)
})

void t.test('many leases agree with message by message', async (t) => {
  type Action =
    | { grant: [number, number][]; forMs: number }
    | { release: number; start: number; count: number; epochOff: number }
    | { extend: number; start: number; count: number; forMs: number }
    | { laterMs: number }
    | { stopMs: number; handOver: true }
  const part = { start: fc.nat(60), count: fc.integer({ min: 1, max: 20 }) }
  const action: fc.Arbitrary<Action> = fc.oneof(
    fc.record({
      grant: fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 4 })), { minLength: 1, maxLength: 4 }),
      forMs: fc.integer({ min: 1, max: 50 }),
    }),
    fc.record({ release: fc.nat(20), ...part, epochOff: fc.constantFrom(0, 0, 0, 1) }),
    fc.record({ extend: fc.nat(20), ...part, forMs: fc.integer({ min: 1, max: 80 }) }),
    fc.record({ laterMs: fc.nat(30) }),
    fc.record({ stopMs: fc.nat(10), handOver: fc.constant(true as const) }),
  )
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(action, { maxLength: 80, size: 'max' }), (actions) => {
        let leases = new Leases()
        const naive = new NaiveLeases()
        let nowMs = 0
        let wanted: number[] = []
        let found: number[] = []
        for (const each of actions) {
          if ('grant' in each) {
            // Ranges that nobody has: gaps and sizes as drawn, from the first free offset on.
            const ranges: number[] = []
            let at = 0
            for (const [gap, size] of each.grant) {
              for (at += gap; [...Array(size).keys()].some((i) => naive.held.has(at + i));) at++
              ranges.push(at, at + size)
              at += size
            }
            naive.grant(leases.grant(epoch, ranges, nowMs + each.forMs), ranges, nowMs + each.forMs)
          } else if ('release' in each) {
            const { release: lease, start, count, epochOff } = each
            found = release(leases, lease, start, start + count, nowMs, epoch + epochOff)
            wanted = naive.release(lease, epoch + epochOff, start, start + count, nowMs)
          } else if ('extend' in each) {
            const { extend: lease, start, count, forMs } = each
            found = extend(leases, lease, start, start + count, nowMs, nowMs + forMs)
            wanted = naive.extend(lease, epoch, start, start + count, nowMs, nowMs + forMs)
          } else if ('laterMs' in each) {
            nowMs += each.laterMs
            found = ascending(expire(leases, nowMs))
            wanted = naive.expire(nowMs)
          } else {
            const next = new Leases()
            const handed = JSON.parse(JSON.stringify(leases.handOver(nowMs, 1e12 + nowMs)))
            nowMs += each.stopMs
            next.takeOver(leases.nextLease, handed, nowMs, 1e12 + nowMs)
            leases = next
            found = ascending(expire(leases, nowMs))
            wanted = naive.expire(nowMs)
          }
          if (found.join() !== wanted.join()) throw new Error(`${found.join()}, wanted ${wanted.join()}`)
          if (describe(leases) !== naive.describe())
            throw new Error(`${describe(leases)}\n${naive.describe()}`)
          if (leases.messages !== naive.held.size) throw new Error(`${leases.messages} messages`)
          const dueMs = Math.min(Infinity, ...[...naive.held.values()].map((held) => held.expiresMs))
          if (leases.nextDueMs > dueMs) throw new Error(`wakes at ${leases.nextDueMs}, due at ${dueMs}`)
        }
      }),
      { numRuns: 300 },
    ),
  )
})

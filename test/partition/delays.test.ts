/** Failed deliveries, released ones and delays, as a leader decides them. */
import { crc32 } from 'node:zlib'
import t from 'tap'
import { backoffDelayMs } from '../../src/partition/backoff.ts'
import { duePerTurnMax, type LeasedItem } from '../../src/partition/leader.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { BatchBuilder, type MessageAttributes } from '../../src/wire/batch.ts'
import { Bench, visibilityTimeoutMs } from './leader-bench.ts'

type Options = ConstructorParameters<typeof Bench>[0]

const nack = { action: 1 } as const
const release = { action: 2 } as const

/** A bench where `count` messages from offset 1 on are leased at once. */
function leased(count: number, options: Options = {}): { bench: Bench; item: LeasedItem } {
  const bench = new Bench(options)
  bench.send('first', { count })
  bench.commit()
  bench.answers = []
  const [item] = bench.receive()
  return { bench, item: item! }
}

const part = (item: LeasedItem, offset: number, count: number): LeasedItem => ({ ...item, offset, count })

/** A batch with a message for each of `attributes`. */
function batchOf(attributes: (MessageAttributes | null)[]) {
  const builder = new BatchBuilder()
  for (const each of attributes) builder.add('body', 'text', each)
  const batch = builder.finish()
  return { batch, crc: crc32(batch), count: attributes.length, ownDelays: true }
}

void t.test('a nack', async (t) => {
  await t.test(
    'is answered once it is committed, and then the message is ready with a higher count',
    async (t) => {
      const { bench, item } = leased(3)
      bench.settle('n', [part(item, 2, 1)], nack)
      t.strictSame(bench.answers, [])
      t.equal(bench.readyRuns, '')
      bench.commit()
      t.strictSame(bench.answers, ['n settled'])
      t.equal(bench.readyRuns, '2+1×2')
      t.equal(bench.leader.leasedCount, 2, 'its neighbours are still leased')
    },
  )
  await t.test('of a thousand neighbours is one entry with one range', async (t) => {
    const { bench, item } = leased(1000)
    bench.settle('n', [item], { ...nack, delayMs: 500, reason: 'no disk' })
    t.match(bench.entries.at(-1)!.body, {
      kind: 'settle',
      action: 1,
      settled: [1, 1000],
      notBefore: [bench.now.wallMs + 500],
      reason: 'no disk',
    })
    bench.commit()
    t.equal(bench.leader.delayedCount, 1000)
    t.equal(bench.leader.state.delayed.runs, 1)
  })
  await t.test('repeated has its first outcome and counts once', async (t) => {
    const { bench, item } = leased(2)
    const request = [part(item, 1, 2), part(item, 9, 1)]
    bench.settle('n', request, nack)
    bench.settle('n', request, nack)
    bench.commit()
    t.strictSame(bench.answers, ['n settled but 9+1', 'n settled but 9+1'])
    t.equal(bench.readyRuns, '1+2×2')
  })
  await t.test('with another delay under its sequence is another request', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], nack)
    bench.settle('n', [item], { ...nack, delayMs: 5 })
    t.strictSame(bench.answers, ['n DUPLICATE_MISMATCH'])
  })
  await t.test('of what the lease does not hold is refused', async (t) => {
    const { bench, item } = leased(2)
    bench.settle('a', [part(item, 1, 1)])
    bench.settle('n', [item], nack)
    bench.commit()
    t.strictSame(bench.answers, ['a settled', 'n settled but 1+1'])
    t.equal(bench.readyRuns, '2+1×2')
  })
  await t.test('of an expired lease is refused', async (t) => {
    const { bench, item } = leased(1)
    bench.ms += visibilityTimeoutMs
    bench.settle('n', [item], nack)
    bench.settle('r', [item], release)
    t.strictSame(bench.answers, ['n settled but 1+1', 'r settled but 1+1'])
  })
})

void t.test('a release', async (t) => {
  await t.test('makes the message ready without counting', async (t) => {
    const { bench, item } = leased(3, { backoffMs: () => 1000 })
    bench.settle('r', [part(item, 2, 1)], release)
    bench.commit()
    t.strictSame(bench.answers, ['r settled'])
    t.equal(bench.readyRuns, '2+1×1')
    t.equal(bench.leader.leasedCount, 2)
  })
  await t.test('ends a delay that was over', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], { ...nack, delayMs: 10 })
    bench.commit()
    bench.advance(10)
    const [again] = bench.receive()
    bench.settle('r', [again!], release)
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2')
    t.ok(bench.leader.state.delayed.isEmpty)
  })
})

void t.test('a delay', async (t) => {
  await t.test('holds until its time, and not a moment longer', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], { ...nack, delayMs: 500 })
    bench.commit()
    t.equal(bench.readyRuns, '')
    t.equal(bench.leader.nextDueMs, 500)
    bench.advance(499)
    t.equal(bench.readyRuns, '')
    bench.readyCalls = 0
    bench.advance(1)
    t.equal(bench.readyRuns, '1+1×2')
    t.equal(bench.readyCalls, 1, 'who waits is told')
  })
  await t.test('holds across a crash and a planned stop', async (t) => {
    const { bench, item } = leased(2)
    bench.settle('n', [item], { ...nack, delayMs: 500 })
    bench.commit()
    bench.crash()
    bench.commit()
    t.equal(bench.leader.delayedCount, 2)
    bench.restart(499)
    t.equal(bench.leader.delayedCount, 2)
    bench.advance(1)
    t.equal(bench.readyRuns, '1+2×2')
  })
  await t.test('that ended while nobody led is over, and forgotten', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], { ...nack, delayMs: 500 })
    bench.commit()
    bench.restart(500)
    t.equal(bench.readyRuns, '1+1×2')
    t.ok(bench.leader.state.delayed.isEmpty)
  })
  await t.test('lasts as long as it should though the clock is set back', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], { ...nack, delayMs: 500 })
    bench.commit()
    bench.skewMs = -3_600_000
    bench.advance(499)
    t.equal(bench.readyRuns, '')
    bench.advance(1)
    t.equal(bench.readyRuns, '1+1×2')
  })
  await t.test('that begins after the clock was set back does too', async (t) => {
    const { bench, item } = leased(1)
    bench.skewMs = -3_600_000
    bench.crash()
    bench.commit()
    t.ok(item)
    const [again] = bench.receive()
    bench.settle('n', [again!], { ...nack, delayMs: 500 })
    bench.commit()
    bench.advance(500)
    t.equal(bench.readyRuns, '1+1×2')
  })
  await t.test('ends with a clock that is set forward, as soon as it is looked at', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('n', [item], { ...nack, delayMs: 60_000 })
    bench.commit()
    bench.skewMs = 60_000
    bench.advance(0)
    t.equal(bench.readyRuns, '1+1×2')
  })
  await t.test('of 0 is none, whatever the backoff', async (t) => {
    const { bench, item } = leased(1, { backoffMs: () => 1000 })
    bench.settle('n', [item], { ...nack, delayMs: 0 })
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2')
  })
  await t.test('of neighbours that meet ends for all of them', async (t) => {
    const { bench, item } = leased(6)
    bench.settle('b', [part(item, 4, 3)], { ...nack, delayMs: 100 })
    bench.settle('a', [part(item, 1, 3)], { ...nack, delayMs: 100 })
    bench.commit()
    bench.leader.checkInvariants()
    bench.advance(100)
    t.equal(bench.readyRuns, '1+6×2')
    bench.leader.checkInvariants()
  })
})

void t.test('a message that is sent', async (t) => {
  await t.test("with the queue's delay is delayed by the header alone", async (t) => {
    const bench = new Bench({ delayMs: 1000 })
    bench.send('a', { count: 3 })
    bench.commit()
    t.match(bench.entries.at(-1), { ownDelays: false, notBeforeMs: bench.now.wallMs + 1000 })
    t.equal(bench.leader.delayedCount, 3)
    bench.advance(1000)
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('with a delay of its own is delayed by it, and its neighbours are not', async (t) => {
    const bench = new Bench()
    const at = bench.now.wallMs
    bench.send(
      'a',
      batchOf([null, { delay: 50 }, { deliverAt: at + 70 }, { deliverAt: at - 1 }, { delay: 50 }]),
    )
    bench.commit()
    t.equal(bench.readyRuns, '1+1×1 4+1×1')
    bench.advance(50)
    t.equal(bench.readyRuns, '1+2×1 4+2×1')
    bench.advance(20)
    t.equal(bench.readyRuns, '1+5×1')
  })
  await t.test("with a delay of its own has not the queue's", async (t) => {
    const bench = new Bench({ delayMs: 1000 })
    bench.send('a', batchOf([null, { delay: 0 }, { delay: 50 }]))
    bench.commit()
    t.equal(bench.readyRuns, '2+1×1')
    bench.advance(50)
    t.equal(bench.readyRuns, '2+2×1')
    bench.advance(950)
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('keeps its delay in the log', async (t) => {
    const bench = new Bench()
    bench.send('a', batchOf([{ delay: 50 }, null, { delay: 60 }]))
    bench.commit()
    t.strictSame(bench.fold().delayed.toArray(), bench.leader.state.delayed.toArray())
    bench.crash()
    bench.commit()
    t.equal(bench.readyRuns, '2+1×1')
    bench.advance(60)
    t.equal(bench.readyRuns, '1+3×1')
  })
})

void t.test('a backoff', async (t) => {
  const backoffMs = (failures: number) => failures * 100
  await t.test('delays what has expired', async (t) => {
    const { bench } = leased(2, { backoffMs })
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    t.match(bench.entries.at(-1)!.body, { ranges: [1, 2], notBefore: [bench.now.wallMs + 100] })
    t.equal(bench.readyRuns, '')
    bench.advance(100)
    t.equal(bench.readyRuns, '1+2×2')
  })
  await t.test('cuts a range where messages have failed a different number of times', async (t) => {
    const { bench, item } = leased(4, { backoffMs })
    bench.settle('n', [part(item, 2, 2)], nack)
    bench.commit()
    bench.advance(100)
    const again = bench.receive()
    t.strictSame(
      again.map(({ offset, count }) => [offset, count]),
      [[2, 2]],
    )
    bench.settle('m', [part(item, 1, 1), ...again, part(item, 4, 1)], nack)
    const at = bench.now.wallMs
    t.match(bench.entries.at(-1)!.body, {
      settled: [1, 1, 2, 2, 4, 1],
      notBefore: [at + 100, at + 200, at + 100],
    })
    bench.commit()
    bench.advance(100)
    t.equal(bench.readyRuns, '1+1×2 4+1×2')
    bench.advance(100)
    t.equal(bench.readyRuns, '1+1×2 2+2×3 4+1×2')
  })
  await t.test('grows as it says', async (t) => {
    const grown = (backoff: Parameters<typeof backoffDelayMs>[0], unit = 0) =>
      [1, 2, 3, 4, 2000].map((failures) => backoffDelayMs(backoff, failures, unit))
    t.strictSame(grown({ type: 'fixed', delayMs: 10 }), [10, 10, 10, 10, 10])
    t.strictSame(grown({ type: 'exponential', delayMs: 10, maxMs: 50 }), [10, 20, 40, 50, 50])
    t.equal(backoffDelayMs({ type: 'exponential', delayMs: 1 }, 2000, 0), 31_536_000_000, 'a year at most')
    t.strictSame(grown({ type: 'fixed', delayMs: 10, jitter: 0.5 }, 0.5), [8, 8, 8, 8, 8])
    t.strictSame(grown({ type: 'fixed', delayMs: 10, jitter: 1 }, 0), [10, 10, 10, 10, 10])
  })
})

void t.test('messages whose payload has rotted', async (t) => {
  await t.test('need no delays of their own', async (t) => {
    const bench = new Bench()
    bench.send('a', batchOf([{ delay: 50 }, null]))
    bench.commit()
    bench.start([1, 2])
    bench.commit()
    t.equal(bench.leader.state.quarantined.size, 2)
    t.ok(bench.leader.state.delayed.isEmpty)
    t.equal(bench.leader.delayedCount, 0)
    bench.leader.checkInvariants()
  })
})

void t.test('a purge that ends within a run of delayed messages leaves the rest its timer', async (t) => {
  const bench = new Bench({ delayMs: 1000 })
  bench.send('before', { count: 2 })
  bench.send('after', { count: 3 })
  bench.commit()
  t.equal(bench.leader.state.delayed.runs, 1)
  t.equal(bench.leader.purge(3, bench.now), 2)
  bench.commit()
  bench.leader.checkInvariants()
  bench.advance(1000)
  t.equal(bench.readyRuns, '3+3×1')
})

void t.test('very many runs that are ready at the same time', async (t) => {
  const runs = 2 * duePerTurnMax + 1
  const bench = new Bench()
  const dueMs = bench.now.wallMs + 1000
  for (let sent = 0; sent < runs; sent += 1000) {
    // Neighbours differ by a moment: no two are one run.
    const some = Array.from({ length: Math.min(1000, runs - sent) }, (_, i) => ({
      deliverAt: dueMs - ((sent + i) & 1),
    }))
    bench.send(`s${sent}`, batchOf(some))
  }
  bench.commit()
  t.equal(bench.leader.delayedCount, runs)
  bench.ms += 1000
  let ticks = 0
  for (; bench.leader.nextDueMs <= bench.ms; ticks++) {
    const before = bench.leader.readyCount
    const readyCalls = bench.readyCalls
    bench.advance(0)
    bench.leader.checkInvariants()
    t.ok(bench.leader.readyCount - before <= duePerTurnMax, 'become so over several turns')
    t.equal(bench.readyCalls, readyCalls + 1, 'and whoever waits hears of each')
  }
  t.equal(ticks, 3)
  t.equal(bench.leader.readyCount, runs)
})

void t.test(
  'whatever is delayed until whenever, at each moment what is due is ready, and nothing else',
  async (t) => {
    const wrong: string[] = []
    for (let seed = 0; seed < 150; seed++) {
      const random = new SeededRandom(seed)
      const bench = new Bench()
      /** When each message that was not purged is due, by offset. */
      const dueMs = new Map<number, number>()
      for (let step = 0; step < 25; step++) {
        const kind = random.unit()
        if (kind < 0.5) {
          // Runs of one time that reach over many blocks of timers, or none longer than a message or two.
          const runLength = random.pick([1, 2, 30, 500])
          const spreadMs = random.pick([3, 50, 2000])
          let delay = random.int(spreadMs)
          const attributes = Array.from({ length: 1 + random.int(300) }, (_, i) => {
            if (i % runLength === 0) delay = random.int(spreadMs)
            return random.chance(0.02) ? null : { delay }
          })
          const base = bench.leader.state.logEnd
          bench.send(`${step}`, batchOf(attributes))
          for (const [i, each] of attributes.entries())
            dueMs.set(base + i, bench.now.wallMs + (each?.delay ?? 0))
          bench.commit()
        } else if (kind < 0.9) bench.advance(random.pick([0, 1, 7, 40, 300]))
        else {
          const end = random.int(bench.leader.state.logEnd + 1)
          while (bench.leader.purge(end, bench.now) > 0) bench.commit()
          for (const offset of dueMs.keys()) if (offset < end) dueMs.delete(offset)
        }
        while (bench.leader.nextDueMs <= bench.ms) bench.advance(0)
        bench.leader.checkInvariants()
        const ready = [...dueMs.values()].filter((ms) => ms <= bench.now.wallMs).length
        const { readyCount, delayedCount } = bench.leader
        if (readyCount !== ready || delayedCount !== dueMs.size - ready)
          wrong.push(`seed ${seed}, step ${step}: ${readyCount} ready, ${delayedCount} delayed, not ${ready}`)
      }
    }
    t.strictSame(wrong, [])
  },
)

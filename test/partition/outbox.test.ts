/** The outbox and its other end, as leaders decide them: what moves, what is forwarded, what is accepted. */
import { crc32 } from 'node:zlib'
import t from 'tap'
import type { LeaderOptions } from '../../src/partition/leader.ts'
import { noPosition, nowhere, sourceId, type Target } from '../../src/partition/outbox.ts'
import type { OutputPosition } from '../../src/types.ts'
import { Bench, producer } from './leader-bench.ts'

const dead: Target = { queueId: 'dd'.repeat(16), partition: 3 }
const other: Target = { queueId: 'ee'.repeat(16), partition: 0 }
/** `printf 'outbox' | cat - 20-zeros | sha256sum`, its first half. */
const firstSource = '6df5abee408b3e34ca1f5ef5527c2d9c'
const nack = { action: 1 } as const
const deadLetter = { action: 3 } as const
const givingUpAfter = (maxDeliveries: number | null, target = dead): Partial<LeaderOptions> => ({
  maxDeliveries,
  deadLetterTarget: () => target,
})

/** A bench with `count` committed messages from offset 1 on. */
function filled(count: number, options: Partial<LeaderOptions> = {}): Bench {
  const bench = new Bench(options)
  bench.send('first', { count })
  bench.commit()
  bench.answers = []
  return bench
}

/** What is to be forwarded: `offset+count×deliveries@index` of each range, by entries. */
function pending(bench: Bench, target = dead): string {
  const next = bench.leader.nextOutputs(target)
  if (next === undefined) return ''
  return next.outputs
    .map(({ offset, ranges }) => {
      const parts: string[] = []
      for (let i = 0; i < ranges.length; i += 4) {
        parts.push(`${ranges[i]}+${ranges[i + 1]}×${ranges[i + 2]}@${ranges[i + 3]}`)
      }
      return `${offset}: ${parts.join(' ')}`
    })
    .join(', ')
}

void t.test('a failure', async (t) => {
  await t.test('below the limit is only that', async (t) => {
    const bench = filled(1, givingUpAfter(2))
    bench.settle('n', bench.receive(), nack)
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2')
    t.equal(pending(bench), '')
    t.equal(bench.outputsCalls, 0)
  })
  await t.test('at the limit moves the message, by the entry that records the failure', async (t) => {
    const bench = filled(3, givingUpAfter(1))
    const [item] = bench.receive()
    bench.settle('n', [{ ...item!, offset: 2, count: 2 }], { ...nack, reason: 'why' })
    t.match(bench.entries.at(-1)!.body, {
      kind: 'settle',
      settled: [],
      moved: { why: 0, target: dead, error: 'why', ranges: [2, 2] },
    })
    t.equal(pending(bench), '', 'not before it is committed')
    bench.leader.checkInvariants()
    bench.commit()
    t.strictSame(bench.answers, ['n settled'])
    t.equal(pending(bench), '4: 2+2×1@0')
    t.equal(bench.readyRuns, '')
    t.equal(bench.leader.state.logStart, 1)
    bench.settle('a', [{ ...item!, offset: 1, count: 1 }])
    bench.commit()
    t.equal(bench.leader.state.logStart, 2, 'what is not forwarded keeps its batch')
  })
  await t.test('of many moves some and gives the others back', async (t) => {
    const bench = filled(4, givingUpAfter(2))
    const [item] = bench.receive()
    bench.settle('n', [{ ...item!, offset: 2, count: 1 }], nack)
    bench.settle(
      'r',
      [
        { ...item!, offset: 1, count: 1 },
        { ...item!, offset: 3, count: 2 },
      ],
      { action: 2 },
    )
    bench.commit()
    bench.receive()
    bench.advance(40_000)
    t.match(bench.entries.at(-1)!.body, {
      kind: 'fail',
      ranges: [1, 1, 3, 2],
      moved: { why: 0, error: 'the lease expired', ranges: [2, 1] },
    })
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2 3+2×2')
    t.equal(bench.leader.counts.failed, 5)
    t.equal(bench.leader.counts.deadLettered, 1)
    bench.leader.checkInvariants()
  })
})

void t.test('a dead-letter', async (t) => {
  await t.test('moves what it names, whatever the limit', async (t) => {
    const bench = filled(2, givingUpAfter(null))
    const [item] = bench.receive()
    bench.settle('d', [{ ...item!, offset: 1, count: 1 }], { ...deadLetter, reason: 'bad' })
    bench.commit()
    t.equal(pending(bench), '3: 1+1×1@0')
    t.equal(bench.leader.leasedCount, 1)
  })
  await t.test('is refused where there is no dead-letter queue, and the lease stays', async (t) => {
    const bench = filled(1)
    const items = bench.receive()
    bench.settle('d', items, deadLetter)
    t.strictSame(bench.answers, ['d NO_DEAD_LETTER_QUEUE'])
    t.equal(bench.leader.leasedCount, 1)
  })
  await t.test('that is repeated has its first answer, and moves nothing more', async (t) => {
    const bench = filled(2, givingUpAfter(null))
    const items = bench.receive()
    const request = { ...deadLetter, producerId: producer('p'), sequence: 7 }
    bench.settle('d', items, request)
    bench.commit()
    bench.settle('again', items, request)
    t.strictSame(bench.answers, ['d settled', 'again settled'])
    t.equal(pending(bench), '3: 1+2×1@0')
  })
})

void t.test('what was forwarded', async (t) => {
  const moved = (count: number): Bench => {
    const bench = filled(count, givingUpAfter(1))
    bench.settle('n', bench.receive(), nack)
    bench.commit()
    return bench
  }
  const at = (bench: Bench, index: number): OutputPosition => ({ epoch: bench.epoch, offset: 4, index })

  await t.test('in part leaves the rest, with its positions', async (t) => {
    const bench = moved(3)
    t.equal(bench.leader.forwarded(dead, at(bench, 1), bench.now), true)
    t.equal(pending(bench), '4: 3+1×1@2')
    t.strictSame(bench.leader.nextOutputs(dead)!.previous, at(bench, 1))
    bench.leader.checkInvariants()
    t.equal(bench.leader.forwarded(dead, at(bench, 2), bench.now), true)
    t.equal(pending(bench), '')
    t.equal(bench.leader.state.outbox.moving.size, 0)
    t.equal(bench.leader.state.logStart, bench.leader.state.logEnd)
  })
  await t.test('and told again changes nothing', async (t) => {
    const bench = moved(3)
    bench.leader.forwarded(dead, at(bench, 1), bench.now)
    const entries = bench.appended.length
    t.equal(bench.leader.forwarded(dead, at(bench, 1), bench.now), true)
    t.equal(bench.appended.length, entries)
  })
  await t.test("can't be less than was told before, nor more than there was", async (t) => {
    const bench = moved(3)
    bench.leader.forwarded(dead, at(bench, 1), bench.now)
    t.equal(bench.leader.forwarded(dead, at(bench, 0), bench.now), false)
    t.equal(bench.leader.forwarded(dead, at(bench, 3), bench.now), false)
  })
  await t.test('and lost by a crash is forwarded again', async (t) => {
    const bench = moved(3)
    bench.leader.forwarded(dead, at(bench, 2), bench.now)
    bench.crash()
    bench.commit()
    t.equal(pending(bench), '4: 1+3×1@0')
  })
  await t.test('before it rotted is known to have been there', async (t) => {
    const bench = moved(3)
    bench.start([1, 3])
    bench.commit()
    t.equal(pending(bench), '')
    t.equal(bench.leader.state.quarantined.size, 3)
    t.equal(bench.leader.forwarded(dead, { epoch: 1, offset: 4, index: 2 }, bench.now), true)
    bench.leader.checkInvariants()
  })
})

void t.test('outputs to a target that is gone', async (t) => {
  await t.test('are issued anew for another, behind what it has', async (t) => {
    const bench = filled(2, givingUpAfter(1))
    const [item] = bench.receive()
    bench.settle('one', [{ ...item!, offset: 1, count: 1 }], nack)
    bench.commit()
    bench.leader.redirect(dead, other, bench.now)
    bench.commit()
    t.equal(pending(bench), '')
    t.equal(pending(bench, other), '4: 1+1×1@0')
    bench.leader.checkInvariants()
    // The target that is gone is as new, should it ever come back.
    bench.settle('two', [{ ...item!, offset: 2, count: 1 }], nack)
    bench.commit()
    t.strictSame(bench.leader.nextOutputs(dead)!.previous, noPosition)
  })
  await t.test('come back when there is no other', async (t) => {
    const bench = filled(2, givingUpAfter(1))
    bench.settle('n', bench.receive(), nack)
    bench.commit()
    bench.leader.redirect(dead, null, bench.now)
    t.equal(bench.readyRuns, '', 'not before it is committed')
    bench.commit()
    t.equal(bench.readyRuns, '1+2×2')
    t.equal(bench.leader.state.outbox.isEmpty, true)
    bench.leader.checkInvariants()
  })
  await t.test('come back as they were if they were redriven', async (t) => {
    const bench = filled(3, givingUpAfter(null))
    bench.leader.move([1, 2], dead, bench.now)
    bench.commit()
    t.equal(bench.readyRuns, '3+1×1')
    bench.leader.redirect(dead, other, bench.now)
    bench.commit()
    t.equal(bench.readyRuns, '1+3×1')
    t.equal(pending(bench, other), '')
  })
  await t.test('wait for one that is not there yet', async (t) => {
    const bench = filled(1, givingUpAfter(1, nowhere))
    bench.settle('n', bench.receive(), nack)
    bench.commit()
    t.equal(pending(bench, nowhere), '2: 1+1×1@0')
  })
})

void t.test('a partition that is forwarded to', async (t) => {
  const source = sourceId(other)
  const batch = Buffer.from('outputs')
  const accept = (
    bench: Bench,
    ref: string,
    previous: OutputPosition,
    position: OutputPosition,
    count = 1,
  ): void => {
    bench.leader.accept(
      ref,
      { source, previous, position, count, crc: crc32(batch), batch, headroom: 0 },
      bench.now,
    )
  }
  const p = (offset: number, index = 0): OutputPosition => ({ epoch: 5, offset, index })

  await t.test('takes what follows what it has, and says so once it is committed', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10, 1), 2)
    t.strictSame(bench.answers, [])
    t.equal(bench.readyRuns, '')
    bench.commit()
    t.strictSame(bench.answers, ['a forwarded 5-10.1'])
    t.equal(bench.readyRuns, '1+2×1')
    accept(bench, 'b', p(10, 1), p(12))
    bench.commit()
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('takes a copy for what it is, also after a crash', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10))
    accept(bench, 'copy', noPosition, p(10))
    t.strictSame(bench.answers, [], 'the answer to a copy waits for what it repeats')
    bench.commit()
    t.strictSame(bench.answers, ['a forwarded 5-10.0', 'copy forwarded 5-10.0'])
    bench.crash()
    bench.commit()
    accept(bench, 'late', noPosition, p(10))
    t.equal(bench.answers.at(-1), 'late forwarded 5-10.0')
    t.equal(bench.readyRuns, '1+1×1')
  })
  await t.test('that was not committed is not known after a crash, and is taken then', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10))
    bench.crash()
    bench.commit()
    accept(bench, 'again', noPosition, p(10))
    bench.commit()
    t.strictSame(bench.answers, ['again forwarded 5-10.0'])
    t.equal(bench.leader.state.live.size, 1)
  })
  await t.test('takes nothing with a gap before it, nor what it has in part', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10, 3), 4)
    bench.commit()
    const entries = bench.appended.length
    accept(bench, 'gap', p(11), p(12))
    accept(bench, 'part', p(10, 1), p(10, 5), 4)
    t.strictSame(bench.answers.slice(1), ['gap forwarded 5-10.3', 'part forwarded 5-10.3'])
    t.equal(bench.appended.length, entries)
  })
  await t.test('knows each source by itself, and forgets it when it is told to', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10))
    bench.leader.forget([source, sourceId(dead)], bench.now)
    t.match(bench.entries.at(-1)!.body, { kind: 'forget', sources: [source] })
    bench.commit()
    t.equal(bench.leader.state.sources.size, 0)
    const entries = bench.appended.length
    bench.leader.forget([source], bench.now)
    t.equal(bench.appended.length, entries)
  })
  await t.test('has no outcome of it for any producer', async (t) => {
    const bench = new Bench()
    accept(bench, 'a', noPosition, p(10))
    t.equal(bench.leader.state.producers.size, 0)
    bench.send('b', { producerId: source })
    bench.commit()
    t.equal(bench.leader.state.producers.size, 1)
    t.strictSame(bench.leader.state.sources.get(source), p(10))
  })
})

void t.test('an id of a source is of its queue and partition', async (t) => {
  const ids = [dead, other, { ...dead, partition: 4 }].map(sourceId)
  t.equal(new Set(ids).size, 3)
  for (const id of ids) t.equal(id.length, 16)
  t.equal(
    Buffer.from(sourceId({ queueId: '00'.repeat(16), partition: 0 }), 'latin1').toString('hex'),
    firstSource,
  )
})

import { crc32 } from 'node:zlib'
import t from 'tap'
import { MqError } from '../../src/errors.ts'
import { duePerTurnMax, type LeasedItem } from '../../src/partition/leader.ts'
import { pack } from '../../src/wire/msgpack.ts'
import { Bench, producer, visibilityTimeoutMs } from './leader-bench.ts'

const batch = Buffer.from('the same bytes')
/** The n-th request of producer p. */
const p = (sequence: number, bytes = batch) => ({
  producerId: producer('p'),
  sequence,
  opening: 1,
  batch: bytes,
  crc: crc32(bytes),
})

/** A bench where `count` messages from offset 1 on are committed. */
function sent(count: number): Bench {
  const bench = new Bench()
  bench.send('first', { count })
  bench.commit()
  bench.answers = []
  return bench
}

/** The same, all of them leased at once. */
function leased(count: number): { bench: Bench; item: LeasedItem } {
  const bench = sent(count)
  const [item] = bench.receive()
  return { bench, item: item! }
}

const part = (item: LeasedItem, offset: number, count: number): LeasedItem => ({ ...item, offset, count })

void t.test('before its epoch is committed a leader', async (t) => {
  const starting = () => {
    const bench = sent(3)
    bench.crash()
    return bench
  }
  await t.test('refuses a send', async (t) => {
    const bench = starting()
    bench.send('a')
    t.strictSame(bench.answers, ['a STOPPING'])
  })
  await t.test('refuses a settle', async (t) => {
    const bench = starting()
    bench.settle('a', [{ leaseEpoch: 1, lease: 1, offset: 1, count: 1 }])
    t.strictSame(bench.answers, ['a STOPPING'])
  })
  await t.test('answers a request that was done, once it is', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.commit()
    bench.crash()
    bench.send('a')
    t.strictSame(bench.answers, ['a sent 1-1'])
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'a sent 1-1 before'])
  })
  await t.test('refuses to extend', async (t) => {
    const bench = starting()
    bench.extend('a', [{ leaseEpoch: 1, lease: 1, offset: 1, count: 1 }], 1000)
    t.strictSame(bench.answers, ['a STOPPING'])
  })
  await t.test('delivers nothing', async (t) => {
    t.equal(starting().readyRuns, '')
  })
  await t.test('may not lease', async (t) => {
    t.throws(() => starting().leader.lease([1, 2], 1000, { wallMs: 0, monotonicMs: 0 }), {
      name: 'InvariantError',
    })
  })
})

void t.test('once its epoch is committed a leader', async (t) => {
  const bench = sent(3)
  bench.crash()
  bench.readyCalls = 0
  bench.commit()
  t.equal(bench.readyCalls, 1, 'says once that it serves')
  t.equal(bench.readyRuns, '1+3×1', 'delivers what its log has')
})

void t.test('a new leader', async (t) => {
  await t.test('writes down which epoch was before', async (t) => {
    const bench = new Bench()
    bench.epoch = 6
    bench.crash()
    t.match(bench.entries.at(-1), { epoch: 7, body: { kind: 'epochStart', previous: 1 } })
  })
  await t.test('starts once', async (t) => {
    const bench = new Bench()
    t.throws(() => bench.leader.start(9, bench.now), { name: 'InvariantError' })
  })
  await t.test('never starts an epoch again', async (t) => {
    const bench = new Bench()
    bench.epoch = 0
    t.throws(() => bench.crash(), { name: 'InvariantError' })
  })
})

void t.test('a send', async (t) => {
  await t.test('is not answered before it is committed', async (t) => {
    const bench = new Bench()
    bench.send('a')
    t.strictSame(bench.answers, [])
  })
  await t.test('is not delivered before it is committed', async (t) => {
    const bench = new Bench()
    bench.send('a')
    t.equal(bench.readyRuns, '')
  })
  await t.test('is answered with its epoch and base once it is', async (t) => {
    const bench = new Bench()
    bench.send('a', { count: 3 })
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1'])
  })
  await t.test('is delivered once it is', async (t) => {
    const bench = new Bench()
    bench.send('a', { count: 3 })
    bench.commit()
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('is not committed by a watermark in its middle', async (t) => {
    const bench = new Bench()
    bench.send('a', { count: 3 })
    bench.commit(3)
    t.strictSame(bench.answers, [])
    t.equal(bench.readyRuns, '')
  })
  await t.test('waits for its own entry only', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.send('b')
    bench.commit(2)
    t.strictSame(bench.answers, ['a sent 1-1'])
  })
  await t.test('is answered in log order', async (t) => {
    const bench = new Bench()
    for (const ref of ['a', 'b', 'c']) bench.send(ref, { count: 2 })
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'b sent 1-3', 'c sent 1-5'])
  })
  await t.test('never goes back in time', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.skewMs = -60_000
    bench.send('b')
    const [, a, b] = bench.entries
    t.equal(b!.timeMs, a!.timeMs)
  })
  await t.test('with room before its batch is written in place', async (t) => {
    const frame = Buffer.alloc(200, 1)
    const bench = new Bench()
    bench.send('a', { batch: frame.subarray(100), crc: crc32(frame.subarray(100)), headroom: 100 })
    t.equal(bench.appended.at(-1)!.bytes.buffer, frame.buffer)
  })
  await t.test('wakes those who wait', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.commit()
    t.equal(bench.readyCalls, 1)
  })
})

void t.test('the watermark', async (t) => {
  await t.test('never goes back', async (t) => {
    const bench = sent(3)
    t.throws(() => bench.commit(2), { name: 'InvariantError' })
  })
  await t.test('never passes the end of the log', async (t) => {
    const bench = sent(3)
    t.throws(() => bench.commit(5), { name: 'InvariantError' })
  })
})

void t.test('a send again', async (t) => {
  await t.test('is answered at once with the first base when that is committed', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.commit()
    bench.send('again', p(1))
    t.strictSame(bench.answers, ['a sent 1-1', 'again sent 1-1 before'])
  })
  await t.test('appends nothing', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('again', p(1))
    t.equal(bench.kinds, 'epochStart batch')
  })
  await t.test('waits while the first is not committed', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('again', p(1))
    t.strictSame(bench.answers, [])
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'again sent 1-1 before'])
  })
  await t.test('does not overtake the answers before it', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.commit()
    bench.send('b', p(2))
    bench.send('again', p(1))
    bench.commit()
    t.strictSame(bench.answers.slice(1), ['b sent 1-2', 'again sent 1-1 before'])
  })
  await t.test('is known after a crash, with the epoch of its id', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.commit()
    bench.crash()
    bench.commit()
    bench.send('again', p(1))
    t.equal(bench.answers.at(-1), 'again sent 1-1 before')
  })
  await t.test('is new after a crash that took the first', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.crash()
    bench.commit()
    bench.send('again', p(1))
    bench.commit()
    t.strictSame(bench.answers, ['again sent 2-2'])
  })
  await t.test('with other bytes is refused', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('other', p(1, Buffer.from('other bytes')))
    t.strictSame(bench.answers, ['other DUPLICATE_MISMATCH'])
  })
  await t.test('of what was a settle is refused', async (t) => {
    const { bench, item } = leased(1)
    bench.settle('a', [item], p(1))
    const requestCrc = crc32(pack([0, [[item.leaseEpoch, item.lease, item.offset, item.count]]]))
    bench.send('b', { ...p(1), crc: requestCrc })
    t.strictSame(bench.answers, ['b DUPLICATE_MISMATCH'])
  })
  await t.test('that was never accepted is told so', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('c', p(3))
    bench.send('b', p(2))
    t.strictSame(bench.answers, ['b REFUSED_BEFORE'])
    t.equal(bench.errors.get('b')!.outcome, 'failed')
  })
  await t.test('that lies below the first accepted one, too', async (t) => {
    const bench = new Bench()
    bench.send('b', p(2))
    bench.send('a', p(1))
    t.strictSame(bench.answers, ['a REFUSED_BEFORE'])
  })
})

void t.test('of 65 sends of a producer', async (t) => {
  const bench = new Bench()
  for (let sequence = 1; sequence <= 65; sequence++) bench.send(`${sequence}`, p(sequence))
  bench.commit()
  bench.answers = []
  bench.send('second', p(2))
  bench.send('first', p(1))
  t.strictSame(
    bench.answers,
    ['second sent 1-2 before', 'first OUT_OF_ORDER_SEQUENCE'],
    'the last 64 are known',
  )
  t.equal(bench.errors.get('first')!.outcome, 'unknown', 'of the first nobody can tell')
})

void t.test('a send that cannot be taken', async (t) => {
  const full = new MqError('DISK_FULL', 'full')
  await t.test('is refused at once', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1), full)
    t.strictSame(bench.answers, ['a DISK_FULL'])
    t.equal(bench.kinds, 'epochStart')
  })
  await t.test('is answered all the same when it was taken before', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('again', p(1), full)
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'again sent 1-1 before'])
  })
  await t.test('may be sent again while nothing after it was taken', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1), full)
    bench.send('again', p(1))
    bench.commit()
    t.strictSame(bench.answers, ['a DISK_FULL', 'again sent 1-1'])
  })
  await t.test('and no more once something was', async (t) => {
    const bench = new Bench()
    bench.send('a', p(1))
    bench.send('b', p(2), full)
    bench.send('c', p(3))
    bench.send('again', p(2))
    t.strictSame(bench.answers, ['b DISK_FULL', 'again REFUSED_BEFORE'])
  })
})

void t.test('a producer', async (t) => {
  await t.test('under a newer epoch begins its sequences anew', async (t) => {
    const bench = new Bench()
    bench.send('a', p(7))
    bench.send('b', { ...p(1), producerEpoch: 1 })
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'b sent 1-2'])
  })
  await t.test('under an older epoch is fenced, and what it sent before may have been taken', async (t) => {
    const bench = new Bench()
    bench.send('a', p(7))
    bench.send('b', { ...p(1), producerEpoch: 1 })
    bench.send('again', p(7))
    t.strictSame(bench.answers, ['again PRODUCER_FENCED'])
    t.equal(bench.errors.get('again')!.outcome, 'unknown')
  })
  await t.test('cannot have opened beyond the end of the log', async (t) => {
    const bench = new Bench()
    bench.send('a', { opening: Number.MAX_SAFE_INTEGER })
    t.strictSame(bench.answers, ['a UNKNOWN_PRODUCER'])
    t.equal(bench.kinds, 'epochStart')
  })
  await t.test('has an epoch of 32 bits', async (t) => {
    const bench = new Bench()
    bench.send('a', { producerEpoch: 2 ** 32 })
    t.strictSame(bench.answers, ['a INVALID_FIELD'])
    t.equal(bench.kinds, 'epochStart')
  })
})

void t.test('when there are too many producers', async (t) => {
  /** Four producers are the most, and have sent in this order; a1 was used again later. */
  const crowded = () => {
    const bench = new Bench({ producersMax: 4 })
    for (const name of ['a1', 'b1', 'c1', 'd1']) {
      bench.send(name, { producerId: producer(name), opening: bench.leader.state.logEnd })
      bench.ms += 10
    }
    bench.send('a2', { producerId: producer('a1'), sequence: 2 })
    bench.commit()
    bench.send('e1', { producerId: producer('e1') })
    bench.commit()
    bench.answers = []
    return bench
  }
  await t.test('an entry makes room for the next', async (t) => {
    t.match(crowded().entries.at(-2), { body: { kind: 'evict', producers: [producer('b1')] } })
  })
  await t.test('the newcomer is told where its batch really is', async (t) => {
    const bench = crowded()
    bench.send('e1', { producerId: producer('e1') })
    t.strictSame(bench.answers, ['e1 sent 1-7 before'])
    t.equal(bench.readyRuns, '1+5×1 7+1×1')
  })
  await t.test('the one unused for longest is unknown', async (t) => {
    const bench = crowded()
    bench.send('b1', { producerId: producer('b1'), opening: 2 })
    t.strictSame(bench.answers, ['b1 UNKNOWN_PRODUCER'])
    t.equal(bench.errors.get('b1')!.outcome, 'unknown')
  })
  await t.test('it is unknown after a crash, too', async (t) => {
    const bench = crowded()
    bench.crash()
    bench.commit()
    bench.send('b1', { producerId: producer('b1'), opening: 2 })
    t.strictSame(bench.answers, ['b1 UNKNOWN_PRODUCER'])
  })
  await t.test('one that was used is known', async (t) => {
    const bench = crowded()
    bench.send('a2', { producerId: producer('a1'), sequence: 2 })
    t.strictSame(bench.answers, ['a2 sent 1-5 before'])
  })
  await t.test('one that opens now is taken', async (t) => {
    const bench = crowded()
    bench.send('f1', { producerId: producer('f1'), opening: bench.leader.state.logEnd })
    bench.commit()
    t.strictSame(bench.answers, ['f1 sent 1-9'])
  })
})

void t.test('what settles could not settle is remembered within a bound', async (t) => {
  const bench = new Bench({ refusedNumbersMax: 100 })
  const lost = Array.from({ length: 10 }, (_, i) => ({
    leaseEpoch: 99,
    lease: 1,
    offset: 1000 + 2 * i,
    count: 1,
  }))
  for (let i = 0; i < 20; i++) {
    bench.send(`s${i}`)
    bench.commit()
    const opening = bench.leader.state.logEnd
    bench.settle(`a${i}`, [...bench.receive(1), ...lost], { producerId: producer(`p${i}`), opening })
    bench.commit()
    if (bench.leader.state.refusedNumbers > 100) t.fail(`${bench.leader.state.refusedNumbers} after ${i}`)
  }
  bench.answers = []
  bench.crash()
  bench.commit()
  t.ok(bench.leader.state.refusedNumbers <= 100, 'after a crash, too')
  t.match(bench.kinds, /evict/)
})

void t.test('when too much waits for the disk', async (t) => {
  const crowded = () => {
    const bench = new Bench({ awaitingMax: 2 })
    bench.send('a', p(1))
    bench.send('b', p(2))
    return bench
  }
  await t.test('a send is refused', async (t) => {
    const bench = crowded()
    bench.send('c', p(3))
    t.strictSame(bench.answers, ['c THROTTLED'])
  })
  await t.test('so is one of a new producer', async (t) => {
    const bench = crowded()
    bench.send('c')
    t.strictSame(bench.answers, ['c THROTTLED'])
  })
  await t.test('what was taken before is answered', async (t) => {
    const bench = crowded()
    bench.send('again', p(1))
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1', 'b sent 1-2', 'again sent 1-1 before'])
  })
  await t.test('repetitions of what was taken do not pile up without end', async (t) => {
    const bench = crowded()
    for (let i = 0; i < 10; i++) bench.send(`again ${i}`, p(1))
    t.equal(bench.answers.filter((answer) => answer.endsWith('THROTTLED')).length, 8)
    bench.commit()
    bench.send('later', p(1))
    t.equal(bench.answers.at(-1), 'later sent 1-1 before')
  })
  await t.test('sends are taken again once it does not', async (t) => {
    const bench = crowded()
    bench.commit()
    bench.send('c', p(3))
    bench.commit()
    t.equal(bench.answers.at(-1), 'c sent 1-3')
  })
})

void t.test('a receive', async (t) => {
  await t.test('takes messages that no other receive gets', async (t) => {
    const bench = sent(3)
    bench.receive(2)
    t.equal(bench.readyRuns, '3+1×1')
  })
  await t.test('numbers its lease', async (t) => {
    const bench = sent(3)
    t.strictSame([bench.receive(1)[0]!.lease, bench.receive(1)[0]!.lease], [1, 2])
  })
  await t.test('sees runs of one delivery count each', async (t) => {
    const bench = sent(3)
    bench.receive(1)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2 2+2×1')
  })
  await t.test('cannot lease what is leased', async (t) => {
    const { bench } = leased(3)
    t.throws(() => bench.leader.lease([1, 2], 1000, bench.now), { name: 'InvariantError' })
  })
})

void t.test('a settle', async (t) => {
  await t.test('is not answered before it is committed', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item])
    t.strictSame(bench.answers, [])
  })
  await t.test('is answered once it is', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item])
    bench.commit()
    t.strictSame(bench.answers, ['a settled'])
  })
  await t.test('of some messages leaves the others leased', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [part(item, 2, 1)])
    t.strictSame([bench.leader.leasedCount, bench.leader.state.live.toArray()], [2, [1, 2, 1, 3, 4, 1]])
  })
  await t.test('lets nothing of it expire', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item])
    bench.advance(visibilityTimeoutMs)
    t.equal(bench.kinds, 'epochStart batch settle')
  })
  await t.test('of several leases is one entry', async (t) => {
    const bench = sent(3)
    const items = [bench.receive(1)[0]!, bench.receive(1)[0]!, bench.receive(1)[0]!]
    bench.settle('a', items)
    t.match(bench.entries.at(-1)!.body, { settled: [1, 3], refused: null })
  })
  await t.test('a second time, under another sequence, finds the lease lost', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item], p(1))
    bench.settle('b', [item], p(2))
    t.strictSame(bench.answers, ['b settled but 1+3'])
  })
  await t.test('that settles nothing appends nothing', async (t) => {
    const { bench, item } = leased(3)
    bench.advance(visibilityTimeoutMs)
    const before = bench.kinds
    bench.settle('a', [item])
    t.equal(bench.kinds, before)
  })
  await t.test('of a range partly lost settles the rest, and says what', async (t) => {
    const { bench, item } = leased(5)
    bench.settle('a', [part(item, 2, 1)])
    bench.settle('b', [part(item, 4, 1)])
    bench.settle('c', [item])
    bench.commit()
    t.equal(bench.answers.at(-1), 'c settled but 2+1 4+1')
    t.equal(bench.leader.state.live.size, 0)
  })
  await t.test('comes too late at the moment of expiry', async (t) => {
    const { bench, item } = leased(3)
    bench.ms += visibilityTimeoutMs
    bench.settle('a', [item])
    t.strictSame(bench.answers, ['a settled but 1+3'])
  })
  await t.test('under the lease of an earlier delivery settles nothing', async (t) => {
    const { bench, item } = leased(1)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    bench.receive()
    bench.settle('a', [item])
    t.strictSame(bench.answers, ['a settled but 1+1'])
  })
  await t.test('under the number of another lease settles nothing', async (t) => {
    const bench = sent(2)
    const [first] = bench.receive(1)
    bench.receive(1)
    bench.settle('a', [part(first!, 2, 1)])
    t.strictSame(bench.answers, ['a settled but 2+1'])
  })
})

void t.test('a settle again', async (t) => {
  await t.test('is answered as the first, once that is committed', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [part(item, 1, 2), part(item, 9, 1)], p(1))
    bench.settle('again', [part(item, 1, 2), part(item, 9, 1)], p(1))
    t.strictSame(bench.answers, [])
    bench.commit()
    t.strictSame(bench.answers, ['a settled but 9+1', 'again settled but 9+1'])
  })
  await t.test('is answered as the first after a crash', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item], p(1))
    bench.commit()
    bench.crash()
    bench.commit()
    bench.settle('again', [item], p(1))
    t.equal(bench.answers.at(-1), 'again settled')
  })
  await t.test('finds the leases lost after a crash that took the first', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item], p(1))
    bench.crash()
    bench.commit()
    bench.settle('again', [item], p(1))
    t.strictSame(bench.answers, ['again settled but 1+3'])
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('with other items is refused', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [part(item, 1, 1)], p(1))
    bench.settle('other', [part(item, 2, 1)], p(1))
    t.strictSame(bench.answers, ['other DUPLICATE_MISMATCH'])
  })
  await t.test('of what was a send is refused', async (t) => {
    const { bench, item } = leased(1)
    const requestCrc = crc32(pack([0, [[item.leaseEpoch, item.lease, item.offset, item.count]]]))
    bench.send('a', { ...p(1), crc: requestCrc })
    bench.settle('b', [item], p(1))
    t.strictSame(bench.answers, ['b DUPLICATE_MISMATCH'])
  })
  await t.test('that settled nothing settles nothing', async (t) => {
    const { bench, item } = leased(1)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    bench.receive()
    bench.settle('a', [item], p(1))
    bench.settle('again', [item], p(1))
    t.strictSame(bench.answers, ['a settled but 1+1', 'again settled but 1+1'])
  })
})

/** A lease for each second message, so that no two are neighbours. */
function everySecondLeased(leases: number): { bench: Bench; last: LeasedItem } {
  const bench = new Bench()
  bench.send('first', { count: 2 * leases })
  bench.commit()
  let last: LeasedItem | undefined
  for (let offset = 1; offset < 2 * leases; offset += 2) {
    const lease = bench.leader.lease([offset, offset + 1], visibilityTimeoutMs, bench.now)
    last = { leaseEpoch: bench.epoch, lease, offset, count: 1 }
  }
  return { bench, last: last! }
}

void t.test('a lease that ran out', async (t) => {
  await t.test('is a failed delivery in the log', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs)
    t.match(bench.entries.at(-1)!.body, { kind: 'fail', cause: 0, ranges: [1, 3] })
  })
  await t.test('is not delivered again before that is committed', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs)
    t.equal(bench.readyRuns, '')
  })
  await t.test('is delivered again once it is, counted', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    t.equal(bench.readyRuns, '1+3×2')
  })
  await t.test('wakes those who wait', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs)
    bench.readyCalls = 0
    bench.commit()
    t.equal(bench.readyCalls, 1)
  })
  await t.test('did not a moment before', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs - 1)
    t.equal(bench.kinds, 'epochStart batch')
  })
  await t.test('is awaited', async (t) => {
    const { bench } = leased(3)
    t.equal(bench.leader.nextDueMs, bench.ms + visibilityTimeoutMs)
  })
  await t.test('beside many others waits its turn, and is due at once', async (t) => {
    const { bench } = everySecondLeased(2 * duePerTurnMax + 1)
    bench.ms += visibilityTimeoutMs
    let ticks = 0
    for (; bench.leader.nextDueMs <= bench.ms; ticks++) {
      const before = bench.leader.leasedCount
      bench.advance(0)
      bench.commit()
      bench.leader.checkInvariants()
      t.ok(before - bench.leader.leasedCount <= duePerTurnMax)
    }
    t.equal(ticks, 3)
    t.equal(bench.kinds, 'epochStart batch fail fail fail')
    t.equal(bench.leader.readyCount, 2 * (2 * duePerTurnMax + 1))
  })
  await t.test('and waits its turn is lost all the same', async (t) => {
    const { bench, last } = everySecondLeased(duePerTurnMax + 1)
    bench.advance(visibilityTimeoutMs)
    t.equal(bench.leader.leasedCount, 1)
    bench.settle('late', [last])
    bench.extend('later', [last], 1000)
    bench.commit()
    t.strictSame(bench.answers.slice(-2), [
      `late settled but ${last.offset}+1`,
      `later settled but ${last.offset}+1`,
    ])
  })
  await t.test('and waited its turn when the leader stopped is a failed delivery to the next', async (t) => {
    const { bench, last } = everySecondLeased(2 * duePerTurnMax + 1)
    bench.ms += visibilityTimeoutMs
    bench.restart()
    bench.settle('late', [last])
    t.strictSame(bench.answers.slice(-1), [`late settled but ${last.offset}+1`])
    while (bench.leader.nextDueMs <= bench.ms) {
      bench.advance(0)
      bench.commit()
    }
    t.equal(bench.leader.leasedCount, 0)
    t.equal(bench.leader.state.live.get(last.offset), 2)
  })
})

void t.test('extending', async (t) => {
  await t.test('is answered at once, for leases are memory', async (t) => {
    const { bench, item } = leased(3)
    bench.extend('a', [item], 60_000)
    t.strictSame(bench.answers, ['a settled'])
    t.equal(bench.kinds, 'epochStart batch')
  })
  await t.test('counts from its arrival', async (t) => {
    const { bench, item } = leased(3)
    bench.advance(20_000)
    bench.extend('a', [item], 30_000)
    bench.advance(29_999)
    t.equal(bench.leader.leasedCount, 3)
    bench.advance(1)
    t.equal(bench.leader.leasedCount, 0)
  })
  await t.test('one message leaves the others to expire', async (t) => {
    const { bench, item } = leased(3)
    bench.extend('a', [part(item, 2, 1)], 60_000)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    t.equal(bench.readyRuns, '1+1×2 3+1×2')
  })
  await t.test('what was lost says what', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [part(item, 2, 1)])
    bench.extend('b', [item], 60_000)
    t.strictSame(bench.answers, ['b settled but 2+1'])
  })
  await t.test('to a nearer end brings the next tick nearer', async (t) => {
    const { bench, item } = leased(3)
    bench.extend('a', [item], 1000)
    t.equal(bench.leader.nextDueMs, 1000)
  })
})

void t.test('a crash', async (t) => {
  await t.test('ends the leases without a failed delivery', async (t) => {
    const { bench } = leased(3)
    bench.crash()
    bench.commit()
    t.equal(bench.readyRuns, '1+3×1')
  })
  await t.test('makes receipts worthless, even when the number is given again', async (t) => {
    const { bench, item } = leased(3)
    bench.crash()
    bench.commit()
    const [again] = bench.receive()
    t.equal(again!.lease, item.lease)
    bench.settle('a', [item])
    t.strictSame(bench.answers, ['a settled but 1+3'])
  })
  await t.test('keeps the count of failed deliveries', async (t) => {
    const { bench } = leased(3)
    bench.advance(visibilityTimeoutMs)
    bench.commit()
    bench.crash()
    bench.commit()
    t.equal(bench.readyRuns, '1+3×2')
  })
  await t.test('delivers what was on the disk and never confirmed', async (t) => {
    const bench = new Bench()
    bench.send('a', { count: 2 })
    bench.crash(bench.leader.state.logEnd)
    bench.commit()
    t.strictSame(bench.answers, [])
    t.equal(bench.readyRuns, '1+2×1')
  })
})

void t.test('a planned stop', async (t) => {
  await t.test('refuses what comes after it', async (t) => {
    const bench = new Bench()
    bench.leader.handOver(bench.now)
    bench.send('a')
    t.strictSame(bench.answers, ['a STOPPING'])
  })
  await t.test('gives a send that was done before it its first answer again', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.leader.handOver(bench.now)
    bench.send('a')
    t.strictSame(bench.answers, [], 'once that is committed')
    bench.commit()
    bench.send('a')
    t.strictSame(bench.answers, ['a sent 1-1', 'a sent 1-1 before', 'a sent 1-1 before'])
  })
  await t.test('gives a settle that was done before it its first answer again', async (t) => {
    const { bench, item } = leased(3)
    bench.settle('a', [item])
    bench.commit()
    bench.leader.handOver(bench.now)
    bench.settle('a', [item])
    t.strictSame(bench.answers, ['a settled', 'a settled'])
  })
  await t.test('refuses a producer that it does not know, without a word about it', async (t) => {
    const bench = new Bench()
    bench.leader.handOver(bench.now)
    bench.send('a', { opening: 1_000_000 })
    t.strictSame(bench.answers, ['a STOPPING'])
  })
  await t.test('answers what came before it', async (t) => {
    const bench = new Bench()
    bench.send('a')
    bench.leader.handOver(bench.now)
    bench.commit()
    t.strictSame(bench.answers, ['a sent 1-1'])
  })
  await t.test('delivers nothing more', async (t) => {
    const bench = sent(3)
    bench.leader.handOver(bench.now)
    t.equal(bench.readyRuns, '')
  })
  await t.test('is not awaited for leases', async (t) => {
    const { bench } = leased(3)
    bench.leader.handOver(bench.now)
    t.equal(bench.leader.nextDueMs, Infinity)
  })
  await t.test('twice is once', async (t) => {
    const bench = new Bench()
    bench.leader.handOver(bench.now)
    bench.leader.handOver(bench.now)
    t.equal(bench.kinds, 'epochStart leases')
  })
  await t.test('appends nothing after the table', async (t) => {
    const { bench } = leased(3)
    bench.leader.handOver(bench.now)
    bench.advance(visibilityTimeoutMs)
    t.equal(bench.kinds, 'epochStart batch leases')
  })
  await t.test('counts a lease that ran out before it as a failed delivery', async (t) => {
    const { bench } = leased(3)
    bench.ms += visibilityTimeoutMs
    bench.leader.handOver(bench.now)
    t.equal(bench.kinds, 'epochStart batch fail leases')
  })
  await t.test('keeps the leases', async (t) => {
    const { bench } = leased(3)
    bench.restart()
    t.strictSame([bench.leader.leasedCount, bench.readyRuns], [3, ''])
  })
  await t.test('keeps the receipts', async (t) => {
    const { bench, item } = leased(3)
    bench.restart(1000)
    bench.settle('a', [item])
    bench.commit()
    t.strictSame(bench.answers, ['a settled'])
  })
  await t.test('does not stop the time', async (t) => {
    const { bench } = leased(3)
    bench.advance(10_000)
    bench.restart(5_000)
    bench.advance(visibilityTimeoutMs - 15_001)
    t.equal(bench.leader.leasedCount, 3)
    bench.advance(1)
    bench.commit()
    t.equal(bench.readyRuns, '1+3×2')
  })
  await t.test('gives no number again', async (t) => {
    const bench = sent(3)
    const [before] = bench.receive(1)
    bench.restart()
    const [after] = bench.receive(1)
    t.not(after!.lease, before!.lease)
  })
  await t.test('twice keeps the receipts of both leaders before', async (t) => {
    const bench = sent(3)
    const [first] = bench.receive(1)
    bench.restart()
    const [second] = bench.receive(1)
    bench.restart()
    bench.settle('a', [first!, second!])
    bench.commit()
    t.strictSame(bench.answers, ['a settled'])
  })
  await t.test('followed by a crash of the next leader ends them', async (t) => {
    const { bench, item } = leased(3)
    bench.restart()
    bench.crash()
    bench.commit()
    bench.settle('a', [item])
    t.strictSame([bench.answers, bench.readyRuns], [['a settled but 1+3'], '1+3×1'])
  })
  await t.test('followed by a crash before the next epoch is on disk keeps them', async (t) => {
    const { bench, item } = leased(3)
    bench.leader.handOver(bench.now)
    bench.commit()
    bench.crash()
    bench.crash(bench.leader.highWatermark)
    bench.commit()
    bench.settle('a', [item])
    bench.commit()
    t.strictSame(bench.answers, ['a settled'])
  })
})

void t.test('quarantine', async (t) => {
  await t.test('takes ready messages out of the way', async (t) => {
    const bench = sent(3)
    bench.leader.quarantine(2, 3, bench.now)
    t.equal(bench.readyRuns, '1+1×1 3+1×1')
  })
  await t.test('counts them', async (t) => {
    const bench = sent(3)
    bench.leader.quarantine(2, 3, bench.now)
    t.equal(bench.leader.state.quarantined.size, 1)
  })
  await t.test('is for good', async (t) => {
    const bench = sent(3)
    bench.leader.quarantine(2, 3, bench.now)
    bench.commit()
    bench.crash()
    bench.commit()
    t.equal(bench.readyRuns, '1+1×1 3+1×1')
  })
  await t.test('leaves leased messages to their lease', async (t) => {
    const bench = sent(3)
    bench.receive(1)
    bench.leader.quarantine(1, 4, bench.now)
    t.match(bench.entries.at(-1)!.body, { ranges: [2, 2] })
    t.equal(bench.leader.leasedCount, 1)
  })
  await t.test('at the start', async (t) => {
    const restarted = (bench: Bench, rotten: number[]) => {
      bench.commit()
      bench.restart(0, rotten)
      bench.commit()
      return bench
    }
    await t.test('takes what has rotted out of the way before anything is served', async (t) => {
      const bench = restarted(sent(3), [2, 1])
      t.equal(bench.readyRuns, '1+1×1 3+1×1')
      t.equal(bench.leader.state.quarantined.size, 1)
      bench.leader.checkInvariants()
    })
    await t.test('follows EPOCH_START, which ends a hand-over', async (t) => {
      t.match(restarted(sent(3), [2, 1]).kinds, /leases epochStart quarantine$/)
    })
    await t.test('happens once', async (t) => {
      const bench = restarted(restarted(sent(3), [2, 1]), [2, 1])
      t.match(bench.kinds, /leases epochStart$/)
    })
    await t.test('leaves what is settled or leased alone', async (t) => {
      const bench = sent(4)
      const [settled] = bench.receive(1)
      bench.settle('a', [settled!])
      bench.receive(1)
      restarted(bench, [1, 4])
      t.match(bench.entries.at(-1)!.body, { kind: 'quarantine', ranges: [3, 2] })
      t.equal(bench.leader.leasedCount, 1)
      bench.leader.checkInvariants()
    })
  })
  await t.test('of nothing appends nothing', async (t) => {
    const { bench } = leased(3)
    bench.leader.quarantine(1, 4, bench.now)
    t.equal(bench.kinds, 'epochStart batch')
  })
})

void t.test('when its queue is deleted', async (t) => {
  const deleted = () => {
    const { bench, item } = leased(3)
    bench.send('a')
    bench.settle('b', [item])
    bench.leader.abandon(new MqError('QUEUE_DELETED', 'deleted'))
    return bench
  }
  t.strictSame(deleted().answers, ['a QUEUE_DELETED', 'b QUEUE_DELETED'], 'everybody who waits is told')
  t.equal(deleted().kinds, 'epochStart batch batch settle', 'nothing is appended')
})

void t.test('a batch of 100 messages costs what a batch of one costs', async (t) => {
  const bench = new Bench({ awaitingMax: 1 })
  bench.send('a', { count: 100 })
  bench.send('b')
  t.strictSame(bench.answers, ['b THROTTLED'], 'one effect waits')
  bench.commit()
  t.equal(bench.answers.length, 2, 'one answer')
  t.equal(bench.leader.state.live.runs, 1, 'one run')
  const items = bench.receive()
  t.strictSame([items.length, bench.leader.leaseCount, bench.leader.leasedCount], [1, 1, 100], 'one lease')
  bench.settle('c', items)
  t.equal(bench.kinds, 'epochStart batch settle', 'one entry each')
})

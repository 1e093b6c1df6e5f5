/** Segments that nothing needs go, and none that is needed, on the simulated world. */
import t from 'tap'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import type { MqClient } from '../../src/client/client.ts'
import { SimStore } from '../../src/sim/store.ts'
import { BrokerBench } from './broker-bench.ts'

const options = { segmentBytes: 4000, logOptions: { retentionMs: 100 } }

async function serving(brokerOptions: Partial<BrokerOptions> = options) {
  const bench = await BrokerBench.serving(brokerOptions, new SimStore())
  const mq = await bench.connect()
  const segments = () => bench.broker.measured.segments().map(({ name }) => Number(name))
  return { bench, mq, segments }
}

/** Sends and acks until the log has rolled on `times` times. */
async function work(bench: BrokerBench, mq: MqClient, queue: string, times: number): Promise<void> {
  const last = () => Number(bench.broker.measured.segments().at(-1)!.name)
  for (const end = last() + times; last() < end;) {
    await bench.complete(mq.send(queue, 'x'.repeat(500)))
    const messages = await bench.complete(mq.receive(queue, { max: 10 }))
    for (const message of messages) await bench.complete(message.ack())
  }
}

void t.test('what is settled is given back', async (t) => {
  const { bench, mq, segments } = await serving()
  await bench.complete(mq.createQueue('orders'))
  await work(bench, mq, 'orders', 10)
  await bench.world.advance(1000)
  t.ok(segments().length <= 2, `segments ${segments().join()}`)
  await bench.restart(options)
  await bench.complete(mq.send('orders', 'after'))
  t.equal((await bench.complete(mq.receive('orders')))[0]!.text(), 'after')
})

void t.test('a message that nobody acks keeps its own segment and no other', async (t) => {
  const { bench, mq, segments } = await serving()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
  await work(bench, mq, 'orders', 3)
  await bench.complete(mq.send('orders', 'stuck'))
  const [at] = segments().slice(-1)
  const [stuck] = await bench.complete(mq.receive('orders'))
  await work(bench, mq, 'orders', 5)
  await bench.world.advance(1000)
  t.ok(segments().includes(at!))
  t.ok(segments().length <= 3, `segments ${segments().join()}, stuck in ${at}`)
  await bench.restart(options)
  const [again] = await bench.complete(mq.receive('orders'))
  t.equal(again!.text(), 'stuck')
  t.not(again!.receipt, stuck!.receipt)
  await bench.complete(again!.ack())
  await work(bench, mq, 'orders', 1)
  await bench.world.advance(1000)
  t.notOk(segments().includes(at!), 'once it is acked')
})

void t.test('a settle frees nothing before it is in a checkpoint on the disk', async (t) => {
  // Without a journal what is stuck is not there after a crash, with this chance.
  const { bench, mq, segments } = await serving({
    ...options,
    logOptions: { ...options.logOptions, journalBytes: 0 },
  })
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
  await bench.complete(mq.send('orders', 'x'.repeat(6000)))
  await bench.complete(mq.send('orders', 'y'.repeat(6000)))
  const messages = await bench.complete(mq.receive('orders', { max: 10 }))
  bench.disk.nextCommit = 'stuck'
  for (const message of messages) bench.watch(message.ack())
  await bench.world.advance(5000)
  t.equal(bench.broker.internals.queues.get('orders')!.messages, 0, 'settled, as the leader sees it')
  t.ok(segments().includes(1))
  await bench.restart(options)
  const again = await bench.complete(mq.receive('orders', { max: 10 }))
  t.strictSame(
    again.map((message) => message.text()[0]),
    ['x', 'y'],
  )
})

void t.test('a queue that is idle keeps nothing of the others', async (t) => {
  const { bench, mq, segments } = await serving()
  for (const name of ['idle', 'idler', 'orders']) await bench.complete(mq.createQueue(name))
  await bench.complete(mq.send('idle', 'one'))
  await bench.complete((await bench.complete(mq.receive('idle')))[0]!.ack())
  await work(bench, mq, 'orders', 6)
  await bench.world.advance(2000)
  t.ok(segments().length <= 2, `segments ${segments().join()}`)
  await bench.restart(options)
  t.strictSame(
    (await bench.complete(mq.listQueues())).map(({ name, messages }) => [name, messages]),
    [
      ['idle', 0],
      ['idler', 0],
      ['orders', 0],
    ],
  )
})

void t.test('a queue that is deleted gives its segments back', async (t) => {
  const { bench, mq, segments } = await serving()
  for (const name of ['full', 'orders']) await bench.complete(mq.createQueue(name))
  for (let i = 0; i < 40; i++) await bench.complete(mq.send('full', 'x'.repeat(500)))
  await work(bench, mq, 'orders', 1)
  await bench.world.advance(1000)
  t.ok(segments().length >= 5, `segments ${segments().join()}`)
  await bench.complete(mq.deleteQueue('full'))
  await work(bench, mq, 'orders', 1)
  await bench.world.advance(2000)
  t.ok(segments().length <= 2, `segments ${segments().join()}`)
})

void t.test('of a log that cannot be read all is kept', async (t) => {
  const { bench, mq, segments } = await serving()
  for (const name of ['halted', 'orders']) await bench.complete(mq.createQueue(name))
  const { id } = bench.broker.internals.queues.get('halted')!
  await bench.complete(bench.broker.stop())
  for (const { keys, values } of bench.disk.attach().links.segments.values()) {
    for (const [i, value] of values.entries()) {
      if (Buffer.from(keys[i]!, 'latin1').subarray(1, 17).toString('hex') === id) value[20]! ^= 1
    }
  }
  await bench.restart(options)
  t.ok(bench.logged.includes('partition halted: its log cannot be read'))
  await work(bench, mq, 'orders', 6)
  await bench.world.advance(2000)
  t.ok(segments().includes(1))
  t.ok(segments().length <= 3, `segments ${segments().join()}`)
})

void t.test('a segment that cannot be removed is the failure of the disk', async (t) => {
  const { bench, mq } = await serving()
  await bench.complete(mq.createQueue('orders'))
  const failed = bench.watch(bench.broker.failed)
  bench.process!.env.store.remove = () => Promise.reject(new Error('EIO'))
  await work(bench, mq, 'orders', 3).catch(() => undefined)
  await bench.world.advance(1000)
  t.match(failed.value, { code: 'STORAGE_FAILED' })
})

void t.test('a planned stop waits for a removal under way', async (t) => {
  for (let ms = 0; ms < 8; ms++) {
    const { bench, mq } = await serving()
    await bench.complete(mq.createQueue('orders'))
    await work(bench, mq, 'orders', 4)
    await bench.world.advance(97 + ms / 2)
    const failed = bench.watch(bench.broker.failed)
    await bench.complete(bench.broker.stop())
    t.equal(failed.state, 'pending')
    await bench.restart(options)
    await work(bench, mq, 'orders', 1)
  }
})

void t.test('a few messages that nobody settles are copied, and their segment goes', async (t) => {
  const { bench, mq, segments } = await serving()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000, partitions: 2 }))
  await work(bench, mq, 'orders', 1)
  for (const body of ['first stuck', 'second stuck']) await bench.complete(mq.send('orders', body))
  const [at] = segments().slice(-1)
  const stuck = await bench.complete(mq.receive('orders', { max: 10 }))
  await work(bench, mq, 'orders', 3)
  await bench.world.advance(20_000)
  t.ok(segments().includes(at!), 'not at once')
  await bench.world.advance(15_000)
  t.notOk(segments().includes(at!), `segments ${segments().join()}`)
  t.equal(bench.logged.length, 0)

  await t.test('once more, when the segment of the copies is to go', async (t) => {
    const copied = segments()
    await work(bench, mq, 'orders', 5)
    await bench.world.advance(40_000)
    for (const name of copied) t.notOk(segments().includes(name), `${name} of ${segments().join()}`)
    t.ok(segments().length <= 2, `segments ${segments().join()}`)
  })
  await t.test('and they are settled as ever', async (t) => {
    await bench.complete(stuck[0]!.ack())
    t.equal(bench.broker.internals.queues.get('orders')!.messages, 1)
  })
  await t.test('also after a restart', async (t) => {
    await bench.restart(options)
    const [again] = await bench.complete(mq.receive('orders', { max: 10 }))
    t.equal(again!.text(), stuck[1]!.text())
    t.equal(again!.id, stuck[1]!.id)
    await bench.complete(again!.ack())
    await work(bench, mq, 'orders', 2)
    await bench.world.advance(5000)
    t.ok(segments().length <= 2, `segments ${segments().join()}`)
  })
})

void t.test('on a full disk, too, in a part of what was reserved', async (t) => {
  const reserveBytes = 40_000
  const logOptions = { ...options.logOptions, reserveBytes, fullRetryMs: 100 }
  const bench = await BrokerBench.serving({ ...options, logOptions }, new SimStore())
  const mq = await bench.connect()
  const segments = () => bench.broker.measured.segments().length
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
  for (let i = 0; i < 3; i++) {
    await bench.complete(mq.send('orders', 'stuck'.repeat(100)))
    await bench.complete(mq.receive('orders'))
    await work(bench, mq, 'orders', 1)
  }
  bench.disk.full = true
  // What finds it out is taken all the same.
  await bench.complete(mq.send('orders', 'finds out'))
  await bench.complete(mq.receive('orders'))
  t.strictSame(bench.broker.readiness(), ['disk full'])
  t.ok(segments() >= 4)
  await bench.world.advance(60_000)
  t.ok(segments() <= 2, `${segments()} segments`)
  t.ok(bench.disk.releasedBytes > reserveBytes / 2, `${bench.disk.releasedBytes} bytes are left`)
  bench.disk.full = false
  await bench.restart({ ...options, logOptions })
  const bodies = await bench.complete(mq.receive('orders', { max: 10 }))
  t.equal(bodies.length, 4)
})

void t.test('the last that is settled counts, though it was counted shortly before', async (t) => {
  const { bench, mq, segments } = await serving()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
  for (let i = 0; i < 6; i++) await bench.complete(mq.send('orders', `${i}`.repeat(500)))
  const messages = await bench.complete(mq.receive('orders', { max: 10 }))
  await work(bench, mq, 'orders', 1)
  await bench.world.advance(1000)
  await bench.complete(Promise.all(messages.slice(1).map((message) => message.ack())))
  await bench.world.advance(60_000)
  t.notOk(segments().includes(1), `segments ${segments().join()}`)
})

void t.test('who holds messages in several segments is not looked at for ever', async (t) => {
  const { bench, mq, segments } = await serving()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
  let looks = 0
  const { log } = bench.broker.internals
  const partitions = [...log.partitions]
  Object.defineProperty(log, 'partitions', { get: () => (looks++, partitions) })
  // They are counted at different times: each would be called counted shortly before, because of the other.
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 8; i++) await bench.complete(mq.send('orders', 'x'.repeat(500)))
    await bench.world.advance(4000)
  }
  t.ok(segments().length >= 4, `segments ${segments().join()}`)
  t.ok(looks > 0)
  await bench.world.advance(30_000)
  looks = 0
  await bench.world.advance(60_000)
  t.equal(looks, 0)
})

void t.test(
  'one stuck message of a large batch costs its batch, and only what is stuck comes back',
  async (t) => {
    const { bench, mq, segments } = await serving()
    await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 }))
    const bodies = Array.from({ length: 100 }, (_, i) => ({ body: `${i}`.padEnd(60, '.') }))
    await bench.complete(mq.sendBatch('orders', bodies))
    const messages = await bench.complete(mq.receive('orders', { max: 100 }))
    for (const [i, message] of messages.entries()) if (i !== 57) await bench.complete(message.ack())
    await work(bench, mq, 'orders', 1)
    await bench.world.advance(40_000)
    t.notOk(segments().includes(1))
    await bench.restart(options)
    const again = await bench.complete(mq.receive('orders', { max: 100 }))
    t.strictSame(
      again.map((message) => message.text().slice(0, 2)),
      ['57'],
    )
  },
)

void t.test('what has rotted is not copied, and keeps its segment until it is found out', async (t) => {
  const bench = await BrokerBench.serving({
    ...options,
    logOptions: { ...options.logOptions, cacheBytes: 0, journalBytes: 0 },
  })
  const mq = await bench.connect()
  const segments = () => bench.broker.measured.segments().map(({ name }) => Number(name))
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 100_000 }))
  await bench.complete(mq.send('orders', 'rotten'))
  await bench.complete(mq.receive('orders'))
  bench.rot('rotten')
  await work(bench, mq, 'orders', 3)
  await bench.world.advance(60_000)
  t.ok(segments().includes(1))
  await bench.world.advance(60_000)
  t.strictSame(await bench.complete(mq.receive('orders')), [], 'its lease is over, and it is quarantined')
  await work(bench, mq, 'orders', 1)
  await bench.world.advance(5000)
  t.notOk(segments().includes(1), `segments ${segments().join()}`)
})

void t.test('entries that follow the newest checkpoint are needed to start from', async (t) => {
  const { bench, mq } = await serving()
  await bench.complete(mq.createQueue('orders'))
  await work(bench, mq, 'orders', 2)
  const { log } = bench.broker.internals
  const [partition] = [...log.partitions]
  const { from, segment } = partition!.checkpointed!
  t.equal(partition!.needs(segment), 'start', 'the checkpoint itself')
  t.equal(partition!.needs(from), 'start', 'what may have come after it')
  partition!.checkpointed = { ...partition!.checkpointed!, segment: '99999999' }
  t.equal(partition!.needs(from), 'start', 'wherever the checkpoint is')
  partition!.checkpointed = { ...partition!.checkpointed, from: '99999999', holds: [from] }
  t.equal(partition!.needs(from), 'start', 'and what it calls unsettled')
  partition!.checkpointed = { ...partition!.checkpointed, holds: [] }
  t.equal(partition!.needs(from), 'nothing')
})

/** Closed segments are read in the background, and what has rotted is dealt with before anybody needs it. */
import t from 'tap'
import type { MqClient } from '../../src/client/client.ts'
import { SimStore } from '../../src/sim/store.ts'
import { BrokerBench } from '../broker/broker-bench.ts'

const options = {
  segmentBytes: 4000,
  logOptions: { journalBytes: 0, retentionMs: 100, verifyEveryMs: 60_000 },
}
const quiet = { ...options, logOptions: { ...options.logOptions, verifyBytesPerSecond: 0 } }
const quarantinedLine = 'messages quarantined: their stored bytes do not verify'
const foundLine = 'a closed segment does not verify'

async function serving(with_ = options) {
  const bench = await BrokerBench.serving(with_, new SimStore())
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders'))
  return { bench, mq }
}

const segmentsOf = (bench: BrokerBench) => bench.broker.measured.segments().map(({ name }) => name)
const partitionOf = (bench: BrokerBench, queue = 'orders') =>
  bench.broker.internals.queues.get(queue)!.partitions[0]!

/** Sends until the log has rolled on, so that what was sent before is in closed segments. */
async function roll(bench: BrokerBench, mq: MqClient, queue = 'orders'): Promise<void> {
  const before = segmentsOf(bench).at(-1)!
  while (segmentsOf(bench).at(-1)! <= before) await bench.complete(mq.send(queue, 'x'.repeat(500)))
}

void t.test('rot is quarantined before anybody reads it, told once, and all others are served', async (t) => {
  const { bench, mq } = await serving()
  for (const text of ['first', 'second', 'third']) await bench.complete(mq.send('orders', text))
  await roll(bench, mq)
  bench.rot('second')
  await bench.world.advance(10_000)
  t.equal(partitionOf(bench).leader.state.quarantined.size, 1)
  t.strictSame(bench.logged, [foundLine, quarantinedLine])
  t.ok(bench.broker.measured.meters.verifiedBytes > 4000)
  await bench.world.advance(300_000)
  t.equal(bench.broker.measured.meters.verifyProblems, 1, 'however often it is read')
  const messages = await bench.complete(mq.receive('orders', { max: 3 }))
  t.strictSame(
    messages.slice(0, 2).map((message) => message.text()),
    ['first', 'third'],
  )
})

void t.test('a segment is read again after a while, and one that closes is read soon', async (t) => {
  const { bench, mq } = await serving()
  await roll(bench, mq)
  await bench.world.advance(10_000)
  const once = bench.broker.measured.meters.verifiedBytes
  t.ok(once > 3000)
  await bench.world.advance(20_000)
  t.equal(bench.broker.measured.meters.verifiedBytes, once, 'not before it is due')
  await bench.world.advance(60_000)
  t.equal(bench.broker.measured.meters.verifiedBytes, 2 * once)
  await roll(bench, mq)
  await bench.world.advance(5000)
  t.ok(bench.broker.measured.meters.verifiedBytes > 2 * once)
})

void t.test(
  'the newest checkpoint rots: another is written, and the next start does not need it',
  async (t) => {
    const { bench, mq } = await serving()
    await bench.complete(mq.createQueue('idle'))
    await bench.complete(mq.send('idle', 'kept'))
    await roll(bench, mq)
    const { log } = bench.broker.internals
    const idle = [...log.partitions].find(({ name }) => name.queueId === partitionOf(bench, 'idle').queueId)!
    // Else what is read next is what has rotted.
    await bench.world.advance(10_000)
    const { segment } = idle.checkpointed!
    await roll(bench, mq)
    const data = bench.disk.attach().links.segments.get(segment)!
    data.values[data.keys.indexOf(idle.checkpointKey.toString('latin1'))]![10]! ^= 1
    await bench.world.advance(120_000)
    t.ok(bench.logged.includes(foundLine))
    t.ok(idle.checkpointed!.segment > segment, 'it is in a later segment')
    await bench.restart(options)
    t.equal(partitionOf(bench, 'idle').halted, null)
    const client = await bench.connect()
    const [message] = await bench.complete(client.receive('idle'))
    t.equal(message!.text(), 'kept')
  },
)

void t.test(
  'a part that the disk does not give: what was there is quarantined, the rest is served',
  async (t) => {
    const { bench, mq } = await serving()
    for (const text of ['first', 'second', 'third']) await bench.complete(mq.send('orders', text))
    await roll(bench, mq)
    const { keys, values } = bench.disk.attach().links.segments.get('00000001')!
    const at = values.findIndex((value) => Buffer.from(value).includes('second'))
    bench.disk.damage('00000001', keys[at]!, keys[at + 1]!)
    await bench.world.advance(10_000)
    t.equal(partitionOf(bench).leader.state.quarantined.size, 1)
    await bench.restart(options)
    t.equal(partitionOf(bench).halted, null)
    const client = await bench.connect()
    const messages = await bench.complete(client.receive('orders', { max: 2 }))
    t.strictSame(
      messages.map((message) => message.text()),
      ['first', 'third'],
    )
  },
)

void t.test('what nobody needs is told and counted, and nothing else is done', async (t) => {
  const { bench, mq } = await serving()
  // It keeps the segment.
  await bench.complete(mq.createQueue('other'))
  await bench.complete(mq.send('other', 'kept'))
  await bench.complete(mq.send('orders', 'settled'))
  const [message] = await bench.complete(mq.receive('orders'))
  await bench.complete(message!.ack())
  await roll(bench, mq)
  bench.rot('settled')
  await bench.world.advance(10_000)
  t.strictSame(bench.logged, [foundLine])
  t.equal(partitionOf(bench).leader.state.quarantined.size, 0)
})

void t.test('a stop while a segment is read', async (t) => {
  const { bench, mq } = await serving()
  for (let i = 0; i < 3; i++) await roll(bench, mq)
  // Each step of the world until it is well within the reading.
  for (let i = 0; i < 40 && bench.broker.measured.meters.verifiedBytes === 0; i++)
    await bench.world.advance(50)
  await bench.complete(bench.broker.stop())
  const read = bench.broker.measured.meters.verifiedBytes
  await bench.world.advance(100_000)
  t.equal(bench.broker.measured.meters.verifiedBytes, read, 'nothing is read any more')
  t.strictSame(bench.logged, [])
})

void t.test('a segment that is removed while it is read', async (t) => {
  const slow = { ...options, logOptions: { ...options.logOptions, verifyBytesPerSecond: 4 } }
  const { bench, mq } = await serving(slow)
  await roll(bench, mq)
  await bench.world.advance(1500)
  const { verifiedBytes } = bench.broker.measured.meters
  t.ok(verifiedBytes > 0, 'its reading has begun')
  for (const message of await bench.complete(mq.receive('orders', { max: 50 })))
    await bench.complete(message.ack())
  await roll(bench, mq)
  await bench.world.advance(2000)
  t.notOk(segmentsOf(bench).includes('00000001'))
  await bench.world.advance(100_000)
  t.strictSame(bench.logged, [])
  await bench.complete(mq.send('orders', 'after'))
})

void t.test('without verification a rotten batch waits for its reader', async (t) => {
  const { bench, mq } = await serving(quiet)
  await bench.complete(mq.send('orders', 'first'))
  await roll(bench, mq)
  bench.rot('first')
  await bench.world.advance(100_000)
  t.strictSame(bench.logged, [])
  t.equal(bench.broker.measured.meters.verifiedBytes, 0)
})

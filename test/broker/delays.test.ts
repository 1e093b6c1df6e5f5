/** Delays and failed deliveries through a whole broker and a client, on the simulated world. */
import t, { type Test } from 'tap'
import type { QueueOptions } from '../../src/types.ts'
import { BrokerBench } from './broker-bench.ts'

async function withQueue(options: QueueOptions = {}) {
  const bench = await BrokerBench.serving({})
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', options))
  const counts = async () => (await bench.complete(mq.describeQueue('orders'))).messages
  const receive = async (max = 10) => {
    const messages = await bench.complete(mq.receive('orders', { max }))
    return messages.map((message) => `${message.text()}×${message.deliveryCount}`).join(' ')
  }
  return { bench, mq, counts, receive }
}

/** Both sides of a moment. */
async function readyAfter(
  t: Test,
  { bench, receive }: Awaited<ReturnType<typeof withQueue>>,
  ms: number,
  wanted: string,
) {
  await bench.world.advance(ms - 50)
  t.equal(await receive(), '', `not ${ms - 50} ms later`)
  await bench.world.advance(100)
  t.equal(await receive(), wanted)
}

void t.test('a delayed message is counted as such, and a consumer that waits gets it in time', async (t) => {
  const { bench, mq, counts } = await withQueue()
  await bench.complete(mq.send('orders', 'later', { delayMs: 2000 }))
  await bench.complete(mq.send('orders', 'now'))
  t.strictSame(await counts(), { ready: 1, leased: 0, delayed: 1 })
  t.equal((await bench.complete(mq.receive('orders'))).length, 1)
  const received = bench.watch(mq.receive('orders', { waitMs: 20_000 }))
  await bench.world.advance(1900)
  t.equal(received.state, 'pending')
  await bench.world.advance(200)
  t.equal(received.state, 'resolved')
  t.strictSame(await counts(), { ready: 0, leased: 2, delayed: 0 })
})

void t.test('a message is delayed by the queue, or as it says itself', async (t) => {
  const staged = await withQueue({ delayMs: 1000 })
  const { bench, mq } = staged
  await bench.complete(
    mq.sendBatch('orders', [{ body: 'a' }, { body: 'b', delayMs: 0 }, { body: 'c', deliverAt: new Date(0) }]),
  )
  t.equal(await staged.receive(), 'b×1 c×1')
  await readyAfter(t, staged, 1000, 'a×1')
})

void t.test('a nack without a delay rests as the backoff says', async (t) => {
  const staged = await withQueue({ backoff: { type: 'exponential', delayMs: 1000, maxMs: 3000 } })
  const { bench, mq } = staged
  await bench.complete(mq.send('orders', 'a'))
  for (const [times, restMs] of [1000, 2000, 3000, 3000].entries()) {
    const [message] = await bench.complete(mq.receive('orders'))
    t.equal(message!.deliveryCount, times + 1)
    await bench.complete(message!.nack({ reason: 'no disk' }))
    await bench.world.advance(restMs - 50)
    t.equal((await bench.complete(mq.receive('orders'))).length, 0)
    await bench.world.advance(100)
  }
  const [message] = await bench.complete(mq.receive('orders'))
  await bench.complete(message!.release())
  t.equal(await staged.receive(), 'a×5', 'a release rests not at all, and does not count')
})

void t.test('a delay holds across a planned stop', async (t) => {
  const staged = await withQueue()
  const { bench, mq } = staged
  await bench.complete(mq.send('orders', 'a', { delayMs: 60_000 }))
  await bench.complete(bench.broker.stop())
  await bench.restart()
  await bench.world.advance(30_000)
  t.strictSame(await staged.counts(), { ready: 0, leased: 0, delayed: 1 })
  t.equal(await staged.receive(), '')
  await bench.world.advance(31_000)
  t.equal(await staged.receive(), 'a×1')
})

void t.test('a delay may be longer than a timer can count', async (t) => {
  const { bench, mq, receive } = await withQueue()
  const days = 24 * 3_600_000
  await bench.complete(mq.send('orders', 'a', { delayMs: 30 * days }))
  for (const partition of bench.broker.internals.queues.get('orders')!.partitions) {
    t.equal(partition.leader.nextDueMs > 29 * days, true)
  }
  await bench.world.advance(120_000)
  t.equal(await receive(), '')
})

void t.test('a wall clock that is set forward ends delays within a minute', async (t) => {
  const { bench, mq, receive } = await withQueue()
  await bench.complete(mq.send('orders', 'a', { delayMs: 24 * 3_600_000 }))
  bench.process!.skewMs = 24 * 3_600_000
  await bench.world.advance(60_500)
  t.equal(await receive(), 'a×1')
})

void t.test('a message is delivered at the time that it names', async (t) => {
  const staged = await withQueue()
  const { bench, mq } = staged
  const deliverAt = new Date(bench.process!.env.clock.nowMs() + 5000)
  await bench.complete(mq.send('orders', 'a', { deliverAt }))
  await readyAfter(t, staged, 5000, 'a×1')
})

/** What the metrics of a broker say after something has happened to it. */
import { test, type Test } from 'tap'
import { Exposition } from '../../src/observe/exposition.ts'
import { writeMetrics } from '../../src/observe/metrics.ts'
import { BrokerBench } from '../broker/broker-bench.ts'
import { parseExposition } from './parse-exposition.ts'

const scrape = async (bench: BrokerBench) => {
  const out = new Exposition()
  await bench.complete(writeMetrics(bench.broker.measured, bench.process!.env.clock, out))
  return parseExposition(String(out))
}

async function value(bench: BrokerBench, sample: string): Promise<number | undefined> {
  for (const { samples } of (await scrape(bench)).values())
    if (samples.has(sample)) return samples.get(sample)
  return undefined
}

/** A broker with a queue in which three messages were sent in one batch. */
async function withMessages(_t: Test) {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 30_000 }))
  await bench.complete(mq.sendBatch('orders', [{ body: '1' }, { body: '2' }, { body: '3' }]))
  return { bench, mq }
}

test('messages are counted when they are sent, delivered and acked', async (t) => {
  const { bench, mq } = await withMessages(t)
  const messages = await bench.complete(mq.receive('orders', { max: 2 }))
  await bench.complete(messages[0]!.ack())
  t.equal(await value(bench, 'mq_sent_messages_total{queue="orders"}'), 3)
  t.equal(await value(bench, 'mq_delivered_messages_total{queue="orders"}'), 2)
  t.equal(await value(bench, 'mq_acked_messages_total{queue="orders"}'), 1)
  t.equal(await value(bench, 'mq_failed_deliveries_total{queue="orders"}'), 0)
})

test('a lease that runs out is a failed delivery', async (t) => {
  const { bench, mq } = await withMessages(t)
  await bench.complete(mq.receive('orders', { max: 2 }))
  await bench.world.advance(31_000)
  t.equal(await value(bench, 'mq_failed_deliveries_total{queue="orders"}'), 2)
})

test('a nack is a failed delivery and no ack; a release is neither', async (t) => {
  const { bench, mq } = await withMessages(t)
  const messages = await bench.complete(mq.receive('orders', { max: 3 }))
  await bench.complete(Promise.all([messages[0]!.nack(), messages[1]!.nack(), messages[2]!.release()]))
  t.equal(await value(bench, 'mq_failed_deliveries_total{queue="orders"}'), 2)
  t.equal(await value(bench, 'mq_acked_messages_total{queue="orders"}'), 0)
})

test('what is pushed to a consumer is timed as what is received is', async (t) => {
  const { bench, mq } = await withMessages(t)
  const loop = mq.consume('orders')
  await bench.complete(loop.next())
  t.equal(await value(bench, 'mq_delivery_latency_seconds_count'), 1)
})

test('messages are told by their state', async (t) => {
  const { bench, mq } = await withMessages(t)
  await bench.complete(mq.receive('orders', { max: 2 }))
  const { samples } = (await scrape(bench)).get('mq_queue_messages')!
  t.strictSame(Object.fromEntries(samples), {
    'mq_queue_messages{queue="orders",state="ready"}': 1,
    'mq_queue_messages{queue="orders",state="leased"}': 2,
    'mq_queue_messages{queue="orders",state="delayed"}': 0,
    'mq_queue_messages{queue="orders",state="moving"}': 0,
    'mq_queue_messages{queue="orders",state="quarantined"}': 0,
  })
})

test('the age is that of the oldest message that is not settled, in whatever state it is', async (t) => {
  const { bench, mq } = await withMessages(t)
  const [oldest] = await bench.complete(mq.receive('orders', { max: 3, visibilityTimeoutMs: 3_600_000 }))
  await bench.world.advance(60_000)
  await bench.complete(mq.send('orders', 'young'))
  const age = 'mq_queue_oldest_age_seconds{queue="orders"}'
  t.equal(Math.round((await value(bench, age))!), 60)
  t.ok(oldest)
})

test('a queue without messages has no age', async (t) => {
  const { bench, mq } = await withMessages(t)
  for (const message of await bench.complete(mq.receive('orders', { max: 3 })))
    await bench.complete(message.ack())
  await bench.world.advance(60_000)
  t.equal(await value(bench, 'mq_queue_oldest_age_seconds{queue="orders"}'), 0)
})

test('the age outlives a restart of the broker', async (t) => {
  const { bench } = await withMessages(t)
  await bench.complete(bench.broker.stop())
  await bench.world.advance(60_000)
  await bench.restart()
  t.ok((await value(bench, 'mq_queue_oldest_age_seconds{queue="orders"}'))! >= 60)
})

test('a deleted queue has no series any more', async (t) => {
  const { bench, mq } = await withMessages(t)
  await bench.complete(mq.deleteQueue('orders'))
  const named = [...(await scrape(bench)).values()].flatMap(({ samples }) => [...samples.keys()])
  t.strictSame(
    named.filter((name) => name.includes('orders')),
    [],
  )
})

test('a batch is confirmed, committed and delivered once, however many messages it holds', async (t) => {
  const { bench, mq } = await withMessages(t)
  await bench.complete(mq.receive('orders', { max: 3 }))
  t.equal(await value(bench, 'mq_send_confirm_seconds_count'), 1)
  t.equal(await value(bench, 'mq_delivery_latency_seconds_count'), 1)
  t.ok((await value(bench, 'mq_commit_seconds_count'))! >= 1)
})

test('what is delivered again does not count as latency', async (t) => {
  const { bench, mq } = await withMessages(t)
  await bench.complete(mq.receive('orders', { max: 3 }))
  await bench.world.advance(31_000)
  await bench.complete(mq.receive('orders', { max: 3 }))
  t.equal(await value(bench, 'mq_delivery_latency_seconds_count'), 1)
})

test('a segment in which everything is settled is dead', async (t) => {
  const bench = await BrokerBench.serving({ segmentBytes: 50_000 })
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders'))
  await bench.complete(mq.send('orders', 'x'.repeat(60_000)))
  await bench.complete(mq.send('orders', 'x'))
  const dead = 'mq_segment_bytes{state="dead"}'
  t.equal(await value(bench, dead), 0)
  const messages = await bench.complete(mq.receive('orders', { max: 2 }))
  for (const message of messages) await bench.complete(message.ack())
  t.ok((await value(bench, dead))! > 60_000)
})

test('connections are counted while they are open', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  t.equal(await value(bench, 'mq_connections'), 1)
  await bench.complete(mq.close())
  await bench.world.advance(10)
  t.equal(await value(bench, 'mq_connections'), 0)
})

test('more queues than one turn looks at are all told', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  const names = Array.from({ length: 450 }, (_, i) => `q${i}`)
  await bench.complete(Promise.all(names.map((name) => mq.createQueue(name))))
  t.equal((await scrape(bench)).get('mq_sent_messages_total')!.samples.size, 450)
})

/** What an administrator does to a queue that is in use: change it, empty it, look into it. */
import { test } from 'tap'
import { startTestBroker } from '../../src/testing.ts'
import { BrokerBench } from './broker-bench.ts'

async function setUp(partitions = 1) {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 30_000, partitions }))
  const send = (...bodies: string[]) =>
    bench.complete(
      mq.sendBatch(
        'orders',
        bodies.map((body) => ({ body })),
      ),
    )
  const counts = async () => (await bench.complete(mq.describeQueue('orders'))).messages
  return { bench, mq, send, counts }
}

// ---- updateQueue

test('a queue that is changed has the options from the next delivery on', async (t) => {
  const { bench, mq, send, counts } = await setUp()
  await bench.complete(mq.updateQueue('orders', { visibilityTimeoutMs: 1000 }))
  await send('one')
  await bench.complete(mq.receive('orders'))
  await bench.world.advance(1100)
  t.equal((await counts()).ready, 1)
})

test('what is not named stays, and the answer tells all that is in force', async (t) => {
  const { bench, mq } = await setUp(2)
  const options = await bench.complete(mq.updateQueue('orders', { maxMessageBytes: 100 }))
  t.match(options, { partitions: 2, visibilityTimeoutMs: 30_000, maxMessageBytes: 100 })
  t.strictSame((await bench.complete(mq.describeQueue('orders'))).options, options)
})

test('a changed queue is changed after a restart too', async (t) => {
  const { bench, mq } = await setUp()
  await bench.complete(mq.updateQueue('orders', { visibilityTimeoutMs: 1000 }))
  await bench.restart()
  const { options } = await bench.complete(mq.describeQueue('orders'))
  t.equal(options.visibilityTimeoutMs, 1000)
})

test('a queue exists with the options that it has now', async (t) => {
  const { bench, mq } = await setUp()
  await bench.complete(mq.updateQueue('orders', { visibilityTimeoutMs: 1000 }))
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 1000 }))
  await t.rejects(bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 30_000 })), {
    code: 'QUEUE_EXISTS',
  })
})

test('partitions cannot be changed, and nothing else is then', async (t) => {
  const { bench, mq } = await setUp(2)
  for (const partitions of [1, 3]) {
    const update = mq.updateQueue('orders', { partitions, visibilityTimeoutMs: 1000 })
    await t.rejects(bench.complete(update), { code: 'UNSUPPORTED', details: { field: 'partitions' } })
  }
  const { options } = await bench.complete(mq.describeQueue('orders'))
  t.match(options, { partitions: 2, visibilityTimeoutMs: 30_000 })
})

test('an option out of its limits is named', async (t) => {
  const { bench, mq } = await setUp()
  await t.rejects(bench.complete(mq.updateQueue('orders', { visibilityTimeoutMs: 0 })), {
    code: 'INVALID_FIELD',
    details: { field: 'visibilityTimeoutMs' },
  })
})

test('a larger message passes once the limit is raised, for who raised it and for others', async (t) => {
  const { bench, mq } = await setUp()
  const other = await bench.connect()
  await bench.complete(mq.updateQueue('orders', { maxMessageBytes: 10 }))
  const large = () => bench.complete(other.send('orders', 'x'.repeat(100)))
  await t.rejects(large(), { code: 'MESSAGE_TOO_LARGE' })
  await bench.complete(mq.updateQueue('orders', { maxMessageBytes: 1000 }))
  await bench.complete(mq.send('orders', 'x'.repeat(100)))
  // Who knew the old limit refuses once, and looks again.
  await large().catch(() => undefined)
  t.match(await large(), { duplicate: false })
})

// ---- purgeQueue

test('a purge removes what is ready and what is leased, and says how much', async (t) => {
  const { bench, mq, send, counts } = await setUp()
  await send('1', '2', '3', '4')
  await bench.complete(mq.receive('orders', { max: 2 }))
  t.strictSame(await bench.complete(mq.purgeQueue('orders')), { messages: 4 })
  t.strictSame(await counts(), { ready: 0, leased: 0, delayed: 0 })
})

test('whoever has a purged message has lost it', async (t) => {
  const { bench, mq, send } = await setUp()
  await send('1')
  const [message] = await bench.complete(mq.receive('orders'))
  await bench.complete(mq.purgeQueue('orders'))
  await t.rejects(bench.complete(message!.ack()), { code: 'LEASE_LOST' })
})

test('what was purged does not come back when its lease would have ended, or after a crash', async (t) => {
  const { bench, mq, send, counts } = await setUp()
  await send('1', '2')
  await bench.complete(mq.receive('orders'))
  await bench.complete(mq.purgeQueue('orders'))
  await bench.world.advance(60_000)
  await bench.restart()
  t.strictSame(await counts(), { ready: 0, leased: 0, delayed: 0 })
})

test('what is sent after a purge stays', async (t) => {
  const { bench, mq, send } = await setUp()
  await send('old')
  await bench.complete(mq.purgeQueue('orders'))
  await send('new')
  const messages = await bench.complete(mq.receive('orders', { max: 10 }))
  t.strictSame(
    messages.map((message) => message.text()),
    ['new'],
  )
})

test('every partition is purged', async (t) => {
  const { bench, mq, send, counts } = await setUp(3)
  for (let i = 0; i < 9; i++) await send(`${i}`)
  t.strictSame(await bench.complete(mq.purgeQueue('orders')), { messages: 9 })
  t.equal((await counts()).ready, 0)
})

test('a dry run counts and removes nothing', async (t) => {
  const { bench, mq, send, counts } = await setUp()
  await send('1', '2', '3')
  await bench.complete(mq.receive('orders'))
  t.strictSame(await bench.complete(mq.purgeQueue('orders', { dryRun: true })), { messages: 3 })
  t.strictSame(await counts(), { ready: 2, leased: 1, delayed: 0 })
})

test('a purge of more pieces than one entry takes goes through all of them', async (t) => {
  const { bench, mq, counts } = await setUp()
  const bodies = Array.from({ length: 10_000 }, (_, i) => ({ body: `${i}` }))
  await bench.complete(mq.sendBatch('orders', bodies))
  // Every other message is leased for long, so that what is left is in five thousand pieces.
  for (let i = 0; i < 10; i++) {
    const messages = await bench.complete(mq.receive('orders', { max: 1000 }))
    const even = messages.filter((_, at) => at % 2 === 0)
    await bench.complete(Promise.all(even.map((message) => message.ack())))
  }
  t.strictSame(await bench.complete(mq.purgeQueue('orders')), { messages: 5000 })
  t.strictSame(await counts(), { ready: 0, leased: 0, delayed: 0 })
  const [partition] = bench.broker.internals.queues.get('orders')!.partitions
  partition!.leader.checkInvariants()
})

test('others are served while a purge goes on', async (t) => {
  const { bench, mq, send } = await setUp()
  await send('1')
  bench.world.setFaults({ diskLatencyMs: [1000, 1000] })
  const purged = bench.watch(mq.purgeQueue('orders'))
  await bench.complete(mq.describeQueue('orders'))
  t.equal(purged.state, 'pending')
})

test('a queue that is not there cannot be purged, changed or looked into', async (t) => {
  const { bench, mq } = await setUp()
  const calls: (() => Promise<unknown>)[] = [
    () => mq.purgeQueue('ordres'),
    () => mq.updateQueue('ordres', {}),
    () => mq.peek('ordres'),
  ]
  for (const call of calls) await t.rejects(bench.complete(call()), { code: 'QUEUE_NOT_FOUND' })
})

// ---- peek

test('a look shows the oldest messages in order and takes none', async (t) => {
  const { bench, mq, send, counts } = await setUp()
  await send('1', '2', '3')
  const seen = await bench.complete(mq.peek('orders', { max: 2 }))
  t.strictSame(
    seen.map((message) => message.text()),
    ['1', '2'],
  )
  t.strictSame(await counts(), { ready: 3, leased: 0, delayed: 0 })
})

test('a look tells what a consumer has, and how often each was delivered', async (t) => {
  const { bench, mq, send } = await setUp()
  await send('1', '2', '3')
  await bench.complete(mq.receive('orders', { max: 1 }))
  await bench.world.advance(31_000)
  await bench.complete(mq.receive('orders', { max: 2 }))
  const seen = await bench.complete(mq.peek('orders', { max: 10 }))
  t.strictSame(
    seen.map(({ state, deliveryCount }) => [state, deliveryCount]),
    [
      ['leased', 2],
      ['leased', 1],
      ['ready', 0],
    ],
  )
})

test('a look shows what was sent: id, headers and value', async (t) => {
  const { bench, mq } = await setUp()
  const receipt = await bench.complete(mq.send('orders', { cents: 7 }, { headers: { source: 'web' } }))
  const [seen] = await bench.complete(mq.peek('orders'))
  t.equal(seen!.id, receipt.id)
  t.strictSame(seen!.headers, { source: 'web' })
  t.strictSame(seen!.value(), { cents: 7 })
})

test('what was settled is not shown', async (t) => {
  const { bench, mq, send } = await setUp()
  await send('1', '2', '3')
  const messages = await bench.complete(mq.receive('orders', { max: 2 }))
  await bench.complete(messages[1]!.ack())
  const seen = await bench.complete(mq.peek('orders', { max: 10 }))
  t.strictSame(
    seen.map((message) => message.text()),
    ['1', '3'],
  )
})

test('a look at large messages shows as many as an answer takes, and always one', async (t) => {
  const { bench, mq } = await setUp()
  await bench.complete(mq.updateQueue('orders', { maxMessageBytes: 16 << 20 }))
  for (const mebibytes of [10, 1]) {
    await bench.complete(mq.send('orders', Buffer.alloc(mebibytes << 20)))
  }
  t.equal((await bench.complete(mq.peek('orders', { max: 10 }))).length, 1)
})

test('max is 1 to 1,000', async (t) => {
  const { bench, mq } = await setUp()
  for (const max of [0, 1001, 1.5]) {
    await t.rejects(bench.complete(mq.peek('orders', { max })), { code: 'INVALID_FIELD' })
  }
})

test('pages of queues are put together in order', async (t) => {
  await using broker = await startTestBroker({ clock: 'manual' })
  await using mq = await broker.connect()
  const names = Array.from({ length: 1005 }, (_, i) => `q${i}`)
  await Promise.all(names.map((name) => mq.createQueue(name)))
  const listed = await mq.listQueues()
  t.strictSame(
    listed.map(({ name }) => name),
    names.sort(),
  )
})

test('what is delayed is peeked at as delayed, and purged with the rest', async (t) => {
  const bench = await BrokerBench.serving()
  const client = await bench.connect()
  await bench.complete(client.createQueue('orders'))
  await bench.complete(client.send('orders', 'now'))
  await bench.complete(client.send('orders', 'later', { delayMs: 60_000 }))
  const peeked = await bench.complete(client.peek('orders', { max: 10 }))
  t.strictSame(
    peeked.map((message) => [message.text(), message.state]),
    [
      ['now', 'ready'],
      ['later', 'delayed'],
    ],
  )
  await bench.complete(client.purgeQueue('orders'))
  const { messages } = await bench.complete(client.describeQueue('orders'))
  t.strictSame(messages, { ready: 0, leased: 0, delayed: 0 })
  await bench.world.advance(120_000)
  t.strictSame(await bench.complete(client.receive('orders')), [])
})

test('a changed delay holds for what is sent from then on, a changed backoff for what fails', async (t) => {
  const { bench, mq, counts } = await setUp()
  await bench.complete(mq.send('orders', 'before'))
  await bench.complete(
    mq.updateQueue('orders', { delayMs: 60_000, backoff: { type: 'fixed', delayMs: 90_000 } }),
  )
  await bench.complete(mq.send('orders', 'after'))
  t.strictSame(await counts(), { ready: 1, leased: 0, delayed: 1 })
  const [before] = await bench.complete(mq.receive('orders'))
  await bench.complete(before!.nack())
  t.strictSame(await counts(), { ready: 0, leased: 0, delayed: 2 })
  await bench.world.advance(61_000)
  const [after] = await bench.complete(mq.receive('orders'))
  t.equal(after!.text(), 'after')
})

test('a dry run counts what is delayed, which a purge removes', async (t) => {
  const { bench, mq } = await setUp()
  await bench.complete(mq.send('orders', 'later', { delayMs: 60_000 }))
  t.strictSame(await bench.complete(mq.purgeQueue('orders', { dryRun: true })), { messages: 1 })
  t.strictSame(await bench.complete(mq.purgeQueue('orders')), { messages: 1 })
})

test('a purge is not answered before what others settled meanwhile is on the disk', async (t) => {
  const bench = await BrokerBench.serving()
  const [mq, other] = [await bench.connect(), await bench.connect()]
  for (const name of ['orders', 'others']) await bench.complete(mq.createQueue(name))
  await bench.complete(other.send('others', 'looked up'))
  await bench.complete(mq.send('orders', 'one'))
  const [message] = await bench.complete(mq.receive('orders'))
  // Its commit is under way when the purge comes, which waits for it; and so it is when the ack comes.
  bench.watch(other.send('others', 'two'))
  await bench.world.advance(0.5)
  const purged = bench.watch(mq.purgeQueue('orders'))
  bench.watch(message!.ack())
  bench.disk.nextCommit = 'stuck'
  await bench.world.advance(100)
  t.equal(purged.state, 'pending')
  await bench.restart()
  await bench.complete(mq.purgeQueue('orders'))
  await bench.restart()
  t.strictSame(await bench.complete(mq.receive('orders')), [])
})

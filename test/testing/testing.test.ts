/** A broker for users' tests: what needs no time goes on by itself, and what needs time waits for `advance`. */
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { connect } from '../../src/index.ts'
import { startTestBroker, type TestBrokerOptions } from '../../src/testing.ts'

async function started(t: Test, options: TestBrokerOptions = { clock: 'manual' }) {
  const broker = await startTestBroker(options)
  const mq = await broker.connect()
  t.teardown(async () => {
    await mq.close()
    await broker.close()
  })
  return { broker, mq }
}

for (const clock of ['manual', 'system'] as const) {
  test(`${clock} clock: a message is sent, received and acked without anybody moving time`, async (t) => {
    const { mq } = await started(t, { clock })
    await mq.createQueue('orders')
    await mq.send('orders', 'one')
    const [message] = await mq.receive('orders')
    await message!.ack()
    t.equal(message!.text(), 'one')
    t.equal((await mq.describeQueue('orders')).messages.ready, 0)
  })

  test(`${clock} clock: an application that connects by itself finds the broker by its address`, async (t) => {
    const { broker } = await started(t, { clock })
    const mq = await connect({ servers: broker.servers })
    await mq.createQueue('orders')
    t.equal((await mq.listQueues()).length, 1)
    await mq.close()
  })

  test(`${clock} clock: what was written to a directory is there for the next broker`, async (t) => {
    const dataDir = join(t.testdir(), 'data')
    const first = await startTestBroker({ clock, dataDir })
    const before = await first.connect()
    await before.createQueue('orders')
    await before.send('orders', 'one')
    await before.close()
    await first.close()
    const { mq } = await started(t, { clock, dataDir })
    const [message] = await mq.receive('orders')
    t.equal(message?.text(), 'one')
  })
}

test('a lease that nobody settles has ended when advance resolves', async (t) => {
  const { broker, mq } = await started(t)
  await mq.createQueue('orders', { visibilityTimeoutMs: 30_000 })
  await mq.send('orders', 'one')
  await mq.receive('orders')
  await broker.advance(29_999)
  t.strictSame((await mq.describeQueue('orders')).messages, { ready: 0, leased: 1, delayed: 0 })
  await broker.advance(1)
  t.strictSame((await mq.describeQueue('orders')).messages, { ready: 1, leased: 0, delayed: 0 })
})

test('on a real disk too a lease has ended, and its end is written, when advance resolves', async (t) => {
  const { broker, mq } = await started(t, { clock: 'manual', dataDir: join(t.testdir(), 'data') })
  await mq.createQueue('orders', { visibilityTimeoutMs: 30_000 })
  await mq.send('orders', 'one')
  await mq.receive('orders')
  await broker.advance(30_000)
  const [again] = await mq.receive('orders')
  t.equal(again?.deliveryCount, 2)
})

test('a worker that waits for a message gets on within advance, each time the moment it is due', async (t) => {
  const { broker, mq } = await started(t)
  await mq.createQueue('orders', { visibilityTimeoutMs: 10_000 })
  await mq.send('orders', 'one')
  const counts: number[] = []
  const worker = (async () => {
    while (counts.length < 3) {
      for (const message of await mq.receive('orders', { waitMs: 20_000 })) counts.push(message.deliveryCount)
    }
  })()
  await broker.advance(20_000)
  t.strictSame(counts, [1, 2, 3])
  await worker
})

test('a call times out when its time has been moved past', async (t) => {
  const { broker, mq } = await started(t)
  await mq.createQueue('orders')
  const waiting = mq.receive('orders', { waitMs: 20_000, timeoutMs: 5000 })
  const outcome = t.rejects(waiting, { code: 'TIMEOUT' })
  await broker.advance(5000)
  await outcome
})

test('hours pass without a connection being lost', async (t) => {
  const { broker, mq } = await started(t)
  let lost = 0
  mq.on('disconnect', () => lost++)
  await broker.advance(3 * 3_600_000)
  await mq.createQueue('orders')
  t.equal(lost, 0)
})

test('two advances are carried out one after the other', async (t) => {
  const { broker, mq } = await started(t)
  await mq.createQueue('orders', { visibilityTimeoutMs: 30_000 })
  await mq.send('orders', 'one')
  await mq.receive('orders')
  await Promise.all([broker.advance(15_000), broker.advance(15_000)])
  t.equal((await mq.describeQueue('orders')).messages.ready, 1)
})

test('two brokers in one process know nothing of each other', async (t) => {
  const a = await started(t)
  const b = await started(t)
  await a.mq.createQueue('orders')
  t.strictSame(await b.mq.listQueues(), [])
})

test('close may be called again, and nobody finds the broker any more', async (t) => {
  const broker = await startTestBroker({ clock: 'manual' })
  await broker.close()
  await broker.close()
  await t.rejects(connect({ servers: broker.servers, offline: 'fail' }), { code: 'DISCONNECTED' })
})

test('close ends although a client is still connected', async (t) => {
  const broker = await startTestBroker({ clock: 'manual' })
  const mq = await broker.connect()
  await broker.close()
  await mq.close()
  t.pass('closed')
})

test('await using closes it', async (t) => {
  const servers = await (async () => {
    await using broker = await startTestBroker({ clock: 'manual' })
    return broker.servers
  })()
  await t.rejects(connect({ servers, offline: 'fail' }), { code: 'DISCONNECTED' })
})

test('what cannot be meant is refused', async (t) => {
  await t.rejects(startTestBroker({ clock: 'fast' as 'manual' }), { code: 'INVALID_OPTION' })
  await t.rejects(startTestBroker({ clock: 'manual', dataDir: '' }), { code: 'INVALID_OPTION' })
  const { broker } = await started(t)
  for (const ms of [-1, NaN, Infinity]) await t.rejects(broker.advance(ms), { code: 'INVALID_OPTION' })
  const system = await started(t, { clock: 'system' })
  await t.rejects(system.broker.advance(1), { code: 'UNSUPPORTED' })
})

test('the clock is a manual one unless something else is said', async (t) => {
  const broker = await startTestBroker()
  const mq = await broker.connect()
  await mq.createQueue('orders')
  await mq.send('orders', 'tomorrow', { delayMs: 86_400_000 })
  await broker.advance(86_400_000)
  t.equal((await mq.receive('orders'))[0]?.text(), 'tomorrow')
  await broker.close()
})

for (const clock of ['manual', 'system'] as const) {
  test(`${clock} clock: the broker's clients end with it`, async (t) => {
    const broker = await startTestBroker({ clock })
    const mq = await broker.connect()
    const closed = new Promise<void>((resolve) => mq.on('close', resolve))
    await broker.close()
    await closed
    await t.rejects(mq.listQueues(), { code: 'CLOSED' })
  })
}

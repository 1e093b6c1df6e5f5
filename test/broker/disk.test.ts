import t from 'tap'
import type { MqError } from '../../src/errors.ts'
import { SimStore } from '../../src/sim/store.ts'
import type { LogOptions } from '../../src/storage/log.ts'
import { BrokerBench, codeOf } from './broker-bench.ts'

const stopTimeoutMs = 5000
/** With what closing takes: a second for the connections, a second for the disk. */
const stopMsMax = stopTimeoutMs + 2000

const noReserve = { reserveBytes: 0 }

async function withQueue(logOptions: Partial<LogOptions> = {}): Promise<{
  bench: BrokerBench
  client: Awaited<ReturnType<BrokerBench['connect']>>
}> {
  const bench = await BrokerBench.serving({ stopTimeoutMs, logOptions })
  const client = await bench.connect()
  await bench.complete(client.createQueue('orders'))
  return { bench, client }
}

void t.test('a stop while a queue is created', async (t) => {
  for (const afterMs of [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]) {
    await t.test(`after ${afterMs} ms`, async (t) => {
      const bench = await BrokerBench.serving({ stopTimeoutMs })
      const client = await bench.connect()
      const created = bench.watch(client.createQueue('orders', { timeoutMs: 30_000 }))
      await bench.world.advance(afterMs)
      const failed = bench.watch(bench.broker.failed)
      await bench.complete(bench.broker.stop())
      t.equal(failed.state, 'pending', 'is a planned one')
      t.strictSame(bench.logged, [])
      await bench.restart()
      await bench.world.advance(5000)
      t.equal(created.state, 'resolved', 'and the queue is there in the end')
      const client2 = await bench.connect()
      t.match(await bench.complete(client2.listQueues()), [{ name: 'orders' }])
    })
  }
})

void t.test('a commit of metadata', async (t) => {
  await t.test('that never ends is the failure of the disk', async (t) => {
    const { bench, client } = await withQueue()
    const failed = bench.watch(bench.broker.failed)
    bench.disk.nextCommit = 'stuck'
    const created = bench.watch(client.createQueue('bills', { timeoutMs: 300_000 }))
    await bench.world.advance(59_000)
    t.equal(failed.state, 'pending', 'once its time is over')
    await bench.world.advance(2000)
    t.match(failed.value, { code: 'STORAGE_FAILED' })
    t.equal(created.state, 'pending', 'and the client hears nothing: it may have been done')
  })
  await t.test('that fails is the failure of the disk', async (t) => {
    const { bench, client } = await withQueue()
    const failed = bench.watch(bench.broker.failed)
    bench.disk.nextCommit = 'storage-failed'
    bench.watch(client.deleteQueue('orders'))
    await bench.world.advance(100)
    t.match(failed.value, { code: 'STORAGE_FAILED' })
  })
  await t.test('that finds no room is refused, and the next one may succeed', async (t) => {
    const { bench, client } = await withQueue(noReserve)
    bench.disk.nextCommit = 'disk-full'
    const created = bench.watch(client.createQueue('bills'))
    await bench.world.advance(100)
    t.equal(codeOf(created), 'DISK_FULL')
    await bench.complete(client.createQueue('bills'))
    t.strictSame([...bench.broker.internals.queues.keys()], ['orders', 'bills'])
  })
})

void t.test('a start', async (t) => {
  const stopped = async (logOptions: Partial<LogOptions> = {}): Promise<BrokerBench> => {
    const { bench } = await withQueue(logOptions)
    await bench.complete(bench.broker.stop())
    return bench
  }
  await t.test('on a disk that never ends a commit fails', async (t) => {
    for (const commit of [1, 2]) {
      const bench = new BrokerBench(commit === 1 ? new SimStore() : (await stopped()).disk)
      const started = bench.watch(bench.start())
      if (commit === 2) await bench.world.advance(0.5)
      bench.disk.nextCommit = 'stuck'
      await bench.world.advance(70_000)
      t.equal(codeOf(started), 'STORAGE_FAILED')
    }
  })
  await t.test('on a full disk fails and says so', async (t) => {
    const bench = await stopped(noReserve)
    bench.disk.full = true
    const started = bench.watch(bench.start({ logOptions: noReserve }))
    await bench.world.advance(1000)
    t.equal(codeOf(started), 'DISK_FULL')
  })
  await t.test('on a disk that is full for the log alone fails and says so', async (t) => {
    const bench = await stopped(noReserve)
    const started = bench.watch(bench.start({ logOptions: noReserve }))
    // The epoch is drawn; EPOCH_START is on its way.
    await bench.world.advance(1.5)
    bench.disk.full = true
    await bench.world.advance(1000)
    t.equal(codeOf(started), 'DISK_FULL')
    t.match((started.error as MqError).message, /disk is full/)
    t.strictSame(bench.logged, [], 'once')
    bench.disk.full = false
    await bench.complete(bench.start({ logOptions: noReserve }))
    t.pass('and succeeds once there is room: nothing was left open')
  })
})

void t.test('a stop during a commit that never ends', async (t) => {
  for (const what of ['of the log', 'of metadata'] as const) {
    await t.test(what, async (t) => {
      const { bench, client } = await withQueue()
      bench.disk.nextCommit = 'stuck'
      if (what === 'of the log') bench.watch(client.send('orders', 'one'))
      else bench.watch(client.createQueue('bills'))
      await bench.world.advance(10)
      const failed = bench.watch(bench.broker.failed)
      const stopped = bench.watch(bench.broker.stop())
      await bench.world.advance(stopMsMax)
      t.equal(stopped.state, 'resolved', 'is over in time')
      t.match(failed.value, { code: 'STORAGE_FAILED' }, 'and told as a failure, which ends the process')
      await bench.restart()
      t.pass('the next start finds all that was confirmed')
    })
  }
})

void t.test('a disk that is full but for the reserve', async (t) => {
  const logOptions = { reserveBytes: 20_000, fullRetryMs: 100 }
  const filled = async () => {
    const { bench, client } = await withQueue(logOptions)
    await bench.complete(client.createQueue('bills'))
    for (let i = 0; i < 10; i++) await bench.complete(client.send('orders', `${i}`))
    const messages = await bench.complete(client.receive('orders', { max: 5 }))
    bench.disk.full = true
    return { bench, client, messages }
  }
  const found = async ({ bench, client }: Awaited<ReturnType<typeof filled>>) => {
    // What finds it out is taken all the same.
    t.match(await bench.complete(client.send('orders', 'finds out')), { confirm: 'replicas' })
    await bench.world.advance(10)
  }

  await t.test('takes what was on its way, and refuses sends from then on', async (t) => {
    const staged = await filled()
    const { bench, client } = staged
    await found(staged)
    t.strictSame(bench.broker.readiness(), ['disk full'])
    await t.rejects(bench.complete(client.send('orders', 'more')), { code: 'DISK_FULL' })
    await t.rejects(bench.complete(client.createQueue('more')), { code: 'DISK_FULL' })
    t.ok(bench.logged.includes('the disk is full: sends are refused until there is room'))
  })
  await t.test('takes acks, nacks, purges and deletions', async (t) => {
    const staged = await filled()
    const { bench, client, messages } = staged
    await found(staged)
    await bench.complete(messages[0]!.ack())
    await bench.complete(messages[1]!.nack())
    t.equal((await bench.complete(client.receive('orders', { max: 3 }))).length, 3)
    await bench.complete(client.deleteQueue('bills'))
    t.equal(await bench.complete(client.purgeQueue('orders')).then(({ messages }) => messages), 10)
  })
  await t.test('takes a deletion that finds it out', async (t) => {
    const { bench, client } = await filled()
    await bench.complete(client.deleteQueue('bills'))
    await bench.world.advance(10)
    await t.rejects(bench.complete(client.send('orders', 'more')), { code: 'DISK_FULL' })
  })
  await t.test('is recovered from when there is room again', async (t) => {
    const staged = await filled()
    const { bench, client } = staged
    await found(staged)
    bench.disk.full = false
    await bench.world.advance(200)
    t.strictSame(bench.broker.readiness(), [])
    await bench.complete(client.send('orders', 'more'))
    t.equal(bench.disk.reservedBytes, logOptions.reserveBytes, 'and there is a reserve again')
    t.ok(bench.logged.length === 1)
  })
  await t.test('is started on, and drained', async (t) => {
    const staged = await filled()
    const { bench, client } = staged
    await found(staged)
    bench.disk.full = false
    await bench.world.advance(200)
    bench.disk.full = true
    await bench.restart({ logOptions })
    t.strictSame(bench.broker.readiness(), ['disk full'])
    await t.rejects(bench.complete(client.send('orders', 'more')), { code: 'DISK_FULL' })
    const messages = await bench.complete(client.receive('orders', { max: 20 }))
    for (const message of messages) await bench.complete(message.ack())
    t.equal(messages.length, 11)
  })
  await t.test('stops as planned', async (t) => {
    const staged = await filled()
    const { bench, messages } = staged
    await found(staged)
    const failed = bench.watch(bench.broker.failed)
    await bench.complete(bench.broker.stop())
    t.equal(failed.state, 'pending')
    bench.disk.full = false
    await bench.restart({ logOptions })
    await bench.complete(messages[0]!.ack())
  })
})

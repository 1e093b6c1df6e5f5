import t from 'tap'
import type { MqError } from '../../src/errors.ts'
import { SimStore } from '../../src/sim/store.ts'
import { BrokerBench, codeOf } from './broker-bench.ts'

const stopTimeoutMs = 5000
/** With what closing takes: a second for the connections, a second for the disk. */
const stopMsMax = stopTimeoutMs + 2000

async function withQueue(): Promise<{
  bench: BrokerBench
  client: Awaited<ReturnType<BrokerBench['connect']>>
}> {
  const bench = await BrokerBench.serving({ stopTimeoutMs })
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
    const { bench, client } = await withQueue()
    bench.disk.nextCommit = 'disk-full'
    const created = bench.watch(client.createQueue('bills'))
    await bench.world.advance(100)
    t.equal(codeOf(created), 'DISK_FULL')
    await bench.complete(client.createQueue('bills'))
    t.strictSame([...bench.broker.internals.queues.keys()], ['orders', 'bills'])
  })
})

void t.test('a start', async (t) => {
  const stopped = async (): Promise<BrokerBench> => {
    const { bench } = await withQueue()
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
    const bench = await stopped()
    bench.disk.full = true
    const started = bench.watch(bench.start())
    await bench.world.advance(1000)
    t.equal(codeOf(started), 'DISK_FULL')
  })
  await t.test('on a disk that is full for the log alone fails and says so', async (t) => {
    const bench = await stopped()
    const started = bench.watch(bench.start())
    // The epoch is drawn; EPOCH_START is on its way.
    await bench.world.advance(1.5)
    bench.disk.full = true
    await bench.world.advance(1000)
    t.equal(codeOf(started), 'DISK_FULL')
    t.match((started.error as MqError).message, /disk is full/)
    t.strictSame(bench.logged, [], 'once')
    bench.disk.full = false
    await bench.complete(bench.start())
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

/** What a start must not cost: it may fail for a reason that has nothing to do with the data. */
import t from 'tap'
import { BrokerBench, codeOf } from './broker-bench.ts'

void t.test('a start whose address is taken leaves the leases of a planned stop to the next', async (t) => {
  const bench = await BrokerBench.serving()
  const client = await bench.connect()
  await bench.complete(client.createQueue('orders'))
  await bench.complete(client.send('orders', 'one'))
  const [message] = await bench.complete(client.receive('orders', { visibilityTimeoutMs: 600_000 }))
  await bench.complete(bench.broker.stop())
  bench.process!.crash()
  const other = bench.world.process('other')
  await bench.complete(other.env.network.listen({ host: 'broker', port: 7650 }, (socket) => socket.destroy()))
  const failed = bench.watch(bench.start())
  await bench.world.advance(10_000)
  t.equal(codeOf(failed), 'ADDRESS_IN_USE')
  other.crash()

  await bench.restart()
  const later = await bench.connect()
  t.strictSame(await bench.complete(later.receive('orders')), [], 'nobody else gets it')
  t.strictSame(await bench.complete(later.ack('orders', [message!.receipt])), [null])
})

void t.test(
  'a deletion that is sent again after its queue was created anew leaves the new one alone',
  async (t) => {
    const bench = await BrokerBench.serving()
    const client = await bench.connect()
    await bench.complete(client.createQueue('orders'))
    const deleted = bench.watch(client.deleteQueue('orders'))
    for (let i = 0; i < 1000 && bench.broker.internals.queues.has('orders'); i++)
      await bench.world.advance(0.01)
    t.equal(deleted.state, 'pending', 'its answer is still on the way')
    bench.process!.crash()
    await bench.restart()
    const other = await bench.connect()
    await bench.complete(other.createQueue('orders'))
    await bench.complete(other.send('orders', 'confirmed'))
    await bench.world.advance(5000)
    t.equal(deleted.state, 'resolved')
    t.equal((await bench.complete(other.receive('orders')))[0]?.text(), 'confirmed')
  },
)

void t.test(
  'one flipped bit of metadata ends the start: no queue is lost or renamed in silence',
  async (t) => {
    const bench = await BrokerBench.serving()
    const client = await bench.connect()
    await bench.complete(client.createQueue('orders'))
    await bench.complete(bench.broker.stop())
    bench.process!.crash()
    const meta = [...bench.disk.attach().links.segments].find(([name]) => name === 'meta')![1]
    const place = meta.keys.findIndex((key) => key.startsWith('queue/'))
    const value = meta.values[place]!
    for (let bit = 0; bit < 8 * value.length; bit++) {
      value[bit >> 3]! ^= 1 << (bit & 7)
      const started = bench.watch(bench.start())
      await bench.world.advance(1000)
      if (codeOf(started) !== 'CORRUPT_LOG') t.fail(`bit ${bit}: ${codeOf(started)}`)
      bench.process!.crash()
      value[bit >> 3]! ^= 1 << (bit & 7)
    }
  },
)

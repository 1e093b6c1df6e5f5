import t from 'tap'
import type { Message } from '../../src/client/message.ts'
import { BrokerBench } from './broker-bench.ts'

const textsOf = (messages: readonly Message[]): string[] => messages.map((message) => message.text())

void t.test('a batch that rots on the disk', async (t) => {
  const restarted = async (planned: boolean) => {
    // All is in the segment at once.
    const bench = await BrokerBench.serving({ logOptions: { journalBytes: 0 } })
    const client = await bench.connect()
    await bench.complete(client.createQueue('orders'))
    for (const text of ['first', 'second', 'third']) await bench.complete(client.send('orders', text))
    await bench.complete(client.close())
    if (planned) await bench.complete(bench.broker.stop())
    bench.rot('second')
    await bench.restart()
    return bench
  }
  const received = async (bench: BrokerBench) => {
    const client = await bench.connect()
    return textsOf(await bench.complete(client.receive('orders', { max: 10 })))
  }

  await t.test('before a crash is quarantined at the start', async (t) => {
    const bench = await restarted(false)
    const [partition] = bench.broker.internals.queues.get('orders')!.partitions
    t.equal(partition!.halted, null)
    t.equal(partition!.leader.state.quarantined.size, 1)
    t.strictSame(bench.logged, ['messages quarantined: their stored bytes do not verify'])
  })
  await t.test('before a crash is not served, and all others are', async (t) => {
    t.strictSame(await received(await restarted(false)), ['first', 'third'])
  })
  await t.test('and is quarantined before one more crash stays so', async (t) => {
    const bench = await restarted(false)
    await bench.restart()
    t.equal(bench.logged.length, 1, 'and is told once')
    t.strictSame(await received(bench), ['first', 'third'])
  })
  await t.test('below a checkpoint is found when it would be served', async (t) => {
    const bench = await restarted(true)
    t.strictSame(bench.logged, [])
    t.strictSame(await received(bench), ['first', 'third'])
    t.strictSame(bench.logged, ['messages quarantined: their stored bytes do not verify'])
  })
})

void t.test(
  'a rotten count that reaches over its neighbour in the record costs only its own message',
  async (t) => {
    const bench = await BrokerBench.serving()
    const [first, second, third] = [await bench.connect(), await bench.connect(), await bench.connect()]
    await bench.complete(first.createQueue('orders'))
    for (const client of [second, third]) await bench.complete(client.send('orders', 'warm'))
    // Both wait for the commit of what went before, so that they share a record.
    const sent = [
      first.send('orders', 'before'),
      second.send('orders', 'second'),
      third.send('orders', 'third'),
    ]
    await bench.complete(Promise.all(sent))
    for (const client of [first, second, third]) await bench.complete(client.close())
    await bench.complete(bench.broker.stop())
    const { values } = bench.disk.attach().links.segments.get('00000001')!
    const record = values
      .map((value) => Buffer.from(value.buffer, value.byteOffset, value.length))
      .find((bytes) => bytes.includes('second') && bytes.includes('third'))
    t.ok(record, 'they share a record')
    record![22]! ^= 1
    await bench.restart()
    const client = await bench.connect()
    const received = await bench.complete(client.receive('orders', { max: 10 }))
    const bodies = received.map((message) => message.text())
    t.ok(bodies.includes('third') || bodies.includes('second'), 'the neighbour is served')
    t.equal(bench.broker.internals.queues.get('orders')!.partitions[0]!.leader.state.quarantined.size, 1)
  },
)

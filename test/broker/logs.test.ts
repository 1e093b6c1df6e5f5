/** What the log answers: who came and went and why, what was refused, what was slow, what a start spent its time on. */
import { test } from 'tap'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import { connectWith } from '../../src/client/connect.ts'
import { BrokerBench } from './broker-bench.ts'

type Line = Record<string, unknown> & { message: string }

async function setUp(options: Partial<BrokerOptions> = {}) {
  const lines: Line[] = []
  const note = (fields: object, message: string): void => void lines.push({ ...fields, message })
  const bench = await BrokerBench.serving({
    ...options,
    log: { debug: note, info: note, warn: note, error: note },
  })
  const connect = async (name: string) => {
    const { env } = bench.world.process(name)
    const mq = await bench.complete(connectWith(env, { servers: ['broker:7650'], name }))
    return { mq, env }
  }
  const said = (message: string) => lines.filter((line) => line.message === message)
  return { bench, connect, said, lines }
}

test('who connects is named', async (t) => {
  const { connect, said } = await setUp()
  await connect('billing')
  t.match(said('client connected'), [{ client: 'billing', remote: /^billing:\d+$/ }])
})

test('who leaves in order is named, and how long it was there', async (t) => {
  const { bench, connect, said } = await setUp()
  const { mq } = await connect('billing')
  await bench.world.advance(5000)
  await bench.complete(mq.close())
  await bench.world.advance(10)
  t.match(said('client disconnected'), [{ client: 'billing' }])
  t.ok((said('client disconnected')[0]!['openMs'] as number) >= 5000)
})

test('who is cut off is named, and why', async (t) => {
  const { bench, connect, said } = await setUp()
  await connect('billing')
  bench.world.cut('billing', 'broker')
  await bench.world.advance(10)
  t.match(said('connection ended by an error'), [{ client: 'billing', code: 'DISCONNECTED' }])
})

test('a request that is refused is told with its code and reason', async (t) => {
  const { bench, connect, said } = await setUp()
  const { mq } = await connect('billing')
  await t.rejects(bench.complete(mq.describeQueue('nowhere')), { code: 'QUEUE_NOT_FOUND' })
  t.match(said('request refused'), [{ client: 'billing', code: 'QUEUE_NOT_FOUND', reason: /nowhere/ }])
})

test('a client that asks for what is not there over and over writes a bounded number of lines', async (t) => {
  const { bench, connect, lines } = await setUp()
  const { mq } = await connect('billing')
  await bench.complete(Promise.allSettled(Array.from({ length: 1000 }, () => mq.describeQueue('nowhere'))))
  t.ok(lines.length < 40, `${lines.length} lines`)
})

test('a client that makes and removes a queue over and over writes a bounded number of lines', async (t) => {
  const { bench, connect, lines } = await setUp()
  const { mq } = await connect('billing')
  for (let i = 0; i < 100; i++) {
    await bench.complete(mq.createQueue('orders'))
    await bench.complete(mq.deleteQueue('orders'))
  }
  t.ok(lines.length < 60, `${lines.length} lines`)
})

test('a commit that takes long is told, with what it wrote', async (t) => {
  const { bench, connect, said } = await setUp({ slowCommitMs: 500 })
  const { mq } = await connect('billing')
  await bench.complete(mq.createQueue('orders'))
  bench.world.setFaults({ diskLatencyMs: [700, 700] })
  await bench.complete(mq.send('orders', 'one'))
  t.match(said('slow commit'), [{ tookMs: 700, records: 1, bytes: Number }])
})

test('a start tells how long each of its phases took', async (t) => {
  const { said } = await setUp()
  const [line] = said('recovered')
  const phases = line!['phasesMs'] as Record<string, number>
  t.strictSame(Object.keys(phases), [
    'lock',
    'metadata',
    'epoch',
    'segments',
    'partitions',
    'firstCommit',
    'listen',
  ])
  t.ok(phases['epoch']! >= 1, 'a commit on this disk takes a millisecond')
})

test('who made a queue is named, with its options, once', async (t) => {
  const { bench, connect, said } = await setUp()
  const { mq } = await connect('billing')
  await bench.complete(mq.createQueue('orders', { partitions: 2 }))
  await bench.complete(mq.createQueue('orders', { partitions: 2 }))
  t.match(said('queue created'), [{ client: 'billing', queue: 'orders', options: { partitions: 2 } }])
})

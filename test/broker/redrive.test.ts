/** Redrives of hostile and unlucky clients, on the simulated world. */
import t from 'tap'
import { MqError } from '../../src/errors.ts'
import { redrive } from '../../src/broker/redrive.ts'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import { callsOf, endCounting } from '../calls.ts'
import { BrokerBench, gatedLink } from './broker-bench.ts'

/** Two messages of `orders` are in `orders.dlq`. */
async function withDeadLetters(brokerOptions: Partial<BrokerOptions> = {}, name = 'orders') {
  const bench = await BrokerBench.serving(brokerOptions)
  const mq = await bench.connect()
  await bench.complete(mq.createQueue(name, { maxDeliveries: 1 }))
  await bench.complete(mq.sendBatch(name, [{ body: 'a' }, { body: 'b' }]))
  for (const message of await bench.complete(mq.receive(name, { max: 2 })))
    await bench.complete(message.nack())
  await bench.world.advance(1000)
  const { queues, log } = bench.broker.internals
  const step = (queue: string, cursor: number[] | null) =>
    redrive(
      queues.get(queue)!,
      { op: 'redrive', id: 1, name: queue, to: null, max: 1000, dryRun: false, cursor },
      log,
      () => new MqError('QUEUE_DELETED', 'gone'),
      (other) => queues.get(other),
    )
  return { bench, mq, step, queues }
}

void t.test('a cursor that names no partition moves nothing', async (t) => {
  const { bench, step, queues } = await withDeadLetters()
  const dlq = queues.get('orders.dlq')!
  const { logEnd } = dlq.partitions[0]!.leader.state
  const rejections: unknown[] = []
  const note = (error: unknown): void => void rejections.push(error)
  process.on('unhandledRejection', note)
  await t.rejects(bench.complete(step('orders.dlq', [0, 0, logEnd, 99, 0, 1])), { code: 'INVALID_FIELD' })
  t.equal(dlq.partitions[0]!.leader.state.logEnd, logEnd)
  dlq.partitions[0]!.forwarder.close(Object.assign(new Error('x')) as never)
  await new Promise((resolve) => setImmediate(resolve))
  process.off('unhandledRejection', note)
  t.strictSame(rejections, [])
})

void t.test('queues with names of Object’s own', async (t) => {
  for (const name of ['constructor', 'toString']) {
    const { bench, mq } = await withDeadLetters({}, name)
    const redriven = await bench.complete(mq.redrive(`${name}.dlq`))
    t.equal(redriven.messages, 2)
    t.strictSame(Object.entries(redriven.targets), [[name, 2]])
  }
})

void t.test('a queue that is closed while its redrive begins is not one with nothing left', async (t) => {
  const { bench, step, queues } = await withDeadLetters()
  const begun = step('orders.dlq', null)
  queues.get('orders.dlq')!.partitions[0]!.close(new MqError('QUEUE_DELETED', 'gone'))
  await t.rejects(bench.complete(begun), { code: 'QUEUE_DELETED' })
})

void t.test('who redrives hears of it when what was moved has rotted', async (t) => {
  const gate = gatedLink()
  gate.isOpen = true
  const { bench, mq } = await withDeadLetters({ ...gate, logOptions: { journalBytes: 0 } })
  gate.isOpen = false
  const redriven = bench.watch(mq.redrive('orders.dlq'))
  await bench.world.advance(100)
  t.equal(redriven.state, 'pending')
  bench.rot('max-deliveries')
  gate.isOpen = true
  await bench.world.advance(20_000)
  t.equal(bench.broker.internals.queues.get('orders.dlq')!.partitions[0]!.leader.state.quarantined.size, 2)
  t.equal(redriven.state, 'resolved')
})

void t.test('what comes back since its target is gone does not count as redriven', async (t) => {
  const gate = gatedLink()
  gate.isOpen = true
  const { bench, mq } = await withDeadLetters(gate)
  gate.isOpen = false
  const redriven = bench.watch(mq.redrive('orders.dlq'))
  await bench.world.advance(100)
  await bench.complete(mq.deleteQueue('orders'))
  gate.isOpen = true
  await bench.world.advance(20_000)
  t.equal(bench.broker.internals.queues.get('orders.dlq')!.messages, 2)
  t.strictSame(redriven, { state: 'resolved', value: { messages: 0, skipped: 0, targets: {} } })
})

void t.test('what a halted partition would have to take stays where it is', async (t) => {
  const { bench, mq, queues } = await withDeadLetters()
  const [partition] = queues.get('orders')!.partitions
  Object.assign(partition!, { halted: new MqError('CORRUPT_LOG', 'halted') })
  const redriven = bench.watch(mq.redrive('orders.dlq'))
  await bench.world.advance(5000)
  t.match(redriven, { state: 'resolved', value: { messages: 0, skipped: 2 } })
})

void t.test('dead letters scattered over a large batch do not hold everybody up', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { maxDeliveries: 1 }))
  const bodies = Array.from({ length: 10_000 }, (_, i) => ({ body: 'x', headers: { trace: String(i) } }))
  await bench.complete(mq.sendBatch('orders', bodies))
  const settled: Promise<void>[] = []
  for (let taken = 0; taken < bodies.length; taken += 1000) {
    const messages = await bench.complete(mq.receive('orders', { max: 1000 }))
    settled.push(...messages.map((message, i) => (i % 2 === 0 ? message.ack() : message.deadLetter('why'))))
  }
  const calls = await callsOf(async () => {
    await bench.complete(Promise.all(settled))
    await bench.world.advance(2000)
  })
  endCounting()
  t.equal(bench.broker.internals.queues.get('orders.dlq')!.messages, 5000)
  const decoded = [...calls].find(([name]) => name.startsWith('wire/batch.ts decodeColumns'))
  // It took ten seconds when the columns were decoded for each.
  t.ok(decoded![1] > 0 && decoded![1] < 50, `columns are decoded ${decoded![1]} times`)
})

import t from 'tap'
import { BrokerBench } from '../broker/broker-bench.ts'

void t.test('a message whose handler did not wait for a settle that failed is delivered again', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  // It has no dead-letter queue.
  await bench.complete(mq.createQueue('orders', { visibilityTimeoutMs: 1000 }))
  const counts: number[] = []
  const errors: unknown[] = []
  mq.work('orders', (message) => {
    counts.push(message.deliveryCount)
    if (message.deliveryCount === 1) message.deadLetter('bad').catch((error: unknown) => errors.push(error))
  })
  await bench.complete(mq.send('orders', 'a'))
  await bench.world.advance(10_000)
  t.match(errors, [{ code: 'NO_DEAD_LETTER_QUEUE' }])
  t.strictSame(counts, [1, 2])
  t.equal(bench.broker.internals.queues.get('orders')!.messages, 0)
})

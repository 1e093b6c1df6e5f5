/** Dead letters from end to end: a real broker, the client and the command. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { connect, type Message, type MqClient } from '../../src/index.ts'
import { startTestBroker } from '../../src/testing.ts'
import { assertOneLine, startBroker } from './process.ts'

/** A broker of the command, and a client of it. */
async function started(t: Test) {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  const mq = await connect({ servers: broker.listen })
  t.teardown(() => mq.close())
  return { mq, run: (args: readonly string[]) => broker.run(args) }
}

/** One message of a queue, which comes soon. */
async function one(mq: MqClient, queue: string): Promise<Message> {
  const [message] = await mq.receive(queue, { waitMs: 20_000 })
  if (message === undefined) throw new Error(`nothing in ${queue}`)
  return message
}

const until = async (holds: () => Promise<boolean>): Promise<void> => {
  while (!(await holds()));
}

const readyIn = async (mq: MqClient, queue: string): Promise<number> =>
  (await mq.describeQueue(queue)).messages.ready

/** Sends and dead-letters so many, and waits until they are there. */
async function deadLetters(mq: MqClient, queue: string, count: number, partitions = 1): Promise<void> {
  await mq.createQueue(queue, { maxDeliveries: 1, partitions })
  await mq.sendBatch(
    queue,
    Array.from({ length: count }, (_, i) => ({ body: String(i) })),
  )
  let left = count
  for await (const batch of mq.consumeBatches(queue, { max: 500 })) {
    await batch.deadLetter('unreadable')
    left -= batch.messages.length
    if (left === 0) break
  }
  await until(async () => (await readyIn(mq, `${queue}.dlq`)) === count)
}

t.test('what fails too often goes to the dead-letter queue, is seen there, and comes back', async (t) => {
  const { mq, run } = await started(t)
  t.equal((await run(['queue', 'create', 'orders', '--max-deliveries', '2'])).code, 0)
  const { id } = await mq.send('orders', 'hello', { headers: { a: '1' } })
  await (await one(mq, 'orders')).nack({ reason: 'no stock' })
  await (await one(mq, 'orders')).nack({ reason: 'no\tdisk' })
  await until(async () => (await readyIn(mq, 'orders.dlq')) === 1)

  t.match((await run(['dlq', 'ls'])).stdout, /\norders\.dlq +1 +orders\n$/)
  const peeked = await run(['peek', 'orders.dlq'])
  t.match(peeked.stdout, /^ready\t0\torders\.dlq\/0\/\d+-\d+\tmax-deliveries in orders: no disk\thello\n$/)
  t.match(JSON.parse((await run(['peek', 'orders.dlq', '--json'])).stdout), [
    {
      body: 'hello',
      headers: {
        a: '1',
        'mq-dead-letter-reason': 'max-deliveries',
        'mq-dead-letter-error': 'no\tdisk',
        'mq-dead-letter-origin-queue': 'orders',
        'mq-dead-letter-origin-id': id,
        'mq-dead-letter-deliveries': '2',
        'mq-dead-letter-at': /^\d{4}-\d\d-\d\dT[\d:.]+Z$/,
      },
    },
  ])
  const received = JSON.parse((await run(['receive', 'orders.dlq', '--json'])).stdout)
  t.match(received, [{ headers: { 'mq-dead-letter-reason': 'max-deliveries' } }])
  // Only what is ready is redriven.
  t.equal((await run(['nack', received[0].receipt])).code, 0)

  t.strictSame(await run(['dlq', 'redrive', 'orders.dlq']), {
    code: 0,
    stdout: '1 message redriven to orders\n',
    stderr: '',
  })
  t.equal(await readyIn(mq, 'orders.dlq'), 0)
  const back = await one(mq, 'orders')
  t.match(back, { deliveryCount: 1, headers: { a: '1', 'mq-dead-letter-origin-queue': 'orders' } })
  t.equal(back.text(), 'hello')
  t.not(back.id, id, 'it is another message')
  await back.ack()
})

t.test('a lease that expires is a failed delivery too', async (t) => {
  const broker = await startTestBroker({ clock: 'manual' })
  t.teardown(() => broker.close())
  const mq = await broker.connect()
  await mq.createQueue('orders', { maxDeliveries: 1, visibilityTimeoutMs: 1000 })
  await mq.send('orders', 'hello')
  await mq.receive('orders')
  await broker.advance(2000)
  t.match(await mq.peek('orders.dlq'), [{ headers: { 'mq-dead-letter-reason': 'max-deliveries' } }])
  t.strictSame((await mq.describeQueue('orders')).messages, { ready: 0, leased: 0, delayed: 0 })
  await mq.close()
})

t.test('a consumer, a batch and a worker dead-letter by themselves', async (t) => {
  const broker = await startTestBroker({ clock: 'manual' })
  t.teardown(() => broker.close())
  const mq = await broker.connect()
  await mq.createQueue('orders', { deadLetterQueue: 'failed' })
  await mq.sendBatch(
    'orders',
    ['a', 'b', 'c', 'd', 'e'].map((body) => ({ body })),
  )
  const [a] = await mq.receive('orders')
  await a!.deadLetter('unreadable')
  await t.rejects(a!.ack(), { code: 'LEASE_LOST' })
  await t.rejects(a!.deadLetter(), { code: 'LEASE_LOST' })
  for await (const batch of mq.consumeBatches('orders', { max: 2 })) {
    await batch.deadLetter()
    break
  }
  mq.on('error', (error) => t.fail(String(error)))
  const worker = mq.work('orders', async (message) => {
    if (message.text() === 'd') await message.deadLetter('x'.repeat(1024))
  })
  await broker.advance(1000)
  await worker.close()
  t.strictSame(
    (await mq.peek('failed', { max: 10 })).map(({ body, headers }) => [
      Buffer.from(body).toString(),
      headers['mq-dead-letter-reason'],
      headers['mq-dead-letter-error']?.length,
      headers['mq-dead-letter-deliveries'],
    ]),
    [
      ['a', 'rejected', 10, '1'],
      ['b', 'rejected', undefined, '1'],
      ['c', 'rejected', undefined, '1'],
      ['d', 'rejected', 1024, '1'],
    ],
  )
  t.strictSame((await mq.describeQueue('orders')).messages, { ready: 0, leased: 0, delayed: 0 })
  await mq.close()
})

t.test('without a dead-letter queue nothing is done, and the lease stays', async (t) => {
  const { mq } = await started(t)
  await mq.createQueue('orders')
  await mq.send('orders', 'hello')
  const message = await one(mq, 'orders')
  await t.rejects(message.deadLetter(), { code: 'NO_DEAD_LETTER_QUEUE', outcome: 'failed' })
  await message.ack()
})

t.test('redrive: dry run, limit, another queue, and what stays', async (t) => {
  const { mq, run } = await started(t)
  await deadLetters(mq, 'orders', 10)
  await mq.send('orders.dlq', 'came from nowhere')
  const json = async (...args: string[]) =>
    JSON.parse((await run(['dlq', 'redrive', 'orders.dlq', '--json', ...args])).stdout)
  const name = 'orders.dlq'
  t.strictSame(await json('--dry-run'), {
    name,
    messages: 10,
    skipped: 1,
    targets: { orders: 10 },
    dryRun: true,
  })
  t.equal(await readyIn(mq, name), 11)
  t.strictSame(await json('--max', '4'), {
    name,
    messages: 4,
    skipped: 0,
    targets: { orders: 4 },
    dryRun: false,
  })
  await mq.createQueue('later')
  t.match(await json('--max', '3', '--to', 'later'), { messages: 3, targets: { later: 3 } })
  t.strictSame(
    (await mq.peek('later', { max: 10 })).map((message) => message.text()),
    ['4', '5', '6'],
    'in the order of the log',
  )
  await mq.deleteQueue('orders')
  const rest = await run(['dlq', 'redrive', name])
  t.match(rest.stdout, /^0 messages of queue orders\.dlq redriven\n4 messages stayed in orders\.dlq: /)
  const missing = await run(['dlq', 'redrive', name, '--to', 'nowhere'])
  t.equal(missing.code, 1)
  assertOneLine(t, missing.stderr, /\(QUEUE_NOT_FOUND\)/)
  const unknown = await run(['dlq', 'redrive', 'ordres.dlq'])
  t.equal(unknown.code, 1)
  assertOneLine(t, unknown.stderr, /orders\.dlq.*\(QUEUE_NOT_FOUND\)/)
})

t.test('redrive of many, over several partitions and steps, each once', async (t) => {
  const { mq } = await started(t)
  await deadLetters(mq, 'orders', 5000, 3)
  t.strictSame(await mq.redrive('orders.dlq'), { messages: 5000, skipped: 0, targets: { orders: 5000 } })
  t.equal(await readyIn(mq, 'orders.dlq'), 0)
  const bodies: string[] = []
  for await (const batch of mq.consumeBatches('orders')) {
    bodies.push(...batch.messages.map((message) => message.text()))
    await batch.ack()
    if (bodies.length >= 5000) break
  }
  t.equal(new Set(bodies).size, 5000)
})

t.test('what is dead-lettered again while it is redriven is not redriven again', async (t) => {
  const { mq } = await started(t)
  await deadLetters(mq, 'orders', 3000)
  const worker = mq.work('orders', (message) => message.deadLetter('again'), { concurrency: 100 })
  t.equal((await mq.redrive('orders.dlq')).messages, 3000)
  await until(async () => (await readyIn(mq, 'orders.dlq')) === 3000)
  await worker.close()
})

t.test('a paced redrive, on the moved clock', async (t) => {
  const broker = await startTestBroker({ clock: 'manual' })
  t.teardown(() => broker.close())
  const mq = await broker.connect()
  await mq.createQueue('orders', { maxDeliveries: 1 })
  await mq.sendBatch(
    'orders',
    Array.from({ length: 100 }, (_, i) => ({ body: String(i) })),
  )
  for (const message of await mq.receive('orders', { max: 100 })) await message.nack()
  await broker.advance(1000)
  const redriven = mq.redrive('orders.dlq', { ratePerSecond: 50 })
  await broker.advance(1000)
  const half = (await mq.describeQueue('orders')).messages.ready
  t.ok(half >= 50 && half <= 55, `${half} after a second`)
  await broker.advance(1500)
  t.equal((await redriven).messages, 100)
  await mq.close()
})

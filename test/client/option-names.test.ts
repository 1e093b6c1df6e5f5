/** Options that no call takes are refused by name: what is misspelt must not be ignored. */
import t from 'tap'
import type { MqClient } from '../../src/index.ts'
import { connect } from '../../src/index.ts'
import { startTestBroker } from '../../src/testing.ts'

/** As a program in JavaScript calls it. */
const loose = (options: object): never => options as never

const calls: [what: string, call: (mq: MqClient) => Promise<unknown>, says: string][] = [
  ['send', (mq) => mq.send('orders', 'x', loose({ delay: 1 })), "'delay': did you mean 'delayMs'?"],
  ['sendBatch', (mq) => mq.sendBatch('orders', [], loose({ timeout: 1 })), "did you mean 'timeoutMs'?"],
  ['receive', (mq) => mq.receive('orders', loose({ wait: 1 })), "'wait': did you mean 'waitMs'?"],
  ['ack', (mq) => mq.ack('orders', [], loose({ delayMs: 1 })), "'delayMs': there is signal, timeoutMs"],
  ['nack', (mq) => mq.nack('orders', [], loose({ delay: 1 })), "did you mean 'delayMs'?"],
  ['extend', (mq) => mq.extend('orders', [], loose({ ms: 1, timeout: 1 })), "did you mean 'timeoutMs'?"],
  ['redrive', (mq) => mq.redrive('orders', loose({ rate: 1 })), "did you mean 'ratePerSecond'?"],
  ['peek', (mq) => mq.peek('orders', loose({ maxMessages: 1 })), "no option 'maxMessages'"],
  ['purgeQueue', (mq) => mq.purgeQueue('orders', loose({ dryrun: true })), "did you mean 'dryRun'?"],
  ['deleteQueue', (mq) => mq.deleteQueue('orders', loose({ dryRun: true })), "no option 'dryRun'"],
  ['listQueues', (mq) => mq.listQueues(loose({ prefix: 'a' })), "no option 'prefix'"],
  ['describeQueue', (mq) => mq.describeQueue('orders', loose({ all: true })), "no option 'all'"],
  [
    'work',
    async (mq) => mq.work('orders', () => {}, loose({ concurency: 2 })),
    "'concurency': did you mean 'concurrency'?",
  ],
  ['consume', async (mq) => mq.consume('orders', loose({ max: 2 })), "no option 'max'"],
  ['consumeBatches', async (mq) => mq.consumeBatches('orders', loose({ batch: 2 })), "no option 'batch'"],
  ['connect', () => connect(loose({ server: '127.0.0.1:1' })), "did you mean 'servers'?"],
  [
    'connect with an address',
    () => connect('127.0.0.1:1' as never),
    'an object, such as { servers: … }, not a string',
  ],
]

t.test('each call refuses what it does not know, and names what may be meant', async (t) => {
  const broker = await startTestBroker()
  const mq = await broker.connect()
  await mq.createQueue('orders')
  for (const [what, call, says] of calls) {
    await t.rejects(
      call(mq),
      { code: 'INVALID_OPTION', outcome: 'failed', message: new RegExp(says.replaceAll('?', '\\?')) },
      what,
    )
  }
  t.equal((await mq.describeQueue('orders')).messages.ready, 0, 'and does nothing')
  await broker.close()
})

t.test('so does settling a message, which stays under its lease', async (t) => {
  const broker = await startTestBroker()
  const mq = await broker.connect()
  await mq.createQueue('orders')
  await mq.send('orders', 'x')
  const [message] = await mq.receive('orders')
  const refused = { code: 'INVALID_OPTION', message: /'delay': did you mean 'delayMs'\?/ }
  await t.rejects(message!.nack(loose({ delay: 1 })), refused)
  for (const settle of [
    message!.ack(loose({ reason: 'x' })),
    message!.release(loose({ reason: 'x' })),
    message!.deadLetter('x', loose({ reason: 'x' })),
    message!.extend(1000, loose({ reason: 'x' })),
  ]) {
    await t.rejects(settle, { code: 'INVALID_OPTION' })
  }
  await message!.ack()
  await broker.close()
})

t.test('of the entries of a batch, only the one that is wrong', async (t) => {
  const broker = await startTestBroker()
  const mq = await broker.connect()
  await mq.createQueue('orders')
  const results = await mq.sendBatch('orders', [{ body: 'a' }, loose({ body: 'b', delay: 1 }), { body: 'c' }])
  t.match(results, [{ id: String }, { code: 'INVALID_OPTION' }, { id: String }])
  await broker.close()
})

/** Dead letters by the command; what a redrive says and how it ends, against a server that answers as it is told. */
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import type { Listener, Network } from '../../src/env.ts'
import type { SimProcess } from '../../src/sim/world.ts'
import { systemClock } from '../../src/system.ts'
import type { Peeked, RedriveResult } from '../../src/wire/messages.ts'
import { peekedToResult } from '../../src/wire/codec.ts'
import { socketNetwork } from '../../src/wire/sockets.ts'
import { delivery, ScriptedServer } from '../client/scripted-server.ts'
import { assertOneLine, run, runOn, startBroker } from './process.ts'

/** A scripted server on a real socket. */
async function scripted(t: Test, ...results: (RedriveResult | (() => void))[]) {
  let listener: Listener | undefined
  const network: Network = {
    ...socketNetwork,
    listen: async (address, onSocket) =>
      (listener = await socketNetwork.listen({ ...address, port: 0 }, onSocket)),
  }
  const host = { name: '127.0.0.1', env: { clock: systemClock, network } }
  const server = new ScriptedServer(host as unknown as SimProcess, {})
  await server.listen()
  t.teardown(() => listener!.close())
  server.on.redrive = ({ id }, line) => {
    const result = results.shift()!
    if (typeof result === 'function') result()
    else line.send({ op: 'ok', id, result })
  }
  const address = `127.0.0.1:${listener!.address.port}`
  const environment = { MQ_SERVER: address }
  return { server, address, run: (...args: string[]) => run(args, { environment }) }
}

const last = (messages: number, over: Partial<RedriveResult> = {}): RedriveResult => ({
  messages,
  skipped: 0,
  targets: messages === 0 ? {} : { orders: messages },
  cursor: null,
  ...over,
})

t.test('the options are shown, and the queues that they lead to are listed with their sources', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  await broker.run(['queue', 'create', 'orders', '--max-deliveries', '3'])
  await broker.run(['queue', 'create', 'mails', '--max-deliveries', '1', '--dead-letter-queue', 'failed'])
  await broker.run(['queue', 'create', 'bills', '--dead-letter-queue', 'failed'])
  await broker.run(['queue', 'create', 'failed'])
  await broker.run(['queue', 'create', 'old.dlq'])
  await broker.run(['send', 'failed', 'hello'])

  const info = await broker.run(['queue', 'info', 'orders'])
  t.match(info.stdout, /\nmax-deliveries +3\ndead-letter-queue +orders\.dlq\n/)
  const bills = await broker.run(['queue', 'info', 'bills'])
  t.match(bills.stdout, /\nmax-deliveries +none\ndead-letter-queue +failed\n/)

  const ls = await broker.run(['dlq', 'ls'])
  t.equal(ls.code, 0)
  t.match(
    ls.stdout,
    /^NAME +MESSAGES +SOURCES\nfailed +1 +bills, mails\nold\.dlq +0 +none\norders\.dlq +0 +orders\n$/,
  )
  t.strictSame(JSON.parse((await broker.run(['dlq', 'ls', '--json'])).stdout), [
    { name: 'failed', messages: 1, sources: ['bills', 'mails'] },
    { name: 'old.dlq', messages: 0, sources: [] },
    { name: 'orders.dlq', messages: 0, sources: ['orders'] },
  ])

  const edit = await broker.run(['queue', 'edit', 'bills', '--max-deliveries', '7', '--json'])
  t.match(JSON.parse(edit.stdout).options, { maxDeliveries: 7, deadLetterQueue: 'failed' })
  const own = await broker.run(['queue', 'edit', 'bills', '--dead-letter-queue', 'bills'])
  t.equal(own.code, 1)
  assertOneLine(t, own.stderr, /deadLetterQueue: must be another queue.*\(INVALID_FIELD\)/)
})

t.test('without dead-letter queues there is only the head of the table', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  t.equal((await broker.run(['dlq', 'ls'])).stdout, 'NAME  MESSAGES  SOURCES\n')
  t.equal((await broker.run(['dlq', 'ls', '--json'])).stdout, '[]\n')
})

t.test('redrive says how many went where, and why some stayed', async (t) => {
  const step = last(1201, { targets: { orders: 1200, bills: 1 }, skipped: 2, cursor: [0, 1203, 1300] })
  const { run, server } = await scripted(t, step, last(7))
  t.strictSame(await run('dlq', 'redrive', 'orders.dlq'), {
    code: 0,
    stdout:
      '1 message redriven to bills\n1,207 messages redriven to orders\n' +
      '2 messages stayed in orders.dlq: the queue they came from is not known or not there, or takes none of their size\n',
    stderr: '',
  })
  t.match(server.all('redrive'), [
    { name: 'orders.dlq', to: null, max: 1000, dryRun: false, cursor: null },
    { cursor: [0, 1203, 1300] },
  ])
})

t.test('messages that name no queue that is there: that is said, and what to do', async (t) => {
  const { run } = await scripted(t, last(0, { skipped: 2 }))
  const { code, stdout } = await run('dlq', 'redrive', 'plain')
  t.equal(code, 0)
  t.match(stdout, /^0 messages .*\n2 messages stayed in plain: they name no queue that is there.*--to/)
})

t.test('redrive --json is one document; the flags are in the request', async (t) => {
  const { run, server } = await scripted(t, last(3))
  const flags = ['--to', 'orders', '--max', '5', '--rate', '100', '--dry-run', '--json']
  const { code, stdout } = await run('dlq', 'redrive', 'orders.dlq', ...flags)
  t.equal(code, 0)
  t.strictSame(JSON.parse(stdout), {
    name: 'orders.dlq',
    messages: 3,
    skipped: 0,
    targets: { orders: 3 },
    dryRun: true,
  })
  t.match(server.all('redrive'), [{ to: 'orders', max: 5, dryRun: true }])
})

t.test('redrive --dry-run says what would be', async (t) => {
  const { run } = await scripted(t, last(1, { skipped: 1 }), last(0))
  const some = await run('dlq', 'redrive', 'orders.dlq', '--dry-run')
  t.match(some.stdout, /^1 message would be redriven to orders\n1 message would stay in orders\.dlq: /)
  const none = await run('dlq', 'redrive', 'orders.dlq', '--dry-run')
  t.equal(none.stdout, '0 messages of queue orders.dlq would be redriven\n')
})

t.test('a redrive that fails on the way: 1, and one line that counts what is done', async (t) => {
  const { run, server } = await scripted(t)
  server.on.redrive = (frame, line) => {
    if (frame.cursor === null) line.send({ op: 'ok', id: frame.id, result: last(5, { cursor: [0, 5, 9] }) })
    else line.refuse(frame.id, 'QUEUE_DELETED')
  }
  const { code, stdout, stderr } = await run('dlq', 'redrive', 'orders.dlq')
  t.equal(code, 1)
  t.equal(stdout, '')
  assertOneLine(t, stderr, /says QUEUE_DELETED, after 5 messages redriven\. .* \(QUEUE_DELETED\)/)
})

t.test('an interrupt ends it between two steps: 130, and what was done is told', async (t) => {
  const { address, server } = await scripted(t)
  const child = runOn(t, ['dlq', 'redrive', 'orders.dlq', '--rate', '1', '--server', address])
  const stderr = text(child.stderr)
  const ended = once(child, 'close')
  server.on.redrive = ({ id }, line) => {
    line.send({ op: 'ok', id, result: last(600, { cursor: [0, 600, 900] }) })
    child.kill('SIGINT')
  }
  const [code] = await ended
  t.equal(code, 130)
  assertOneLine(t, await stderr, /interrupted, with 600 messages redriven from orders\.dlq/)
})

t.test('the step under way when the interrupt comes has its end', async (t) => {
  const { address, server } = await scripted(t)
  const child = runOn(t, ['dlq', 'redrive', 'orders.dlq', '--server', address])
  const stderr = text(child.stderr)
  const ended = once(child, 'close')
  server.on.redrive = ({ id }, line) => {
    // Once: a second one would end it at once, and the next step may have begun before it hears of the first.
    if (!child.killed) child.kill('SIGINT')
    line.send({ op: 'ok', id, result: last(600, { cursor: [0, 600, 900] }) })
  }
  t.equal((await ended)[0], 130)
  assertOneLine(t, await stderr, /interrupted, with [1-9][0-9,]* messages redriven from orders\.dlq/)
})

t.test('a lost answer with --max: nobody knows about the last step', async (t) => {
  const { run, server } = await scripted(t)
  server.on.redrive = (frame, line) => {
    if (frame.cursor === null) line.send({ op: 'ok', id: frame.id, result: last(5, { cursor: [0, 5, 9] }) })
    else line.end()
  }
  const { code, stderr } = await run('dlq', 'redrive', 'orders.dlq', '--max', '9')
  t.equal(code, 1)
  assertOneLine(t, stderr, /after 5 messages redriven\. The broker may have done it\. \(DISCONNECTED\)/)
})

t.test('long work tells how far it is', async (t) => {
  const { run } = await scripted(t, last(2, { cursor: [0, 2, 9] }), last(1, { cursor: [0, 3, 9] }), last(1))
  const { code, stderr } = await run('dlq', 'redrive', 'orders.dlq', '--rate', '2')
  t.equal(code, 0)
  t.match(stderr, /^(\d messages redriven\n)+$/)
})

t.test('a queue that is missing: 1', async (t) => {
  const { run, server } = await scripted(t)
  server.on.redrive = ({ id }, line) => line.refuse(id, 'QUEUE_NOT_FOUND')
  const { code, stderr } = await run('dlq', 'redrive', 'orders.dlq')
  t.equal(code, 1)
  assertOneLine(t, stderr, /\(QUEUE_NOT_FOUND\)/)
})

t.test('peek tells of a dead letter why it is there; --json has all its headers', async (t) => {
  const { run, server } = await scripted(t)
  const headers = {
    'mq-dead-letter-reason': 'max-deliveries',
    'mq-dead-letter-error': 'no\tdisk\nleft',
    'mq-dead-letter-origin-queue': 'orders',
  }
  const rejected = { 'mq-dead-letter-reason': 'rejected', 'mq-dead-letter-origin-queue': 'bills' }
  const { partition, epoch, base, sentAtMs, crc, batch } = delivery(0, [
    { body: 'a', attributes: { headers } },
    { body: 'b', attributes: { headers: rejected } },
    'c',
  ])
  const peeked: Peeked = { partition, epoch, base, sentAtMs, deliveries: 0, state: 'ready', crc, batch }
  server.on.peek = ({ id }, line) => line.send({ op: 'ok', id, result: peekedToResult([peeked]) })
  const lines = (await run('peek', 'orders.dlq')).stdout.split('\n').map((line) => line.split('\t').slice(3))
  t.strictSame(lines, [
    ['max-deliveries in orders: no disk\\nleft', 'a'],
    ['rejected in bills', 'b'],
    ['-', 'c'],
    [],
  ])
  t.match(JSON.parse((await run('peek', 'orders.dlq', '--json')).stdout), [{ body: 'a', headers }])
})

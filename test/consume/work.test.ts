/** Workers: what a handler's end means, and how a worker ends. */
import { test } from 'tap'
import type { Message } from '../../src/client/message.ts'
import type { WorkOptions } from '../../src/client/worker.ts'
import { delivery, stage as scripted, watch } from '../client/scripted-server.ts'
import { stage } from './stage.ts'

const numbers = (from: number, count: number) => Array.from({ length: count }, (_, i) => String(from + i))

/** A handler that ends when the test says so. */
class Handler {
  readonly calls: {
    body: string
    signal: AbortSignal
    resolve: () => void
    reject: (error: Error) => void
  }[] = []
  readonly run = (message: { text(): string }, { signal }: { signal: AbortSignal }): Promise<void> =>
    new Promise((resolve, reject) => this.calls.push({ body: message.text(), signal, resolve, reject }))
}

/** A worker whose subscription stands at a scripted server. */
async function working(options: WorkOptions & { batch?: undefined } = {}) {
  const staged = await scripted()
  const { mq, server, settle } = staged
  const handler = new Handler()
  const worker = mq.work('q', handler.run, options)
  await settle()
  server.on.cancel = ({ id }, line) => line.refuse(id, 'CANCELLED')
  const push = async (base: number, count: number, over = {}): Promise<void> => {
    const { id } = server.all('subscribe').at(-1)!
    server.line.send({ op: 'push', id, deliveries: [delivery(base, numbers(base, count), over)] })
    await settle()
  }
  const heard = () => server.heard.splice(0)
  heard()
  return { ...staged, worker, handler, push, heard }
}

test('as many handlers run as `concurrency` says; each end makes room', async (t) => {
  const { handler, push, settle, heard } = await working({ concurrency: 2 })
  await push(0, 4)
  t.strictSame(
    handler.calls.map(({ body }) => body),
    ['0', '1'],
  )
  handler.calls[1]!.resolve()
  await settle()
  t.strictSame(
    handler.calls.map(({ body }) => body),
    ['0', '1', '2'],
  )
  t.match(heard().join('\n'), /settle 0 #1 1:1/)
})

test('twice what handlers can be busy with is fetched by default', async (t) => {
  const { server } = await working({ concurrency: 16 })
  t.equal(server.all('subscribe')[0]!.messages, 32)
})

test('returning acks, throwing nacks with the reason', async (t) => {
  const { handler, push, settle, heard } = await working({ concurrency: 2 })
  await push(0, 2)
  handler.calls[0]!.reject(new Error('no stock'))
  handler.calls[1]!.resolve()
  await settle()
  t.match(heard().sort().join('\n'), /nack 0 #1 1:0 \{.*"reason":"no stock"\}[^]*settle 0 #2 1:1/)
})

test('what a handler settles by itself is not acked, nor nacked, when it ends', async (t) => {
  const { mq, server, settle } = await scripted()
  mq.on('error', (error) => t.fail(String(error)))
  const worker = mq.work('q', async (message) => {
    if (message.text() === '0') await message.deadLetter('unreadable')
    if (message.text() === '1') void message.deadLetter()
    if (message.text() === '2') {
      void message.deadLetter('unreadable')
      throw new Error('unreadable')
    }
  })
  await settle()
  server.heard.length = 0
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 4))] })
  await settle()
  t.strictSame(
    server.heard.filter((line) => !line.includes('credit')),
    [
      '1: dead-letter 0 #1 1:0 {"delayMs":null,"reason":"unreadable"}',
      '1: dead-letter 0 #2 1:1',
      '1: dead-letter 0 #3 1:2 {"delayMs":null,"reason":"unreadable"}',
      '1: settle 0 #4 1:3',
    ],
  )
  await worker.close()
})

test('of a batch, the handler dead-letters some and the others are acked', async (t) => {
  const { mq, server, settle } = await scripted()
  const handler = async (messages: Message[]) => messages[1]!.deadLetter()
  mq.work('q', handler, { batch: 3 })
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 3))] })
  await settle()
  t.strictSame(
    server.heard.filter((line) => line.includes('#')),
    ['1: dead-letter 0 #1 1:1', '1: settle 0 #2 1:0 1:2'],
  )
})

test('a handler that may not dead-letter has failed: the message is nacked', async (t) => {
  const { mq, server, settle } = await scripted()
  server.on.settle = ({ id, action }, line) =>
    action === 3 ? line.refuse(id, 'NO_DEAD_LETTER_QUEUE') : line.send({ op: 'settled', id, refused: null })
  mq.work('q', (message) => message.deadLetter())
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, ['a'])] })
  await settle()
  t.strictSame(
    server.heard.filter((line) => line.includes('#')),
    ['1: dead-letter 0 #1 1:0', '1: nack 0 #2 1:0 {"delayMs":null,"reason":"says NO_DEAD_LETTER_QUEUE"}'],
  )
})

test('a reason has at most 1 KiB, whole characters', async (t) => {
  const { handler, push, settle, server } = await working()
  await push(0, 1)
  handler.calls[0]!.reject(new Error('é'.repeat(2000)))
  await settle()
  const { options } = server.all('settle')[0]!
  const reason = (options as { reason: string }).reason
  t.ok(Buffer.byteLength(reason) <= 1024 && Buffer.byteLength(reason) > 1000)
})

test('leases are renewed while handlers run and while messages wait for one', async (t) => {
  const { push, world, heard } = await working({ concurrency: 1 })
  await push(0, 2)
  await world.advance(100_000)
  const lines = heard()
  t.ok(lines.length >= 8 && lines.length <= 11, `${lines.length} in 100 s`)
  t.ok(lines.every((line) => line === '1: extend 0 by 30000 1:0-1'))
})

test('a lost lease aborts its handler’s signal, and no other’s', async (t) => {
  const { handler, push, world, server, settle } = await working({ concurrency: 2 })
  await push(0, 2)
  server.on.extend = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 1] })
  await world.advance(10_000)
  t.strictSame(
    handler.calls.map(({ signal }) => signal.aborted),
    [false, true],
  )
  t.match(handler.calls[1]!.signal.reason, { code: 'LEASE_LOST' })
  server.on.settle = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 1] })
  handler.calls[1]!.resolve()
  await settle()
})

test('close lets handlers finish within graceMs, and releases what none has got', async (t) => {
  const { worker, handler, push, heard, settle, world } = await working({ concurrency: 1, graceMs: 5000 })
  await push(0, 2)
  const closed = watch(worker.close())
  await settle()
  t.strictSame(heard(), ['1: cancel', '1: release 0 #1 1:1'])
  await world.advance(4000)
  t.equal(closed.state, 'pending')
  t.equal(handler.calls[0]!.signal.aborted, false)
  handler.calls[0]!.resolve()
  await settle()
  t.equal(closed.state, 'resolved')
  t.strictSame(heard(), ['1: settle 0 #2 1:0'])
})

test('after graceMs the signal aborts, and what the handler then throws on is released', async (t) => {
  const { worker, handler, push, heard, settle, world } = await working({ concurrency: 1, graceMs: 5000 })
  await push(0, 1)
  const closed = watch(worker.close())
  await world.advance(5001)
  t.equal(closed.state, 'resolved')
  t.match(handler.calls[0]!.signal.reason, { code: 'ABORTED' })
  heard()
  handler.calls[0]!.reject(new Error('aborted'))
  await settle()
  t.strictSame(heard(), ['1: release 0 #1 1:0'])
})

test('the grace of a close counts before that of the worker; closing again is the same', async (t) => {
  const { worker, push, world } = await working({ graceMs: 60_000 })
  await push(0, 1)
  const closed = watch(worker.close({ graceMs: 0 }))
  await world.advance(10)
  t.equal(closed.state, 'resolved')
  t.equal(worker.close(), worker.close())
})

test('closing the client ends its workers: signals abort, nothing is thrown', async (t) => {
  const { mq, worker, handler, push, world } = await working({ concurrency: 1 })
  await push(0, 2)
  await world.complete(mq.close())
  t.match(handler.calls[0]!.signal.reason, { code: 'CLOSED' })
  handler.calls[0]!.resolve()
  await world.complete(worker.close())
  t.equal(handler.calls.length, 1)
  t.equal(worker.error, null)
})

test('a queue that is missing or deleted: the client’s `error` event, and worker.error', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(1)
  const codes: string[] = []
  mq.on('error', ({ code }) => codes.push(code))
  const missing = mq.work('none', () => undefined)
  const deleted = mq.work('q', () => new Promise(() => undefined))
  await it.wait(1000)
  t.equal(missing.error?.code, 'QUEUE_NOT_FOUND')
  await it.do(mq.deleteQueue('q'))
  await it.wait(1000)
  t.equal(deleted.error?.code, 'QUEUE_DELETED')
  t.strictSame(codes, ['QUEUE_NOT_FOUND', 'QUEUE_DELETED'])
  await it.do(missing.close())
})

test('arrays: what the handler returns is acked, the rest nacked; nothing returned acks all', async (t) => {
  const { mq, server, settle } = await scripted()
  mq.work('q', (messages) => (messages[0]!.text() === '0' ? [messages[1]] : undefined), { batch: 3 })
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 6))] })
  await settle()
  const said = server.heard.filter((line) => /settle|nack/.test(line)).join('\n')
  t.match(said, /nack 0 #\d 1:0 1:2 \{.*did not return it/)
  t.match(said, /settle 0 #\d 1:1 1:3-5/)
})

test('a worker does everything once, across a restart of the broker', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(500, { partitions: 3 })
  const got: string[] = []
  const worker = mq.work(
    'q',
    async (message) => {
      got.push(message.text())
      await it.sleep(10)
    },
    { concurrency: 10 },
  )
  await it.wait(200)
  t.ok(got.length > 20 && got.length < 400, `${got.length} by then`)
  await it.restart()
  await it.wait(5000)
  t.equal(got.length, 500)
  t.equal(new Set(got).size, 500)
  await it.do(worker.close())
  t.strictSame(await it.counts(mq), { ready: 0, leased: 0, delayed: 0 })
})

test('workers of several clients share the work', async (t) => {
  const it = await stage(t)
  const first = await it.queue(0)
  const clients = [first, await it.client('second'), await it.client('third')]
  const counts = clients.map(() => 0)
  const workers = clients.map((mq, i) => mq.work('q', () => void counts[i]!++, { concurrency: 4 }))
  await it.wait(100)
  await it.send(first, 0, 3000)
  await it.wait(10_000)
  t.equal(
    counts.reduce((sum, count) => sum + count),
    3000,
  )
  t.ok(
    counts.every((count) => count > 700),
    counts.join(', '),
  )
  for (const worker of workers) await it.do(worker.close())
})

test('a slow consumer does not hold a fast one, nor grow what is leased', async (t) => {
  const it = await stage(t)
  const fast = await it.queue(2000)
  const slow = await it.client('slow')
  const never = slow.work('q', () => new Promise(() => undefined), { concurrency: 5 })
  await it.wait(100)
  let done = 0
  const worker = fast.work('q', () => void done++, { concurrency: 50 })
  await it.wait(10_000)
  t.equal(done, 1990)
  t.strictSame(await it.counts(fast), { ready: 0, leased: 10, delayed: 0 })
  await it.do(worker.close())
  await it.do(never.close({ graceMs: 0 }))
})

/** Settling and extending: what goes together, and who is told what. */
import { test } from 'tap'
import type { MqError } from '../../src/errors.ts'
import type { Message } from '../../src/client/message.ts'
import { delivery, queueIdOf, stage, verdict, watch, type Frame, type Line } from './scripted-server.ts'
import { encodeReceipt } from '../../src/client/delivery-receipt.ts'

/** A client with messages 0 … count - 1 of queue `q` under lease 1. */
async function leased(count: number, ...options: Parameters<typeof stage>) {
  const staged = await stage(...options)
  const { server, world, mq } = staged
  const bodies = Array.from({ length: count }, (_, i) => String(i))
  server.on.receive = ({ id }, line) => line.send({ op: 'delivered', id, deliveries: [delivery(0, bodies)] })
  const messages = await world.complete(mq.receive('q', { max: 1000 }))
  delete server.on.receive
  server.heard.length = 0
  return { ...staged, messages }
}

const codes = (results: (MqError | null)[]) => results.map((each) => each?.code ?? 'ok')

test('the acks of one turn leave in one frame, as ranges; those of the next in another', async (t) => {
  const { messages, server, settle } = await leased(6)
  const ack = (i: number) => void messages[i]!.ack()
  for (const i of [0, 1, 2, 4]) ack(i)
  await settle()
  ack(5)
  await settle()
  t.strictSame(server.heard, ['1: settle 0 #1 1:0-2 1:4', '1: settle 0 #2 1:5'])
})

test('acks of several leases go together, each range under its own', async (t) => {
  const { mq, messages, server, settle, world } = await leased(2)
  server.on.receive = ({ id }, line) =>
    line.send({ op: 'delivered', id, deliveries: [delivery(2, ['c', 'd'], { lease: 2 })] })
  const more = await world.complete(mq.receive('q', { max: 2 }))
  server.heard.length = 0
  for (const message of [...messages, ...more]) void message.ack()
  await settle()
  t.strictSame(server.heard, ['1: settle 0 #1 1:0-1 2:2-3'])
})

test('acks of two partitions go to each', async (t) => {
  const { mq, server, settle, world } = await leased(1, { partitions: 2 })
  server.on.receive = ({ id }, line) =>
    line.send({ op: 'delivered', id, deliveries: [delivery(0, ['a']), delivery(0, ['b'], { partition: 1 })] })
  const messages = await world.complete(mq.receive('q', { max: 2 }))
  server.heard.length = 0
  for (const message of messages) void message.ack()
  await settle()
  t.strictSame(server.heard, ['1: settle 0 #1 1:0', '1: settle 1 #1 1:0'])
})

test('acks by receipt and by message share a frame', async (t) => {
  const { mq, messages, server, settle } = await leased(2)
  const [first, second] = messages as [Message, Message]
  const results = watch(mq.ack('q', [second.receipt]))
  await Promise.resolve()
  await Promise.resolve()
  void first.ack()
  await settle()
  t.equal(server.heard.length, 1)
  t.strictSame(results.value, [null])
})

test('LEASE_LOST goes to the messages that the answer names, and to no other', async (t) => {
  const { messages, server, settle } = await leased(5)
  server.on.settle = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 2, 4, 1] })
  const acks = messages.map((message) => watch(message.ack()))
  await settle()
  t.strictSame(acks.map(verdict), [
    'resolved',
    'LEASE_LOST failed',
    'LEASE_LOST failed',
    'resolved',
    'LEASE_LOST failed',
  ])
})

test('a receipt that is none, or another queue’s, is LEASE_LOST; the others go through', async (t) => {
  const { mq, messages, server, world } = await leased(1)
  const good = messages[0]!.receipt
  const foreign = encodeReceipt({
    queueId: queueIdOf('other'),
    partition: 0,
    leaseEpoch: 1,
    lease: 1,
    offset: 0,
  })
  const beyond = encodeReceipt({ queueId: queueIdOf('q'), partition: 9, leaseEpoch: 1, lease: 1, offset: 0 })
  const results = await world.complete(mq.ack('q', ['', 'r', good, foreign, beyond, 7 as unknown as string]))
  t.strictSame(codes(results), ['LEASE_LOST', 'LEASE_LOST', 'ok', 'LEASE_LOST', 'LEASE_LOST', 'LEASE_LOST'])
  t.strictSame(server.heard, ['1: settle 0 #1 1:0'])
})

test('the same receipt twice: the first is settled, the second has lost its lease', async (t) => {
  const { mq, messages, server, world } = await leased(1)
  const settled = new Set<number>()
  server.on.settle = ({ id, items }, line) => {
    const refused = items.filter(({ offset }) => settled.has(offset)).flatMap(({ offset }) => [offset, 1])
    for (const { offset } of items) settled.add(offset)
    line.send({ op: 'settled', id, refused: refused.length > 0 ? refused : null })
  }
  const { receipt } = messages[0]!
  t.strictSame(codes(await world.complete(mq.ack('q', [receipt, receipt]))), ['ok', 'LEASE_LOST'])
})

test('an old and a new receipt of one message have each their own answer', async (t) => {
  const { mq, server, world } = await leased(1)
  const refuseFirst = ({ id, items }: Frame<'settle'> | Frame<'extend'>, line: Line): void => {
    const refused = items.filter(({ lease }) => lease === 1).flatMap(({ offset }) => [offset, 1])
    line.send({ op: 'settled', id, refused: refused.length > 0 ? refused : null })
  }
  server.on.settle = server.on.extend = refuseFirst
  const receipts = [1, 2].map((lease) =>
    encodeReceipt({ queueId: queueIdOf('q'), partition: 0, leaseEpoch: 1, lease, offset: 0 }),
  )
  t.strictSame(codes(await world.complete(mq.extend('q', receipts, { ms: 1000 }))), ['LEASE_LOST', 'ok'])
  t.strictSame(codes(await world.complete(mq.ack('q', receipts))), ['LEASE_LOST', 'ok'])
})

test('any number of receipts goes in requests of a size that a broker takes', async (t) => {
  const { mq, server, world } = await leased(1)
  const receipts = Array.from({ length: 25_000 }, (_, i) =>
    encodeReceipt({ queueId: queueIdOf('q'), partition: 0, leaseEpoch: 1, lease: 1, offset: 2 * i }),
  )
  t.ok((await world.complete(mq.ack('q', receipts))).every((each) => each === null))
  t.ok((await world.complete(mq.extend('q', receipts, { ms: 1000 }))).every((each) => each === null))
  const sizes = [...server.all('settle'), ...server.all('extend')].map(({ items }) => items.length)
  t.ok(Math.max(...sizes) <= 10_000)
})

test('scattered acks without number leave no more requests unanswered than the broker takes', async (t) => {
  const { mq, server, settle } = await leased(1, { limits: { unansweredMax: 2 } })
  server.on.settle = () => undefined
  const receipts = Array.from({ length: 30_000 }, (_, i) =>
    encodeReceipt({ queueId: queueIdOf('q'), partition: 0, leaseEpoch: 1, lease: 1, offset: 2 * i }),
  )
  void mq.ack('q', receipts).catch(() => undefined)
  await settle()
  t.equal(server.all('settle').length, 2)
})

test('receipts must be a list', async (t) => {
  const { mq, messages, settle } = await leased(1)
  const { receipt } = messages[0]!
  const acked = watch(mq.ack('q', receipt as never))
  const extended = watch(mq.extend('q', receipt as never, { ms: 1 }))
  await settle()
  t.strictSame([acked, extended].map(verdict), ['INVALID_FIELD failed', 'INVALID_FIELD failed'])
})

test('a second ack() gives LEASE_LOST, while the first is under way and afterwards', async (t) => {
  const { messages, server, settle } = await leased(1)
  const message = messages[0]!
  const first = watch(message.ack())
  const second = watch(message.ack())
  await settle()
  const third = watch(message.ack())
  await settle()
  t.strictSame([first, second, third].map(verdict), ['resolved', 'LEASE_LOST failed', 'LEASE_LOST failed'])
  t.equal(server.heard.length, 1)
})

test('an ack() that failed can be tried again, and the broker has the word', async (t) => {
  const { messages, server, world, settle } = await leased(1)
  const message = messages[0]!
  server.on.settle = () => undefined
  const first = watch(message.ack({ timeoutMs: 100 }))
  await world.advance(101)
  t.equal(verdict(first), 'TIMEOUT unknown')
  server.on.settle = ({ id }, line) => line.send({ op: 'settled', id, refused: [0, 1] })
  const second = watch(message.ack())
  await settle()
  t.equal(verdict(second), 'LEASE_LOST failed')
})

test('an ack sent again after a cut has its sequence, and gets the first answer', async (t) => {
  const { messages, server, world, settle } = await leased(1)
  const outcomes = new Map<number, number[] | null>()
  server.on.settle = ({ id, sequence }, line) => {
    if (!outcomes.has(sequence)) {
      outcomes.set(sequence, null)
      world.cut('client', 'broker')
    } else line.send({ op: 'settled', id, refused: outcomes.get(sequence)! })
  }
  const acked = watch(messages[0]!.ack())
  await settle()
  t.equal(acked.state, 'resolved')
  t.strictSame(server.heard, ['1: settle 0 #1 1:0', '2: settle 0 #1 1:0'])
})

test('while requests of its partition are under way, an ack waits and grows with others', async (t) => {
  const { messages, server, settle } = await leased(30)
  server.on.settle = () => undefined
  for (const message of messages) {
    void message.ack().catch(() => undefined)
    await settle()
  }
  t.strictSame(server.heard, ['1: settle 0 #1 1:0', '1: settle 0 #2 1:1'])
  server.line.answer(server.all('settle')[0]!)
  await settle()
  t.strictSame(server.heard.slice(2), ['1: settle 0 #3 1:2-29'])
})

test('settles that are refused, repeated or given up leave room for the next', async (t) => {
  const { messages, server, settle } = await leased(20)
  const codes = ['NO_DEAD_LETTER_QUEUE', 'REFUSED_BEFORE', 'NO_DEAD_LETTER_QUEUE', 'REFUSED_BEFORE'] as const
  let asked = 0
  server.on.settle = (frame, line) => {
    const code = codes[asked++]
    if (code === undefined) line.answer(frame)
    else line.refuse(frame.id, code)
  }
  const refused: string[] = []
  for (const message of messages.slice(0, 4)) {
    const watched = watch(message.ack())
    await settle()
    refused.push(verdict(watched))
  }
  t.strictSame(refused, [
    'NO_DEAD_LETTER_QUEUE failed',
    'NO_DEAD_LETTER_QUEUE failed',
    'resolved',
    'resolved',
  ])

  const given: string[] = []
  for (const message of messages.slice(4, 8)) {
    const abort = new AbortController()
    const watched = watch(message.ack({ signal: abort.signal }))
    abort.abort()
    await settle()
    given.push(verdict(watched))
  }
  t.strictSame(given, Array<string>(4).fill('ABORTED failed'))

  const acked = watch(Promise.all(messages.slice(8).map((message) => message.ack())))
  await settle()
  t.equal(acked.state, 'resolved')
})

test('sends under way do not keep an ack from leaving', async (t) => {
  const { mq, messages, server, settle, world } = await leased(1)
  server.on.send = () => undefined
  for (let i = 0; i < 10; i++) {
    void mq.send('q', String(i)).catch(() => undefined)
    await settle()
  }
  server.heard.length = 0
  await world.complete(messages[0]!.ack())
  t.strictSame(server.heard, ['1: settle 0 #5 1:0'])
})

test('what is given up before it leaves is not asked for, and the others hear their own answers', async (t) => {
  const { messages, server, settle } = await leased(8)
  server.on.settle = () => undefined
  for (const i of [0, 1]) {
    void messages[i]!.ack()
    await settle()
  }
  server.heard.length = 0
  const abort = new AbortController()
  const acks = [5, 2, 3, 4, 7].map((i) => watch(messages[i]!.ack(i === 3 ? { signal: abort.signal } : {})))
  await settle()
  abort.abort()
  server.on.settle = ({ id }, line) => line.send({ op: 'settled', id, refused: [3, 2] })
  server.line.answer(server.all('settle')[0]!)
  await settle()
  t.strictSame(server.heard, ['1: settle 0 #3 1:5 1:2 1:4 1:7'])
  t.strictSame(acks.map(verdict), ['resolved', 'resolved', 'ABORTED failed', 'LEASE_LOST failed', 'resolved'])
})

test('acks of a queue that the client has forgotten still leave after a reconnection', async (t) => {
  const { mq, messages, world, settle } = await leased(1)
  await world.complete(mq.createQueue('q'))
  world.cut('client', 'broker')
  await world.advance(1)
  const acked = watch(messages[0]!.ack())
  await settle()
  t.equal(acked.state, 'resolved')
})

test('extend by message', async (t) => {
  const { messages, server, world, settle } = await leased(2)
  await world.complete(messages[1]!.extend(5000))
  t.strictSame(server.heard, ['1: extend 0 by 5000 1:1'])
  server.on.extend = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 1] })
  const lost = watch(messages[1]!.extend(5000))
  await settle()
  t.equal(verdict(lost), 'LEASE_LOST failed')
})

test('extend by receipts: one request for each partition, an outcome for each receipt', async (t) => {
  const { mq, server, world } = await leased(1, { partitions: 2 })
  const receipts = [0, 1, 0].map((partition, offset) =>
    encodeReceipt({ queueId: queueIdOf('q'), partition, leaseEpoch: 1, lease: 1, offset }),
  )
  server.on.extend = ({ id, partition }, line) =>
    partition === 0 ? line.send({ op: 'settled', id, refused: [2, 1] }) : line.refuse(id, 'CORRUPT_LOG')
  const results = await world.complete(mq.extend('q', [...receipts, 'none'], { ms: 2000 }))
  t.strictSame(codes(results), ['ok', 'CORRUPT_LOG', 'LEASE_LOST', 'LEASE_LOST'])
  t.strictSame(server.heard, ['1: extend 0 by 2000 1:0 1:2', '1: extend 1 by 2000 1:1'])
})

test('a lease can be extended by 1 ms to 12 hours', async (t) => {
  const { mq, messages, settle } = await leased(1)
  const message = messages[0]!
  for (const ms of [0, -1, 1.5, NaN, 12 * 3_600_000 + 1, '5' as unknown as number]) {
    const extended = watch(message.extend(ms))
    const byReceipt = watch(mq.extend('q', [message.receipt], { ms }))
    await settle()
    t.equal(verdict(extended), 'INVALID_FIELD failed', String(ms))
    t.equal(verdict(byReceipt), 'INVALID_FIELD failed', String(ms))
  }
})

test('what is not built yet is refused', async (t) => {
  const { messages, settle } = await leased(1)
  const message = messages[0]!
  const withOutputs = watch(message.ack({ outputs: [] }))
  await settle()
  t.equal(verdict(withOutputs), 'UNSUPPORTED failed')
  const acked = watch(message.ack())
  await settle()
  t.equal(acked.state, 'resolved', 'and changes nothing')
})

test('a queue that is gone is looked up anew after an ack or an extension', async (t) => {
  for (const op of ['ack', 'extend'] as const) {
    const { mq, messages, server, settle } = await leased(1)
    server.on.settle = ({ id }, line) => line.refuse(id, 'QUEUE_DELETED')
    server.on.extend = ({ id }, line) => line.refuse(id, 'QUEUE_DELETED')
    const called = watch(op === 'ack' ? messages[0]!.ack() : messages[0]!.extend(1000))
    await settle()
    t.equal(verdict(called), 'QUEUE_DELETED failed')
    void mq.send('q', 'a')
    await settle()
    t.equal(server.all('lookup').length, 2, op)
  }
})

/** What a consumer says to its broker: credit, renewals, giving back. */
import { test } from 'tap'
import type { MqError } from '../../src/errors.ts'
import type { ConsumeOptions } from '../../src/client/consumer.ts'
import { delivery, stage, verdict, watch, type Line, type ScriptedServer } from './scripted-server.ts'

const numbers = (from: number, count: number) => Array.from({ length: count }, (_, i) => String(from + i))

/** Messages in each SETTLE that a server has heard. */
function settledBy(server: ScriptedServer): number[] {
  return server.all('settle').map(({ items }) => items.reduce((sum, { count }) => sum + count, 0))
}

/** A loop over `q` whose subscription stands at a scripted server. */
async function subscribed(options: ConsumeOptions, ...rest: Parameters<typeof stage>) {
  const staged = await stage(...rest)
  const { mq, server, settle } = staged
  const loop = mq.consume('q', options)
  const first = watch(loop.next())
  await settle()
  const push = async (base: number, count: number, over = {}, line: Line = server.line): Promise<void> => {
    const { id } = server.all('subscribe').at(-1)!
    line.send({ op: 'push', id, deliveries: [delivery(base, numbers(base, count), over)] })
    await settle()
  }
  /** What was heard since the last call. */
  const heard = () => server.heard.splice(0)
  return { ...staged, loop, first, push, heard }
}

test('nothing is asked of the broker before the loop begins', async (t) => {
  const { mq, server, settle } = await stage()
  mq.consume('q')
  await settle()
  t.strictSame(server.frames, [])
})

test('credit: all of prefetch at first, then halves as messages are settled', async (t) => {
  const { loop, first, push, heard, world, settle } = await subscribed({ prefetch: 10 })
  t.strictSame(heard(), ['1: subscribe 10'])
  await push(0, 10)
  const messages = [first.value!.value!]
  for (let i = 1; i < 10; i++) messages.push((await world.complete(loop.next())).value!)
  await settle()
  t.strictSame(heard(), [], 'handing out gives nothing back')
  for (const message of messages.slice(0, 4)) void message.ack()
  await settle()
  t.strictSame(heard(), ['1: settle 0 #1 1:0-3'], 'less than half, while nobody waits')
  void messages[4]!.ack()
  await settle()
  t.strictSame(heard(), ['1: settle 0 #2 1:4', '1: credit 5'])
})

test('a loop that waits with all credit used up gets what little there is', async (t) => {
  const { loop, first, push, heard, world, settle } = await subscribed({ prefetch: 10 })
  await push(0, 10)
  const messages = [first.value!.value!]
  for (let i = 1; i < 10; i++) messages.push((await world.complete(loop.next())).value!)
  const next = watch(loop.next())
  heard()
  await world.complete(messages[3]!.ack())
  await settle()
  t.strictSame(heard(), ['1: settle 0 #1 1:3', '1: credit 1'])
  await push(10, 1, { lease: 2 })
  t.equal(next.value!.value!.text(), '10')
})

test('a loop that waits for nothing else lets its acks leave, and others have their turn, every thousand', async (t) => {
  const { loop, first, push, server, settle } = await subscribed({ prefetch: 5000 })
  await push(0, 2500)
  void first.value!.value!.ack()
  await settle()
  let seen = 1
  void (async () => {
    for await (const message of loop) {
      seen++
      void message.ack()
    }
  })()
  await settle()
  t.equal(seen, 2500)
  t.strictSame(settledBy(server), [1, 1000, 1000, 499])
})

test('batches: as many in a turn as make a thousand', async (t) => {
  const { mq, server, settle } = await stage()
  const loop = mq.consumeBatches('q', { max: 400, prefetch: 5000 })
  void (async () => {
    for await (const batch of loop) void batch.ack()
  })()
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 2500))] })
  await settle()
  t.strictSame(settledBy(server), [1200, 1200, 100])
})

test('a cut: subscribed again with what is not held, and what is held stays good', async (t) => {
  const { first, loop, push, heard, world, settle, server } = await subscribed({ prefetch: 10 })
  await push(0, 4)
  heard()
  world.cut('client', 'broker')
  await settle()
  t.strictSame(heard(), ['2: subscribe 6', '2: extend 0 by 30000 1:0-3'])
  await world.complete(first.value!.value!.ack())
  t.equal((await world.complete(loop.next())).value!.text(), '1')
  t.strictSame(heard(), ['2: settle 0 #1 1:0'])
  await push(4, 6, { lease: 2 }, server.line)
  for (let i = 2; i < 10; i++) t.equal((await world.complete(loop.next())).value!.text(), String(i))
})

test('after a crash of the broker, what it has leased anew is not handed out any more', async (t) => {
  const { loop, push, heard, world, settle, server } = await subscribed({ prefetch: 10 })
  await push(0, 4)
  heard()
  server.on.extend = ({ id }, line) => line.send({ op: 'settled', id, refused: [0, 4] })
  world.cut('client', 'broker')
  await settle()
  t.strictSame(heard(), ['2: subscribe 6', '2: extend 0 by 30000 1:0-3'])
  const next = watch(loop.next())
  await settle()
  t.equal(next.state, 'pending')
  await push(0, 1, { lease: 9 })
  t.equal(next.value!.value!.text(), '0')
})

test('a stopping broker: the loop goes on at the next', async (t) => {
  const { first, push, heard, server, settle, world } = await subscribed({ prefetch: 10 })
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'goAway', reason: 'stopping' })
  server.line.refuse(id, 'STOPPING')
  await world.advance(1000)
  t.strictSame(heard(), ['1: subscribe 10', '2: subscribe 10'])
  await push(0, 1)
  t.equal(first.value!.value!.text(), '0')
  await settle()
})

test('leases are renewed at a third of their length, those of a partition together', async (t) => {
  const { push, heard, world } = await subscribed({ prefetch: 10 })
  await push(0, 2)
  await push(2, 2, { lease: 2 })
  heard()
  await world.advance(9500)
  t.strictSame(heard(), ['1: extend 0 by 30000 1:0-1 2:2-3'])
  await world.advance(10_000)
  t.strictSame(heard(), ['1: extend 0 by 30000 1:0-1 2:2-3'])
})

test('a message that is settled is renewed no more, one whose ack failed is', async (t) => {
  const { first, loop, push, heard, world, server, settle } = await subscribed({ prefetch: 10 })
  await push(0, 3)
  await world.complete(first.value!.value!.ack())
  server.on.settle = () => undefined
  const acked = watch((await world.complete(loop.next())).value!.ack({ timeoutMs: 1 }))
  await settle()
  t.equal(verdict(acked), 'TIMEOUT unknown')
  heard()
  await world.advance(10_000)
  t.strictSame(heard(), ['1: extend 0 by 30000 1:1-2'])
})

test('two deliveries of one message are renewed in two requests', async (t) => {
  const { push, heard, world } = await subscribed({ prefetch: 10 })
  await push(0, 3)
  await push(1, 1, { lease: 2 })
  heard()
  await world.advance(10_000)
  t.strictSame(heard(), ['1: extend 0 by 30000 1:0-2', '1: extend 0 by 30000 2:1'])
})

test('a lease that is lost before its message is handed out: it is not, and its place is free', async (t) => {
  const { first, loop, push, heard, world, server } = await subscribed({ prefetch: 4 })
  await push(0, 4)
  heard()
  server.on.extend = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 2] })
  await world.advance(10_000)
  t.strictSame(heard(), ['1: extend 0 by 30000 1:0-3', '1: credit 2'])
  t.equal(first.value!.value!.text(), '0')
  t.equal((await world.complete(loop.next())).value!.text(), '3')
})

test('the refusal of an extension that a settle explains is no loss', async (t) => {
  const { first, push, heard, world, server, settle } = await subscribed({ prefetch: 4 })
  await push(0, 1)
  server.on.settle = () => undefined
  server.on.extend = ({ id }, line) => line.send({ op: 'settled', id, refused: [0, 1] })
  const acked = watch(first.value!.value!.ack())
  await world.advance(12_000)
  t.match(heard().join('\n'), /extend/)
  server.line.answer(server.all('settle')[0]!)
  await settle()
  t.equal(acked.state, 'resolved')
})

test('with no broker to renew them, leases are lost when they end', async (t) => {
  const { loop, first, push, heard, world, server } = await subscribed({ prefetch: 4 })
  await push(0, 4)
  server.on.extend = () => undefined
  server.on.hello = () => undefined
  world.cut('client', 'broker')
  await world.advance(35_000)
  delete server.on.hello
  heard()
  await world.advance(10_000)
  t.match(heard().join('\n'), /subscribe 4/)
  t.equal(first.value!.value!.text(), '0', 'it was handed out when it came')
  const next = watch(loop.next())
  await push(9, 1, { lease: 7 })
  t.equal(next.value!.value!.text(), '9', 'the others are not any more')
})

test('leaving the loop releases what was not handed out, and what comes until the broker has heard of it', async (t) => {
  for (const how of ['break', 'throw'] as const) {
    const { mq, server, settle } = await stage()
    const loop = (async () => {
      for await (const message of mq.consume('q', { prefetch: 10 })) {
        if (message.text() === '1') {
          if (how === 'throw') throw new Error('enough')
          break
        }
      }
    })()
    const left = watch(loop)
    await settle()
    const { id } = server.all('subscribe')[0]!
    server.on.cancel = (_, line) => {
      line.send({ op: 'push', id, deliveries: [delivery(4, numbers(4, 2), { lease: 2 })] })
      line.refuse(id, 'CANCELLED')
    }
    server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 4))] })
    await settle()
    t.equal(left.state, how === 'throw' ? 'rejected' : 'resolved')
    t.strictSame(server.heard.slice(1), ['1: cancel', '1: release 0 #1 1:2-3', '1: release 0 #2 2:4-5'], how)
  }
})

test('after the loop nothing is renewed', async (t) => {
  const { loop, push, heard, world } = await subscribed({ prefetch: 4 })
  await push(0, 4)
  await world.complete(loop.return())
  await world.advance(1000)
  heard()
  await world.advance(60_000)
  t.strictSame(heard(), [])
})

test('renew: false — handing out gives the place back, and the lease runs out', async (t) => {
  const { loop, first, push, heard, world } = await subscribed({ prefetch: 2, renew: false })
  await push(0, 2)
  t.equal(first.value!.value!.text(), '0')
  t.strictSame(heard(), ['1: subscribe 2', '1: credit 1'])
  await world.complete(loop.next())
  await world.advance(60_000)
  t.strictSame(heard(), ['1: credit 1'])
})

test('close ends a loop that waits, without an error, and releases', async (t) => {
  const { mq, loop, first, push, heard, world, server } = await subscribed({ prefetch: 4 })
  await push(0, 2)
  t.equal(first.state, 'resolved')
  server.on.cancel = ({ id }, line) => line.refuse(id, 'CANCELLED')
  heard()
  await world.complete(mq.close())
  t.strictSame(heard(), ['1: cancel', '1: release 0 #1 1:1'])
  t.strictSame(await world.complete(loop.next()), { value: undefined, done: true })
})

test('close and drain end a loop that found nothing yet, with a broker and without', async (t) => {
  for (const online of [true, false]) {
    for (const how of ['close', 'drain'] as const) {
      const { mq, world, server, settle } = await stage()
      server.on.lookup = () => undefined
      server.on.subscribe = () => undefined
      const next = watch(mq.consume('q').next())
      await settle()
      if (!online) {
        server.on.hello = () => undefined
        world.cut('client', 'broker')
        await settle()
      }
      const ended = watch(how === 'close' ? mq.close() : mq.drain())
      await settle()
      t.strictSame(next.value, { value: undefined, done: true }, `${how} ${online}`)
      t.equal(ended.state, 'resolved', `${how} ${online}`)
    }
  }
})

test('a signal ends the loop with ABORTED, and releases', async (t) => {
  const controller = new AbortController()
  const { loop, push, heard, settle } = await subscribed({ prefetch: 4, signal: controller.signal })
  await push(0, 2)
  heard()
  controller.abort()
  await settle()
  t.strictSame(heard(), ['1: cancel', '1: release 0 #1 1:1'])
  const next = watch(loop.next())
  await settle()
  t.equal(verdict(next), 'ABORTED failed')
  t.strictSame(await loop.next(), { value: undefined, done: true })
})

test('a damaged delivery is not handed out, is told, and costs no credit', async (t) => {
  const { mq, first, server, push, heard, settle } = await subscribed({ prefetch: 4 })
  const errors: string[] = []
  mq.on('error', ({ code }) => errors.push(code))
  const { id } = server.all('subscribe')[0]!
  heard()
  server.line.send({ op: 'push', id, deliveries: [delivery(0, ['a', 'b'], { crc: 1 })] })
  await settle()
  t.strictSame(errors, ['CORRUPT_BATCH'])
  t.strictSame(heard(), ['1: cancel', '1: subscribe 4'])
  await push(2, 1)
  t.equal(first.value!.value!.text(), '2')
})

test('a refusal that stays is thrown once; then the loop is over', async (t) => {
  for (const code of ['QUEUE_DELETED', 'QUEUE_NOT_FOUND', 'QUOTA_EXCEEDED'] as const) {
    const { loop, first, server, settle } = await subscribed({})
    server.line.refuse(server.all('subscribe')[0]!.id, code)
    await settle()
    t.equal((first.error as MqError).code, code)
    t.strictSame(await loop.next(), { value: undefined, done: true })
  }
})

test('options that cannot be meant are refused at once', async (t) => {
  const { mq } = await stage()
  for (const options of [
    { prefetch: 0 },
    { prefetch: 65_537 },
    { visibilityTimeoutMs: 0 },
    { prefetch: 1.5 },
  ]) {
    t.throws(() => mq.consume('q', options), { code: 'INVALID_FIELD' })
    t.throws(() => mq.consumeBatches('q', options), { code: 'INVALID_FIELD' })
    t.throws(() => mq.work('q', () => undefined, options), { code: 'INVALID_FIELD' })
  }
  t.throws(() => mq.consume('no such name!'), { code: 'INVALID_NAME' })
  t.throws(() => mq.consumeBatches('q', { max: 0 }), { code: 'INVALID_FIELD' })
  t.throws(() => mq.work('q', 7 as never), { code: 'INVALID_OPTION' })
  t.throws(() => mq.consume('q', { signal: AbortSignal.abort() }), { code: 'ABORTED' })
})

test('a batch is acked as a whole; LEASE_LOST of one is told, the others are settled', async (t) => {
  const { mq, server, settle, world } = await stage()
  const loop = mq.consumeBatches('q', { max: 3 })
  const first = watch(loop.next())
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 5))] })
  await settle()
  t.strictSame(
    first.value!.value!.messages.map((message) => message.text()),
    ['0', '1', '2'],
  )
  server.on.settle = ({ id: settleId }, line) => line.send({ op: 'settled', id: settleId, refused: [1, 1] })
  const acked = watch(first.value!.value!.ack())
  await settle()
  t.equal(verdict(acked), 'LEASE_LOST failed')
  delete server.on.settle
  const second = (await world.complete(loop.next())).value!
  t.equal(second.messages.length, 2)
  await world.complete(second.ack())
  t.strictSame(server.heard.slice(1), ['1: settle 0 #1 1:0-2', '1: settle 0 #2 1:3-4'])
})

test('a batch goes to the dead-letter queue as a whole', async (t) => {
  const { mq, server, settle, world } = await stage()
  const loop = mq.consumeBatches('q', { max: 3 })
  const first = watch(loop.next())
  await settle()
  const { id } = server.all('subscribe')[0]!
  server.line.send({ op: 'push', id, deliveries: [delivery(0, numbers(0, 3))] })
  await settle()
  const batch = first.value!.value!
  await t.rejects(batch.deadLetter('x'.repeat(1025)), { code: 'INVALID_FIELD' })
  await t.rejects(batch.nack({ delayMs: -1 }), { code: 'INVALID_FIELD' }, 'none of them throws')
  await world.complete(batch.deadLetter('unreadable'))
  t.strictSame(server.heard.slice(1), ['1: dead-letter 0 #1 1:0-2 {"delayMs":null,"reason":"unreadable"}'])
})

/** How a client ends. */
import { test } from 'tap'
import type { MqClient } from '../../src/client/client.ts'
import { delivery, stage, verdict, watch, type Stage } from './scripted-server.ts'

async function leased() {
  const staged = await stage()
  const { server, world, mq } = staged
  server.on.receive = ({ id }, line) => line.send({ op: 'delivered', id, deliveries: [delivery(0, ['m'])] })
  const [message] = await world.complete(mq.receive('q'))
  delete server.on.receive
  server.heard.length = 0
  return { ...staged, message: message! }
}

test('close waits for what is under way, acks included', async (t) => {
  const { mq, message, server, world } = await leased()
  const sent = watch(mq.send('q', 'last'))
  const acked = watch(message.ack())
  await world.complete(mq.close())
  t.equal(sent.state, 'resolved')
  t.equal(acked.state, 'resolved')
  t.strictSame(server.heard.length, 2)
})

test('close leaves nothing behind: no connection, no timer', async (t) => {
  const { mq, world } = await stage()
  await world.complete(mq.send('q', 'a'))
  await world.complete(mq.close())
  t.equal(await world.run(), 'idle')
  t.equal(world.network.connections.length, 0)
})

test('close leaves no timer of a pause that a broker has asked for', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.on.send = (frame, line) => line.refuse(frame.id, 'THROTTLED', { retryAfterMs: 50_000 })
  void mq.send('q', 'a').catch(() => undefined)
  await settle()
  await world.complete(mq.close({ timeoutMs: 0 }))
  const closedMs = world.nowMs
  t.equal(await world.run(), 'idle')
  t.ok(world.nowMs - closedMs < 10_000, `${world.nowMs - closedMs} ms`)
})

test('close gives what is under way its time, then rejects it', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  const closed = watch(mq.close({ timeoutMs: 1000 }))
  await world.advance(999)
  t.equal(sent.state, 'pending')
  await world.advance(2)
  t.equal(verdict(sent), 'CLOSED unknown')
  t.equal(closed.state, 'resolved')
})

test('the time is 5 s by default', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  void mq.close()
  await world.advance(4999)
  t.equal(sent.state, 'pending')
  await world.advance(2)
  t.equal(verdict(sent), 'CLOSED unknown')
})

test('close does not wait for a server that is not there, and says that nothing was done', async (t) => {
  const { mq, world, settle } = await stage()
  await world.complete(mq.send('q', 'warm'))
  world.partition('client', 'broker', Infinity)
  world.cut('client', 'broker')
  await world.advance(10)
  const sends = [watch(mq.send('q', 'a')), watch(mq.send('unknown', 'b'))]
  await settle()
  const closed = watch(mq.close())
  await world.advance(1)
  t.equal(closed.state, 'resolved')
  t.strictSame(sends.map(verdict), ['CLOSED failed', 'CLOSED failed'])
})

test('a connection that is lost while closing ends the wait', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  const closed = watch(mq.close())
  await world.advance(10)
  world.cut('client', 'broker')
  await world.advance(10)
  t.equal(closed.state, 'resolved')
  t.equal(verdict(sent), 'CLOSED unknown')
  await settle()
  t.equal(server.lines.length, 1, 'and it does not connect again')
})

test('a receive that waits is not waited for, and is cancelled at the broker', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.on.receive = () => undefined
  const received = watch(mq.receive('q', { waitMs: 20_000 }))
  await settle()
  const closed = watch(mq.close())
  await world.advance(1)
  t.equal(verdict(received), 'CLOSED unknown')
  t.equal(closed.state, 'resolved')
  t.equal(server.heard.at(-1), '1: cancel')
})

test('close is idempotent, whenever it is called', async (t) => {
  const { mq, world, settle } = await stage()
  let events = 0
  mq.on('close', () => events++)
  const closes = [watch(mq.close()), watch(mq.close())]
  await settle()
  closes.push(watch(mq.close()), watch(mq[Symbol.asyncDispose]()))
  await settle()
  t.strictSame(closes.map(verdict), Array(4).fill('resolved'))
  t.equal(events, 1)
  t.equal(world.network.connections.length, 0)
})

test('close never rejects, whatever its time', async (t) => {
  for (const timeoutMs of [NaN, -1, Infinity, '5', null] as number[]) {
    const { mq, server, world, settle } = await stage()
    server.on.send = () => undefined
    void mq.send('q', 'a').catch(() => undefined)
    await settle()
    const closed = watch(mq.close({ timeoutMs }))
    await settle()
    server.line.answer(server.all('send')[0]!)
    await world.advance(10_000)
    t.equal(verdict(closed), 'resolved', String(timeoutMs))
  }
})

test('await using closes', async (t) => {
  const { mq, world, settle } = await stage()
  const used = (async () => {
    await using client = mq
    await client.send('q', 'a')
  })()
  await world.complete(used)
  await settle()
  t.equal(world.network.connections.length, 0)
})

const calls: Record<string, (mq: MqClient, staged: Awaited<ReturnType<typeof leased>>) => Promise<unknown>> =
  {
    send: (mq) => mq.send('q', 'a'),
    'send to a queue not known': (mq) => mq.send('unknown', 'a'),
    sendBatch: (mq) => mq.sendBatch('q', [{ body: 'a' }]),
    receive: (mq) => mq.receive('q'),
    'message.ack': (_, { message }) => message.ack(),
    'message.extend': (_, { message }) => message.extend(1000),
    ack: (mq, { message }) => mq.ack('q', [message.receipt]),
    extend: (mq, { message }) => mq.extend('q', [message.receipt], { ms: 1000 }),
    createQueue: (mq) => mq.createQueue('q'),
    deleteQueue: (mq) => mq.deleteQueue('q'),
    describeQueue: (mq) => mq.describeQueue('q'),
    listQueues: (mq) => mq.listQueues(),
  }

for (const [name, call] of Object.entries(calls)) {
  test(`${name}: after close or drain it is refused`, async (t) => {
    for (const end of ['close', 'drain'] as const) {
      const staged = await leased()
      const { mq, server, world, settle } = staged
      await world.complete(mq[end]())
      const called = watch(call(mq, staged))
      await settle()
      t.equal(verdict(called), 'CLOSED failed', end)
      t.strictSame(server.heard, [])
    }
  })
}

test('drain resolves when all that was under way has ended', async (t) => {
  const { mq, server, settle } = await stage()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  const drained = watch(mq.drain())
  await settle()
  t.equal(drained.state, 'pending')
  server.line.answer(server.all('send')[0]!)
  await settle()
  t.equal(sent.state, 'resolved')
  t.equal(drained.state, 'resolved')
})

/** Nobody waits for any of it any more, so neither does drain. */
const givenUp: Record<string, (staged: Stage) => Promise<unknown>> = {
  'a send': ({ mq }) => mq.send('q', 'a', { timeoutMs: 1000 }),
  'a send whose queue is looked up': ({ mq }) => mq.send('unknown', 'a', { timeoutMs: 1000 }),
  'a receive': ({ mq }) => mq.receive('q', { timeoutMs: 1000 }),
}

for (const [name, call] of Object.entries(givenUp)) {
  test(`drain does not wait for ${name} that was given up`, async (t) => {
    for (const offline of [false, true]) {
      const staged = await stage()
      const { mq, server, world, settle } = staged
      await world.complete(mq.send('q', 'warm'))
      server.on.send = server.on.receive = server.on.lookup = () => undefined
      if (offline) {
        world.partition('client', 'broker', Infinity)
        world.cut('client', 'broker')
        await world.advance(10)
      }
      const called = watch(call(staged))
      await settle()
      const drained = watch(mq.drain())
      await world.advance(1001)
      t.equal(called.state, 'rejected')
      t.equal(drained.state, 'resolved', offline ? 'offline' : 'online')
    }
  })
}

test('what joins a batch that was abandoned is waited for like any other', async (t) => {
  const { mq, server, world, settle } = await stage({}, { offline: 'fail' })
  await world.complete(mq.send('q', 'warm'))
  server.on.send = () => undefined
  // As many as go at once, and one that waits behind them.
  for (let i = 0; i < 5; i++) {
    void mq.send('q', String(i)).catch(() => undefined)
    await settle()
  }
  world.cut('client', 'broker')
  await settle()
  t.equal(server.lines.length, 2)
  const joined = watch(mq.send('q', 'joined'))
  await settle()
  void mq.close({ timeoutMs: 100 })
  await settle()
  t.match(verdict(joined), /^CLOSED/)
})

test('what a listener throws does not reach the client', async (t) => {
  const { mq, world } = await stage()
  const thrown: unknown[] = []
  const listeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => thrown.push(error))
  mq.on('close', () => {
    throw new Error('the listener')
  })
  await world.complete(mq.close())
  process.removeAllListeners('uncaughtException')
  for (const listener of listeners) process.on('uncaughtException', listener)
  t.match(thrown, [{ message: 'the listener' }])
})

test('close rejects a send that waits behind the lookup of another queue', async (t) => {
  const { mq, server, world, settle } = await stage()
  await world.complete(mq.send('q', 'warm'))
  server.on.lookup = () => undefined
  const sends = [watch(mq.send('elsewhere', 'a')), watch(mq.send('q', 'b'))]
  await settle()
  await world.complete(mq.close({ timeoutMs: 0 }))
  await settle()
  t.strictSame(sends.map(verdict), ['CLOSED failed', 'CLOSED failed'])
})

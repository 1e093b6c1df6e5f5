/** How calls end without an answer: time-outs, signals, the bound on what is unconfirmed, being offline. */
import { test } from 'tap'
import type { MqError } from '../../src/errors.ts'
import { delivery, stage, verdict, watch, type Stage } from './scripted-server.ts'

type Client = Stage['mq']

/** A client whose queue is known, with one message under a lease. */
async function leased(...options: Parameters<typeof stage>) {
  const staged = await stage(...options)
  const { server, world, mq } = staged
  server.on.receive = ({ id }, line) => line.send({ op: 'delivered', id, deliveries: [delivery(0, ['m'])] })
  const [message] = await world.complete(mq.receive('q'))
  await world.complete(mq.send('q', 'warm'))
  delete server.on.receive
  server.heard.length = 0
  return { ...staged, message: message! }
}

type Leased = Awaited<ReturnType<typeof leased>>

interface Limits {
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

/** Every call that a broker answers. */
const calls: Record<string, (staged: Leased, limits: Limits) => Promise<unknown>> = {
  send: ({ mq }, limits) => mq.send('q', 'a', limits),
  receive: ({ mq }, limits) => mq.receive('q', limits),
  'message.ack': ({ message }, limits) => message.ack(limits),
  'message.deadLetter': ({ message }, limits) => message.deadLetter('unreadable', limits),
  'message.extend': ({ message }, limits) => message.extend(1000, limits),
  'ack by receipt': ({ mq, message }, limits) => first(mq.ack('q', [message.receipt], limits)),
  'extend by receipt': ({ mq, message }, limits) =>
    first(mq.extend('q', [message.receipt], { ms: 1000, ...limits })),
  createQueue: ({ mq }, limits) => mq.createQueue('other', limits),
  deleteQueue: ({ mq }, limits) => mq.deleteQueue('other', limits),
  describeQueue: ({ mq }, limits) => mq.describeQueue('other', limits),
  listQueues: ({ mq }, limits) => mq.listQueues(limits),
  redrive: ({ mq }, limits) => mq.redrive('other', limits),
}

/** Of a call that gives an error for each receipt. */
async function first(results: Promise<(MqError | null)[]>): Promise<void> {
  const [error] = await results
  if (error) throw error
}

function silence({ server }: Leased): void {
  const nothing = () => undefined
  server.on = {
    send: nothing,
    receive: nothing,
    settle: nothing,
    extend: nothing,
    createQueue: nothing,
    deleteQueue: nothing,
    describeQueue: nothing,
    listQueues: nothing,
    redrive: nothing,
    // A deletion looks the queue's id up first: it is the deletion that has no answer here.
    lookup: (frame, line) => (frame.name === 'other' ? line.answer(frame) : undefined),
  }
}

/** Cuts the client off until the partition ends. */
async function goOffline({ world }: Leased): Promise<void> {
  world.partition('client', 'broker', Infinity)
  world.cut('client', 'broker')
  await world.advance(10)
}

for (const [name, call] of Object.entries(calls)) {
  test(`${name}: sent and unanswered in its time, it may have been done`, async (t) => {
    const staged = await leased()
    silence(staged)
    const called = watch(call(staged, { timeoutMs: 1000 }))
    await staged.world.advance(999)
    t.equal(called.state, 'pending')
    await staged.world.advance(2)
    t.equal(verdict(called), 'TIMEOUT unknown')
  })

  test(`${name}: never sent in its time, it was not done and never will be`, async (t) => {
    const staged = await leased()
    await goOffline(staged)
    const called = watch(call(staged, { timeoutMs: 1000 }))
    await staged.world.advance(1001)
    t.equal(verdict(called), 'TIMEOUT failed')
    staged.world.heal()
    await staged.world.advance(5000)
    t.strictSame(staged.server.lines.length, 2, 'it is connected again')
    t.strictSame(staged.server.heard, [])
  })

  test(`${name}: a late answer changes nothing`, async (t) => {
    const staged = await leased()
    const { server, settle } = staged
    silence(staged)
    const called = watch(call(staged, { timeoutMs: 1000 }))
    await staged.world.advance(1001)
    for (const frame of server.frames) server.line.answer(frame)
    await settle()
    t.equal(verdict(called), 'TIMEOUT unknown')
  })

  test(`${name}: a signal that has aborted before`, async (t) => {
    const staged = await leased()
    const called = watch(call(staged, { signal: AbortSignal.abort('why') }))
    await staged.settle()
    t.equal(verdict(called), 'ABORTED failed')
    t.equal((called.error as MqError).cause, 'why')
    t.strictSame(staged.server.heard.length, 0)
  })

  test(`${name}: a signal that aborts while a broker has it`, async (t) => {
    const staged = await leased()
    silence(staged)
    const controller = new AbortController()
    const called = watch(call(staged, { signal: controller.signal }))
    await staged.settle()
    controller.abort('why')
    await staged.world.advance(1)
    t.equal(verdict(called), 'ABORTED unknown')
    t.equal((called.error as MqError).cause, 'why')
  })

  test(`${name}: a signal that aborts before it was sent`, async (t) => {
    const staged = await leased()
    await goOffline(staged)
    const controller = new AbortController()
    const called = watch(call(staged, { signal: controller.signal }))
    await staged.world.advance(1)
    controller.abort()
    await staged.world.advance(1)
    t.equal(verdict(called), 'ABORTED failed')
    staged.world.heal()
    await staged.world.advance(5000)
    t.strictSame(staged.server.heard, [])
  })

  test(`${name}: a signal that aborts after its end`, async (t) => {
    const staged = await leased()
    const controller = new AbortController()
    const called = watch(call(staged, { signal: controller.signal }))
    await staged.settle()
    t.equal(called.state, 'resolved')
    controller.abort()
    await staged.settle()
    t.equal(called.state, 'resolved')
  })

  test(`${name}: waits out a lost connection within its time`, async (t) => {
    const staged = await leased()
    await goOffline(staged)
    const called = watch(call(staged, { timeoutMs: 10_000 }))
    await staged.world.advance(4000)
    t.equal(called.state, 'pending')
    staged.world.heal()
    await staged.world.advance(4000)
    t.equal(called.state, 'resolved')
  })

  test(`${name}: offline and told to fail then, it is refused at once`, async (t) => {
    const staged = await leased({}, { offline: 'fail' })
    await goOffline(staged)
    const called = watch(call(staged, {}))
    await staged.world.advance(1)
    t.equal(verdict(called), 'DISCONNECTED failed')
  })

  test(`${name}: under way when the connection is lost, and told to fail then`, async (t) => {
    const staged = await leased({}, { offline: 'fail' })
    silence(staged)
    const called = watch(call(staged, {}))
    await staged.settle()
    await goOffline(staged)
    t.equal(verdict(called), 'DISCONNECTED unknown')
  })

  test(`${name}: a time-out that is no time`, async (t) => {
    const staged = await leased()
    for (const timeoutMs of [-1, NaN, '5' as unknown as number]) {
      const called = watch(call(staged, { timeoutMs }))
      await staged.settle()
      t.equal(verdict(called), 'INVALID_OPTION failed', String(timeoutMs))
    }
  })

  test(`${name}: a signal that is none`, async (t) => {
    const staged = await leased()
    const called = watch(call(staged, { signal: {} as AbortSignal }))
    await staged.settle()
    t.equal(verdict(called), 'INVALID_OPTION failed')
  })
}

for (const [name, call] of Object.entries({
  send: (mq: Client) => mq.send('unknown', 'a', { timeoutMs: 1000 }),
  receive: (mq: Client) => mq.receive('unknown', { timeoutMs: 1000 }),
  ack: (mq: Client) => mq.ack('unknown', ['r'], { timeoutMs: 1000 }),
})) {
  test(`${name}: the time includes that of looking the queue up, and nothing was done`, async (t) => {
    const { mq, server, world } = await stage()
    server.on.lookup = () => undefined
    const called = watch<unknown>(call(mq))
    await world.advance(1001)
    t.equal(verdict(called), 'TIMEOUT failed')
  })

  test(`${name}: a late answer of the lookup leaves only the rest of the time`, async (t) => {
    const { mq, server, world } = await stage()
    const nothing = () => undefined
    server.on = { send: nothing, receive: nothing, settle: nothing, lookup: nothing }
    const called = watch<unknown>(call(mq))
    await world.advance(900)
    server.line.answer(server.all('lookup')[0]!)
    await world.advance(101)
    // The receipt is none of this queue's, and the broker not asked.
    t.equal(verdict(called), name === 'ack' ? 'resolved' : 'TIMEOUT unknown')
  })
}

test('what was given up before its batch left is not in it', async (t) => {
  const staged = await leased()
  const { mq, server, world } = staged
  await goOffline(staged)
  const controller = new AbortController()
  const sends = [
    watch(mq.send('q', 'kept')),
    watch(mq.send('q', 'timed out', { timeoutMs: 100 })),
    watch(mq.send('q', 'aborted', { signal: controller.signal })),
    watch(mq.send('q', { kept: true }, { headers: { also: 'kept' } })),
  ]
  await world.advance(101)
  controller.abort()
  world.heal()
  await world.advance(5000)
  t.strictSame(sends.map(verdict), ['resolved', 'TIMEOUT failed', 'ABORTED failed', 'resolved'])
  t.strictSame(server.taken[0]?.length, 3)
  t.equal(sends[3]?.value?.id, 'q/0/1-2')
})

test('acks that were given up before they left are not sent', async (t) => {
  const staged = await leased()
  const { mq, server, world } = staged
  server.on.receive = ({ id }, line) =>
    line.send({ op: 'delivered', id, deliveries: [delivery(10, ['a', 'b', 'c'])] })
  const messages = await world.complete(mq.receive('q', { max: 3 }))
  await goOffline(staged)
  server.heard.length = 0
  const acks = messages.map((message, i) => watch(message.ack(i === 1 ? { timeoutMs: 100 } : {})))
  await world.advance(101)
  world.heal()
  await world.advance(5000)
  t.strictSame(acks.map(verdict), ['resolved', 'TIMEOUT failed', 'resolved'])
  t.strictSame(server.heard, ['2: settle 0 #2 1:10 1:12'])
})

test('a shared signal ends every call that has it, without a warning of Node', async (t) => {
  const staged = await leased()
  silence(staged)
  const warnings: string[] = []
  const onWarning = (warning: Error) => warnings.push(warning.name)
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const { signal, abort } = ((controller) => ({
    signal: controller.signal,
    abort: () => controller.abort(),
  }))(new AbortController())
  const many = Array.from({ length: 20 }, () => staged.mq.receive('q', { signal, waitMs: 1000 }))
  const watched = [
    ...many.map((each) => watch<unknown>(each)),
    watch<unknown>(staged.mq.send('q', 'a', { signal })),
  ]
  const batch = staged.mq.sendBatch('q', Array(20).fill({ body: 'x' }), { signal })
  await staged.settle()
  abort()
  const results = await staged.world.complete(batch)
  t.ok(results.every((result) => (result as MqError).code === 'ABORTED'))
  t.ok(watched.every((each) => verdict(each) === 'ABORTED unknown'))
  t.strictSame(warnings, [])
})

test('a receive that is given up is cancelled at the broker', async (t) => {
  const staged = await leased()
  silence(staged)
  const controller = new AbortController()
  const received = watch(staged.mq.receive('q', { waitMs: 20_000, signal: controller.signal }))
  await staged.settle()
  controller.abort()
  await staged.settle()
  t.equal(verdict(received), 'ABORTED unknown')
  t.strictSame(staged.server.heard, ['1: receive 1, wait 20000', '1: cancel'])
})

test('calls retried by the client itself end in their time', async (t) => {
  const { mq, server, world } = await stage()
  server.on.describeQueue = (frame, line) => line.refuse(frame.id, 'STOPPING')
  const called = watch(mq.describeQueue('q', { timeoutMs: 1000 }))
  await world.advance(1001)
  t.equal(verdict(called), 'TIMEOUT failed')
  t.ok(server.heard.length > 3)
})

// -----------------------------------------------------------------------------------------------------------------
// maxPendingBytes

test('past maxPendingBytes a send waits until something is confirmed', async (t) => {
  const { mq, server, settle } = await stage({}, { maxPendingBytes: 1000 })
  await settle()
  server.on.send = () => undefined
  const large = watch(mq.send('q', 'x'.repeat(1000)))
  await settle()
  const waits = watch(mq.send('q', 'waits'))
  await settle()
  t.equal(server.heard.length, 1)
  server.line.answer(server.all('send')[0]!)
  await settle()
  t.equal(large.state, 'resolved')
  t.equal(server.heard[1], '1: send 0 #2 waits')
  t.equal(waits.state, 'pending')
})

test('a send that waits for room has its time and its signal', async (t) => {
  const { mq, server, settle, world } = await stage({}, { maxPendingBytes: 1000 })
  server.on.send = () => undefined
  void mq.send('q', 'x'.repeat(1000)).catch(() => undefined)
  await settle()
  const controller = new AbortController()
  const timed = watch(mq.send('q', 'a', { timeoutMs: 100 }))
  const aborted = watch(mq.send('q', 'b', { signal: controller.signal }))
  await world.advance(101)
  controller.abort()
  await settle()
  t.equal(verdict(timed), 'TIMEOUT failed')
  t.equal(verdict(aborted), 'ABORTED failed')
  server.line.answer(server.all('send')[0]!)
  await settle()
  t.equal(server.heard.length, 1, 'neither is sent')
})

test('what is given up makes room', async (t) => {
  const { mq, server, settle, world } = await stage({}, { maxPendingBytes: 1000 })
  server.on.send = () => undefined
  void mq.send('q', 'x'.repeat(1000), { timeoutMs: 1000 }).catch(() => undefined)
  await settle()
  void mq.send('q', 'next').catch(() => undefined)
  await world.advance(1001)
  t.equal(server.heard[1], '1: send 0 #2 next')
})

test('headers and empty messages count towards maxPendingBytes too', async (t) => {
  const { mq, server, settle } = await stage({}, { maxPendingBytes: 1000 })
  server.on.send = () => undefined
  void mq.send('q', '', { headers: { long: 'x'.repeat(1000) } }).catch(() => undefined)
  await settle()
  void mq.send('q', 'waits').catch(() => undefined)
  await settle()
  t.equal(server.heard.length, 1)
  server.line.answer(server.all('send')[0]!)
  await settle()
  for (let i = 0; i < 100; i++) void mq.send('q', '').catch(() => undefined)
  await settle()
  t.ok(
    server
      .all('send')
      .slice(1)
      .reduce((sum, frame) => sum + frame.count, 0) < 50,
  )
})

test('sends that wait for room keep their order', async (t) => {
  const { mq, server, settle } = await stage({}, { maxPendingBytes: 100 })
  const bodies = Array.from({ length: 50 }, (_, i) => `${i}`.padEnd(30, '.'))
  for (const body of bodies) void mq.send('q', body)
  await settle()
  t.strictSame(server.taken[0], bodies)
})

/** Too much of everything: each is bounded, and whoever asks for it feels it, nobody else. */
import t from 'tap'
import { op } from '../../src/wire/messages.ts'
import {
  assertCutOff,
  assertRefused,
  batchOf,
  receiveFields,
  sendFields,
  settleFields,
  simulatedStage,
  type Frame,
  type KnownQueue,
  type Peer,
  type Stage,
} from './stage.ts'

const leaderOf = (stage: Stage, queue: KnownQueue) =>
  stage.broker.internals.queues.get(queue.name)!.partitions[0]!.leader

/** The broker's connections. */
const served = (stage: Stage) => stage.world!.network.connections.filter((it) => it.server === 'broker')

/** Stores messages of 1 MiB, each in an entry of its own. */
async function fill(stage: Stage, peer: Peer, queue: KnownQueue, mebibytes: number): Promise<void> {
  const batch = batchOf([Buffer.alloc(1 << 20)])
  for (let sequence = 1; sequence <= mebibytes; sequence++) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { batch, sequence }))
    if (answer[0] !== op.sent) throw new Error(`not sent: ${JSON.stringify(answer)}`)
  }
  stage.keep()
}

t.test('endless pipelining of costly requests: others are served in between', async (t) => {
  const stage = await simulatedStage(t)
  const greedy = await stage.peer()
  const modest = await stage.peer()
  const frames: Frame[] = Array.from({ length: 2000 }, (_, i) => [op.describeQueue, 1 + i, 'witness'])
  greedy.send(...frames)
  modest.send([op.lookup, 1, 'witness'])
  await modest.answer(1)
  t.ok(greedy.frames.length < 100, `${greedy.frames.length} were served before the other one's`)
  await greedy.until(() => greedy.frames.length === frames.length)
  t.strictSame(
    greedy.frames.map(([, id]) => id),
    frames.map(([, id]) => id),
    'all are answered in the end, in order',
  )
  await stage.check(t)
})

t.test('endless pipelining of requests that wait: not read further', async (t) => {
  const stage = await simulatedStage(t, {}, { diskLatencyMs: [1000, 1000] })
  const queue = await stage.queue()
  const peer = await stage.peer()
  const frames: Frame[] = Array.from({ length: 5000 }, (_, i) => [
    op.send,
    1 + i,
    ...sendFields(queue, { sequence: 1 + i }),
  ])
  peer.send(...frames)
  await stage.world!.advance(900)
  t.equal(leaderOf(stage, queue).state.logEnd, queue.opening + 1024, 'as many as may be in flight')
  await peer.until(() => peer.frames.length === frames.length)
  t.ok(
    peer.frames.every(([nr, id], i) => nr === op.sent && id === 1 + i),
    'all are taken in the end, in order',
  )
  stage.keep()
  await stage.check(t)
})

t.test(
  'receives without end whose answers nobody reads: not read further, and cut off in time',
  async (t) => {
    const stage = await simulatedStage(t)
    const queue = await stage.queue()
    await fill(stage, await stage.peer(), queue, 40)
    const peer = await stage.peer()
    peer.pause()
    for (let i = 1; i <= 40; i++) peer.send([op.receive, i, ...receiveFields(queue, { max: 1 })])
    await stage.world!.advance(1000)
    const { leasedCount } = leaderOf(stage, queue)
    t.ok(leasedCount >= 4 && leasedCount <= 6, `${leasedCount} MiB were taken to be sent`)
    // Three heartbeats, up to one until it is noticed, and a while for its last words.
    await stage.world!.advance(51_000)
    peer.resume()
    await peer.end()
    t.ok(peer.frames.length < 6)
    // The leases run out, and that is in the log.
    await stage.world!.advance(60_000)
    t.equal(leaderOf(stage, queue).leasedCount, 0)
    stage.keep()
    await stage.check(t)
  },
)

t.test('answers that are read late come all, in order', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  await fill(stage, await stage.peer(), queue, 20)
  const peer = await stage.peer()
  peer.pause()
  for (let i = 1; i <= 21; i++) peer.send([op.receive, i, ...receiveFields(queue, { max: 1 })])
  await stage.world!.advance(5000)
  peer.resume()
  await peer.until(() => peer.frames.length === 21)
  t.strictSame(
    peer.frames.map(([nr, id, deliveries]) => [nr, id, deliveries.length]),
    Array.from({ length: 21 }, (_, i) => [op.delivered, 1 + i, i < 20 ? 1 : 0]),
  )
  await stage.check(t)
})

t.test('long polls without end: THROTTLED, and those before wait on', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let i = 1; i <= 256; i++) {
    peer.send([op.receive, i, ...receiveFields(queue, { waitMs: 20_000, max: 1 })])
  }
  peer.send([op.receive, 257, ...receiveFields(queue, { waitMs: 20_000 })])
  assertRefused(t, await peer.answer(257), { code: 'THROTTLED' })
  await stage.sent(queue, 'for the first')
  t.equal((await peer.answer(1))[2].length, 1)
  await stage.world!.advance(20_000)
  t.equal(peer.frames.length, 255, 'the others end empty')
  await stage.check(t)
})

t.test('long polls of a connection that ends are given up', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let i = 1; i <= 256; i++) peer.send([op.receive, i, ...receiveFields(queue, { waitMs: 20_000 })])
  await stage.world!.advance(100)
  peer.destroy()
  await stage.world!.advance(100)
  await stage.sent(queue, 'for nobody yet')
  t.equal(leaderOf(stage, queue).leasedCount, 0)
  await stage.check(t)
})

t.test('connections without end: TOO_MANY_CONNECTIONS, and those before live on', async (t) => {
  const stage = await simulatedStage(t, { maxConnections: 10 })
  const peers: Peer[] = []
  for (let i = 0; i < 9; i++) peers.push(await stage.peer())
  for (let i = 0; i < 20; i++) {
    const peer = await stage.connect()
    await assertCutOff(t, peer, { code: 'TOO_MANY_CONNECTIONS', message: /10 connections/ })
  }
  for (const peer of peers) t.equal((await peer.ask(op.lookup, 'witness'))[0], op.ok)
  peers.pop()!.destroy()
  await stage.check(t)
})

t.test('connections that never shake hands lose their places within 10 s', async (t) => {
  const stage = await simulatedStage(t, { maxConnections: 10 })
  for (let i = 0; i < 9; i++) await stage.connect()
  await assertCutOff(t, await stage.connect(), { code: 'TOO_MANY_CONNECTIONS' })
  await stage.world!.advance(10_100)
  t.equal((await (await stage.peer()).ask(op.lookup, 'witness'))[0], op.ok)
  await stage.check(t)
})

t.test('one client that connects again and again has one connection', async (t) => {
  const stage = await simulatedStage(t, { maxConnections: 10 })
  const { clientId } = await stage.peer()
  for (let session = 2; session < 50; session++) {
    const again = await stage.connect()
    await again.shakeHands({ clientId, session })
  }
  await stage.world!.advance(100)
  t.equal(served(stage).length, 2, 'with that of the witness')
  await stage.check(t)
})

t.test('queues without end: QUOTA_EXCEEDED, and a deleted one makes room', async (t) => {
  const stage = await simulatedStage(t, { maxQueues: 5 })
  const peer = await stage.peer()
  for (let i = 0; i < 4; i++) t.equal((await peer.ask(op.createQueue, `q${i}`, {}))[0], op.ok)
  stage.keep()
  const quota = { code: 'QUOTA_EXCEEDED', message: /5 queues/ }
  assertRefused(t, await peer.ask(op.createQueue, 'one-more', {}), quota)
  t.equal((await peer.ask(op.createQueue, 'q0', {}))[0], op.ok, 'one that exists is none more')
  await peer.ask(op.deleteQueue, 'q0', null)
  t.equal((await peer.ask(op.createQueue, 'one-more', {}))[0], op.ok)
  stage.keep()
  await stage.check(t)
})

t.test('partitions without end: QUOTA_EXCEEDED', async (t) => {
  const stage = await simulatedStage(t, { maxPartitions: 1000 })
  const peer = await stage.peer()
  const quota = { code: 'QUOTA_EXCEEDED', message: /1000 partitions/ }
  assertRefused(t, await peer.ask(op.createQueue, 'wide', { partitions: 1000 }), quota)
  t.equal((await peer.ask(op.createQueue, 'wide', { partitions: 999 }))[0], op.ok)
  stage.keep()
  assertRefused(t, await peer.ask(op.createQueue, 'narrow', {}), quota)
  await stage.check(t)
})

t.test('producers without end: the broker forgets the idle ones, and says so to them', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  const ask = (n: number, fields: Record<string, unknown>) => {
    const producerId = Buffer.alloc(16)
    producerId.writeUInt32BE(1 + n)
    return peer.ask(op.send, ...sendFields(queue, { producerId, ...fields }))
  }
  for (let n = 0; n < 2500; n++) {
    const answer = await ask(n, {})
    if (answer[0] === op.sent) continue
    // From the first eviction on, only a producer that looks the queue up anew is known to be new.
    assertRefused(t, answer, { code: 'UNKNOWN_PRODUCER' })
    const { opening } = stage.known(queue.name)
    t.equal((await ask(n, { opening }))[0], op.sent)
    break
  }
  t.ok(leaderOf(stage, queue).state.producers.size <= 2000)
  stage.keep()
  await stage.check(t)
})

t.test('settles of what is not leased leave nothing behind', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let sequence = 1; sequence <= 500; sequence++) {
    const fields = settleFields(queue, { sequence, producerId: Buffer.alloc(16, sequence % 256) })
    t.equal((await peer.ask(op.settle, ...fields))[0], op.settled)
  }
  t.equal(leaderOf(stage, queue).state.producers.size, 0)
  await stage.check(t)
})

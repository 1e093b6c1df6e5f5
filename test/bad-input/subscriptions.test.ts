/** SUBSCRIBE, CREDIT, UNSUBSCRIBE and PUSH as any peer sees them, what is right and what is not. */
import t from 'tap'
import { limits } from '../../src/types.ts'
import { readBatch } from '../../src/wire/batch.ts'
import { op } from '../../src/wire/messages.ts'
import {
  assertCutOff,
  assertRefused,
  batchOf,
  sendFields,
  simulatedStage,
  subscribeFields,
  type Frame,
  type KnownQueue,
  type Peer,
  type Stage,
} from './stage.ts'

const deliveriesOf = (frames: Frame[]): Frame[] =>
  frames.filter(([nr]) => nr === op.push).flatMap(([, , deliveries]) => deliveries as Frame[])

/** Messages in PUSH frames. */
const pushed = (peer: Peer): number =>
  deliveriesOf(peer.frames).reduce((sum, delivery) => sum + readBatch(delivery[9] as Uint8Array).count, 0)

const leaderOf = (stage: Stage, queue: KnownQueue) =>
  stage.broker.internals.queues.get(queue.name)!.partitions[0]!.leader

const numbered = (count: number) => Array.from({ length: count }, (_, i) => String(i))

async function sendOne(stage: Stage, peer: Peer, queue: KnownQueue, sequence: number, bodies: string[]) {
  const fields = sendFields(queue, { batch: batchOf(bodies), count: bodies.length, sequence })
  t.equal((await peer.ask(op.send, ...fields))[0], op.sent)
  stage.keep()
}

t.test('as many messages are pushed as there is credit, and not one more', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  await sendOne(stage, await stage.peer(), queue, 1, numbered(100))
  const peer = await stage.peer()
  peer.send([op.subscribe, 7, ...subscribeFields(queue, { messages: 0 })])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 0)
  let sum = 0
  for (const messages of [1, 5, 30]) {
    sum += messages
    peer.send([op.credit, 7, messages, 0])
    await stage.world!.advance(100)
    t.equal(pushed(peer), sum)
    t.equal(leaderOf(stage, queue).leasedCount, sum)
  }
  t.ok(peer.frames.every(([nr, id]) => nr === op.push && id === 7))
  peer.send([op.credit, 7, 1000, 0])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 100)
  await sendOne(stage, await stage.peer(), queue, 2, ['a', 'b'])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 102, 'what comes later too')
  await stage.check(t)
})

t.test('bytes count too; a message that is larger than what is left comes alone, and is owed', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  await sendOne(stage, await stage.peer(), queue, 1, [
    'x'.repeat(1000),
    ...Array<string>(5).fill('y'.repeat(100)),
  ])
  const peer = await stage.peer()
  peer.send([op.subscribe, 7, ...subscribeFields(queue, { bytes: 1 })])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 1)
  peer.send([op.credit, 7, 0, 900])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 1, 'the debt comes first')
  peer.send([op.credit, 7, 0, 400])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 4, 'two fit into what is left, and one more comes alone')
  await stage.check(t)
})

t.test('UNSUBSCRIBE ends it: CANCELLED, then OK, and nothing behind that', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send([op.subscribe, 7, ...subscribeFields(queue)], [op.unsubscribe, 8, 7])
  assertRefused(t, await peer.next(), { code: 'CANCELLED' })
  t.strictSame(await peer.next(), [op.ok, 8, null])
  await stage.sent(queue, 'for nobody')
  peer.send([op.credit, 7, 1, 1])
  t.strictSame((await peer.ask(op.unsubscribe, 7))[0], op.ok, 'one that has ended is no fault')
  t.strictSame(peer.frames, [])
  t.equal(leaderOf(stage, queue).leasedCount, 0)
  peer.send([op.subscribe, 7, ...subscribeFields(queue)])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 1, 'the id is free again')
  await stage.check(t)
})

t.test('CANCEL ends it as well', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send([op.subscribe, 7, ...subscribeFields(queue)], [op.cancel, 7])
  assertRefused(t, await peer.answer(7), { code: 'CANCELLED' })
  await stage.check(t)
})

t.test('its queue is deleted: QUEUE_DELETED, with credit and without', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send([op.subscribe, 7, ...subscribeFields(queue)])
  peer.send([op.subscribe, 8, ...subscribeFields(queue, { messages: 0 })])
  t.equal((await peer.ask(op.deleteQueue, queue.name, null))[0], op.ok)
  stage.keep()
  for (const id of [7, 8]) assertRefused(t, await peer.answer(id), { code: 'QUEUE_DELETED' })
  assertRefused(t, await peer.ask(op.subscribe, ...subscribeFields(queue)), { code: 'QUEUE_DELETED' })
  await stage.check(t)
})

t.test('fields that cannot be meant: INVALID_FIELD', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  const wrong: Record<string, unknown>[] = [
    { messages: -1 },
    { messages: limits.creditMessagesMax + 1 },
    { messages: 1.5 },
    { bytes: limits.creditBytesMax + 1 },
    { bytes: 'many' },
    { visibilityTimeoutMs: 0 },
    { visibilityTimeoutMs: 12 * 3_600_000 + 1 },
    { mode: 2 },
    { partition: 1 },
  ]
  for (const fields of wrong) {
    const field = Object.keys(fields)[0]!
    assertRefused(t, await peer.ask(op.subscribe, ...subscribeFields(queue, fields)), {
      code: 'INVALID_FIELD',
      field,
    })
  }
  assertRefused(t, await peer.ask(op.unsubscribe, 0), { code: 'INVALID_FIELD', field: 'subscription' })
  assertRefused(t, await peer.ask(op.subscribe, ...subscribeFields(queue, { queueId: Buffer.alloc(16) })), {
    code: 'QUEUE_NOT_FOUND',
  })
  await stage.check(t)
})

t.test('credit beyond the limits ends the subscription', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (const [field, messages, bytes] of [
    ['messages', limits.creditMessagesMax, 0],
    ['bytes', 0, limits.creditBytesMax],
  ] as const) {
    peer.send([op.subscribe, 7, ...subscribeFields(queue)], [op.credit, 7, messages, bytes])
    assertRefused(t, await peer.answer(7), { code: 'INVALID_FIELD', field })
  }
  await stage.check(t)
})

t.test('a CREDIT that cannot be read ends the connection', async (t) => {
  const stage = await simulatedStage(t)
  for (const fields of [[-1, 0], [0, 2 ** 40], [1], [1, 1, 1]]) {
    const peer = await stage.peer()
    peer.send([op.credit, 7, ...fields])
    await assertCutOff(t, peer, { code: 'INVALID_FIELD' })
  }
  await stage.check(t)
})

t.test('an id that is taken: DUPLICATE_REQUEST_ID', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  const frame = [op.subscribe, 7, ...subscribeFields(queue)]
  peer.send(frame, frame)
  await assertCutOff(t, peer, { code: 'DUPLICATE_REQUEST_ID' })
  await stage.check(t)
})

t.test('subscriptions without end: QUOTA_EXCEEDED, and those before stand on', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let id = 1; id <= 256; id++) {
    peer.send([op.subscribe, id, ...subscribeFields(queue, { messages: 1 })])
  }
  peer.send([op.subscribe, 257, ...subscribeFields(queue)])
  assertRefused(t, await peer.answer(257), { code: 'QUOTA_EXCEEDED' })
  await sendOne(stage, await stage.peer(), queue, 1, numbered(300))
  await stage.world!.advance(100)
  t.equal(pushed(peer), 256)
  t.equal(new Set(peer.frames.map(([, id]) => id)).size, 256, 'one for each')
  peer.send([op.unsubscribe, 300, 1])
  t.equal((await peer.answer(300))[0], op.ok)
  peer.frames.length = 0
  peer.send([op.subscribe, 1, ...subscribeFields(queue)])
  await stage.world!.advance(100)
  t.equal(pushed(peer), 10, 'one that ended makes room')
  await stage.check(t)
})

t.test('the end of a connection ends its subscriptions', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let id = 1; id <= 10; id++) peer.send([op.subscribe, id, ...subscribeFields(queue)])
  await stage.world!.advance(100)
  peer.destroy()
  await stage.world!.advance(100)
  await stage.sent(queue, 'for nobody yet')
  t.equal(leaderOf(stage, queue).leasedCount, 0)
  await stage.check(t)
})

t.test('a peer that never reads gets what its connection takes, holds nobody, and is cut off', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const sender = await stage.peer()
  const idle = await stage.peer()
  idle.pause()
  idle.send([op.subscribe, 1, ...subscribeFields(queue, { messages: 60_000, bytes: 64 << 20 })])
  await stage.world!.advance(100)
  const body = 'x'.repeat(1 << 20)
  for (let sequence = 1; sequence <= 20; sequence++) await sendOne(stage, sender, queue, sequence, [body])
  const taken = leaderOf(stage, queue).leasedCount
  t.ok(taken >= 4 && taken <= 8, `${taken} MiB were taken to be sent`)
  const peer = await stage.peer()
  peer.send([op.subscribe, 1, ...subscribeFields(queue, { messages: 100, bytes: 64 << 20 })])
  await stage.world!.advance(1000)
  t.equal(pushed(peer), 20 - taken, 'another has the rest')
  await stage.world!.advance(51_000)
  idle.resume()
  await idle.end()
  await stage.world!.advance(60_000)
  stage.keep()
  await stage.check(t)
})

t.test('several share what there is, in turn, whoever has more credit', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peers = [await stage.peer(), await stage.peer(), await stage.peer()]
  for (const [i, peer] of peers.entries()) {
    peer.send([op.subscribe, 1, ...subscribeFields(queue, { messages: i === 0 ? 1 : 60_000 })])
  }
  await stage.world!.advance(100)
  const sender = await stage.peer()
  for (let sequence = 1; sequence <= 100; sequence++)
    await sendOne(stage, sender, queue, sequence, ['a', 'b'])
  await stage.world!.advance(100)
  const [first, second, third] = peers.map(pushed)
  t.equal(first, 1)
  t.equal(second! + third!, 199)
  t.ok(Math.abs(second! - third!) <= 2, `${second} and ${third}`)
  await stage.check(t)
})

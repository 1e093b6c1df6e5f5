/** Queues that are missing, exist already, or go away while somebody waits for them. */
import t from 'tap'
import { op } from '../../src/wire/messages.ts'
import {
  assertRefused,
  realStage,
  receiveFields,
  rowsOf,
  sendFields,
  settleFields,
  simulatedStage,
  type Frame,
  type KnownQueue,
} from './stage.ts'

const stage = await realStage(t)
const row = rowsOf(t, stage)

void row('a queue that is missing: QUEUE_NOT_FOUND, with the names that are near', async (t) => {
  await stage.queue({}, 'orders')
  const peer = await stage.peer()
  const refusal = { code: 'QUEUE_NOT_FOUND', details: { similar: ['orders'] }, message: /ordres.*orders/ }
  for (const nr of [op.lookup, op.describeQueue, op.deleteQueue]) {
    const more = nr === op.deleteQueue ? [null] : []
    assertRefused(t, await peer.ask(nr, 'ordres', ...more), refusal, `${nr}`)
  }
})

void row('a queue that exists with other options: QUEUE_EXISTS with those it has', async (t) => {
  await stage.queue({ visibilityTimeoutMs: 5000 }, 'exists')
  const peer = await stage.peer()
  const create = (options: object) => peer.ask(op.createQueue, 'exists', options)
  const details = { options: { visibilityTimeoutMs: 5000 } }
  assertRefused(t, await create({ visibilityTimeoutMs: 5001 }), { code: 'QUEUE_EXISTS', details })
  assertRefused(t, await create({}), { code: 'QUEUE_EXISTS', details })
  t.equal(
    (await create({ visibilityTimeoutMs: 5000, partitions: 1 }))[0],
    op.ok,
    'with the same: as if created',
  )
})

const everyRequest = (queue: KnownQueue): [number, ...unknown[]][] => [
  [op.send, ...sendFields(queue)],
  [op.receive, ...receiveFields(queue, { waitMs: 20_000 })],
  [op.settle, ...settleFields(queue)],
  [op.extend, queue.id, 0, 1000, [1, 1, 1, 1]],
]

void row('a queue that was deleted, by its id: QUEUE_DELETED, even when another has its name', async (t) => {
  const queue = await stage.queue({}, 'deleted')
  const peer = await stage.peer()
  t.equal((await peer.ask(op.deleteQueue, 'deleted', null))[0], op.ok)
  stage.keep()
  for (const request of everyRequest(queue)) {
    assertRefused(t, await peer.ask(...request), { code: 'QUEUE_DELETED' }, `${request[0]}`)
  }
  await stage.queue({}, 'deleted')
  for (const request of everyRequest(queue)) {
    assertRefused(
      t,
      await peer.ask(...request),
      { code: 'QUEUE_DELETED' },
      `${request[0]}, another by its name`,
    )
  }
})

void row('a queue that is deleted under a receive that waits: QUEUE_DELETED', async (t) => {
  const queue = await stage.queue({}, 'waited-for')
  const peer = await stage.peer()
  peer.send([op.receive, 100, ...receiveFields(queue, { waitMs: 20_000 })])
  t.equal((await peer.ask(op.deleteQueue, queue.name, null))[0], op.ok)
  stage.keep()
  assertRefused(t, await peer.answer(100), { code: 'QUEUE_DELETED' })
})

t.test('a queue that is deleted under a send that waits for the disk: QUEUE_DELETED', async (t) => {
  // The tombstone is on its way to one segment while the batch is on its way to another.
  const stage = await simulatedStage(t, {}, { diskLatencyMs: [5, 5] })
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send([op.deleteQueue, 100, queue.name, null])
  await stage.world!.advance(4)
  peer.send([op.send, 101, ...sendFields(queue)])
  const { leader } = stage.broker.internals.queues.get(queue.name)!.partitions[0]!
  await stage.world!.advance(0.5)
  t.equal(leader.state.logEnd, queue.opening + 1, 'it is appended, and not on the disk yet')
  t.equal((await peer.answer(100))[0], op.ok)
  stage.keep()
  assertRefused(t, await peer.answer(101), { code: 'QUEUE_DELETED' })
  await stage.check(t)
})

void row('one queue created many times at once is one queue', async (t) => {
  const peer = await stage.peer()
  const frames: Frame[] = Array.from({ length: 50 }, (_, i) => [
    op.createQueue,
    100 + i,
    'at-once',
    i % 2 === 0 ? {} : { visibilityTimeoutMs: 7 },
  ])
  peer.send(...frames)
  for (const [, id, , options] of frames) {
    const answer = await peer.answer(id)
    if (Object.keys(options as object).length === 0) t.equal(answer[0], op.ok)
    else assertRefused(t, answer, { code: 'QUEUE_EXISTS' })
  }
  stage.keep()
  t.equal([...stage.broker.internals.queues.keys()].filter((name) => name === 'at-once').length, 1)
})

void row('a queue created and deleted in one breath, many times', async (t) => {
  const peer = await stage.peer()
  const frames: Frame[] = []
  for (let i = 0; i < 30; i++) {
    frames.push([op.createQueue, 100 + 2 * i, 'brief', {}], [op.deleteQueue, 101 + 2 * i, 'brief', null])
  }
  peer.send(...frames)
  for (const [, id] of frames) t.equal((await peer.answer(id))[0], op.ok)
  t.notOk(stage.broker.internals.queues.has('brief'))
})

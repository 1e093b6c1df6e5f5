/** Dead letters and redrives that are asked for wrongly. */
import t from 'tap'
import { op } from '../../src/wire/messages.ts'
import {
  assertRefused,
  realStage,
  receiveFields,
  rowsOf,
  sendFields,
  settleFields,
  type Frame,
} from './stage.ts'

const stage = await realStage(t)
const row = rowsOf(t, stage)
const deadLetter = 3

void row('a dead-letter where there is no dead-letter queue: NO_DEAD_LETTER_QUEUE', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const refused = await peer.ask(op.settle, ...settleFields(queue, { action: deadLetter }))
  assertRefused(t, refused, { code: 'NO_DEAD_LETTER_QUEUE' })
})

void row(
  'a dead-letter of a lease that is forged, foreign or used: LEASE_LOST, and nothing moves',
  async (t) => {
    const queue = await stage.queue({ deadLetterQueue: 'dead' })
    const peer = await stage.peer()
    t.equal((await peer.ask(op.send, ...sendFields(queue)))[0], op.sent)
    const [, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue))
    const [[, leaseEpoch, lease, , , base]] = deliveries as [number[]]
    const ask = (sequence: number, items: unknown[]): Promise<Frame> =>
      peer.ask(op.settle, ...settleFields(queue, { action: deadLetter, sequence, items }))
    const forged = [leaseEpoch!, lease! + 1, base!, 1]
    t.strictSame((await ask(2, forged))[2], [base, 1], 'forged')
    const acked = settleFields(queue, { sequence: 4, items: [leaseEpoch, lease, base, 1] })
    t.equal((await peer.ask(op.settle, ...acked))[2], null)
    stage.keep()
    t.strictSame((await ask(5, [leaseEpoch, lease, base, 1]))[2], [base, 1], 'used')
  },
)

void row('what goes with a dead-letter', async (t) => {
  const queue = await stage.queue({ deadLetterQueue: 'dead' })
  const peer = await stage.peer()
  const ask = (options: object): Promise<Frame> =>
    peer.ask(op.settle, ...settleFields(queue, { action: deadLetter, options }))
  assertRefused(t, await ask({ delayMs: 1 }), { code: 'INVALID_FIELD', field: 'delayMs' })
  assertRefused(t, await ask({ reason: 'x'.repeat(1025) }), { code: 'INVALID_FIELD', field: 'reason' })
  assertRefused(t, await ask({ reason: 7 }), { code: 'INVALID_FIELD', field: 'reason' })
})

void row('a queue whose dead letters could go nowhere: INVALID_FIELD', async (t) => {
  const peer = await stage.peer()
  const create = (name: string, options: object): Promise<Frame> => peer.ask(op.createQueue, name, options)
  const wrong: [string, object, string][] = [
    ['self', { deadLetterQueue: 'self' }, 'deadLetterQueue'],
    ['bad', { deadLetterQueue: '../x' }, 'deadLetterQueue'],
    ['number', { deadLetterQueue: 5 }, 'deadLetterQueue'],
    ['q'.repeat(255), { maxDeliveries: 2 }, 'deadLetterQueue'],
    ['none', { maxDeliveries: 0 }, 'maxDeliveries'],
    ['many', { maxDeliveries: 10_001 }, 'maxDeliveries'],
  ]
  for (const [name, options, field] of wrong) {
    assertRefused(t, await create(name, options), { code: 'INVALID_FIELD', field }, name.slice(0, 10))
  }
})

void row('a redrive', async (t) => {
  const queue = await stage.queue({}, 'redriven')
  await stage.queue({}, 'elsewhere')
  const peer = await stage.peer()
  t.equal((await peer.ask(op.send, ...sendFields(queue)))[0], op.sent)
  const redrive = (
    name: string,
    to: unknown,
    max: unknown,
    dryRun: unknown,
    cursor: unknown,
  ): Promise<Frame> => peer.ask(op.redrive, name, to, max, dryRun, cursor)

  await t.test('of or to a queue that is missing: QUEUE_NOT_FOUND', async (t) => {
    const near = { code: 'QUEUE_NOT_FOUND', message: /redriven/ } as const
    assertRefused(t, await redrive('redrivn', null, 1, false, null), near)
    assertRefused(t, await redrive('redriven', 'redrivn', 1, false, null), near)
  })
  await t.test('to itself, or with fields that are none: INVALID_FIELD', async (t) => {
    const wrong: [string, Promise<Frame>][] = [
      ['to', redrive('redriven', 'redriven', 1, false, null)],
      ['max', redrive('redriven', null, 0, false, null)],
      ['max', redrive('redriven', null, 1001, false, null)],
      ['dryRun', redrive('redriven', null, 1, 'yes', null)],
      ['cursor', redrive('redriven', null, 1, false, [])],
      ['cursor', redrive('redriven', null, 1, false, [0, 0])],
      ['cursor', redrive('redriven', null, 1, false, [0, 5, 4])],
      ['cursor', redrive('redriven', null, 1, false, [0, 0, 9, 0, 0, 9])],
      ['cursor', redrive('redriven', null, 1, false, [1024, 0, 9])],
      ['cursor', redrive('redriven', null, 1, false, [0, -1, 9])],
      ['partition', redrive('redriven', null, 1, false, [1, 0, 9])],
    ]
    for (const [field, asked] of wrong) assertRefused(t, await asked, { code: 'INVALID_FIELD', field }, field)
    assertRefused(t, await redrive('redriven', '../x', 1, false, null), { code: 'INVALID_NAME', field: 'to' })
  })
  await t.test('leaves what does not say where it came from', async (t) => {
    const result = { messages: 0, skipped: 1, targets: {}, cursor: null }
    t.strictSame((await redrive('redriven', null, 100, false, null))[2], result)
  })
  await t.test('with a cursor beyond the log finds nothing', async (t) => {
    const end = Number.MAX_SAFE_INTEGER
    const result = { messages: 0, skipped: 0, targets: {}, cursor: null }
    t.strictSame((await redrive('redriven', 'elsewhere', 100, false, [0, end - 1, end]))[2], result)
  })
  await t.test('to a queue that takes no such size leaves it', async (t) => {
    await stage.queue({ maxMessageBytes: 1 }, 'narrow')
    const result = { messages: 0, skipped: 1, targets: {}, cursor: null }
    t.strictSame((await redrive('redriven', 'narrow', 100, false, null))[2], result)
  })
})

void row('a forward from a client: FORBIDDEN', async (t) => {
  const peer = await stage.peer()
  for (const nr of [64, 65]) assertRefused(t, await peer.ask(nr, 'anything'), { code: 'FORBIDDEN' }, `${nr}`)
})

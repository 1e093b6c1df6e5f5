/** Batches, sequences and receipts that are wrong: refused by name, nothing stored, nobody else's touched. */
import t, { type Test } from 'tap'
import { op } from '../../src/wire/messages.ts'
import { encodeFrame } from '../../src/wire/frame.ts'
import { crcOf } from '../../src/wire/batch.ts'
import {
  assertRefused,
  batchOf,
  realStage,
  receiveFields,
  rowsOf,
  sendFields,
  settleFields,
  simulatedStage,
  type Frame,
  type KnownQueue,
  type Peer,
} from './stage.ts'

const stage = await realStage(t)
const row = rowsOf(t, stage)

/** A SEND that is to be accepted: what is stored by it stays. */
async function sendWell(t: Test, peer: Peer, queue: KnownQueue, fields: Record<string, unknown> = {}) {
  const answer = await peer.ask(op.send, ...sendFields(queue, fields))
  t.equal(answer[0], op.sent, 'what precedes is accepted')
  stage.keep()
  return answer
}

interface Leased {
  /** `leaseEpoch, lease, offset, count`: all of a delivery. */
  items: number[]
}

/** Sends messages and receives them all. */
async function leased(
  t: Test,
  peer: Peer,
  queue: KnownQueue,
  bodies: string[],
  fields = {},
): Promise<Leased> {
  await stage.sent(queue, ...bodies)
  const [nr, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue, { max: 1000, ...fields }))
  t.equal(nr, op.delivered)
  const items = (deliveries as Frame[]).flatMap(([, leaseEpoch, lease, , , base, , , , batch]) => [
    leaseEpoch,
    lease,
    base,
    countOf(batch),
  ])
  return { items }
}

/** Messages of a batch with fewer than 64 of them. */
function countOf(batch: Buffer): number {
  const lengths = batch.indexOf(0xc4)
  return batch[lengths + 1]! / 4
}

// ---------------------------------------------------------------------------------------------------------------
// Batches

void row('a wrong crc: CORRUPT_BATCH', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const crc = crcOf(batchOf(['body']))
  for (const wrong of [0, crc ^ 1, 0xffff_ffff]) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { crc: wrong }))
    assertRefused(t, answer, { code: 'CORRUPT_BATCH' })
  }
  await sendWell(t, peer, queue)
})

void row('one bit that flipped on the way, wherever in the batch: CORRUPT_BATCH', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const batch = batchOf(['first', 'second'], { headers: { a: 'b' } })
  const crc = crcOf(batch)
  const frames: Frame[] = []
  for (let at = 0; at < batch.length; at++) {
    const flipped = Buffer.from(batch)
    flipped[at]! ^= 1 << (at % 8)
    frames.push([op.send, 1000 + at, ...sendFields(queue, { batch: flipped, crc, count: 2 })])
  }
  peer.send(...frames)
  for (const [, id] of frames) assertRefused(t, await peer.answer(id), { code: 'CORRUPT_BATCH' })
})

void row('a batch that is none, under a right crc: INVALID_FIELD naming it', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const value = (...fields: unknown[]) => Buffer.from(encodeFrame(fields)).subarray(4)
  const lengths = Buffer.from([0, 0, 0, 4])
  const body = Buffer.from('body')
  const wrong = {
    'no bytes': Buffer.alloc(0),
    'a byte': Buffer.from([0xc1]),
    'a number': Buffer.from([1]),
    'an array of four': value(1, null, lengths, body),
    'another version': value(2, null, lengths, null, body),
    'no messages': value(1, null, Buffer.alloc(0), null, Buffer.alloc(0)),
    'half a length': value(1, null, Buffer.from([0, 4]), null, body),
    'lengths that add up to more': value(1, null, Buffer.from([0, 0, 0, 5]), null, body),
    'lengths that add up to 2^32 and more': value(
      1,
      null,
      Buffer.from([255, 255, 255, 255, 0, 0, 0, 5]),
      null,
      body,
    ),
    'bytes behind it': Buffer.concat([value(1, null, lengths, null, body), Buffer.from([0])]),
    'a serializer for each of two': value(1, ['text', 'text'], lengths, null, body),
    'a serializer without a name': value(1, '', lengths, null, body),
    'a serializer of 256 bytes': value(1, 'a'.repeat(256), lengths, null, body),
    'attributes that are no map': value(1, null, lengths, [], body),
    'headers of two': value(1, null, lengths, { headers: [null, null] }, body),
    'headers that are no texts': value(1, null, lengths, { headers: [{ a: 1 }] }, body),
    'headers under __proto__': value(1, null, lengths, { headers: [JSON.parse('{"__proto__": "a"}')] }, body),
    'an extension': Buffer.concat([
      Buffer.from([0x95, 1, 0xd4, 5, 0]),
      value(lengths, null, body).subarray(1),
    ]),
    'a bomb': Buffer.from([0x95, 1, ...new Array<number>(100).fill(0x91)]),
    'an array of 2^32 - 1': Buffer.from([0x95, 1, 0xdd, 0xff, 0xff, 0xff, 0xff]),
  }
  for (const [name, batch] of Object.entries(wrong)) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { batch }))
    assertRefused(t, answer, { code: 'INVALID_FIELD', field: 'batch' }, name)
  }
  await sendWell(t, peer, queue)
})

void row('a count that is not the batch’s: INVALID_FIELD naming it', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (const count of [1, 3, 10_000]) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { batch: batchOf(['a', 'b']), count }))
    assertRefused(t, answer, { code: 'INVALID_FIELD', field: 'count' })
  }
})

void row('several messages of more than 1 MiB together: INVALID_FIELD naming the batch', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const batch = batchOf(['a'.repeat(600 << 10), 'b'.repeat(600 << 10)])
  const answer = await peer.ask(op.send, ...sendFields(queue, { batch, count: 2 }))
  assertRefused(t, answer, { code: 'INVALID_FIELD', field: 'batch' })
})

void row('an attribute that is not built yet: UNSUPPORTED naming its column', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (const [column, value] of Object.entries({ key: 'k', priority: 9, dedupeId: 'd', ttl: 1 })) {
    const batch = batchOf(['body'], { [column]: value })
    assertRefused(t, await peer.ask(op.send, ...sendFields(queue, { batch })), {
      code: 'UNSUPPORTED',
      details: { column },
    })
  }
})

void row('a message over the limit of its queue: MESSAGE_TOO_LARGE with both sizes', async (t) => {
  const queue = await stage.queue({ maxMessageBytes: 10 })
  const peer = await stage.peer()
  const tooLarge = (bytes: number) => ({
    code: 'MESSAGE_TOO_LARGE',
    details: { bytes, maxMessageBytes: 10 },
    message: new RegExp(`${bytes} bytes.*10`),
  })
  const bodies = batchOf(['a', 'b'.repeat(11), 'c'])
  assertRefused(t, await peer.ask(op.send, ...sendFields(queue, { batch: bodies, count: 3 })), tooLarge(11))
  const headers = batchOf(['12345'], { headers: { name: 'va' } })
  assertRefused(t, await peer.ask(op.send, ...sendFields(queue, { batch: headers })), tooLarge(11))
  await sendWell(t, peer, queue, { batch: batchOf(['0123456789']) })
})

// ---------------------------------------------------------------------------------------------------------------
// Sequences

void row('a sequence below the window: OUT_OF_ORDER_SEQUENCE', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (let sequence = 10; sequence < 10 + 64; sequence++) await sendWell(t, peer, queue, { sequence })
  const answer = await peer.ask(op.send, ...sendFields(queue, { sequence: 9 }))
  assertRefused(t, answer, { code: 'OUT_OF_ORDER_SEQUENCE' })
  const settle = await peer.ask(op.settle, ...settleFields(queue, { sequence: 9 }))
  assertRefused(t, settle, { code: 'OUT_OF_ORDER_SEQUENCE' })
})

void row('a sequence in the window that was never accepted: REFUSED_BEFORE', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  await sendWell(t, peer, queue, { sequence: 1 })
  await sendWell(t, peer, queue, { sequence: 3 })
  const answer = await peer.ask(op.send, ...sendFields(queue, { sequence: 2 }))
  assertRefused(t, answer, { code: 'REFUSED_BEFORE' })
})

void row('an older epoch of a producer: PRODUCER_FENCED', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  await sendWell(t, peer, queue, { producerEpoch: 2 })
  for (const sequence of [1, 2]) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { producerEpoch: 1, sequence }))
    assertRefused(t, answer, { code: 'PRODUCER_FENCED' })
  }
})

void row('a sequence again, with other bytes: DUPLICATE_MISMATCH', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const [, , epoch, base] = await sendWell(t, peer, queue)
  const other = await peer.ask(op.send, ...sendFields(queue, { batch: batchOf(['other']) }))
  assertRefused(t, other, { code: 'DUPLICATE_MISMATCH' })
  const settle = await peer.ask(op.settle, ...settleFields(queue))
  assertRefused(t, settle, { code: 'DUPLICATE_MISMATCH' })
  const same = await peer.ask(op.send, ...sendFields(queue))
  t.strictSame(same.slice(2, 5), [epoch, base, true], 'with the same bytes: the first outcome')
})

void row('a producer that opened beyond the end of the log: UNKNOWN_PRODUCER', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  for (const opening of [queue.opening + 1, 2 ** 53 - 1]) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { opening }))
    assertRefused(t, answer, { code: 'UNKNOWN_PRODUCER' })
  }
})

void row('the largest sequence and epoch there are do not break the next producer', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  await sendWell(t, peer, queue, { sequence: 2 ** 53 - 1, producerEpoch: 2 ** 32 - 1 })
  const answer = await peer.ask(op.send, ...sendFields(queue, { sequence: 1, producerEpoch: 2 ** 32 - 1 }))
  assertRefused(t, answer, { code: 'REFUSED_BEFORE' })
  await sendWell(t, peer, queue, { producerId: Buffer.alloc(16, 1) })
})

// ---------------------------------------------------------------------------------------------------------------
// Receipts

/** Acks and extends what the items name: neither does anything, and all of it is told. */
async function assertLost(t: Test, peer: Peer, queue: KnownQueue, items: number[], sequence: number) {
  const named = []
  for (let i = 0; i < items.length; i += 4) named.push(items[i + 2], items[i + 3])
  const acked = await peer.ask(op.settle, ...settleFields(queue, { items, sequence }))
  t.strictSame(acked.slice(0, 1).concat(acked[2]), [op.settled, ...named], 'the ack is refused')
  const extended = await peer.ask(op.extend, queue.id, 0, 60_000, items)
  t.strictSame(extended.slice(0, 1).concat(extended[2]), [op.settled, ...named], 'so is the extension')
}

void row('a forged receipt: the lease is lost', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const { items } = await leased(t, peer, queue, ['mine'])
  const [leaseEpoch, lease, offset, count] = items as [number, number, number, number]
  const forged = [
    [leaseEpoch + 1, lease, offset, count],
    [leaseEpoch - 1, lease, offset, count],
    [leaseEpoch, lease + 1, offset, count],
    [leaseEpoch, 0, offset, count],
    [leaseEpoch, 2 ** 53 - 1, offset, count],
    [leaseEpoch, lease, offset + 1, count],
    [leaseEpoch, lease, 0, offset],
    [leaseEpoch, lease, 2 ** 53 - 1 - 10_000, 10_000],
  ]
  for (const [i, items] of forged.entries()) await assertLost(t, peer, queue, items, 1 + i)
  t.equal(stage.broker.internals.queues.get(queue.name)!.messages, 1, 'it is still there')
})

void row(
  'a receipt of another queue: the lease is lost, and that queue’s message stays leased',
  async (t) => {
    const mine = await stage.queue()
    const others = await stage.queue()
    const peer = await stage.peer()
    const { items } = await leased(t, peer, others, ['theirs'])
    await assertLost(t, peer, mine, items, 1)
    const [leader] = stage.broker.internals.queues.get(others.name)!.partitions.map((it) => it.leader)
    t.equal(leader!.leasedCount, 1)
  },
)

void row('a receipt that was used: the lease is lost', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const { items } = await leased(t, peer, queue, ['once'])
  t.strictSame((await peer.ask(op.settle, ...settleFields(queue, { items })))[2], null)
  stage.keep()
  await assertLost(t, peer, queue, items, 2)
})

void row('a used receipt among good ones harms none of them', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const { items } = await leased(t, peer, queue, ['a', 'b', 'c'])
  const [leaseEpoch, lease, offset] = items as [number, number, number]
  const settle = (items: number[], sequence: number) =>
    peer.ask(op.settle, ...settleFields(queue, { items, sequence }))
  t.equal((await settle([leaseEpoch, lease, offset + 1, 1], 1))[2], null)
  t.strictSame((await settle([leaseEpoch, lease, offset, 3], 2))[2], [offset + 1, 1])
  stage.keep()
  t.equal(stage.broker.internals.queues.get(queue.name)!.messages, 0)
})

void row('one message named 10,000 times is settled once', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const { items } = await leased(t, peer, queue, ['once'])
  const many = Array.from({ length: 10_000 }, () => items).flat()
  const answer = await peer.ask(op.settle, ...settleFields(queue, { items: many }))
  t.equal(answer[0], op.settled)
  t.equal(answer[2].length, 2 * 9_999)
  stage.keep()
})

void row('a queue that is not there, by a forged id: QUEUE_NOT_FOUND', async (t) => {
  const queue = { ...(await stage.queue()), id: Buffer.alloc(16, 0xee) }
  const peer = await stage.peer()
  for (const [nr, ...fields] of [
    [op.send, ...sendFields(queue)],
    [op.receive, ...receiveFields(queue, { waitMs: 20_000 })],
    [op.settle, ...settleFields(queue)],
    [op.extend, queue.id, 0, 1000, [1, 1, 1, 1]],
  ] as [number, ...unknown[]][]) {
    assertRefused(t, await peer.ask(nr, ...fields), { code: 'QUEUE_NOT_FOUND' }, `${nr}`)
  }
})

t.test('a receipt whose time is over: the lease is lost', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue({ visibilityTimeoutMs: 1000 })
  await stage.sent(queue, 'mine')
  const peer = await stage.peer()
  const [, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue))
  const [, leaseEpoch, lease, , , base] = deliveries[0]
  await stage.world!.advance(1000)
  // The expiry itself is in the log.
  stage.keep()
  await assertLost(t, peer, queue, [leaseEpoch, lease, base, 1], 1)
  const [again] = (await peer.ask(op.receive, ...receiveFields(queue)))[2]
  t.equal(again[7], 2, 'it is delivered a second time')
  await assertLost(t, peer, queue, [leaseEpoch, lease, base, 1], 2)
  await stage.check(t)
})

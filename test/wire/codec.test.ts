import t from 'tap'
import fc from 'fast-check'
import type { MqError } from '../../src/errors.ts'
import {
  decodeClientFrame,
  decodeServerFrame,
  encodeClientFrame,
  encodeDelivered,
  encodeSend,
  encodeServerFrame,
  heartbeatFrame,
  isQueueName,
  lookupOfResult,
  lookupToResult,
  RequestError,
} from '../../src/wire/codec.ts'
import type { Delivery, LookupResult } from '../../src/wire/messages.ts'
import { encodeFrame } from '../../src/wire/frame.ts'
import { clientFrames, concat, plain, plainDecode, serverFrames, valueOf } from './arbitrary.ts'

const queueId = '000102030405060708090a0b0c0d0e0f'
const producerId = '\u00ff\u0000'.repeat(8)
const bytesOfQueueId = { bytes: queueId }
const bytesOfProducerId = { bytes: 'ff00'.repeat(8) }

t.test('each frame of a client is read as it was written', (t) => {
  fc.assert(
    fc.property(clientFrames, (frame) => {
      const bytes = encodeClientFrame(frame)
      t.equal(Buffer.from(bytes).readUInt32BE(0), bytes.length - 4)
      t.same(plain(decodeClientFrame(valueOf(bytes))), plain(frame))
    }),
    { numRuns: 1000 },
  )
  t.end()
})

t.test('each frame of a server is read as it was written', (t) => {
  fc.assert(
    fc.property(serverFrames, (frame) => {
      const bytes = encodeServerFrame(frame)
      t.equal(Buffer.from(bytes).readUInt32BE(0), bytes.length - 4)
      t.same(plain(decodeServerFrame(valueOf(bytes))), plain(frame))
    }),
    { numRuns: 1000 },
  )
  t.end()
})

t.test('frames are the arrays of PROTOCOL.md to any msgpack library', (t) => {
  const bytesOfBatch = { bytes: '0102' }
  const batch = Uint8Array.of(1, 2)
  const is = (frame: Uint8Array, value: unknown[]) => t.same(plain(plainDecode(valueOf(frame))), value)
  const from = { producerId, producerEpoch: 1, sequence: 2 ** 40, opening: 300 }
  const items = [{ leaseEpoch: 1, lease: 2, offset: 3, count: 4 }]
  is(
    encodeClientFrame({
      op: 'hello',
      minVersion: 1,
      maxVersion: 1,
      clientId: producerId,
      session: 1,
      name: 'n',
      credentials: null,
      features: { a: 1 },
    }),
    [1, 0, 1, 1, bytesOfProducerId, 1, 'n', null, { a: 1 }],
  )
  is(heartbeatFrame, [3, 0])
  is(encodeClientFrame({ op: 'send', id: 9, queueId, partition: 5, ...from, count: 1, crc: 7, batch }), [
    20,
    9,
    bytesOfQueueId,
    5,
    bytesOfProducerId,
    1,
    2 ** 40,
    300,
    1,
    7,
    bytesOfBatch,
  ])
  is(
    encodeClientFrame({
      op: 'receive',
      id: 9,
      queueId,
      partition: null,
      max: 1,
      maxBytes: 70_000,
      waitMs: 20_000,
      visibilityTimeoutMs: null,
      mode: 0,
    }),
    [21, 9, bytesOfQueueId, null, 1, 70_000, 20_000, null, 0],
  )
  for (const options of [null, { delayMs: 5, reason: null }]) {
    is(
      encodeClientFrame({
        op: 'settle',
        id: 9,
        queueId,
        partition: 0,
        ...from,
        action: 1,
        items,
        options,
        outputs: null,
      }),
      [22, 9, bytesOfQueueId, 0, bytesOfProducerId, 1, 2 ** 40, 300, 1, [1, 2, 3, 4], options, null],
    )
  }
  is(encodeClientFrame({ op: 'extend', id: 9, queueId, partition: 0, extendMs: 1000, items }), [
    23,
    9,
    bytesOfQueueId,
    0,
    1000,
    [1, 2, 3, 4],
  ])
  is(
    encodeServerFrame({
      op: 'sent',
      id: 9,
      epoch: 1,
      base: 2 ** 33,
      duplicate: true,
      confirm: 1,
      storage: 0,
    }),
    [42, 9, 1, 2 ** 33, true, 1, 0],
  )
  const delivery = {
    partition: 1,
    leaseEpoch: 2,
    lease: 3,
    leaseMs: 4,
    epoch: 5,
    base: 6,
    sentAtMs: 7,
    crc: 9,
    batch,
  }
  is(encodeServerFrame({ op: 'delivered', id: 9, deliveries: [{ ...delivery, deliveryCount: 8 }] }), [
    43,
    9,
    [[1, 2, 3, 4, 5, 6, 7, 8, 9, bytesOfBatch]],
  ])
  is(encodeServerFrame({ op: 'settled', id: 9, refused: [1, 2] }), [44, 9, [1, 2]])
  t.end()
})

t.test('a batch is never copied on its way in, nor on its way out when it is large', (t) => {
  const batch = new Uint8Array(100_000)
  const send = {
    id: 1,
    queueId,
    partition: 0,
    producerId,
    producerEpoch: 0,
    sequence: 0,
    opening: 0,
    count: 1,
    crc: 0,
  }
  const chunks = encodeSend({ ...send, batch })
  t.equal(chunks[1], batch)
  const value = concat(chunks).subarray(4)
  const sent = decodeClientFrame(value)
  t.ok(sent.op === 'send' && sent.batch.buffer === value.buffer && sent.batch.length === batch.length)

  const delivery: Delivery = {
    partition: 0,
    leaseEpoch: 1,
    lease: 1,
    leaseMs: 1,
    epoch: 1,
    base: 0,
    sentAtMs: 0,
    deliveryCount: 1,
    crc: 0,
    batch,
  }
  const small = { ...delivery, batch: new Uint8Array(10) }
  const delivered = encodeDelivered(7, [small, delivery, small, small, delivery])
  t.equal(delivered.length, 4)
  t.equal(delivered[1], batch)
  t.equal(delivered[3], batch)
  const received = decodeServerFrame(concat(delivered).subarray(4))
  t.ok(received.op === 'delivered')
  t.same(
    received.op === 'delivered' && received.deliveries.map((it) => it.batch.length),
    [10, 100_000, 10, 10, 100_000],
  )
  t.end()
})

t.test('every integer form, and a double of integral value, is the same integer', (t) => {
  const forms = ['05', 'cc05', 'cd0005', 'ce00000005', 'cf0000000000000005', 'd005', 'd10005', 'd200000005']
  for (const form of [...forms, 'd30000000000000005', 'ca40a00000', 'cb4014000000000000']) {
    // LIST_QUEUES, after nil, a limit of 5; operation and request id in the same form.
    const id = Buffer.from(form, 'hex')
    const frame = decodeClientFrame(Buffer.concat([Uint8Array.of(0x94, 12), id, Uint8Array.of(0xc0), id]))
    t.same(frame, { op: 'listQueues', id: 5, after: null, limit: 5 }, form)
  }
  t.end()
})

t.test('frames written one after the other keep their bytes', (t) => {
  const sent = (base: number) =>
    encodeServerFrame({ op: 'sent', id: 1, epoch: 1, base, duplicate: false, confirm: 0, storage: 0 })
  const frames = Array.from({ length: 10_000 }, (_, i) => sent(i * 1000))
  t.ok(frames.every((frame, i) => plainDecode(valueOf(frame))[3] === i * 1000))
  t.end()
})

t.test('queue ids that share their first byte are told apart', (t) => {
  const lookups = [queueId, queueId.replace('0f', '10'), queueId].map((id) => {
    const frame = encodeClientFrame({
      op: 'extend',
      id: 1,
      queueId: id,
      partition: 0,
      extendMs: 1,
      items: [{ leaseEpoch: 1, lease: 1, offset: 1, count: 1 }],
    })
    const decoded = decodeClientFrame(valueOf(frame))
    return decoded.op === 'extend' && decoded.queueId
  })
  t.same(lookups, [queueId, queueId.replace('0f', '10'), queueId])
  t.end()
})

t.test('an error code of a newer server is INTERNAL, told by name', (t) => {
  const frame = encodeFrame([41, 3, 'NEW_CODE', 'something new', true, { a: 1 }])
  t.same(decodeServerFrame(valueOf(frame)), {
    op: 'error',
    id: 3,
    code: 'INTERNAL',
    message: 'NEW_CODE: something new',
    retryable: true,
    details: { a: 1, code: 'NEW_CODE' },
  })
  t.end()
})

t.test('limits that a newer server adds are no fault; those that are missing are', (t) => {
  const limits = {
    frameBytesMax: 1,
    batchBytesMax: 1,
    batchMessagesMax: 1,
    receiveMessagesMax: 1,
    receiveBytesMax: 1,
    unansweredMax: 1,
    heartbeatMs: 1,
  }
  const hello = (limits: unknown) => decodeServerFrame(valueOf(encodeFrame([2, 0, 1, 'c', 'n', limits, {}])))
  t.same(hello({ ...limits, newer: 5 }), {
    op: 'helloOk',
    version: 1,
    clusterId: 'c',
    nodeId: 'n',
    limits,
    features: {},
  })
  for (const wrong of [{}, { ...limits, heartbeatMs: 0 }, { ...limits, unansweredMax: '64' }, []]) {
    t.throws(() => hello(wrong), { name: 'RequestError', id: 0, error: { code: 'INVALID_FIELD' } })
  }
  t.end()
})

t.test('a server answer that is malformed names its request; one that nobody sends ends the stream', (t) => {
  const decode = (value: unknown[]) => () => decodeServerFrame(valueOf(encodeFrame(value)))
  const malformed = [
    [42, 5, 1, 2, 'yes', 0, 0],
    [42, 5, 1, 2, true, 3, 0],
    [42, 5, 1, 2, true, 0],
    [43, 5, 1],
    [43, 5, [[1]]],
    [43, 5, [[0, 1, 1, 1, 1, 1, 1, ['x'], 1, Buffer.alloc(1)]]],
    [43, 5, [[0, 1, 1, 1, 1, 1, 1, 1, 1, 'text']]],
    [44, 5, [1]],
    [44, 5, 1],
    [45, 5, 1],
    [45, 5, [[1]]],
    [41, 5, 'FORBIDDEN', 'm', 1, null],
    [41, 5, 'FORBIDDEN', 'm', true, 1],
  ]
  for (const value of malformed) {
    t.throws(
      decode(value),
      { name: 'RequestError', id: 5, error: { code: 'INVALID_FIELD' } },
      JSON.stringify(value),
    )
  }
  t.throws(decode([46, 5, []]), { code: 'UNSUPPORTED_VERSION' })
  t.throws(decode([20, 5]), { code: 'UNSUPPORTED_VERSION' })
  t.throws(decode([42, 0, 1, 2, true, 0, 0]), { code: 'BAD_FRAME' })
  t.end()
})

t.test('LOOKUP is answered by a map that says what PROTOCOL.md says', (t) => {
  const lookup: LookupResult = {
    queueId,
    name: 'orders',
    options: { partitions: 2 },
    partitions: [
      { partition: 0, address: '127.0.0.1:7650', epoch: 3, logEnd: 17 },
      { partition: 1, address: null, epoch: 0, logEnd: 0 },
    ],
  }
  const frame = decodeServerFrame(
    valueOf(encodeServerFrame({ op: 'ok', id: 1, result: lookupToResult(lookup) })),
  )
  t.ok(frame.op === 'ok')
  const { result } = frame as { result: Record<string, unknown> }
  t.same(plain(result), {
    queueId: bytesOfQueueId,
    name: 'orders',
    options: { partitions: 2 },
    partitions: [
      [0, '127.0.0.1:7650', 3, 17],
      [1, null, 0, 0],
    ],
  })
  t.same(lookupOfResult(result), lookup)
  const wrong = [
    null,
    [],
    { ...result, queueId: 'text' },
    { ...result, name: 1 },
    { ...result, options: null },
    { ...result, partitions: {} },
    { ...result, partitions: [1] },
    { ...result, partitions: [[0, 1, 0, 0]] },
    { ...result, partitions: [[0, null, -1, 0]] },
  ]
  for (const it of wrong) t.throws(() => lookupOfResult(it), { code: 'INVALID_FIELD' })
  t.end()
})

t.test('names that a queue may have', (t) => {
  for (const name of ['a', '0', 'Orders.v2_x-y', 'a'.repeat(255)]) t.ok(isQueueName(name), name)
  for (const name of ['', '.a', '-a', 'a..b', 'a/b', 'ä', 'a b', 'a\n', 'a'.repeat(256)])
    t.notOk(isQueueName(name), name)
  t.end()
})

t.test('a RequestError carries the error that answers the request', (t) => {
  try {
    decodeClientFrame(valueOf(encodeFrame([10, 7, 5])))
    t.fail('a name that is a number')
  } catch (error) {
    t.ok(error instanceof RequestError)
    const { id, error: answer } = error as RequestError
    t.equal(id, 7)
    t.match(answer satisfies MqError, { code: 'INVALID_FIELD', retryable: false, details: { field: 'name' } })
  }
  t.end()
})

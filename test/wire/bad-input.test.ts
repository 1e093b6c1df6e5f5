/** The rows of bad-input.md that frames and decoding answer, one test each, under the row's name. */
import t, { type Test } from 'tap'
import { inspect } from 'node:util'
import { MqError } from '../../src/errors.ts'
import { attributes, attributeNames, readBatch, validateAttributes } from '../../src/wire/batch.ts'
import { decodeClientFrame, RequestError } from '../../src/wire/codec.ts'
import { encodeFrame, FrameReader } from '../../src/wire/frame.ts'
import { op } from '../../src/wire/messages.ts'
import { plainDecode, valueOf } from './arbitrary.ts'

const queueId = Buffer.alloc(16, 1)
const producerId = Buffer.alloc(16, 2)
const hello = [op.hello, 0, 1, 1, producerId, 1, 'name', null, null]
const send = [op.send, 5, queueId, 0, producerId, 0, 1, 0, 1, 0, Buffer.from('batch')]
const receive = [op.receive, 5, queueId, 0, 1, 1, 0, null, 0]
const settle = [op.settle, 5, queueId, 0, producerId, 0, 1, 0, 0, [1, 1, 1, 1], null, null]
const extend = [op.extend, 5, queueId, 0, 1000, [1, 1, 1, 1]]
const valid = [
  hello,
  [op.heartbeat, 0],
  [op.cancel, 5],
  [op.lookup, 5, 'orders'],
  [op.createQueue, 5, 'orders', {}],
  [op.listQueues, 5, null, 10],
  [op.describeQueue, 5, 'orders'],
  [op.deleteQueue, 5, 'orders', null],
  [op.updateQueue, 5, 'orders', { visibilityTimeoutMs: 5000 }],
  [op.purgeQueue, 5, 'orders', true],
  [op.peek, 5, 'orders', 10],
  send,
  receive,
  settle,
  extend,
]

/** The array with its element `at` replaced. */
const but = (frame: unknown[], at: number, value: unknown) => frame.with(at, value)

interface Refusal {
  /** undefined: the connection ends. */
  request: number | undefined
  code: string
  field: unknown
  details: MqError['details']
}

/** How a frame's value is refused. */
function refusalOf(value: Uint8Array): Refusal | 'accepted' {
  try {
    decodeClientFrame(value)
    return 'accepted'
  } catch (error) {
    const request = error instanceof RequestError ? error.id : undefined
    const answer = error instanceof RequestError ? error.error : error
    if (!(answer instanceof MqError)) throw error
    return { request, code: answer.code, field: answer.details?.field, details: answer.details }
  }
}

const refusal = (frame: unknown[]) => refusalOf(valueOf(encodeFrame(frame)))
const bytes = (...values: number[]) => Uint8Array.from(values)

/** A reader behind the preface that fails the test when it hands anything out. */
function reader(t: Test, frameBytesMax = 4096) {
  return new FrameReader({ frameBytesMax, headroom: 96, preface: true }, () => t.fail('no frame is complete'))
}

t.test('what the other tests spoil is accepted', (t) => {
  for (const frame of valid) t.equal(refusal(frame), 'accepted', JSON.stringify(frame[0]))
  t.end()
})

t.test('HTTP or TLS bytes on the plain port', (t) => {
  for (const first of ['GET / HTTP/1.1\r\n', '\x16\x03\x01\x02\x00', 'MQB2', 'MQB1'.toLowerCase()]) {
    const stream = Buffer.from(first, 'latin1')
    t.throws(() => reader(t).push(stream), { code: 'BAD_MAGIC' }, first)
    const differs = [...stream].findIndex((byte, i) => byte !== Buffer.from('MQB1')[i])
    const slow = reader(t)
    for (let i = 0; i < differs; i++) slow.push(stream.subarray(i, i + 1))
    t.throws(
      () => slow.push(stream.subarray(differs, differs + 1)),
      { code: 'BAD_MAGIC' },
      'at its first wrong byte',
    )
  }
  t.end()
})

t.test('length 0', (t) => {
  t.throws(() => reader(t).push(Buffer.from('MQB1\0\0\0\0')), { code: 'BAD_FRAME' })
  t.end()
})

t.test('trailing bytes in a frame', (t) => {
  for (const frame of valid) {
    const value = Buffer.concat([valueOf(encodeFrame(frame)), bytes(0xc0)])
    t.match(refusalOf(value), { request: undefined, code: 'BAD_FRAME' })
  }
  t.end()
})

t.test('length over the limit, up to 0xFFFFFFFF', (t) => {
  for (const length of [4097, 16 << 20, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    const stream = Buffer.from('MQB1....')
    stream.writeUInt32BE(length, 4)
    const before = process.memoryUsage().arrayBuffers
    t.throws(() => reader(t).push(stream), { code: 'FRAME_TOO_LARGE', details: { bytes: length } })
    t.ok(process.memoryUsage().arrayBuffers - before < 1 << 20)
  }
  t.end()
})

t.test('truncated frame: no partial effect', (t) => {
  for (const frame of valid) {
    const whole = valueOf(encodeFrame(frame))
    const partial = reader(t)
    partial.push(Buffer.from('MQB1'))
    partial.push(Uint8Array.from(encodeFrame(frame).subarray(0, whole.length + 3)))
    t.ok(partial.hasPartial)
    // Nor does a value that is shorter than it says, in a frame of its own.
    for (let end = 0; end < whole.length; end++) {
      t.match(refusalOf(whole.subarray(0, end)), { request: undefined, code: /BAD_FRAME|DECODE_LIMIT/ })
    }
  }
  t.end()
})

t.test('nesting over 16', (t) => {
  const nested = (depth: number): unknown => (depth === 0 ? 1 : { a: nested(depth - 1) })
  t.equal(refusal([op.createQueue, 5, 'q', nested(15)]), 'accepted')
  t.match(refusal([op.createQueue, 5, 'q', nested(16)]), { request: undefined, code: 'DECODE_LIMIT' })
  t.end()
})

t.test('array, map or bin count over what remains', (t) => {
  const heads: number[][] = [
    [0x9f],
    [0xdc, 0xff, 0xff],
    [0xdd, 0xff, 0xff, 0xff, 0xff],
    [0x8f],
    [0xde, 0xff, 0xff],
    [0xdf, 0xff, 0xff, 0xff, 0xff],
    [0xdf, 0x80, 0, 0, 1],
    [0xc4, 0xff],
    [0xc5, 0xff, 0xff],
    [0xc6, 0xff, 0xff, 0xff, 0xff],
    [0xbf],
    [0xd9, 0xff],
    [0xda, 0xff, 0xff],
    [0xdb, 0xff, 0xff, 0xff, 0xff],
  ]
  for (const head of heads) {
    const name = head.map((it) => it.toString(16)).join(' ')
    t.match(refusalOf(bytes(...head)), { request: undefined, code: 'DECODE_LIMIT' }, name)
    const inside = bytes(0x94, op.createQueue, 5, 0xa1, 0x71, ...head, 0xc0)
    t.match(refusalOf(inside), { request: undefined, code: 'DECODE_LIMIT' }, name)
  }
  t.end()
})

t.test('nested-array bomb', (t) => {
  const bomb = (open: number[]) =>
    Buffer.from(new Array<number[]>((72 << 10) / open.length).fill(open).flat())
  // Each array claims all that follows: decoded as it is told, 72 KiB would allocate gigabytes.
  const claims = Buffer.concat(
    Array.from({ length: (72 << 10) / 5 }, (_, i) => {
      const head = Buffer.from([0xdd, 0, 0, 0, 0])
      head.writeUInt32BE((72 << 10) - 5 - 5 * i, 1)
      return head
    }),
  )
  for (const it of [bomb([0x91]), bomb([0x92, 0xc0]), bomb([0x81, 0xa0]), bomb([0xdc, 0, 1]), claims]) {
    t.match(refusalOf(it), { request: undefined, code: 'DECODE_LIMIT' })
  }
  t.end()
})

t.test('options that are small on the wire and huge in memory', (t) => {
  const maps = Buffer.alloc(4 << 20, 0x80)
  const options = Buffer.concat([bytes(0x81, 0xa1, 0x61, 0xdd, 0, 0x40, 0, 0), maps])
  const frame = Buffer.concat([bytes(0x94, op.createQueue, 5, 0xa1, 0x71), options])
  t.match(refusalOf(frame), { request: 5, code: 'INVALID_FIELD', field: 'options' })
  t.end()
})

t.test('extension, RegExp, record definition, byte 0xC1', (t) => {
  const refused = (...value: number[]) => {
    const frame = bytes(0x94, op.createQueue, 5, 0xa1, 0x71, 0x81, 0xa1, 0x61, ...value)
    t.match(
      refusalOf(frame),
      { request: undefined, code: 'UNSUPPORTED_TYPE' },
      Buffer.from(value).toString('hex'),
    )
  }
  refused(0xc1)
  refused(0xc7, 1, 5, 0)
  refused(0xc8, 0, 1, 5, 0)
  refused(0xc9, 0, 0, 0, 1, 5, 0)
  refused(0xd4, 5, 0)
  refused(0xd5, 5, 0, 0)
  refused(0xd6, 0xff, 0, 0, 0, 0)
  refused(0xd7, 5, ...new Array<number>(8).fill(0))
  refused(0xd8, 5, ...new Array<number>(16).fill(0))
  // msgpackr's own: a record definition (72), undefined, a RegExp (78), an Error (65), a bundle of strings (62).
  refused(0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61, 1)
  refused(0xd5, 0x72, 0x40, 1, 0x91, 0xa1, 0x61, 1)
  refused(0xd4, 0, 0)
  refused(0xc7, 5, 0x78, 0x92, 0xa1, 0x61, 0xa1, 0x69)
  refused(0xc7, 3, 0x65, 0x92, 0xa0, 0xa0)
  refused(0xd6, 0x62, 0, 0, 0, 4)
  t.match(refusal([op.createQueue, 5, 'q', { a: new Date() }]), { code: 'UNSUPPORTED_TYPE' })
  // 0x40 … 0x7F are integers, never records.
  const number = decodeClientFrame(bytes(0x94, op.createQueue, 5, 0xa1, 0x71, 0x81, 0xa1, 0x61, 0x40))
  t.match(number, { options: { a: 0x40 } })
  t.end()
})

t.test('__proto__, constructor as keys', (t) => {
  const proto = JSON.parse('{"__proto__": {"polluted": true}}') as object
  for (const frame of [
    but(hello, 7, proto),
    but(hello, 8, { a: proto }),
    [op.createQueue, 5, 'q', proto],
    but(settle, 10, proto),
    but(settle, 11, [proto]),
  ]) {
    t.match(refusal(frame), {
      request: frame === valid[0] || frame[0] === op.hello ? 0 : 5,
      code: 'INVALID_FIELD',
    })
  }
  const options = {
    constructor: { prototype: { polluted: true } },
    toString: 1,
    hasOwnProperty: 2,
    valueOf: null,
  }
  const frame = decodeClientFrame(valueOf(encodeFrame([op.createQueue, 5, 'q', options])))
  t.same(frame.op === 'createQueue' && Object.keys(frame.options), Object.keys(options))
  t.equal(({} as { polluted?: boolean }).polluted, undefined)

  const headers = [{ constructor: 'a', prototype: 'b', toString: 'c' }]
  const batch = valueOf(encodeFrame([1, null, Buffer.alloc(4), { headers }, Buffer.alloc(0)]))
  validateAttributes(readBatch(batch), new Set(attributeNames))
  t.same(attributes(readBatch(batch)), { headers })
  t.end()
})

t.test('invalid UTF-8, NUL, ../, over 255 bytes, in a name', (t) => {
  const names = [
    '',
    '\0',
    'a\0b',
    '../etc',
    'a/../b',
    '..',
    'a..b',
    '/',
    'a b',
    'ä',
    '-a',
    '.a',
    'a'.repeat(256),
  ]
  for (const name of [...names, 'a'.repeat(3000)]) {
    for (const frame of [
      [op.lookup, 5, name],
      [op.createQueue, 5, name, {}],
      [op.describeQueue, 5, name],
      [op.deleteQueue, 5, name, null],
      [op.updateQueue, 5, name, {}],
      [op.purgeQueue, 5, name, false],
      [op.peek, 5, name, 1],
    ]) {
      t.match(
        refusal(frame),
        { request: 5, code: 'INVALID_NAME', field: 'name' },
        JSON.stringify(name.slice(0, 20)),
      )
    }
    t.match(refusal([op.listQueues, 5, name, 1]), { request: 5, code: 'INVALID_NAME', field: 'after' })
  }
  for (const invalid of [[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xe2, 0x82], [0xf4, 0x90, 0x80, 0x80]]) {
    const name = bytes(0xa0 | invalid.length, ...invalid)
    const lookup = Buffer.concat([bytes(0x93, op.lookup, 5), name])
    t.match(refusalOf(lookup), { request: 5, code: 'INVALID_NAME', field: 'name' })
    const options = Buffer.concat([bytes(0x94, op.createQueue, 5, 0xa1, 0x71, 0x81), name, bytes(1)])
    t.match(refusalOf(options), { request: 5, code: 'INVALID_FIELD', field: 'options' })
  }
  t.match(refusal(but(hello, 6, 'a\0')), { request: 0, code: 'INVALID_FIELD', field: 'name' })
  t.end()
})

/** Each integer field of each frame: its frame, its place, its name, its least and greatest value. */
const integers: [unknown[], number, string, number, number][] = [
  [hello, 5, 'session', 1, 2 ** 53 - 1],
  [[op.listQueues, 5, null, 10], 3, 'limit', 1, 1000],
  [send, 3, 'partition', 0, 1023],
  [send, 5, 'producerEpoch', 0, 2 ** 32 - 1],
  [send, 6, 'sequence', 0, 2 ** 53 - 1],
  [send, 7, 'opening', 0, 2 ** 53 - 1],
  [send, 8, 'count', 1, 10_000],
  [send, 9, 'crc', 0, 2 ** 32 - 1],
  [receive, 3, 'partition', 0, 1023],
  [receive, 4, 'max', 1, 1000],
  [receive, 5, 'maxBytes', 1, 16 << 20],
  [receive, 6, 'waitMs', 0, 20_000],
  [receive, 8, 'mode', 0, 1],
  [settle, 3, 'partition', 0, 1023],
  [settle, 5, 'producerEpoch', 0, 2 ** 32 - 1],
  [settle, 6, 'sequence', 0, 2 ** 53 - 1],
  [settle, 7, 'opening', 0, 2 ** 53 - 1],
  [settle, 8, 'action', 0, 3],
  [extend, 3, 'partition', 0, 1023],
]

t.test('number over 2^53, negative, NaN', (t) => {
  for (const [frame, at, field, least, greatest] of integers) {
    const request = frame[1] as number
    t.equal(refusal(but(frame, at, least)), 'accepted', `${field}, least`)
    t.equal(refusal(but(frame, at, greatest)), 'accepted', `${field}, greatest`)
    const wrong = [
      least - 1,
      greatest + 1,
      -1,
      -1e9,
      2 ** 53,
      1e300,
      2n ** 63n,
      -(2n ** 63n),
      NaN,
      Infinity,
      0.5,
    ]
    for (const value of [...wrong, '1', true, [], {}, Buffer.from([1])]) {
      t.match(
        refusal(but(frame, at, value)),
        { request, code: 'INVALID_FIELD', field },
        `${field}: ${inspect(value)}`,
      )
    }
  }
  t.match(refusal(but(settle, 9, [1, 1, 1, 2 ** 53])), { request: 5, code: 'INVALID_FIELD', field: 'items' })
  t.match(refusal(but(settle, 9, [1, 1, -1, 1])), { request: 5, code: 'INVALID_FIELD', field: 'items' })
  t.end()
})

t.test('missing or extra field', (t) => {
  const names = [
    ['minVersion', 'maxVersion', 'clientId', 'session', 'name', 'credentials', 'features'],
    [],
    [],
    ['name'],
    ['name', 'options'],
    ['after', 'limit'],
    ['name'],
    ['name', 'queueId'],
    ['name', 'options'],
    ['name', 'dryRun'],
    ['name', 'max'],
    ['queueId', 'partition', 'producerId', 'producerEpoch', 'sequence', 'opening', 'count', 'crc', 'batch'],
    ['queueId', 'partition', 'max', 'maxBytes', 'waitMs', 'visibilityTimeoutMs', 'mode'],
    'queueId partition producerId producerEpoch sequence opening action items options outputs'.split(' '),
    ['queueId', 'partition', 'extendMs', 'items'],
  ]
  valid.forEach((frame, i) => {
    // CANCEL has the id of another request, so its own fault is the connection's.
    const request = frame[0] === op.cancel ? 0 : frame[1]
    names[i]!.forEach((field, k) => {
      t.match(
        refusal(frame.slice(0, 2 + k)),
        { request, code: 'INVALID_FIELD', field },
        `${inspect(frame[0])} without ${field}`,
      )
      const nil = refusal(but(frame, 2 + k, null))
      if (nil !== 'accepted') t.match(nil, { request, code: /INVALID_FIELD|INVALID_NAME/, field })
    })
    t.match(refusal([...frame, null]), {
      request,
      code: 'INVALID_FIELD',
      field: `field ${names[i]!.length + 1}`,
    })
  })
  t.end()
})

t.test('ids that are not 16 bytes, items that are no fours, more of them than fit', (t) => {
  for (const wrong of [Buffer.alloc(15), Buffer.alloc(17), 'a'.repeat(16), null]) {
    t.match(refusal(but(send, 2, wrong)), { request: 5, code: 'INVALID_FIELD', field: 'queueId' })
    t.match(refusal(but(send, 4, wrong)), { request: 5, code: 'INVALID_FIELD', field: 'producerId' })
    t.match(refusal(but(hello, 4, wrong)), { request: 0, code: 'INVALID_FIELD', field: 'clientId' })
  }
  for (const items of [
    [],
    [1, 1, 1],
    [1, 1, 1, 1, 1],
    'items',
    null,
    new Array(40_004).fill(1),
    [1, 1, 1, 0],
  ]) {
    t.match(refusal(but(settle, 9, items)), { request: 5, code: 'INVALID_FIELD', field: 'items' })
    t.match(refusal(but(extend, 5, items)), { request: 5, code: 'INVALID_FIELD', field: 'items' })
  }
  t.equal(refusal(but(settle, 9, new Array(40_000).fill(1))), 'accepted')
  t.match(refusal(but(settle, 10, [])), { request: 5, code: 'INVALID_FIELD', field: 'options' })
  t.match(refusal(but(settle, 11, {})), { request: 5, code: 'INVALID_FIELD', field: 'outputs' })
  t.match(refusal(but(send, 10, 'batch')), { request: 5, code: 'INVALID_FIELD', field: 'batch' })
  t.end()
})

t.test('unknown opcode', (t) => {
  const details = { minVersion: 1, maxVersion: 1 }
  for (const nr of [0, 7, 26, 46, 63, 128, 255, 2 ** 40]) {
    t.match(refusal([nr, 5]), { request: undefined, code: 'UNSUPPORTED_VERSION', details }, `${nr}`)
  }
  t.end()
})

t.test('unknown version', (t) => {
  const details = { minVersion: 1, maxVersion: 1 }
  t.match(
    refusal([op.hello, 0, 2, 3]),
    { code: 'UNSUPPORTED_VERSION', details },
    'whatever its other fields are',
  )
  t.match(refusal(but(hello, 2, 2).with(3, 9)), { code: 'UNSUPPORTED_VERSION', details })
  t.match(refusal(but(hello, 2, 0).with(3, 0)), { code: 'UNSUPPORTED_VERSION', details })
  t.match(refusal(but(hello, 2, 1).with(3, 0)), { request: 0, code: 'INVALID_FIELD', field: 'maxVersion' })
  t.equal(refusal(but(hello, 2, 0).with(3, 9)), 'accepted')
  t.end()
})

t.test('operations of this protocol that this version does not do', (t) => {
  for (const nr of [19]) {
    t.same(decodeClientFrame(valueOf(encodeFrame([nr, 5, 'whatever']))), { op: 'unsupported', id: 5, nr })
  }
  t.end()
})

t.test('client calls replication or coordinator operations', (t) => {
  for (const nr of [64, 100, 127]) {
    t.same(decodeClientFrame(valueOf(encodeFrame([nr, 5, 'whatever']))), { op: 'forbidden', id: 5, nr })
  }
  t.end()
})

t.test('a client that plays the server', (t) => {
  for (const nr of [2, 6, 40, 41, 42, 43, 44, 45]) {
    t.match(refusal([nr, 5]), { request: undefined, code: 'BAD_FRAME' })
  }
  t.end()
})

t.test('a frame that is no array of operation and request id', (t) => {
  for (const value of [
    [0x01],
    [0xc0],
    [0x80],
    [0x90],
    [0x91, 20],
    [0xc4, 0],
    [0x92, 0xa0, 1],
    [0x92, 20, 0xa0],
  ]) {
    t.match(
      refusalOf(bytes(...value)),
      { request: undefined, code: 'BAD_FRAME' },
      Buffer.from(value).toString('hex'),
    )
  }
  for (const id of [0, -1, 2 ** 32, 2 ** 53, 1.5, 'a', null]) {
    t.match(refusal(but(send, 1, id)), { request: undefined, code: 'BAD_FRAME' }, `id ${id}`)
  }
  t.match(refusal(but(hello, 1, 1)), { request: undefined, code: 'BAD_FRAME' }, 'HELLO with an id')
  t.end()
})

t.test('visibility 0, negative, over 12 h', (t) => {
  const hours12 = 12 * 3_600_000
  for (const value of [0, -1, hours12 + 1]) {
    t.match(refusal(but(receive, 7, value)), {
      request: 5,
      code: 'INVALID_FIELD',
      field: 'visibilityTimeoutMs',
    })
    t.match(refusal(but(extend, 4, value)), { request: 5, code: 'INVALID_FIELD', field: 'extendMs' })
  }
  t.equal(refusal(but(receive, 7, hours12)), 'accepted')
  t.equal(refusal(but(extend, 4, hours12)), 'accepted')
  t.end()
})

t.test('every way to spoil one byte of a valid frame is refused or read, never thrown otherwise', (t) => {
  for (const frame of valid) {
    const value = Uint8Array.from(valueOf(encodeFrame(frame)))
    for (let at = 0; at < value.length; at++) {
      const was = value[at]!
      for (let byte = 0; byte < 256; byte++) {
        value[at] = byte
        refusalOf(value)
      }
      value[at] = was
    }
    t.same(plainDecode(value)[0], frame[0])
  }
  t.end()
})

/** Bytes that are no frames, and frames that nobody can trust: the broker says why in one ERROR 0, and closes. */
import t, { type Test } from 'tap'
import { encodeFrame } from '../../src/wire/frame.ts'
import { op, preface } from '../../src/wire/messages.ts'
import { limits } from '../../src/types.ts'
import {
  assertCutOff,
  assertRefused,
  batchOf,
  hello,
  realStage,
  rowsOf,
  sendFields,
  simulatedStage,
  type Frame,
  type Stage,
} from './stage.ts'

const stage = await realStage(t)
const row = rowsOf(t, stage)

/** A frame's length and so many bytes behind it. */
function framed(length: number, value: readonly number[] = []): Uint8Array {
  const frame = Buffer.alloc(4 + value.length)
  frame.writeUInt32BE(length)
  frame.set(value, 4)
  return frame
}

const whole = (value: readonly number[]) => framed(value.length, value)
const createQueue = (options: readonly number[]) => whole([0x94, op.createQueue, 5, 0xa1, 0x71, ...options])

void row('bytes of another protocol on the plain port: BAD_MAGIC', async (t) => {
  const foreign = {
    HTTP: 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n',
    TLS: Buffer.from('16030100a5010000a10303', 'hex'),
    'the preface of another version': 'MQB2\0\0\0\x01\xc0',
    'one wrong byte': 'm',
  }
  for (const [name, bytes] of Object.entries(foreign)) {
    const peer = await stage.connect()
    peer.write(bytes)
    await assertCutOff(t, peer, { code: 'BAD_MAGIC' }, name)
  }
})

void row('a length of 0: BAD_FRAME', async (t) => {
  const before = await stage.connect()
  before.write(preface, framed(0))
  await assertCutOff(t, before, { code: 'BAD_FRAME' }, 'before the handshake')
  const after = await stage.peer()
  after.write(framed(0))
  await assertCutOff(t, after, { code: 'BAD_FRAME' }, 'after it')
})

void row('bytes behind the value of a frame: BAD_FRAME', async (t) => {
  const peer = await stage.peer()
  peer.write(whole([0x93, op.lookup, 5, 0xa1, 0x71, 0xc0]))
  await assertCutOff(t, peer, { code: 'BAD_FRAME' })
})

void row(
  'a length over the limit, up to 0xFFFFFFFF: FRAME_TOO_LARGE, and nothing is allocated',
  async (t) => {
    const buffersBefore = process.memoryUsage().arrayBuffers
    for (const bytes of [limits.handshakeBytesMax + 1, 16 << 20, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
      const peer = await stage.connect()
      peer.write(preface, framed(bytes))
      const details = { bytes, frameBytesMax: limits.handshakeBytesMax }
      await assertCutOff(t, peer, { code: 'FRAME_TOO_LARGE', details }, `${bytes} before the handshake`)
    }
    for (const bytes of [limits.frameBytesMax + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
      const peer = await stage.peer()
      peer.write(framed(bytes))
      const details = { bytes, frameBytesMax: limits.frameBytesMax }
      await assertCutOff(t, peer, { code: 'FRAME_TOO_LARGE', details }, `${bytes} after it`)
    }
    t.ok(process.memoryUsage().arrayBuffers - buffersBefore < 8 << 20)
  },
)

void row('lengths that are allowed and never filled take no memory', async (t) => {
  const peers = await Promise.all(Array.from({ length: 50 }, () => stage.peer()))
  const buffersBefore = process.memoryUsage().arrayBuffers
  for (const peer of peers) peer.write(framed(limits.frameBytesMax, [0x9b, op.send]))
  // What was written before it has been read once this is answered.
  const last = await stage.peer()
  t.equal((await last.ask(op.listQueues, null, 1))[0], op.ok)
  t.ok(process.memoryUsage().arrayBuffers - buffersBefore < 32 << 20, '50 times 16 MiB were announced')
})

void row('a frame that is cut short by the end of the stream has no effect', async (t) => {
  const queue = await stage.queue()
  const send = encodeFrame([op.send, 5, ...sendFields(queue)])
  const create = encodeFrame([op.createQueue, 5, 'half', {}])
  for (const frame of [send, create, encodeFrame([op.deleteQueue, 5, queue.name, null])]) {
    for (const end of [1, 3, 4, 5, frame.length - 1]) {
      const peer = await stage.peer()
      peer.write(frame.subarray(0, end))
      peer.finish()
      await peer.end()
      t.equal(peer.error, undefined, 'the broker ends its side in order')
      t.strictSame(peer.frames, [])
    }
  }
  t.ok(stage.broker.internals.queues.has(queue.name))
})

void row('nesting over 16: DECODE_LIMIT', async (t) => {
  const nested = (depth: number): unknown => (depth === 0 ? 1 : { a: nested(depth - 1) })
  const peer = await stage.peer()
  peer.send([op.createQueue, 5, 'nested', nested(16)])
  await assertCutOff(t, peer, { code: 'DECODE_LIMIT' })
})

void row('counts over what remains, and bombs: DECODE_LIMIT', async (t) => {
  const bombs = {
    'an array of 2^32 - 1': createQueue([0xdd, 0xff, 0xff, 0xff, 0xff]),
    'a map of 2^32 - 1': createQueue([0xdf, 0xff, 0xff, 0xff, 0xff]),
    'a bin of 2^32 - 1': createQueue([0xc6, 0xff, 0xff, 0xff, 0xff]),
    'a text of 2^32 - 1': createQueue([0xdb, 0xff, 0xff, 0xff, 0xff]),
    'the frame itself': whole([0xdd, 0xff, 0xff, 0xff, 0xff]),
    'arrays in arrays': createQueue(new Array<number>(72 << 10).fill(0x91)),
    'arrays that claim the rest, each': createQueue(
      Array.from({ length: 14_000 }, (_, i) => {
        const rest = 70_000 - 5 * i
        return [0xdd, 0, (rest >> 16) & 255, (rest >> 8) & 255, rest & 255]
      }).flat(),
    ),
  }
  const heapBefore = process.memoryUsage().heapUsed
  for (const [name, bytes] of Object.entries(bombs)) {
    const peer = await stage.peer()
    peer.write(bytes)
    await assertCutOff(t, peer, { code: 'DECODE_LIMIT' }, name)
  }
  t.ok(process.memoryUsage().heapUsed - heapBefore < 64 << 20)
})

void row('extensions, records, a RegExp, the byte C1: UNSUPPORTED_TYPE', async (t) => {
  const values = {
    C1: [0xc1],
    'fixext 1': [0xd4, 5, 0],
    'ext 8': [0xc7, 1, 5, 0],
    'a record definition': [0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61, 1],
    'a RegExp': [0xc7, 5, 0x78, 0x92, 0xa1, 0x61, 0xa1, 0x69],
    'an Error': [0xc7, 3, 0x65, 0x92, 0xa0, 0xa0],
    'a date': [0xd6, 0xff, 0, 0, 0, 0],
    'a map with a number for key': [0x81, 1, 1],
  }
  for (const [name, value] of Object.entries(values)) {
    const peer = await stage.peer()
    peer.write(createQueue([0x81, 0xa1, 0x61, ...value]))
    await assertCutOff(t, peer, { code: 'UNSUPPORTED_TYPE' }, name)
  }
})

void row('an operation that no version knows: UNSUPPORTED_VERSION with the range', async (t) => {
  for (const nr of [0, 7, 26, 63, 128, 2 ** 40]) {
    const peer = await stage.peer()
    peer.send([nr, 5])
    const details = { minVersion: 1, maxVersion: 1 }
    await assertCutOff(t, peer, { code: 'UNSUPPORTED_VERSION', details }, `operation ${nr}`)
  }
})

void row('a version that is not spoken here: UNSUPPORTED_VERSION with the range', async (t) => {
  const hellos: Frame[] = [
    hello({ minVersion: 2, maxVersion: 9 }),
    hello({ minVersion: 0, maxVersion: 0 }),
    [op.hello, 0, 7, 7, 'fields', 'of', 'another', 'time'],
  ]
  for (const frame of hellos) {
    const peer = await stage.connect()
    peer.write(preface)
    peer.send(frame)
    const details = { minVersion: 1, maxVersion: 1 }
    await assertCutOff(t, peer, { code: 'UNSUPPORTED_VERSION', details })
  }
})

void row('a handshake with a field that is missing, one too many or wrong: INVALID_FIELD', async (t) => {
  const wrong: [Frame, string][] = [
    [hello().slice(0, 5), 'session'],
    [[...hello(), null], 'field 8'],
    [hello({ clientId: Buffer.alloc(15) }), 'clientId'],
    [hello({ session: 0 }), 'session'],
    [hello({ session: 2 ** 53 }), 'session'],
    [hello({ minVersion: 1, maxVersion: 0 }), 'maxVersion'],
    [hello({ name: 'a\0b' }), 'name'],
    [hello({ name: 'a'.repeat(256) }), 'name'],
    [hello({ features: JSON.parse('{"__proto__": 1}') }), 'features'],
  ]
  for (const [frame, field] of wrong) {
    const peer = await stage.connect()
    peer.write(preface)
    peer.send(frame)
    await assertCutOff(t, peer, { code: 'INVALID_FIELD', field })
  }
})

void row('anything before the handshake: UNAUTHENTICATED, whatever else is wrong with it', async (t) => {
  const early: Frame[] = [
    [op.lookup, 5, 'witness'],
    [op.lookup, 5, '../etc'],
    [op.createQueue, 5, 'early', {}],
    [op.deleteQueue, 5],
    [op.peek, 5],
    [64, 5],
    [op.heartbeat, 0],
    [op.cancel, 5],
  ]
  for (const frame of early) {
    const peer = await stage.connect()
    peer.write(preface)
    peer.send(frame)
    await assertCutOff(t, peer, { code: 'UNAUTHENTICATED' }, JSON.stringify(frame))
  }
})

void row('HELLO a second time, and what is the server’s to send: BAD_FRAME', async (t) => {
  for (const frame of [hello(), [op.helloOk, 0], [op.goAway, 0, 'go'], [op.ok, 5, null], [op.push, 5, []]]) {
    const peer = await stage.peer()
    peer.send(frame)
    await assertCutOff(t, peer, { code: 'BAD_FRAME' })
  }
})

void row('credentials where there are no users: AUTH_FAILED', async (t) => {
  const peer = await stage.connect()
  peer.write(preface)
  peer.send(hello({ credentials: { user: 'root', password: 'secret' } }))
  await assertCutOff(t, peer, { code: 'AUTH_FAILED' })
})

void row(
  'a session that is not newer than the one that is open: SESSION_REPLACED, and that one lives',
  async (t) => {
    const peer = await stage.connect()
    await peer.shakeHands({ session: 5 })
    for (const session of [5, 4]) {
      const older = await stage.connect()
      older.write(preface)
      older.send(hello({ clientId: peer.clientId, session }))
      await assertCutOff(t, older, { code: 'SESSION_REPLACED' })
    }
    t.equal((await peer.ask(op.lookup, 'witness'))[0], op.ok)
  },
)

void row('a request id that is in flight: DUPLICATE_REQUEST_ID, and neither is carried out', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const receive = [op.receive, 5, queue.id, null, 1, 1000, 20_000, null, 0]
  peer.send(receive, receive)
  await assertCutOff(t, peer, { code: 'DUPLICATE_REQUEST_ID' })
  t.equal(stage.broker.internals.queues.get(queue.name)!.messages, 0)
})

void row('what follows a frame that cuts the connection off is not carried out', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send(
    [op.heartbeat, 0],
    [63, 1],
    [op.send, 5, ...sendFields(queue)],
    [op.deleteQueue, 6, queue.name, null],
  )
  await assertCutOff(t, peer, { code: 'UNSUPPORTED_VERSION' })
  t.ok(stage.broker.internals.queues.has(queue.name))
})

/** Starts a stage whose clock only moves when told. */
const timed = (name: string, body: (t: Test, stage: Stage) => Promise<void>) =>
  t.test(name, async (t) => {
    const stage = await simulatedStage(t)
    await body(t, stage)
    await stage.check(t)
  })

void timed('a handshake that never comes: HANDSHAKE_TIMEOUT within 10 s', async (t, stage) => {
  const silent = await stage.connect()
  const half = await stage.connect()
  half.write('MQ')
  await stage.world!.advance(9_900)
  t.notOk(silent.ended || half.ended)
  await stage.world!.advance(200)
  await assertCutOff(t, silent, { code: 'HANDSHAKE_TIMEOUT' })
  await assertCutOff(t, half, { code: 'HANDSHAKE_TIMEOUT' })
})

void timed('a handshake one byte at a time: HANDSHAKE_TIMEOUT within 10 s', async (t, stage) => {
  const peer = await stage.connect()
  const bytes = Buffer.concat([preface, encodeFrame(hello({ name: 'a'.repeat(200) }))])
  for (let at = 0; at < bytes.length && !peer.ended; at++) {
    peer.write(bytes.subarray(at, at + 1))
    await stage.world!.advance(100)
    if (at === 98) t.notOk(peer.ended)
  }
  await assertCutOff(t, peer, { code: 'HANDSHAKE_TIMEOUT' })
})

void timed(
  'a frame one byte at a time: FRAME_TIMEOUT within 10 s, and it has no effect',
  async (t, stage) => {
    const queue = await stage.queue()
    const peer = await stage.peer()
    const bytes = encodeFrame([op.send, 5, ...sendFields(queue, { batch: batchOf(['a'.repeat(200)]) })])
    for (let at = 0; at < bytes.length && !peer.ended; at++) {
      peer.write(bytes.subarray(at, at + 1))
      await stage.world!.advance(100)
      if (at === 98) t.notOk(peer.ended)
    }
    await assertCutOff(t, peer, { code: 'FRAME_TIMEOUT' })
  },
)

void timed('a frame that stops in its length: FRAME_TIMEOUT', async (t, stage) => {
  const peer = await stage.peer()
  peer.write(Uint8Array.of(0, 0))
  await stage.world!.advance(10_100)
  await assertCutOff(t, peer, { code: 'FRAME_TIMEOUT' })
})

void timed('a peer that falls silent: DISCONNECTED after three heartbeats', async (t, stage) => {
  const peer = await stage.peer()
  await stage.world!.advance(29_000)
  t.notOk(peer.ended)
  await stage.world!.advance(1_100)
  const last = await peer.next()
  assertRefused(t, last, { code: 'DISCONNECTED' })
  await peer.end()
})

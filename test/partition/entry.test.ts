import fc from 'fast-check'
import { crc32 } from 'node:zlib'
import t from 'tap'
import { nextChain } from '../../src/partition/chain.ts'
import {
  CorruptEntry,
  decodeEntry,
  decodeHeader,
  encodeEntry,
  entryKind,
  entryLength,
  headerBytes,
  logName,
  payloadVerifies,
  noProducer,
  peekEntry,
  type EntryHeader,
  type EntryKind,
} from '../../src/partition/entry.ts'
import { decodeBody, encodeBody, type EntryBody } from '../../src/partition/payload.ts'

const orders = logName('00112233445566778899aabbccddeeff', 7)

const header: EntryHeader = {
  kind: 'batch',
  count: 3,
  base: 0x1_0000_0002,
  epoch: 5,
  timeMs: 1_767_225_600_123,
  producerId: 'ABCDEFGHIJKLMNO\xff',
  producerEpoch: 9,
  sequence: 0x2_0000_0001,
  opening: 42,
  notBeforeMs: 0x1_0000_0003,
  ownDelays: false,
  isForwarded: false,
}
const payload = Buffer.from('three messages')
const previousChain = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)

function encoded(changes: Partial<EntryHeader> = {}, body: Uint8Array = payload): Buffer {
  return encodeEntry(orders, { ...header, ...changes }, body, crc32(body), previousChain)
}

/** The bytes with a change that a newer version might have made, and crcs that are right. */
function sealed(change: (bytes: Buffer) => void): Buffer {
  const bytes = encoded()
  change(bytes)
  bytes.writeUInt32BE((crc32(bytes.subarray(12, headerBytes)) ^ crc32(orders.bytes)) >>> 0, 0)
  return bytes
}

const offsets = fc.maxSafeNat()
const uint32 = fc.nat({ max: 0xffff_ffff })
const headers: fc.Arbitrary<EntryHeader> = fc.record({
  kind: fc.constantFrom(...(Object.keys(entryKind) as EntryKind[])),
  count: uint32,
  base: offsets,
  epoch: offsets,
  timeMs: offsets,
  producerId: fc.uint8Array({ minLength: 16, maxLength: 16 }).map((id) => Buffer.from(id).toString('latin1')),
  producerEpoch: uint32,
  sequence: offsets,
  opening: offsets,
  notBeforeMs: offsets,
  ownDelays: fc.boolean(),
  isForwarded: fc.boolean(),
})
const payloads = fc.uint8Array({ maxLength: 200 })
const chains = fc.uint8Array({ minLength: 8, maxLength: 8 })
const names = fc
  .record({ id: fc.uint8Array({ minLength: 16, maxLength: 16 }), partition: uint32 })
  .map(({ id, partition }) => logName(Buffer.from(id).toString('hex'), partition))

void t.test('the format is these bytes, and these only', async (t) => {
  const golden = [
    'af57b099', // crc of the header
    '6dca13440af426ea', // chain
    '01', // format
    '01', // kind: batch
    '0000', // flags
    '0000000e', // payload length
    '00000003', // count
    '0000000100000002', // base
    '0000000000000005', // epoch
    '0000019b76daa87b', // time
    '4142434445464748494a4b4c4d4e4fff', // producer id
    '00000009', // producer epoch
    '9465e5d3', // crc of the payload
    '0000000200000001', // sequence
    '000000000000002a', // opening
    '0000000100000003', // not before
    '7468726565206d65737361676573', // payload
  ].join('')
  t.equal(encoded().toString('hex'), golden)
})

void t.test('each kind keeps its number', async (t) => {
  t.strictSame(entryKind, {
    batch: 1,
    settle: 2,
    fail: 3,
    epochStart: 4,
    leases: 5,
    evict: 6,
    quarantine: 7,
    move: 8,
    forwarded: 9,
    redirect: 10,
    forget: 11,
    purge: 16,
  })
})

void t.test('an entry reads as it was written', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(names, headers, payloads, chains, (name, wanted, body, chain) => {
        const bytes = encodeEntry(name, wanted, body, crc32(body), chain)
        const entry = decodeEntry(name, bytes, 0)
        for (const [field, value] of Object.entries(wanted)) {
          if (entry[field as keyof EntryHeader] !== value) throw new Error(`${field} is ${String(value)}`)
        }
        if (Buffer.compare(entry.payload, body) !== 0) throw new Error('another payload')
        if (entry.payloadCrc !== crc32(body)) throw new Error('another payload crc')
        const wantedChain = nextChain(chain, wanted.epoch, wanted.base, entry.crc)
        if (Buffer.compare(entry.chain, wantedChain) !== 0) throw new Error('another chain')
      }),
    ),
  )
})

void t.test('entries that share a record are read one by one', async (t) => {
  const record = Buffer.concat([
    encoded({ base: 1 }),
    encoded({ base: 4 }, Buffer.alloc(0)),
    encoded({ base: 7 }),
  ])
  const found: number[] = []
  for (let at = 0; at < record.length; at += entryLength(record, at)) {
    found.push(decodeEntry(orders, record, at).base)
  }
  t.strictSame(found, [1, 4, 7])
})

void t.test('the way through a record is found without reading entries', async (t) => {
  t.strictSame(peekEntry(Buffer.concat([Buffer.alloc(3), encoded()]), 3), {
    base: header.base,
    count: 3,
    length: headerBytes + payload.length,
  })
})

void t.test('there is no way through a record that is cut short', async (t) => {
  const whole = encoded()
  const found: number[] = []
  for (let length = 0; length < whole.length; length++) {
    try {
      peekEntry(whole.subarray(0, length), 0)
      found.push(length)
    } catch (error) {
      if (!(error instanceof CorruptEntry)) found.push(length)
    }
  }
  t.strictSame(found, [])
})

void t.test('written in place', async (t) => {
  const write = (headroom: number, headroomTold = headroom) => {
    const frame = Buffer.alloc(headroom + payload.length + 50, 0xee)
    frame.set(payload, headroom)
    const before = Buffer.from(frame)
    const batch = frame.subarray(headroom, headroom + payload.length)
    const bytes = encodeEntry(orders, header, batch, crc32(payload), previousChain, headroomTold)
    return { frame, before, bytes }
  }

  await t.test('it has the bytes of a copy', async (t) => {
    t.strictSame(write(100).bytes, encoded())
  })

  await t.test('it is the memory that brought the batch', async (t) => {
    const { frame, bytes } = write(100)
    t.equal(bytes.buffer, frame.buffer)
    t.equal(bytes.byteOffset, frame.byteOffset + 4)
  })

  await t.test('only the 96 bytes before the batch change', async (t) => {
    const { frame, before } = write(100)
    t.strictSame(frame.subarray(0, 4), before.subarray(0, 4), 'what comes before stays')
    t.strictSame(frame.subarray(100), before.subarray(100), 'the batch and what follows stay')
  })

  await t.test('96 bytes are enough', async (t) => {
    t.equal(write(96).bytes.byteOffset, 0)
  })

  await t.test('95 are not, and nothing of the frame changes', async (t) => {
    const { frame, before, bytes } = write(100, 95)
    t.strictSame(frame, before)
    t.strictSame(bytes, encoded())
  })
})

void t.test('a copy does not follow its batch', async (t) => {
  const batch = Buffer.from(payload)
  const bytes = encodeEntry(orders, header, batch, crc32(batch), previousChain)
  batch.fill(0)
  t.strictSame(bytes, encoded())
})

void t.test('every single flipped bit outside the chain is noticed', async (t) => {
  const unnoticed: string[] = []
  const wrongError: string[] = []
  for (let bit = 0; bit < encoded().length * 8; bit++) {
    const at = bit >> 3
    if (at >= 4 && at < 12) continue
    const bytes = encoded()
    bytes[at]! ^= 1 << (bit & 7)
    try {
      decodeEntry(orders, bytes, 0)
      unnoticed.push(`byte ${at}`)
    } catch (error) {
      if (!(error instanceof CorruptEntry)) wrongError.push(`byte ${at}: ${String(error)}`)
    }
  }
  t.strictSame(unnoticed, [])
  t.strictSame(wrongError, [], 'and is rot, not a newer format')
})

void t.test(
  'a flipped bit in the chain passes the crc: the entries before it say what it should be',
  async (t) => {
    const unnoticed: number[] = []
    for (let bit = 32; bit < 96; bit++) {
      const bytes = encoded()
      bytes[bit >> 3]! ^= 1 << (bit & 7)
      const entry = decodeEntry(orders, bytes, 0)
      const wanted = nextChain(previousChain, entry.epoch, entry.base, entry.crc)
      if (Buffer.compare(entry.chain, wanted) === 0) unnoticed.push(bit)
    }
    t.strictSame(unnoticed, [])
  },
)

void t.test('a header', async (t) => {
  await t.test('can be trusted though the payload has rotted', async (t) => {
    const bytes = encoded()
    bytes[headerBytes + 3]! ^= 0x10
    const entry = decodeHeader(orders, bytes, 0)
    t.match(entry, { ...header, payloadCrc: crc32(payload), crc: encoded().readUInt32BE(0) })
    t.equal(payloadVerifies(entry), false)
  })
  await t.test('says whether the payload is its own', async (t) => {
    t.equal(payloadVerifies(decodeHeader(orders, encoded(), 0)), true)
  })
  await t.test('can not be trusted with any bit flipped', async (t) => {
    const unnoticed: number[] = []
    for (let bit = 0; bit < headerBytes * 8; bit++) {
      if (bit >= 32 && bit < 96) continue
      const bytes = encoded()
      bytes[bit >> 3]! ^= 1 << (bit & 7)
      try {
        decodeHeader(orders, bytes, 0)
        unnoticed.push(bit)
      } catch (error) {
        if (!(error instanceof CorruptEntry)) throw error
      }
    }
    t.strictSame(unnoticed, [])
  })
  await t.test('can not be trusted under the key of another log', async (t) => {
    t.throws(() => decodeHeader(logName(orders.queueId, 8), encoded(), 0), CorruptEntry)
  })
})

void t.test('an entry does not verify', async (t) => {
  await t.test('as one of another partition', async (t) => {
    t.throws(() => decodeEntry(logName(orders.queueId, 8), encoded(), 0), CorruptEntry)
  })
  await t.test('as one of another queue', async (t) => {
    t.throws(() => decodeEntry(logName('f'.repeat(32), 7), encoded(), 0), CorruptEntry)
  })
  await t.test('when it is cut short anywhere', async (t) => {
    const whole = encoded()
    const read: number[] = []
    for (let length = 0; length < whole.length; length++) {
      try {
        decodeEntry(orders, Buffer.from(whole.subarray(0, length)), 0)
        read.push(length)
      } catch (error) {
        if (!(error instanceof CorruptEntry)) read.push(length)
      }
    }
    t.strictSame(read, [])
  })
  await t.test('where none begins', async (t) => {
    t.throws(() => decodeEntry(orders, encoded(), 1), CorruptEntry)
    t.throws(() => decodeEntry(orders, encoded(), encoded().length), CorruptEntry)
  })
})

void t.test('a newer version wrote it', async (t) => {
  const newer = { name: 'MqError', code: 'NEWER_DATA_FORMAT' }
  const read = (change: (bytes: Buffer) => void) => () => decodeEntry(orders, sealed(change), 0)
  t.doesNotThrow(
    read(() => undefined),
    'the crcs of these tests are right',
  )
  t.throws(
    read((bytes) => (bytes[12] = 2)),
    newer,
    'format 2',
  )
  t.throws(
    read((bytes) => (bytes[12] = 0)),
    newer,
    'format 0',
  )
  t.throws(
    read((bytes) => (bytes[13] = 12)),
    newer,
    'kind 12',
  )
  t.throws(
    read((bytes) => (bytes[13] = 0)),
    newer,
    'kind 0',
  )
  for (let flag = 2; flag < 16; flag++) {
    t.throws(
      read((bytes) => bytes.writeUInt16BE(1 << flag, 14)),
      newer,
      `flag ${flag}`,
    )
  }
})

void t.test('a queue id that is not 16 bytes names no log', async (t) => {
  for (const id of ['', 'ab', 'f'.repeat(31), 'f'.repeat(34), 'x'.repeat(32)]) {
    t.throws(() => logName(id, 0), { name: 'InvariantError' }, JSON.stringify(id))
  }
})

const ranges = fc
  .array(fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 40 })), { maxLength: 4 })
  .map((list) => list.flat())
const triples = fc
  .array(fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 40 }), offsets), { maxLength: 4 })
  .map((list) => list.flat())
const target = fc.record({
  queueId: fc.uint8Array({ minLength: 16, maxLength: 16 }).map((id) => Buffer.from(id).toString('hex')),
  partition: fc.nat(1023),
})
const moved = fc.record({ why: fc.nat(2), target, error: fc.option(fc.string()), ranges })
const bodies: fc.Arbitrary<Exclude<EntryBody, { kind: 'batch' }>> = fc.oneof(
  fc.record({
    kind: fc.constant('settle' as const),
    action: fc.nat(3),
    settled: ranges,
    refused: fc.option(ranges),
    requestCrc: uint32,
    reason: fc.option(fc.string()),
    notBefore: fc.constant(null),
    moved: fc.option(moved),
  }),
  fc
    .array(fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 40 }), offsets), { maxLength: 4 })
    .map((list) => ({
      kind: 'settle' as const,
      action: 1,
      settled: list.flatMap(([start, count]) => [start, count]),
      refused: null,
      requestCrc: 5,
      reason: 'why',
      notBefore: list.map(([, , ms]) => ms),
      moved: null,
    })),
  fc.record({
    kind: fc.constant('fail' as const),
    cause: fc.nat(1),
    ranges,
    notBefore: fc.constant(null),
    moved: fc.option(moved),
  }),
  fc.record({ kind: fc.constant('epochStart' as const), previous: offsets }),
  fc.record({
    kind: fc.constant('leases' as const),
    nextLease: offsets,
    leases: fc.array(fc.record({ lease: offsets, epoch: offsets, ranges: triples }), { maxLength: 3 }),
  }),
  fc.record({
    kind: fc.constant('evict' as const),
    floor: offsets,
    producers: fc
      .array(fc.uint8Array({ minLength: 16, maxLength: 16 }), { maxLength: 3 })
      .map((ids) => ids.map((id) => Buffer.from(id).toString('latin1'))),
  }),
  fc.record({ kind: fc.constant('quarantine' as const), ranges }),
  fc.record({ kind: fc.constant('purge' as const), ranges }),
  fc.record({ kind: fc.constant('move' as const), moved }),
  fc.record({
    kind: fc.constant('forwarded' as const),
    target,
    position: fc.record({ epoch: offsets, offset: offsets, index: uint32 }),
  }),
  fc.record({ kind: fc.constant('redirect' as const), from: target, to: fc.option(target) }),
  fc.record({
    kind: fc.constant('forget' as const),
    sources: fc
      .array(fc.uint8Array({ minLength: 16, maxLength: 16 }), { maxLength: 3 })
      .map((ids) => ids.map((id) => Buffer.from(id).toString('latin1'))),
  }),
)

/** The payload as it would be read back, in an entry that is right. */
function reread(kind: EntryKind, body: Uint8Array): EntryBody {
  return decodeBody(decodeEntry(orders, encoded({ kind, producerId: noProducer }, body), 0))
}

void t.test('a body reads as it was written', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(bodies, (body) => {
        const read = reread(body.kind, encodeBody(body))
        if (JSON.stringify(read) !== JSON.stringify(body)) throw new Error(JSON.stringify(read))
      }),
    ),
  )
})

void t.test('bodies keep their layout', async (t) => {
  const hex = (body: Parameters<typeof encodeBody>[0]) => Buffer.from(encodeBody(body)).toString('hex')
  t.equal(
    hex({
      kind: 'settle',
      action: 0,
      settled: [3, 2],
      refused: [5, 1],
      requestCrc: 0xdeadbeef,
      reason: null,
      notBefore: null,
      moved: null,
    }),
    '9700920302920501cedeadbeefc0c0c0',
  )
  t.equal(
    hex({
      kind: 'settle',
      action: 0,
      settled: [3, 2],
      refused: null,
      requestCrc: 1,
      reason: null,
      notBefore: null,
      moved: null,
    }),
    '9700920302c001c0c0c0',
  )
  t.equal(hex({ kind: 'fail', cause: 0, ranges: [3, 2], notBefore: null, moved: null }), '9500920302c0c0c0')
  t.equal(hex({ kind: 'fail', cause: 0, ranges: [3, 2], notBefore: [9], moved: null }), '95009203029109c0c0')
  t.equal(hex({ kind: 'epochStart', previous: 6 }), '9106')
  t.equal(
    hex({ kind: 'leases', nextLease: 4, leases: [{ lease: 3, epoch: 6, ranges: [3, 2, 100] }] }),
    '9204919303069303' + '0264',
  )
  t.equal(
    hex({ kind: 'evict', floor: 9, producers: ['ABCDEFGHIJKLMNOP'] }),
    '920991c4104142434445464748494a4b4c4d4e4f50',
  )
  t.equal(hex({ kind: 'quarantine', ranges: [3, 2] }), '91920302')
})

void t.test('a body that is not what its kind says is corrupt', async (t) => {
  const wrong: [EntryKind, string, string][] = [
    ['settle', '', 'nothing'],
    ['settle', 'c0', 'no array'],
    ['settle', '90', 'too short an array'],
    ['settle', '9700920302c0c0c0c0c0', 'no crc'],
    ['settle', '9700920302c00107c0c0', 'a number for a reason'],
    ['settle', '9700920302c001c0920102c0', 'two times for one range'],
    ['settle', '9700920302c001c007c0', 'a time for a list'],
    ['fail', '940092030290c0', 'no time for a range'],
    ['fail', '94ff920302c0c0', 'a negative number'],
    ['fail', '9400c0c0c0', 'no ranges'],
    ['fail', '940091a178c0c0', 'text for a number'],
    ['epochStart', '91cb3fe0000000000000', 'a fraction'],
    ['leases', '92049103', 'a lease that is no array'],
    ['evict', '920991c4024142', 'a producer id of two bytes'],
    ['quarantine', '91c3', 'true'],
    ['quarantine', '91', 'an array cut short'],
    ['quarantine', '9192030200', 'bytes behind it'],
    ['quarantine', '919103', 'half a range'],
    ['quarantine', '91920300', 'a range of nothing'],
    ['quarantine', '9192cf001fffffffffffff01', 'a range beyond the last offset'],
    ['leases', '9204919203' + '06', 'a lease without ranges'],
    ['leases', '9204919303069203' + '02', 'a lease of two numbers'],
  ]
  for (const [kind, hex, what] of wrong) {
    t.throws(() => reread(kind, Buffer.from(hex, 'hex')), CorruptEntry, `${kind}: ${what}`)
  }
})

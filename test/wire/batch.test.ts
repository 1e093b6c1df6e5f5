import t from 'tap'
import fc from 'fast-check'
import { pack as packrPack, Packr } from 'msgpackr/pack'
import { crc32 } from 'node:zlib'
import {
  attributeColumns,
  attributeNames,
  attributes,
  BatchBuilder,
  bodyAt,
  crcOf,
  forEachMessage,
  largestMessageBytes,
  messageBody,
  messageBytes,
  readBatch,
  sliceBatch,
  validateAttributes,
} from '../../src/wire/batch.ts'
import { buildBatch, naiveBatch, naiveMessages, plain, plainDecode, sentMessages } from './arbitrary.ts'

const packr = new Packr({ useRecords: false, variableMapSize: true })
const pack = (value: unknown) => packr.pack(value)
const all = new Set<string>(attributeNames)
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const fill = (count: number, value: unknown) => new Array<unknown>(count).fill(value)

interface Parts {
  version?: unknown
  serializer?: unknown
  lengths?: number[]
  columns?: unknown
  bodies?: unknown
  more?: unknown[]
}

/** A batch by its parts, for what the builder never makes; of 2 messages, and sound, unless told otherwise. */
function batchOf(parts: Parts = {}): Uint8Array {
  const { version = 1, serializer = null, lengths = [2, 3], columns = null, more = [] } = parts
  const { bodies = Buffer.from('aabbb') } = parts
  const bytes = Buffer.alloc(4 * lengths.length)
  lengths.forEach((length, i) => bytes.writeUInt32BE(length, 4 * i))
  return Uint8Array.from(pack([version, serializer, bytes, columns, bodies, ...more]))
}

t.test('a batch is what any msgpack library reads: version, serializer, lengths, attributes, bodies', (t) => {
  const builder = new BatchBuilder()
  builder.add('hé', 'text')
  builder.add(Uint8Array.of(1, 2), 'text', { key: 'k', headers: { a: 'b' } })
  t.same(plain(plainDecode(builder.finish())), [
    1,
    'text',
    { bytes: '0000000300000002' },
    { headers: [null, { a: 'b' }], key: [null, 'k'] },
    { bytes: '68c3a90102' },
  ])
  builder.add('', null, {})
  t.same(plain(plainDecode(builder.finish())), [1, null, { bytes: '00000000' }, null, { bytes: '' }])
  t.end()
})

t.test('what is built is read back: messages, serializers, attributes', (t) => {
  fc.assert(
    fc.property(sentMessages, (messages) => {
      const bytes = buildBatch(messages)
      const naive = naiveBatch(bytes)
      t.same(naive.messages, naiveMessages(messages))
      t.equal(naive.bodiesRead, naive.bodiesLength)

      const view = readBatch(bytes)
      t.equal(view.count, messages.length)
      validateAttributes(view, all)
      const columns = attributes(view)
      t.same(plain(columns), plain(naive.columns))
      t.same(attributeColumns(view), Object.keys(columns ?? {}))
      t.equal(view.hasAttributes, columns !== null)
      forEachMessage(view, (i, at, length) => {
        t.equal(hex(view.bytes.subarray(at, at + length)), naive.messages[i]!.body)
        t.equal(hex(messageBody(view, i)), naive.messages[i]!.body)
        t.equal(bodyAt(view, i), at)
        const { serializer } = view
        t.equal(Array.isArray(serializer) ? serializer[i] : serializer, naive.messages[i]!.serializer)
      })
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('a slice holds what a naive decode finds in its place', (t) => {
  fc.assert(
    fc.property(sentMessages, fc.nat(), fc.nat(), (messages, a, b) => {
      const first = a % messages.length
      const count = 1 + (b % (messages.length - first))
      const slice = sliceBatch(readBatch(buildBatch(messages)), first, count)
      const { messages: sliced, columns } = naiveBatch(slice)
      const wanted = naiveMessages(messages.slice(first, first + count))
      t.same(sliced, wanted)
      t.equal(
        columns === null,
        wanted.every((it) => Object.keys(it.attributes as object).length === 0),
      )
      const view = readBatch(slice)
      validateAttributes(view, all)
      t.equal(view.count, count)
    }),
    { numRuns: 300 },
  )
  t.end()
})

t.test('every slice of a batch with one attribute, of each length', (t) => {
  for (const attribute of [{ priority: 0 }, { headers: {} }, { key: 'x' }]) {
    const messages = Array.from({ length: 18 }, (_, i) => ({
      body: `${i}`,
      serializer: 'text',
      attributes: i === 9 ? attribute : null,
    }))
    const view = readBatch(buildBatch(messages))
    for (let first = 0; first < 18; first++) {
      for (let count = 1; first + count <= 18; count++) {
        const slice = naiveBatch(sliceBatch(view, first, count))
        const wanted = naiveMessages(messages.slice(first, first + count))
        if (JSON.stringify(slice.messages) !== JSON.stringify(wanted)) t.same(slice.messages, wanted)
        if ((slice.columns === null) === (first <= 9 && first + count > 9))
          t.fail(`columns of ${first}, ${count}`)
      }
    }
  }
  t.end()
})

t.test('the whole batch as a slice is the same bytes, uncopied', (t) => {
  const bytes = batchOf()
  t.equal(sliceBatch(readBatch(bytes), 0, 2), bytes)
  t.throws(() => sliceBatch(readBatch(bytes), 1, 2), { name: 'InvariantError' })
  t.end()
})

t.test('whatever is wrong with a batch is INVALID_FIELD, naming it', (t) => {
  const refused = (name: string, bytes: Uint8Array) =>
    t.throws(() => readBatch(bytes), { code: 'INVALID_FIELD', details: { field: 'batch' } }, name)
  t.doesNotThrow(() => readBatch(batchOf()))
  refused('nothing', new Uint8Array())
  refused('no array', pack('batch'))
  refused('an array of 6', batchOf({ more: [1] }))
  refused('another version', batchOf({ version: 2 }))
  refused('a version that is none', batchOf({ version: 'x' }))
  refused('no messages', batchOf({ lengths: [], bodies: Buffer.alloc(0) }))
  refused('too many messages', batchOf({ lengths: fill(10_001, 0) as number[], bodies: Buffer.alloc(0) }))
  refused('lengths beyond the bodies', batchOf({ lengths: [2, 4] }))
  refused('lengths short of the bodies', batchOf({ lengths: [2, 2] }))
  refused('lengths whose sum wraps around', batchOf({ lengths: [0xffff_ffff, 6] }))
  refused('lengths that are no bin', pack([1, null, 8, null, Buffer.alloc(0)]))
  refused('lengths of 5 bytes', pack([1, null, Buffer.alloc(5), null, Buffer.alloc(0)]))
  refused('bodies that are no bin', batchOf({ bodies: 'aabbb' }))
  refused('a serializer that is a number', batchOf({ serializer: 1 }))
  refused('a serializer without a name', batchOf({ serializer: '' }))
  refused('a serializer with NUL', batchOf({ serializer: 'a\0' }))
  refused('a serializer too long', batchOf({ serializer: 'a'.repeat(256) }))
  refused('one serializer for two', batchOf({ serializer: ['text'] }))
  refused('a serializer within a serializer', batchOf({ serializer: [['text'], 'text'] }))
  refused('attributes as an array', batchOf({ columns: [] }))
  refused('an extension', batchOf({ columns: { headers: [new Date(0), null] } }))
  refused('nested too deep', batchOf({ columns: { headers: JSON.parse('['.repeat(20) + ']'.repeat(20)) } }))
  refused('the key __proto__', batchOf({ columns: JSON.parse('{"__proto__": [null, null]}') }))
  refused('a byte behind it', Buffer.concat([batchOf(), Uint8Array.of(0xc0)]))
  const bytes = batchOf({ serializer: ['text', null], columns: { key: ['a', null] } })
  for (let end = 0; end < bytes.length; end++) refused(`cut at ${end}`, bytes.subarray(0, end))
  t.end()
})

t.test('attributes are checked column by column', (t) => {
  const check = (columns: unknown, supported: ReadonlySet<string> = all) => {
    const view = readBatch(batchOf({ columns }))
    validateAttributes(view, supported)
  }
  const invalid = (columns: unknown) =>
    t.throws(() => check(columns), { code: 'INVALID_FIELD' }, JSON.stringify(columns))
  t.doesNotThrow(() => check(null))
  t.doesNotThrow(() => check({}))
  t.doesNotThrow(() => check({ headers: [{ a: 'b' }, null], ttl: [null, 2 ** 53 - 1], priority: [9, 0] }))
  t.throws(() => check({ colour: [1, 2] }), { code: 'UNSUPPORTED', details: { column: 'colour' } })
  t.throws(() => check({ constructor: [1, 2] }), { code: 'UNSUPPORTED', details: { column: 'constructor' } })
  t.throws(() => check({ headers: [null, null], delay: [1, 2] }, new Set(['headers'])), {
    code: 'UNSUPPORTED',
    details: { column: 'delay' },
  })
  for (const name of attributeNames) {
    invalid({ [name]: [null] })
    invalid({ [name]: [null, null, null] })
    invalid({ [name]: null })
    invalid({ [name]: [null, true] })
    invalid({ [name]: [null, []] })
  }
  invalid({ headers: [{ a: 1 }, null] })
  invalid({ headers: [{ a: null }, null] })
  invalid({ headers: ['a', null] })
  invalid({ key: [1, null] })
  invalid({ key: ['', null] })
  invalid({ key: ['k'.repeat(1025), null] })
  invalid({ dedupeId: ['d'.repeat(256), null] })
  invalid({ priority: [10, null] })
  invalid({ priority: [-1, null] })
  invalid({ delay: [1.5, null] })
  invalid({ deliverAt: [2 ** 53, null] })
  const twice = batchOf({ columns: { key: [null, null], kez: [null, null] } })
  twice[twice.lastIndexOf(0x7a)] = 0x79
  t.throws(() => validateAttributes(readBatch(twice), all), { code: 'INVALID_FIELD', message: /twice/ })
  t.end()
})

t.test('a message counts with body, key and headers, but not with headers named mq-…', (t) => {
  const headers = [{ 'mq-origin-id': 'long '.repeat(100), ä: 'öü' }, null]
  const view = readBatch(batchOf({ columns: { headers, ttl: [1, 1], key: [null, 'käse'] } }))
  t.equal(messageBytes(view, 0), 2 + 6)
  t.equal(messageBytes(view, 1), 3 + 5)
  t.equal(largestMessageBytes(view), 8)
  t.equal(largestMessageBytes(readBatch(batchOf())), 3)
  t.equal(messageBytes(readBatch(batchOf()), 0), 2)
  t.end()
})

t.test('headers come back as they were sent, a byte order mark included', (t) => {
  const value = '\ufeff' + 'x'.repeat(100)
  const view = readBatch(batchOf({ columns: { headers: [{ [value]: value }, null] } }))
  t.same(attributes(view), { headers: [{ [value]: value }, null] })
  t.end()
})

t.test('columns that this version does not know are read and sliced as they are', (t) => {
  const view = readBatch(batchOf({ columns: { colour: ['red', { deep: [1] }] } }))
  t.same(attributes(view), { colour: ['red', { deep: [1] }] })
  t.same(naiveBatch(sliceBatch(view, 1, 1)).columns, { colour: [{ deep: [1] }] })
  t.end()
})

t.test('a builder makes one batch after the other, and none is written again', (t) => {
  const sizes = fc.array(fc.array(fc.oneof(fc.nat(300), fc.nat(200_000)), { minLength: 1, maxLength: 6 }), {
    minLength: 1,
    maxLength: 12,
  })
  fc.assert(
    fc.property(sizes, fc.nat(100), (batches, headroom) => {
      const builder = new BatchBuilder()
      const made = batches.map((lengths, n) => {
        const bodies = lengths.map((length, i) => Buffer.alloc(length, n * 16 + i))
        for (const body of bodies) builder.add(body, null)
        const bytes = builder.finish(headroom)
        t.ok(bytes.byteOffset >= headroom)
        Buffer.from(bytes.buffer, bytes.byteOffset - headroom, headroom).fill(0xee)
        return { bodies, bytes }
      })
      for (const { bodies, bytes } of made) {
        const view = readBatch(bytes)
        bodies.forEach((body, i) => t.ok(body.equals(messageBody(view, i))))
      }
    }),
    { numRuns: 50 },
  )
  t.end()
})

t.test('more messages, larger bodies and longer texts than a builder had room for', (t) => {
  const builder = new BatchBuilder()
  for (let i = 0; i < 10_000; i++) builder.add(`${i}`, 'text')
  let view = readBatch(builder.finish())
  t.equal(view.count, 10_000)
  t.equal(Buffer.from(messageBody(view, 9999)).toString(), '9999')
  builder.add('ö'.repeat(3 << 20), 'text')
  builder.add(new Uint8Array(5 << 20), 'text')
  view = readBatch(builder.finish())
  t.equal(view.bodiesLength, 11 << 20)
  builder.add('ö'.repeat(1000), null)
  t.equal(readBatch(builder.finish()).bodiesLength, 2000)
  t.end()
})

t.test('byteLength never tells less than finish yields, and wouldExceed keeps to it', (t) => {
  fc.assert(
    fc.property(sentMessages, fc.integer({ min: 64, max: 3000 }), (messages, limit) => {
      const builder = new BatchBuilder()
      for (const { body, serializer, attributes } of messages) {
        const bytes = typeof body === 'string' ? Buffer.byteLength(body) : body.length
        if (builder.wouldExceed(limit, bytes, serializer, attributes)) continue
        builder.add(body, serializer, attributes)
        t.ok(builder.byteLength <= limit)
      }
      if (builder.count === 0) return
      const promised = builder.byteLength
      t.ok(builder.finish().length <= promised)
    }),
    { numRuns: 300 },
  )
  t.end()
})

t.test('a plain batch fills its limit to within a few bytes', (t) => {
  const builder = new BatchBuilder()
  while (!builder.wouldExceed(1 << 20, 1024, 'text')) builder.add(new Uint8Array(1024), 'text')
  t.equal(builder.count, 1019)
  t.ok(builder.finish().length > (1 << 20) - 1024 - 64)
  t.end()
})

t.test('finishing nothing is a defect of the caller', (t) => {
  t.throws(() => new BatchBuilder().finish(), { name: 'InvariantError' })
  t.end()
})

t.test('the crc is that of zlib', (t) => {
  const bytes = Uint8Array.from(packrPack('123456789').subarray(1))
  t.equal(crcOf(bytes), 0xcbf4_3926)
  t.equal(crcOf(bytes), crc32(bytes))
  t.end()
})

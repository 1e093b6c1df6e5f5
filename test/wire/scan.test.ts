import t from 'tap'
import fc from 'fast-check'
import { pack } from 'msgpackr/pack'
import { MqError } from '../../src/errors.ts'
import { scanValue } from '../../src/wire/scan.ts'
import { encodeFrame } from '../../src/wire/frame.ts'
import { clientFrames, serverFrames, valueOf } from './arbitrary.ts'
import { encodeClientFrame, encodeServerFrame } from '../../src/wire/codec.ts'

const bytes = (...values: number[]) => Uint8Array.from(values)
const zeros = (length: number) => new Array<number>(length).fill(0)

function codeOf(value: Uint8Array): string {
  try {
    scanValue(value, 0, value.length)
    return 'sound'
  } catch (error) {
    if (error instanceof MqError) return error.code
    throw error
  }
}

t.test('every form of every type is walked to its end', (t) => {
  const forms: [string, Uint8Array][] = [
    ['positive fixint', bytes(0x7f)],
    ['negative fixint', bytes(0xe0)],
    ['nil', bytes(0xc0)],
    ['false', bytes(0xc2)],
    ['true', bytes(0xc3)],
    ['uint 8', bytes(0xcc, 255)],
    ['uint 16', bytes(0xcd, 1, 2)],
    ['uint 32', bytes(0xce, 1, 2, 3, 4)],
    ['uint 64', bytes(0xcf, 0, 0x1f, 255, 255, 255, 255, 255, 255)],
    ['int 8', bytes(0xd0, 1)],
    ['int 16', bytes(0xd1, 1, 2)],
    ['int 32', bytes(0xd2, 1, 2, 3, 4)],
    ['int 64', bytes(0xd3, 255, 255, 255, 255, 255, 255, 255, 255)],
    ['float 32', bytes(0xca, 0x3f, 0x80, 0, 0)],
    ['float 64', bytes(0xcb, 0x3f, 0xf0, ...zeros(6))],
    ['fixstr', bytes(0xa2, 0x61, 0x62)],
    ['str 8', bytes(0xd9, 1, 0x61)],
    ['str 16', bytes(0xda, 0, 1, 0x61)],
    ['str 32', bytes(0xdb, 0, 0, 0, 1, 0x61)],
    ['bin 8', bytes(0xc4, 1, 0xff)],
    ['bin 16', bytes(0xc5, 0, 1, 0xff)],
    ['bin 32', bytes(0xc6, 0, 0, 0, 1, 0xff)],
    ['fixarray', bytes(0x92, 1, 2)],
    ['array 16', bytes(0xdc, 0, 2, 1, 2)],
    ['array 32', bytes(0xdd, 0, 0, 0, 2, 1, 2)],
    ['fixmap', bytes(0x81, 0xa1, 0x61, 1)],
    ['map 16', bytes(0xde, 0, 1, 0xa1, 0x61, 1)],
    ['map 32', bytes(0xdf, 0, 0, 0, 1, 0xd9, 1, 0x61, 1)],
    ['empty containers', bytes(0x93, 0x90, 0x80, 0x90)],
  ]
  for (const [name, form] of forms) {
    t.equal(scanValue(form, 0, form.length), form.length, name)
    const inside = bytes(0xc1, ...form, 0xc1)
    t.equal(scanValue(inside, 1, inside.length), form.length + 1, `${name}, with something behind it`)
    for (let end = 0; end < form.length; end++) {
      t.match(codeOf(form.subarray(0, end)), /BAD_FRAME|DECODE_LIMIT/, `${name}, cut at ${end}`)
    }
  }
  t.end()
})

t.test('what is walked are exactly the values that msgpackr writes', (t) => {
  const frames = fc.oneof(clientFrames.map(encodeClientFrame), serverFrames.map(encodeServerFrame))
  fc.assert(
    fc.property(frames, (frame) => {
      const value = valueOf(frame)
      return scanValue(value, 0, value.length) === value.length
    }),
  )
  t.end()
})

t.test('16 containers may be nested, 17 may not, whatever they are', (t) => {
  const nested = (depth: number, open: number[]) =>
    bytes(...new Array<number[]>(depth).fill(open).flat(), 0xc0)
  t.equal(codeOf(nested(16, [0x91])), 'sound')
  t.equal(codeOf(nested(17, [0x91])), 'DECODE_LIMIT')
  t.equal(codeOf(nested(16, [0x81, 0xa1, 0x61])), 'sound')
  t.equal(codeOf(nested(17, [0x81, 0xa1, 0x61])), 'DECODE_LIMIT')
  t.equal(
    codeOf(bytes(0x92, ...nested(15, [0x91]), ...nested(15, [0x91]))),
    'sound',
    'siblings do not add up',
  )
  t.end()
})

t.test('integers beyond 2^53-1 and numbers that are none', (t) => {
  t.equal(codeOf(bytes(0xcf, 0, 0x20, ...zeros(6))), 'INVALID_FIELD')
  t.equal(codeOf(bytes(0xcf, ...new Array<number>(8).fill(255))), 'INVALID_FIELD')
  t.equal(codeOf(bytes(0xd3, 0x80, ...zeros(7))), 'INVALID_FIELD')
  for (const value of [NaN, Infinity, -Infinity]) t.equal(codeOf(pack(value)), 'INVALID_FIELD', `${value}`)
  t.equal(codeOf(bytes(0xca, 0x7f, 0x80, 0, 0)), 'INVALID_FIELD', 'an infinity of 32 bits')
  t.equal(codeOf(pack(1.7e308)), 'sound')
  t.end()
})

t.test('strings are UTF-8 exactly when a strict decoder says so', (t) => {
  const strict = new TextDecoder('utf-8', { fatal: true })
  const isUtf8 = (text: Uint8Array) => {
    try {
      strict.decode(text)
      return true
    } catch {
      return false
    }
  }
  const agrees = (text: Uint8Array) =>
    (codeOf(bytes(0xd9, text.length, ...text)) === 'sound') === isUtf8(text)
  // Every pair of first bytes, with continuations behind and without.
  for (let first = 0x80; first < 0x100; first++) {
    for (let second = 0; second < 0x100; second++) {
      for (const rest of [[], [0x80], [0x80, 0x80], [0x80, 0x80, 0x80]]) {
        const text = bytes(first, second, ...rest)
        if (!agrees(text)) t.fail(Buffer.from(text).toString('hex'))
      }
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 8 }), agrees))
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 20 }), (text) => agrees(Buffer.from(text))))
  t.end()
})

t.test('keys are strings, and none of them reaches a prototype', (t) => {
  t.equal(codeOf(bytes(0x81, 1, 1)), 'UNSUPPORTED_TYPE')
  t.equal(codeOf(bytes(0x81, 0xc4, 1, 0x61, 1)), 'UNSUPPORTED_TYPE')
  t.equal(codeOf(bytes(0x82, 0xa1, 0x61, 1, 0xc0, 1)), 'UNSUPPORTED_TYPE', 'nor the second')
  t.equal(codeOf(pack(['__proto__'])), 'sound', 'as a value it is a text like others')
  t.equal(codeOf(bytes(0x81, 0xa9, ...Buffer.from('__proto__'), 1)), 'INVALID_FIELD')
  t.equal(codeOf(bytes(0x81, 0xd9, 9, ...Buffer.from('__proto__'), 1)), 'INVALID_FIELD')
  t.equal(codeOf(valueOf(encodeFrame([{ constructor: 1, prototype: 2 }]))), 'sound')
  t.end()
})

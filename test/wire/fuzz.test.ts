/**
 * Frames that are nearly right. Each is a valid frame, spoilt where it hurts: heads of values, lengths, counts and
 * the places between values rather than any byte. Whatever comes, the decoders answer with their own errors and
 * without taking memory that the bytes don't account for.
 */
import t from 'tap'
import fc from 'fast-check'
import { MqError } from '../../src/errors.ts'
import { attributeNames, attributes, largestMessageBytes, readBatch } from '../../src/wire/batch.ts'
import { sliceBatch, validateAttributes } from '../../src/wire/batch.ts'
import {
  decodeClientFrame,
  decodeServerFrame,
  encodeClientFrame,
  encodeServerFrame,
  RequestError,
} from '../../src/wire/codec.ts'
import { buildBatch, clientFrames, sentMessages, serverFrames, valueOf } from './arbitrary.ts'

const runs = 20_000
const seed = 20_251_124

/** A small generator of its own: fast-check draws the frames, this spoils them. */
function generator(seed: number) {
  let state = seed >>> 0
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** Heads that claim much, types that are refused, and numbers at their edges. */
const splices = [
  [0xc1],
  [0xdd, 0xff, 0xff, 0xff, 0xff],
  [0xdf, 0x7f, 0xff, 0xff, 0xff],
  [0xc6, 0, 0xff, 0xff, 0xff],
  [0xdb, 0, 0, 0xff, 0xff],
  [0xcf, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xd3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
  [0xcb, 0x43, 0x40, 0, 0, 0, 0, 0, 0],
  [0xd4, 0x72, 0x40],
  [0xa9, ...Buffer.from('__proto__')],
  [0xa2, 0xff, 0xfe],
  [0xa1, 0],
  [0xc0],
  [0x80],
  [0x90],
  new Array<number>(20).fill(0x91),
]

/** Where values begin, as far as the frame is sound: where a change is most likely to mean something. */
function headsOf(value: Uint8Array): number[] {
  const heads: number[] = []
  for (let at = 0; at < value.length;) {
    heads.push(at)
    const token = value[at]!
    if (token >= 0xa0 && token < 0xc0) at += 1 + (token & 0x1f)
    else if (token === 0xc4 || token === 0xd9) at += 2 + (value[at + 1] ?? 0)
    else if (token === 0xc5 || token === 0xda) at += 3 + ((value[at + 1] ?? 0) << 8) + (value[at + 2] ?? 0)
    else
      at += [0xcc, 0xd0].includes(token) ? 2 : [0xcd, 0xdc, 0xde].includes(token) ? 3 : token === 0xce ? 5 : 1
  }
  return heads
}

function spoil(value: Uint8Array, below: (n: number) => number): Uint8Array {
  let bytes = Uint8Array.from(value)
  for (let times = 1 + below(3); times > 0 && bytes.length > 0; times--) {
    const heads = headsOf(bytes)
    const at = below(4) === 0 ? below(bytes.length) : heads[below(heads.length)]!
    const splice = splices[below(splices.length)]!
    const other = heads[below(heads.length)]!
    switch (below(7)) {
      case 0:
        bytes[at] = below(256)
        break
      case 1:
        bytes[at] = bytes[at]! ^ (1 << below(8))
        break
      case 2:
        bytes = bytes.subarray(0, at)
        break
      case 3:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...splice, ...bytes.subarray(at)])
        break
      case 4:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...splice, ...bytes.subarray(at + splice.length)])
        break
      case 5:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.max(at, other))])
        break
      default:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.min(at, other))])
    }
  }
  return bytes
}

/** Decodes `of` spoilt frames and counts the answers. */
function fuzz(frames: Uint8Array[], decode: (bytes: Uint8Array) => void): Record<string, number> {
  const below = generator(seed)
  const answers: Record<string, number> = {}
  for (let i = 0; i < runs; i++) {
    const bytes = spoil(frames[i % frames.length]!, below)
    let answer = 'accepted'
    try {
      decode(bytes)
    } catch (error) {
      const own = error instanceof RequestError ? error.error : error
      if (!(own instanceof MqError)) {
        throw new Error(`not an answer to ${Buffer.from(bytes).toString('hex')}`, { cause: error })
      }
      answer = own.code
    }
    answers[answer] = (answers[answer] ?? 0) + 1
  }
  return answers
}

const sample = <T>(arbitrary: fc.Arbitrary<T>) => fc.sample(arbitrary, { numRuns: 2000, seed })

/** All kinds of answers were reached, else the fuzz only scratches at the gate. */
const kinds = ['accepted', 'BAD_FRAME', 'DECODE_LIMIT', 'UNSUPPORTED_TYPE', 'INVALID_FIELD']

t.test('spoilt frames of clients', (t) => {
  const frames = sample(clientFrames).map((frame) => Uint8Array.from(valueOf(encodeClientFrame(frame))))
  const heapBefore = process.memoryUsage().heapUsed
  const answers = fuzz(frames, decodeClientFrame)
  for (const kind of [...kinds, 'UNSUPPORTED_VERSION', 'INVALID_NAME']) t.ok(answers[kind]! > 20, kind)
  t.ok(process.memoryUsage().heapUsed - heapBefore < 256 << 20)
  t.equal(({} as Record<string, unknown>).polluted, undefined)
  t.end()
})

t.test('spoilt frames of servers', (t) => {
  const frames = sample(serverFrames).map((frame) => Uint8Array.from(valueOf(encodeServerFrame(frame))))
  const answers = fuzz(frames, decodeServerFrame)
  for (const kind of kinds) t.ok(answers[kind]! > 20, kind)
  t.end()
})

t.test('spoilt batches: refused, or wholly readable and sliceable', (t) => {
  const batches = sample(sentMessages).map((messages) => Uint8Array.from(buildBatch(messages)))
  const supported = new Set<string>(attributeNames)
  const answers = fuzz(batches, (bytes) => {
    const view = readBatch(bytes)
    validateAttributes(view, supported)
    // From here on nothing is refused any more.
    try {
      attributes(view)
      void view.serializer
      largestMessageBytes(view)
      readBatch(sliceBatch(view, view.count - 1, 1))
      readBatch(sliceBatch(view, 0, Math.ceil(view.count / 2)))
    } catch (cause) {
      throw new Error('an accepted batch is refused later', { cause })
    }
  })
  for (const kind of ['accepted', 'INVALID_FIELD', 'UNSUPPORTED']) t.ok(answers[kind]! > 20, kind)
  t.same(Object.keys(answers).sort(), ['INVALID_FIELD', 'UNSUPPORTED', 'accepted'])
  t.end()
})

/**
 * Frames that are nearly right: valid ones, spoilt where it hurts (`spoil.ts`). Whatever comes, the decoders answer
 * with their own errors and without taking memory that the bytes don't account for.
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
import { fuzzOptions, generator, replay, spoil } from './spoil.ts'
import { buildBatch, clientFrames, sentMessages, serverFrames, valueOf } from './arbitrary.ts'

const options = fuzzOptions(20_000)

/** Decodes `of` spoilt frames and counts the answers. */
function fuzz(frames: Uint8Array[], decode: (bytes: Uint8Array) => void): Record<string, number> {
  const below = generator(options.seed)
  const answers: Record<string, number> = {}
  for (let i = 0; i < options.runs; i++) {
    const bytes = spoil(frames[i % frames.length]!, below)
    let answer = 'accepted'
    try {
      decode(bytes)
    } catch (error) {
      const own = error instanceof RequestError ? error.error : error
      if (!(own instanceof MqError)) {
        const frame = Buffer.from(bytes).toString('hex')
        throw new Error(`${replay(options, i)}: not an answer to ${frame}`, { cause: error })
      }
      answer = own.code
    }
    answers[answer] = (answers[answer] ?? 0) + 1
  }
  return answers
}

const sample = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.sample(arbitrary, { numRuns: 2000, seed: options.seed | 0 })

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

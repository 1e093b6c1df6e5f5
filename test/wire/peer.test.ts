/** Frames between nodes: read as they were written, and nothing but that. */
import fc from 'fast-check'
import t from 'tap'
import { MqError } from '../../src/errors.ts'
import { lengthBytes } from '../../src/wire/frame.ts'
import {
  decodeForward,
  decodeForwardAnswer,
  encodeForward,
  encodeForwardAnswer,
  type ForwardRequest,
} from '../../src/wire/peer.ts'
import { encodeFrame } from '../../src/wire/frame.ts'

const safe = fc.maxSafeNat()
const position = fc.record({ epoch: safe, offset: safe, index: fc.nat(0xffff_ffff) })
const id16 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((id) => Buffer.from(id))
const request: fc.Arbitrary<ForwardRequest> = fc.record({
  id: fc.nat(0xffff_ffff),
  queueId: id16.map((id) => id.toString('hex')),
  partition: fc.nat(1023),
  sourceQueueId: id16.map((id) => id.toString('hex')),
  sourcePartition: fc.nat(1023),
  previous: position,
  position,
  count: fc.integer({ min: 1, max: 10_000 }),
  crc: fc.nat(0xffff_ffff),
  batch: fc.uint8Array({ maxLength: 50 }),
})

void t.test('a forward reads as it was written', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(request, (sent) => {
        const read = decodeForward(encodeForward(sent))
        const same = JSON.stringify({ ...read, batch: [...read.batch] })
        if (same !== JSON.stringify({ ...sent, batch: [...sent.batch] })) throw new Error(same)
      }),
    ),
  )
})

void t.test('its answers read as they were written', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), position, (id, position) => {
        const read = decodeForwardAnswer(encodeForwardAnswer({ id, position }))
        if (JSON.stringify(read) !== JSON.stringify({ id, position })) throw new Error(JSON.stringify(read))
      }),
    ),
  )
  const error = new MqError('DISK_FULL', 'full', { details: { bytes: 3 } })
  const read = decodeForwardAnswer(encodeForwardAnswer({ id: 7, error }))
  t.match(read, { id: 7, error: { code: 'DISK_FULL', message: 'full', details: { bytes: 3 } } })
})

void t.test(
  'bytes that were changed or cut are refused with an MqError, or are another request',
  async (t) => {
    t.doesNotThrow(() =>
      fc.assert(
        fc.property(request, fc.nat(), fc.nat(255), fc.boolean(), (sent, at, byte, isCut) => {
          const frame = Buffer.from(encodeForward(sent))
          const place = lengthBytes + (at % (frame.length - lengthBytes))
          if (!isCut) frame[place] = byte
          for (const decode of [decodeForward, decodeForwardAnswer]) {
            try {
              decode(isCut ? frame.subarray(0, place) : frame)
            } catch (error) {
              if (!(error instanceof Error && (error instanceof MqError || error.name === 'RequestError')))
                throw error
            }
          }
        }),
        { numRuns: 500 },
      ),
    )
  },
)

void t.test('what is no forward is refused', async (t) => {
  const body = (nr: number, fields: unknown[]): Uint8Array => encodeFrame([nr, 1, ...fields])
  const good = [Buffer.alloc(16), 0, Buffer.alloc(16), 0, 0, 0, 0, 1, 1, 0, 1, 0, Buffer.alloc(3)]
  t.doesNotThrow(() => decodeForward(body(64, good)))
  t.throws(() => decodeForward(body(20, good)), { code: 'BAD_FRAME' })
  t.throws(() => decodeForward(body(64, good.slice(1))), { code: 'INVALID_FIELD' })
  t.throws(() => decodeForward(body(64, [...good, 1])), { code: 'INVALID_FIELD' })
  const fields = ['queueId', 'partition', , 'sourcePartition', , , , , , , 'count', 'crc', 'batch']
  for (const [i, field] of fields.entries()) {
    const wrong = good.with(i, -1)
    t.throws(() => decodeForward(body(64, wrong)), {
      code: 'INVALID_FIELD',
      ...(field && { details: { field } }),
    })
  }
  t.throws(() => decodeForward(body(64, good.with(1, 1024))), { code: 'INVALID_FIELD' })
  t.throws(() => decodeForward(body(64, good.with(10, 10_001))), { code: 'INVALID_FIELD' })
  t.throws(() => decodeForwardAnswer(body(43, [[]])), { code: 'BAD_FRAME' })
})

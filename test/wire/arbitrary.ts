/** Random values of everything the protocol carries, and plain msgpack to compare with. */
import fc from 'fast-check'
import { Unpackr } from 'msgpackr/unpack'
import { BatchBuilder, type MessageAttributes } from '../../src/wire/batch.ts'
import type { ClientFrame, Delivery, LeasedRange, ServerFrame } from '../../src/wire/messages.ts'
import { limits } from '../../src/types.ts'

const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' })

/** What any msgpack library makes of the bytes. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export function plainDecode(bytes: Uint8Array): any {
  return unpackr.unpack(Uint8Array.from(bytes))
}

/** The value within a frame that holds nothing else. */
export function valueOf(frame: Uint8Array): Uint8Array {
  return frame.subarray(4)
}

export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(chunks))
}

/** The same with plain arrays of numbers for bytes: Buffer and Uint8Array compare as equal. */
export function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('hex') }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
}

const upTo = (max: number) =>
  fc.oneof(
    fc.integer({ min: 0, max: Math.min(max, 300) }),
    fc.maxSafeNat().map((n) => n % (max + 1)),
  )
const from1To = (max: number) => upTo(max - 1).map((n) => n + 1)
const safe = upTo(Number.MAX_SAFE_INTEGER - 1)
const id = from1To(0xffff_ffff)
const bytes16 = fc.uint8Array({ minLength: 16, maxLength: 16 })
const queueId = bytes16.map((bytes) => Buffer.from(bytes).toString('hex'))
const producerId = bytes16.map((bytes) => Buffer.from(bytes).toString('latin1'))
const text = fc.string({ unit: 'binary', maxLength: 40 })
const name = fc.string({ maxLength: 40 })
const queueName = fc.stringMatching(/^[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}$/)
const key = text.filter((it) => it !== '__proto__')
const free: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.constant(null),
    fc.boolean(),
    safe,
    fc
      .double({ noNaN: true, noDefaultInfinity: true })
      .map((n) => (Object.is(n, -0) ? 0 : n))
      .filter(isWritten),
    text,
    fc.uint8Array({ maxLength: 20 }),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(key, tie('value'), { maxKeys: 4 }),
  ),
})).value
/** Integers beyond 2^53 - 1 are refused in integer form only; as doubles they are numbers like others. */
function isWritten(value: number): boolean {
  return !Number.isInteger(value) || Number.isSafeInteger(value)
}
const freeMap = fc.dictionary(key, free, { maxKeys: 4 }).map((it) => ({ ...it }))
const offset = upTo(Number.MAX_SAFE_INTEGER - limits.batchMessagesMax)
const items: fc.Arbitrary<LeasedRange[]> = fc.array(
  fc.record({ leaseEpoch: safe, lease: safe, offset, count: from1To(limits.batchMessagesMax) }),
  { minLength: 1, maxLength: 20 },
)
const bin = fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ minLength: 9000, maxLength: 9010 }))
const partition = upTo(limits.partitionsMax - 1)

export const clientFrames: fc.Arbitrary<ClientFrame> = fc.oneof(
  fc.record({
    op: fc.constant('hello' as const),
    minVersion: upTo(1),
    maxVersion: from1To(0xffff_ffff),
    clientId: producerId,
    session: from1To(Number.MAX_SAFE_INTEGER - 1),
    name,
    credentials: fc.option(freeMap),
    features: fc.option(freeMap),
  }),
  fc.constant({ op: 'heartbeat' as const }),
  fc.record({ op: fc.constant('cancel' as const), id }),
  fc.record({ op: fc.constantFrom('lookup', 'describeQueue'), id, name: queueName }),
  fc.record({ op: fc.constant('deleteQueue'), id, name: queueName, queueId: fc.option(queueId) }),
  fc.record({ op: fc.constantFrom('createQueue', 'updateQueue'), id, name: queueName, options: freeMap }),
  fc.record({ op: fc.constant('purgeQueue' as const), id, name: queueName, dryRun: fc.boolean() }),
  fc.record({ op: fc.constant('peek' as const), id, name: queueName, max: from1To(1000) }),
  fc.record({
    op: fc.constant('listQueues' as const),
    id,
    after: fc.option(queueName),
    limit: from1To(1000),
  }),
  fc.record({
    op: fc.constant('send' as const),
    id,
    queueId,
    partition,
    producerId,
    producerEpoch: upTo(0xffff_ffff),
    sequence: safe,
    opening: safe,
    count: from1To(limits.batchMessagesMax),
    crc: upTo(0xffff_ffff),
    batch: bin,
  }),
  fc.record({
    op: fc.constant('receive' as const),
    id,
    queueId,
    partition: fc.option(partition),
    max: from1To(limits.receiveMessagesMax),
    maxBytes: from1To(limits.receiveBytesMax),
    waitMs: upTo(limits.receiveWaitMsMax),
    visibilityTimeoutMs: fc.option(from1To(limits.visibilityTimeoutMsMax)),
    mode: upTo(1),
  }),
  fc
    .record({
      op: fc.constant('settle' as const),
      id,
      queueId,
      partition,
      producerId,
      producerEpoch: upTo(0xffff_ffff),
      sequence: safe,
      opening: safe,
      done: fc.oneof(
        fc.record({ action: upTo(3), options: fc.constant(null) }),
        fc.record({
          action: fc.constant(1),
          options: fc.record({
            delayMs: fc.option(upTo(limits.delayMsMax)),
            reason: fc.option(fc.string({ unit: 'grapheme', maxLength: 20 })),
          }),
        }),
      ),
      items,
      outputs: fc.option(fc.array(free, { maxLength: 3 })),
    })
    .map(({ done, ...rest }) => ({ ...rest, ...done })),
  fc.record({
    op: fc.constant('extend' as const),
    id,
    queueId,
    partition,
    extendMs: from1To(limits.visibilityTimeoutMsMax),
    items,
  }),
  fc.record({
    op: fc.constant('redrive' as const),
    id,
    name: queueName,
    to: fc.option(queueName),
    max: from1To(limits.redriveMessagesMax),
    dryRun: fc.boolean(),
    cursor: fc.option(
      fc
        .array(fc.tuple(partition, safe, safe), { minLength: 1, maxLength: 3 })
        .map((triples) => triples.flat()),
    ),
  }),
  fc.record({
    op: fc.constant('unsupported' as const),
    id,
    nr: fc.constantFrom(19),
  }),
  fc.record({
    op: fc.constant('subscribe' as const),
    id,
    queueId,
    partition: fc.option(partition),
    messages: upTo(limits.creditMessagesMax),
    bytes: upTo(limits.creditBytesMax),
    visibilityTimeoutMs: fc.option(from1To(limits.visibilityTimeoutMsMax)),
    mode: upTo(1),
  }),
  fc.record({ op: fc.constant('unsubscribe' as const), id, subscription: from1To(0xffff_ffff) }),
  fc.record({
    op: fc.constant('credit' as const),
    id,
    messages: upTo(limits.creditMessagesMax),
    bytes: upTo(limits.creditBytesMax),
  }),
  fc.record({ op: fc.constant('forbidden' as const), id, nr: fc.integer({ min: 64, max: 127 }) }),
)

const deliveries: fc.Arbitrary<Delivery[]> = fc.array(
  fc.record({
    partition,
    leaseEpoch: safe,
    lease: safe,
    leaseMs: safe,
    epoch: safe,
    base: safe,
    sentAtMs: safe,
    deliveryCount: fc.oneof(safe, fc.array(safe, { maxLength: 20 })),
    crc: upTo(0xffff_ffff),
    batch: bin,
  }),
  { maxLength: 5 },
)

export const serverFrames: fc.Arbitrary<ServerFrame> = fc.oneof(
  fc.record({
    op: fc.constant('helloOk' as const),
    version: fc.constant(1),
    clusterId: name,
    nodeId: name,
    limits: fc.record({
      frameBytesMax: from1To(1e9),
      batchBytesMax: from1To(1e9),
      batchMessagesMax: from1To(1e9),
      receiveMessagesMax: from1To(1e9),
      receiveBytesMax: from1To(1e9),
      unansweredMax: from1To(1e9),
      heartbeatMs: from1To(1e9),
    }),
    features: freeMap,
  }),
  fc.constant({ op: 'heartbeat' as const }),
  fc.record({ op: fc.constant('goAway' as const), reason: text }),
  fc.record({ op: fc.constant('ok' as const), id, result: free }),
  fc.record({
    op: fc.constant('error' as const),
    id: upTo(0xffff_ffff),
    code: fc.constantFrom('QUEUE_NOT_FOUND', 'INTERNAL', 'BAD_FRAME'),
    message: text,
    retryable: fc.boolean(),
    details: fc.option(freeMap),
  }),
  fc.record({
    op: fc.constant('sent' as const),
    id,
    epoch: safe,
    base: safe,
    duplicate: fc.boolean(),
    confirm: upTo(2),
    storage: upTo(1),
  }),
  fc.record({ op: fc.constantFrom('delivered', 'push'), id, deliveries }),
  fc.record({
    op: fc.constant('settled' as const),
    id,
    refused: fc.option(fc.array(fc.tuple(safe, safe)).map((pairs) => pairs.flat())),
  }),
)

/** A message as its sender gives it. */
export interface SentMessage {
  body: Uint8Array | string
  serializer: string | null
  attributes: MessageAttributes | null
}

const serializer = fc.constantFrom(null, 'text', 'msgpack', 'käse')
const attributes: fc.Arbitrary<MessageAttributes> = fc.record(
  {
    headers: fc.dictionary(key, text, { maxKeys: 4 }).map((it) => ({ ...it })),
    key: text.filter((it) => it !== ''),
    deliverAt: upTo(8_640_000_000_000_000),
    delay: upTo(limits.delayMsMax),
    priority: upTo(9),
    dedupeId: text.filter((it) => it !== ''),
    ttl: safe,
  },
  { requiredKeys: [] },
)

/** 1 to 40 messages: plain, of one serializer, or anything at all. */
export const sentMessages: fc.Arbitrary<SentMessage[]> = fc
  .tuple(fc.constantFrom('plain', 'one', 'any'), serializer)
  .chain(([kind, one]) =>
    fc.array(
      fc.record({
        body: fc.oneof(fc.uint8Array({ maxLength: 60 }), text),
        serializer: kind === 'any' ? serializer : fc.constant(kind === 'one' ? one : null),
        attributes: kind === 'any' ? fc.option(attributes) : fc.constant(null),
      }),
      { minLength: 1, maxLength: 40 },
    ),
  )

export function buildBatch(messages: readonly SentMessage[], builder = new BatchBuilder()): Uint8Array {
  for (const it of messages) builder.add(it.body, it.serializer, it.attributes)
  return builder.finish()
}

/** A batch as PROTOCOL.md has it, taken apart by somebody who only knows msgpack. */
export function naiveBatch(bytes: Uint8Array) {
  const [version, serializer, lengths, columns, bodies] = plainDecode(bytes)
  const lengthsView = new DataView(lengths.buffer, lengths.byteOffset, lengths.byteLength)
  let at = 0
  const messages = Array.from({ length: lengths.byteLength / 4 }, (_, i) => {
    const length = lengthsView.getUint32(4 * i)
    const body = Buffer.from(bodies.subarray(at, at + length)).toString('hex')
    at += length
    const attributes = Object.fromEntries(
      Object.entries<unknown[]>(columns ?? {})
        .map(([name, column]) => [name, column[i]])
        .filter(([, value]) => value !== null),
    )
    return { body, serializer: Array.isArray(serializer) ? serializer[i] : serializer, attributes }
  })
  return { version, columns, messages, bodiesLength: bodies.byteLength, bodiesRead: at }
}

/** The same for what was given to the builder. */
export function naiveMessages(messages: readonly SentMessage[]) {
  return messages.map(({ body, serializer, attributes }) => ({
    body: Buffer.from(body as string).toString('hex'),
    serializer,
    attributes: plain(attributes ?? {}),
  }))
}

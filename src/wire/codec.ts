/**
 * Frames' values to messages and back: the tables of PROTOCOL.md in code.
 *
 * Decoding: `scanValue` first, over the whole frame, so that structure, counts, UTF-8 and keys can be trusted; then
 * each field by name, type and range. What a frame can't be trusted about ends the connection (a plain `MqError`
 * whose code closes); what only concerns a request is a `RequestError`, which the server answers.
 *
 * The frequent operations are read and written by hand; batches are never copied where they are large. Free values
 * (options, results, details) go through msgpackr.
 */
import { Unpackr } from 'msgpackr/unpack'
import { errorTable, isErrorCode, MqError } from '../errors.ts'
import { limits, type PartitionId, type QueueId } from '../types.ts'
import { Cursor, hexOf, invalidField, latin1Of, Writer } from './cursor.ts'
import { encodeFrame, lengthBytes } from './frame.ts'
import {
  op,
  protocolVersion,
  settleAction,
  type ClientFrame,
  type Delivery,
  type LeasedRange,
  type LookupResult,
  type Peeked,
  type RedriveResult,
  type SendRequest,
  type Sequenced,
  type ServerFrame,
  type SettleOptions,
  type SettleRequest,
  type WireLimits,
} from './messages.ts'
import { scanValue } from './scan.ts'

/**
 * A frame that is sound as a frame but not as a request. `id` is the request's; 0 when the fault concerns the
 * connection itself (HELLO, HEARTBEAT, CANCEL, CREDIT), which then should end.
 */
export class RequestError extends Error {
  override readonly name = 'RequestError'
  readonly id: number
  readonly error: MqError

  constructor(id: number, error: MqError) {
    super(error.message, { cause: error })
    this.id = id
    this.error = error
  }
}

const requestIdMax = 0xffff_ffff
const safeMax = Number.MAX_SAFE_INTEGER
const uint32Max = 0xffff_ffff
const nameBytesMax = 255
/** Options, credentials and the like, as a client sends them: small, since decoding can multiply their size. */
const freeValueBytesMax = 64 << 10
/** Ranges of messages in one SETTLE or EXTEND, and deliveries in one answer. */
const itemsMax = limits.batchMessagesMax

/** Fields after the request id, in order. */
const fieldsOf: Readonly<Record<number, readonly string[]>> = {
  [op.hello]: ['minVersion', 'maxVersion', 'clientId', 'session', 'name', 'credentials', 'features'],
  [op.helloOk]: ['version', 'clusterId', 'nodeId', 'limits', 'features'],
  [op.heartbeat]: [],
  [op.cancel]: [],
  [op.credit]: ['messages', 'bytes'],
  [op.goAway]: ['reason'],
  [op.lookup]: ['name'],
  [op.createQueue]: ['name', 'options'],
  [op.listQueues]: ['after', 'limit'],
  [op.describeQueue]: ['name'],
  [op.deleteQueue]: ['name', 'queueId'],
  [op.updateQueue]: ['name', 'options'],
  [op.purgeQueue]: ['name', 'dryRun'],
  [op.peek]: ['name', 'max'],
  [op.redrive]: ['name', 'to', 'max', 'dryRun', 'cursor'],
  [op.send]: [
    'queueId',
    'partition',
    'producerId',
    'producerEpoch',
    'sequence',
    'opening',
    'count',
    'crc',
    'batch',
  ],
  [op.receive]: ['queueId', 'partition', 'max', 'maxBytes', 'waitMs', 'visibilityTimeoutMs', 'mode'],
  [op.settle]: [
    'queueId',
    'partition',
    'producerId',
    'producerEpoch',
    'sequence',
    'opening',
    'action',
    'items',
    'options',
    'outputs',
  ],
  [op.extend]: ['queueId', 'partition', 'extendMs', 'items'],
  [op.subscribe]: ['queueId', 'partition', 'messages', 'bytes', 'visibilityTimeoutMs', 'mode'],
  [op.unsubscribe]: ['subscription'],
  [op.ok]: ['result'],
  [op.error]: ['code', 'message', 'retryable', 'details'],
  [op.sent]: ['epoch', 'base', 'duplicate', 'confirm', 'storage'],
  [op.delivered]: ['deliveries'],
  [op.settled]: ['refused'],
  [op.push]: ['deliveries'],
}

/** Known, and not done yet. Their fields are not looked at. */
const unsupportedOps: ReadonlySet<number> = new Set([op.cluster])

/** What only a server sends. */
const serverOps: ReadonlySet<number> = new Set([
  op.helloOk,
  op.goAway,
  op.ok,
  op.error,
  op.sent,
  op.delivered,
  op.settled,
  op.push,
])

// ---------------------------------------------------------------------------------------------------------------
// Decoding: the frame

/** A frame's head, with the cursor before the first field. */
export interface Head {
  cursor: Cursor
  /** Number of the operation. */
  nr: number
  id: number
  /** Fields that follow. */
  count: number
  /** What the scan refused without giving the stream up. */
  fault: MqError | null
}

/** @throws MqError that closes */
export function openFrame(bytes: Uint8Array): Head {
  let fault: MqError | null = null
  try {
    if (scanValue(bytes, 0, bytes.length) !== bytes.length) {
      throw new MqError('BAD_FRAME', 'a frame has bytes behind its value')
    }
  } catch (error) {
    if (!(error instanceof MqError) || errorTable[error.code].closes) throw error
    fault = error
  }
  const cursor = new Cursor(bytes, 0)
  const count = cursor.arrayHead() - 2
  if (count < 0)
    throw new MqError('BAD_FRAME', 'a frame is an array that begins with operation and request id')
  try {
    const nr = cursor.integer('operation', 0, safeMax)
    const id = cursor.integer('id', 0, requestIdMax)
    return { cursor, nr, id, count, fault }
  } catch (cause) {
    // Without an id nobody can be answered.
    throw new MqError('BAD_FRAME', 'a frame begins with an operation and a request id below 2^32', { cause })
  }
}

function unknownVersion(what: string): MqError {
  const { min, max } = protocolVersion
  return new MqError('UNSUPPORTED_VERSION', `${what}; this speaks versions ${min} to ${max}`, {
    details: { minVersion: min, maxVersion: max },
  })
}

function checkId({ nr, id }: Head, wanted: 'zero' | 'request' | 'any'): void {
  if (wanted === 'zero' ? id === 0 : wanted === 'any' || id > 0) return
  throw new MqError('BAD_FRAME', `operation ${nr} has the request id ${id}`)
}

/** @throws MqError INVALID_FIELD, naming the first field that is missing, or too many, or that the scan refused */
export function checkFields(head: Head, fields: readonly string[] = fieldsOf[head.nr]!): void {
  if (head.fault !== null) throw nameFault(head, head.fault, fields)
  if (head.count < fields.length) throw invalidField(fields[head.count]!, 'is missing')
  if (head.count > fields.length) throw invalidField(`field ${fields.length + 1}`, 'is one too many')
}

/** The scan tells the byte; people want the field. */
function nameFault(head: Head, fault: MqError, fields: readonly string[]): MqError {
  const { bytes } = head.cursor
  let at = head.cursor.at
  for (let i = 0; i < head.count; i++) {
    try {
      at = scanValue(bytes, at, bytes.length)
    } catch {
      const field = fields[i] ?? `field ${i + 1}`
      const code = isQueueNameField(head.nr, field) ? 'INVALID_NAME' : fault.code
      return new MqError(code, `'${field}': ${fault.message}`, { details: { field }, cause: fault })
    }
  }
  return fault
}

/** Runs `decode`; what it refuses belongs to request `id`. */
function forRequest<T>(id: number, decode: () => T): T {
  try {
    return decode()
  } catch (error) {
    if (error instanceof MqError && !errorTable[error.code].closes) throw new RequestError(id, error)
    throw error
  }
}

/**
 * What a client sent.
 * @throws MqError when the stream can't be trusted any more; RequestError when a request is to be refused
 */
export function decodeClientFrame(bytes: Uint8Array): ClientFrame {
  const head = openFrame(bytes)
  const { nr } = head
  if (nr >= 64 && nr <= 127) {
    checkId(head, 'any')
    return { op: 'forbidden', id: head.id, nr }
  }
  if (unsupportedOps.has(nr)) {
    checkId(head, 'request')
    return { op: 'unsupported', id: head.id, nr }
  }
  if (serverOps.has(nr)) throw new MqError('BAD_FRAME', `operation ${nr} is the server's to send`)
  if (!Object.hasOwn(fieldsOf, nr)) throw unknownVersion(`operation ${nr} is unknown`)
  const ofConnection = nr === op.hello || nr === op.heartbeat
  checkId(head, ofConnection ? 'zero' : 'request')
  // CANCEL and CREDIT bear the id of another request, which must not be answered in their place.
  const isAboutAnother = nr === op.cancel || nr === op.credit
  return forRequest(ofConnection || isAboutAnother ? 0 : head.id, () => readClientFrame(head))
}

function readClientFrame(head: Head): ClientFrame {
  const { cursor, nr, id } = head
  // The versions come first: a HELLO of another version may have other fields.
  if (nr !== op.hello) checkFields(head)
  switch (nr) {
    case op.send:
      return readSend(cursor, id)
    case op.receive:
      return {
        op: 'receive',
        id,
        queueId: readQueueId(cursor),
        partition: cursor.nil() ? null : cursor.integer('partition', 0, limits.partitionsMax - 1),
        max: cursor.integer('max', 1, limits.receiveMessagesMax),
        maxBytes: cursor.integer('maxBytes', 1, limits.receiveBytesMax),
        waitMs: cursor.integer('waitMs', 0, limits.receiveWaitMsMax),
        visibilityTimeoutMs: cursor.nil()
          ? null
          : cursor.integer('visibilityTimeoutMs', 1, limits.visibilityTimeoutMsMax),
        mode: cursor.integer('mode', 0, 1),
      }
    case op.settle:
      return readSettle(cursor, id)
    case op.extend:
      return {
        op: 'extend',
        id,
        queueId: readQueueId(cursor),
        partition: cursor.integer('partition', 0, limits.partitionsMax - 1),
        extendMs: cursor.integer('extendMs', 1, limits.visibilityTimeoutMsMax),
        items: readItems(cursor),
      }
    case op.subscribe:
      return {
        op: 'subscribe',
        id,
        queueId: readQueueId(cursor),
        partition: cursor.nil() ? null : cursor.integer('partition', 0, limits.partitionsMax - 1),
        messages: cursor.integer('messages', 0, limits.creditMessagesMax),
        bytes: cursor.integer('bytes', 0, limits.creditBytesMax),
        visibilityTimeoutMs: cursor.nil()
          ? null
          : cursor.integer('visibilityTimeoutMs', 1, limits.visibilityTimeoutMsMax),
        mode: cursor.integer('mode', 0, 1),
      }
    case op.unsubscribe:
      return { op: 'unsubscribe', id, subscription: cursor.integer('subscription', 1, requestIdMax) }
    case op.credit:
      return {
        op: 'credit',
        id,
        messages: cursor.integer('messages', 0, limits.creditMessagesMax),
        bytes: cursor.integer('bytes', 0, limits.creditBytesMax),
      }
    case op.hello:
      return readHello(head)
    case op.heartbeat:
      return { op: 'heartbeat' }
    case op.cancel:
      return { op: 'cancel', id }
    case op.lookup:
      return { op: 'lookup', id, name: readQueueName(cursor, 'name') }
    case op.createQueue:
      return {
        op: 'createQueue',
        id,
        name: readQueueName(cursor, 'name'),
        options: readFreeMap(cursor, 'options', freeValueBytesMax),
      }
    case op.listQueues:
      return {
        op: 'listQueues',
        id,
        after: cursor.nil() ? null : readQueueName(cursor, 'after'),
        limit: cursor.integer('limit', 1, 1000),
      }
    case op.describeQueue:
      return { op: 'describeQueue', id, name: readQueueName(cursor, 'name') }
    case op.updateQueue:
      return {
        op: 'updateQueue',
        id,
        name: readQueueName(cursor, 'name'),
        options: readFreeMap(cursor, 'options', freeValueBytesMax),
      }
    case op.purgeQueue:
      return {
        op: 'purgeQueue',
        id,
        name: readQueueName(cursor, 'name'),
        dryRun: cursor.boolean('dryRun'),
      }
    case op.peek:
      return {
        op: 'peek',
        id,
        name: readQueueName(cursor, 'name'),
        max: cursor.integer('max', 1, limits.receiveMessagesMax),
      }
    case op.redrive:
      return {
        op: 'redrive',
        id,
        name: readQueueName(cursor, 'name'),
        to: cursor.nil() ? null : readQueueName(cursor, 'to'),
        max: cursor.integer('max', 1, limits.redriveMessagesMax),
        dryRun: cursor.boolean('dryRun'),
        cursor: readRedriveCursor(cursor),
      }
    default:
      return {
        op: 'deleteQueue',
        id,
        name: readQueueName(cursor, 'name'),
        queueId: cursor.nil() ? null : readQueueId(cursor),
      }
  }
}

function readHello(head: Head): ClientFrame {
  const { cursor } = head
  if (head.fault !== null || head.count < 2) checkFields(head)
  const minVersion = cursor.integer('minVersion', 0, uint32Max)
  const maxVersion = cursor.integer('maxVersion', minVersion, uint32Max)
  if (minVersion > protocolVersion.max || maxVersion < protocolVersion.min) {
    throw unknownVersion(`the client speaks versions ${minVersion} to ${maxVersion}`)
  }
  checkFields(head)
  return {
    op: 'hello',
    minVersion,
    maxVersion,
    clientId: readProducerId(cursor, 'clientId'),
    session: cursor.integer('session', 1, safeMax),
    name: cursor.name('name', nameBytesMax),
    credentials: cursor.nil() ? null : readFreeMap(cursor, 'credentials', freeValueBytesMax),
    features: cursor.nil() ? null : readFreeMap(cursor, 'features', freeValueBytesMax),
  }
}

/** Reads what SEND and SETTLE begin with into `frame`, which has the fields already: a spread would cost more. */
function readSequenced(cursor: Cursor, frame: Addressed): void {
  frame.queueId = readQueueId(cursor)
  frame.partition = cursor.integer('partition', 0, limits.partitionsMax - 1)
  frame.producerId = readProducerId(cursor, 'producerId')
  frame.producerEpoch = cursor.integer('producerEpoch', 0, uint32Max)
  frame.sequence = cursor.integer('sequence', 0, safeMax)
  frame.opening = cursor.integer('opening', 0, safeMax)
}

interface Addressed extends Sequenced {
  queueId: QueueId
  partition: PartitionId
}

function readSend(cursor: Cursor, id: number): SendRequest {
  const frame: SendRequest = {
    op: 'send',
    id,
    queueId: '',
    partition: 0,
    producerId: '',
    producerEpoch: 0,
    sequence: 0,
    opening: 0,
    count: 0,
    crc: 0,
    batch: noBytes,
  }
  readSequenced(cursor, frame)
  frame.count = cursor.integer('count', 1, limits.batchMessagesMax)
  frame.crc = cursor.integer('crc', 0, uint32Max)
  frame.batch = cursor.bin('batch')
  return frame
}

function readSettle(cursor: Cursor, id: number): SettleRequest {
  const frame: SettleRequest = {
    op: 'settle',
    id,
    queueId: '',
    partition: 0,
    producerId: '',
    producerEpoch: 0,
    sequence: 0,
    opening: 0,
    action: 0,
    items: noItems,
    options: null,
    outputs: null,
  }
  readSequenced(cursor, frame)
  frame.action = cursor.integer('action', 0, 3)
  frame.items = readItems(cursor)
  frame.options = cursor.nil() ? null : readSettleOptions(cursor, frame.action)
  frame.outputs = cursor.nil() ? null : readFreeArray(cursor, 'outputs', freeValueBytesMax)
  return frame
}

const noBytes = new Uint8Array(0)
const noItems: LeasedRange[] = []

/**
 * What a server sent.
 * @throws MqError when the stream can't be trusted any more; RequestError when only the answer to one request can't
 */
export function decodeServerFrame(bytes: Uint8Array): ServerFrame {
  const head = openFrame(bytes)
  const { nr, id } = head
  const isServers = serverOps.has(nr) || nr === op.heartbeat
  if (!isServers) throw unknownVersion(`the server sent operation ${nr}`)
  if (nr !== op.error) {
    checkId(head, nr === op.heartbeat || nr === op.helloOk || nr === op.goAway ? 'zero' : 'request')
  }
  return forRequest(id, () => readServerFrame(head))
}

function readServerFrame(head: Head): ServerFrame {
  const { cursor, nr, id } = head
  checkFields(head)
  switch (nr) {
    case op.sent:
      return {
        op: 'sent',
        id,
        epoch: cursor.integer('epoch', 0, safeMax),
        base: cursor.integer('base', 0, safeMax),
        duplicate: cursor.boolean('duplicate'),
        confirm: cursor.integer('confirm', 0, 2),
        storage: cursor.integer('storage', 0, 1),
      }
    case op.delivered:
      return { op: 'delivered', id, deliveries: readDeliveries(cursor) }
    case op.push:
      return { op: 'push', id, deliveries: readDeliveries(cursor) }
    case op.settled:
      return { op: 'settled', id, refused: readRefused(cursor) }
    case op.ok:
      return { op: 'ok', id, result: readFree(cursor, 'result', Infinity) }
    case op.error:
      return readError(cursor, id)
    case op.helloOk:
      return {
        op: 'helloOk',
        version: cursor.integer('version', protocolVersion.min, protocolVersion.max),
        clusterId: cursor.name('clusterId', nameBytesMax),
        nodeId: cursor.name('nodeId', nameBytesMax),
        limits: readLimits(cursor),
        features: readFreeMap(cursor, 'features', freeValueBytesMax),
      }
    case op.goAway:
      return { op: 'goAway', reason: cursor.text('reason', limits.handshakeBytesMax) }
    default:
      return { op: 'heartbeat' }
  }
}

/** A code of a newer server is INTERNAL here, with the code in the message and in `details.code`. */
function readError(cursor: Cursor, id: number): ServerFrame {
  const code = cursor.name('code', nameBytesMax)
  const message = cursor.text('message', limits.frameBytesMax)
  const retryable = cursor.boolean('retryable')
  const details = cursor.nil() ? null : readFreeMap(cursor, 'details', Infinity)
  if (isErrorCode(code)) return { op: 'error', id, code, message, retryable, details }
  return {
    op: 'error',
    id,
    code: 'INTERNAL',
    message: `${code}: ${message}`,
    retryable,
    details: { ...details, code },
  }
}

const limitNames = [
  'frameBytesMax',
  'batchBytesMax',
  'batchMessagesMax',
  'receiveMessagesMax',
  'receiveBytesMax',
  'unansweredMax',
  'heartbeatMs',
] as const satisfies readonly (keyof WireLimits)[]

function readLimits(cursor: Cursor): WireLimits {
  const map = readFreeMap(cursor, 'limits', freeValueBytesMax)
  const told: Partial<WireLimits> = {}
  for (const name of limitNames) {
    const value = Object.hasOwn(map, name) ? map[name] : undefined
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) {
      throw invalidField('limits', `must have '${name}', an integer ≥ 1`)
    }
    told[name] = value
  }
  return told as WireLimits
}

// ---------------------------------------------------------------------------------------------------------------
// Decoding: fields

/**
 * The last queue ids that came, so that a stream of requests to one queue makes no string for each, and Maps find
 * the very string they hold. Any 16 bytes may stand in any place: each is compared in full.
 */
const queueIdCacheSize = 256
const cachedIdBytes = new Uint8Array(16 * queueIdCacheSize)
const cachedIds = new Array<QueueId>(queueIdCacheSize).fill('0'.repeat(32))

export function readQueueId(cursor: Cursor): QueueId {
  const from = cursor.bin16('queueId')
  const { bytes } = cursor
  // The ids are random: one byte is as good as a hash.
  const slot = bytes[from]!
  const at = 16 * slot
  for (let i = 0; i < 16; i++) {
    if (bytes[from + i] === cachedIdBytes[at + i]) continue
    cachedIdBytes.set(bytes.subarray(from, from + 16), at)
    return (cachedIds[slot] = hexOf(bytes, from, from + 16))
  }
  return cachedIds[slot]!
}

function readProducerId(cursor: Cursor, field: string): string {
  const from = cursor.bin16(field)
  return latin1Of(cursor.bytes, from, from + 16)
}

const queueNamePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$/

/** Whether a queue may have this name. */
export function isQueueName(name: string): boolean {
  return queueNamePattern.test(name) && !name.includes('..')
}

function isQueueNameField(nr: number, field: string): boolean {
  return nr !== op.hello && (field === 'name' || field === 'after' || field === 'to')
}

function readQueueName(cursor: Cursor, field: string): string {
  const from = cursor.at
  const length = cursor.stringHead()
  if (length < 0) throw invalidField(field, 'must be a string')
  if (length <= limits.queueNameBytesMax) {
    const name = latin1Of(cursor.bytes, cursor.at, cursor.at + length)
    cursor.at += length
    if (isQueueName(name)) return name
  }
  cursor.at = from
  throw new MqError('INVALID_NAME', `'${field}' is no name for a queue: ${errorTable.INVALID_NAME.advice}`, {
    details: { field },
  })
}

function readItems(cursor: Cursor): LeasedRange[] {
  const numbers = cursor.arrayHead()
  if (numbers < 4 || numbers % 4 !== 0 || numbers > 4 * itemsMax) {
    throw invalidField('items', `must be an array of 1 to ${itemsMax} times four integers`)
  }
  const items = new Array<LeasedRange>(numbers / 4)
  for (let i = 0; i < items.length; i++) {
    items[i] = {
      leaseEpoch: cursor.integer('items', 0, safeMax),
      lease: cursor.integer('items', 0, safeMax),
      // Its end is a number too.
      offset: cursor.integer('items', 0, safeMax - limits.batchMessagesMax),
      count: cursor.integer('items', 1, limits.batchMessagesMax),
    }
  }
  return items
}

/** Nil stands for what is not given. */
function readSettleOptions(cursor: Cursor, action: number): SettleOptions {
  const map = readFreeMap(cursor, 'options', freeValueBytesMax)
  const options: SettleOptions = { delayMs: null, reason: null }
  for (const [name, value] of Object.entries(map)) {
    if (name !== 'delayMs' && name !== 'reason') throw invalidField(name, 'is no option of a settle')
    if (value === null) continue
    if (action !== settleAction.nack && !(name === 'reason' && action === settleAction.deadLetter)) {
      throw invalidField(name, 'does not go with this action')
    }
    if (name === 'reason') {
      if (typeof value !== 'string' || Buffer.byteLength(value) > limits.reasonBytesMax) {
        throw invalidField(name, `must be a text of at most ${limits.reasonBytesMax} bytes`)
      }
      options.reason = value
    } else {
      if (!isCount(value) || value > limits.delayMsMax) {
        throw invalidField(name, `must be an integer from 0 to ${limits.delayMsMax}`)
      }
      options.delayMs = value
    }
  }
  return options
}

const deliveryFields = 10

function readDeliveries(cursor: Cursor): Delivery[] {
  const count = cursor.arrayHead()
  if (count < 0 || count > itemsMax)
    throw invalidField('deliveries', `must be an array of at most ${itemsMax}`)
  const deliveries = new Array<Delivery>(count)
  for (let i = 0; i < count; i++) {
    if (cursor.arrayHead() !== deliveryFields)
      throw invalidField('deliveries', `must hold arrays of ${deliveryFields}`)
    deliveries[i] = {
      partition: cursor.integer('deliveries', 0, limits.partitionsMax - 1),
      leaseEpoch: cursor.integer('deliveries', 0, safeMax),
      lease: cursor.integer('deliveries', 0, safeMax),
      leaseMs: cursor.integer('deliveries', 0, safeMax),
      epoch: cursor.integer('deliveries', 0, safeMax),
      base: cursor.integer('deliveries', 0, safeMax),
      sentAtMs: cursor.integer('deliveries', 0, safeMax),
      deliveryCount: readDeliveryCount(cursor),
      crc: cursor.integer('deliveries', 0, uint32Max),
      batch: cursor.bin('deliveries'),
    }
  }
  return deliveries
}

function readDeliveryCount(cursor: Cursor): number | number[] {
  const length = cursor.arrayHead()
  if (length < 0) return cursor.integer('deliveries', 0, safeMax)
  if (length > limits.batchMessagesMax)
    throw invalidField('deliveries', 'must hold a deliveryCount for each message')
  const counts = new Array<number>(length)
  for (let i = 0; i < length; i++) counts[i] = cursor.integer('deliveries', 0, safeMax)
  return counts
}

/** Flat `partition, offset, end`. */
function readRedriveCursor(cursor: Cursor): number[] | null {
  if (cursor.nil()) return null
  const length = cursor.arrayHead()
  if (length < 3 || length % 3 !== 0 || length > 3 * limits.partitionsMax) {
    throw invalidField(
      'cursor',
      `must be nil, or an array of 1 to ${limits.partitionsMax} times three integers`,
    )
  }
  const numbers = new Array<number>(length)
  for (let i = 0; i < length; i++) {
    numbers[i] = cursor.integer('cursor', 0, i % 3 === 0 ? limits.partitionsMax - 1 : safeMax)
  }
  return numbers
}

function readRefused(cursor: Cursor): number[] | null {
  if (cursor.nil()) return null
  const length = cursor.arrayHead()
  if (length < 0 || length % 2 !== 0) throw invalidField('refused', 'must be nil or an array of pairs')
  const refused = new Array<number>(length)
  for (let i = 0; i < length; i++) refused[i] = cursor.integer('refused', 0, safeMax)
  return refused
}

const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' })

function readFree(cursor: Cursor, field: string, bytesMax: number): unknown {
  const from = cursor.at
  cursor.at = scanValue(cursor.bytes, from, cursor.bytes.length)
  if (cursor.at - from > bytesMax) throw invalidField(field, `must be at most ${bytesMax} bytes`)
  // A view of its own: msgpackr leaves a mark on what it is given.
  return unpackr.unpack(cursor.bytes.subarray(from, cursor.at))
}

function readFreeMap(cursor: Cursor, field: string, bytesMax: number): Record<string, unknown> {
  const from = cursor.at
  if (cursor.mapHead() < 0) throw invalidField(field, 'must be a map')
  cursor.at = from
  return readFree(cursor, field, bytesMax) as Record<string, unknown>
}

function readFreeArray(cursor: Cursor, field: string, bytesMax: number): unknown[] {
  const from = cursor.at
  if (cursor.arrayHead() < 0) throw invalidField(field, 'must be an array')
  cursor.at = from
  return readFree(cursor, field, bytesMax) as unknown[]
}

// ---------------------------------------------------------------------------------------------------------------
// Encoding

const out = new Writer()

/** An integer's bytes at most. */
const integerBytes = 9
/** A frame's length, its array's head, the operation and the request id: 4 + 5 + 1 + 9. */
const headBytesMax = 19
/** The id of a queue or of a producer, as bin. */
const idBytes = 18
const binHeadBytesMax = 5

/** Begins a frame of at most `bytesMax` bytes behind its head, with `fields` fields behind the id. */
function begin(nr: number, id: number, fields: number, bytesMax: number): number {
  const start = out.begin(headBytesMax + bytesMax)
  out.at += lengthBytes
  out.arrayHead(2 + fields)
  out.byte(nr)
  out.integer(id)
  return start
}

/** Ends the frame; `more` bytes of it follow that were not written here. */
function end(start: number, more = 0): Uint8Array {
  out.u32At(start, out.at - start - lengthBytes + more)
  return out.since(start)
}

function oneChunk(chunks: readonly Uint8Array[]): Uint8Array {
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/** The same bytes each time. */
export const heartbeatFrame: Uint8Array = encodeFrame([op.heartbeat, 0])

/** A SEND as two chunks to be written one after the other; the second is `frame.batch` itself. */
export function encodeSend(frame: Omit<SendRequest, 'op'>): readonly [Uint8Array, Uint8Array] {
  const start = begin(op.send, frame.id, 9, 2 * idBytes + 6 * integerBytes + binHeadBytesMax)
  out.hex16(frame.queueId)
  out.integer(frame.partition)
  out.latin16(frame.producerId)
  out.integer(frame.producerEpoch)
  out.integer(frame.sequence)
  out.integer(frame.opening)
  out.integer(frame.count)
  out.integer(frame.crc)
  out.binHead(frame.batch.length)
  return [end(start, frame.batch.length), frame.batch]
}

/** Below this a batch is copied beside its envelope: one small write costs less than two. */
const copiedBatchBytesMax = 8 << 10

/** A DELIVERED as chunks to be written one after the other. Large batches are among them as they are, uncopied. */
export function encodeDelivered(id: number, deliveries: readonly Delivery[]): Uint8Array[] {
  return encodeDeliveries(op.delivered, id, deliveries)
}

/** A PUSH, as `encodeDelivered`. */
export function encodePush(id: number, deliveries: readonly Delivery[]): Uint8Array[] {
  return encodeDeliveries(op.push, id, deliveries)
}

function encodeDeliveries(nr: number, id: number, deliveries: readonly Delivery[]): Uint8Array[] {
  let bytesMax = 5
  let batchBytes = 0
  for (const { deliveryCount, batch } of deliveries) {
    bytesMax += 1 + 8 * integerBytes + binHeadBytesMax
    bytesMax += typeof deliveryCount === 'number' ? integerBytes : 5 + integerBytes * deliveryCount.length
    if (batch.length <= copiedBatchBytesMax) bytesMax += batch.length
    else batchBytes += batch.length
  }
  const start = begin(nr, id, 1, bytesMax)
  const chunks: Uint8Array[] = []
  let chunkAt = start
  out.arrayHead(deliveries.length)
  for (const delivery of deliveries) {
    const { batch } = delivery
    writeDeliveryHead(delivery)
    if (batch.length <= copiedBatchBytesMax) {
      out.raw(batch)
      continue
    }
    chunks.push(out.since(chunkAt), batch)
    chunkAt = out.at
  }
  if (out.at > chunkAt) chunks.push(out.since(chunkAt))
  out.u32At(start, out.at - start - lengthBytes + batchBytes)
  return chunks
}

function writeDeliveryHead(delivery: Delivery): void {
  out.arrayHead(deliveryFields)
  out.integer(delivery.partition)
  out.integer(delivery.leaseEpoch)
  out.integer(delivery.lease)
  out.integer(delivery.leaseMs)
  out.integer(delivery.epoch)
  out.integer(delivery.base)
  out.integer(delivery.sentAtMs)
  const { deliveryCount } = delivery
  if (typeof deliveryCount === 'number') out.integer(deliveryCount)
  else {
    out.arrayHead(deliveryCount.length)
    for (const count of deliveryCount) out.integer(count)
  }
  out.integer(delivery.crc)
  out.binHead(delivery.batch.length)
}

function writeItems(items: readonly LeasedRange[]): void {
  out.arrayHead(4 * items.length)
  for (const item of items) {
    out.integer(item.leaseEpoch)
    out.integer(item.lease)
    out.integer(item.offset)
    out.integer(item.count)
  }
}

function itemsBytes(items: readonly LeasedRange[]): number {
  return 5 + 4 * integerBytes * items.length
}

function bytesOfHex(hex: string): Uint8Array {
  return Buffer.from(hex, 'hex')
}

function bytesOfLatin1(text: string): Uint8Array {
  return Buffer.from(text, 'latin1')
}

/** A whole frame, in one piece: a SEND's batch is copied. */
export function encodeClientFrame(frame: ClientFrame): Uint8Array {
  switch (frame.op) {
    case 'send':
      return oneChunk(encodeSend(frame))
    case 'receive': {
      const start = begin(op.receive, frame.id, 7, idBytes + 6 * integerBytes)
      out.hex16(frame.queueId)
      out.integerOrNil(frame.partition)
      out.integer(frame.max)
      out.integer(frame.maxBytes)
      out.integer(frame.waitMs)
      out.integerOrNil(frame.visibilityTimeoutMs)
      out.integer(frame.mode)
      return end(start)
    }
    case 'settle':
      return encodeSettle(frame)
    case 'extend': {
      const start = begin(op.extend, frame.id, 4, idBytes + 2 * integerBytes + itemsBytes(frame.items))
      out.hex16(frame.queueId)
      out.integer(frame.partition)
      out.integer(frame.extendMs)
      writeItems(frame.items)
      return end(start)
    }
    case 'hello':
      return encodeFrame([
        op.hello,
        0,
        frame.minVersion,
        frame.maxVersion,
        bytesOfLatin1(frame.clientId),
        frame.session,
        frame.name,
        frame.credentials,
        frame.features,
      ])
    case 'heartbeat':
      return heartbeatFrame
    case 'cancel':
      return encodeFrame([op.cancel, frame.id])
    case 'credit': {
      const start = begin(op.credit, frame.id, 2, 2 * integerBytes)
      out.integer(frame.messages)
      out.integer(frame.bytes)
      return end(start)
    }
    case 'subscribe': {
      const start = begin(op.subscribe, frame.id, 6, idBytes + 5 * integerBytes)
      out.hex16(frame.queueId)
      out.integerOrNil(frame.partition)
      out.integer(frame.messages)
      out.integer(frame.bytes)
      out.integerOrNil(frame.visibilityTimeoutMs)
      out.integer(frame.mode)
      return end(start)
    }
    case 'unsubscribe':
      return encodeFrame([op.unsubscribe, frame.id, frame.subscription])
    case 'lookup':
      return encodeFrame([op.lookup, frame.id, frame.name])
    case 'createQueue':
      return encodeFrame([op.createQueue, frame.id, frame.name, frame.options])
    case 'listQueues':
      return encodeFrame([op.listQueues, frame.id, frame.after, frame.limit])
    case 'describeQueue':
      return encodeFrame([op.describeQueue, frame.id, frame.name])
    case 'deleteQueue':
      return encodeFrame([
        op.deleteQueue,
        frame.id,
        frame.name,
        frame.queueId === null ? null : Buffer.from(frame.queueId, 'hex'),
      ])
    case 'updateQueue':
      return encodeFrame([op.updateQueue, frame.id, frame.name, frame.options])
    case 'purgeQueue':
      return encodeFrame([op.purgeQueue, frame.id, frame.name, frame.dryRun])
    case 'peek':
      return encodeFrame([op.peek, frame.id, frame.name, frame.max])
    case 'redrive':
      return encodeFrame([op.redrive, frame.id, frame.name, frame.to, frame.max, frame.dryRun, frame.cursor])
    case 'unsupported':
    case 'forbidden':
      return encodeFrame([frame.nr, frame.id])
    default:
      return frame satisfies never
  }
}

function encodeSettle(frame: Extract<ClientFrame, { op: 'settle' }>): Uint8Array {
  if (frame.options !== null || frame.outputs !== null) {
    const items = frame.items.flatMap((item) => [item.leaseEpoch, item.lease, item.offset, item.count])
    return encodeFrame([
      op.settle,
      frame.id,
      bytesOfHex(frame.queueId),
      frame.partition,
      bytesOfLatin1(frame.producerId),
      frame.producerEpoch,
      frame.sequence,
      frame.opening,
      frame.action,
      items,
      frame.options,
      frame.outputs,
    ])
  }
  const start = begin(op.settle, frame.id, 10, 2 * idBytes + 5 * integerBytes + itemsBytes(frame.items) + 2)
  out.hex16(frame.queueId)
  out.integer(frame.partition)
  out.latin16(frame.producerId)
  out.integer(frame.producerEpoch)
  out.integer(frame.sequence)
  out.integer(frame.opening)
  out.integer(frame.action)
  writeItems(frame.items)
  out.nil()
  out.nil()
  return end(start)
}

/** A whole frame, in one piece: a DELIVERED's batches are copied. */
export function encodeServerFrame(frame: ServerFrame): Uint8Array {
  switch (frame.op) {
    case 'sent': {
      const start = begin(op.sent, frame.id, 5, 4 * integerBytes + 1)
      out.integer(frame.epoch)
      out.integer(frame.base)
      out.boolean(frame.duplicate)
      out.integer(frame.confirm)
      out.integer(frame.storage)
      return end(start)
    }
    case 'delivered':
      return oneChunk(encodeDelivered(frame.id, frame.deliveries))
    case 'push':
      return oneChunk(encodePush(frame.id, frame.deliveries))
    case 'settled': {
      const { refused } = frame
      const start = begin(op.settled, frame.id, 1, 5 + integerBytes * (refused?.length ?? 0))
      if (refused === null) out.nil()
      else {
        out.arrayHead(refused.length)
        for (const number of refused) out.integer(number)
      }
      return end(start)
    }
    case 'ok':
      return encodeFrame([op.ok, frame.id, frame.result])
    case 'error':
      return encodeFrame([op.error, frame.id, frame.code, frame.message, frame.retryable, frame.details])
    case 'helloOk':
      return encodeFrame([
        op.helloOk,
        0,
        frame.version,
        frame.clusterId,
        frame.nodeId,
        frame.limits,
        frame.features,
      ])
    case 'heartbeat':
      return heartbeatFrame
    case 'goAway':
      return encodeFrame([op.goAway, 0, frame.reason])
    default:
      return frame satisfies never
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The answer to LOOKUP

/** LOOKUP's answer as OK's `result`. */
export function lookupToResult(lookup: LookupResult): unknown {
  return {
    queueId: bytesOfHex(lookup.queueId),
    name: lookup.name,
    options: lookup.options,
    partitions: lookup.partitions.map((it) => [it.partition, it.address, it.epoch, it.logEnd]),
  }
}

/**
 * LOOKUP's answer out of OK's `result`.
 * @throws MqError INVALID_FIELD
 */
export function lookupOfResult(result: unknown): LookupResult {
  const wrong = () => invalidField('result', 'must be { queueId, name, options, partitions }')
  if (typeof result !== 'object' || result === null) throw wrong()
  const { queueId, name, options, partitions } = result as Record<string, unknown>
  if (!(queueId instanceof Uint8Array) || queueId.length !== 16 || typeof name !== 'string') throw wrong()
  if (typeof options !== 'object' || options === null || !Array.isArray(partitions)) throw wrong()
  return {
    queueId: hexOf(queueId, 0, 16),
    name,
    options: options as Record<string, unknown>,
    partitions: partitions.map((it: unknown) => {
      if (!Array.isArray(it) || it.length !== 4) throw wrong()
      const [partition, address, epoch, logEnd] = it as unknown[]
      if (!isCount(partition) || !isCount(epoch) || !isCount(logEnd)) throw wrong()
      if (address !== null && typeof address !== 'string') throw wrong()
      return { partition, address, epoch, logEnd }
    }),
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

/**
 * REDRIVE's answer out of OK's `result`.
 * @throws MqError INVALID_FIELD
 */
export function redriveOfResult(result: unknown): RedriveResult {
  const wrong = () => invalidField('result', 'must be { messages, skipped, targets, cursor }')
  if (typeof result !== 'object' || result === null) throw wrong()
  const { messages, skipped, targets, cursor } = result as Record<string, unknown>
  if (!isCount(messages) || !isCount(skipped)) throw wrong()
  if (typeof targets !== 'object' || targets === null || !Object.values(targets).every(isCount)) throw wrong()
  if (cursor !== null && !(Array.isArray(cursor) && cursor.every(isCount))) throw wrong()
  return { messages, skipped, targets: targets as Record<string, number>, cursor }
}

export function peekedToResult(peeked: readonly Peeked[]): unknown {
  return peeked.map((p) => [p.partition, p.epoch, p.base, p.sentAtMs, p.deliveries, p.state, p.crc, p.batch])
}

/** @throws MqError INVALID_FIELD */
export function peekedOfResult(result: unknown): Peeked[] {
  const isNumber = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
  if (!Array.isArray(result)) throw invalidField('result', 'is no list')
  return result.map((item: unknown) => {
    const fields: unknown[] = Array.isArray(item) ? item : []
    const [partition, epoch, base, sentAtMs, deliveries, state, crc, batch] = fields
    if (
      !isNumber(partition) ||
      !isNumber(epoch) ||
      !isNumber(base) ||
      !isNumber(sentAtMs) ||
      !isNumber(deliveries) ||
      !isNumber(crc) ||
      (state !== 'ready' && state !== 'delayed' && state !== 'leased') ||
      !(batch instanceof Uint8Array)
    ) {
      throw invalidField('result', 'holds what is no peeked batch')
    }
    return { partition, epoch, base, sentAtMs, deliveries, state, crc, batch }
  })
}

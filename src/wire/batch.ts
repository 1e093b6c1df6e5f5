/**
 * The batch of PROTOCOL.md: what travels, is stored, is replicated and is delivered.
 *
 * Reading one looks at its head and passes once over its lengths; bodies are never touched. A plain batch (no
 * attributes) costs no allocation but its view. Attributes are checked and measured on their bytes and decoded only
 * for who reads messages.
 */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import { crc32 } from 'node:zlib'
import { buffers } from '../buffers.ts'
import { invariant, MqError } from '../errors.ts'
import { limits } from '../types.ts'
import { Cursor, utf8Of, Writer } from './cursor.ts'
import { scanValue, uint32At } from './scan.ts'

const batchVersion = 1
/** Serializer names, keys and dedupe ids are at most this long. */
const shortTextBytesMax = 255
const keyBytesMax = 1024

/** The columns that the protocol knows; a broker may support fewer. */
export const attributeNames = ['headers', 'key', 'deliverAt', 'delay', 'priority', 'dedupeId', 'ttl'] as const
export type AttributeName = (typeof attributeNames)[number]

/** One message's attributes, as its sender gives them. */
export interface MessageAttributes {
  headers?: Readonly<Record<string, string>> | undefined
  key?: string | undefined
  deliverAt?: number | undefined
  delay?: number | undefined
  priority?: number | undefined
  dedupeId?: string | undefined
  ttl?: number | undefined
}

/** A batch whose head has been read and found sound. Positions count from the batch's first byte. */
export class BatchView {
  readonly bytes: Uint8Array
  /** Number of messages, ≥ 1. */
  readonly count: number
  /** Where the serializer's value begins, and ends. */
  readonly serializerAt: number
  readonly serializerEnd: number
  /** Where the first of `count` u32 lengths stands. */
  readonly lengthsAt: number
  /** Where the attributes' value begins, nil or a map, and ends. */
  readonly attributesAt: number
  readonly attributesEnd: number
  readonly hasAttributes: boolean
  /** Where the first body begins. */
  readonly bodiesAt: number
  readonly bodiesLength: number
  /** Length of the largest body. */
  readonly largestBodyBytes: number

  #serializer: string | null | readonly (string | null)[] | undefined
  /** See `messageBytes`. */
  #extras: Float64Array | undefined
  #columns: Record<string, unknown[]> | undefined

  /** Use `readBatch`. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    const cursor = new Cursor(bytes, 0)
    if (cursor.arrayHead() !== 5) throw invalid('must be an array of 5')

    let end = scanValue(bytes, cursor.at, bytes.length)
    if (cursor.integer('batch', 0, 0xffff_ffff) !== batchVersion)
      throw invalid(`must be of version ${batchVersion}`)

    this.serializerAt = cursor.at
    end = scanValue(bytes, cursor.at, bytes.length)
    const serializers = cursor.arrayHead()
    for (let names = serializers < 0 ? 1 : serializers; names > 0; names--) passSerializer(cursor)
    this.serializerEnd = end

    end = scanValue(bytes, cursor.at, bytes.length)
    const lengths = cursor.binHead('batch')
    const count = lengths / 4
    if (!Number.isInteger(count) || count < 1 || count > limits.batchMessagesMax) {
      throw invalid(`must hold 1 to ${limits.batchMessagesMax} lengths of 4 bytes`)
    }
    if (serializers >= 0 && serializers !== count) throw invalid('must name one serializer for each message')
    this.count = count
    this.lengthsAt = cursor.at
    cursor.at = end

    this.attributesAt = cursor.at
    end = scanValue(bytes, cursor.at, bytes.length)
    this.hasAttributes = !cursor.nil()
    if (this.hasAttributes && cursor.mapHead() < 0) throw invalid('must have a map of attributes, or nil')
    this.attributesEnd = end
    cursor.at = end

    end = scanValue(bytes, cursor.at, bytes.length)
    if (end !== bytes.length) throw invalid('has bytes behind its end')
    this.bodiesLength = cursor.binHead('batch')
    this.bodiesAt = cursor.at
    let sum = 0
    let largest = 0
    for (let at = this.lengthsAt, last = at + lengths; at < last; at += 4) {
      const length = uint32At(bytes, at)
      sum += length
      if (length > largest) largest = length
    }
    if (sum !== this.bodiesLength)
      throw invalid(`has ${this.bodiesLength} bytes of bodies; its lengths say ${sum}`)
    this.largestBodyBytes = largest
  }

  /** One for all messages, or one for each; null: a body is bytes. */
  get serializer(): string | null | readonly (string | null)[] {
    if (this.#serializer === undefined) {
      const cursor = new Cursor(this.bytes, this.serializerAt)
      const length = cursor.arrayHead()
      this.#serializer =
        length < 0 ? serializerName(cursor) : Array.from({ length }, () => serializerName(cursor))
    }
    return this.#serializer
  }

  /** Bytes that each message has in headers and key; worked out once. */
  get extras(): Float64Array {
    return (this.#extras ??= measureExtras(this))
  }

  /** See `attributes`. */
  get columns(): Record<string, unknown[]> {
    return (this.#columns ??= decodeColumns(this))
  }
}

function serializerName(cursor: Cursor): string | null {
  return cursor.nil() ? null : cursor.name('batch', shortTextBytesMax)
}

/** CRC-32 (IEEE 802.3), as SEND and deliveries carry it. */
export function crcOf(bytes: Uint8Array): number {
  return crc32(bytes)
}

function invalid(why: string, cause?: unknown): MqError {
  return new MqError('INVALID_FIELD', `'batch' ${why}`, { details: { field: 'batch' }, cause })
}

/**
 * Reads a batch's head. Of its attributes only the structure is known to be sound; see `validateAttributes`.
 * @throws MqError INVALID_FIELD, naming `batch`: whatever is wrong inside a batch leaves the stream intact
 */
export function readBatch(bytes: Uint8Array): BatchView {
  try {
    return new BatchView(bytes)
  } catch (error) {
    if (!(error instanceof MqError) || error.details?.field !== undefined) throw error
    throw invalid(`is not sound: ${error.message}`, error)
  }
}

function passSerializer(cursor: Cursor): void {
  if (cursor.nil()) return
  const length = cursor.stringHead()
  if (length < 1 || length > shortTextBytesMax) {
    throw invalid(`must name serializers by nil or 1 to ${shortTextBytesMax} bytes of text`)
  }
  for (const end = cursor.at + length; cursor.at < end; cursor.at++) {
    if (cursor.bytes[cursor.at] === 0) throw invalid('must not name a serializer with NUL')
  }
}

/** Length of message `i`'s body. */
export function bodyLength(view: BatchView, i: number): number {
  return uint32At(view.bytes, view.lengthsAt + 4 * i)
}

/** Where the body of message `i` begins; O(i). `i` may be `count`: where the bodies end. */
export function bodyAt(view: BatchView, i: number): number {
  let at = view.bodiesAt
  for (let k = 0; k < i; k++) at += bodyLength(view, k)
  return at
}

/** The body of message `i`, a view; O(i): to read many, use `forEachMessage`. */
export function messageBody(view: BatchView, i: number): Uint8Array {
  const at = bodyAt(view, i)
  return view.bytes.subarray(at, at + bodyLength(view, i))
}

/** Calls `visit` for each message, in order, with its body's place in `view.bytes`. */
export function forEachMessage(
  view: BatchView,
  visit: (i: number, at: number, length: number) => void,
): void {
  let at = view.bodiesAt
  for (let i = 0; i < view.count; i++) {
    const length = bodyLength(view, i)
    visit(i, at, length)
    at += length
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Attributes

/**
 * Calls `visit` with the cursor before each column's value; `visit` leaves it behind that value.
 * `nameAt` is where the column's name stands, as a msgpack string.
 */
function forEachColumn(view: BatchView, visit: (name: string, cursor: Cursor, nameAt: number) => void): void {
  if (!view.hasAttributes) return
  const cursor = new Cursor(view.bytes, view.attributesAt)
  for (let columns = cursor.mapHead(); columns > 0; columns--) {
    const nameAt = cursor.at
    const length = cursor.stringHead()
    // Longer names are known to nobody; they only stand in an error's message.
    const name = utf8Of(cursor.bytes, cursor.at, cursor.at + Math.min(length, 64))
    cursor.at += length
    visit(name, cursor, nameAt)
  }
}

function skip(cursor: Cursor): void {
  cursor.at = scanValue(cursor.bytes, cursor.at, cursor.bytes.length)
}

/** Passes elements of a column that has been scanned. Mostly numbers and nil: those without a call. */
function skipElements(cursor: Cursor, count: number): void {
  const { bytes } = cursor
  for (let left = count; left > 0; left--) {
    const token = bytes[cursor.at]!
    if (token < 0x80 || token === 0xc0) cursor.at++
    else if (token >= 0xcc && token <= 0xcf) cursor.at += 1 + (1 << (token - 0xcc))
    else skip(cursor)
  }
}

/** Passes the head of a column's array. */
function columnHead(view: BatchView, name: string, cursor: Cursor): void {
  if (cursor.arrayHead() !== view.count) throw invalid(`must have one '${name}' for each message`)
}

/** Names of the columns there are, in the batch's order. */
export function attributeColumns(view: BatchView): string[] {
  const names: string[] = []
  forEachColumn(view, (name, cursor) => {
    names.push(name)
    skip(cursor)
  })
  return names
}

/**
 * Checks each column: an element for each message, each nil or what PROTOCOL.md says. Decodes nothing.
 * @returns the names of the columns
 * @throws MqError UNSUPPORTED: a column that is not in `supported`, named in `details.column`; INVALID_FIELD
 */
export function validateAttributes(view: BatchView, supported: ReadonlySet<string>): readonly string[] {
  const seen: string[] = []
  forEachColumn(view, (name, cursor) => {
    if (!supported.has(name)) {
      throw new MqError('UNSUPPORTED', `messages with '${name}' are not supported yet`, {
        details: { column: name },
      })
    }
    if (seen.includes(name)) throw invalid(`has the column '${name}' twice`)
    seen.push(name)
    columnHead(view, name, cursor)
    const check = columnChecks[name as AttributeName]
    // A column that is supported and yet not known here is this module's defect, not the sender's.
    invariant(check !== undefined, 'each supported column has a check')
    for (let i = 0; i < view.count; i++) if (!cursor.nil()) check(cursor)
  })
  return seen
}

/** Passes a text of 1 to `bytesMax` bytes and returns its length. */
function passText(cursor: Cursor, name: string, bytesMax: number): number {
  const length = cursor.stringHead()
  if (length < 1 || length > bytesMax) throw invalid(`must have texts of 1 to ${bytesMax} bytes as '${name}'`)
  cursor.at += length
  return length
}

const anyMs = Number.MAX_SAFE_INTEGER
/** As far as dates go. */
const dateMsMax = 8_640_000_000_000_000

/** Each passes one element that is not nil, or throws. */
const columnChecks: Readonly<Record<AttributeName, (cursor: Cursor) => number>> = {
  headers: passHeaders,
  key: (cursor) => passText(cursor, 'key', keyBytesMax),
  deliverAt: (cursor) => cursor.integer('deliverAt', 0, dateMsMax),
  delay: (cursor) => cursor.integer('delay', 0, limits.delayMsMax),
  priority: (cursor) => cursor.integer('priority', 0, 9),
  dedupeId: (cursor) => passText(cursor, 'dedupeId', shortTextBytesMax),
  ttl: (cursor) => cursor.integer('ttl', 0, anyMs),
}

/** Passes a map of text to text and returns its bytes, names and values, without headers named mq-…. */
function passHeaders(cursor: Cursor): number {
  let entries = cursor.mapHead()
  if (entries < 0) throw invalid("must have maps of text to text as 'headers'")
  let bytes = 0
  for (; entries > 0; entries--) {
    const nameBytes = cursor.stringHead()
    const own = isBrokersHeader(cursor.bytes, cursor.at, nameBytes)
    cursor.at += nameBytes
    const valueBytes = cursor.stringHead()
    if (valueBytes < 0) throw invalid("must have maps of text to text as 'headers'")
    cursor.at += valueBytes
    if (!own) bytes += nameBytes + valueBytes
  }
  return bytes
}

/** Whether a header's name begins with "mq-": those are the broker's and don't count as the message's. */
function isBrokersHeader(bytes: Uint8Array, at: number, length: number): boolean {
  return length >= 3 && bytes[at] === 0x6d && bytes[at + 1] === 0x71 && bytes[at + 2] === 0x2d
}

function measureExtras(view: BatchView): Float64Array {
  const sizes = new Float64Array(view.count)
  forEachColumn(view, (name, cursor) => {
    if (name !== 'headers' && name !== 'key') return skip(cursor)
    columnHead(view, name, cursor)
    for (let i = 0; i < view.count; i++) {
      if (cursor.nil()) continue
      sizes[i]! += name === 'headers' ? passHeaders(cursor) : passText(cursor, 'key', keyBytesMax)
    }
  })
  return sizes
}

/** Bytes of message `i` that count against `maxMessageBytes`: body, key and headers, without headers named mq-…. */
export function messageBytes(view: BatchView, i: number): number {
  const body = bodyLength(view, i)
  return view.hasAttributes ? body + view.extras[i]! : body
}

/** The greatest `messageBytes` of the batch; free when there are no attributes. */
export function largestMessageBytes(view: BatchView): number {
  if (!view.hasAttributes) return view.largestBodyBytes
  let largest = 0
  for (let i = 0; i < view.count; i++) largest = Math.max(largest, messageBytes(view, i))
  return largest
}

const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: 'number' })

/**
 * The attributes as columns, decoded once; null when the batch has none. For readers of messages: a column that
 * this version does not know comes as it is.
 * @throws MqError INVALID_FIELD when a column does not hold an element for each message
 */
export function attributes(view: BatchView): Record<string, unknown[]> | null {
  return view.hasAttributes ? view.columns : null
}

/**
 * One column of integers, without decoding the others; null when the batch does not have it.
 * @throws MqError INVALID_FIELD
 */
export function integerColumn(view: BatchView, wanted: AttributeName): (number | null)[] | null {
  let column: (number | null)[] | null = null
  forEachColumn(view, (name, cursor) => {
    if (name !== wanted) return skip(cursor)
    columnHead(view, name, cursor)
    column = Array.from({ length: view.count }, () =>
      cursor.nil() ? null : cursor.integer(name, 0, Number.MAX_SAFE_INTEGER),
    )
  })
  return column
}

function decodeColumns(view: BatchView): Record<string, unknown[]> {
  const columns: Record<string, unknown[]> = {}
  forEachColumn(view, (name, cursor) => {
    const start = cursor.at
    columnHead(view, name, cursor)
    if (name === 'headers') {
      columns[name] = Array.from({ length: view.count }, () => (cursor.nil() ? null : readHeaders(cursor)))
    } else {
      cursor.at = start
      skip(cursor)
      columns[name] = unpackr.unpack(view.bytes, { start, end: cursor.at }) as unknown[]
    }
  })
  return columns
}

/** By hand, since msgpackr drops a byte order mark at the head of a long text: headers come back as they were sent. */
function readHeaders(cursor: Cursor): Record<string, string> {
  const headers: Record<string, string> = {}
  let entries = cursor.mapHead()
  if (entries < 0) throw invalid("must have maps of text to text as 'headers'")
  for (; entries > 0; entries--) {
    const name = readText(cursor)
    headers[name] = readText(cursor)
  }
  return headers
}

function readText(cursor: Cursor): string {
  const length = cursor.stringHead()
  if (length < 0) throw invalid("must have maps of text to text as 'headers'")
  cursor.at += length
  return utf8Of(cursor.bytes, cursor.at - length, cursor.at)
}

// ---------------------------------------------------------------------------------------------------------------
// Slices

const sliceWriter = new Writer()

/**
 * The batch of messages `first` … `first + count - 1`. The whole batch is handed back as it is, uncopied.
 * Serializers and attributes are cut as bytes, so that what a newer client sent arrives as it was; columns that are
 * empty in the slice are left out.
 */
export function sliceBatch(view: BatchView, first: number, count: number): Uint8Array {
  invariant(first >= 0 && count >= 1 && first + count <= view.count, 'a slice lies within its batch')
  if (count === view.count) return view.bytes
  const { bytes } = view
  const bodiesFrom = bodyAt(view, first)
  let bodiesEnd = bodiesFrom
  for (let i = first; i < first + count; i++) bodiesEnd += bodyLength(view, i)

  const out = sliceWriter
  const headMax =
    64 + (view.serializerEnd - view.serializerAt) + 4 * count + view.attributesEnd - view.attributesAt
  const start = out.begin(headMax + bodiesEnd - bodiesFrom)
  out.byte(0x95)
  out.byte(batchVersion)
  const serializer = new Cursor(bytes, view.serializerAt)
  if (serializer.arrayHead() < 0) out.raw(bytes.subarray(view.serializerAt, view.serializerEnd))
  else writeElements(out, serializer, first, count)
  out.binHead(4 * count)
  out.raw(bytes.subarray(view.lengthsAt + 4 * first, view.lengthsAt + 4 * (first + count)))
  sliceAttributes(out, view, first, count)
  out.binHead(bodiesEnd - bodiesFrom)
  out.raw(bytes.subarray(bodiesFrom, bodiesEnd))
  return out.since(start)
}

/**
 * Writes elements `first` … `first + count - 1` as an array, the cursor being before element 0; leaves it behind
 * the last written. Returns whether all are nil.
 */
function writeElements(out: Writer, cursor: Cursor, first: number, count: number): boolean {
  skipElements(cursor, first)
  const from = cursor.at
  let empty = true
  for (let i = 0; i < count; i++) {
    if (cursor.nil()) continue
    empty = false
    skipElements(cursor, 1)
  }
  out.arrayHead(count)
  out.raw(cursor.bytes.subarray(from, cursor.at))
  return empty
}

function sliceAttributes(out: Writer, view: BatchView, first: number, count: number): void {
  const headAt = out.at
  out.nil()
  let columns = 0
  forEachColumn(view, (name, cursor, nameAt) => {
    const columnAt = out.at
    out.raw(cursor.bytes.subarray(nameAt, cursor.at))
    columnHead(view, name, cursor)
    if (writeElements(out, cursor, first, count)) out.at = columnAt
    else columns++
    skipElements(cursor, view.count - first - count)
  })
  if (columns === 0) return
  invariant(columns < 16, 'a batch that was accepted has only known columns')
  out.bytes[headAt] = 0x80 | columns
}

// ---------------------------------------------------------------------------------------------------------------
// Building

/** Room for a batch's head beside lengths, serializers and attributes. */
const headBytes = 32

const none = Buffer.alloc(0)

const packr = new Packr({ useRecords: false, variableMapSize: true })

/**
 * Collects messages into batches, one after the other. Bodies are copied once, straight to where they stay: the
 * head is written into room that was left before them, as much as batches have lately needed. A batch's bytes are
 * never written again once `finish` has handed them out; it is alone in its memory, or shares it with small ones, so
 * that may be given back.
 */
export class BatchBuilder {
  /** Number of messages added since the last `finish`. */
  count = 0
  /** Of the batch being built; empty before its first message. The room for its head lies before `#bodiesAt`. */
  #memory: Buffer = none
  #bodiesAt = 0
  #at = 0
  #lengths = new Uint32Array(64)
  /** The first message's, and each message's once two differ. */
  #serializer: string | null = null
  #serializers: (string | null)[] | null = null
  /** What the serializers take, written as a single one and as one for each message. */
  #serializerBytes = 1
  #serializersBytes = 0
  #columns: Partial<Record<AttributeName, unknown[]>> | null = null
  #attributesBytes = 0
  /** What batches lately took, so that the next one fits without moving. */
  #headExpected = headBytes + 4 * 64
  #bodiesExpected = 0

  /** Bytes that `finish` would yield, or a little more. */
  get byteLength(): number {
    return this.#head + this.#at - this.#bodiesAt
  }

  /** An upper bound of all that stands before the bodies. */
  get #head(): number {
    const serializers = this.#serializers === null ? this.#serializerBytes : this.#serializersBytes
    return headBytes + serializers + 4 * this.count + this.#attributesBytes
  }

  /**
   * Whether one more message would make the batch longer than `limitBytes`. May say yes a few bytes early.
   * @param bodyBytes length of the body; for a text, of its UTF-8
   */
  wouldExceed(
    limitBytes: number,
    bodyBytes: number,
    serializer: string | null = null,
    attributes: MessageAttributes | null = null,
  ): boolean {
    let more = 4 + bodyBytes
    if (this.#serializers !== null || this.count === 0) more += serializerBytes(serializer)
    else if (serializer !== this.#serializer) more += this.#serializersBytes + serializerBytes(serializer)
    if (attributes !== null) more += this.#bytesOf(this.count, attributes)
    else if (this.#columns !== null) more += attributeNames.length
    return this.byteLength + more > limitBytes
  }

  /** Adds a message and copies its body; a text is written as UTF-8. Attributes are kept until `finish`. */
  add(
    body: Uint8Array | string,
    serializer: string | null,
    attributes: MessageAttributes | null = null,
  ): void {
    const i = this.count
    let length: number
    if (typeof body === 'string') {
      // The exact length costs a pass over the text, so short ones do with the most they can take.
      this.#makeRoom(body.length < 1024 ? 3 * body.length : Buffer.byteLength(body))
      length = this.#memory.write(body, this.#at)
    } else {
      length = body.length
      this.#makeRoom(length)
      this.#memory.set(body, this.#at)
    }
    this.#at += length
    if (i === this.#lengths.length) {
      const longer = new Uint32Array(2 * i)
      longer.set(this.#lengths)
      this.#lengths = longer
    }
    this.#lengths[i] = length
    this.count = i + 1
    this.#noteSerializer(i, serializer)
    if (attributes !== null) this.#noteAttributes(i, attributes)
    else if (this.#columns !== null) this.#attributesBytes += attributeNames.length
  }

  /**
   * The batch of all that was added since the last call, of which there must be something.
   * @param headroomBytes as many bytes right before it, in the same ArrayBuffer, are the caller's to overwrite
   */
  finish(headroomBytes = 0): Uint8Array {
    const { count } = this
    invariant(count > 0, 'a batch has at least one message')
    const columns = this.#packColumns()
    const serializer = packr.pack(this.#serializers ?? this.#serializer)
    const bodies = this.#at - this.#bodiesAt
    const lengthsHead = binHeadBytes(4 * count)
    const bodiesHead = binHeadBytes(bodies)
    const head = 2 + serializer.length + lengthsHead + 4 * count + (columns?.length ?? 1) + bodiesHead
    if (this.#bodiesAt < headroomBytes + head) this.#move(headroomBytes + head, bodies, 0)

    const start = this.#bodiesAt - head
    const out = new Writer(this.#memory, start)
    out.byte(0x95)
    out.byte(batchVersion)
    out.raw(serializer)
    out.binHead(4 * count)
    for (let i = 0; i < count; i++) out.u32(this.#lengths[i]!)
    if (columns === null) out.nil()
    else out.raw(columns)
    out.binHead(bodies)
    invariant(out.at === this.#bodiesAt, 'the head ends where the bodies begin')
    const batch = this.#memory.subarray(start, this.#at)

    // Rise at once, fall slowly: moving bodies costs more than leaving a little room.
    this.#headExpected = Math.max(
      headroomBytes + head + (head >> 3),
      this.#headExpected - (this.#headExpected >> 4),
    )
    this.#bodiesExpected = Math.max(
      bodies + (bodies >> 3),
      this.#bodiesExpected - (this.#bodiesExpected >> 4),
    )
    this.#memory = none
    this.#bodiesAt = this.#at = 0
    this.count = 0
    this.#serializer = null
    this.#serializers = null
    this.#serializerBytes = 1
    this.#serializersBytes = 0
    this.#columns = null
    this.#attributesBytes = 0
    return batch
  }

  #makeRoom(bytes: number): void {
    if (this.#memory.length - this.#at >= bytes) return
    const bodies = this.#at - this.#bodiesAt
    this.#move(
      Math.max(this.#headExpected, this.#head),
      bodies,
      Math.max(bytes, 2 * bodies, this.#bodiesExpected),
    )
  }

  /** Moves the batch being built to memory with room for `before` bytes and `behind` more of bodies. */
  #move(before: number, bodies: number, behind: number): void {
    const memory = buffers.take(before + bodies + behind)
    memory.set(this.#memory.subarray(this.#bodiesAt, this.#at), before)
    buffers.giveBack(this.#memory)
    this.#memory = memory
    this.#bodiesAt = before
    this.#at = before + bodies
  }

  #noteSerializer(i: number, serializer: string | null): void {
    const bytes = serializer === this.#serializer ? this.#serializerBytes : serializerBytes(serializer)
    this.#serializersBytes += bytes
    if (i === 0) {
      this.#serializer = serializer
      this.#serializerBytes = bytes
    } else if (this.#serializers !== null) this.#serializers.push(serializer)
    else if (serializer !== this.#serializer) {
      this.#serializers = new Array<string | null>(i).fill(this.#serializer)
      this.#serializers.push(serializer)
    }
  }

  #noteAttributes(i: number, attributes: MessageAttributes): void {
    this.#attributesBytes += this.#bytesOf(i, attributes)
    this.#columns ??= {}
    for (const name of attributeNames) {
      const value = attributes[name]
      if (value !== undefined) (this.#columns[name] ??= [])[i] = value
    }
  }

  /** What message `i`'s attributes add at most: each column may have to hold it, or a nil. */
  #bytesOf(i: number, attributes: MessageAttributes): number {
    // The first message with attributes pays for the columns' names and for the nils of those before it.
    let bytes = attributeNames.length * (this.#columns === null ? 16 + i + 1 : 1)
    for (const name of attributeNames) {
      const value = attributes[name]
      if (value === undefined) continue
      if (typeof value === 'number') bytes += 9
      else if (typeof value === 'string') bytes += textBytes(value)
      else {
        bytes += 5
        for (const header in value) bytes += textBytes(header) + textBytes(value[header]!)
      }
    }
    return bytes
  }

  /** The columns there are, as msgpack; null when no message has any attribute. */
  #packColumns(): Uint8Array | null {
    const columns = this.#columns
    if (columns === null) return null
    const filled: Record<string, unknown[]> = {}
    for (const name of attributeNames) {
      const column = columns[name]
      if (column !== undefined) filled[name] = Array.from({ length: this.count }, (_, i) => column[i] ?? null)
    }
    return Object.keys(filled).length === 0 ? null : packr.pack(filled)
  }
}

function serializerBytes(serializer: string | null): number {
  return serializer === null ? 1 : textBytes(serializer)
}

/** What a text takes at most, its head included. */
function textBytes(text: string): number {
  return 5 + Buffer.byteLength(text)
}

function binHeadBytes(length: number): number {
  return length < 0x100 ? 2 : length < 0x1_0000 ? 3 : 5
}

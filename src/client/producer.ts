/** `send` and `sendBatch`: checks, the bound on what is unconfirmed, and the way to a queue's sender. */
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import type { MessageAttributes } from '../wire/batch.ts'
import { checkOnline, type Core } from './core.ts'
import { Fifo } from './fifo.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import {
  callOptionNames,
  checkArray,
  checkInteger,
  checkQueueName,
  checkSignal,
  checkTimeout,
  unsupported,
  type CallOptions,
} from './options.ts'
import { Outgoing } from './outgoing.ts'
import type { Queue, Queues } from './queues.ts'
import type { SendReceipt } from './receipt.ts'
import type { Sending } from './send-batch.ts'
import type { OutgoingMessage } from './sender.ts'
import { encodeValue, textSerializer, type Serializer } from './serializer.ts'

/** What goes with a message. Options that are not built yet are refused with UNSUPPORTED. */
export interface MessageOptions {
  /** Text to text. Names and values count towards the queue's `maxMessageBytes`, except names that begin `mq-`. */
  headers?: Readonly<Record<string, string>> | undefined
  key?: string | undefined
  dedupeId?: string | undefined
  /** How long the message can't be received, in milliseconds from the broker's taking it. Default: the queue's. */
  delayMs?: number | undefined
  /** When the message can be received, in ms since 1970 or as a Date, by the broker's clock. Instead of `delayMs`. */
  deliverAt?: number | Date | undefined
  priority?: number | undefined
  ttlMs?: number | undefined
}

export interface SendOptions extends MessageOptions, CallOptions {}

const messageOptions = {
  headers: true,
  key: true,
  dedupeId: true,
  delayMs: true,
  deliverAt: true,
  priority: true,
  ttlMs: true,
} as const
const sendOptionNames = optionNames<SendOptions>({ ...messageOptions, signal: true, timeoutMs: true })
const entryNames = optionNames<BatchEntry>({ ...messageOptions, body: true })

export interface BatchEntry extends MessageOptions {
  body: unknown
}

export class Producer {
  readonly #core: Core
  readonly #queues: Queues
  readonly #serializer: Serializer
  readonly #maxPendingBytes: number
  #pendingBytes = 0
  /** Sends that wait for room or for their queue to be known; first come, first served. */
  readonly #waiting = new Fifo<Outgoing>()

  constructor(core: Core, queues: Queues, serializer: Serializer, maxPendingBytes: number) {
    this.#core = core
    this.#queues = queues
    this.#serializer = serializer
    this.#maxPendingBytes = maxPendingBytes
  }

  send(name: string, body: unknown, options: SendOptions): Promise<SendReceipt> {
    return new Promise((resolve, reject) => {
      checkOptionNames(options, sendOptionNames)
      const message = this.#outgoing(body, options)
      this.#add(name, message, {
        sent: resolve,
        failed: reject,
        tag: 0,
        dueMs: this.#core.turn.nowMs + checkTimeout(options.timeoutMs),
        signal: checkSignal(options.signal),
        heldBytes: message.heldBytes,
      })
    })
  }

  sendBatch(
    name: string,
    entries: readonly BatchEntry[],
    options: CallOptions,
  ): Promise<(SendReceipt | MqError)[]> {
    return new Promise((resolve) => {
      checkOptionNames(options, callOptionNames)
      checkArray('entries', entries)
      checkQueueName(name)
      this.#core.checkOpen()
      checkOnline(this.#core)
      const signal = checkSignal(options.signal)
      const dueMs = this.#core.turn.nowMs + checkTimeout(options.timeoutMs)
      const results = new Array<SendReceipt | MqError>(entries.length)
      let left = entries.length
      if (left === 0) resolve(results)
      const put = (result: SendReceipt | MqError, i: number): void => {
        results[i] = result
        if (--left === 0) resolve(results)
      }
      // By index: forEach would pass over a hole, and nobody would ever answer for it.
      for (let tag = 0; tag < entries.length; tag++) {
        const entry = entries[tag]!
        try {
          if (typeof entry !== 'object' || entry === null)
            throw invalidField('entries', 'must hold { body, … }')
          checkOptionNames(entry, entryNames)
          const message = this.#outgoing(entry.body, entry)
          const { heldBytes } = message
          this.#add(name, message, { sent: put, failed: put, tag, dueMs, signal, heldBytes })
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          put(error, tag)
        }
      }
    })
  }

  /** Lets those go who wait at the front: in order, so one whose queue is being looked up holds up the rest. */
  next(): void {
    for (let first = this.#waiting.first; first !== undefined; first = this.#waiting.first) {
      if (!first.isOver) {
        if (this.#isFull) return
        const queue = first.queue ?? this.#queues.find(first.name)
        if (queue === undefined) {
          first.lookUp()
          return
        }
        if (first.isUnwanted) {
          first.giveUp()
          continue
        }
        first.leave()
        this.#waiting.shift()
        const { message, sending } = first
        try {
          this.#put(queue, message, sending)
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          sending.failed(error, sending.tag)
        }
      } else this.#waiting.shift()
    }
  }

  /** Checks a message and puts its body into the form that is sent. @throws MqError */
  #outgoing(body: unknown, options: MessageOptions): OutgoingMessage {
    const { headers, delayMs, deliverAt } = options
    // One by one: it runs for each message, and a loop over their names looks each of them up anew.
    if (options.key !== undefined) throw unsupported("the option 'key'")
    if (options.dedupeId !== undefined) throw unsupported("the option 'dedupeId'")
    if (options.priority !== undefined) throw unsupported("the option 'priority'")
    if (options.ttlMs !== undefined) throw unsupported("the option 'ttlMs'")
    const attributes = withDelay(headers === undefined ? null : checkHeaders(headers), delayMs, deliverAt)
    if (typeof body === 'string') return outgoing(body, Buffer.byteLength(body), textSerializer, attributes)
    if (body instanceof Uint8Array) return outgoing(body, body.length, null, attributes)
    const encoded = encodeValue(this.#serializer, body)
    return outgoing(encoded, encoded.length, this.#serializer.name, attributes)
  }

  #add(name: string, message: OutgoingMessage, sending: Sending): void {
    this.#core.checkOpen()
    checkOnline(this.#core)
    const queue = this.#queues.find(name)
    if (queue !== undefined && !this.#isFull && this.#waiting.size === 0) {
      this.#put(queue, message, sending)
      return
    }
    checkQueueName(name)
    const outgoing = new Outgoing(this.#core, this.#queues, this, name, message, sending)
    this.#waiting.push(outgoing)
    outgoing.begin()
    if (queue === undefined) outgoing.lookUp()
    this.next()
  }

  get #isFull(): boolean {
    return this.#pendingBytes >= this.#maxPendingBytes
  }

  /** @throws MqError MESSAGE_TOO_LARGE */
  #put(queue: Queue, message: OutgoingMessage, sending: Sending): void {
    const { sizeBytes, heldBytes } = message
    const { maxMessageBytes } = queue
    if (sizeBytes > maxMessageBytes) {
      // The limit may have been raised since: the next call looks again.
      queue.isGone()
      throw tooLarge(`'${queue.name}' takes ${maxMessageBytes}`, { bytes: sizeBytes, maxMessageBytes })
    }
    const { frameBytesMax } = this.#core.session.limits
    if (heldBytes + envelopeBytes > frameBytesMax) {
      throw tooLarge(`a frame holds ${frameBytesMax}`, { bytes: heldBytes, frameBytesMax })
    }
    queue.sender.onRelief = this.#relief
    this.#pendingBytes += heldBytes
    queue.sender.add(message, sending)
  }

  readonly #relief = (bytes: number): void => {
    this.#pendingBytes -= bytes
    if (this.#waiting.size > 0) this.next()
  }
}

interface Attributes {
  readonly attributes: MessageAttributes
  /** What counts against the queue's `maxMessageBytes`. */
  readonly sizeBytes: number
  /** What they take at most in a frame. */
  readonly heldBytes: number
}

/** What a message takes beside body and headers, in its batch and until it is confirmed. So empty ones count too. */
const messageBytes = 64
/** A text's length in a batch, at most. */
const textHeadBytes = 5
/** Room for all that a frame has beside the message. */
const envelopeBytes = 1024

function outgoing(
  body: Uint8Array | string,
  bodyBytes: number,
  serializer: string | null,
  attributes: Attributes | null,
): OutgoingMessage {
  const heldBytes = bodyBytes + messageBytes
  if (attributes === null)
    return { body, serializer, attributes: null, bodyBytes, sizeBytes: bodyBytes, heldBytes }
  return {
    body,
    serializer,
    attributes: attributes.attributes,
    bodyBytes,
    sizeBytes: bodyBytes + attributes.sizeBytes,
    heldBytes: heldBytes + attributes.heldBytes,
  }
}

function checkHeaders(headers: Readonly<Record<string, string>>): Attributes | null {
  if (typeof headers !== 'object' || headers === null) throw invalidField('headers', 'must map text to text')
  const entries = Object.entries(headers)
  let sizeBytes = 0
  let heldBytes = 0
  for (const [name, value] of entries) {
    if (typeof value !== 'string') throw invalidField('headers', `must map text to text: '${name}'`)
    if (name === '__proto__' || name === 'constructor' || name.includes('\0')) {
      throw invalidField('headers', `can't have the name ${JSON.stringify(name)}`)
    }
    const bytes = Buffer.byteLength(name) + Buffer.byteLength(value)
    if (!name.startsWith('mq-')) sizeBytes += bytes
    heldBytes += bytes + 2 * textHeadBytes
  }
  return entries.length > 0 ? { attributes: { headers: { ...headers } }, sizeBytes, heldBytes } : null
}

/** An integer's bytes in a batch, at most. */
const integerBytes = 9
/** As far as dates go. */
const dateMsMax = 8_640_000_000_000_000

function withDelay(
  headers: Attributes | null,
  delayMs: number | undefined,
  deliverAt: number | Date | undefined,
): Attributes | null {
  if (delayMs === undefined && deliverAt === undefined) return headers
  if (delayMs !== undefined && deliverAt !== undefined) {
    throw invalidField('deliverAt', "can't go with 'delayMs'")
  }
  const { attributes = {}, sizeBytes = 0, heldBytes = 0 } = headers ?? {}
  const at = deliverAt instanceof Date ? deliverAt.getTime() : deliverAt
  const delay =
    delayMs !== undefined
      ? { delay: checkInteger('delayMs', delayMs, 0, limits.delayMsMax) }
      : { deliverAt: checkInteger('deliverAt', at, 0, dateMsMax) }
  return { attributes: { ...attributes, ...delay }, sizeBytes, heldBytes: heldBytes + integerBytes }
}

function invalidField(field: string, why: string): MqError {
  return new MqError('INVALID_FIELD', `'${field}' ${why}`, { outcome: 'failed', details: { field } })
}

function tooLarge(limit: string, details: { bytes: number } & Record<string, number>): MqError {
  return new MqError('MESSAGE_TOO_LARGE', `a message of ${details.bytes} bytes; ${limit}`, {
    outcome: 'failed',
    details,
  })
}

/** `send` and `sendBatch`: checks, the bound on what is unconfirmed, and the way to a queue's sender. */
import { MqError } from '../errors.ts'
import type { MessageAttributes } from '../wire/batch.ts'
import { checkOnline, type Core } from './core.ts'
import { aborted } from './ending.ts'
import { checkQueueName, checkSignal, checkTimeout, unsupported, type CallOptions } from './options.ts'
import { Outgoing } from './outgoing.ts'
import type { Queue, Queues } from './queues.ts'
import type { SendReceipt } from './receipt.ts'
import type { SendTarget } from './send-batch.ts'
import type { OutgoingMessage } from './sender.ts'
import { encodeValue, textSerializer, type Serializer } from './serializer.ts'

/** What goes with a message. Options that are not built yet are refused with UNSUPPORTED. */
export interface MessageOptions {
  /** Text to text. Names and values count towards the queue's `maxMessageBytes`, except names that begin `mq-`. */
  headers?: Readonly<Record<string, string>> | undefined
  key?: string | undefined
  dedupeId?: string | undefined
  delayMs?: number | undefined
  deliverAt?: number | Date | undefined
  priority?: number | undefined
  ttlMs?: number | undefined
}

export interface SendOptions extends MessageOptions, CallOptions {}

export interface BatchEntry extends MessageOptions {
  body: unknown
}

/** A message, and who waits for it until when. */
export interface Sending {
  readonly message: OutgoingMessage
  readonly target: SendTarget
  readonly tag: number
  /** Monotonic. */
  readonly dueMs: number
  readonly signal: AbortSignal | undefined
}

const later = ['key', 'dedupeId', 'delayMs', 'deliverAt', 'priority', 'ttlMs'] as const

export class Producer {
  readonly #core: Core
  readonly #queues: Queues
  readonly #serializer: Serializer
  readonly #maxPendingBytes: number
  #pendingBytes = 0
  /** Sends that wait for room or for their queue to be known; first come, first served. */
  readonly #waiting: Outgoing[] = []

  constructor(core: Core, queues: Queues, serializer: Serializer, maxPendingBytes: number) {
    this.#core = core
    this.#queues = queues
    this.#serializer = serializer
    this.#maxPendingBytes = maxPendingBytes
  }

  send(name: string, body: unknown, options: SendOptions): Promise<SendReceipt> {
    return new Promise((resolve, reject) => {
      this.#add(name, {
        message: this.#outgoing(body, options),
        target: { sent: resolve, failed: reject },
        tag: 0,
        dueMs: this.#core.turn.nowMs + checkTimeout(options.timeoutMs),
        signal: checkSignal(options.signal),
      })
    })
  }

  sendBatch(
    name: string,
    entries: readonly BatchEntry[],
    options: CallOptions,
  ): Promise<(SendReceipt | MqError)[]> {
    return new Promise((resolve) => {
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
      const target: SendTarget = { sent: put, failed: put }
      entries.forEach((entry, tag) => {
        try {
          this.#add(name, { message: this.#outgoing(entry.body, entry), target, tag, dueMs, signal })
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          put(error, tag)
        }
      })
    })
  }

  /** Lets those go who wait at the front: in order, so a queue that is being looked up holds up the rest. */
  next(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (!first.isOver) {
        if (this.#isFull) return
        const queue = first.queue ?? this.#queues.find(first.name)
        if (queue === undefined) {
          first.lookUp(this.#queues)
          return
        }
        first.leave()
        this.#waiting.shift()
        const { sending } = first
        try {
          this.#put(queue, sending)
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          sending.target.failed(error, sending.tag)
        }
      } else this.#waiting.shift()
    }
  }

  /** Checks a message and puts its body into the form that is sent. @throws MqError */
  #outgoing(body: unknown, options: MessageOptions): OutgoingMessage {
    for (const option of later) if (options[option] !== undefined) throw unsupported(`the option '${option}'`)
    const attributes = options.headers === undefined ? null : checkHeaders(options.headers)
    if (typeof body === 'string') {
      return { body, bodyBytes: Buffer.byteLength(body), serializer: textSerializer, attributes }
    }
    if (body instanceof Uint8Array) return { body, bodyBytes: body.length, serializer: null, attributes }
    const encoded = encodeValue(this.#serializer, body)
    return { body: encoded, bodyBytes: encoded.length, serializer: this.#serializer.name, attributes }
  }

  #add(name: string, sending: Sending): void {
    this.#core.checkOpen()
    checkOnline(this.#core)
    const queue = this.#queues.find(name)
    if (queue !== undefined && !this.#isFull && this.#waiting.length === 0) {
      this.#put(queue, sending)
      return
    }
    checkQueueName(name)
    const outgoing = new Outgoing(this.#core, this, name, sending)
    this.#waiting.push(outgoing)
    outgoing.begin()
    this.next()
  }

  get #isFull(): boolean {
    return this.#pendingBytes >= this.#maxPendingBytes
  }

  /** @throws MqError MESSAGE_TOO_LARGE */
  #put(queue: Queue, { message, target, tag, dueMs, signal }: Sending): void {
    const { bodyBytes, attributes } = message
    const bytes = attributes === null ? bodyBytes : bodyBytes + headerBytes(attributes)
    if (bytes > queue.maxMessageBytes) {
      throw new MqError(
        'MESSAGE_TOO_LARGE',
        `a message of ${bytes} bytes; '${queue.name}' takes ${queue.maxMessageBytes}`,
        {
          outcome: 'failed',
          details: { bytes, maxMessageBytes: queue.maxMessageBytes },
        },
      )
    }
    queue.sender.onRelief = this.#relief
    this.#pendingBytes += bodyBytes
    if (signal === undefined) {
      queue.sender.add(message, target, tag, dueMs)
      return
    }
    const watched: SendTarget = {
      sent: (receipt) => {
        signal.removeEventListener('abort', onAbort)
        target.sent(receipt, tag)
      },
      failed: (error) => {
        signal.removeEventListener('abort', onAbort)
        target.failed(error, tag)
      },
    }
    const batch = queue.sender.add(message, watched, tag, dueMs)
    const onAbort = (): void => {
      const given = batch.giveUp(watched)
      if (given !== null) watched.failed(aborted('sending a message', signal, given.mayBeDone), tag)
    }
    signal.addEventListener('abort', onAbort)
  }

  readonly #relief = (bytes: number): void => {
    this.#pendingBytes -= bytes
    if (this.#waiting.length > 0) this.next()
  }
}

function checkHeaders(headers: Readonly<Record<string, string>>): MessageAttributes | null {
  if (typeof headers !== 'object' || headers === null) throw invalidHeaders('must map text to text')
  const entries = Object.entries(headers)
  for (const [name, value] of entries) {
    if (typeof value !== 'string') throw invalidHeaders(`must map text to text: '${name}'`)
    if (name === '__proto__' || name === 'constructor' || name.includes('\0')) {
      throw invalidHeaders(`can't have the name ${JSON.stringify(name)}`)
    }
  }
  return entries.length > 0 ? { headers: { ...headers } } : null
}

function invalidHeaders(why: string): MqError {
  return new MqError('INVALID_FIELD', `'headers' ${why}`, {
    outcome: 'failed',
    details: { field: 'headers' },
  })
}

function headerBytes({ headers }: MessageAttributes): number {
  let bytes = 0
  for (const name in headers) {
    if (!name.startsWith('mq-')) bytes += Buffer.byteLength(name) + Buffer.byteLength(headers[name]!)
  }
  return bytes
}

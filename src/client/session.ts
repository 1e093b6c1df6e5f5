/**
 * The client's line to a broker: one connection at a time, and the table of requests that have no answer yet.
 *
 *   dialing → (HELLO, HELLO_OK) → ready → [leaving, after GOAWAY] → pausing → dialing → … → closed
 *
 * A request stands in the table until it is answered or given up, whatever happens to connections: each new
 * connection begins by sending the table again, in the order in which the requests were started. That is the order
 * the protocol asks for (sequences, oldest first, before anything new), since a request keeps its place and its
 * bytes. HELLO's session number rises with each connection, so that no first copy can overtake its repetition.
 */
import type { Address, ClientEnv, Timer } from '../env.ts'
import { MqError, type MqErrorCode } from '../errors.ts'
import { limits, type ProducerId } from '../types.ts'
import { formatAddress } from '../units.ts'
import { decodeServerFrame, encodeClientFrame, RequestError } from '../wire/codec.ts'
import { Connection } from '../wire/connection.ts'
import { lengthBytes } from '../wire/frame.ts'
import {
  protocolVersion,
  type Delivery,
  type RequestId,
  type ServerFrame,
  type WireLimits,
} from '../wire/messages.ts'
import { failedBefore } from './ending.ts'
import type { ClientEvents } from './events.ts'
import type { Emitter } from './emitter.ts'

/** What answers a request. */
export type Answer = Exclude<Extract<ServerFrame, { id: RequestId }>, { op: 'push' }>
export type ErrorAnswer = Extract<ServerFrame, { op: 'error' }>

/** One entry of the table. */
export interface Request {
  /** The frame, in chunks. Called each time the request is put on a connection: from then on a broker may do it. */
  encode(id: RequestId): readonly Uint8Array[]
  /**
   * Its answer, during which it still stands in the table.
   * @param hasLeft what `encode` gave is no longer in any queue of ours: an honest peer can't have answered before
   * @returns whether it keeps its place there, to be asked again: by `resume`, or on the next connection
   */
  answered(answer: Answer, hasLeft: boolean): boolean
  /** Deliveries came for it, and it stands on: of a subscription. */
  pushed?(deliveries: Delivery[]): void
  /**
   * The connection it was put on has ended without an answer.
   * @returns whether it is to be sent again; else it leaves the table
   */
  interrupted(): boolean
}

interface Entry {
  readonly request: Request
  /** Number of the connection it was last put on; 0: none. */
  writtenOn: number
  /** What that connection had been given to send, with it. */
  sentBytes: number
}

export interface SessionOptions {
  readonly servers: readonly Address[]
  readonly name: string
  readonly clientId: ProducerId
  /** Whether a first round over all servers without success ends `open`. */
  readonly failsOffline: boolean
  /** What one server gets, from dialing it to its HELLO_OK. */
  readonly attemptTimeoutMs: number
}

/** Requests in the table at most, beside what is bounded elsewhere. */
const requestsMax = 10_000
/** Until the broker tells its own. */
const heartbeatMs = 10_000
const backoffMinMs = 50
const backoffMaxMs = 2_000
/** An answer may exceed the limit for requests by the heads of its deliveries. */
const answerSlackBytes = 1 << 20
/** What bytes are that were never meant as a frame. */
const noFrame: ReadonlySet<MqErrorCode> = new Set(['FRAME_TOO_LARGE', 'DECODE_LIMIT', 'UNSUPPORTED_TYPE'])
const requestIdMax = 0xffff_ffff

type State = 'new' | 'dialing' | 'pausing' | 'ready' | 'leaving' | 'closed'

export class Session {
  /** The connection can take new requests, and everything unanswered has been sent again. */
  onReady: () => void = () => {}
  /** The connection has ended; what was on it still counts as being there. */
  onOffline: () => void = () => {}
  readonly #env: ClientEnv
  readonly #options: SessionOptions
  readonly #events: Emitter<ClientEvents>
  #state: State = 'new'
  readonly #table = new Map<RequestId, Entry>()
  #nextId = 1
  /** Present while dialing (once there is a socket), ready or leaving. */
  #connection: Connection | null = null
  /** Counts connections; HELLO's session number. */
  #number = 0
  #limits: WireLimits = { ...limits, heartbeatMs: 0 }
  #clusterId: string | null = null
  /** Index of the server to dial next, and of the first one of this round. */
  #server = 0
  #roundStart = 0
  /** Rounds over all servers that failed since a connection was last seen to work. */
  #failedRounds = 0
  /** Of the attempt, or of the pause before the next. */
  #timer: Timer | null = null
  readonly #ended = new AbortController()
  #lastError: MqError | null = null
  #opening: { resolve: () => void; reject: (error: MqError) => void } | null = null

  constructor(env: ClientEnv, options: SessionOptions, events: Emitter<ClientEvents>) {
    this.#env = env
    this.#options = options
    this.#events = events
  }

  /** New requests leave at once. */
  get isReady(): boolean {
    return this.#state === 'ready'
  }

  /** A broker has answered the last HELLO and its connection is open. */
  get isConnected(): boolean {
    return this.#state === 'ready' || this.#state === 'leaving'
  }

  /** As the broker last told them. */
  get limits(): WireLimits {
    return this.#limits
  }

  /** The table takes no more than what is bounded by windows. */
  get isFull(): boolean {
    return this.#table.size >= requestsMax
  }

  /**
   * Connects for the first time.
   * @throws MqError what the servers said, if asking again is of no use; DISCONNECTED when none can be reached and
   *   `failsOffline`. Otherwise it goes on until `close`.
   */
  open(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#opening = { resolve, reject }
      this.#dial()
    })
  }

  /** What the last attempt to connect failed with. */
  get lastError(): MqError | null {
    return this.#lastError
  }

  /** Puts a request into the table, and on the connection as soon as one takes it. */
  start(request: Request): RequestId {
    const id = this.#takeId()
    const entry: Entry = { request, writtenOn: 0, sentBytes: 0 }
    this.#table.set(id, entry)
    if (this.#state === 'ready') this.#write(id, entry)
    return id
  }

  /** Puts a request that kept its place on the connection, unless it is there already. */
  resume(id: RequestId): void {
    const entry = this.#table.get(id)
    if (entry === undefined || this.#state !== 'ready' || entry.writtenOn === this.#number) return
    this.#write(id, entry)
  }

  /** Takes a request out of the table; with `tell`, the broker hears that nobody waits for it. */
  forget(id: RequestId, tell: boolean): void {
    if (tell) this.cancel(id)
    this.#table.delete(id)
    this.#leaveIfDone()
  }

  /**
   * Asks the broker to answer a request now, with what there is or CANCELLED.
   * @returns false when no broker has it
   */
  cancel(id: RequestId): boolean {
    return this.follow(id, () => encodeClientFrame({ op: 'cancel', id }))
  }

  /**
   * Sends another frame about a request, behind it.
   * @returns false when no broker has the request
   */
  follow(id: RequestId, encode: () => Uint8Array): boolean {
    const entry = this.#table.get(id)
    if (entry === undefined || !this.isConnected || entry.writtenOn !== this.#number) return false
    this.#connection!.send(encode())
    return true
  }

  /** Ends the connection, after what has been written if `flush`; no request is answered any more. Idempotent. */
  close(flush: boolean): void {
    if (this.#state === 'closed') return
    const connection = this.#connection
    this.#enter('closed')
    this.#table.clear()
    this.#ended.abort()
    this.#opening = null
    if (connection === null) return
    if (flush) connection.end()
    else connection.destroy()
  }

  #enter(state: State): void {
    this.#timer?.cancel()
    this.#timer = null
    this.#state = state
  }

  #takeId(): RequestId {
    while (this.#table.has(this.#nextId)) this.#nextId = (this.#nextId % requestIdMax) + 1
    const id = this.#nextId
    this.#nextId = (id % requestIdMax) + 1
    return id
  }

  #write(id: RequestId, entry: Entry): void {
    entry.writtenOn = this.#number
    const chunks = entry.request.encode(id)
    let bytes = -lengthBytes
    for (const chunk of chunks) bytes += chunk.length
    const { frameBytesMax } = this.#limits
    if (bytes <= frameBytesMax) {
      const connection = this.#connection!
      connection.send(...chunks)
      entry.sentBytes = connection.sentBytes
      return
    }
    // The broker would end the connection, and that of each attempt to send it again.
    const message = `a request of ${bytes} bytes; a frame has at most ${frameBytesMax}`
    this.#answer(id, entry, {
      op: 'error',
      id,
      code: 'FRAME_TOO_LARGE',
      message,
      retryable: false,
      details: { bytes, frameBytesMax },
    })
  }

  #answer(id: RequestId, entry: Entry, answer: Answer): void {
    entry.writtenOn = 0
    const { sentBytes, bufferedBytes } = this.#connection!
    const hasLeft = entry.sentBytes <= sentBytes - bufferedBytes
    if (!entry.request.answered(answer, hasLeft)) this.#table.delete(id)
  }

  // -------------------------------------------------------------------------------------------------------------
  // Connecting

  #dial(): void {
    this.#enter('dialing')
    const address = this.#options.servers[this.#server]!
    const { attemptTimeoutMs } = this.#options
    // Until there is a connection, dialing watches its time itself.
    this.#timer = this.#env.clock.after(attemptTimeoutMs, () => {
      this.#drop(new MqError('HANDSHAKE_TIMEOUT', `no HELLO_OK within ${attemptTimeoutMs} ms`))
    })
    const options = { timeoutMs: attemptTimeoutMs, signal: this.#ended.signal }
    this.#env.network.connect(address, options).then(
      (socket) => {
        if (this.#state === 'closed') {
          socket.destroy()
          return
        }
        const connection: Connection = new Connection(socket, {
          clock: this.#env.clock,
          role: 'client',
          heartbeatMs,
          frameBytesMax: limits.handshakeBytesMax,
          onFrame: (bytes) => this.#onFrame(connection, bytes),
          onClose: (error) => this.#onClose(connection, error),
        })
        this.#greet(connection)
      },
      (error: unknown) => {
        if (this.#state !== 'closed') this.#failed(asMqError(error))
      },
    )
  }

  #greet(connection: Connection): void {
    this.#connection = connection
    this.#number++
    connection.send(
      encodeClientFrame({
        op: 'hello',
        minVersion: protocolVersion.min,
        maxVersion: protocolVersion.max,
        clientId: this.#options.clientId,
        session: this.#number,
        name: this.#options.name,
        credentials: null,
        features: null,
      }),
    )
  }

  #welcome(hello: Extract<ServerFrame, { op: 'helloOk' }>): void {
    if (this.#clusterId !== null && this.#clusterId !== hello.clusterId) {
      // Sequences and receipts mean nothing there; sending again what may have been done elsewhere would double it.
      this.#drop(new MqError('WRONG_CLUSTER', `the broker belongs to cluster ${hello.clusterId}`))
      return
    }
    const isFirst = this.#clusterId === null
    this.#clusterId = hello.clusterId
    this.#limits = hello.limits
    this.#connection!.handshakeDone({
      frameBytesMax: hello.limits.frameBytesMax + answerSlackBytes,
      heartbeatMs: hello.limits.heartbeatMs,
    })
    this.#enter('ready')
    for (const id of this.#table.keys()) this.resume(id)
    this.#opening?.resolve()
    this.#opening = null
    if (!isFirst) this.#events.emit('reconnect')
    this.onReady()
  }

  /** An attempt to connect came to nothing: the next server, or, after the last, a pause. */
  #failed(error: MqError): void {
    this.#lastError = error
    this.#server = (this.#server + 1) % this.#options.servers.length
    if (this.#server !== this.#roundStart) {
      this.#dial()
      return
    }
    const opening = this.#opening
    if (opening !== null && (this.#options.failsOffline || !error.retryable)) {
      this.close(false)
      opening.reject(failedBefore(error))
      return
    }
    // Refused by a broker that is there: asking again may be of no use, which somebody should know.
    if (!error.retryable) this.#events.emit('error', error)
    this.#pause()
  }

  #pause(): void {
    // A listener of the event above may have closed the client.
    if (this.#state === 'closed') return
    this.#enter('pausing')
    this.#roundStart = this.#server
    const { clock, random } = this.#env
    const backoffMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(this.#failedRounds, 10))
    const delayMs = backoffMs * (0.5 + 0.5 * random.unit())
    this.#failedRounds++
    this.#timer = clock.after(delayMs, () => this.#dial())
    if (this.#opening === null) {
      this.#events.emit('reconnecting', { attempt: this.#failedRounds, delayMs: Math.ceil(delayMs) })
    }
  }

  // -------------------------------------------------------------------------------------------------------------
  // Connected

  #onFrame(connection: Connection, bytes: Uint8Array): void {
    if (connection !== this.#connection || this.#state === 'closed') return
    const frame = decode(bytes)
    if (frame.op === 'heartbeat') {
      if (this.isConnected) this.#failedRounds = 0
    } else if (frame.op === 'error' && frame.id === 0) {
      this.#refused(errorOf(frame))
    } else if (!this.isConnected) {
      if (frame.op !== 'helloOk') throw new MqError('BAD_FRAME', 'the broker did not begin with HELLO_OK')
      this.#welcome(frame)
    } else if (frame.op === 'helloOk') {
      throw new MqError('BAD_FRAME', 'HELLO_OK comes once')
    } else if (frame.op === 'goAway') {
      this.#enter('leaving')
      this.#leaveIfDone()
    } else {
      this.#failedRounds = 0
      const entry = this.#table.get(frame.id)
      // An answer to nobody: the request was given up in the meantime.
      if (entry === undefined || entry.writtenOn !== this.#number) return
      if (frame.op === 'push') {
        entry.request.pushed?.(frame.deliveries)
        return
      }
      this.#answer(frame.id, entry, frame)
      this.#leaveIfDone()
    }
  }

  /** The broker ends the connection and says why. */
  #refused(error: MqError): void {
    if (this.isConnected) this.#events.emit(error.code === 'SLOW_CONSUMER' ? 'slowConsumer' : 'error', error)
    this.#drop(error)
  }

  /** Once a broker that is going away has answered all it was asked, there is nothing left to stay for. */
  #leaveIfDone(): void {
    if (this.#state !== 'leaving') return
    for (const { writtenOn, request } of this.#table.values()) {
      // What stands has no answer to wait for.
      if (writtenOn === this.#number && request.pushed === undefined) return
    }
    const connection = this.#connection!
    this.#lost(undefined)
    connection.end()
  }

  /** Ends the connection from our side. */
  #drop(error: MqError): void {
    const connection = this.#connection
    if (connection === null) return
    this.#lost(error)
    connection.destroy()
  }

  #onClose(connection: Connection, error: MqError | undefined): void {
    if (connection !== this.#connection) return
    // Whoever listens there does not speak our protocol.
    const isStranger = !this.isConnected && error !== undefined && noFrame.has(error.code)
    this.#lost(isStranger ? this.#stranger(error) : error)
  }

  #stranger(cause: MqError): MqError {
    const where = formatAddress(this.#options.servers[this.#server]!)
    return new MqError('BAD_MAGIC', `${where} is no mq-broker port: its first answer is no frame`, {
      cause,
    })
  }

  /** There is no connection any more; what was on it is sent again on the next. */
  #lost(error: MqError | undefined): void {
    if (this.#state === 'closed') return
    this.#connection = null
    if (!this.isConnected) {
      this.#failed(
        error ?? new MqError('DISCONNECTED', 'the broker ended the connection during the handshake'),
      )
      return
    }
    this.#lastError = error ?? null
    // One that goes away is asked last.
    if (this.#state === 'leaving') this.#server = (this.#server + 1) % this.#options.servers.length
    this.#enter('pausing')
    this.onOffline()
    for (const [id, entry] of [...this.#table]) {
      if (entry.writtenOn === this.#number && !entry.request.interrupted()) this.#table.delete(id)
    }
    this.#events.emit('disconnect', error)
    this.#pause()
  }
}

function decode(bytes: Uint8Array): ServerFrame {
  try {
    return decodeServerFrame(bytes)
  } catch (error) {
    if (!(error instanceof RequestError)) throw error
    if (error.id === 0) throw new MqError('BAD_FRAME', error.message, { cause: error.error })
    // An answer came and can't be read: what was asked for may have been done.
    const message = `the broker's answer cannot be read: ${error.message}`
    return { op: 'error', id: error.id, code: 'INTERNAL', message, retryable: false, details: null }
  }
}

/** What an ERROR says, without an outcome. */
export function errorOf(frame: ErrorAnswer): MqError {
  return new MqError(frame.code, frame.message, { details: frame.details ?? undefined })
}

function asMqError(error: unknown): MqError {
  if (error instanceof MqError) return error
  return new MqError('DISCONNECTED', `no connection: ${String(error)}`, { outcome: 'failed', cause: error })
}

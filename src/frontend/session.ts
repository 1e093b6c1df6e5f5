/**
 * One client's connection, as the broker sees it: handshake, requests in flight, back pressure, answers.
 *
 *   accepted → HELLO (or HANDSHAKE_TIMEOUT) → HELLO_OK → requests, pipelined → end
 *
 * The session stops reading when too much is unanswered, when its answers are not read, or when the log is behind;
 * it reads on when that is over. Nothing of a client's is queued without a bound, nor is that of all of them together:
 * see `unread.ts`.
 */
import type { Clock, Socket } from '../env.ts'
import { errorTable, MqError } from '../errors.ts'
import { limits, type ProducerId } from '../types.ts'
import {
  decodeClientFrame,
  encodeDelivered,
  encodePush,
  encodeServerFrame,
  RequestError,
} from '../wire/codec.ts'
import { Connection } from '../wire/connection.ts'
import {
  protocolVersion,
  type ClientFrame,
  type Credit,
  type Delivery,
  type Hello,
  type RequestId,
  type ServerFrame,
} from '../wire/messages.ts'
import type { Reader, UnreadBytes } from './unread.ts'

/** Requests in flight on one connection; past it the session reads no further. */
const inFlightMax = 1024
/** Requests about queues as a whole, which cost more than their few bytes, between two looks at other connections. */
const adminPerTurn = 8
/** Answers that wait to be read by the client; past it the session neither reads nor delivers. */
const unreadBytesMax = 4 << 20
/** So few are no reason not to read: what is asked then is answered in a few bytes, or THROTTLED. */
const unreadBytesMin = 16 << 10
/** Past this the client is cut off: it asked for more than it reads. */
const unreadBytesCap = 64 << 20

export type Request = Exclude<ClientFrame, Hello | Credit | { op: 'heartbeat' } | { op: 'cancel' }>

/** What sessions need of the broker behind them. */
export interface SessionHost {
  readonly clusterId: string
  readonly nodeId: string
  readonly heartbeatMs: number
  /** The log is so far behind that nothing more should be read. */
  readonly backlogged: boolean
  /** Those of all sessions. */
  readonly unread: UnreadBytes
  /** The handshake is done: older sessions of the same client end. @returns false when a newer one is here */
  opened(session: Session): boolean
  closed(session: Session, error: MqError | undefined): void
  /** A request was answered with an error. */
  refused(session: Session, error: MqError): void
  /**
   * Carries a request out and answers it by `session.answer` or `session.refuse`, now or later, exactly once.
   * @param headroom bytes before the frame's first that may be overwritten; 0: the frame is lent, until this returns
   */
  handle(session: Session, request: Request, frame: Uint8Array, headroom: number): void
  /** More credit for a subscription of the session, if it has one with this id. */
  credit(session: Session, credit: Credit): void
  /** The session takes deliveries again. */
  drained(session: Session): void
  /** A defect of ours: nothing may go on. */
  broken(error: unknown): void
}

export class Session implements Reader {
  clientId: ProducerId = ''
  /** Counts the client's connections. */
  number = 0
  clientName = ''
  readonly #host: SessionHost
  readonly #connection: Connection
  readonly #clock: Clock
  readonly remote: string
  /** When it was accepted, by the monotonic clock. */
  readonly acceptedMs: number
  /** Requests without an answer; a function gives the request up. */
  readonly #inFlight = new Map<RequestId, (() => void) | null>()
  #mode: 'handshake' | 'open' | 'closed' = 'handshake'
  #paused = false
  #adminInTurn = 0
  /** Its unread bytes as they are part of the sum of all. */
  #countedBytes = 0

  constructor(socket: Socket, clock: Clock, host: SessionHost) {
    this.#host = host
    this.#clock = clock
    this.remote = socket.remote
    this.acceptedMs = clock.monotonicMs()
    this.#connection = new Connection(socket, {
      clock,
      role: 'server',
      heartbeatMs: host.heartbeatMs,
      frameBytesMax: limits.handshakeBytesMax,
      onFrame: (bytes, headroom) => this.#onFrame(bytes, headroom),
      onClose: (error) => this.#onClose(error),
      onDrain: () => {
        this.count()
        this.updateFlow()
        if (this.canTake) this.#host.drained(this)
      },
    })
  }

  /** Its answers are being read, as far as there is room for them. */
  get canTake(): boolean {
    if (this.#mode !== 'open' || this.isEnding) return false
    return this.unreadBytes < Math.min(unreadBytesMax, this.#host.unread.shareBytes)
  }

  /** What an answer may hold, but for a single message that is larger; always some, see `canTake`. */
  get roomBytes(): number {
    return Math.max(1, Math.floor(this.#host.unread.shareBytes))
  }

  get unreadBytes(): number {
    return this.#connection.bufferedBytes
  }

  get sentBytes(): number {
    return this.#connection.sentBytes
  }

  get isEnding(): boolean {
    return this.#connection.isEnding
  }

  count(): void {
    const { unreadBytes } = this
    const change = unreadBytes - this.#countedBytes
    if (change === 0) return
    this.#countedBytes = unreadBytes
    this.#host.unread.add(change)
  }

  get inFlight(): number {
    return this.#inFlight.size
  }

  /** Lets CANCEL give request `id` up. `giveUp` answers it. */
  onCancel(id: RequestId, giveUp: () => void): void {
    if (this.#inFlight.has(id)) this.#inFlight.set(id, giveUp)
  }

  answer(id: RequestId, frame: ServerFrame): void {
    if (!this.#settle(id)) return
    this.#connection.send(encodeServerFrame(frame))
    this.#sent()
  }

  answerDelivered(id: RequestId, deliveries: Delivery[]): void {
    if (!this.#settle(id)) return
    this.#connection.send(...encodeDelivered(id, deliveries))
    this.#sent()
  }

  /** Deliveries to a request that goes on. */
  push(id: RequestId, deliveries: Delivery[]): void {
    if (this.#mode !== 'open' || !this.#inFlight.has(id)) return
    this.#connection.send(...encodePush(id, deliveries))
    this.#sent()
  }

  refuse(id: RequestId, error: MqError): void {
    if (this.#mode !== 'open') return
    this.#host.refused(this, error)
    this.answer(id, errorFrame(id, error))
    if (errorTable[error.code].closes) this.close(error)
  }

  /** Tells the client that the broker stops; answers under way still come. */
  goAway(reason: string): void {
    if (this.#mode === 'open') this.#connection.send(encodeServerFrame({ op: 'goAway', reason }))
  }

  /** Says why, then ends. */
  close(error: MqError): void {
    if (this.#mode !== 'closed') this.#connection.closeWith(error)
  }

  /** Sends what was answered, then ends. */
  end(): void {
    if (this.#mode !== 'closed') this.#connection.end()
  }

  /** Ends at once; what was not sent is lost. */
  destroy(): void {
    if (this.#mode !== 'closed') this.#connection.destroy()
  }

  /** Reads on, or stops, as the bounds say. */
  updateFlow(): void {
    if (this.#mode === 'closed') return
    const full =
      this.#adminInTurn >= adminPerTurn ||
      this.#inFlight.size >= inFlightMax ||
      this.#isUnread ||
      this.#host.backlogged
    if (full === this.#paused) return
    this.#paused = full
    if (full) this.#connection.pause()
    else this.#connection.resume()
  }

  get #isUnread(): boolean {
    const { unreadBytes } = this
    if (unreadBytes < unreadBytesMin) return false
    return unreadBytes >= Math.min(unreadBytesMax, this.#host.unread.shareBytes)
  }

  #settle(id: RequestId): boolean {
    return this.#inFlight.delete(id) && this.#mode === 'open'
  }

  #sent(): void {
    this.count()
    if (this.#connection.bufferedBytes > unreadBytesCap) {
      this.close(new MqError('SLOW_CONSUMER', `over ${unreadBytesCap} bytes of answers wait to be read`))
    } else if (this.#paused) this.updateFlow()
  }

  #onFrame(bytes: Uint8Array, headroom: number): void {
    if (this.#mode === 'closed') return
    let frame: ClientFrame
    try {
      frame = decodeClientFrame(bytes)
    } catch (error) {
      if (!(error instanceof RequestError)) throw error
      // Id 0: the fault concerns the connection itself.
      if (error.id === 0) return this.close(error.error)
      if (this.#mode === 'handshake') throw tooEarly()
      this.#begin(error.id)
      this.refuse(error.id, error.error)
      return
    }
    if (this.#mode === 'handshake') {
      if (frame.op !== 'hello') throw tooEarly()
      this.#hello(frame)
      return
    }
    if (frame.op === 'hello') throw new MqError('BAD_FRAME', 'HELLO comes once')
    if (frame.op === 'heartbeat') return
    if (frame.op === 'cancel') {
      this.#inFlight.get(frame.id)?.()
      return
    }
    if (frame.op === 'credit') return this.#host.credit(this, frame)
    // Between nodes such frames may belong to no request: here nobody waits for an answer, so the connection ends.
    if (frame.id === 0) return this.close(new MqError('FORBIDDEN', 'this is between nodes only'))
    this.#begin(frame.id)
    if (isAdmin(frame)) this.#countAdmin()
    try {
      this.#host.handle(this, frame, bytes, headroom)
    } catch (error) {
      if (error instanceof MqError) this.refuse(frame.id, error)
      else this.#host.broken(error)
    }
    this.updateFlow()
  }

  /** A few kilobytes of such requests could keep the broker busy for seconds: others get their turn in between. */
  #countAdmin(): void {
    if (++this.#adminInTurn !== adminPerTurn) return
    this.#clock.soon(() => {
      this.#adminInTurn = 0
      this.updateFlow()
    })
  }

  #begin(id: RequestId): void {
    if (this.#inFlight.has(id)) throw new MqError('DUPLICATE_REQUEST_ID', `request id ${id} is in flight`)
    this.#inFlight.set(id, null)
  }

  #hello(hello: Hello): void {
    if (hello.credentials !== null) {
      throw new MqError('AUTH_FAILED', 'this broker has no users: connect without credentials')
    }
    this.clientId = hello.clientId
    this.number = hello.session
    this.clientName = hello.name
    if (!this.#host.opened(this)) {
      throw new MqError('SESSION_REPLACED', 'a newer connection of this client is open')
    }
    this.#mode = 'open'
    this.#connection.handshakeDone({ frameBytesMax: limits.frameBytesMax })
    const { batchBytesMax, batchMessagesMax, receiveMessagesMax, receiveBytesMax, unansweredMax } = limits
    this.#connection.send(
      encodeServerFrame({
        op: 'helloOk',
        // Decoding has refused whoever shares no version.
        version: Math.min(hello.maxVersion, protocolVersion.max),
        clusterId: this.#host.clusterId,
        nodeId: this.#host.nodeId,
        limits: {
          frameBytesMax: limits.frameBytesMax,
          batchBytesMax,
          batchMessagesMax,
          receiveMessagesMax,
          receiveBytesMax,
          unansweredMax,
          heartbeatMs: this.#host.heartbeatMs,
        },
        features: {},
      }),
    )
  }

  #onClose(error: MqError | undefined): void {
    if (this.#mode === 'closed') return
    this.#mode = 'closed'
    // Long polls are given up; what was appended goes its way, and its answer finds nobody.
    const waiting = [...this.#inFlight.values()]
    this.#inFlight.clear()
    for (const giveUp of waiting) giveUp?.()
    this.#host.unread.add(-this.#countedBytes)
    this.#host.closed(this, error)
  }
}

function isAdmin({ op }: Request): boolean {
  return !ofMessages.has(op)
}

const ofMessages: ReadonlySet<Request['op']> = new Set([
  'send',
  'receive',
  'settle',
  'extend',
  'subscribe',
  'unsubscribe',
])

function tooEarly(): MqError {
  return new MqError('UNAUTHENTICATED', 'the first frame must be HELLO')
}

function errorFrame(id: RequestId, error: MqError): ServerFrame {
  return {
    op: 'error',
    id,
    code: error.code,
    message: error.message,
    retryable: error.retryable,
    details: error.details === undefined ? null : { ...error.details },
  }
}

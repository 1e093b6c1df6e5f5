/**
 * One connection, either side: preface, frames in and out, heartbeats, and the time-outs that end it.
 *
 *   opened → handshake (small frames, 10 s) → `handshakeDone` → open → end of stream, `end`, `closeWith`, `destroy`
 *
 * What arrives that can't be trusted ends it: the server says why in ERROR 0, then closes. One timer a connection
 * watches everything; it is armed for whatever is due first when it fires, never for a frame. What begins between
 * two of its rounds is found in the next, so rounds are never further apart than the shortest time-out.
 */
import type { Clock, Socket, Timer } from '../env.ts'
import { errorTable, MqError } from '../errors.ts'
import { encodeServerFrame, heartbeatFrame } from './codec.ts'
import { FrameReader, type OnFrame } from './frame.ts'
import { preface } from './messages.ts'

export interface ConnectionOptions {
  readonly clock: Clock
  /** A client sends the preface, a server checks it and says why it closes. */
  readonly role: 'client' | 'server'
  /** Silence after which this side says that it is alive, in ms. Three times that from the peer ends the connection. */
  readonly heartbeatMs: number
  /** Largest frame until the handshake is done, in bytes. */
  readonly frameBytesMax: number
  /**
   * On the server's side, a frame without headroom is lent. May throw MqError: one whose code closes ends the connection;
   * all else is a defect, and is thrown on.
   */
  readonly onFrame: OnFrame
  /** Called once, for whatever reason it ended. `error` is absent when the peer, or `end`, ended it in order. */
  readonly onClose: (error: MqError | undefined) => void
  /** Everything that was sent has left. */
  readonly onDrain?: (() => void) | undefined
}

/** A frame that has begun is complete within this time, and so is the handshake. */
const frameTimeoutMs = 10_000
/** Room for an entry's header before a frame that is assembled: see `partition/entry.ts`. */
const headroomBytes = 96
/** A peer must take some of our last words in each such time, and all, with its own end, in `lingerMsMax`. */
const lingerMs = 1000
const lingerMsMax = 10_000

export class Connection {
  readonly #socket: Socket
  readonly #options: ConnectionOptions
  readonly #reader: FrameReader
  #heartbeatMs: number
  #mode: 'handshake' | 'open' | 'ending' | 'closed' = 'handshake'
  /** Why we ended it. */
  #error: MqError | undefined
  #timer: Timer | null = null
  readonly #openedMs: number
  #heardMs: number
  #saidMs: number
  /** When the frame under way began to come, and how many had come before it; -1: none is under way. */
  #partialSinceMs = 0
  #partialOf = -1
  /** Bytes written, and how many of them the operating system had taken when it last took some. */
  #written = 0
  #taken = 0
  #takenMs: number
  #paused = false
  /** What came before a pause is looked at again at the end of this turn; until then the socket rests. */
  #feedDue = false

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket
    this.#options = options
    this.#heartbeatMs = options.heartbeatMs
    const nowMs = options.clock.monotonicMs()
    this.#openedMs = this.#heardMs = this.#saidMs = this.#takenMs = nowMs
    this.#reader = new FrameReader(
      {
        frameBytesMax: options.frameBytesMax,
        headroom: headroomBytes,
        preface: options.role === 'server',
        lends: options.role === 'server',
      },
      options.onFrame,
    )
    socket.onData = (bytes) => this.#onData(bytes)
    socket.onDrain = () => {
      if (this.#isLive) options.onDrain?.()
    }
    socket.onClose = (error) => this.#onClose(error)
    if (options.role === 'client') this.send(preface)
    this.#watch()
  }

  get #isLive(): boolean {
    return this.#mode === 'handshake' || this.#mode === 'open'
  }

  /** Bytes sent that the operating system has not taken. */
  get bufferedBytes(): number {
    return this.#socket.bufferedBytes
  }

  /** All bytes ever sent. */
  get sentBytes(): number {
    return this.#written
  }

  /** Nothing is sent any more. */
  get isEnding(): boolean {
    return !this.#isLive
  }

  /** From now on frames may be as large as agreed, and silence is measured in the agreed time. */
  handshakeDone(agreed: { readonly frameBytesMax: number; readonly heartbeatMs?: number }): void {
    if (this.#mode !== 'handshake') return
    this.#mode = 'open'
    this.#reader.frameBytesMax = agreed.frameBytesMax
    if (agreed.heartbeatMs !== undefined) this.#heartbeatMs = agreed.heartbeatMs
    this.#watch()
  }

  /** Sends frames, whole or in pieces; nothing once the connection is ending. The bytes must not change. */
  send(...chunks: readonly Uint8Array[]): void {
    if (!this.#isLive) return
    const nowMs = this.#options.clock.monotonicMs()
    // A peer is given its time to take bytes from when there are any.
    if (this.#socket.bufferedBytes === 0) this.#takenMs = nowMs
    this.#saidMs = nowMs
    for (const chunk of chunks) {
      this.#written += chunk.length
      this.#socket.write(chunk)
    }
  }

  /** Stops reading: the peer will feel it. Of what was read already, no frame comes either. Idempotent. */
  pause(): void {
    // Once it ends, it reads on: the peer's end must be seen.
    if (!this.#isLive || this.#paused) return
    this.#paused = true
    this.#reader.pause()
    this.#socket.pause()
  }

  /** Reads on, at the end of this turn: whoever calls is never called back before. Idempotent. */
  resume(): void {
    if (!this.#isLive || !this.#paused) return
    this.#paused = false
    // Nothing was heard because nothing was read: silence and slowness count from now.
    this.#heardMs = this.#partialSinceMs = this.#options.clock.monotonicMs()
    if (this.#feedDue) return
    this.#feedDue = true
    this.#options.clock.soon(() => {
      this.#feedDue = false
      if (!this.#isLive || this.#paused) return
      this.#read(null)
      if (this.#isLive && !this.#paused) this.#socket.resume()
    })
  }

  /** Sends what is buffered and ends, in order; a peer that does not take it is cut off. Idempotent. */
  end(): void {
    if (!this.#isLive) return
    this.#mode = 'ending'
    this.#reader.stop()
    this.#timer?.cancel()
    // Our end of the stream must be able to be read: a paused socket would never see the peer's.
    if (this.#paused || this.#feedDue) this.#socket.resume()
    this.#socket.end()
    this.#linger(lingerMs)
  }

  #linger(sinceEndMs: number): void {
    const buffered = this.#socket.bufferedBytes
    this.#timer = this.#options.clock.after(lingerMs, () => {
      if (this.#socket.bufferedBytes === buffered || sinceEndMs >= lingerMsMax) this.#socket.destroy()
      else this.#linger(sinceEndMs + lingerMs)
    })
  }

  /** Ends for a reason, which a server tells first. Idempotent; the first reason counts. */
  closeWith(error: MqError): void {
    if (!this.#isLive) return
    this.#error = error
    if (this.#options.role === 'server') {
      const { code, message, retryable, details } = error
      this.send(
        encodeServerFrame({
          op: 'error',
          id: 0,
          code,
          message,
          retryable,
          details: details ? { ...details } : null,
        }),
      )
      this.end()
    } else this.destroy()
  }

  /** Ends now: what was not sent is lost. Idempotent. */
  destroy(): void {
    if (this.#mode === 'closed') return
    this.#mode = 'ending'
    this.#reader.stop()
    this.#timer?.cancel()
    this.#socket.destroy()
  }

  #onData(bytes: Uint8Array): void {
    if (!this.#isLive) return
    this.#heardMs = this.#options.clock.monotonicMs()
    this.#read(bytes)
  }

  /** Reads what came, or, with null, what was kept while we paused. */
  #read(bytes: Uint8Array | null): void {
    try {
      if (bytes === null) this.#reader.resume()
      else this.#reader.push(bytes)
    } catch (error) {
      if (!(error instanceof MqError) || !errorTable[error.code].closes) throw error
      this.closeWith(error)
      return
    }
    if (!this.#reader.hasPartial) this.#partialOf = -1
    else if (this.#partialOf !== this.#reader.frames) {
      this.#partialOf = this.#reader.frames
      this.#partialSinceMs = this.#heardMs
    }
  }

  #onClose(error: Error | undefined): void {
    if (this.#mode === 'closed') return
    const cutShort = this.#isLive && this.#reader.hasPartial
    this.#mode = 'closed'
    this.#reader.stop()
    this.#timer?.cancel()
    this.#options.onClose(this.#error ?? reasonOf(error, cutShort))
  }

  /** Looks after everything that takes too long, and comes again when the next of it could be due. */
  #watch(): void {
    this.#timer?.cancel()
    if (!this.#isLive) return
    const nowMs = this.#options.clock.monotonicMs()
    const buffered = this.#socket.bufferedBytes
    const taken = this.#written - buffered
    // What we add to the buffer, heartbeats above all, is no sign of life of the peer's.
    if (buffered === 0 || taken > this.#taken) this.#takenMs = nowMs
    this.#taken = taken

    let nextMs = nowMs + Math.min(this.#heartbeatMs, frameTimeoutMs)
    /** Whether what may last `forMs` from `sinceMs` on has lasted longer. */
    const isOver = (sinceMs: number, forMs: number) => {
      if (nowMs - sinceMs >= forMs) return true
      nextMs = Math.min(nextMs, sinceMs + forMs)
      return false
    }
    const late = this.#late(buffered, isOver)
    if (late !== null) {
      this.closeWith(late)
      return
    }
    if (this.#mode === 'open' && isOver(this.#saidMs, this.#heartbeatMs)) this.send(heartbeatFrame)
    this.#timer = this.#options.clock.after(Math.max(1, nextMs - nowMs), () => this.#watch())
  }

  #late(buffered: number, isOver: (sinceMs: number, forMs: number) => boolean): MqError | null {
    const silenceMs = 3 * this.#heartbeatMs
    if (this.#mode === 'handshake' && isOver(this.#openedMs, frameTimeoutMs)) {
      return new MqError('HANDSHAKE_TIMEOUT', 'the handshake took too long')
    }
    if (buffered > 0 && isOver(this.#takenMs, silenceMs)) {
      const code = this.#options.role === 'server' ? 'SLOW_CONSUMER' : 'DISCONNECTED'
      return new MqError(code, `the peer took nothing of ${buffered} bytes for ${silenceMs} ms`)
    }
    // While we do not read, nothing can be heard.
    if (this.#paused) return null
    if (this.#partialOf !== -1 && isOver(this.#partialSinceMs, frameTimeoutMs)) {
      return new MqError('FRAME_TIMEOUT', 'a frame began and did not end')
    }
    if (this.#mode === 'open' && isOver(this.#heardMs, silenceMs)) {
      return new MqError('DISCONNECTED', `nothing was heard for ${silenceMs} ms`)
    }
    return null
  }
}

/** Why a socket closed that nobody here had ended. */
function reasonOf(error: Error | undefined, cutShort: boolean): MqError | undefined {
  if (error instanceof MqError) return error
  if (error !== undefined)
    return new MqError('DISCONNECTED', `the connection broke: ${error.message}`, { cause: error })
  return cutShort ? new MqError('DISCONNECTED', 'the connection ended within a frame') : undefined
}

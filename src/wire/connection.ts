/**
 * One connection, either side: preface, frames in and out, heartbeats, and the time-outs that end it.
 *
 *   opened → handshake (small frames, 10 s) → `handshakeDone` → open → end of stream, `end`, `closeWith`, `destroy`
 *
 * What arrives that can't be trusted ends it: the server says why in ERROR 0, then closes. One timer a connection
 * watches everything; it is armed anew when it fires, never for a frame.
 */
import type { Clock, Socket, Timer } from '../env.ts'
import { MqError } from '../errors.ts'
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
  /** May throw MqError: one whose code closes ends the connection; all else is a defect, and is thrown on. */
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
/** How long a peer has to take our last words. */
const lingerMs = 1000

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
  /** When the frame that is under way began, and its number. */
  #partialSinceMs = 0
  #partialOf = -1
  /** Bytes that wait for the peer, when they last changed, and how many they were. */
  #stalledSinceMs = 0
  #stalledBytes = 0
  #paused = false

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket
    this.#options = options
    this.#heartbeatMs = options.heartbeatMs
    const nowMs = options.clock.monotonicMs()
    this.#openedMs = this.#heardMs = this.#saidMs = nowMs
    this.#reader = new FrameReader(
      { frameBytesMax: options.frameBytesMax, headroom: headroomBytes, preface: options.role === 'server' },
      options.onFrame,
    )
    socket.onData = (bytes) => this.#onData(bytes)
    socket.onDrain = () => options.onDrain?.()
    socket.onClose = (error) => this.#onClose(error)
    if (options.role === 'client') socket.write(preface)
    this.#watch()
  }

  /** Bytes sent that the operating system has not taken. */
  get bufferedBytes(): number {
    return this.#socket.bufferedBytes
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
    if (this.#mode === 'ending' || this.#mode === 'closed') return
    this.#saidMs = this.#options.clock.monotonicMs()
    for (const chunk of chunks) this.#socket.write(chunk)
  }

  /** Stops reading: the peer will feel it. */
  pause(): void {
    this.#paused = true
    this.#socket.pause()
  }

  resume(): void {
    // What the peer said meanwhile was not read: its silence begins now.
    this.#heardMs = this.#options.clock.monotonicMs()
    this.#partialOf = -1
    this.#paused = false
    this.#socket.resume()
  }

  /** Sends what is buffered and ends, in order; a peer that does not take it is cut off. Idempotent. */
  end(): void {
    if (this.#mode === 'ending' || this.#mode === 'closed') return
    this.#mode = 'ending'
    this.#reader.stop()
    this.#timer?.cancel()
    // Our end of the stream must be able to be read: a paused socket would never see the peer's.
    if (this.#paused) this.#socket.resume()
    this.#socket.end()
    this.#timer = this.#options.clock.after(lingerMs, () => this.#socket.destroy())
  }

  /** Ends for a reason, which a server tells first. Idempotent; the first reason counts. */
  closeWith(error: MqError): void {
    if (this.#mode === 'ending' || this.#mode === 'closed') return
    this.#error = error
    if (this.#options.role === 'server') {
      const { code, message, retryable, details } = error
      this.send(
        encodeServerFrame({ op: 'error', id: 0, code, message, retryable, details: details ? { ...details } : null }),
      )
      this.end()
    } else this.destroy()
  }

  /** Ends now: what was not sent is lost. Idempotent. */
  destroy(): void {
    if (this.#mode === 'closed') return
    this.#reader.stop()
    if (this.#mode !== 'ending') this.#mode = 'ending'
    this.#socket.destroy()
  }

  #onData(bytes: Uint8Array): void {
    if (this.#mode === 'ending' || this.#mode === 'closed') return
    this.#heardMs = this.#options.clock.monotonicMs()
    try {
      this.#reader.push(bytes)
    } catch (error) {
      if (!(error instanceof MqError)) throw error
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
    this.#mode = 'closed'
    this.#reader.stop()
    this.#timer?.cancel()
    const reason =
      this.#error ??
      (error === undefined || error instanceof MqError
        ? error
        : new MqError('DISCONNECTED', `the connection broke: ${error.message}`, { cause: error }))
    this.#options.onClose(reason)
  }

  /** Looks after everything that takes too long, and comes again when the next of it could be due. */
  #watch(): void {
    this.#timer?.cancel()
    if (this.#mode === 'ending' || this.#mode === 'closed') return
    const nowMs = this.#options.clock.monotonicMs()
    const late = this.#overdue(nowMs)
    if (late !== null) {
      this.closeWith(late)
      return
    }
    if (nowMs - this.#saidMs >= this.#heartbeatMs && this.#mode === 'open') this.send(heartbeatFrame)
    const buffered = this.#socket.bufferedBytes
    if (buffered !== this.#stalledBytes) {
      this.#stalledBytes = buffered
      this.#stalledSinceMs = nowMs
    }
    const nextMs = Math.max(1, Math.min(this.#heartbeatMs / 2, frameTimeoutMs / 4))
    this.#timer = this.#options.clock.after(nextMs, () => this.#watch())
  }

  #overdue(nowMs: number): MqError | null {
    if (this.#mode === 'handshake' && nowMs - this.#openedMs >= frameTimeoutMs) {
      return new MqError('HANDSHAKE_TIMEOUT', 'the handshake took too long')
    }
    if (this.#partialOf !== -1 && !this.#paused && nowMs - this.#partialSinceMs >= frameTimeoutMs) {
      return new MqError('FRAME_TIMEOUT', 'a frame began and did not end')
    }
    if (this.#mode === 'open' && !this.#paused && nowMs - this.#heardMs >= 3 * this.#heartbeatMs) {
      return new MqError('DISCONNECTED', 'nothing was heard for three heartbeats')
    }
    const buffered = this.#socket.bufferedBytes
    if (buffered > 0 && buffered === this.#stalledBytes && nowMs - this.#stalledSinceMs >= 3 * this.#heartbeatMs) {
      return new MqError(this.#options.role === 'server' ? 'SLOW_CONSUMER' : 'DISCONNECTED', 'the peer does not read')
    }
    return null
  }
}

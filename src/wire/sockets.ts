/**
 * The real network: `node:net` behind the seam of `env.ts`.
 *
 * How a stream ends:
 * - The peer ends it (FIN): what was written up to the end of that turn is sent, then our side ends too and
 *   `onClose` follows. A half-open stream is of no use to anybody here.
 * - `end()`: what is buffered is sent, then FIN. Until the peer's FIN comes, its bytes are read and dropped: closing
 *   with unread bytes would make the kernel answer with a reset, which can destroy our last words (the error that
 *   says why we close) before the peer has read them. A peer that never ends keeps the socket, so an owner that
 *   cannot trust it calls `destroy()` after a while.
 * - `destroy()`: at once; nothing more is sent.
 * - Anything else is an error, and `onClose` tells it.
 *
 * All sockets read into the same memory, one after the other: a buffer of its own for each read, as `net` makes by default,
 * costs more to allocate and to collect than the copy that whoever keeps something makes of it.
 */
import { connect as netConnect, createServer, Socket as NetSocket, type OnReadOpts } from 'node:net'
import type { Address, Listener, Network, Socket } from '../env.ts'
import { invariant, InvariantError, MqError } from '../errors.ts'

/** Above this `net` warns and shortens the time-out by itself. */
const timeoutMsMax = 2 ** 31 - 1

const nothing = () => {}

/** One read takes as much at most. */
const readBuffer = Buffer.allocUnsafeSlow(64 << 10)

/** So much leaves before the end of the turn: the peer can begin, while a long turn goes on. */
const enoughBytes = 64 << 10

/** Pieces that are less than this in all are copied to one: cheaper than a `writev`, while Node's pool has the memory. */
const joinedBytes = 4096

/** What a socket reads, on its way to an owner that comes later than the socket, though before the first read. */
class Reads {
  deliver: (bytes: Uint8Array) => void = nothing
  readonly onread: OnReadOpts = {
    buffer: readBuffer,
    callback: (length) => {
      this.deliver(readBuffer.subarray(0, length))
      return true
    },
  }
}

/** Sockets with bytes to hand over at the end of this turn. */
let unflushed: TcpSocket[] = []

/**
 * The end of the turn is `setImmediate` rather than `nextTick`: a tick runs before the promise callbacks of the same
 * data event, so answers from async handlers would leave one by one. It also gathers what several data events and a
 * group commit bring about in one round of the loop.
 */
function flushLater(socket: TcpSocket): void {
  // eslint-disable-next-line no-restricted-globals -- an adapter: `soon` of the real clock, without the detour
  if (unflushed.length === 0) setImmediate(flushAll)
  unflushed.push(socket)
}

/**
 * Sockets that end in one turn: each costs `net` and its owner some 50 µs. When a thousand peers go at once, the others are
 * served in between.
 */
const endsPerTurn = 64

function flushAll(): void {
  const sockets = unflushed
  unflushed = []
  let ends = 0
  for (const socket of sockets) {
    if (socket.isEnding && ++ends > endsPerTurn) flushLater(socket)
    else socket.flush()
  }
}

class TcpSocket implements Socket {
  readonly remote: string
  onData: (bytes: Uint8Array) => void = () => {
    throw new InvariantError('bytes came before the owner of the socket had set onData')
  }
  onDrain: () => void = nothing
  onClose: (error?: Error) => void = nothing

  readonly #socket: NetSocket
  /** 'ending': no more is accepted or delivered; what is queued is still sent. */
  #state: 'open' | 'ending' | 'destroyed' | 'closed' = 'open'
  /** Written, not yet handed to `#socket`. */
  #queued: Uint8Array[] = []
  #queuedBytes = 0
  /** This socket is in `unflushed`. */
  #flushDue = false
  /** Something was written since `onDrain` was last called. */
  #drainDue = false
  #error: Error | undefined

  constructor(socket: NetSocket, reads: Reads) {
    this.#socket = socket
    this.remote = addressText(socket.remoteAddress, socket.remotePort)
    reads.deliver = (bytes) => {
      if (this.#state === 'open') this.onData(bytes)
    }
    socket.on('end', () => this.end())
    socket.on('error', (error) => {
      this.#error = error
    })
    socket.on('close', () => {
      const error = this.#state === 'destroyed' ? undefined : this.#error
      this.#state = 'closed'
      this.#drop()
      this.onClose(error)
    })
  }

  get bufferedBytes(): number {
    return this.#queuedBytes + this.#socket.writableLength
  }

  get isEnding(): boolean {
    return this.#state === 'ending'
  }

  write(bytes: Uint8Array): void {
    // The owner may learn of an end only after it has written: nobody will read these bytes.
    if (this.#state !== 'open' || bytes.byteLength === 0) return
    this.#queued.push(bytes)
    this.#queuedBytes += bytes.byteLength
    this.#drainDue = true
    if (this.#queuedBytes >= enoughBytes) this.#handOver()
    else this.#flushSoon()
  }

  pause(): void {
    if (this.#state === 'open') this.#socket.pause()
  }

  resume(): void {
    if (this.#state === 'open') this.#socket.resume()
  }

  end(): void {
    if (this.#state !== 'open') return
    this.#state = 'ending'
    this.#socket.resume()
    this.#flushSoon()
  }

  destroy(): void {
    if (this.#state === 'destroyed' || this.#state === 'closed') return
    this.#state = 'destroyed'
    this.#drop()
    this.#socket.destroy()
  }

  /** At the end of the turn. */
  flush(): void {
    this.#flushDue = false
    if (this.#state === 'destroyed' || this.#state === 'closed') return
    this.#handOver()
    if (this.#state === 'ending') this.#socket.end()
  }

  /** Hands what is queued over in one system call. */
  #handOver(): void {
    const queued = this.#queued
    if (queued.length === 0) return
    const isSmall = queued.length > 1 && this.#queuedBytes < joinedBytes
    this.#queued = []
    this.#queuedBytes = 0
    const pieces = isSmall ? [Buffer.concat(queued)] : queued
    const last = pieces.pop()!
    const socket = this.#socket
    const isCorked = pieces.length > 0
    if (isCorked) socket.cork()
    for (const bytes of pieces) socket.write(bytes)
    // Writes finish in order, so the last one's callback stands for all.
    socket.write(last, this.#written)
    if (isCorked) socket.uncork()
  }

  readonly #written = (error?: Error | null): void => {
    if (error || !this.#drainDue || this.bufferedBytes > 0) return
    if (this.#state === 'destroyed' || this.#state === 'closed') return
    this.#drainDue = false
    this.onDrain()
  }

  #flushSoon(): void {
    if (this.#flushDue) return
    this.#flushDue = true
    flushLater(this)
  }

  #drop(): void {
    this.#queued = []
    this.#queuedBytes = 0
  }
}

function addressText(host: string | undefined, port: number | undefined): string {
  // A peer that has gone again before we looked has no address any more.
  if (host === undefined || port === undefined) return 'unknown'
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** The system's code, such as ECONNREFUSED. */
function systemCode(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code
  return ''
}

/** What a failed listen means to its caller; `what` is said behind the address. */
export function listenError(error: unknown, address: Address, what = ''): Error {
  const where = addressText(address.host, address.port)
  switch (systemCode(error)) {
    case 'EADDRINUSE':
      return new MqError('ADDRESS_IN_USE', `${where}${what} is in use`, { cause: error })
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
    case 'ENOTFOUND':
      return new MqError('ADDRESS_NOT_AVAILABLE', `this machine has no address ${where}`, { cause: error })
    case 'EACCES':
      return new MqError('ADDRESS_NOT_AVAILABLE', `no permission to listen on ${where}`, { cause: error })
    default:
      return error instanceof Error ? error : new Error(String(error))
  }
}

function listen(address: Address, onSocket: (socket: Socket) => void): Promise<Listener> {
  // allowHalfOpen: else the peer's FIN makes `net` refuse the bytes that this turn has queued.
  const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (accepted) =>
    onSocket(adopt(accepted)),
  )
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, address)))
    server.listen({ host: address.host, port: address.port }, () => {
      server.removeAllListeners('error')
      // A connection that could not be accepted (no descriptor left) is its client's trouble, not the listener's.
      server.on('error', nothing)
      const bound = server.address()
      const port = typeof bound === 'object' && bound !== null ? bound.port : address.port
      resolve({
        address: { host: address.host, port },
        async close() {
          // It stops accepting at once; its callback, which waits for the last live socket, is of no interest.
          server.close()
        },
      })
    })
  })
}

/** A server has no option for `onread`, so what it accepted is put into a socket that was made with it. */
function adopt(accepted: NetSocket): TcpSocket {
  const { _handle: handle } = accepted as unknown as { readonly _handle: object | null | undefined }
  invariant(typeof handle === 'object' && handle !== null, 'a socket of net has a handle')
  const reads = new Reads()
  const options = { handle, allowHalfOpen: true, onread: reads.onread }
  return new TcpSocket(new NetSocket(options), reads)
}

function connect(
  address: Address,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
): Promise<Socket> {
  const { timeoutMs, signal } = options
  const where = addressText(address.host, address.port)
  const aborted = () =>
    new MqError('ABORTED', `connecting to ${where} was aborted`, { outcome: 'failed', cause: signal?.reason })
  const disconnected = (why: string, cause?: Error) =>
    new MqError('DISCONNECTED', `no connection to ${where}: ${why}`, { outcome: 'failed', cause })

  if (signal?.aborted) return Promise.reject(aborted())
  return new Promise((resolve, reject) => {
    const { host, port } = address
    const reads = new Reads()
    const socket = netConnect({ host, port, allowHalfOpen: true, noDelay: true, onread: reads.onread })
    const finish = () => {
      socket.off('connect', onConnect).off('error', onError).off('timeout', onTimeout).setTimeout(0)
      signal?.removeEventListener('abort', onAbort)
    }
    const fail = (error: MqError) => {
      finish()
      socket.on('error', nothing)
      socket.destroy()
      reject(error)
    }
    const onAbort = () => fail(aborted())
    const onTimeout = () => fail(disconnected(`no answer within ${timeoutMs} ms`))
    const onError = (error: Error) => {
      const code = systemCode(error) || error.message
      fail(
        disconnected(
          code === 'ENOTFOUND' ? `no host named ${address.host} is known (ENOTFOUND)` : code,
          error,
        ),
      )
    }
    const onConnect = () => {
      finish()
      // Nothing can have been read yet: reading starts in the loop, after the owner's promise callbacks.
      resolve(new TcpSocket(socket, reads))
    }
    signal?.addEventListener('abort', onAbort)
    socket.on('connect', onConnect).on('error', onError).on('timeout', onTimeout)
    socket.setTimeout(Math.min(Math.max(1, timeoutMs), timeoutMsMax))
  })
}

export const socketNetwork: Network = { listen, connect }

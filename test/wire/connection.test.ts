import t, { type Test } from 'tap'
import type { Clock, Socket, Timer } from '../../src/env.ts'
import { MqError } from '../../src/errors.ts'
import { SimWorld } from '../../src/sim/world.ts'
import { decodeServerFrame, encodeClientFrame, heartbeatFrame } from '../../src/wire/codec.ts'
import { Connection, type ConnectionOptions } from '../../src/wire/connection.ts'
import { plainDecode, valueOf } from './arbitrary.ts'

const heartbeatMs = 3000

/** Time that only moves when told. */
class ManualClock implements Clock {
  ms = 1000
  readonly #timers = new Set<{ atMs: number; run: () => void }>()

  nowMs(): number {
    return this.ms
  }

  monotonicMs(): number {
    return this.ms
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = { atMs: this.ms + delayMs, run }
    this.#timers.add(timer)
    return { cancel: () => this.#timers.delete(timer) }
  }

  soon(run: () => void): void {
    this.after(0, run)
  }

  get timers(): number {
    return this.#timers.size
  }

  /** Runs all that is due within `ms`, in order. */
  advance(ms: number): void {
    const endMs = this.ms + ms
    for (;;) {
      const due = [...this.#timers].filter((it) => it.atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0]
      if (due === undefined) break
      this.#timers.delete(due)
      this.ms = Math.max(this.ms, due.atMs)
      due.run()
    }
    this.ms = endMs
  }
}

/** One end of a stream: remembers what is written; the peer takes all at once unless it `stalls`. */
class FakeSocket implements Socket {
  readonly remote = 'peer:1'
  written: Uint8Array[] = []
  bufferedBytes = 0
  stalls = false
  paused = false
  state: 'open' | 'ended' | 'destroyed' = 'open'
  onData: (bytes: Uint8Array) => void = () => {}
  onDrain: () => void = () => {}
  onClose: (error?: Error) => void = () => {}

  write(bytes: Uint8Array): void {
    this.written.push(bytes)
    if (this.stalls) this.bufferedBytes += bytes.length
  }

  /** The peer takes some of what waits. */
  take(bytes: number): void {
    this.bufferedBytes -= bytes
    if (this.bufferedBytes === 0) this.onDrain()
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
  }

  end(): void {
    this.state = 'ended'
  }

  destroy(): void {
    if (this.state === 'destroyed') return
    this.state = 'destroyed'
    this.onClose()
  }

  /** What the peer does. */
  receive(...bytes: (Uint8Array | string)[]): void {
    for (const it of bytes) this.onData(typeof it === 'string' ? Buffer.from(it) : Uint8Array.from(it))
  }
}

function setUp(role: 'client' | 'server', options: Partial<ConnectionOptions> = {}) {
  const clock = new ManualClock()
  const socket = new FakeSocket()
  const frames: unknown[][] = []
  const closes: (MqError | undefined)[] = []
  const connection = new Connection(socket, {
    clock,
    role,
    heartbeatMs,
    frameBytesMax: 4096,
    onFrame: (bytes) => frames.push(plainDecode(bytes)),
    onClose: (error) => closes.push(error),
    ...options,
  })
  return { clock, socket, frames, closes, connection }
}

type Peer = ReturnType<typeof setUp>

/** A server whose client has said MQB1, and whose handshake is done. */
function openServer(options: Partial<ConnectionOptions> = {}): Peer {
  const peer = setUp('server', options)
  peer.socket.receive('MQB1')
  peer.connection.handshakeDone({ frameBytesMax: 1 << 20 })
  return peer
}

/** The ERROR 0 that a server wrote last. */
function lastError(socket: FakeSocket): string {
  const frame = decodeServerFrame(valueOf(socket.written.at(-1)!))
  return frame.op === 'error' && frame.id === 0 ? frame.code : frame.op
}

const heartbeats = (socket: FakeSocket) => socket.written.filter((it) => it === heartbeatFrame).length
const lookup = encodeClientFrame({ op: 'lookup', id: 1, name: 'orders' })

t.test('a client opens with MQB1, a server with nothing', (t) => {
  t.equal(Buffer.concat(setUp('client').socket.written).toString(), 'MQB1')
  t.same(setUp('server').socket.written, [])
  t.end()
})

t.test('frames come in and go out', (t) => {
  const { socket, frames, connection } = openServer()
  socket.receive(lookup, lookup.subarray(0, 5), lookup.subarray(5))
  t.same(frames, [
    [10, 1, 'orders'],
    [10, 1, 'orders'],
  ])
  connection.send(Uint8Array.of(1), Uint8Array.of(2))
  t.same(socket.written.slice(-2), [Uint8Array.of(1), Uint8Array.of(2)])
  t.end()
})

t.test('a stream that cannot be trusted: the server says why in ERROR 0 and ends', (t) => {
  const { socket, closes, connection } = setUp('server')
  socket.receive('GET / HTTP/1.1')
  t.equal(lastError(socket), 'BAD_MAGIC')
  t.equal(socket.state, 'ended')
  const { length } = socket.written
  socket.receive('more')
  connection.send(Uint8Array.of(1))
  connection.closeWith(new MqError('INTERNAL', 'another reason'))
  connection.end()
  t.equal(socket.written.length, length, 'and says nothing more')
  socket.onClose()
  t.equal(closes.length, 1)
  t.match(closes[0], { code: 'BAD_MAGIC' })
  t.end()
})

t.test('frames are small until the handshake is done', (t) => {
  const large = encodeClientFrame({ op: 'createQueue', id: 1, name: 'q', options: { a: 'x'.repeat(5000) } })
  const before = setUp('server')
  before.socket.receive('MQB1', large)
  t.equal(lastError(before.socket), 'FRAME_TOO_LARGE')
  const after = openServer()
  after.socket.receive(large)
  t.equal(after.frames.length, 1)
  t.end()
})

t.test('a handshake never finished ends after 10 s, however busy the client is', (t) => {
  const { clock, socket, closes } = setUp('server')
  clock.advance(9000)
  socket.receive('MQB1', lookup)
  clock.advance(999)
  t.equal(socket.state, 'open')
  clock.advance(1)
  t.equal(lastError(socket), 'HANDSHAKE_TIMEOUT')
  socket.onClose()
  t.match(closes, [{ code: 'HANDSHAKE_TIMEOUT' }])
  t.end()
})

t.test('one byte at a time: a frame once begun is complete within 10 s', (t) => {
  for (const startMs of [0, 1, 1500, 2999, 3000, 7777]) {
    const { clock, socket } = openServer()
    for (let ms = 0; ms < startMs; ms += 1000) {
      socket.receive(heartbeatFrame)
      clock.advance(Math.min(1000, startMs - ms))
    }
    for (let i = 0; i < 10; i++) {
      t.equal(socket.state, 'open', `${startMs}: ${i} s`)
      socket.receive(lookup.subarray(i, i + 1))
      clock.advance(i < 9 ? 1000 : 999)
    }
    t.equal(socket.state, 'open')
    clock.advance(1)
    t.equal(lastError(socket), 'FRAME_TIMEOUT', `begun at ${startMs} ms`)
  }
  t.end()
})

t.test('frames that are each complete in time never time out, though one is always under way', (t) => {
  const { clock, socket, frames } = openServer()
  for (let i = 0; i < 20; i++) {
    socket.receive(lookup.subarray(i === 0 ? 0 : 5), lookup.subarray(0, 5))
    clock.advance(2000)
  }
  t.equal(socket.state, 'open')
  t.equal(frames.length, 20)
  t.end()
})

t.test('each side says that it is alive when it has been silent for heartbeatMs', (t) => {
  const { clock, socket, connection } = openServer()
  clock.advance(heartbeatMs - 1)
  t.equal(heartbeats(socket), 0)
  clock.advance(1)
  t.equal(heartbeats(socket), 1)
  clock.advance(1000)
  connection.send(Uint8Array.of(1))
  clock.advance(heartbeatMs - 1)
  t.equal(heartbeats(socket), 1, 'not when it has just said something')
  clock.advance(1)
  t.equal(heartbeats(socket), 2)
  t.end()
})

t.test('nobody sends heartbeats before the handshake is done', (t) => {
  const { clock, socket } = setUp('server')
  clock.advance(9000)
  t.equal(socket.written.length, 0)
  t.end()
})

t.test('a peer that was not heard for three heartbeats is gone', (t) => {
  const { clock, socket, closes } = openServer()
  clock.advance(1000)
  socket.receive(heartbeatFrame)
  clock.advance(3 * heartbeatMs - 1)
  t.equal(socket.state, 'open')
  clock.advance(1)
  t.equal(socket.state, 'ended')
  clock.advance(1000)
  t.equal(socket.state, 'destroyed')
  t.match(closes, [{ code: 'DISCONNECTED' }])
  t.end()
})

t.test('silence is measured in the agreed time once the handshake is done', (t) => {
  const { clock, socket, connection } = setUp('client', { heartbeatMs: 10_000 })
  connection.handshakeDone({ frameBytesMax: 1 << 20, heartbeatMs: 100 })
  clock.advance(299)
  t.equal(heartbeats(socket), 2)
  t.equal(socket.state, 'open')
  clock.advance(1)
  t.equal(socket.state, 'destroyed')
  t.end()
})

t.test('while we do not read, the peer is neither silent nor slow', (t) => {
  const { clock, socket, connection } = openServer()
  socket.receive(lookup.subarray(0, 5))
  connection.pause()
  connection.pause()
  t.ok(socket.paused)
  clock.advance(60_000)
  t.equal(socket.state, 'open')
  connection.resume()
  clock.advance(0)
  t.notOk(socket.paused)
  clock.advance(3 * heartbeatMs - 1)
  t.equal(socket.state, 'open')
  clock.advance(1)
  t.equal(socket.state, 'ended', 'from now on its silence counts')
  t.end()
})

t.test('what came before a pause is handed out once we read on, at the end of that turn', (t) => {
  const { clock, socket, frames, connection } = openServer({
    onFrame: (bytes) => {
      frames.push(plainDecode(bytes))
      if (frames.length === 1) connection.pause()
    },
  })
  socket.receive(Buffer.concat([lookup, lookup, lookup]))
  t.equal(frames.length, 1)
  connection.resume()
  t.equal(frames.length, 1, 'never within the call')
  t.ok(socket.paused, 'and nothing new before it')
  clock.advance(0)
  t.equal(frames.length, 3)
  t.notOk(socket.paused)
  t.end()
})

t.test('resumed and paused again in one turn, it stays paused; the other way round it reads on once', (t) => {
  const { clock, socket, frames, connection } = openServer()
  connection.pause()
  socket.receive(lookup)
  connection.resume()
  connection.pause()
  clock.advance(0)
  t.ok(socket.paused)
  t.equal(frames.length, 0)
  connection.resume()
  connection.pause()
  connection.resume()
  clock.advance(0)
  t.notOk(socket.paused)
  t.equal(frames.length, 1)
  t.end()
})

t.test('what was kept in a pause and cannot be trusted ends the connection', (t) => {
  const { clock, socket, connection } = openServer()
  connection.pause()
  socket.receive(Uint8Array.of(0, 0, 0, 0))
  connection.resume()
  clock.advance(0)
  t.equal(lastError(socket), 'BAD_FRAME')
  t.end()
})

t.test('a connection that ends between a resume and the end of its turn reads on all the same', (t) => {
  const { clock, socket, frames, connection } = openServer()
  connection.pause()
  socket.receive(lookup)
  connection.resume()
  connection.end()
  t.notOk(socket.paused)
  clock.advance(0)
  t.equal(frames.length, 0)
  t.end()
})

t.test('a frame that was under way when we paused has its 10 s from when we read on', (t) => {
  const { clock, socket, connection } = openServer()
  socket.receive(lookup.subarray(0, 5))
  connection.pause()
  clock.advance(60_000)
  connection.resume()
  for (let i = 0; i < 10; i++) {
    t.equal(socket.state, 'open')
    socket.receive(i < 8 ? lookup.subarray(5 + i, 6 + i) : '')
    clock.advance(1000)
  }
  t.equal(lastError(socket), 'FRAME_TIMEOUT')
  t.end()
})

t.test('a peer that takes nothing for three heartbeats is cut off, whatever we add to what waits', (t) => {
  const { clock, socket, closes, connection } = openServer()
  socket.stalls = true
  clock.advance(500)
  connection.send(new Uint8Array(1000))
  let passedMs = 0
  for (; socket.state === 'open'; passedMs += 500) {
    socket.receive(heartbeatFrame)
    clock.advance(500)
    if (passedMs === 4000) connection.send(new Uint8Array(1000))
    if (passedMs > 60_000) break
  }
  t.equal(passedMs, 3 * heartbeatMs)
  t.equal(lastError(socket), 'SLOW_CONSUMER')
  clock.advance(1000)
  t.equal(socket.state, 'destroyed')
  t.match(closes, [{ code: 'SLOW_CONSUMER' }])
  t.end()
})

t.test('a peer that takes a little now and then is not cut off', (t) => {
  const { clock, socket, connection } = openServer()
  socket.stalls = true
  connection.send(new Uint8Array(1000))
  for (let i = 0; i < 20; i++) {
    socket.receive(heartbeatFrame)
    clock.advance(heartbeatMs)
    socket.take(10)
  }
  t.equal(socket.state, 'open')
  t.end()
})

t.test('bytes that wait again after all were taken have their full time', (t) => {
  const { clock, socket, connection } = openServer()
  socket.stalls = true
  connection.send(new Uint8Array(10))
  socket.receive(heartbeatFrame)
  clock.advance(100)
  socket.take(10)
  for (let i = 0; i < 3; i++) {
    clock.advance(2900)
    socket.receive(heartbeatFrame)
    if (i === 0) connection.send(new Uint8Array(10))
  }
  t.equal(socket.state, 'open')
  t.end()
})

t.test('end: what is buffered is sent as long as the peer takes some of it each second', (t) => {
  const { clock, socket, closes, connection } = openServer()
  socket.stalls = true
  connection.send(new Uint8Array(10_000))
  connection.end()
  connection.end()
  for (let i = 0; i < 5; i++) {
    clock.advance(999)
    socket.take(1000)
    clock.advance(1)
    t.equal(socket.state, 'ended')
  }
  clock.advance(1000)
  t.equal(socket.state, 'destroyed')
  t.same(closes, [undefined])
  t.end()
})

t.test('end: a peer that takes a byte a second does not keep us for ever', (t) => {
  const { clock, socket, connection } = openServer()
  socket.stalls = true
  connection.send(new Uint8Array(10_000))
  connection.end()
  for (let i = 0; i < 10; i++) {
    t.equal(socket.state, 'ended')
    socket.take(1)
    clock.advance(1000)
  }
  t.equal(socket.state, 'destroyed')
  t.end()
})

t.test('a paused connection that ends reads on, or it would not see the end of the other side', (t) => {
  const { socket, connection } = openServer()
  connection.pause()
  connection.end()
  t.notOk(socket.paused)
  connection.pause()
  t.notOk(socket.paused, 'nor can it be paused any more')
  t.end()
})

t.test('a client that cannot trust its server just leaves', (t) => {
  const { socket, closes } = setUp('client')
  socket.receive(Uint8Array.of(0, 0, 0, 0))
  t.equal(socket.state, 'destroyed')
  t.match(closes, [{ code: 'BAD_FRAME' }])
  t.end()
})

t.test('an MqError out of onFrame ends the connection if its code says so; all else is thrown on', (t) => {
  const throwing = (error: Error) =>
    openServer({
      onFrame: () => {
        throw error
      },
    }).socket
  const closing = throwing(new MqError('UNAUTHENTICATED', 'HELLO first'))
  closing.receive(lookup, lookup)
  t.equal(lastError(closing), 'UNAUTHENTICATED')
  t.equal(closing.written.length, 1)
  for (const defect of [
    new MqError('QUEUE_NOT_FOUND', 'is answered, not thrown'),
    new TypeError('a defect'),
  ]) {
    t.throws(() => throwing(defect).receive(lookup), defect)
  }
  t.end()
})

t.test('a callee that ends the connection gets no more frames of the same chunk', (t) => {
  for (const how of ['end', 'destroy'] as const) {
    let frames = 0
    const peer: Peer = openServer({
      onFrame: () => {
        frames++
        peer.connection[how]()
      },
    })
    peer.socket.receive(Buffer.concat([lookup, lookup]))
    t.equal(frames, 1, how)
  }
  t.end()
})

t.test('onClose: once, with the first reason; none after an orderly end', (t) => {
  const reasonOf = (run: (peer: Peer) => void) => {
    const peer = openServer()
    run(peer)
    if (peer.socket.state !== 'destroyed') peer.socket.onClose()
    peer.connection.destroy()
    t.equal(peer.closes.length, 1)
    return peer.closes[0]
  }
  t.equal(
    reasonOf(() => {}),
    undefined,
  )
  t.equal(
    reasonOf(({ connection }) => connection.destroy()),
    undefined,
  )
  const broken = new Error('read ECONNRESET')
  t.match(
    reasonOf(({ socket }) => socket.onClose(broken)),
    { code: 'DISCONNECTED', cause: broken },
  )
  const known = new MqError('STOPPING', 'by the socket')
  t.equal(
    reasonOf(({ socket }) => socket.onClose(known)),
    known,
  )
  t.match(
    reasonOf(({ socket }) => socket.receive(lookup.subarray(0, 9))),
    { code: 'DISCONNECTED', message: /within a frame/ },
    'a truncated frame, then FIN',
  )
  const first = new MqError('THROTTLED', 'first')
  t.equal(
    reasonOf(({ connection }) => {
      connection.closeWith(first)
      connection.closeWith(known)
      connection.destroy()
    }),
    first,
  )
  t.end()
})

t.test('onDrain is passed on while the connection lives', (t) => {
  let drains = 0
  const { socket, connection } = openServer({ onDrain: () => drains++ })
  socket.onDrain()
  t.equal(connection.bufferedBytes, 0)
  connection.end()
  socket.onDrain()
  t.equal(drains, 1)
  t.end()
})

t.test('one timer a connection, however much is said, and none once it is over', (t) => {
  const { clock, socket, connection } = openServer()
  for (let i = 0; i < 1000; i++) {
    socket.receive(lookup)
    connection.send(Uint8Array.of(1))
    if (i % 100 === 0) clock.advance(100)
  }
  t.equal(clock.timers, 1)
  connection.end()
  t.equal(clock.timers, 1)
  socket.onClose()
  t.equal(clock.timers, 0)

  const destroyed = openServer()
  destroyed.connection.destroy()
  t.equal(destroyed.clock.timers, 0)
  t.end()
})

/** Both sides over the simulated network. */
async function pair(t: Test) {
  const world = new SimWorld({ seed: 7, faults: { networkLatencyMs: [1, 5] } })
  const at = { host: 'server', port: 7650 }
  const server = world.process('server').env
  const client = world.process('client').env
  const closes: Record<string, string | undefined> = {}
  const connect = (role: 'client' | 'server', clock: Clock, socket: Socket) => {
    const connection: Connection = new Connection(socket, {
      clock,
      role,
      heartbeatMs,
      frameBytesMax: 4096,
      onFrame: () => undefined,
      onClose: (error) => {
        closes[role] = error?.code ?? 'orderly'
      },
    })
    connection.handshakeDone({ frameBytesMax: 4096 })
    return connection
  }
  let accepted: Connection | undefined
  await server.network.listen(at, (socket) => {
    accepted = connect('server', server.clock, socket)
  })
  const socket = await world.complete(client.network.connect(at, { timeoutMs: 1000 }))
  const connection = connect('client', client.clock, socket)
  await world.run({ until: () => accepted !== undefined })
  t.ok(accepted)
  return { world, connection, accepted: accepted!, closes }
}

t.test('two that have nothing to say keep their connection for an hour', async (t) => {
  const { world, closes, connection, accepted } = await pair(t)
  await world.advance(3_600_000)
  t.same(closes, {})
  connection.end()
  await world.run()
  t.same(closes, { client: 'orderly', server: 'orderly' })
  accepted.destroy()
})

t.test('two that cannot hear each other part, both', async (t) => {
  const { world, closes } = await pair(t)
  world.blackHole('client', 'server')
  world.blackHole('server', 'client')
  await world.advance(3 * heartbeatMs + 2000)
  t.same(closes, { client: 'DISCONNECTED', server: 'DISCONNECTED' })
})

t.test('the last words of a server reach a client', async (t) => {
  const { world, accepted, closes } = await pair(t)
  accepted.closeWith(new MqError('SESSION_REPLACED', 'a newer one'))
  await world.run()
  t.same(closes, { server: 'SESSION_REPLACED', client: 'orderly' })
})

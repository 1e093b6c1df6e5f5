/**
 * A simulated TCP. Addresses are one flat space: a host name means nothing but itself.
 *
 * A connection is two pipes. What a process writes is buffered until the end of its turn (a 'flush' event), then
 * sent as far as the window allows; it arrives, in order, after the latency, and counts against the window until the
 * reader takes it. Only the first packet of a pipe has an event: whatever delays it delays those behind it, and
 * nothing overtakes within a direction, whereas two connections know nothing of each other.
 *
 * Ends are as in `wire/sockets.ts`, whose opening comment holds here too.
 */
import type { Address, Listener, Network, Socket } from '../env.ts'
import { InvariantError, invariant, MqError } from '../errors.ts'
import { displacedBytes, hashBytes } from './bytes.ts'
import type { SimEvent, SimHost, SimKernel } from './events.ts'
import type { SeededRandom } from './random.ts'

/** Bytes on their way or waiting for the reader, in one direction: what the kernels of both sides would hold. */
export const windowBytes = 256 * 1024

/** A real socket reads no more than this at once. */
const chunkBytesMax = 64 * 1024

const firstFreePort = 49_152

const nothing = () => {}

interface Held {
  readonly host: SimHost
  readonly address: Address
  readonly onSocket: (socket: Socket) => void
}

/** Something a partition holds back. */
interface Waiting {
  retry(): void
}

export class SimNetwork {
  readonly kernel: SimKernel
  readonly random: SeededRandom
  /** What a partition holds back until it ends. */
  readonly waiting = new Set<Waiting>()
  readonly #listeners = new Map<string, Held>()
  readonly #connections = new Set<SimConnection>()
  /** `from → to`: until when nothing gets through. */
  readonly #blockedUntilMs = new Map<string, number>()
  #nextPort = firstFreePort

  constructor(kernel: SimKernel, random: SeededRandom) {
    this.kernel = kernel
    this.random = random
  }

  /** The network as one process sees it. */
  of(host: SimHost): Network {
    return {
      listen: (address, onSocket) => this.#listen(host, address, onSocket),
      connect: (address, options) => this.#connect(host, address, options),
    }
  }

  /** The live connections, oldest first. */
  get connections(): readonly SimConnection[] {
    return [...this.#connections]
  }

  /** The live connections between two processes, whoever opened them. */
  between(a: string, b: string): SimConnection[] {
    return this.connections.filter(
      ({ client, server }) => (client === a && server === b) || (client === b && server === a),
    )
  }

  /** Holds back what one process sends to another until a moment of virtual time. */
  block(from: string, to: string, untilMs: number): void {
    const key = `${from} → ${to}`
    this.#blockedUntilMs.set(key, Math.max(untilMs, this.#blockedUntilMs.get(key) ?? 0))
  }

  /** Ends all partitions: what they held back sets out now. */
  heal(): void {
    this.#blockedUntilMs.clear()
    const waiting = [...this.waiting]
    this.waiting.clear()
    for (const one of waiting) one.retry()
  }

  /** How long it takes until something sent now gets past a partition; 0 when there is none. */
  blockedMs(from: string, to: string): number {
    if (this.#blockedUntilMs.size === 0) return 0
    const key = `${from} → ${to}`
    const restMs = (this.#blockedUntilMs.get(key) ?? 0) - this.kernel.exactMs()
    if (restMs > 0) return restMs
    this.#blockedUntilMs.delete(key)
    return 0
  }

  latencyMs(): number {
    const { networkLatencyMs, delayChance, delayMsMax } = this.kernel.faults()
    const latencyMs = this.random.between(networkLatencyMs[0], networkLatencyMs[1])
    return this.random.chance(delayChance) ? latencyMs + this.random.between(0, delayMsMax) : latencyMs
  }

  /** A process has ended: its listeners are gone and its peers will hear of it. */
  crash(host: SimHost): void {
    for (const [key, listener] of this.#listeners) if (listener.host === host) this.#listeners.delete(key)
    for (const connection of this.#connections) connection.crash(host)
  }

  forget(connection: SimConnection): void {
    this.#connections.delete(connection)
  }

  async #listen(host: SimHost, wanted: Address, onSocket: (socket: Socket) => void): Promise<Listener> {
    if (!host.alive) return never()
    const port = wanted.port === 0 ? this.#freePort(wanted.host) : wanted.port
    const key = addressText(wanted.host, port)
    if (this.#listeners.has(key)) throw new MqError('ADDRESS_IN_USE', `${key} is in use`)
    const held: Held = { host, address: { host: wanted.host, port }, onSocket }
    this.#listeners.set(key, held)
    return {
      address: held.address,
      close: async () => {
        if (this.#listeners.get(key) === held) this.#listeners.delete(key)
      },
    }
  }

  #freePort(host: string): number {
    let port = this.#nextPort
    while (this.#listeners.has(addressText(host, port))) port += 1
    this.#nextPort = port < 65_535 ? port + 1 : firstFreePort
    return port
  }

  #connect(
    host: SimHost,
    address: Address,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Socket> {
    if (!host.alive) return never()
    const where = addressText(address.host, address.port)
    const { timeoutMs, signal } = options
    const aborted = () =>
      new MqError('ABORTED', `connecting to ${where} was aborted`, {
        outcome: 'failed',
        cause: signal?.reason,
      })
    const disconnected = (why: string) =>
      new MqError('DISCONNECTED', `no connection to ${where}: ${why}`, { outcome: 'failed' })
    if (signal?.aborted) return Promise.reject(aborted())

    return new Promise((resolve, reject) => {
      let over = false
      let end: End | undefined
      const finish = () => {
        over = true
        timer.cancel()
        signal?.removeEventListener('abort', onAbort)
      }
      const fail = (error: MqError) => {
        if (over) return
        finish()
        end?.destroy()
        reject(error)
      }
      const onAbort = () => fail(aborted())
      const timer = host.schedule(timeoutMs, 'timer', () =>
        fail(disconnected(`no answer within ${timeoutMs} ms`)),
      )
      signal?.addEventListener('abort', onAbort)

      // The request travels to whoever listens when it arrives.
      const arrive = () => {
        const listener = this.#listeners.get(where)
        if (over || !host.alive) return
        const blockedMs = listener === undefined ? 0 : this.blockedMs(host.name, listener.host.name)
        if (blockedMs > 0) {
          const event = this.kernel.schedule(blockedMs + this.latencyMs(), 'connect', () => {
            this.waiting.delete(waiting)
            arrive()
          })
          const waiting: Waiting = {
            retry: () => {
              event.cancel()
              this.kernel.schedule(this.latencyMs(), 'connect', arrive)
            },
          }
          this.waiting.add(waiting)
          return
        }
        if (listener === undefined || this.random.chance(this.kernel.faults().connectRefusedChance)) {
          host.schedule(this.latencyMs(), 'refuse', () => fail(disconnected('refused')))
          return
        }
        const connection = new SimConnection(this, host, listener.host, where, this.#freePort(host.name))
        this.#connections.add(connection)
        end = connection.clientEnd
        end.onClose = () => fail(disconnected('broken off'))
        end.onOpen = (socket) => {
          if (over) return
          finish()
          socket.onClose = nothing
          resolve(socket)
        }
        connection.accept(() => {
          const accepting = this.#listeners.get(where) === listener
          if (accepting) listener.onSocket(connection.serverEnd)
          else connection.serverEnd.destroy()
        })
      }
      this.kernel.schedule(this.latencyMs(), 'connect', arrive)
    })
  }
}

/** A connection as a driver sees it, to break it. */
export class SimConnection {
  /** Name of the process that connected. */
  readonly client: string
  /** Name of the process that listened. */
  readonly server: string
  readonly clientEnd: End
  readonly serverEnd: End
  readonly #network: SimNetwork
  readonly #toServer: Pipe
  readonly #toClient: Pipe

  constructor(network: SimNetwork, client: SimHost, server: SimHost, where: string, clientPort: number) {
    this.#network = network
    this.client = client.name
    this.server = server.name
    this.clientEnd = new End(client, where, this)
    this.serverEnd = new End(server, addressText(client.name, clientPort), this)
    this.#toServer = new Pipe(network, this.clientEnd, this.serverEnd)
    this.#toClient = new Pipe(network, this.serverEnd, this.clientEnd)
    this.clientEnd.join(this.#toClient, this.#toServer)
    this.serverEnd.join(this.#toServer, this.#toClient)
  }

  /** Tells the server of the connection, and the client that it is there. */
  accept(onAccept: () => void): void {
    this.serverEnd.host.schedule(0, 'accept', () => {
      if (this.serverEnd.state === 'open') onAccept()
    })
    this.#toClient.send('open', 0)
  }

  /** Breaks it: what is on its way is lost, and each end hears of it by itself, some time later. */
  cut(): void {
    for (const end of [this.clientEnd, this.serverEnd]) {
      end.incoming.lose()
      end.host.schedule(this.#network.latencyMs(), 'close', () => end.fail(reset()))
    }
  }

  /** From now on, what the process of this name sends on it vanishes, and neither side is told. */
  blackHole(from: string): void {
    invariant(from === this.client || from === this.server, `${from} is not an end of this connection`)
    if (from === this.client) this.#toServer.lose()
    if (from === this.server) this.#toClient.lose()
  }

  /** Whether what a crashed process had sent is lost with it. */
  lossy(): boolean {
    return this.#network.random.chance(0.5)
  }

  /** One of the ends has crashed, perhaps. */
  crash(host: SimHost): void {
    for (const end of [this.clientEnd, this.serverEnd]) if (end.host === host) end.crash()
  }

  /** An end has closed. */
  closed(): void {
    const over = (end: End) => end.state === 'closed' || !end.host.alive
    if (over(this.clientEnd) && over(this.serverEnd)) this.#network.forget(this)
  }
}

interface Packet {
  readonly kind: 'open' | 'data' | 'fin' | 'reset'
  bytes: number
  readonly dueMs: number
}

/** One direction of a connection. */
export class Pipe {
  readonly #network: SimNetwork
  readonly #from: End
  readonly #to: End
  /** What was written and not yet sent whole, and what it looked like then. */
  readonly #written: { readonly bytes: Uint8Array; readonly hash: number }[] = []
  /** How much of the first of them has been sent. */
  #sentOfFirst = 0
  /** What was sent and not yet read whole: the kernel's copies. */
  readonly #sent: Uint8Array[] = []
  /** How much of the first of them has been read. */
  #readOfFirst = 0
  readonly #packets: Packet[] = []
  /** The arrival of the first packet. */
  #event: SimEvent | undefined
  #windowDue = false
  /** Whatever is sent vanishes. */
  #lost = false
  /** Written, not yet sent. */
  bufferedBytes = 0
  /** Sent, not yet read: at most `windowBytes`. */
  inFlightBytes = 0
  /** The part of `inFlightBytes` that waits at the reader's. */
  arrivedBytes = 0
  /** The end of the stream waits at the reader's, behind `arrivedBytes`. */
  finArrived = false

  constructor(network: SimNetwork, from: End, to: End) {
    this.#network = network
    this.#from = from
    this.#to = to
  }

  write(bytes: Uint8Array): void {
    this.#written.push({ bytes, hash: hashBytes(bytes) })
    this.bufferedBytes += bytes.byteLength
    if (this.bufferedBytes >= this.#network.kernel.faults().enoughBytes) this.sendBuffered()
  }

  /** Sends as much of what is buffered as the window allows. */
  sendBuffered(): void {
    const bytes = Math.min(this.bufferedBytes, windowBytes - this.inFlightBytes)
    if (bytes === 0) return
    this.bufferedBytes -= bytes
    this.inFlightBytes += bytes
    this.#copy(bytes)
    this.send('data', bytes)
  }

  /** The kernel takes the next `length` bytes: what becomes of the writer's memory is nothing to it. */
  #copy(length: number): void {
    for (let copied = 0; copied < length;) {
      const first = this.#written[0]
      invariant(first !== undefined, 'what is sent was written')
      const part = Uint8Array.from(
        first.bytes.subarray(this.#sentOfFirst, this.#sentOfFirst + length - copied),
      )
      this.#sent.push(part)
      copied += part.byteLength
      this.#sentOfFirst += part.byteLength
      if (this.#sentOfFirst < first.bytes.byteLength) continue
      if (hashBytes(first.bytes) !== first.hash) {
        throw new InvariantError(
          `${this.#from.host.name} changed bytes after it had written them to ${this.#from.remote}`,
        )
      }
      this.#written.shift()
      this.#sentOfFirst = 0
    }
  }

  send(kind: Packet['kind'], bytes: number): void {
    if (this.#lost) return
    this.#packets.push({ kind, bytes, dueMs: this.#network.kernel.exactMs() + this.#network.latencyMs() })
    this.#expectNext()
  }

  lose(): void {
    this.#lost = true
    this.dropPackets()
  }

  dropPackets(): void {
    this.#packets.length = 0
    this.#event?.cancel()
    this.#event = undefined
    this.#network.waiting.delete(this)
  }

  /** A partition is over. */
  retry(): void {
    this.#event?.cancel()
    this.#event = this.#to.host.schedule(this.#network.latencyMs(), 'arrive', this.#arrive)
  }

  /** Takes the next `length` of the arrived bytes, as bytes of the reader's own. */
  read(length: number): Uint8Array {
    const chunk = displacedBytes(length)
    let filled = 0
    while (filled < length) {
      const first = this.#sent[0]
      invariant(first !== undefined, 'what arrives was sent')
      const part = first.subarray(this.#readOfFirst, this.#readOfFirst + length - filled)
      chunk.set(part, filled)
      filled += part.byteLength
      this.#readOfFirst += part.byteLength
      if (this.#readOfFirst === first.byteLength) {
        this.#sent.shift()
        this.#readOfFirst = 0
      }
    }
    this.arrivedBytes -= length
    this.inFlightBytes -= length
    this.#to.host.note('chunk', hashBytes(chunk))
    if (this.bufferedBytes > 0 && !this.#windowDue) this.#openWindow()
    return chunk
  }

  /** Tells the writer that there is room again: that travels in the other direction, if it still carries anything. */
  #openWindow(): void {
    if (this.#to.outgoing.#lost) return
    this.#windowDue = true
    this.#from.host.schedule(this.#network.latencyMs(), 'window', () => {
      this.#windowDue = false
      this.#from.flush()
    })
  }

  #expectNext(): void {
    const first = this.#packets[0]
    if (first === undefined || this.#event !== undefined) return
    const delayMs = Math.max(0, first.dueMs - this.#network.kernel.exactMs())
    this.#event = this.#to.host.schedule(delayMs, 'arrive', this.#arrive)
  }

  readonly #arrive = (): void => {
    const network = this.#network
    this.#event = undefined
    network.waiting.delete(this)
    const blockedMs = network.blockedMs(this.#from.host.name, this.#to.host.name)
    if (blockedMs > 0) {
      network.waiting.add(this)
      this.#event = this.#to.host.schedule(blockedMs + network.latencyMs(), 'arrive', this.#arrive)
      return
    }
    const packet = this.#packets[0]
    invariant(packet !== undefined, 'an arrival has a packet')
    if (packet.kind === 'data') {
      const faults = network.kernel.faults()
      if (network.random.chance(faults.cutChance)) return this.#to.connection.cut()
      if (network.random.chance(faults.blackHoleChance)) return this.lose()
      let bytes = Math.min(packet.bytes, chunkBytesMax)
      if (bytes > 1 && network.random.chance(faults.splitChance)) bytes = 1 + network.random.int(bytes - 1)
      packet.bytes -= bytes
      this.arrivedBytes += bytes
    }
    if (packet.kind === 'fin') this.finArrived = true
    if (packet.kind !== 'data' || packet.bytes === 0) this.#packets.shift()
    this.#expectNext()
    switch (packet.kind) {
      case 'open':
        return this.#to.onOpen(this.#to)
      case 'data':
      case 'fin':
        return this.#to.read()
      case 'reset':
        return this.#to.fail(reset())
      default:
        packet.kind satisfies never
    }
  }
}

/** One end of a connection. */
export class End implements Socket {
  readonly host: SimHost
  readonly remote: string
  readonly connection: SimConnection
  incoming!: Pipe
  outgoing!: Pipe
  /** 'ending': no more is accepted or delivered; what is buffered is still sent. */
  state: 'open' | 'ending' | 'destroyed' | 'closed' = 'open'

  /** The connection stands: called at the client's end, once. */
  onOpen: (socket: Socket) => void = nothing
  onData: (bytes: Uint8Array) => void = () => {
    throw new InvariantError('bytes came before the owner of the socket had set onData')
  }
  onDrain: () => void = nothing
  onClose: (error?: Error) => void = nothing

  #paused = false
  #flushDue = false
  #readDue = false
  /** Something was written since `onDrain` was last called. */
  #drainDue = false
  #finSent = false
  #peerEnded = false

  constructor(host: SimHost, remote: string, connection: SimConnection) {
    this.host = host
    this.remote = remote
    this.connection = connection
  }

  join(incoming: Pipe, outgoing: Pipe): void {
    this.incoming = incoming
    this.outgoing = outgoing
  }

  get bufferedBytes(): number {
    return this.outgoing.bufferedBytes
  }

  write(bytes: Uint8Array): void {
    if (!this.host.alive || this.state !== 'open' || bytes.byteLength === 0) return
    this.outgoing.write(bytes)
    this.#drainDue = true
    this.#flushSoon()
  }

  pause(): void {
    if (this.state === 'open') this.#paused = true
  }

  resume(): void {
    if (this.state !== 'open' || !this.#paused) return
    this.#paused = false
    this.#readWaiting()
  }

  end(): void {
    if (!this.host.alive || this.state !== 'open') return
    this.state = 'ending'
    this.#paused = false
    this.#readWaiting()
    this.#flushSoon()
  }

  destroy(): void {
    if (!this.host.alive || this.state === 'destroyed' || this.state === 'closed') return
    this.state = 'destroyed'
    this.outgoing.bufferedBytes = 0
    // The kernel answers unread bytes with a reset; without any the peer sees an end like any other.
    if (this.incoming.inFlightBytes > 0) this.outgoing.send('reset', 0)
    else if (!this.#finSent) this.outgoing.send('fin', 0)
    this.#finSent = true
    this.host.schedule(0, 'close', () => this.#close())
  }

  /** The stream broke. */
  fail(error: Error): void {
    if (this.state === 'destroyed' || this.state === 'closed') return
    this.#close(error)
  }

  /** The process is gone. What it had sent may still arrive, or be lost with the machine. */
  crash(): void {
    if (this.state !== 'closed') {
      this.state = 'closed'
      this.outgoing.bufferedBytes = 0
      if (this.connection.lossy()) this.outgoing.dropPackets()
      this.outgoing.send('reset', 0)
    }
    this.connection.closed()
  }

  /** Sends what is buffered, as far as the window allows. */
  flush(): void {
    this.#flushDue = false
    if (this.state === 'destroyed' || this.state === 'closed') return
    this.outgoing.sendBuffered()
    if (this.outgoing.bufferedBytes > 0) return
    if (this.state === 'ending' && !this.#finSent) {
      this.#finSent = true
      this.outgoing.send('fin', 0)
    }
    if (this.#drainDue) {
      this.#drainDue = false
      this.onDrain()
    }
    this.#closeWhenBothEnded()
  }

  /** Delivers what has arrived, one chunk a step. */
  read(): void {
    const { incoming } = this
    if (this.state === 'open' && this.#paused) return
    if (incoming.arrivedBytes > 0) {
      const chunk = incoming.read(Math.min(incoming.arrivedBytes, chunkBytesMax))
      this.#readWaiting()
      if (this.state === 'open') {
        this.onData(chunk)
        // It was lent: whoever goes on reading it is found out.
        chunk.fill(0xa5)
      }
      // Nobody is there any more.
      else if (this.state !== 'ending') this.outgoing.send('reset', 0)
    } else if (incoming.finArrived && !this.#peerEnded) {
      this.#peerEnded = true
      this.end()
      this.#closeWhenBothEnded()
    }
  }

  #close(error?: Error): void {
    this.state = 'closed'
    this.outgoing.bufferedBytes = 0
    this.connection.closed()
    this.onClose(error)
  }

  #closeWhenBothEnded(): void {
    if (this.state === 'ending' && this.#finSent && this.#peerEnded) this.#close()
  }

  #flushSoon(): void {
    if (this.#flushDue) return
    this.#flushDue = true
    this.host.schedule(0, 'flush', () => this.flush())
  }

  #readWaiting(): void {
    const { incoming } = this
    if (this.#readDue || (incoming.arrivedBytes === 0 && !incoming.finArrived)) return
    this.#readDue = true
    this.host.schedule(0, 'read', () => {
      this.#readDue = false
      this.read()
    })
  }
}

function reset(): Error {
  return Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
}

function addressText(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** What a dead process waits for. */
function never<T>(): Promise<T> {
  return new Promise<T>(nothing)
}

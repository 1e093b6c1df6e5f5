/**
 * A server whose every answer a test decides. It speaks the real protocol on the simulated network through the real
 * connection and codec, and keeps no messages: what is not told otherwise it answers as a broker without trouble.
 */
import type { Socket } from '../../src/env.ts'
import type { MqErrorCode } from '../../src/errors.ts'
import { errorTable } from '../../src/errors.ts'
import type { MqClient } from '../../src/client/client.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { ConnectOptions } from '../../src/client/options.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import { limits } from '../../src/types.ts'
import { BatchBuilder, crcOf, messageBody, readBatch, type MessageAttributes } from '../../src/wire/batch.ts'
import { decodeClientFrame, encodeServerFrame, lookupToResult } from '../../src/wire/codec.ts'
import { Connection } from '../../src/wire/connection.ts'
import type { ClientFrame, Delivery, ServerFrame, WireLimits } from '../../src/wire/messages.ts'

export type Frame<Op extends ClientFrame['op']> = Extract<ClientFrame, { op: Op }>
type AnyRequest = Extract<ClientFrame, { id: number }>
type Handlers = {
  [Op in ClientFrame['op']]?: (frame: Frame<Op>, line: Line) => void
}

export const wireLimits: WireLimits = {
  frameBytesMax: limits.frameBytesMax,
  batchBytesMax: limits.batchBytesMax,
  batchMessagesMax: limits.batchMessagesMax,
  receiveMessagesMax: limits.receiveMessagesMax,
  receiveBytesMax: limits.receiveBytesMax,
  unansweredMax: limits.unansweredMax,
  heartbeatMs: 10_000,
}

export interface ScriptedOptions {
  readonly name?: string
  readonly port?: number
  readonly clusterId?: string
  /** Of every queue. */
  readonly partitions?: number
  readonly maxMessageBytes?: number
  readonly limits?: Partial<WireLimits>
}

export class ScriptedServer {
  /** What a test answers by itself: it gets the frame instead of the server. */
  on: Handlers = {}
  /** Every frame but handshakes, heartbeats and lookups: on which connection, and what it says. */
  readonly heard: string[] = []
  /** The same, as frames. */
  readonly frames: AnyRequest[] = []
  readonly lines: Line[] = []
  /** Messages that the server has taken, by partition. */
  readonly taken: string[][] = []
  readonly process: SimProcess
  readonly options: ScriptedOptions
  logEnd = 0

  constructor(process: SimProcess, options: ScriptedOptions) {
    this.process = process
    this.options = options
  }

  get address(): string {
    return `${this.process.name}:${this.options.port ?? 7650}`
  }

  async listen(): Promise<void> {
    const address = { host: this.process.name, port: this.options.port ?? 7650 }
    await this.process.env.network.listen(address, (socket) => {
      this.lines.push(new Line(this, socket, this.lines.length + 1))
    })
  }

  /** The newest connection. */
  get line(): Line {
    return this.lines.at(-1)!
  }

  /** Requests of one kind, in the order of their coming. */
  all<Op extends AnyRequest['op']>(op: Op): Frame<Op>[] {
    return this.frames.filter((frame) => frame.op === op) as Frame<Op>[]
  }
}

/** One connection, at the server's end. */
export class Line {
  readonly number: number
  readonly #server: ScriptedServer
  readonly #socket: Socket
  readonly #connection: Connection

  constructor(server: ScriptedServer, socket: Socket, number: number) {
    this.#server = server
    this.#socket = socket
    this.number = number
    this.#connection = new Connection(socket, {
      clock: server.process.env.clock,
      role: 'server',
      heartbeatMs: server.options.limits?.heartbeatMs ?? wireLimits.heartbeatMs,
      frameBytesMax: limits.handshakeBytesMax,
      // The bytes are the connection's, and what a test keeps must stay.
      onFrame: (bytes) => this.#onFrame(decodeClientFrame(bytes.slice())),
      onClose: () => undefined,
    })
  }

  send(frame: ServerFrame): void {
    this.#connection.send(encodeServerFrame(frame))
  }

  sendBytes(bytes: Uint8Array): void {
    this.#socket.write(bytes)
  }

  refuse(id: number, code: MqErrorCode, details: Record<string, unknown> | null = null): void {
    this.send({
      op: 'error',
      id,
      code,
      message: `says ${code}`,
      retryable: errorTable[code].retryable,
      details,
    })
  }

  welcome(over: { version?: number; clusterId?: string } = {}): void {
    this.#connection.handshakeDone({ frameBytesMax: limits.frameBytesMax })
    this.send({
      op: 'helloOk',
      version: over.version ?? 1,
      clusterId: over.clusterId ?? this.#server.options.clusterId ?? 'cluster',
      nodeId: this.#server.process.name,
      limits: { ...wireLimits, ...this.#server.options.limits },
      features: {},
    })
  }

  /** Reads nothing until `resume`. */
  pause(): void {
    this.#connection.pause()
  }

  resume(): void {
    this.#connection.resume()
  }

  /** Ends the stream in order, after what was said. */
  end(): void {
    this.#connection.end()
  }

  /** As a broker without trouble answers. */
  answer(frame: AnyRequest): void {
    const { id } = frame
    switch (frame.op) {
      case 'lookup':
        return this.send({ op: 'ok', id, result: this.#lookup(frame.name) })
      case 'send': {
        const partition = (this.#server.taken[frame.partition] ??= [])
        const base = partition.length
        partition.push(...bodiesOf(frame))
        return this.send({ op: 'sent', id, epoch: 1, base, duplicate: false, confirm: 0, storage: 0 })
      }
      case 'settle':
      case 'extend':
        return this.send({ op: 'settled', id, refused: null })
      case 'receive':
        return this.send({ op: 'delivered', id, deliveries: [] })
      case 'cancel':
      case 'credit':
      case 'subscribe':
        return
      case 'unsubscribe':
        return this.send({ op: 'ok', id, result: null })
      case 'listQueues':
      case 'peek':
        return this.send({ op: 'ok', id, result: [] })
      case 'redrive': {
        const result = { messages: 0, skipped: 0, targets: {}, cursor: null }
        return this.send({ op: 'ok', id, result })
      }
      case 'createQueue':
      case 'deleteQueue':
      case 'describeQueue':
      case 'updateQueue':
      case 'purgeQueue':
        return this.send({ op: 'ok', id, result: null })
      case 'unsupported':
      case 'forbidden':
        return this.refuse(id, 'UNSUPPORTED')
    }
  }

  #lookup(name: string): unknown {
    const { partitions = 1, maxMessageBytes = 1 << 20 } = this.#server.options
    const { logEnd } = this.#server
    return lookupToResult({
      queueId: queueIdOf(name),
      name,
      options: { maxMessageBytes },
      partitions: Array.from({ length: partitions }, (_, partition) => ({
        partition,
        address: null,
        epoch: 1,
        logEnd,
      })),
    })
  }

  #onFrame(frame: ClientFrame): void {
    if (frame.op === 'heartbeat') return
    if (frame.op !== 'hello') {
      this.#server.frames.push(frame)
      if (frame.op !== 'lookup') this.#server.heard.push(`${this.number}: ${said(frame)}`)
    }
    const handler = this.#server.on[frame.op] as ((frame: ClientFrame, line: Line) => void) | undefined
    if (handler !== undefined) handler(frame, this)
    else if (frame.op === 'hello') this.welcome()
    else this.answer(frame)
  }
}

/** A request as a line of a conversation. */
function said(frame: ClientFrame): string {
  switch (frame.op) {
    case 'send':
      return `send ${frame.partition} #${frame.sequence} ${bodiesOf(frame).join(' ')}`
    case 'settle': {
      const { action, options } = frame
      const what = ['settle', 'nack', 'release', 'dead-letter'][action]!
      const how = options === null ? '' : ` ${JSON.stringify(options)}`
      return `${what} ${frame.partition} #${frame.sequence} ${rangesOf(frame)}${how}`
    }
    case 'extend':
      return `extend ${frame.partition} by ${frame.extendMs} ${rangesOf(frame)}`
    case 'receive':
      return `receive ${frame.max}, wait ${frame.waitMs}`
    case 'subscribe':
      return `subscribe ${frame.messages}`
    case 'credit':
      return `credit ${frame.messages}`
    case 'lookup':
    case 'createQueue':
    case 'deleteQueue':
    case 'describeQueue':
    case 'updateQueue':
    case 'purgeQueue':
    case 'peek':
    case 'redrive':
      return `${frame.op} ${frame.name}`
    case 'hello':
    case 'heartbeat':
    case 'cancel':
    case 'unsubscribe':
    case 'listQueues':
    case 'unsupported':
    case 'forbidden':
      return frame.op
  }
}

/** `lease:first-last` of each range. */
function rangesOf({ items }: Frame<'settle'> | Frame<'extend'>): string {
  return items
    .map(({ lease, offset, count }) => `${lease}:${offset}${count > 1 ? `-${offset + count - 1}` : ''}`)
    .join(' ')
}

/** Bodies of a batch as text. */
export function bodiesOf(frame: Frame<'send'>): string[] {
  const view = readBatch(frame.batch)
  return Array.from({ length: view.count }, (_, i) => Buffer.from(messageBody(view, i)).toString())
}

export function queueIdOf(name: string): string {
  return Buffer.from(name.padEnd(16, '.').slice(0, 16)).toString('hex')
}

export interface GivenMessage {
  readonly body: string | Uint8Array
  readonly serializer?: string | null
  readonly attributes?: MessageAttributes
}

/** Messages from offset `base` on, under one lease. */
export function delivery(
  base: number,
  given: readonly (GivenMessage | string)[],
  over: Partial<Delivery> = {},
): Delivery {
  const builder = new BatchBuilder()
  for (const each of given) {
    const { body, serializer = 'text', attributes = null } = typeof each === 'string' ? { body: each } : each
    builder.add(body, serializer, attributes)
  }
  const batch = builder.finish()
  return {
    partition: 0,
    leaseEpoch: 1,
    lease: 1,
    leaseMs: 30_000,
    epoch: 1,
    base,
    sentAtMs: 0,
    deliveryCount: 1,
    crc: crcOf(batch),
    batch,
    ...over,
  }
}

export interface Stage {
  readonly world: SimWorld
  readonly server: ScriptedServer
  readonly mq: MqClient
  /** Runs until nothing but time-outs is left to happen soon. */
  readonly settle: () => Promise<void>
}

export async function startServer(world: SimWorld, options: ScriptedOptions = {}): Promise<ScriptedServer> {
  const server = new ScriptedServer(world.process(options.name ?? 'broker'), options)
  await server.listen()
  return server
}

/** A client that is connected to a scripted server. */
export async function stage(options: ScriptedOptions = {}, connect: ConnectOptions = {}): Promise<Stage> {
  const world = new SimWorld({ seed: 1 })
  const server = await startServer(world, options)
  const mq = await world.complete(connectTo(world, [server], connect))
  return { world, server, mq, settle: () => world.advance(settleMs) }
}

/** More than a round trip and a reconnection take, less than any time-out. */
const settleMs = 500

export function connectTo(
  world: SimWorld,
  servers: readonly ScriptedServer[],
  options: ConnectOptions = {},
): Promise<MqClient> {
  return connectWith(world.process('client').env, {
    servers: servers.map(({ address }) => address),
    ...options,
  })
}

/** How a promise stands; none of its rejections counts as unhandled. */
export function watch<T>(promise: Promise<T>): {
  state: 'pending' | 'resolved' | 'rejected'
  value?: T
  error?: unknown
} {
  const watched: ReturnType<typeof watch<T>> = { state: 'pending' }
  promise.then(
    (value) => Object.assign(watched, { state: 'resolved', value }),
    (error: unknown) => Object.assign(watched, { state: 'rejected', error }),
  )
  return watched
}

/** An error in short: its code, and what it says is known. */
export function verdict(watched: { state: string; error?: unknown }): string {
  if (watched.state !== 'rejected') return watched.state
  const { code, outcome } = watched.error as { code?: string; outcome?: string }
  return `${code} ${outcome}`
}

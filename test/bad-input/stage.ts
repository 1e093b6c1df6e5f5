/**
 * A real broker, a peer that writes whatever bytes it likes, and a client that behaves. After each test the client
 * must still be served, a new one too, and the logs must hold what they held before: whatever the peer did, it did
 * to itself.
 */
import { join } from 'node:path'
import type { Test } from 'tap'
import { startBroker, type Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import type { MqClient } from '../../src/client/client.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { ClientEnv, Socket } from '../../src/env.ts'
import { errorTable, isErrorCode } from '../../src/errors.ts'
import type { FaultOptions } from '../../src/sim/faults.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { systemClock, systemRandom } from '../../src/system.ts'
import type { QueueOptions } from '../../src/types.ts'
import { BatchBuilder, crcOf, type MessageAttributes } from '../../src/wire/batch.ts'
import { encodeFrame } from '../../src/wire/frame.ts'
import { op, preface } from '../../src/wire/messages.ts'
import { socketNetwork } from '../../src/wire/sockets.ts'
import { plainDecode } from '../wire/arbitrary.ts'

/** A frame as anybody's msgpack reads it: operation, request id, fields. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Frame = any[]

/** Lets time pass until the promise has settled: by waiting, or by moving the simulated clock. */
type Drive = <T>(promise: Promise<T>) => Promise<T>

const heartbeat = Buffer.from(encodeFrame([op.heartbeat, 0]))

/** One connection that nobody keeps from writing nonsense. */
export class Peer {
  readonly clientId = Buffer.from(systemRandom.bytes(16))
  /** What came, but for heartbeats and what was taken by `next` and `answer`. */
  readonly frames: Frame[] = []
  ended = false
  error: Error | undefined
  readonly #socket: Socket
  readonly #drive: Drive
  #rest = Buffer.alloc(0)
  #waiting: { holds: () => boolean; resolve: () => void }[] = []
  #nextId = 1

  constructor(socket: Socket, drive: Drive) {
    this.#socket = socket
    this.#drive = drive
    socket.onData = (bytes) => this.#onData(bytes)
    socket.onClose = (error) => {
      this.ended = true
      this.error = error
      this.#changed()
    }
  }

  /** What the system has not taken of what was written. */
  get unsentBytes(): number {
    return this.#socket.bufferedBytes
  }

  write(...chunks: (Uint8Array | string)[]): void {
    for (const chunk of chunks) this.#socket.write(Buffer.from(chunk as Uint8Array))
  }

  send(...frames: Frame[]): void {
    this.#socket.write(Buffer.concat(frames.map(encodeFrame)))
  }

  /** The handshake of a client that behaves. */
  async shakeHands(fields: Partial<Record<'session' | 'clientId', unknown>> = {}): Promise<this> {
    this.write(preface)
    this.send(hello({ clientId: this.clientId, ...fields }))
    const answer = await this.next()
    if (answer[0] !== op.helloOk) throw new Error(`no HELLO_OK but ${JSON.stringify(answer)}`)
    return this
  }

  /** Sends a request under an id of its own, and gives its answer. */
  async ask(nr: number, ...fields: unknown[]): Promise<Frame> {
    const id = this.#nextId++
    this.send([nr, id, ...fields])
    return this.answer(id)
  }

  /** The answer to request `id`. */
  async answer(id: number): Promise<Frame> {
    const find = () => this.frames.findIndex((frame) => frame[1] === id)
    await this.until(() => this.ended || find() >= 0)
    const at = find()
    if (at < 0) throw new Error(`the connection ended without an answer: ${JSON.stringify(this.frames)}`)
    return this.frames.splice(at, 1)[0]!
  }

  /** The next frame, whatever it is about. */
  async next(): Promise<Frame> {
    await this.until(() => this.ended || this.frames.length > 0)
    const frame = this.frames.shift()
    if (frame === undefined) throw new Error(`the connection ended without a word`)
    return frame
  }

  /** Resolves once the broker has ended the connection. */
  end(): Promise<void> {
    return this.until(() => this.ended)
  }

  until(holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve()
    return this.#drive(new Promise<void>((resolve) => this.#waiting.push({ holds, resolve })))
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  /** Ends the stream in order: FIN. */
  finish(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #onData(bytes: Uint8Array): void {
    let rest = Buffer.concat([this.#rest, bytes])
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
      const end = 4 + rest.readUInt32BE(0)
      if (!rest.subarray(0, end).equals(heartbeat)) this.frames.push(plainDecode(rest.subarray(4, end)))
      rest = rest.subarray(end)
    }
    this.#rest = rest
    this.#changed()
  }

  #changed(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const it of waiting) {
      if (it.holds()) it.resolve()
      else this.#waiting.push(it)
    }
  }
}

export interface KnownQueue {
  readonly name: string
  readonly id: Buffer
  /** Where its only partition's log ended when it was looked up. */
  readonly opening: number
}

export class Stage {
  readonly broker: Broker
  /** Only of a stage whose time is simulated. */
  readonly world: SimWorld | undefined
  /** The broker's, if it is simulated. */
  readonly process: SimProcess | undefined
  readonly #env: ClientEnv
  readonly #drive: Drive
  #witness: MqClient | undefined
  #baseline = ''
  #queues = 0
  #peers: Peer[] = []

  constructor(broker: Broker, env: ClientEnv, world?: SimWorld, process?: SimProcess) {
    this.broker = broker
    this.world = world
    this.process = process
    this.#env = env
    this.#drive = world === undefined ? (promise) => promise : (promise) => world.complete(promise)
  }

  /** A connection of which nothing was said yet. */
  async connect(): Promise<Peer> {
    const { host, port } = this.broker.address
    const socket = this.#env.network.connect({ host, port }, { timeoutMs: 5000 })
    // Bytes may come as soon as the promise has resolved: the owner is set up in its callback.
    const peer = await this.#drive(socket.then((it) => new Peer(it, this.#drive)))
    this.#peers = this.#peers.filter(({ ended }) => !ended)
    this.#peers.push(peer)
    return peer
  }

  /** A connection behind its handshake. */
  async peer(): Promise<Peer> {
    return (await this.connect()).shakeHands()
  }

  /** A client that behaves. */
  client(): Promise<MqClient> {
    const { host, port } = this.broker.address
    return this.#drive(connectWith(this.#env, { servers: [`${host}:${port}`] }))
  }

  /** A new queue, as a well-behaved client makes it; from here on nothing more may be stored. */
  async queue(options: QueueOptions = {}, name = `q${++this.#queues}`): Promise<KnownQueue> {
    await this.#drive(this.#witness!.createQueue(name, options))
    this.keep()
    return this.known(name)
  }

  known(name: string): KnownQueue {
    const queue = this.broker.internals.queues.get(name)!
    return { name, id: Buffer.from(queue.id, 'hex'), opening: queue.partitions[0]!.leader.state.logEnd }
  }

  async sent(queue: KnownQueue, ...bodies: string[]): Promise<void> {
    const sends = bodies.map((body) => this.#witness!.send(queue.name, body))
    await this.#drive(Promise.all(sends))
    this.keep()
  }

  /** What is stored now is meant to be. */
  keep(): void {
    this.#baseline = this.stored()
  }

  /** Every queue, and how far each of its logs goes. */
  stored(): string {
    const queues = [...this.broker.internals.queues.values()]
    return JSON.stringify(queues.map((it) => [it.name, it.partitions.map((p) => p.leader.state.logEnd)]))
  }

  async begin(): Promise<void> {
    this.#witness ??= await this.client()
    await this.#drive(this.#witness.createQueue('witness'))
    this.keep()
  }

  /** The two promises of the opening comment. */
  async check(t: Test): Promise<void> {
    t.equal(this.stored(), this.#baseline, 'nothing was stored')
    for (const peer of this.#peers.splice(0)) peer.destroy()
    const newcomer = await this.client()
    const works = async () => {
      await this.#witness!.send('witness', 'still here?')
      const [message] = await newcomer.receive('witness', { waitMs: 20_000 })
      await message?.ack()
      return message?.text()
    }
    t.equal(await this.#drive(works()), 'still here?', 'others are served')
    await this.#drive(newcomer.close())
    for (const { partitions } of this.broker.internals.queues.values()) {
      for (const { leader } of partitions) leader.checkInvariants()
    }
  }

  async close(): Promise<void> {
    if (this.process?.alive === false) return
    await this.#drive(this.#witness?.close() ?? Promise.resolve())
    await this.#drive(this.broker.stop())
  }
}

/** On real sockets and a real disk. */
export async function realStage(t: Test, options: Partial<BrokerOptions> = {}): Promise<Stage> {
  const env = { clock: systemClock, random: systemRandom, network: socketNetwork }
  const store = openLmdbStore(join(t.testdir(), 'data'))
  const broker = await startBroker({ ...env, store }, { listen: { host: '127.0.0.1', port: 0 }, ...options })
  const stage = new Stage(broker, env)
  t.teardown(() => stage.close())
  await stage.begin()
  return stage
}

/** In a simulated world: for what is about time. */
export async function simulatedStage(
  t: Test,
  options: Partial<BrokerOptions> = {},
  faults: Partial<FaultOptions> = {},
): Promise<Stage> {
  const world = new SimWorld({ seed: 1, faults })
  const listen = { host: 'broker', port: 7650 }
  const process = world.process('broker')
  const broker = await world.complete(startBroker(process.env, { listen, ...options }))
  const stage = new Stage(broker, world.process('client').env, world, process)
  t.teardown(() => stage.close())
  await stage.begin()
  return stage
}

/** Tests of one stage, one after the other; each ends with the check that nobody else felt anything. */
export function rowsOf(t: Test, stage: Stage) {
  return (name: string, body: (t: Test) => Promise<void>) =>
    t.test(name, async (t) => {
      stage.keep()
      await body(t)
      await stage.check(t)
    })
}

// ---------------------------------------------------------------------------------------------------------------
// What goes over the wire

export function hello(fields: Partial<Record<string, unknown>> = {}): Frame {
  const all = {
    minVersion: 1,
    maxVersion: 1,
    clientId: Buffer.alloc(16, 7),
    session: 1,
    name: 'peer',
    credentials: null,
    features: null,
    ...fields,
  }
  return [op.hello, 0, ...Object.values(all)]
}

export function batchOf(bodies: readonly (string | Uint8Array)[], attributes?: MessageAttributes): Buffer {
  const builder = new BatchBuilder()
  for (const body of bodies) builder.add(body, null, attributes ?? null)
  return Buffer.from(builder.finish())
}

export const producerId = Buffer.alloc(16, 9)

/** The fields of a SEND of one batch; what is given replaces what would be right. */
export function sendFields(queue: KnownQueue, fields: Partial<Record<string, unknown>> = {}): unknown[] {
  const batch = (fields.batch ?? batchOf(['body'])) as Buffer
  return Object.values({
    queueId: queue.id,
    partition: 0,
    producerId,
    producerEpoch: 0,
    sequence: 1,
    opening: queue.opening,
    count: 1,
    crc: crcOf(batch),
    batch,
    ...fields,
  })
}

export function receiveFields(queue: KnownQueue, fields: Partial<Record<string, unknown>> = {}): unknown[] {
  return Object.values({
    queueId: queue.id,
    partition: null,
    max: 10,
    maxBytes: 1 << 20,
    waitMs: 0,
    visibilityTimeoutMs: null,
    mode: 0,
    ...fields,
  })
}

export function subscribeFields(queue: KnownQueue, fields: Partial<Record<string, unknown>> = {}): unknown[] {
  return Object.values({
    queueId: queue.id,
    partition: null,
    messages: 10,
    bytes: 1 << 20,
    visibilityTimeoutMs: null,
    mode: 0,
    ...fields,
  })
}

export function settleFields(queue: KnownQueue, fields: Partial<Record<string, unknown>> = {}): unknown[] {
  return Object.values({
    queueId: queue.id,
    partition: 0,
    producerId,
    producerEpoch: 0,
    sequence: 1,
    opening: queue.opening,
    action: 0,
    items: [1, 1, 1, 1],
    options: null,
    outputs: null,
    ...fields,
  })
}

export interface Refusal {
  readonly code: string
  /** The field or column that it is about. */
  readonly field?: string | undefined
  readonly details?: Record<string, unknown> | undefined
  readonly message?: RegExp | undefined
}

/** An ERROR as people are promised it: a code of the list, whether to retry, and a sentence. */
export function assertRefused(t: Test, frame: Frame, expected: Refusal, name = expected.code): void {
  const [nr, , code, message, retryable, details] = frame
  t.equal(nr, op.error, `${name}: an ERROR`)
  t.equal(code, expected.code, `${name}: ${message}`)
  if (typeof code !== 'string' || !isErrorCode(code)) return
  t.equal(retryable, errorTable[code].retryable, `${name}: whether to retry`)
  t.match(message, expected.message ?? /\w+ \w+/, `${name}: a sentence`)
  t.notMatch(message, /\n|\bat \S+:\d+/, `${name}: one line, nothing of our insides`)
  if (expected.field !== undefined) t.equal(details?.field, expected.field, `${name}: the field`)
  if (expected.details !== undefined) t.match(details, expected.details, `${name}: details`)
}

/** The connection itself was refused: ERROR 0, then its end. */
export async function assertCutOff(t: Test, peer: Peer, expected: Refusal, name?: string): Promise<void> {
  const last = await peer.next()
  t.equal(last[1], 0, `${name ?? expected.code}: about the connection`)
  assertRefused(t, last, expected, name)
  await peer.end()
  t.strictSame(peer.frames, [], 'its last word')
}

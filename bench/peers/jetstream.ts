/**
 * NATS JetStream: a stream on files that work takes from, a pull consumer, acks of each message. Acks are not
 * confirmed, unless one waits for each: they count when they are sent.
 *
 * nats-server syncs each write since 2.10, if its configuration says `sync_interval: always`. An older one cannot be
 * told: then its folder has the file system's attribute S, by which the kernel does the same for each write.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadClient } from './clients.ts'
import type {
  Adapter,
  DurabilityClass,
  Endpoint,
  Found,
  Peer,
  Receiver,
  RunningServer,
  Sink,
} from './peer.ts'
import { askVersion, findProgram, freePort, ServerProcess } from './server-process.ts'

/** Of the clients, what is called here. */
interface Transport {
  readonly connect: (options: { servers: string }) => Promise<Connection>
  readonly createInbox: () => string
}
interface Connection {
  publish(subject: string, body: Uint8Array, options: { reply: string }): void
  subscribe(subject: string, options: { callback: (error: Error | null, message: Message) => void }): unknown
  flush(): Promise<void>
  close(): Promise<void>
}
interface Message {
  readonly subject: string
  readonly data: Uint8Array
  string(): string
}
interface Module {
  jetstream(connection: Connection): JetStream
  jetstreamManager(connection: Connection): Promise<Manager>
}
interface JetStream {
  publish(subject: string, body: Uint8Array): Promise<unknown>
  readonly consumers: { get(stream: string, consumer: string): Promise<Consumer> }
}
interface Manager {
  readonly streams: { add(options: object): Promise<unknown> }
  readonly consumers: { add(stream: string, options: object): Promise<unknown> }
}
interface Consumer {
  consume(options: { max_messages: number; callback: (message: Delivery) => void }): Promise<Consumption>
}
interface Consumption {
  close(): Promise<unknown>
}
interface Delivery {
  readonly data: Uint8Array
  ack(): void
}

const program = findProgram('nats-server')
const chattr = findProgram('chattr')
const pullMax = 2000
const unackedMax = 20_000
const consumerName = 'bench'

function findNats(): Found {
  return askVersion(program, 'nats-server', ['--version'], /v([\d.]+)/)
}

function canSyncAlways(): boolean {
  const found = findNats()
  const [major, minor] = 'version' in found ? found.version.split('.').map(Number) : []
  return major! > 2 || (major === 2 && minor! >= 10)
}

async function startNats(dir: string, durability: DurabilityClass): Promise<RunningServer> {
  const port = await freePort()
  const store = join(dir, 'store')
  mkdirSync(store)
  const syncs = durability === 'F'
  if (syncs && !canSyncAlways()) syncEachWriteBelow(store)
  const config = join(dir, 'nats.conf')
  const sync = syncs && canSyncAlways() ? ', sync_interval: always' : ''
  writeFileSync(
    config,
    [
      `listen: "127.0.0.1:${port}"`,
      `jetstream { store_dir: "${store}", max_file_store: 8G, max_memory_store: 1G${sync} }`,
    ].join('\n'),
  )
  return ServerProcess.start({
    name: 'nats-server',
    file: program!,
    args: ['--config', config],
    dir,
    endpoint: { port },
    isReady: async () => {
      const connection = await open({ port })
      await loadClient<Module>('@nats-io/jetstream').jetstreamManager(connection)
      await connection.close()
      return true
    },
    stopSignal: 'SIGKILL',
  })
}

/** Files and folders made in it later have the attribute, too. */
function syncEachWriteBelow(folder: string): void {
  const { status, stderr } = spawnSync(chattr ?? 'chattr', ['+S', folder], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`this nats-server syncs only by chattr +S, which failed: ${stderr ?? ''}`)
}

function open(endpoint: Endpoint): Promise<Connection> {
  const { connect } = loadClient<Transport>('@nats-io/transport-node')
  return connect({ servers: `127.0.0.1:${endpoint['port']}` })
}

async function openQueue(endpoint: Endpoint, queue: string): Promise<Connection> {
  const connection = await open(endpoint)
  const { streams, consumers } = await loadClient<Module>('@nats-io/jetstream').jetstreamManager(connection)
  await streams.add({ name: queue, subjects: [queue], retention: 'workqueue', storage: 'file' })
  await consumers.add(queue, {
    durable_name: consumerName,
    ack_policy: 'explicit',
    max_ack_pending: unackedMax,
  })
  return connection
}

/**
 * Publishes of many with one promise. `publish` of the client makes a request of each, with a timer and headers; this
 * is the same message on the wire, whose confirms are counted.
 */
class Batches {
  readonly #connection: Connection
  readonly #inbox: string
  readonly #waiting = new Map<string, { left: number; resolve: () => void; reject: (error: Error) => void }>()
  #lastId = 0

  constructor(connection: Connection) {
    this.#connection = connection
    this.#inbox = loadClient<Transport>('@nats-io/transport-node').createInbox()
    connection.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => this.#confirmed(error, message),
    })
  }

  publish(subject: string, bodies: readonly Buffer[]): Promise<void> {
    return new Promise((resolve, reject) => {
      const reply = `${this.#inbox}.${++this.#lastId}`
      this.#waiting.set(reply, { left: bodies.length, resolve, reject })
      for (const body of bodies) this.#connection.publish(subject, body, { reply })
    })
  }

  #confirmed(error: Error | null, message: Message): void {
    const batch = this.#waiting.get(message.subject)
    if (batch === undefined) return
    const text = message.string()
    if (error !== null || !text.includes('"stream"')) batch.reject(error ?? new Error(`not stored: ${text}`))
    else if (--batch.left === 0) batch.resolve()
    else return
    this.#waiting.delete(message.subject)
  }
}

class JetStreamReceiver implements Receiver {
  readonly #connection: Connection
  readonly #queue: string
  #consumption: Consumption | null = null
  #ended: () => void = () => undefined

  constructor(connection: Connection, queue: string) {
    this.#connection = connection
    this.#queue = queue
  }

  async run(sink: Sink): Promise<void> {
    const { consumers } = loadClient<Module>('@nats-io/jetstream').jetstream(this.#connection)
    const consumer = await consumers.get(this.#queue, consumerName)
    this.#consumption = await consumer.consume({
      max_messages: pullMax,
      callback: (message) => {
        sink.received(message.data)
        message.ack()
        sink.acked(1)
      },
    })
    await new Promise<void>((resolve) => (this.#ended = resolve))
  }

  async stop(): Promise<void> {
    await this.#consumption?.close()
    await this.#connection.flush()
    this.#ended()
  }

  close(): Promise<void> {
    return this.#connection.close()
  }
}

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const connection = await openQueue(endpoint, queue)
    const js = loadClient<Module>('@nats-io/jetstream').jetstream(connection)
    const batches = new Batches(connection)
    return {
      send: (body) => js.publish(queue, body),
      sendBatch: (bodies) => batches.publish(queue, bodies),
      close: () => connection.close(),
    }
  },
  openReceiver: async (endpoint, queue) => new JetStreamReceiver(await openQueue(endpoint, queue), queue),
}

export const jetstream: Peer = {
  name: 'jetstream',
  title: 'NATS JetStream',
  clients: ['@nats-io/jetstream', '@nats-io/transport-node'],
  durability: {
    F: canSyncAlways() ? 'sync_interval: always' : 'each write synced by the file system (chattr +S)',
    D: 'written, synced every two minutes',
  },
  batches: [null, 100],
  find: findNats,
  start: startNats,
  adapter,
}

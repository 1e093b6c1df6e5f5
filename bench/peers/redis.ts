/**
 * Redis Streams: XADD, a consumer group, XACK. Messages are not deleted once they are acked, which a queue would have
 * to do: that is left out in Redis's favour.
 *
 * The client is `redis` (node-redis): in a brief trial its pipelines sent 1.4 (1 KiB) to 1.9 (100 B) times what those of
 * ioredis did, at half the CPU.
 */
import { loadClient } from './clients.ts'
import type { Adapter, Endpoint, Peer, Receiver, Sender, Sink } from './peer.ts'
import { findRedis, redisDurability, startRedis } from './redis-server.ts'

/** Of node-redis, what is called here. */
interface NodeRedis {
  readonly createClient: (options: { url: string; RESP: 2 }) => Client
  readonly RESP_TYPES: { readonly BLOB_STRING: number }
}
type Argument = string | Buffer
interface Client {
  connect(): Promise<unknown>
  on(event: 'error', listener: (error: unknown) => void): unknown
  sendCommand(args: readonly Argument[]): Promise<unknown>
  multi(): Pipeline
  withTypeMapping(mapping: Record<number, unknown>): Client
  close(): Promise<unknown>
  destroy(): void
}
interface Pipeline {
  addCommand(args: readonly Argument[]): Pipeline
  execAsPipeline(): Promise<unknown[]>
}

/** One connection is one thread's worth of work to Redis's I/O, and several overlap what the client does between. */
const senders = 4
const receivers = 4
const receiveMax = 500
/** Short, because the end of a run waits for it. */
const blockMs = 200
const group = 'bench'

async function open(endpoint: Endpoint): Promise<Client> {
  const { createClient, RESP_TYPES } = loadClient<NodeRedis>('redis')
  const client = createClient({ url: `redis://127.0.0.1:${endpoint['port']}`, RESP: 2 })
  // Each failed command rejects as well.
  client.on('error', () => undefined)
  await client.connect()
  return client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
}

function openAll(endpoint: Endpoint, count: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: count }, () => open(endpoint)))
}

async function createQueue(client: Client, queue: string): Promise<void> {
  const created = client.sendCommand(['XGROUP', 'CREATE', queue, group, '0', 'MKSTREAM'])
  await created.catch((error: unknown) => {
    if (!(error instanceof Error && error.message.startsWith('BUSYGROUP'))) throw error
  })
}

class RedisSender implements Sender {
  readonly #clients: readonly Client[]
  readonly #queue: string
  #next = 0

  constructor(clients: readonly Client[], queue: string) {
    this.#clients = clients
    this.#queue = queue
  }

  send(body: Buffer): Promise<unknown> {
    return this.#turn().sendCommand(['XADD', this.#queue, '*', 'b', body])
  }

  async sendBatch(bodies: readonly Buffer[]): Promise<void> {
    const pipeline = this.#turn().multi()
    for (const body of bodies) pipeline.addCommand(['XADD', this.#queue, '*', 'b', body])
    // It rejects when one of them failed.
    await pipeline.execAsPipeline()
  }

  #turn(): Client {
    return this.#clients[this.#next++ % this.#clients.length]!
  }

  close(): Promise<unknown> {
    return Promise.all(this.#clients.map((client) => client.close()))
  }
}

/** What XREADGROUP answers: streams, of each its entries, of each its fields and values. */
type Read = readonly [name: Buffer, entries: readonly [id: Buffer, fields: readonly Buffer[]][]][] | null

class RedisReceiver implements Receiver {
  readonly #clients: readonly Client[]
  readonly #queue: string
  #isStopping = false

  constructor(clients: readonly Client[], queue: string) {
    this.#clients = clients
    this.#queue = queue
  }

  async run(sink: Sink): Promise<void> {
    await Promise.all(this.#clients.map((client, i) => this.#loop(client, `consumer-${i}`, sink)))
  }

  async #loop(client: Client, name: string, sink: Sink): Promise<void> {
    const queue = this.#queue
    const options = ['COUNT', String(receiveMax), 'BLOCK', String(blockMs), 'STREAMS', queue, '>']
    const read = ['XREADGROUP', 'GROUP', group, name, ...options]
    while (!this.#isStopping) {
      const answer = (await client.sendCommand(read)) as Read
      const entries = answer?.[0]?.[1] ?? []
      if (entries.length === 0) continue
      for (const [, fields] of entries) sink.received(fields[1]!)
      // Behind the acks, on the same connection, goes the next read at once.
      client.sendCommand(['XACK', queue, group, ...entries.map(([id]) => id)]).then(
        (acked) => sink.acked(Number(acked)),
        (error: unknown) => sink.failed(error),
      )
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true
  }

  close(): Promise<unknown> {
    return Promise.all(this.#clients.map((client) => client.close()))
  }
}

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const clients = await openAll(endpoint, senders)
    await createQueue(clients[0]!, queue)
    return new RedisSender(clients, queue)
  },
  async openReceiver(endpoint, queue) {
    const clients = await openAll(endpoint, receivers)
    await createQueue(clients[0]!, queue)
    return new RedisReceiver(clients, queue)
  },
}

export const redis: Peer = {
  name: 'redis',
  title: 'Redis Streams',
  clients: ['redis'],
  durability: redisDurability,
  batches: [100, 250],
  find: findRedis,
  start: startRedis,
  adapter,
}

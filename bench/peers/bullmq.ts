/**
 * BullMQ, on Redis and on PostgreSQL, which its version 6 can use as well. Jobs go when they are done; a worker's
 * `completed` is the ack. Data is JSON: bodies are base64.
 */
import { loadClient } from './clients.ts'
import { fromJson, toJson, type JsonBody } from './json-body.ts'
import type { Adapter, Endpoint, Peer, Receiver } from './peer.ts'
import { findPostgres, postgresDurability, startPostgres } from './postgres-server.ts'
import { findRedis, redisDurability, startRedis } from './redis-server.ts'

/** Of bullmq, what is called here. */
interface Bullmq extends Classes {
  readonly withBackend: (backend: unknown) => Classes
  readonly createPostgresBackend: unknown
}
interface Classes {
  readonly Queue: new (name: string, options: object) => Queue
  readonly Worker: new (name: string, work: (job: Job) => Promise<void>, options: object) => Worker
}
interface Queue {
  add(name: string, data: JsonBody, options: object): Promise<unknown>
  addBulk(jobs: readonly { name: string; data: JsonBody; opts: object }[]): Promise<unknown>
  on(event: 'error', listener: (error: unknown) => void): unknown
  waitUntilReady(): Promise<unknown>
  close(): Promise<void>
}
interface Job {
  readonly data: JsonBody
}
interface Worker {
  run(): Promise<unknown>
  on(event: 'completed', listener: () => void): unknown
  on(event: 'error', listener: (error: unknown) => void): unknown
  close(): Promise<void>
}

/** Jobs of one worker under way at once. */
const concurrency = 200
const jobOptions = { removeOnComplete: true, attempts: 1 }

interface Backend {
  readonly classes: () => Classes
  readonly connection: (endpoint: Endpoint) => object
}

const onRedis: Backend = {
  classes: () => loadClient<Bullmq>('bullmq'),
  connection: ({ port }) => ({ host: '127.0.0.1', port, maxRetriesPerRequest: null }),
}

const onPostgres: Backend = {
  classes: () => {
    const { withBackend, createPostgresBackend } = loadClient<Bullmq>('bullmq')
    return withBackend(createPostgresBackend)
  },
  connection: ({ port, user, database }) => ({
    host: '127.0.0.1',
    port,
    user,
    database,
    max: 10,
    migrate: true,
  }),
}

function adapterOn({ classes, connection }: Backend): Adapter {
  return {
    async openSender(endpoint, name) {
      const { Queue } = classes()
      const queue = new Queue(name, { connection: connection(endpoint) })
      queue.on('error', () => undefined)
      await queue.waitUntilReady()
      return {
        send: (body) => queue.add('job', toJson(body), jobOptions),
        sendBatch: (bodies) =>
          queue.addBulk(bodies.map((body) => ({ name: 'job', data: toJson(body), opts: jobOptions }))),
        close: () => queue.close(),
      }
    },

    async openReceiver(endpoint, name): Promise<Receiver> {
      const { Worker } = classes()
      let worker: Worker | null = null
      return {
        async run(sink) {
          const work = async (job: Job) => sink.received(fromJson(job.data))
          worker = new Worker(name, work, { connection: connection(endpoint), concurrency, autorun: false })
          worker.on('completed', () => sink.acked(1))
          worker.on('error', (error) => sink.failed(error))
          await worker.run()
        },
        stop: async () => worker?.close(),
        close: async () => worker?.close(),
      }
    },
  }
}

export const bullmq: Peer = {
  name: 'bullmq',
  title: 'BullMQ on Redis',
  clients: ['bullmq', 'ioredis'],
  durability: redisDurability,
  batches: [100, 500],
  find: findRedis,
  start: startRedis,
  adapter: adapterOn(onRedis),
}

export const bullmqOnPostgres: Peer = {
  name: 'bullmq-pg',
  title: 'BullMQ on PostgreSQL',
  clients: ['bullmq', 'pg'],
  durability: postgresDurability,
  batches: [100, 500],
  find: findPostgres,
  start: startPostgres,
  adapter: adapterOn(onPostgres),
}

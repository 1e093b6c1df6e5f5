/**
 * pg-boss on PostgreSQL: `insert` of many at once, `fetch` and `complete` of many. Its workers poll, or are notified
 * of single jobs; these loops fetch again at once while there is something, which neither does.
 *
 * Version 12 wants Node 22.12 and says so when it is installed; it runs on 20, and in one brief trial of each it was
 * ahead of version 10, the last one that is meant for 20 (inserts 1.7 times, fetch and complete 1.3 times).
 */
import { setTimeout } from 'node:timers/promises'
import { importClient } from './clients.ts'
import { fromJson, toJson, type JsonBody } from './json-body.ts'
import type { Adapter, Endpoint, Peer, Receiver, Sink } from './peer.ts'
import { findPostgres, postgresDurability, startPostgres } from './postgres-server.ts'

/** Of pg-boss, what is called here. */
interface Module {
  readonly PgBoss: new (options: object) => Boss
}
interface Boss {
  start(): Promise<unknown>
  stop(options: object): Promise<unknown>
  on(event: 'error' | 'warning', listener: (error: unknown) => void): unknown
  createQueue(name: string, options: object): Promise<unknown>
  send(name: string, data: JsonBody): Promise<unknown>
  insert(name: string, jobs: readonly { data: JsonBody }[]): Promise<unknown>
  fetch(name: string, options: { batchSize: number }): Promise<readonly Job[]>
  complete(name: string, ids: readonly string[]): Promise<unknown>
}
interface Job {
  readonly id: string
  readonly data: JsonBody
}

const fetchers = 2
const fetchMax = 500
/** Before a fetch that may find nothing. */
const idleMs = 2

async function open(endpoint: Endpoint, queue: string): Promise<Boss> {
  const { PgBoss } = await importClient<Module>('pg-boss')
  const { port, user, database } = endpoint
  const boss = new PgBoss({
    host: '127.0.0.1',
    port,
    user,
    database,
    max: 10,
    // What it does besides in a long-running service would only disturb a short run.
    supervise: false,
    schedule: false,
  })
  // What was under way rejects as well.
  boss.on('error', () => undefined)
  boss.on('warning', () => undefined)
  await boss.start()
  // A table of its own, as its documentation advises for large queues.
  await boss.createQueue(queue, { partition: true })
  return boss
}

class BossReceiver implements Receiver {
  readonly #boss: Boss
  readonly #queue: string
  #isStopping = false

  constructor(boss: Boss, queue: string) {
    this.#boss = boss
    this.#queue = queue
  }

  async run(sink: Sink): Promise<void> {
    await Promise.all(Array.from({ length: fetchers }, () => this.#loop(sink)))
  }

  async #loop(sink: Sink): Promise<void> {
    while (!this.#isStopping) {
      const jobs = await this.#boss.fetch(this.#queue, { batchSize: fetchMax })
      if (jobs.length === 0) {
        await setTimeout(idleMs)
        continue
      }
      for (const job of jobs) sink.received(fromJson(job.data))
      await this.#boss.complete(
        this.#queue,
        jobs.map(({ id }) => id),
      )
      sink.acked(jobs.length)
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true
  }

  close(): Promise<unknown> {
    return this.#boss.stop({ graceful: false })
  }
}

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const boss = await open(endpoint, queue)
    return {
      send: (body) => boss.send(queue, toJson(body)),
      sendBatch: (bodies) =>
        boss.insert(
          queue,
          bodies.map((body) => ({ data: toJson(body) })),
        ),
      close: () => boss.stop({ graceful: false }),
    }
  },
  openReceiver: async (endpoint, queue) => new BossReceiver(await open(endpoint, queue), queue),
}

export const pgBoss: Peer = {
  name: 'pg-boss',
  title: 'pg-boss on PostgreSQL',
  clients: ['pg-boss'],
  durability: postgresDurability,
  batches: [100, 500],
  find: findPostgres,
  start: startPostgres,
  adapter,
}

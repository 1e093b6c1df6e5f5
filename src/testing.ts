/**
 * A real broker within a test's own process: in memory unless it is given a directory, on the system's clock or on
 * one that the test moves. See docs/testing.md.
 */
import { startBroker, type Broker } from './broker/broker.ts'
import type { MqClient } from './client/client.ts'
import { connectWith } from './client/connect.ts'
import { inProcess } from './client/in-process.ts'
import type { ConnectOptions } from './client/options.ts'
import type { ClientEnv, Env, JournalFile, OpenOptions, Piece, Segment, Store } from './env.ts'
import { MqError } from './errors.ts'
import { MovedClock } from './sim/moved-clock.ts'
import { SimStore } from './sim/store.ts'
import { SimWorld } from './sim/world.ts'
import { systemClock, systemRandom } from './system.ts'
import { formatAddress } from './units.ts'
import { socketNetwork } from './wire/sockets.ts'

export interface TestBrokerOptions {
  /** Where messages and queues are kept; what an earlier broker left there is found again. Default: in memory. */
  dataDir?: string | undefined
  /**
   * `manual` (default): time stands still until `advance` moves it, for the broker and for its clients; no socket is opened.
   * `system`: real time, on a free port of 127.0.0.1 that other processes can use too.
   */
  clock?: 'manual' | 'system' | undefined
}

export interface TestBroker {
  /** For `connect` of `mq-broker`, which also finds a broker with a manual clock, within this process. */
  readonly servers: readonly string[]
  /** A client of this broker, which `close` closes too. Under `manual`, it lives on the moved clock. */
  connect(options?: Omit<ConnectOptions, 'servers'>): Promise<MqClient>
  /**
   * Moves a manual clock on by `ms` milliseconds (0 or more), from one due moment to the next: when it resolves,
   * leases, waits and time-outs that fell due by then have done all they do, and so has code that awaited them, as
   * far as it waits for nothing outside of this process.
   * @throws MqError INVALID_OPTION: `ms` is no such number; UNSUPPORTED: the clock is the system's
   */
  advance(ms: number): Promise<void>
  /**
   * Stops the broker as planned, leases and all, and closes the clients that `connect` made; idempotent. Others find
   * it gone.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** What a stop may wait for, such as a client that does not read, in milliseconds of a manual clock. */
const stopMsMax = 20_000

/**
 * Starts a broker for tests.
 * @throws MqError INVALID_OPTION; with `dataDir`, DATA_DIR_LOCKED, DATA_DIR_NOT_WRITABLE, CORRUPT_LOG, …
 */
export async function startTestBroker(options: TestBrokerOptions = {}): Promise<TestBroker> {
  const { clock = 'manual', dataDir } = options
  if (dataDir !== undefined && (typeof dataDir !== 'string' || dataDir === '')) {
    throw new MqError('INVALID_OPTION', "'dataDir' must be the path of a directory")
  }
  const store = await storeOf(dataDir)
  switch (clock) {
    case 'manual':
      return startManual(store)
    case 'system':
      return startOnSystemClock(store)
    default:
      throw new MqError('INVALID_OPTION', `'clock' must be 'manual' or 'system', not '${String(clock)}'`)
  }
}

/** Loaded only when it is wanted: memory needs no native code. */
async function storeOf(dataDir: string | undefined): Promise<Store> {
  if (dataDir === undefined) return new SimStore()
  const { openLmdbStore } = await import('./storage/lmdb.ts')
  return openLmdbStore(dataDir)
}

async function startOnSystemClock(store: Store): Promise<TestBroker> {
  const env: Env = { clock: systemClock, random: systemRandom, network: socketNetwork, store }
  const broker = await startBroker(env, { listen: { host: '127.0.0.1', port: 0 } })
  const servers = [formatAddress(broker.address)]
  const clients = new Clients()
  let stopped: Promise<void> | null = null
  const close = (): Promise<void> => {
    stopped ??= broker.stop().then(() => clients.close())
    return stopped
  }
  return {
    servers,
    connect: (options = {}) => clients.add(connectWith(env, { ...options, servers })),
    advance: () =>
      Promise.reject(new MqError('UNSUPPORTED', "the clock is the system's: it moves by itself")),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** The clients of a test broker, which end with it: one that looks for its broker would keep the process. */
class Clients {
  readonly #open = new Set<MqClient>()

  async add(connecting: Promise<MqClient>): Promise<MqClient> {
    const client = await connecting
    this.#open.add(client)
    client.on('close', () => this.#open.delete(client))
    return client
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open].map((client) => client.close()))
  }
}

/** Each has a name of its own, and names that nothing outside can have: `.invalid` is nobody's. */
let brokers = 0

async function startManual(store: Store): Promise<TestBroker> {
  const name = `test-broker-${++brokers}.invalid`
  const world = new SimWorld({ seed: brokers, startMs: systemClock.nowMs() })
  const moved = new MovedClock(world)
  // Ids must differ from those in a directory that was written before, whatever the seed was.
  const envOf = (process: string): ClientEnv => ({ ...world.process(process).env, random: systemRandom })
  const disk = store instanceof SimStore ? store : new TrackedStore(store, moved)
  const listen = { host: name, port: 7650 }
  const broker = await startBroker({ ...envOf(name), store: disk }, { listen })

  let clientsMade = 0
  const clients = new Clients()
  const clientEnv = (): ClientEnv => envOf(`client ${++clientsMade} of ${name}`)
  const servers = [formatAddress(listen)]
  inProcess.add(servers[0]!, clientEnv)
  let stopped: Promise<void> | null = null
  const close = (): Promise<void> => {
    stopped ??= stop(broker, moved)
      .then(() => clients.close())
      .finally(() => inProcess.remove(servers[0]!))
    return stopped
  }
  return {
    servers,
    connect: (options = {}) => clients.add(connectWith(clientEnv(), { ...options, servers })),
    async advance(ms) {
      if (!Number.isFinite(ms) || ms < 0) {
        throw new MqError('INVALID_OPTION', `'ms' must be a number of milliseconds from 0, not ${ms}`)
      }
      await moved.advance(ms)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function stop(broker: Broker, moved: MovedClock): Promise<void> {
  let isOver = false
  const stopping = broker.stop().finally(() => (isOver = true))
  await moved.advance(0)
  // It waits for a client that does not answer: that has its time.
  if (!isOver) await moved.advance(stopMsMax)
  await stopping
}

/** A real store, for whose operations a moved clock waits. */
class TrackedStore implements Store {
  readonly #store: Store
  readonly #moved: MovedClock

  constructor(store: Store, moved: MovedClock) {
    this.#store = store
    this.#moved = moved
  }

  lock(): Promise<void> {
    return this.#moved.track(this.#store.lock())
  }

  list(): Promise<string[]> {
    return this.#moved.track(this.#store.list())
  }

  async open(name: string, options: OpenOptions): Promise<Segment> {
    return tracked(await this.#moved.track(this.#store.open(name, options)), this.#moved)
  }

  remove(name: string): Promise<void> {
    return this.#moved.track(this.#store.remove(name))
  }

  reserve(bytes: number): Promise<boolean> {
    return this.#moved.track(this.#store.reserve(bytes))
  }

  release(): Promise<void> {
    return this.#moved.track(this.#store.release())
  }

  async journal(initial: Uint8Array | null): Promise<JournalFile | null> {
    const file = await this.#moved.track(this.#store.journal(initial))
    if (file === null) return null
    return {
      read: () => this.#moved.track(file.read()),
      write: (at, bytes) => this.#moved.track(file.write(at, bytes)),
      close: () => this.#moved.track(file.close()),
    }
  }

  close(): Promise<void> {
    return this.#moved.track(this.#store.close())
  }
}

function tracked(segment: Segment, moved: MovedClock): Segment {
  return {
    name: segment.name,
    get usedBytes() {
      return segment.usedBytes
    },
    commit: (puts) => moved.track(segment.commit(puts)),
    get: (key) => segment.get(key),
    floor: (key) => segment.floor(key),
    scan: (from, to, visit, skip) => segment.scan(from, to, visit, skip),
    seal: () => moved.track(segment.seal()),
    walk: (found) => segment.walk(found),
    pieces: (bytesMax) => trackedPieces(segment.pieces(bytesMax), moved),
    close: () => moved.track(segment.close()),
  }
}

async function* trackedPieces(
  pieces: AsyncGenerator<Piece, void>,
  moved: MovedClock,
): AsyncGenerator<Piece, void> {
  try {
    for (;;) {
      const step = await moved.track(pieces.next())
      if (step.done === true) return
      yield step.value
    }
  } finally {
    await moved.track(pieces.return())
  }
}

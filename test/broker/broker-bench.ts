/** A broker on a simulated disk and network, and a client of it. */
import { type Broker, type BrokerOptions, startBroker } from '../../src/broker/broker.ts'
import type { PeerLink } from '../../src/broker/forwarder.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { MqClient } from '../../src/client/client.ts'
import { MqError } from '../../src/errors.ts'
import { SimStore } from '../../src/sim/store.ts'
import { type SimProcess, SimWorld } from '../../src/sim/world.ts'

const listen = { host: 'broker', port: 7650 }

export class BrokerBench {
  readonly world = new SimWorld({ seed: 1, faults: { diskLatencyMs: [1, 1], networkLatencyMs: [0.1, 0.1] } })
  disk: SimStore
  process: SimProcess | null = null
  broker!: Broker
  /** What it logged as a warning or an error. */
  readonly logged: string[] = []
  #clients = 0

  constructor(disk = new SimStore()) {
    this.disk = disk
  }

  static async serving(options: Partial<BrokerOptions> = {}, disk?: SimStore): Promise<BrokerBench> {
    const bench = new BrokerBench(disk)
    bench.broker = await bench.world.complete(bench.start(options))
    return bench
  }

  /** Starts a process; one that is there dies. */
  start(options: Partial<BrokerOptions> = {}): Promise<Broker> {
    if (this.process?.alive === true) this.process.crash()
    this.process = this.world.process('broker', this.disk)
    const note = (_fields: object, message: string): void => void this.logged.push(message)
    const log = { debug: () => undefined, info: () => undefined, warn: note, error: note }
    return startBroker(this.process.env, { listen, log, ...options })
  }

  /** The process dies, another starts on its disk. */
  async restart(options: Partial<BrokerOptions> = {}): Promise<void> {
    this.broker = await this.world.complete(this.start(options))
  }

  connect(): Promise<MqClient> {
    const { env } = this.world.process(`client ${this.#clients++}`)
    return this.world.complete(connectWith(env, { servers: ['broker:7650'] }))
  }

  complete<T>(promise: Promise<T>): Promise<T> {
    return this.world.complete(promise)
  }

  /** Flips a bit in what is stored of `text`. */
  rot(text: string): void {
    for (const { values } of this.disk.attach().links.segments.values()) {
      for (const value of values) {
        const at = Buffer.from(value.buffer, value.byteOffset, value.length).indexOf(text)
        if (at >= 0) value[at]! ^= 0x20
      }
    }
  }

  /** A promise, and whether and how it has ended so far. */
  watch<T>(promise: Promise<T>): Watched<T> {
    const watched: Watched<T> = { state: 'pending' }
    promise.then(
      (value) => Object.assign(watched, { state: 'resolved', value }),
      (error: unknown) => Object.assign(watched, { state: 'rejected', error }),
    )
    return watched
  }
}

/** A link between an outbox and its targets that carries nothing while it is closed, as it is at first. */
export function gatedLink() {
  const gate = {
    isOpen: false,
    /** Frames that it was given. */
    tries: 0,
    peerLink:
      (deliver: PeerLink): PeerLink =>
      (frame) => {
        gate.tries++
        return gate.isOpen ? deliver(frame) : Promise.reject(new Error('cut'))
      },
  }
  return gate
}

export interface Watched<T> {
  state: 'pending' | 'resolved' | 'rejected'
  value?: T
  error?: unknown
}

export function codeOf(watched: Watched<unknown>): string | undefined {
  return watched.error instanceof MqError ? watched.error.code : undefined
}

/** A real broker and real clients in a simulated world. */
import type { Test } from 'tap'
import { startBroker, type Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import type { MqClient } from '../../src/client/client.ts'
import { connectWith } from '../../src/client/connect.ts'
import { SimStore } from '../../src/sim/store.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import type { QueueDescription, QueueOptions } from '../../src/types.ts'

const listen = { host: 'broker', port: 7650 }

export class Stage {
  readonly world = new SimWorld({ seed: 1 })
  broker!: Broker
  process!: SimProcess
  readonly #disk = new SimStore()
  readonly #options: Partial<BrokerOptions>
  readonly #clients: MqClient[] = []
  readonly #processes = new Map<string, SimProcess>()

  constructor(options: Partial<BrokerOptions>) {
    this.#options = options
  }

  async start(): Promise<void> {
    this.process = this.world.process('broker', this.#disk)
    this.broker = await this.do(startBroker(this.process.env, { listen, ...this.#options }))
  }

  /** Lets time pass until the promise has settled. */
  do<T>(promise: Promise<T>): Promise<T> {
    return this.world.complete(promise)
  }

  wait(ms: number): Promise<void> {
    return this.world.advance(ms)
  }

  async client(name = 'client'): Promise<MqClient> {
    const process = this.world.process(name)
    this.#processes.set(name, process)
    const mq = await this.do(connectWith(process.env, { servers: ['broker:7650'] }))
    this.#clients.push(mq)
    return mq
  }

  /** By a client's clock. */
  sleep(ms: number, name = 'client'): Promise<void> {
    return new Promise((resolve) => this.#processes.get(name)!.env.clock.after(ms, resolve))
  }

  /** A client and a queue `q` that holds `count` messages: '0', '1', … */
  async queue(count: number, options: QueueOptions = {}): Promise<MqClient> {
    const mq = await this.client()
    await this.do(mq.createQueue('q', options))
    await this.send(mq, 0, count)
    return mq
  }

  async send(mq: MqClient, from: number, count: number): Promise<void> {
    if (count === 0) return
    const entries = Array.from({ length: count }, (_, i) => ({ body: String(from + i) }))
    for (const result of await this.do(mq.sendBatch('q', entries))) if (result instanceof Error) throw result
  }

  counts(mq: MqClient): Promise<QueueDescription['messages']> {
    return this.do(mq.describeQueue('q')).then(({ messages }) => messages)
  }

  /** A planned stop, and a start on the same disk. */
  async restart(): Promise<void> {
    await this.do(this.broker.stop())
    this.process.crash()
    await this.start()
  }

  async crash(): Promise<void> {
    this.process.crash()
    await this.start()
  }

  async close(): Promise<void> {
    for (const mq of this.#clients) await this.do(mq.close())
    await this.do(this.broker.stop())
  }
}

export async function stage(t: Test, options: Partial<BrokerOptions> = {}): Promise<Stage> {
  const it = new Stage(options)
  await it.start()
  t.teardown(() => it.close())
  return it
}

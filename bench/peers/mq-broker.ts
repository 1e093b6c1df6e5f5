/** This broker as a peer among peers: the same producer and consumer for W3, and a check of the adapters themselves. */
import { join } from 'node:path'
import { connect, type Consumer, type Message } from '../../src/index.ts'
import { BrokerProcess } from '../broker-process.ts'
import type { Adapter, Endpoint, Peer, Receiver, Sink } from './peer.ts'

/** As bench/consumer.ts has it. */
const prefetch = 20_000

const open = (endpoint: Endpoint) => connect({ servers: [String(endpoint['listen'])], name: 'bench-peers' })

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const mq = await open(endpoint)
    await mq.createQueue(queue).catch((error: unknown) => {
      if (!(error instanceof Error && 'code' in error && error.code === 'QUEUE_EXISTS')) throw error
    })
    return {
      send: (body) => mq.send(queue, body),
      async sendBatch(bodies) {
        const entries = bodies.map((body) => ({ body }))
        for (const result of await mq.sendBatch(queue, entries)) if (result instanceof Error) throw result
      },
      close: () => mq.close(),
    }
  },

  async openReceiver(endpoint, queue): Promise<Receiver> {
    const mq = await open(endpoint)
    let loop: Consumer<Message> | null = null
    return {
      async run(sink: Sink) {
        loop = mq.consume(queue, { prefetch })
        const acked = () => sink.acked(1)
        const failed = (error: unknown) => sink.failed(error)
        for await (const message of loop) {
          sink.received(message.body)
          message.ack().then(acked, failed)
        }
      },
      stop: async () => loop?.return(),
      close: () => mq.close(),
    }
  },
}

export const mqBroker: Peer = {
  name: 'adapter',
  title: 'mq-broker (this adapter)',
  clients: [],
  durability: { F: 'synced', D: 'synced (it has no other mode)' },
  batches: [null, 100],
  find: () => ({ version: 'this checkout' }),
  async start(dir) {
    const broker = await BrokerProcess.start({ dataDir: join(dir, 'data') })
    return {
      pid: broker.pid,
      endpoint: { listen: broker.listen },
      log: () => broker.log,
      [Symbol.asyncDispose]: () => broker.kill(),
    }
  },
  adapter,
}

/**
 * RabbitMQ: a quorum queue, persistent messages, publisher confirms. It starts with a node name, ports, a cookie and
 * folders of its own, and with an epmd (the daemon by which Erlang nodes find each other) of its own: otherwise it
 * would leave one behind.
 *
 * The client is amqplib: rabbitmq-client sends as many (1.04 times, a promise each), for the server is what counts.
 */
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs'
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
  Sender,
  Sink,
} from './peer.ts'
import { findProgram, freePort, ServerProcess } from './server-process.ts'

/** Of amqplib, what is called here. */
interface Amqplib {
  connect(url: string, socketOptions: { noDelay: boolean }): Promise<Connection>
}
interface Connection {
  createConfirmChannel(): Promise<Channel>
  on(event: 'error', listener: (error: unknown) => void): unknown
  close(): Promise<void>
}
interface Channel {
  assertQueue(name: string, options: object): Promise<unknown>
  prefetch(count: number): Promise<unknown>
  sendToQueue(
    name: string,
    content: Buffer,
    options: object,
    confirmed: (error: Error | null) => void,
  ): boolean
  consume(name: string, listener: (message: Delivery | null) => void): Promise<{ consumerTag: string }>
  cancel(consumerTag: string): Promise<unknown>
  checkQueue(name: string): Promise<unknown>
  /** `allUpTo`: it and all before it. */
  ack(message: Delivery, allUpTo: boolean): void
}
interface Delivery {
  readonly content: Buffer
}

// The wrapper that a PATH finds changes the user and the environment; what it starts is what we want.
const program = findProgram('rabbitmq-server', ['/usr/lib/rabbitmq/bin', '/opt/rabbitmq/sbin'])
const epmd = findProgram('epmd')

/** More than the channel's own turn needs, far fewer than make the queue hold its breath. */
const prefetch = 2000
const persistent = { persistent: true }

/** F: Raft log, synced before a confirm. D: a classic queue, which writes messages now and then. */
const queueTypes: Readonly<Record<DurabilityClass, string>> = { F: 'quorum', D: 'classic' }

/** Its folder has the version in its name; to ask rabbitmqctl would leave an epmd running. */
function findRabbit(): Found {
  if (program === null) return { absent: 'rabbitmq-server is not on this machine' }
  if (epmd === null) return { absent: 'epmd is not on this machine' }
  const version = /rabbitmq_server-([\d.]+)/.exec(realpathSync(program))?.[1]
  return { version: version ?? 'of an unknown version' }
}

async function startRabbit(dir: string, durability: DurabilityClass): Promise<RunningServer> {
  const [port, distributionPort, epmdPort] = [await freePort(), await freePort(), await freePort()]
  const data = join(dir, 'data')
  mkdirSync(data)
  const config = join(dir, 'rabbitmq.conf')
  const lines = [
    `listeners.tcp.1 = 127.0.0.1:${port}`,
    `distribution.listener.interface = 127.0.0.1`,
    'log.console.level = warning',
    'vm_memory_high_watermark.relative = 0.6',
    // The bench is to be told by the row, not by a stop, when a disk is small.
    'disk_free_limit.absolute = 200MB',
  ]
  writeFileSync(config, `${lines.join('\n')}\n`)
  writeFileSync(join(dir, 'enabled_plugins'), '[].\n')
  const environment = {
    HOME: dir,
    ERL_EPMD_PORT: String(epmdPort),
    ERL_EPMD_ADDRESS: '127.0.0.1',
    RABBITMQ_BASE: dir,
    RABBITMQ_MNESIA_BASE: data,
    RABBITMQ_LOG_BASE: dir,
    RABBITMQ_LOGS: '-',
    RABBITMQ_CONFIG_FILE: config,
    RABBITMQ_CONF_ENV_FILE: join(dir, 'none'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, 'enabled_plugins'),
    RABBITMQ_NODENAME: 'mq-bench@localhost',
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_NODE_PORT: String(port),
    RABBITMQ_DIST_PORT: String(distributionPort),
    // The shell replaces itself by the server, so that the pid is the server's.
    RABBITMQ_ALLOW_INPUT: '1',
    RABBITMQ_SERVER_START_ARGS: '-noinput',
  }
  const needs = await ServerProcess.start({
    name: 'epmd',
    file: epmd!,
    args: ['-port', String(epmdPort), '-address', '127.0.0.1'],
    dir,
    environment,
    endpoint: { port: epmdPort },
  })
  try {
    return await ServerProcess.start({
      name: 'rabbitmq-server',
      file: program!,
      args: [],
      dir,
      environment,
      endpoint: { port, queueType: queueTypes[durability] },
      isReady: async () => {
        const connection = await open({ port })
        await connection.close()
        return true
      },
      // Its data go with it: to stop in order would take seconds.
      stopSignal: 'SIGKILL',
      needs,
    })
  } catch (error) {
    await needs[Symbol.asyncDispose]()
    throw error
  }
}

async function open(endpoint: Endpoint): Promise<Connection> {
  const url = `amqp://guest:guest@127.0.0.1:${endpoint['port']}`
  const connection = await loadClient<Amqplib>('amqplib').connect(url, { noDelay: true })
  // What was under way rejects as well.
  connection.on('error', () => undefined)
  return connection
}

async function openChannel(connection: Connection, endpoint: Endpoint, queue: string): Promise<Channel> {
  const channel = await connection.createConfirmChannel()
  const queueType = endpoint['queueType']
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': queueType } })
  return channel
}

class RabbitSender implements Sender {
  readonly #connection: Connection
  readonly #channel: Channel
  readonly #queue: string

  constructor(connection: Connection, channel: Channel, queue: string) {
    this.#connection = connection
    this.#channel = channel
    this.#queue = queue
  }

  send(body: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      const confirmed = (error: Error | null) => (error === null ? resolve() : reject(error))
      this.#channel.sendToQueue(this.#queue, body, persistent, confirmed)
    })
  }

  /** A promise for all of them: the confirms come in ranges anyway. */
  sendBatch(bodies: readonly Buffer[]): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = bodies.length
      const confirmed = (error: Error | null) => {
        if (error !== null) reject(error)
        else if (--left === 0) resolve()
      }
      for (const body of bodies) this.#channel.sendToQueue(this.#queue, body, persistent, confirmed)
    })
  }

  close(): Promise<void> {
    return this.#connection.close()
  }
}

class RabbitReceiver implements Receiver {
  readonly #connection: Connection
  readonly #channel: Channel
  readonly #queue: string
  #tag: string | null = null
  #ended: () => void = () => undefined

  constructor(connection: Connection, channel: Channel, queue: string) {
    this.#connection = connection
    this.#channel = channel
    this.#queue = queue
  }

  /** Acks of one turn go as one range. RabbitMQ does not confirm acks: they count when they are sent. */
  async run(sink: Sink): Promise<void> {
    let last: Delivery | null = null
    let unacked = 0
    const ack = () => {
      this.#channel.ack(last!, true)
      sink.acked(unacked)
      unacked = 0
    }
    await this.#channel.prefetch(prefetch)
    const { consumerTag } = await this.#channel.consume(this.#queue, (message) => {
      if (message === null) {
        sink.failed(new Error('RabbitMQ ended the consumer'))
        return
      }
      sink.received(message.content)
      last = message
      if (unacked++ === 0) setImmediate(ack)
    })
    this.#tag = consumerTag
    await new Promise<void>((resolve) => (this.#ended = resolve))
  }

  async stop(): Promise<void> {
    if (this.#tag !== null) await this.#channel.cancel(this.#tag)
    // Answered behind all acks.
    await this.#channel.checkQueue(this.#queue)
    this.#ended()
  }

  close(): Promise<void> {
    return this.#connection.close()
  }
}

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const connection = await open(endpoint)
    return new RabbitSender(connection, await openChannel(connection, endpoint, queue), queue)
  },
  async openReceiver(endpoint, queue) {
    const connection = await open(endpoint)
    return new RabbitReceiver(connection, await openChannel(connection, endpoint, queue), queue)
  },
}

export const rabbitmq: Peer = {
  name: 'rabbitmq',
  title: 'RabbitMQ',
  clients: ['amqplib'],
  durability: { F: 'quorum queue', D: 'classic queue' },
  batches: [null, 100],
  find: findRabbit,
  start: startRabbit,
  adapter,
}

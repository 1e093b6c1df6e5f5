/**
 * beanstalkd with its log, synced before each answer (-f0). It syncs each message by itself, so the client is not what
 * limits it.
 *
 * The client is jackd, which sends the next command before the last is answered. In brief trials on a noisy machine one
 * connection did 1.7 and 2.4 times what sixteen did, whichever came first; the package `beanstalkd`, which waits, was
 * no faster on sixteen than jackd. It takes strings only (of a Buffer it makes JSON), so bodies are base64.
 */
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

/** Of jackd, what is called here. */
interface Jackd {
  new (): Client
}
interface Client {
  connect(options: { host: string; port: number }): Promise<unknown>
  use(tube: string): Promise<unknown>
  watch(tube: string): Promise<unknown>
  ignore(tube: string): Promise<unknown>
  put(payload: string): Promise<unknown>
  reserveWithTimeout(seconds: number): Promise<{ id: string; payload: Buffer }>
  delete(id: string): Promise<unknown>
  quit(): Promise<unknown>
}

const program = findProgram('beanstalkd')
/** A reserve waits, and all behind it on its connection: so several. */
const receivers = 16

function findBeanstalkd(): Found {
  return askVersion(program, 'beanstalkd', ['-v'], /beanstalkd ([\w.]+)/)
}

async function startBeanstalkd(dir: string, durability: DurabilityClass): Promise<RunningServer> {
  const port = await freePort()
  const sync = durability === 'F' ? '-f0' : '-f50'
  return ServerProcess.start({
    name: 'beanstalkd',
    file: program!,
    args: ['-l', '127.0.0.1', '-p', String(port), '-b', dir, sync],
    dir,
    endpoint: { port },
  })
}

async function openAll(endpoint: Endpoint, count: number): Promise<Client[]> {
  const JackdClient = loadClient<Jackd>('jackd')
  return Promise.all(
    Array.from({ length: count }, async () => {
      const client = new JackdClient()
      await client.connect({ host: '127.0.0.1', port: Number(endpoint['port']) })
      return client
    }),
  )
}

const quitAll = (clients: readonly Client[]) => Promise.all(clients.map((client) => client.quit()))

class BeanstalkdReceiver implements Receiver {
  readonly #clients: readonly Client[]
  #isStopping = false

  constructor(clients: readonly Client[]) {
    this.#clients = clients
  }

  async run(sink: Sink): Promise<void> {
    await Promise.all(this.#clients.map((client) => this.#loop(client, sink)))
  }

  /** The delete of one and the reserve of the next go together. */
  async #loop(client: Client, sink: Sink): Promise<void> {
    const failed = (error: unknown) => sink.failed(error)
    while (!this.#isStopping) {
      const job = await client.reserveWithTimeout(1).catch((error: unknown) => {
        if (error instanceof Error && error.message.includes('TIMED_OUT')) return null
        throw error
      })
      if (job === null) continue
      sink.received(Buffer.from(job.payload.toString('latin1'), 'base64'))
      client.delete(job.id).then(() => sink.acked(1), failed)
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true
  }

  close(): Promise<unknown> {
    return quitAll(this.#clients)
  }
}

const adapter: Adapter = {
  async openSender(endpoint, queue) {
    const [client] = await openAll(endpoint, 1)
    await client!.use(queue)
    const send = (body: Buffer) => client!.put(body.toString('base64'))
    return {
      send,
      sendBatch: (bodies) => Promise.all(bodies.map(send)),
      close: () => client!.quit(),
    }
  },
  async openReceiver(endpoint, queue) {
    const clients = await openAll(endpoint, receivers)
    for (const client of clients) {
      await client.watch(queue)
      await client.ignore('default')
    }
    return new BeanstalkdReceiver(clients)
  },
}

export const beanstalkd: Peer = {
  name: 'beanstalkd',
  title: 'beanstalkd',
  clients: ['jackd'],
  durability: { F: '-f0', D: '-f50' },
  batches: [null],
  find: findBeanstalkd,
  start: startBeanstalkd,
  adapter,
}

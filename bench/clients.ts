/** Clients of the broker in one process, each with a connection of its own. */
import { connect, type MqClient } from '../src/index.ts'
import { inLanes } from './lanes.ts'

export interface ClientsTask {
  readonly server: string
  /** Default 1. */
  readonly clients?: number | undefined
}

/** Those that connect at the same time: a machine bounds the connections that nobody has accepted yet. */
const connecting = 50
const timeoutMs = 30_000

export async function connectClients(
  { server, clients = 1 }: ClientsTask,
  name: string,
): Promise<MqClient[]> {
  const connected: MqClient[] = []
  await inLanes(clients, connecting, async () => {
    connected.push(await connect({ servers: [server], name, timeoutMs }))
  })
  return connected
}

export async function closeClients(clients: readonly MqClient[]): Promise<void> {
  await Promise.all(clients.map((client) => client.close()))
}

export function queueNames(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `queue-${i}`)
}

/** Queues that are made at the same time. */
const creating = 64

export async function createQueues(
  mq: MqClient,
  names: readonly string[],
  { partitions = 1 }: { readonly partitions?: number | undefined } = {},
): Promise<void> {
  await inLanes(names.length, creating, (i) => mq.createQueue(names[i]!, { partitions }))
}

/** How the commands that talk to a broker find it. */
import type { Command } from 'commander'
import { connect, type MqClient } from '../index.ts'
import { currentServer } from './contexts.ts'
import { note } from './output.ts'

const defaultServer = '127.0.0.1:7650'

export interface ConnectionOptions {
  readonly server?: string
}

export function withServer(command: Command): Command {
  return command.option(
    '--server <ADDRESS>',
    `where the broker listens, several addresses with commas (default: MQ_SERVER, else the current context, else ${defaultServer})`,
  )
}

export function openClient(options: ConnectionOptions): Promise<MqClient> {
  // An empty variable counts as unset, as it does for `start`.
  const servers = options.server ?? (process.env.MQ_SERVER || currentServer() || defaultServer)
  return connect({ servers: servers.split(',').map((server) => server.trim()), name: 'mq-broker' })
}

/** For what goes on until it is ended: a silence that has a reason should not look like one that has none. */
export function noteConnection(client: MqClient): void {
  client.on('disconnect', () => note('mq-broker: connection lost, waiting for the broker'))
  client.on('reconnect', () => note('mq-broker: the broker is back'))
}

/** Connects, does `work`, and disconnects whatever came of it. */
export async function withClient<T>(
  options: ConnectionOptions,
  work: (client: MqClient) => Promise<T>,
): Promise<T> {
  const client = await openClient(options)
  try {
    return await work(client)
  } finally {
    await client.close()
  }
}

/** redis-server, for Redis Streams and for BullMQ. */
import type { DurabilityClass, Found, RunningServer } from './peer.ts'
import { askVersion, findProgram, freePort, ServerProcess } from './server-process.ts'

const program = findProgram('redis-server')

export const redisDurability = { F: 'appendfsync always', D: 'appendfsync everysec' } as const

export function findRedis(): Found {
  return askVersion(program, 'redis-server', ['--version'], /v=([\d.]+)/)
}

export async function startRedis(dir: string, durability: DurabilityClass): Promise<RunningServer> {
  const port = await freePort()
  const settings = {
    port,
    bind: '127.0.0.1',
    dir,
    appendonly: 'yes',
    appendfsync: durability === 'F' ? 'always' : 'everysec',
    // Neither snapshots nor a rewrite of the log while it is measured: both cost, and a run is too short to need them.
    save: '',
    'auto-aof-rewrite-percentage': 0,
    'maxmemory-policy': 'noeviction',
  }
  return ServerProcess.start({
    name: 'redis-server',
    file: program!,
    args: Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]),
    dir,
    endpoint: { port },
  })
}

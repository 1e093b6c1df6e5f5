/** PostgreSQL, for pg-boss and for BullMQ. It refuses to run as root: then an unprivileged user of the machine runs it. */
import { spawnSync } from 'node:child_process'
import { chownSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { childEnvironment } from '../broker-process.ts'
import type { Found, RunningServer } from './peer.ts'
import { askVersion, findProgram, freePort, ServerProcess, type UnixUser } from './server-process.ts'

/** Debian keeps each major version in a folder of its own; the newest comes first. */
const debianFolder = '/usr/lib/postgresql'
const debianFolders = foldersIn(debianFolder)
  .sort((a, b) => Number(b) - Number(a))
  .map((version) => join(debianFolder, version, 'bin'))
const program = findProgram('postgres', debianFolders)
const initdb = program === null ? null : findProgram('initdb', [...debianFolders, dirname(program)])

/** It syncs as it comes: there is no class D of it that a team would run. */
export const postgresDurability = { F: 'fsync, synchronous_commit', D: 'synced: its default' } as const

const superuser = 'bench'
const database = 'postgres'

export function findPostgres(): Found {
  if (program !== null && initdb === null) return { absent: 'initdb is not on this machine' }
  return askVersion(program, 'postgres', ['--version'], /([\d.]+)/)
}

export async function startPostgres(dir: string): Promise<RunningServer> {
  const user = process.getuid?.() === 0 ? unprivilegedUser() : null
  const data = join(dir, 'data')
  mkdirSync(data, { mode: 0o700 })
  if (user !== null) for (const path of [dir, data]) chownSync(path, user.uid, user.gid)
  const created = spawnSync(
    initdb!,
    [
      '--pgdata',
      data,
      '--username',
      superuser,
      '--auth',
      'trust',
      '--no-sync',
      '--no-locale',
      '--encoding',
      'UTF8',
    ],
    { cwd: dir, encoding: 'utf8', env: childEnvironment(), ...(user ?? {}) },
  )
  if (created.status !== 0) throw new Error(`initdb failed: ${created.stderr || created.stdout}`)
  const port = await freePort()
  const settings = {
    port,
    listen_addresses: '127.0.0.1',
    unix_socket_directories: dir,
    fsync: 'on',
    synchronous_commit: 'on',
    shared_buffers: '1GB',
    // No checkpoint within a run: it would cost, and a run is too short to need one.
    max_wal_size: '8GB',
    checkpoint_timeout: '30min',
    wal_buffers: '64MB',
    max_connections: 50,
    jit: 'off',
  }
  return ServerProcess.start({
    name: 'postgres',
    file: program!,
    args: ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    dir,
    user,
    endpoint: { port, user: superuser, database },
    // It listens before it lets anybody in.
    isReady: async () =>
      readFileSync(join(dir, 'postgres.out'), 'utf8').includes('ready to accept connections'),
    // Ends all its processes at once; its data go with it.
    stopSignal: 'SIGQUIT',
  })
}

function unprivilegedUser(): UnixUser {
  const users = readFileSync('/etc/passwd', 'utf8').split('\n')
  for (const name of ['postgres', 'nobody']) {
    const fields = users.find((line) => line.startsWith(`${name}:`))?.split(':')
    if (fields !== undefined) return { uid: Number(fields[2]), gid: Number(fields[3]) }
  }
  throw new Error('PostgreSQL does not run as root, and neither postgres nor nobody is a user here')
}

function foldersIn(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

/** Who takes part in a run: this broker, its limits, and those peers whose servers are on this machine. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { projectRoot } from '../broker-process.ts'
import { clientVersion } from './clients.ts'
import type { DurabilityClass, PeerName } from './peer.ts'
import { peers } from './peers.ts'
import type { Participant } from './report.ts'

export function participantsOf(names: readonly PeerName[], durability: DurabilityClass): Participant[] {
  const manifest = readFileSync(join(projectRoot(), 'package.json'), 'utf8')
  const { version } = JSON.parse(manifest) as { version: string }
  const own = { version, clients: [], note: peers.adapter.durability[durability] }
  const lmdb = { version: '', clients: [], note: 'synced' }
  return [
    { system: 'send', title: 'mq-broker send', ...own },
    { system: 'sendBatch', title: 'mq-broker sendBatch', ...own },
    { system: 'raw', title: 'raw lmdb, the limit', ...lmdb },
    { system: 'generator', title: 'the load alone', ...lmdb, note: 'sent nowhere' },
    ...names.map((name) => participantOf(name, durability)),
  ]
}

function participantOf(system: PeerName, durability: DurabilityClass): Participant {
  const { title, clients, durability: notes, find } = peers[system]
  const found = find()
  if ('absent' in found) return { system, title, version: null, clients: [], note: found.absent }
  return {
    system,
    title,
    version: found.version,
    clients: clients.map((name) => `${name} ${clientVersion(name)}`),
    note: notes[durability],
  }
}

export function presentOf(participants: readonly Participant[]): PeerName[] {
  const isPeer = (name: string): name is PeerName => name in peers
  return participants
    .filter(({ version }) => version !== null)
    .map(({ system }) => system)
    .filter(isPeer)
}

/** What this broker has to reach beside its peers, all of them synced: the project's page on performance says why. */
import { meets, type Target, type TargetRow } from '../figures.ts'
import { ofRaw } from '../targets.ts'
import type { PeerWorkload } from './args.ts'
import { heatName, type System } from './cases.ts'
import { peerNames } from './peer.ts'
import { isOfHeat, type PeerRow, type PeersReport } from './report.ts'

interface Wanted {
  readonly workload: PeerWorkload
  readonly bodyBytes: number
  readonly what: string
  readonly target: Target
  readonly value: (rows: Rows) => number | null
}

/** Rows of one heat, by system. */
type Rows = ReadonlyMap<System, PeerRow>

const kibibyte = 1024

/** Ours for one of theirs. */
function times(own: 'send' | 'sendBatch', other: System): (rows: Rows) => number | null {
  return (rows) => ratio(rows.get(own)?.perSecond.median, rows.get(other)?.perSecond.median)
}

function ratio(a: number | undefined, b: number | undefined): number | null {
  return a === undefined || b === undefined ? null : a / b
}

function rate(
  workload: PeerWorkload,
  bodyBytes: number,
  own: 'send' | 'sendBatch',
  other: System,
  title: string,
  atLeast: number,
): Wanted {
  return { workload, bodyBytes, what: `${own} × ${title}`, target: { atLeast }, value: times(own, other) }
}

const wanted: readonly Wanted[] = [
  rate('w1', kibibyte, 'send', 'redis', 'Redis', 5),
  rate('w1', kibibyte, 'send', 'rabbitmq', 'RabbitMQ', 15),
  rate('w1', kibibyte, 'send', 'raw', 'raw lmdb', ofRaw.w1Send),
  rate('w1', kibibyte, 'sendBatch', 'redis', 'Redis', 8),
  rate('w1', kibibyte, 'sendBatch', 'raw', 'raw lmdb', ofRaw.w1SendBatch),
  rate('w1', 100, 'send', 'redis', 'Redis', 6),
  rate('w1', 100, 'sendBatch', 'redis', 'Redis', 12),
  rate('w2', kibibyte, 'send', 'redis', 'Redis', 5),
  rate('w2', kibibyte, 'send', 'rabbitmq', 'RabbitMQ', 12),
  rate('w2', kibibyte, 'send', 'bullmq', 'BullMQ', 35),
  rate('w2', kibibyte, 'sendBatch', 'redis', 'Redis', 7.5),
  {
    workload: 'w2',
    bodyBytes: kibibyte,
    what: "broker CPU for Redis's, send",
    target: { atMost: 1 / 6 },
    value: (rows) => ratio(rows.get('send')?.serverCpu?.median, rows.get('redis')?.serverCpu?.median),
  },
  rate('w2', 100, 'send', 'redis', 'Redis', 9),
  rate('w2', 100, 'sendBatch', 'redis', 'Redis', 14),
  {
    workload: 'w3',
    bodyBytes: kibibyte,
    what: "p99 send → received for the best peer's",
    target: { atMost: 1 },
    value: (rows) => {
      const theirs = peerNames.filter((name) => name !== 'adapter').map((name) => p99Of(rows.get(name)))
      const known = theirs.filter((value) => value !== undefined)
      return known.length === 0 ? null : ratio(p99Of(rows.get('send')), Math.min(...known))
    },
  },
  rate('w4', kibibyte, 'send', 'raw', 'raw lmdb', ofRaw.w4),
]

function p99Of(row: PeerRow | undefined): number | undefined {
  return row?.received?.p99Ms
}

/** Those of the heats that were run; none for peers that do not sync, which are another race. */
export function judge({ durability, heats, rows }: PeersReport): TargetRow[] {
  if (durability !== 'F') return []
  return heats.flatMap((heat) => {
    const isHere = isOfHeat(heat)
    const bySystem: Rows = new Map(rows.filter(isHere).map((row) => [row.system, row]))
    return wanted.filter(isHere).map(({ what, target, value: valueOf }) => {
      const value = valueOf(bySystem)
      return {
        what: `${heatName(heat)}: ${what}`,
        target,
        value,
        isMet: value === null ? null : meets(value, target),
      }
    })
  })
}

/** The report as text: who took part, a table for each workload and size, the targets. */
import { machineText } from '../proc.ts'
import { ratioText, table, targetTable, thousands } from '../report.ts'
import { heatName, type Heat, type System } from './cases.ts'
import { isOfHeat, type Participant, type PeerRow, type PeersReport, type Way } from './report.ts'
import type { Latency } from '../statistics.ts'
import { judge } from './targets.ts'

export function renderPeers(report: PeersReport): string {
  const { machine, startedAt, durability, settings, heats } = report
  return [
    `mq-broker beside its peers, ${startedAt}: ${machineText(machine)}`,
    `class ${durability}: ${classText[durability]}`,
    Object.entries(settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
    '',
    ...participantTable(report.participants),
    ...heats.flatMap((heat) => ['', ...heatTable(report, heat)]),
    '',
    ...legend,
    ...targetTable(judge(report)),
  ].join('\n')
}

export const classText = {
  F: 'each message synced to disk before it is confirmed',
  D: 'as each system comes; what the rows say about durability holds',
} as const

const legend = [
  'server s/M: CPU seconds of all processes of the server for a million messages. × send, × sendBatch: the rate of this',
  'broker for one of the row. way: a message a call or batches of so many, at most so many unconfirmed. lost, twice: of',
  'confirmed messages; +n: so many were not looked at, since the time to receive them was over. others: share of the',
  'machine that others used meanwhile. Rates and latencies are medians of the runs.',
]

function participantTable(participants: readonly Participant[]): string[] {
  const titleWidth = Math.max(...participants.map(({ title }) => title.length))
  return participants.map(({ title, version, clients, note }) => {
    const server = version === null ? 'absent' : version
    const parts = [server, ...clients, note].filter((part) => part !== '')
    return `${title.padEnd(titleWidth)}  ${parts.join(', ')}`
  })
}

type Line =
  | { readonly title: string; readonly row: PeerRow }
  | { readonly title: string; readonly row: null; readonly note: string }

function heatTable(report: PeersReport, heat: Heat): string[] {
  const { participants, rows, failures } = report
  const own = rows.filter(isOfHeat(heat))
  const failed = failures.filter(isOfHeat(heat))
  const lines = participants.flatMap(({ system, title, version, note }): Line[] => {
    const row = own.find((one) => one.system === system)
    const failure = failed.find((one) => one.system === system)
    const after = failure === undefined ? [] : [{ title, row: null, note: `failed: ${failure.error}` }]
    if (row !== undefined) return [{ title, row }, ...after]
    if (version === null) return [{ title, row: null, note: `absent: ${note}` }]
    return after
  })
  const measured = lines.filter((line) => line.row !== null)
  const others = lines.filter((line) => line.row === null)
  const bySystem = (system: System) => own.find((row) => row.system === system)
  const columns = heat.workload === 'w3' ? latencyColumns : rateColumns(heat, bySystem)
  return [
    ...table<PeerRow & { readonly title: string }>(
      [[heatName(heat), ({ title }) => title], ...columns],
      measured.map(({ row, title }) => ({ ...row, title })),
    ),
    ...others.map(({ title, note }) => `${title}  ${note}`),
  ]
}

type Columns = [string, (row: PeerRow) => string][]

function rateColumns({ workload }: Heat, bySystem: (system: System) => PeerRow | undefined): Columns {
  const times = (own: 'send' | 'sendBatch'): Columns => {
    const ours = bySystem(own)
    if (ours === undefined) return []
    const text = (row: PeerRow) =>
      row.system === own ? '' : ratioText(ours.perSecond.median / row.perSecond.median)
    return [[`× ${own}`, text]]
  }
  return [
    ...(workload === 'w4' ? [] : [['way', (row) => wayText(row.way)] satisfies Columns[number]]),
    ['messages/s', (row) => thousands(row.perSecond.median)],
    ['min – max', ({ perSecond }) => `${thousands(perSecond.min)} – ${thousands(perSecond.max)}`],
    ...times('send'),
    ...times('sendBatch'),
    ...(workload === 'w4' ? latency('confirm', ({ confirm }) => confirm) : []),
    ...costColumns,
  ]
}

const costColumns: Columns = [
  ['server s/M', ({ serverCpu }) => (serverCpu === null ? '' : serverCpu.median.toFixed(2))],
  [
    'peak MiB',
    ({ serverPeakBytes }) => (serverPeakBytes === null ? '' : thousands(serverPeakBytes / 2 ** 20)),
  ],
  [
    'lost',
    ({ account }) => {
      if (account === null) return ''
      return `${account.lost}${account.notLookedAt === 0 ? '' : ` +${thousands(account.notLookedAt)}`}`
    },
  ],
  ['twice', ({ account }) => String(account?.duplicated ?? '')],
  ['damaged', ({ account }) => String(account?.damaged ?? '')],
  ['others', ({ othersShare }) => `${Math.round(othersShare * 100)}%`],
]

const latencyColumns: Columns = [
  ['messages/s', (row) => thousands(row.perSecond.median)],
  ...latency('confirm', ({ confirm }) => confirm),
  ...latency('received', ({ received }) => received),
  ...costColumns,
]

function latency(what: string, of: (row: PeerRow) => Latency | null): Columns {
  return [
    [`${what} p50 ms`, (row) => of(row)?.p50Ms.toFixed(2) ?? ''],
    ['p99', (row) => of(row)?.p99Ms.toFixed(2) ?? ''],
    ['p99.9', (row) => of(row)?.p999Ms?.toFixed(2) ?? ''],
  ]
}

export function wayText({ batch, window }: Way): string {
  return batch === null ? `1, ${thousands(window)}` : `${thousands(batch)}, ${thousands(window)}`
}

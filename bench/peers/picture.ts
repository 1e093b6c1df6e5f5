/**
 * The report as one picture: a panel for each workload and size, a bar for each system, on a linear scale from zero;
 * what the store below this broker can do by itself, its limit, is a line.
 */
import { latencyPanel, ratePanel } from '../bars.ts'
import { machineText } from '../proc.ts'
import { ratioText } from '../report.ts'
import { colors, drawPicture, runsText, wrap, type Panel } from '../svg.ts'
import { heatName, type Heat, type System } from './cases.ts'
import { isOfHeat, type Participant, type PeerRow, type PeersReport } from './report.ts'
import { classText } from './text.ts'

/** An SVG document. */
export function renderPicture(report: PeersReport): string {
  return drawPicture({
    title: 'mq-broker beside its peers',
    subtitle: `One machine, one run: ${classText[report.durability]}.`,
    panels: report.heats.map((heat) => panelOf(report, heat)).filter((panel) => panel !== null),
    footer: footerLines(report),
  })
}

const headings: Readonly<Record<Heat['workload'], string>> = {
  w1: 'Sent and confirmed, messages a second',
  w2: 'Sent, received and acked at once, messages a second',
  w3: 'Latency at 1,000 messages a second, send to receipt',
  w4: 'One at a time, each awaited, messages a second',
}

/** Null: nothing of it was measured. */
function panelOf(report: PeersReport, heat: Heat): Panel | null {
  const rows = report.rows.filter(isOfHeat(heat))
  if (rows.length === 0) return null
  const bars = barsOf(report, rows)
  const [tag, ...size] = heatName(heat).split(' ')
  const head = { tag: tag!, what: `${headings[heat.workload]} · ${size.join(' ')}` }
  return heat.workload === 'w3' ? latencies(head, bars) : rates(head, bars, rows)
}

function rates(head: Head, bars: readonly Bar[], rows: readonly PeerRow[]): Panel {
  const limit = rows.find(({ system }) => system === 'raw')?.perSecond.median
  const ours = rows.find(({ system }) => system === 'send')?.perSecond.median
  return ratePanel(
    head,
    bars.map(({ title, row, system, isAbsent }) => {
      if (row === null) return { title, word: wordOf(isAbsent) }
      const { perSecond } = row
      const more =
        isOurs(system) || ours === undefined ? '' : `send is ${ratioText(ours / perSecond.median)} ×`
      return { title, isOurs: isOurs(system), fill: colorOf(system), perSecond, more }
    }),
    limit === undefined ? [] : [{ name: 'raw lmdb', perSecond: limit }],
  )
}

function latencies(head: Head, bars: readonly Bar[]): Panel | null {
  return latencyPanel(
    head,
    bars
      .filter(({ system }) => system !== 'sendBatch')
      .map(({ title, row, system, isAbsent }) => {
        const received = row?.received ?? null
        if (received === null) return { title, word: wordOf(isAbsent) }
        return { title, isOurs: isOurs(system), fill: colorOf(system), ...received }
      }),
  )
}

interface Head {
  readonly tag: string
  readonly what: string
}

interface Bar {
  readonly system: System
  readonly title: string
  /** Null: it was not measured, for it is absent or failed. */
  readonly row: PeerRow | null
  readonly isAbsent: boolean
}

/** Ours first, then the peers, the fastest first; limits are lines, and what is left are words. */
function barsOf({ participants }: PeersReport, rows: readonly PeerRow[]): Bar[] {
  const bars = participants.map(({ system, title, version }: Participant) => ({
    system,
    title,
    isAbsent: version === null,
    row: rows.find((one) => one.system === system) ?? null,
  }))
  const ours = bars.filter(({ system, row }) => isOurs(system) && row !== null)
  const peers = bars.filter(({ system }) => !['send', 'sendBatch', 'raw', 'generator'].includes(system))
  return [...ours, ...peers.sort((a, b) => meritOf(b.row) - meritOf(a.row))]
}

/** More is better; latency where there is one, for then all have the same rate. */
function meritOf(row: PeerRow | null): number {
  if (row === null) return -Infinity
  return row.received === null ? row.perSecond.median : -row.received.p99Ms
}

function isOurs(system: System): system is 'send' | 'sendBatch' {
  return system === 'send' || system === 'sendBatch'
}

function colorOf(system: System): string {
  return isOurs(system) ? colors[system] : colors.peer
}

function wordOf(isAbsent: boolean): string {
  return isAbsent ? 'absent' : 'failed'
}

function footerLines({ machine, startedAt, participants, settings }: PeersReport): string[] {
  const peers = participants.filter(({ clients }) => clients.length > 0)
  const servers = peers.map(({ title, version, note }) => `${title} (${version ?? 'absent'}, ${note})`)
  return [
    ...wrap(`Bars: ${runsText(Number(settings['repeat']))}. ${servers.join('; ')}.`),
    `${machineText(machine)}, ${startedAt.slice(0, 10)}. Producer, consumer and server share it.`,
  ]
}

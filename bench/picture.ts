/**
 * The report as one picture: a panel for each workload and size, on a linear scale from zero. What lmdb can do by
 * itself is a line, in a file that grows and in one whose blocks were written before; the socket pair is a bar,
 * cut where it is too long.
 */
import { latencyPanel, ratePanel, type LimitLine, type RateRow } from './bars.ts'
import { growthPanels } from './curves.ts'
import { machineText } from './proc.ts'
import { ratioText, type Report, type Row } from './report.ts'
import { colors, drawPicture, runsText, type Panel } from './svg.ts'

/** An SVG document; null: there is nothing to draw. */
export function renderBenchPicture(report: Report): string | null {
  const { machine, startedAt, settings, rows, growthRows } = report
  const sizes = [...new Set(rows.flatMap((row) => sizeOf(row) ?? []))]
  const bars = sizes.flatMap((size) => [
    streamPanel(rows, 'W1', size),
    streamPanel(rows, 'W2', size),
    pacedPanel(rows, size),
    singlePanel(rows, size),
  ])
  const panels = [...bars, ...growthPanels(growthRows)].filter((panel) => panel !== null)
  if (panels.length === 0) return null
  const runs = runsText(Number(settings['repeat']))
  return drawPicture({
    title: bars.length > 0 ? 'mq-broker beside the limits of its machine' : 'mq-broker while something grows',
    subtitle: 'One machine, one run: each message synced to disk before it is confirmed.',
    panels,
    footer: [
      ...(bars.length > 0
        ? [
            `Bars: ${runs}. Limits: one process that does nothing else, with blobs or frames of a client's batch.`,
          ]
        : []),
      ...(growthRows.length > 0
        ? ['Curves: medians; red: more than 25% lost against the step before it, or a median a third longer.']
        : []),
      `${machineText(machine)}, ${startedAt.slice(0, 10)}. Producer, consumer and broker share it.`,
    ],
  })
}

/** Of W1 to W4. */
function sizeOf(row: Row): string | null {
  return /^W\d (\d+ \w+)/.exec(row.case)?.[1] ?? null
}

const headings = {
  W1: 'Sent and confirmed, messages a second',
  W2: 'Sent, received and acked at once, messages a second',
} as const

/** Null: it was not measured. */
function streamPanel(rows: readonly Row[], workload: 'W1' | 'W2', size: string): Panel | null {
  const prefix = `${workload} ${size} `
  const own = rows.filter((row) => row.case.startsWith(prefix))
  if (own.length === 0) return null
  const blobs = rows.filter((row) => row.case.endsWith(` × ${size}`))
  const sockets = blobs.find((row) => row.case.startsWith('socket pair'))
  const bars = own.map((row) => {
    const title = row.case.slice(prefix.length)
    const fill = title.startsWith('sendBatch') ? colors.sendBatch : colors.send
    return barOf(row, title, fill, timesText(row.of.raw, 'raw lmdb'))
  })
  const raw = rows.find((row) => row.case.startsWith('raw lmdb') && row.case.endsWith(` × ${size}`))
  const preallocated = rows.find((row) => row.case.endsWith(` × ${size}, preallocated`))
  return ratePanel(
    { tag: workload, what: `${headings[workload]} · ${size}` },
    [...bars, ...(sockets === undefined ? [] : [socketBar(sockets)])],
    limitLines(raw, preallocated),
  )
}

function pacedPanel(rows: readonly Row[], size: string): Panel | null {
  const prefix = `W3 ${size} `
  const own = rows.filter((row) => row.case.startsWith(prefix))
  return latencyPanel(
    { tag: 'W3', what: `Latency, send to receipt · ${size}` },
    own.map((row) => ({
      title: row.case.slice(prefix.length),
      isOurs: false,
      fill: colors.send,
      p50Ms: row.receivedP50Ms!.median,
      p99Ms: row.receivedP99Ms!.median,
    })),
  )
}

function singlePanel(rows: readonly Row[], size: string): Panel | null {
  const own = rows.filter((row) => row.case.startsWith(`W4 ${size}`))
  if (own.length === 0) return null
  const one = own[0]!
  const bars = own.map((row) => {
    const title = row === one ? 'one client' : row.case.split(', ')[1]!
    const times = row === one ? timesText(row.of.raw, 'raw lmdb') : timesText(ratioOf(row, one), 'one client')
    return barOf(row, title, colors.send, times)
  })
  const raw = rows.find((row) => row.case === `raw lmdb one put at a time ${size}`)
  const preallocated = rows.find((row) => row.case === `raw lmdb one put at a time ${size}, preallocated`)
  return ratePanel(
    { tag: 'W4', what: `Each client one message at a time, messages a second · ${size}` },
    bars,
    limitLines(raw, preallocated),
  )
}

function ratioOf(row: Row, other: Row): number {
  return row.perSecond.median / other.perSecond.median
}

function barOf({ perSecond }: Row, title: string, fill: string, more: string): RateRow {
  return { title, isOurs: false, fill, perSecond, more }
}

function socketBar(row: Row): RateRow {
  return { ...barOf(row, 'socket pair', colors.peer, 'no disk'), isApart: true }
}

function timesText(ratio: number | undefined, of: string): string {
  return ratio === undefined ? '' : `${ratioText(ratio)} × ${of}`
}

function limitLines(raw: Row | undefined, preallocated: Row | undefined): LimitLine[] {
  const line = (name: string, row: Row | undefined) =>
    row === undefined ? [] : [{ name, perSecond: row.perSecond.median }]
  return [...line('raw lmdb', raw), ...line('raw lmdb, preallocated', preallocated)]
}

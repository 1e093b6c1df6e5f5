/**
 * The report as one picture: a panel for each workload and size, a bar for each system, on a linear scale from zero;
 * what the store below this broker can do by itself, its limit, is a line.
 */
import { thousands } from '../report.ts'
import { heatName, type Heat, type System } from './cases.ts'
import { isOfHeat, type Participant, type PeerRow, type PeersReport } from './report.ts'
import { classText, ratioText } from './text.ts'

const width = 960
const margin = 28
/** Names stand left of it, bars right. */
const barX = 216
/** To the right of the longest bar: its number. */
const labelWidth = 170
const barWidthMax = width - margin - labelWidth - barX
const rowHeight = 26
const barHeight = 16
const panelHeadHeight = 58
const headHeight = 86

const colors = {
  ground: '#ffffff',
  ink: '#1f2937',
  quiet: '#6b7280',
  rule: '#e5e7eb',
  send: '#3b82f6',
  sendBatch: '#1d4ed8',
  peer: '#a8b3c2',
  limit: '#dc2626',
} as const

/** An SVG document. */
export function renderPicture(report: PeersReport): string {
  const panels: string[] = []
  let y = headHeight
  for (const heat of report.heats) {
    const panel = heat.workload === 'w3' ? latencyPanel(report, heat) : ratePanel(report, heat)
    if (panel === null) continue
    panels.push(`<g transform="translate(0 ${y})">`, ...panel.lines, '</g>')
    y += panel.height
  }
  const footer = footerLines(report)
  const height = y + 24 + footer.length * 18 + 10
  const title = 'mq-broker beside its peers'
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${title}" font-family="system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif" font-size="13">`,
    `<title>${title}</title>`,
    `<rect width="${width}" height="${height}" rx="10" fill="${colors.ground}"/>`,
    text(margin, 40, title, { size: 21, weight: 650 }),
    text(margin, 63, `One machine, one run: ${classText[report.durability]}.`, { fill: colors.quiet }),
    ...panels,
    `<line x1="${margin}" x2="${width - margin}" y1="${y + 6}" y2="${y + 6}" stroke="${colors.rule}"/>`,
    ...footer.map((line, i) => text(margin, y + 30 + i * 18, line, { fill: colors.quiet, size: 12 })),
    '</svg>',
    '',
  ].join('\n')
}

interface Panel {
  readonly lines: readonly string[]
  readonly height: number
}

const headings: Readonly<Record<Heat['workload'], string>> = {
  w1: 'Sent and confirmed, messages a second',
  w2: 'Sent, received and acked at once, messages a second',
  w3: 'Latency at 1,000 messages a second, send to receipt',
  w4: 'One at a time, each awaited, messages a second',
}

/** Null: nothing of it was measured. */
function ratePanel(report: PeersReport, heat: Heat): Panel | null {
  const rows = report.rows.filter(isOfHeat(heat))
  const bars = barsOf(report, rows)
  if (rows.length === 0) return null
  const limit = rows.find(({ system }) => system === 'raw')?.perSecond.median ?? null
  const most = Math.max(limit ?? 0, ...bars.map(({ row }) => row?.perSecond.max ?? 0))
  const x = (perSecond: number) => barX + (perSecond / most) * barWidthMax
  const ours = rows.find(({ system }) => system === 'send')?.perSecond.median
  const lines = bars.flatMap(({ title, row, system, isAbsent }, i) => {
    const y = panelHeadHeight + i * rowHeight
    if (row === null) return emptyRow(title, y, isAbsent)
    const { median, min, max } = row.perSecond
    const isOurs = system === 'send' || system === 'sendBatch'
    const times = isOurs || ours === undefined ? '' : `send is ${ratioText(ours / median)} ×`
    return [
      name(title, y, isOurs),
      bar(y, x(median), colorOf(system)),
      ...whisker(y, x(min), x(max)),
      ...value(y, Math.max(x(median), x(max)), thousands(median), times, isOurs),
    ]
  })
  const bottom = panelHeadHeight + bars.length * rowHeight
  return {
    lines: [
      ...panelHead(heat),
      axis(bottom),
      ...lines,
      ...(limit === null ? [] : limitLine(x(limit), bottom, `raw lmdb: ${thousands(limit)}`)),
    ],
    height: bottom + 20,
  }
}

function latencyPanel(report: PeersReport, heat: Heat): Panel | null {
  const rows = report.rows.filter(isOfHeat(heat))
  const bars = barsOf(report, rows).filter(({ system }) => system !== 'sendBatch')
  const times = rows.flatMap(({ received }) => (received === null ? [] : [received.p99Ms]))
  if (times.length === 0) return null
  // One that is far behind would make all others a stroke: its bar is cut, and says so.
  const sorted = times.toSorted((a, b) => a - b)
  const most = Math.min(sorted.at(-1)!, 4 * sorted[Math.floor((sorted.length - 1) / 2)]!)
  const x = (ms: number) => barX + (Math.min(ms, most) / most) * barWidthMax
  const lines = bars.flatMap(({ title, row, system, isAbsent }, i) => {
    const y = panelHeadHeight + i * rowHeight
    const received = row?.received ?? null
    if (received === null) return emptyRow(title, y, isAbsent)
    const { p50Ms, p99Ms } = received
    const isOurs = system === 'send'
    return [
      name(title, y, isOurs),
      bar(y, x(p99Ms), colorOf(system), 0.45),
      bar(y, x(p50Ms), colorOf(system)),
      ...(p99Ms > most ? [cut(y, x(most))] : []),
      ...value(y, x(p99Ms), `${msText(p50Ms)} / ${msText(p99Ms)} ms`, '', isOurs),
    ]
  })
  const bottom = panelHeadHeight + bars.length * rowHeight
  const note = text(barX, 44, 'p50 dark, p99 light; shorter is better', { fill: colors.quiet, size: 12 })
  return { lines: [...panelHead(heat), note, axis(bottom), ...lines], height: bottom + 20 }
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
  const ours = bars.filter(({ system, row }) => (system === 'send' || system === 'sendBatch') && row !== null)
  const peers = bars.filter(({ system }) => !['send', 'sendBatch', 'raw', 'generator'].includes(system))
  return [...ours, ...peers.sort((a, b) => meritOf(b.row) - meritOf(a.row))]
}

/** More is better; latency where there is one, for then all have the same rate. */
function meritOf(row: PeerRow | null): number {
  if (row === null) return -Infinity
  return row.received === null ? row.perSecond.median : -row.received.p99Ms
}

function colorOf(system: System): string {
  return system === 'send' || system === 'sendBatch' ? colors[system] : colors.peer
}

function panelHead(heat: Heat): string[] {
  const [workload, ...size] = heatName(heat).split(' ')
  const what = `${headings[heat.workload]} · ${size.join(' ')}`
  return [
    `<line x1="${margin}" x2="${width - margin}" y1="0" y2="0" stroke="${colors.rule}"/>`,
    text(margin, 27, workload!, { size: 14, weight: 650, fill: colors.quiet }),
    text(barX, 27, what, { size: 14, weight: 650 }),
  ]
}

function name(title: string, y: number, isOurs: boolean): string {
  return text(barX - 10, y + 13, title, { anchor: 'end', ...(isOurs ? { weight: 650 } : {}) })
}

function bar(y: number, toX: number, fill: string, opacity = 1): string {
  const shade = opacity === 1 ? '' : ` fill-opacity="${opacity}"`
  return `<rect x="${barX}" y="${y}" width="${Math.max(1.5, toX - barX).toFixed(1)}" height="${barHeight}" rx="2" fill="${fill}"${shade}/>`
}

/** From the slowest to the fastest run. */
function whisker(y: number, fromX: number, toX: number): string[] {
  if (toX - fromX < 2) return []
  const middle = y + barHeight / 2
  return [
    `<path d="M${fromX.toFixed(1)} ${middle}H${toX.toFixed(1)}M${fromX.toFixed(1)} ${middle - 3}v6M${toX.toFixed(1)} ${middle - 3}v6" stroke="${colors.ink}" stroke-opacity="0.55" fill="none"/>`,
  ]
}

/** Two strokes through a bar that goes on. */
function cut(y: number, atX: number): string {
  const stroke = (x: number) => `M${x.toFixed(1)} ${y + barHeight + 2}l5 ${-barHeight - 4}`
  return `<path d="${stroke(atX - 16)}${stroke(atX - 11)}" stroke="${colors.ground}" stroke-width="2.5" fill="none"/>`
}

function value(y: number, x: number, main: string, more: string, isOurs: boolean): string[] {
  const weight = isOurs ? ' font-weight="650"' : ''
  const rest =
    more === '' ? '' : `<tspan dx="8" fill="${colors.quiet}" font-size="12">${escape(more)}</tspan>`
  // Its own ground: the line of the limit may pass behind it.
  return [
    `<text x="${(x + 8).toFixed(1)}" y="${y + 13}" fill="${colors.ink}" stroke="${colors.ground}" stroke-width="4" paint-order="stroke" stroke-linejoin="round"${weight}>${escape(main)}${rest}</text>`,
  ]
}

function emptyRow(title: string, y: number, isAbsent: boolean): string[] {
  const word = isAbsent ? 'absent' : 'failed'
  return [
    text(barX - 10, y + 13, title, { anchor: 'end', fill: colors.quiet }),
    text(barX + 8, y + 13, word, { fill: colors.quiet, style: 'italic' }),
  ]
}

function axis(bottom: number): string {
  return `<line x1="${barX - 0.5}" x2="${barX - 0.5}" y1="${panelHeadHeight - 6}" y2="${bottom - 4}" stroke="${colors.quiet}"/>`
}

function limitLine(x: number, bottom: number, label: string): string[] {
  return [
    `<line x1="${x.toFixed(1)}" x2="${x.toFixed(1)}" y1="${panelHeadHeight - 8}" y2="${bottom - 2}" stroke="${colors.limit}" stroke-dasharray="4 3"/>`,
    text(x, panelHeadHeight - 13, label, {
      anchor: x > barX + 100 ? 'end' : 'start',
      fill: colors.limit,
      size: 12,
    }),
  ]
}

function footerLines({ machine, startedAt, participants, settings }: PeersReport): string[] {
  const peers = participants.filter(({ clients }) => clients.length > 0)
  const servers = peers.map(({ title, version, note }) => `${title} (${version ?? 'absent'}, ${note})`)
  const { cores, cpu, memoryBytes, kernel, node } = machine
  return [
    ...wrap(`Bars: ${runsText(Number(settings['repeat']))}. ${servers.join('; ')}.`),
    `${cores} × ${cpu}, ${Math.round(memoryBytes / 2 ** 30)} GiB, Linux ${kernel}, Node ${node}, ${startedAt.slice(0, 10)}. Producer, consumer and server share it.`,
  ]
}

const footerCharsMax = 135

/** Lines of at most so many characters, broken between words. */
function wrap(sentence: string): string[] {
  const lines: string[] = ['']
  for (const word of sentence.split(' ')) {
    const line = lines.at(-1)!
    if (line.length + word.length + 1 > footerCharsMax) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}

function msText(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : thousands(ms)
}

interface TextStyle {
  readonly size?: number
  readonly weight?: number
  readonly fill?: string
  readonly anchor?: 'start' | 'end'
  readonly style?: 'italic'
}

function text(x: number, y: number, what: string, style: TextStyle = {}): string {
  const { size, weight, fill = colors.ink, anchor, style: slant } = style
  const attributes = [
    ['x', x.toFixed(1).replace(/\.0$/, '')],
    ['y', y],
    ['fill', fill],
    ['font-size', size],
    ['font-weight', weight],
    ['text-anchor', anchor],
    ['font-style', slant],
  ].flatMap(([key, value]) => (value === undefined ? [] : [`${key}="${value}"`]))
  return `<text ${attributes.join(' ')}>${escape(what)}</text>`
}

function escape(what: string): string {
  return what.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function runsText(runs: number): string {
  return runs === 1 ? 'one run each' : `medians of ${runs} runs, whiskers from the slowest to the fastest`
}

/** The result as a table, with the ratios that outlast the machine. */
import { sizeName, type Case } from './cases.ts'
import type { Comparison } from './compare.ts'
import { groupBy, targetText, valueText, type Figure, type FigureRow } from './figures.ts'
import type { Run } from './measure.ts'
import type { Machine } from './proc.ts'
import { spreadOf, type Spread } from './statistics.ts'

export interface Row {
  readonly case: string
  readonly window: number
  readonly runs: number
  readonly perSecond: Spread
  /** Times the rate of the raw limit in the same run of the bench. */
  readonly ofRaw: number | null
  readonly brokerCpu: Spread | null
  readonly producerCpu: Spread | null
  readonly consumerCpu: Spread | null
  readonly brokerPeakBytes: Spread | null
  readonly p50Ms: Spread | null
  readonly p99Ms: Spread | null
  readonly drainPerSecond: Spread | null
  readonly lost: number | null
  readonly duplicated: number | null
  readonly othersShare: Spread
}

export interface Report {
  readonly machine: Machine
  readonly startedAt: string
  readonly settings: Readonly<Record<string, unknown>>
  readonly rows: readonly Row[]
  readonly runs: readonly Run[]
  /** With another checkout; none unless one was given. */
  readonly comparisons: readonly Comparison[]
  readonly figureRows: readonly FigureRow[]
  readonly figures: readonly Figure[]
}

type RunFigure = { [K in keyof Run]: Run[K] extends number | null ? K : never }[keyof Run]

export function summarize(cases: readonly Case[], runs: readonly Run[]): Row[] {
  const rows: Row[] = []
  for (const { name, against } of cases) {
    const own = runs.filter((run) => run.case === name)
    if (own.length === 0) continue
    const all = (figure: RunFigure) => own.map((run) => run[figure]).filter((value) => value !== null)
    const spread = (figure: RunFigure) => (all(figure).length === 0 ? null : spreadOf(all(figure)))
    const sum = (figure: RunFigure) =>
      all(figure).length === 0 ? null : all(figure).reduce((a, b) => a + b, 0)
    const perSecond = spreadOf(all('perSecond'))
    const raw = rows.find((row) => row.case === against)
    rows.push({
      case: name,
      window: own[0]!.window,
      runs: own.length,
      perSecond,
      ofRaw: raw === undefined ? null : perSecond.median / raw.perSecond.median,
      brokerCpu: spread('brokerCpu'),
      producerCpu: spread('producerCpu'),
      consumerCpu: spread('consumerCpu'),
      brokerPeakBytes: spread('brokerPeakBytes'),
      p50Ms: spread('p50Ms'),
      p99Ms: spread('p99Ms'),
      drainPerSecond: spread('drainPerSecond'),
      lost: sum('lost'),
      duplicated: sum('duplicated'),
      othersShare: spreadOf(all('othersShare')),
    })
  }
  return rows
}

export function renderReport({
  machine,
  startedAt,
  settings,
  rows,
  comparisons,
  figureRows,
}: Report): string {
  const { cores, cpu, memoryBytes, kernel, node } = machine
  const columns: [string, (row: Row) => string][] = [
    ['case', (row) => row.case],
    ['window', (row) => String(row.window)],
    ['messages/s', (row) => thousands(row.perSecond.median)],
    ['min – max', (row) => `${thousands(row.perSecond.min)} – ${thousands(row.perSecond.max)}`],
    ['× raw', (row) => (row.ofRaw === null ? '' : row.ofRaw.toFixed(2))],
    ['p50 ms', (row) => median(row.p50Ms, 2)],
    ['p99 ms', (row) => median(row.p99Ms, 2)],
    ['broker s/M', (row) => median(row.brokerCpu, 2)],
    ['producer', (row) => median(row.producerCpu, 2)],
    ['consumer', (row) => median(row.consumerCpu, 2)],
    [
      'peak MiB',
      (row) => (row.brokerPeakBytes === null ? '' : String(Math.round(row.brokerPeakBytes.median / 2 ** 20))),
    ],
    ['drain/s', (row) => (row.drainPerSecond === null ? '' : thousands(row.drainPerSecond.median))],
    ['lost', (row) => String(row.lost ?? '')],
    ['twice', (row) => String(row.duplicated ?? '')],
    ['others', (row) => `${Math.round(row.othersShare.median * 100)}%`],
  ]
  return [
    `mq-broker bench, ${startedAt}: ${cores} × ${cpu}, ${Math.round(memoryBytes / 2 ** 30)} GiB, Linux ${kernel}, Node ${node}`,
    Object.entries(settings)
      .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join('/') : String(value)}`)
      .join(', '),
    ...(rows.length > 0 ? ['', ...table(columns, rows), '', ...legend] : []),
    ...(comparisons.length > 0 ? ['', ...comparisonTable(comparisons)] : []),
    ...(figureRows.length > 0 ? ['', ...figureTable(figureRows)] : []),
  ].join('\n')
}

const legend = [
  's/M: CPU seconds for a million messages, of broker (or raw lmdb), producer and consumer. × raw: of raw lmdb in this',
  'run. drain/s: what W1 and W4 sent, received and acked afterwards. others: share of the machine that others used.',
]

function comparisonTable(comparisons: readonly Comparison[]): string[] {
  const ratio = (value: number | null) => value?.toFixed(2) ?? ''
  return table<Comparison>(
    [
      ['for one of the other checkout', (row) => row.case],
      ['messages/s', (row) => ratio(row.perSecond.median)],
      ['min – max', ({ perSecond }) => `${ratio(perSecond.min)} – ${ratio(perSecond.max)}`],
      ['broker CPU', (row) => ratio(row.brokerCpu)],
      ['producer', (row) => ratio(row.producerCpu)],
      ['consumer', (row) => ratio(row.consumerCpu)],
    ],
    comparisons,
  )
}

function figureTable(rows: readonly FigureRow[]): string[] {
  const text = (value: number) => (Number.isFinite(value) ? valueText(value) : 'never')
  return [...groupBy(rows, ({ of }) => of)].flatMap(([of, own], i) => [
    ...(i > 0 ? [''] : []),
    ...table<FigureRow>(
      [
        [of, ({ what, unit }) => `${what}, ${unit}`],
        ['median', ({ spread }) => text(spread.median)],
        ['min – max', ({ spread }) => `${text(spread.min)} – ${text(spread.max)}`],
        ['target', ({ target }) => targetText(target)],
        ['', ({ isMet }) => (isMet === null ? '' : isMet ? 'met' : 'MISSED')],
      ],
      own,
    ),
  ])
}

export function table<R>(columns: readonly [string, (row: R) => string][], rows: readonly R[]): string[] {
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))]
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i]!.length)))
  return cells.map((line) =>
    line
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  )
}

export function thousands(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

function median(spread: Spread | null, digits: number): string {
  return spread === null ? '' : spread.median.toFixed(digits)
}

export function settingsOf(settings: {
  sizesBytes: readonly number[]
  durationMs: number
  warmMs: number
  repeat: number
  windows: readonly number[]
  batches: readonly number[]
  warmedBytes: number
}): Record<string, unknown> {
  return {
    sizes: settings.sizesBytes.map(sizeName),
    seconds: settings.durationMs / 1000,
    'warm-up seconds': settings.warmMs / 1000,
    repeat: settings.repeat,
    'windows tried': settings.windows,
    'sendBatch of': settings.batches,
    'memory touched before': `${(settings.warmedBytes / 2 ** 30).toFixed(1)} GiB`,
    durability: 'fdatasync before each confirm',
  }
}

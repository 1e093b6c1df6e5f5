/** The result as a table, with the ratios that outlast the machine. */
import { limitKinds, sizeName, type Case, type LimitKind } from './cases.ts'
import type { Comparison } from './compare.ts'
import { groupBy, targetText, valueText, type Figure, type FigureRow, type TargetRow } from './figures.ts'
import { renderGrowth, type GrowthRow } from './growth-report.ts'
import type { GrowthRun } from './growth.ts'
import type { Run } from './measure.ts'
import { machineText, type Machine } from './proc.ts'
import { spreadOf, type Spread } from './statistics.ts'

export interface Row {
  readonly case: string
  readonly window: number
  /** Messages of one call, blob or frame; null: each by itself. */
  readonly batch: number | null
  readonly runs: number
  readonly perSecond: Spread
  /** Times the rate of each limit in the same run of the bench. */
  readonly of: Readonly<Partial<Record<LimitKind, number>>>
  readonly brokerCpu: Spread | null
  readonly producerCpu: Spread | null
  readonly consumerCpu: Spread | null
  readonly brokerPeakBytes: Spread | null
  readonly p50Ms: Spread | null
  readonly p99Ms: Spread | null
  readonly p999Ms: Spread | null
  readonly receivedP50Ms: Spread | null
  readonly receivedP99Ms: Spread | null
  readonly receivedP999Ms: Spread | null
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
  /** What was wanted of them. */
  readonly targets: readonly TargetRow[]
  readonly runs: readonly Run[]
  /** With another checkout; none unless one was given. */
  readonly comparisons: readonly Comparison[]
  readonly figureRows: readonly FigureRow[]
  readonly figures: readonly Figure[]
  readonly growthRows: readonly GrowthRow[]
  readonly growthRuns: readonly GrowthRun[]
}

type RunFigure = { [K in keyof Run]: Run[K] extends number | null ? K : never }[keyof Run]

export function summarize(cases: readonly Case[], runs: readonly Run[]): Row[] {
  const rows: Row[] = []
  for (const { name, against, batch } of cases) {
    const own = runs.filter((run) => run.case === name)
    if (own.length === 0) continue
    const all = (figure: RunFigure) => own.map((run) => run[figure]).filter((value) => value !== null)
    const spread = (figure: RunFigure) => (all(figure).length === 0 ? null : spreadOf(all(figure)))
    const sum = (figure: RunFigure) =>
      all(figure).length === 0 ? null : all(figure).reduce((a, b) => a + b, 0)
    const perSecond = spreadOf(all('perSecond'))
    const of: Partial<Record<LimitKind, number>> = {}
    for (const kind of limitKinds) {
      const limit = rows.find((row) => row.case === against[kind])
      if (limit !== undefined) of[kind] = perSecond.median / limit.perSecond.median
    }
    rows.push({
      case: name,
      window: own[0]!.window,
      batch,
      runs: own.length,
      perSecond,
      of,
      brokerCpu: spread('brokerCpu'),
      producerCpu: spread('producerCpu'),
      consumerCpu: spread('consumerCpu'),
      brokerPeakBytes: spread('brokerPeakBytes'),
      p50Ms: spread('p50Ms'),
      p99Ms: spread('p99Ms'),
      p999Ms: spread('p999Ms'),
      receivedP50Ms: spread('receivedP50Ms'),
      receivedP99Ms: spread('receivedP99Ms'),
      receivedP999Ms: spread('receivedP999Ms'),
      drainPerSecond: spread('drainPerSecond'),
      lost: sum('lost'),
      duplicated: sum('duplicated'),
      othersShare: spreadOf(all('othersShare')),
    })
  }
  return rows
}

export function renderReport(report: Report): string {
  const { machine, startedAt, settings, rows, targets, comparisons, figureRows, growthRows } = report
  const streams = rows.filter((row) => row.receivedP50Ms === null)
  const paced = rows.filter((row) => row.receivedP50Ms !== null)
  return [
    `mq-broker bench, ${startedAt}: ${machineText(machine)}`,
    Object.entries(settings)
      .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join('/') : String(value)}`)
      .join(', '),
    ...(streams.length > 0 ? ['', ...table(rateColumns, streams)] : []),
    ...(paced.length > 0 ? ['', ...table(latencyColumns, paced)] : []),
    ...(rows.length > 0 ? ['', ...legend] : []),
    ...targetTable(targets),
    ...(comparisons.length > 0 ? ['', ...comparisonTable(comparisons)] : []),
    ...(figureRows.length > 0 ? ['', ...figureTable(figureRows)] : []),
    ...renderGrowth(growthRows),
  ].join('\n')
}

export type Columns<R> = readonly [string, (row: R) => string][]

const rate: Columns<Row> = [
  ['messages/s', (row) => thousands(row.perSecond.median)],
  ['min – max', (row) => `${thousands(row.perSecond.min)} – ${thousands(row.perSecond.max)}`],
]

const costs: Columns<Row> = [
  ['broker s/M', (row) => median(row.brokerCpu, 2)],
  ['producer', (row) => median(row.producerCpu, 2)],
  ['consumer', (row) => median(row.consumerCpu, 2)],
  [
    'peak MiB',
    (row) => (row.brokerPeakBytes === null ? '' : String(Math.round(row.brokerPeakBytes.median / 2 ** 20))),
  ],
]

const accounts: Columns<Row> = [
  ['lost', (row) => String(row.lost ?? '')],
  ['twice', (row) => String(row.duplicated ?? '')],
  ['others', (row) => `${Math.round(row.othersShare.median * 100)}%`],
]

const rateColumns: Columns<Row> = [
  ['case', (row) => row.case],
  ['window', (row) => String(row.window)],
  ...rate,
  ['× raw', (row) => times(row.of.raw)],
  ['× prealloc.', (row) => times(row.of.preallocated)],
  ['× sockets', (row) => times(row.of.sockets)],
  ['p50 ms', (row) => median(row.p50Ms, 2)],
  ['p99 ms', (row) => median(row.p99Ms, 2)],
  ...costs,
  ['drain/s', (row) => (row.drainPerSecond === null ? '' : thousands(row.drainPerSecond.median))],
  ...accounts,
]

const latencyColumns: Columns<Row> = [
  ['case', (row) => row.case],
  ...rate,
  ['confirm p50 ms', (row) => median(row.p50Ms, 2)],
  ['p99', (row) => median(row.p99Ms, 2)],
  ['p99.9', (row) => median(row.p999Ms, 2)],
  ['received p50 ms', (row) => median(row.receivedP50Ms, 2)],
  ['p99', (row) => median(row.receivedP99Ms, 2)],
  ['p99.9', (row) => median(row.receivedP999Ms, 2)],
  ['min – max of p99', ({ receivedP99Ms }) => spreadText(receivedP99Ms, 2)],
  ...costs,
  ...accounts,
]

const legend = [
  's/M: CPU seconds for a million messages, of broker (or raw lmdb), producer and consumer (or the ends of the socket',
  'pair). × raw, × prealloc., × sockets: of raw lmdb in a file that grows, in one whose blocks were written before, and of',
  'the socket pair, or of as many sockets that answer each frame, with frames or blobs of that size in this run. p50, p99:',
  'from the send to the confirm; of raw lmdb, of a blob. drain/s: what W1 and W4 sent, received and acked afterwards. others:',
  'share of the machine that others used. Rates and latencies are medians of the runs.',
]

/** Nothing where nothing was wanted. */
export function targetTable(targets: readonly TargetRow[]): string[] {
  if (targets.length === 0) return []
  return [
    '',
    ...table<TargetRow>(
      [
        ['target', ({ what }) => what],
        ['wanted', ({ target }) => targetText(target)],
        ['measured', ({ value }) => (value === null ? 'not measured' : ratioText(value))],
        ['', ({ isMet }) => (isMet === null ? '' : isMet ? 'met' : 'MISSED')],
      ],
      targets,
    ),
  ]
}

/** A ratio, to as many digits as mean something. */
export function ratioText(value: number): string {
  return value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)
}

function comparisonTable(comparisons: readonly Comparison[]): string[] {
  return table<Comparison>(
    [
      ['for one of the other checkout', (row) => row.case],
      ['messages/s', (row) => times(row.perSecond.median)],
      ['min – max', ({ perSecond }) => `${times(perSecond.min)} – ${times(perSecond.max)}`],
      ['broker CPU', (row) => times(row.brokerCpu)],
      ['producer', (row) => times(row.producerCpu)],
      ['consumer', (row) => times(row.consumerCpu)],
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

export function table<R>(columns: Columns<R>, rows: readonly R[]): string[] {
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

function spreadText(spread: Spread | null, digits: number): string {
  return spread === null ? '' : `${spread.min.toFixed(digits)} – ${spread.max.toFixed(digits)}`
}

function times(value: number | null | undefined): string {
  return value?.toFixed(2) ?? ''
}

export function settingsOf(settings: {
  sizesBytes: readonly number[]
  durationMs: number
  pacedMs: number
  stepMs: number
  warmMs: number
  repeat: number
  windows: readonly number[]
  batches: readonly number[]
  warmedBytes: number
}): Record<string, unknown> {
  return {
    sizes: settings.sizesBytes.map(sizeName),
    seconds: settings.durationMs / 1000,
    'seconds of W3': settings.pacedMs / 1000,
    'seconds of growth': settings.stepMs / 1000,
    'warm-up seconds': (settings.warmMs / 1000).toFixed(1),
    repeat: settings.repeat,
    'windows tried': settings.windows,
    'sendBatch of': settings.batches,
    'memory touched before': `${(settings.warmedBytes / 2 ** 30).toFixed(1)} GiB`,
    durability: 'fdatasync before each confirm',
  }
}

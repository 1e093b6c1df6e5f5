/** What growth came to: a table for each line, with the steps where it falls off. */
import { sizeName } from './cases.ts'
import { cliffOf, type Cliff, type Point } from './cliffs.ts'
import { groupBy } from './figures.ts'
import type { CurveName, GrowthRun } from './growth.ts'
import { table, thousands, type Columns } from './report.ts'
import { spreadOf, type Spread } from './statistics.ts'

/** All runs of one step. Latencies and memory are medians. */
export interface GrowthRow extends Omit<GrowthRun, 'messages' | 'perSecond' | 'brokerCpu'> {
  readonly runs: number
  readonly perSecond: Spread
  readonly brokerCpu: Spread
  /** Against the step before it. */
  readonly cliff: Cliff | null
}

/** Curve by curve, in the order of their steps. */
export function summarizeGrowth(runs: readonly GrowthRun[]): GrowthRow[] {
  return [...groupBy(runs, ({ curve }) => curve).values()].flatMap((ofCurve) => {
    const steps = [...groupBy(ofCurve, ({ at }) => String(at)).values()].map(rowOf)
    return steps.map((row, i) => ({
      ...row,
      cliff: i === 0 ? null : cliffOf(judged(steps[i - 1]!), judged(row)),
    }))
  })
}

function judged({ bodyBytes, perSecond, receivedP50Ms, othersShare }: Omit<GrowthRow, 'cliff'>): Point {
  return { bodyBytes, perSecond: perSecond.median, receivedP50Ms, othersShare }
}

function rowOf(runs: readonly GrowthRun[]): Omit<GrowthRow, 'cliff'> {
  const { curve, at, bodyBytes, pacePerSecond } = runs[0]!
  const median = (of: (run: GrowthRun) => number) => spreadOf(runs.map(of)).median
  const medianOrNull = (of: (run: GrowthRun) => number | null) => {
    const values = runs.map(of).filter((value) => value !== null)
    return values.length === 0 ? null : spreadOf(values).median
  }
  const sum = (of: (run: GrowthRun) => number) => runs.reduce((total, run) => total + of(run), 0)
  return {
    curve,
    at,
    bodyBytes,
    runs: runs.length,
    perSecond: spreadOf(runs.map((run) => run.perSecond)),
    brokerCpu: spreadOf(runs.map((run) => run.brokerCpu)),
    brokerAnonymousBytes: median((run) => run.brokerAnonymousBytes),
    pacePerSecond,
    confirmP50Ms: medianOrNull((run) => run.confirmP50Ms),
    confirmP99Ms: medianOrNull((run) => run.confirmP99Ms),
    receivedP50Ms: medianOrNull((run) => run.receivedP50Ms),
    receivedP99Ms: medianOrNull((run) => run.receivedP99Ms),
    lost: sum((run) => run.lost),
    duplicated: sum((run) => run.duplicated),
    othersShare: median((run) => run.othersShare),
  }
}

export const curveTitles: { readonly [Name in CurveName]: string } = {
  queues: 'queues',
  connections: 'connections of each side',
  partitions: 'partitions',
  sizes: 'body',
  backlog: 'waiting on another queue',
  ontoBacklog: 'waiting on the same queue',
}

/** Where a step is, as text. */
export function atText({ curve, at }: Pick<GrowthRow, 'curve' | 'at'>): string {
  return curve === 'sizes' ? sizeName(at) : thousands(at)
}

export function renderGrowth(rows: readonly GrowthRow[]): string[] {
  const curves = [...groupBy(rows, ({ curve }) => curve)]
  if (curves.length === 0) return []
  const tables = curves.flatMap(([curve, own]) => [
    '',
    ...table<GrowthRow>([[curveTitles[curve as CurveName], atText], ...columns], own),
  ])
  return [...tables, '', ...legend]
}

const ms = (value: number | null) => value?.toFixed(2) ?? ''

const columns: Columns<GrowthRow> = [
  ['messages/s', ({ perSecond }) => thousands(perSecond.median)],
  ['min – max', ({ perSecond }) => `${thousands(perSecond.min)} – ${thousands(perSecond.max)}`],
  ['MiB/s', (row) => bytesPerSecondText(row)],
  ['broker s/M', ({ brokerCpu }) => brokerCpu.median.toFixed(2)],
  ['anonymous MiB', ({ brokerAnonymousBytes }) => thousands(brokerAnonymousBytes / 2 ** 20)],
  ['paced at', ({ pacePerSecond }) => (pacePerSecond === null ? '' : `${thousands(pacePerSecond)}/s`)],
  ['confirm p50 ms', ({ confirmP50Ms }) => ms(confirmP50Ms)],
  ['p99', ({ confirmP99Ms }) => ms(confirmP99Ms)],
  ['received p50 ms', ({ receivedP50Ms }) => ms(receivedP50Ms)],
  ['p99', ({ receivedP99Ms }) => ms(receivedP99Ms)],
  ['lost', ({ lost }) => String(lost)],
  ['twice', ({ duplicated }) => String(duplicated)],
  ['others', ({ othersShare }) => `${Math.round(othersShare * 100)}%`],
  ['', ({ cliff }) => cliffText(cliff)],
]

export function bytesPerSecond({ perSecond, bodyBytes }: Pick<GrowthRow, 'perSecond' | 'bodyBytes'>): number {
  return perSecond.median * bodyBytes
}

function bytesPerSecondText(row: GrowthRow): string {
  const mebibytes = bytesPerSecond(row) / 2 ** 20
  return mebibytes < 10 ? mebibytes.toFixed(1) : thousands(mebibytes)
}

export function cliffText(cliff: Cliff | null): string {
  if (cliff === null) return ''
  const { rateLost, latencyTimes, isDoubtful } = cliff
  const parts = [
    ...(rateLost === null ? [] : [`rate −${Math.round(rateLost * 100)}%`]),
    ...(latencyTimes === null ? [] : [`latency × ${latencyTimes.toFixed(1)}`]),
  ]
  return `CLIFF${isDoubtful ? '?' : ''} ${parts.join(', ')}`
}

const legend = [
  'Sent one by one, received by `consume` and acked, 1 KiB and one of each unless the table says otherwise (1,000 queues:',
  'four consumers, for one may have 256 subscriptions). What waits is of 100 B, and so is what is sent onto it, which nobody',
  'receives meanwhile. The smallest body has what the account needs, 12 bytes. Latencies are of a second half, at the pace',
  'that is told. CLIFF: more than 25% lost against the line before it, or a median that takes more than a third longer; of',
  'bodies that grow, in messages and in bytes both. CLIFF?: others had a fifth of the machine in one of the two.',
]

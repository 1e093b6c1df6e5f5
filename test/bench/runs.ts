/** Runs as the bench has them, for what is done with them. */
import type { Case } from '../../bench/cases.ts'
import type { GrowthRun } from '../../bench/growth.ts'
import { summarizeGrowth } from '../../bench/growth-report.ts'
import { noFigures, type Run } from '../../bench/measure.ts'
import { summarize, type Report } from '../../bench/report.ts'
import { judgeRows } from '../../bench/targets.ts'

export function run(what: string, perSecond: number, more: Partial<Run> = {}): Run {
  return {
    case: what,
    window: 1,
    messages: 1,
    elapsedMs: 1,
    perSecond,
    ...noFigures,
    lost: 0,
    duplicated: 0,
    othersShare: 0,
    ...more,
  }
}

export function growthRun(more: Partial<GrowthRun>): GrowthRun {
  return {
    curve: 'queues',
    at: 1,
    bodyBytes: 1024,
    messages: 1,
    perSecond: 1000,
    brokerCpu: 1,
    brokerAnonymousBytes: 50 << 20,
    pacePerSecond: 1000,
    confirmP50Ms: 1,
    confirmP99Ms: 2,
    receivedP50Ms: 1,
    receivedP99Ms: 3,
    lost: 0,
    duplicated: 0,
    othersShare: 0,
    ...more,
  }
}

export function reportOf(
  cases: readonly Case[],
  runs: readonly Run[],
  growthRuns: readonly GrowthRun[] = [],
): Report {
  const rows = summarize(cases, runs)
  return {
    machine: { cores: 2, cpu: 'A & B <C>', memoryBytes: 8 * 2 ** 30, kernel: '6.1', node: 'v20', lmdb: '3' },
    startedAt: '2026-01-02T03:04:05.678Z',
    settings: { repeat: 3 },
    rows,
    targets: judgeRows(rows),
    runs,
    comparisons: [],
    figureRows: [],
    figures: [],
    growthRows: summarizeGrowth(growthRuns),
    growthRuns,
  }
}

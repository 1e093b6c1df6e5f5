/** What of a soak must stay flat, and how flat. A leak shows in an hour at the latest; noise must not show at all. */
import { judge, type Bound, type Verdict } from './judge.ts'
import type { Measure, Sample } from './sample.ts'

const mebibyte = 2 ** 20

/** Left out are measures that only explain others: CPU, and delays of a machine that is shared. */
export const bounds = {
  residentBytes: { bad: 'up', share: 0.15, amount: 24 * mebibyte },
  beyondMapBytes: { bad: 'up', share: 0.15, amount: 16 * mebibyte },
  heapUsedBytes: { bad: 'up', share: 0.2, amount: 8 * mebibyte },
  openDescriptors: { bad: 'up', share: 0.1, amount: 8 },
  dataBytes: { bad: 'up', share: 0.2, amount: 16 * mebibyte },
  segments: { bad: 'up', share: 0.2, amount: 3 },
  sentPerSecond: { bad: 'down', share: 0.15, amount: 50 },
  ackedPerSecond: { bad: 'down', share: 0.15, amount: 50 },
  messages: { bad: 'up', share: 0.25, amount: 500 },
} as const satisfies Partial<Record<Measure, Bound>>

export type Judged = keyof typeof bounds
export type Verdicts = Readonly<Record<Judged, Verdict>>

export function judgeAll(samples: readonly Sample[]): Verdicts {
  const times = samples.map(({ seconds }) => seconds)
  const verdicts = Object.entries(bounds).map(([measure, bound]) => {
    const values = samples.map((sample) => sample[measure as Judged])
    return [measure, judge(times, values, bound)]
  })
  return Object.fromEntries(verdicts) as Verdicts
}

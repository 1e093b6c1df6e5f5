/** This checkout beside another one, in the same minutes: each case runs in both, one after the other, first this, then that. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Case } from './cases.ts'
import { noFigures, type measure, type Run } from './measure.ts'
import { spreadOf, type Spread } from './statistics.ts'

/** Null: the other bench cannot measure that. */
export type Measure = (...what: Parameters<typeof measure>) => Promise<Run | null>

/** @throws Error with a sentence for whoever typed it */
export async function measureOf(checkout: string): Promise<Measure> {
  const path = join(resolve(checkout), 'build', 'bench', 'measure.js')
  if (!existsSync(path)) throw new Error(`--against: ${path} is not there; run \`npm run build:all\` in it`)
  const other = (await import(pathToFileURL(path).href)) as { measure: typeof measure }
  return async (what, options) => {
    // An older bench has fewer figures and kinds, and would let such a file grow.
    if (what.preallocated === true) return null
    const run: Run | undefined = await other.measure(what, options)
    return run === undefined ? null : { ...noFigures, ...run }
  }
}

/** Of one case, what this checkout does for what the other does, run by run. */
export interface Comparison {
  readonly case: string
  readonly perSecond: Spread
  /** Medians of CPU seconds; null where there is no such process. */
  readonly brokerCpu: number | null
  readonly producerCpu: number | null
  readonly consumerCpu: number | null
}

export function compare(cases: readonly Case[], ours: readonly Run[], theirs: readonly Run[]): Comparison[] {
  const known = cases.filter(({ name }) => theirs.some((run) => run.case === name))
  return known.map(({ name }) => {
    const own = ours.filter((run) => run.case === name)
    const other = theirs.filter((run) => run.case === name)
    const ratios = (figure: (run: Run) => number | null): number[] =>
      own.flatMap((run, i) => {
        // What the other checkout's bench does not know it did not measure.
        const [a, b] = [figure(run), other[i] === undefined ? null : figure(other[i])]
        return a === null || b === null || b === 0 ? [] : [a / b]
      })
    const median = (figure: (run: Run) => number | null): number | null => {
      const all = ratios(figure)
      return all.length === 0 ? null : spreadOf(all).median
    }
    return {
      case: name,
      perSecond: spreadOf(ratios(({ perSecond }) => perSecond)),
      brokerCpu: median(({ brokerCpu }) => brokerCpu),
      producerCpu: median(({ producerCpu }) => producerCpu),
      consumerCpu: median(({ consumerCpu }) => consumerCpu),
    }
  })
}

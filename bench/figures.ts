/** Figures that are compared with a target: what a state costs, not how fast a stream is. */
import { spreadOf, type Spread } from './statistics.ts'

export type Unit = 'MiB' | 'ms' | 's' | '/s' | 'bytes a byte' | '% of a core' | 'messages' | 'segments'

/** One figure of one run. */
export interface Figure {
  readonly of: string
  readonly what: string
  readonly unit: Unit
  readonly value: number
  /** What is wanted; null: told for the reader's sake. */
  readonly target: Target | null
}

export type Target = { readonly atMost: number } | { readonly atLeast: number }

/** A ratio that is wanted, and what it was. */
export interface TargetRow {
  readonly what: string
  readonly target: Target
  /** Null: what it takes was not measured, or failed. */
  readonly value: number | null
  readonly isMet: boolean | null
}

/** One figure over all runs. */
export interface FigureRow extends Omit<Figure, 'value'> {
  readonly spread: Spread
  readonly isMet: boolean | null
}

export class Figures {
  readonly all: Figure[] = []
  readonly #of: string

  constructor(of: string) {
    this.#of = of
  }

  add(what: string, unit: Unit, value: number, target: Target | null = null): void {
    this.all.push({ of: this.#of, what, unit, value, target })
  }

  addBytes(what: string, bytes: number, targetMiB: number | null = null): void {
    this.add(what, 'MiB', bytes / 2 ** 20, targetMiB === null ? null : { atMost: targetMiB })
  }
}

/** Those of the same name together, in the order of their first. The targets of a figure may differ a little by run. */
export function summarizeFigures(figures: readonly Figure[]): FigureRow[] {
  const groups = groupBy(figures, ({ of, what }) => `${of}\n${what}`)
  return [...groups.values()].map((group) => {
    const { of, what, unit, target } = group.at(-1)!
    const spread = spreadOf(group.map(({ value }) => value))
    return { of, what, unit, target, spread, isMet: target === null ? null : meets(spread.median, target) }
  })
}

/** In the order in which the keys come. */
export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const group = groups.get(keyOf(item))
    if (group === undefined) groups.set(keyOf(item), [item])
    else group.push(item)
  }
  return groups
}

export function meets(value: number, target: Target): boolean {
  return 'atMost' in target ? value <= target.atMost : value >= target.atLeast
}

export function targetText(target: Target | null): string {
  if (target === null) return ''
  return 'atMost' in target ? `≤ ${valueText(target.atMost)}` : `≥ ${valueText(target.atLeast)}`
}

export function valueText(value: number): string {
  return value >= 1000 || Number.isInteger(value)
    ? Math.round(value).toLocaleString('en-US')
    : value.toFixed(value < 10 ? 2 : 0)
}

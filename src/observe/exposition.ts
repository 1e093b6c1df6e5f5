/**
 * Writes metrics in Prometheus's text format, version 0.0.4. A writer of our own rather than a client library: what is
 * counted lies in plain fields all over the broker and is read when somebody asks, so a library's counters would only
 * be copies, to be kept in step with queues that come and go.
 */
import type { Histogram } from './histogram.ts'

export const expositionType = 'text/plain; version=0.0.4; charset=utf-8'

export type MetricType = 'counter' | 'gauge' | 'histogram' | 'summary'
export type Labels = Readonly<Record<string, string>>

export class Exposition {
  readonly #lines: string[] = []

  /** Begins a metric: its samples follow, all of them, before the next begins. */
  family(name: string, type: MetricType, help: string): void {
    this.#lines.push(
      `# HELP ${name} ${help.replace(/\\/g, '\\\\').replace(/\n/g, '\\n')}`,
      `# TYPE ${name} ${type}`,
    )
  }

  sample(name: string, labels: Labels, value: number): void {
    const written = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`)
    this.#lines.push(`${name}${written.length === 0 ? '' : `{${written.join(',')}}`} ${numeral(value)}`)
  }

  /** A metric with one sample and no labels. */
  single(name: string, type: MetricType, help: string, value: number): void {
    this.family(name, type, help)
    this.sample(name, {}, value)
  }

  histogram(name: string, help: string, { bounds, counts, sum }: Histogram): void {
    this.family(name, 'histogram', help)
    let count = 0
    for (const [i, n] of counts.entries()) {
      count += n
      this.sample(`${name}_bucket`, { le: i < bounds.length ? String(bounds[i]) : '+Inf' }, count)
    }
    this.sample(`${name}_sum`, {}, sum)
    this.sample(`${name}_count`, {}, count)
  }

  toString(): string {
    return `${this.#lines.join('\n')}\n`
  }
}

/** A value between quotes. */
function escaped(text: string): string {
  return text.replace(/[\\"\n]/g, (character) => (character === '\n' ? '\\n' : `\\${character}`))
}

function numeral(value: number): string {
  if (value === Infinity) return '+Inf'
  return value === -Infinity ? '-Inf' : String(value)
}

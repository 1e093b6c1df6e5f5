/** What a soak measures of its broker, from outside: once a second, from /proc, /metrics and the data directory. */
import { diskUseOf } from '../../bench/disk.ts'
import { memoryOf } from '../../bench/proc.ts'
import { queues } from './load.ts'

/** Names of the measures, in the order of the samples' columns; the first is seconds since the load began. */
export const measures = [
  'seconds',
  'residentBytes',
  'beyondMapBytes',
  'heapUsedBytes',
  'openDescriptors',
  'dataBytes',
  'segments',
  'lagMaxMs',
  'cpuShare',
  'sentPerSecond',
  'ackedPerSecond',
  'messages',
] as const
export type Measure = (typeof measures)[number]
export type Sample = Readonly<Record<Measure, number>>

/** Counted over queues that live as long as the soak: those that are deleted take their counters with them. */
const counted = new Set<string>([queues.work, queues.poison, queues.later])

interface Counters {
  readonly atMs: number
  readonly sent: number
  readonly acked: number
  readonly cpuSeconds: number
}

export class Sampler {
  readonly #pid: number
  readonly #http: string
  readonly #dataDir: string
  readonly #startMs = performance.now()
  #before: Counters | null = null

  constructor(broker: { readonly pid: number; readonly http: string }, dataDir: string) {
    this.#pid = broker.pid
    this.#http = broker.http
    this.#dataDir = dataDir
  }

  /** Null the first time: there are no rates yet. */
  async take(): Promise<Sample | null> {
    const answer = await fetch(`http://${this.#http}/metrics`)
    if (!answer.ok) throw new Error(`/metrics answers ${answer.status}`)
    const metrics = parseMetrics(await answer.text())
    const atMs = performance.now()
    const now: Counters = {
      atMs,
      sent: sum(metrics, 'mq_sent_messages_total'),
      acked: sum(metrics, 'mq_acked_messages_total'),
      cpuSeconds: one(metrics, 'process_cpu_seconds_total'),
    }
    const before = this.#before
    this.#before = now
    if (before === null) return null
    const seconds = (atMs - before.atMs) / 1000
    const { residentBytes, beyondMapBytes } = memoryOf(this.#pid)
    const disk = diskUseOf(this.#dataDir)
    return {
      seconds: (atMs - this.#startMs) / 1000,
      residentBytes,
      beyondMapBytes,
      heapUsedBytes: one(metrics, 'nodejs_heap_size_used_bytes'),
      openDescriptors: one(metrics, 'process_open_fds'),
      dataBytes: disk.bytes,
      segments: disk.segments,
      lagMaxMs: 1000 * one(metrics, 'mq_event_loop_lag_seconds', { quantile: '1' }),
      cpuShare: (now.cpuSeconds - before.cpuSeconds) / seconds,
      sentPerSecond: (now.sent - before.sent) / seconds,
      ackedPerSecond: (now.acked - before.acked) / seconds,
      messages: sum(metrics, 'mq_queue_messages'),
    }
  }
}

export interface Metric {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Of Prometheus's text format, what the broker writes of it. */
export function parseMetrics(text: string): Metric[] {
  const line = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/
  return text.split('\n').flatMap((each) => {
    const match = line.exec(each)
    if (match === null) return []
    const labels = [...(match[2] ?? '').matchAll(/([a-z_]+)="([^"]*)"/g)].map(([, name, value]) => [
      name!,
      value!,
    ])
    return [{ name: match[1]!, labels: Object.fromEntries(labels), value: Number(match[3]) }]
  })
}

function one(metrics: readonly Metric[], name: string, labels: Record<string, string> = {}): number {
  const found = metrics.find((metric) => {
    return (
      metric.name === name && Object.entries(labels).every(([label, value]) => metric.labels[label] === value)
    )
  })
  if (found === undefined) throw new Error(`/metrics does not tell ${name}`)
  return found.value
}

function sum(metrics: readonly Metric[], name: string): number {
  return metrics
    .filter((metric) => metric.name === name && counted.has(metric.labels['queue'] ?? ''))
    .reduce((total, { value }) => total + value, 0)
}

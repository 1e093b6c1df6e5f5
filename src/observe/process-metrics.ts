/** What `/metrics` tells of the process: named as Prometheus's own client libraries name it. */
import { readdirSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Clock } from '../env.ts'
import type { Exposition } from './exposition.ts'

/** How often the loop's delay is sampled, in milliseconds: what is measured includes this much waiting. */
const resolutionMs = 20
const quantiles = [0.5, 0.9, 0.99, 1]

export class ProcessMetrics {
  readonly #startedSeconds: number
  readonly #delay = monitorEventLoopDelay({ resolution: resolutionMs })
  /** Of earlier times, since a look forgets. */
  #samples = 0
  #lagSeconds = 0

  constructor(clock: Clock) {
    this.#startedSeconds = clock.nowMs() / 1000 - process.uptime()
    this.#delay.enable()
  }

  write(out: Exposition): void {
    this.#writeLag(out)
    const { user, system } = process.cpuUsage()
    const cpu = 'CPU time spent, in seconds.'
    out.single('process_cpu_seconds_total', 'counter', cpu, (user + system) / 1e6)
    out.single('process_cpu_user_seconds_total', 'counter', `${cpu} In user space.`, user / 1e6)
    out.single('process_cpu_system_seconds_total', 'counter', `${cpu} In the system.`, system / 1e6)
    out.single(
      'process_start_time_seconds',
      'gauge',
      'When the process began, in seconds since 1970.',
      this.#startedSeconds,
    )
    const memory = process.memoryUsage()
    out.single('process_resident_memory_bytes', 'gauge', 'Memory that is in RAM.', memory.rss)
    out.single('nodejs_heap_size_total_bytes', 'gauge', 'JavaScript heap, taken.', memory.heapTotal)
    out.single('nodejs_heap_size_used_bytes', 'gauge', 'JavaScript heap, in use.', memory.heapUsed)
    out.single('nodejs_external_memory_bytes', 'gauge', 'Buffers and the like.', memory.external)
    const fds = openDescriptors()
    if (fds !== null) out.single('process_open_fds', 'gauge', 'File descriptors that are open.', fds)
  }

  /** Quantiles are of the time since the last look: those of a whole life would hide a bad hour. */
  #writeLag(out: Exposition): void {
    const name = 'mq_event_loop_lag_seconds'
    const delay = this.#delay
    out.family(name, 'summary', 'How late the event loop was; quantiles since they were last asked for.')
    const lag = (ns: number): number => Math.max(0, ns / 1e9 - resolutionMs / 1000)
    const isEmpty = delay.count === 0
    for (const quantile of quantiles) {
      const seconds = isEmpty ? 0 : lag(delay.percentile(quantile * 100))
      out.sample(name, { quantile: String(quantile) }, seconds)
    }
    if (!isEmpty) {
      this.#samples += delay.count
      this.#lagSeconds += delay.count * lag(delay.mean)
    }
    delay.reset()
    out.sample(`${name}_sum`, {}, this.#lagSeconds)
    out.sample(`${name}_count`, {}, this.#samples)
  }
}

/** Where the system tells. */
function openDescriptors(): number | null {
  try {
    return readdirSync('/proc/self/fd').length
  } catch {
    return null
  }
}

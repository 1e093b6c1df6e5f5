/**
 * The loads that the producers' processes make, whatever they send to. One message a promise: `window` loops, each with a
 * body of its own, which it changes only once the message it was in is confirmed. That is the cheapest load there can be.
 */
import { createBody, numberBody } from './bodies.ts'
import { nowMs, percentile, type Latency } from './statistics.ts'

export interface LoadTask {
  readonly bodyBytes: number
  readonly tag: number
  /** Messages of one `sendBatch`; null: each is a `send`. */
  readonly batch: number | null
  /** Messages not yet confirmed at most. */
  readonly window: number
  readonly durationMs: number
  readonly countMax: number
  /** Number of the first message. */
  readonly first: number
}

export interface SendResult {
  readonly confirmed: number
  readonly startMs: number
  readonly endMs: number
  readonly cpuSeconds: number
}

export interface LatencyResult extends SendResult, Latency {}

/** What is sent to. All reject when a message was not confirmed. */
export interface LoadTarget<Entry> {
  send(body: Buffer): Promise<unknown>
  /** A body as one of a batch, made once. */
  entryOf(body: Buffer): Entry
  sendBatch(entries: readonly Entry[]): Promise<unknown>
}

/** A window of messages, or of batches, each sent again once it is confirmed. */
export async function sendSteadily<Entry>(task: LoadTask, target: LoadTarget<Entry>): Promise<SendResult> {
  const { bodyBytes, tag, batch, window, durationMs, first } = task
  const end = first + task.countMax
  let next = first
  let confirmed = 0
  let deadlineMs = 0
  let isOver = false
  // Asked rarely: reading the clock for every message would cost a tenth of sending it.
  const over = () => {
    if (!isOver && performance.now() >= deadlineMs) isOver = true
    return isOver
  }
  const sendEach = async (body: Buffer) => {
    while (!isOver && next < end) {
      if ((next & 63) === 0 && over()) return
      numberBody(body, next++)
      await target.send(body)
      confirmed++
    }
  }
  const sendBatches = async (bodies: readonly Buffer[]) => {
    const entries = bodies.map((body) => target.entryOf(body))
    while (next + bodies.length <= end && !over()) {
      for (const body of bodies) numberBody(body, next++)
      await target.sendBatch(entries)
      confirmed += bodies.length
    }
  }
  const body = () => createBody(bodyBytes, tag)
  const listOf = <T>(count: number, make: () => T) => Array.from({ length: count }, make)
  const bodies = batch === null ? listOf(window, body) : []
  const batches =
    batch === null ? [] : listOf(Math.max(1, Math.round(window / batch)), () => listOf(batch, body))
  const cpu = process.cpuUsage()
  const startMs = nowMs()
  deadlineMs = performance.now() + durationMs
  await Promise.all([...bodies.map(sendEach), ...batches.map(sendBatches)])
  return { confirmed, startMs, endMs: nowMs(), cpuSeconds: secondsSince(cpu) }
}

/** Each is awaited before the next, by each of those who send. */
export async function sendOneByOne(
  task: LoadTask,
  ...senders: readonly ((body: Buffer) => Promise<unknown>)[]
): Promise<LatencyResult> {
  const latenciesMs: number[] = []
  let sent = 0
  const cpu = process.cpuUsage()
  const startMs = nowMs()
  const deadlineMs = performance.now() + task.durationMs
  const sendEach = async (send: (body: Buffer) => Promise<unknown>) => {
    const body = createBody(task.bodyBytes, task.tag)
    for (let at = performance.now(); at < deadlineMs && sent < task.countMax;) {
      numberBody(body, task.first + sent++)
      await send(body)
      const now = performance.now()
      latenciesMs.push(now - at)
      at = now
    }
  }
  await Promise.all(senders.map(sendEach))
  const endMs = nowMs()
  const sorted = Float64Array.from(latenciesMs).sort()
  return {
    confirmed: sorted.length,
    startMs,
    endMs,
    cpuSeconds: secondsSince(cpu),
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    p999Ms: percentile(sorted, 0.999),
  }
}

/** Of the processor, by this process. */
export function secondsSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start)
  return (user + system) / 1e6
}

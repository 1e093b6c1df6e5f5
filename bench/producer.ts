/**
 * The producer's process. One message a promise: `window` loops, each with a body of its own, which it changes only
 * once the message it was in is confirmed. That is the cheapest load there can be, and `generate` measures it alone.
 */
import { connect, type MqClient } from '../src/index.ts'
import { createBody, numberBody } from './bodies.ts'
import { nowMs, percentile } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface SendTask {
  readonly queue: string
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

export interface LatencyResult extends SendResult {
  readonly p50Ms: number
  readonly p99Ms: number
}

type Send = Pick<MqClient, 'send' | 'sendBatch'>

let client: MqClient | null = null

const steps = {
  async connect({ server }: { server: string }): Promise<void> {
    client = await connect({ servers: [server], name: 'bench-producer' })
  },

  async createQueue({ queue }: { queue: string }): Promise<void> {
    await client!.createQueue(queue)
  },

  send: (task: SendTask) => run(task, client!),

  /** The same with nowhere to send to: what the load itself costs. */
  generate(task: SendTask) {
    const done = Promise.resolve() as Promise<never>
    const all = Promise.resolve([]) as Promise<never>
    return run(task, { send: () => done, sendBatch: () => all })
  },

  async oneByOne(task: SendTask): Promise<LatencyResult> {
    const latenciesMs: number[] = []
    const body = createBody(task.bodyBytes, task.tag)
    const cpu = process.cpuUsage()
    const startMs = nowMs()
    const deadlineMs = performance.now() + task.durationMs
    for (let at = performance.now(); at < deadlineMs && latenciesMs.length < task.countMax;) {
      numberBody(body, task.first + latenciesMs.length)
      await client!.send(task.queue, body)
      const now = performance.now()
      latenciesMs.push(now - at)
      at = now
    }
    const endMs = nowMs()
    const sorted = Float64Array.from(latenciesMs).sort()
    return {
      confirmed: sorted.length,
      startMs,
      endMs,
      cpuSeconds: secondsSince(cpu),
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
    }
  },

  async close(_: null): Promise<void> {
    await client?.close()
    client = null
  },
}

export type ProducerSteps = typeof steps

async function run(task: SendTask, target: Send): Promise<SendResult> {
  const { queue, bodyBytes, tag, batch, window, durationMs, first } = task
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
      if ((next & 511) === 0 && over()) return
      numberBody(body, next++)
      await target.send(queue, body)
      confirmed++
    }
  }
  const sendBatches = async (entries: readonly { body: Buffer }[]) => {
    while (next + entries.length <= end && !over()) {
      for (const { body } of entries) numberBody(body, next++)
      for (const result of await target.sendBatch(queue, entries)) if (result instanceof Error) throw result
      confirmed += entries.length
    }
  }

  const body = () => createBody(bodyBytes, tag)
  const listOf = <T>(count: number, make: () => T) => Array.from({ length: count }, make)
  const bodies = batch === null ? listOf(window, body) : []
  const batches =
    batch === null
      ? []
      : listOf(Math.max(1, Math.round(window / batch)), () => listOf(batch, () => ({ body: body() })))
  const cpu = process.cpuUsage()
  const startMs = nowMs()
  deadlineMs = performance.now() + durationMs
  await Promise.all([...bodies.map(sendEach), ...batches.map(sendBatches)])
  return { confirmed, startMs, endMs: nowMs(), cpuSeconds: secondsSince(cpu) }
}

function secondsSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start)
  return (user + system) / 1e6
}

serveSteps(steps)

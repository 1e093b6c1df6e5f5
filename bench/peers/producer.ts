/** The producer's process, of whatever peer: it sends by the peer's adapter, and counts what was confirmed. */
import { setTimeout } from 'node:timers/promises'
import { createBody, numberBody } from '../bodies.ts'
import { nowMs, percentile } from '../statistics.ts'
import { serveSteps } from '../steps.ts'
import { monotonicMs } from './clock.ts'
import type { Endpoint, PeerName, Sender } from './peer.ts'
import { peers } from './peers.ts'

export interface SendTask {
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
}

export interface PacedTask {
  readonly bodyBytes: number
  readonly tag: number
  readonly perSecond: number
  readonly durationMs: number
  readonly first: number
}

/** Of message `first + i`, when it was sent and when it was confirmed, by `monotonicMs`. */
export interface PacedResult {
  readonly sentMs: readonly number[]
  readonly confirmedMs: readonly number[]
}

const confirmMs = 20_000

let sender: Sender | null = null

const steps = {
  async connect({ peer, endpoint, queue }: { peer: PeerName; endpoint: Endpoint; queue: string }) {
    await sender?.close()
    sender = await peers[peer].adapter.openSender(endpoint, queue)
  },

  send: (task: SendTask): Promise<SendResult> => run(task, sender!),

  async oneByOne(task: SendTask) {
    const latenciesMs: number[] = []
    const body = createBody(task.bodyBytes, task.tag)
    const startMs = nowMs()
    const deadlineMs = performance.now() + task.durationMs
    for (let at = performance.now(); at < deadlineMs && latenciesMs.length < task.countMax;) {
      numberBody(body, task.first + latenciesMs.length)
      await sender!.send(body)
      const now = performance.now()
      latenciesMs.push(now - at)
      at = now
    }
    const sorted = Float64Array.from(latenciesMs).sort()
    return {
      confirmed: sorted.length,
      startMs,
      endMs: nowMs(),
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
    }
  },

  paced: (task: PacedTask): Promise<PacedResult> => pace(task, sender!),

  async close(_: null): Promise<void> {
    await sender?.close()
    sender = null
  },
}

export type PeerProducerSteps = typeof steps

/** A steady load: a window of messages, or of batches, each sent again once it is confirmed. */
async function run(task: SendTask, target: Sender): Promise<SendResult> {
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
    while (next + bodies.length <= end && !over()) {
      for (const body of bodies) numberBody(body, next++)
      await target.sendBatch(bodies)
      confirmed += bodies.length
    }
  }
  const body = () => createBody(bodyBytes, tag)
  const listOf = <T>(count: number, make: () => T) => Array.from({ length: count }, make)
  const bodies = batch === null ? listOf(window, body) : []
  const batches =
    batch === null ? [] : listOf(Math.max(1, Math.round(window / batch)), () => listOf(batch, body))
  const startMs = nowMs()
  deadlineMs = performance.now() + durationMs
  await Promise.all([...bodies.map(sendEach), ...batches.map(sendBatches)])
  return { confirmed, startMs, endMs: nowMs() }
}

/**
 * So many a second, whether or not the ones before are confirmed. A message's time starts when it is handed to the
 * client: timers come late by up to a millisecond, which is not the server's doing.
 */
async function pace(task: PacedTask, target: Sender): Promise<PacedResult> {
  const { bodyBytes, tag, perSecond, durationMs, first } = task
  const total = Math.round((durationMs / 1000) * perSecond)
  const sentMs = new Array<number>(total).fill(NaN)
  const confirmedMs = new Array<number>(total).fill(NaN)
  const spare: Buffer[] = []
  let failure: Error | null = null
  let unconfirmed = 0
  const sendOne = async (i: number) => {
    const body = spare.pop() ?? createBody(bodyBytes, tag)
    numberBody(body, first + i)
    unconfirmed++
    sentMs[i] = monotonicMs()
    await target.send(body)
    confirmedMs[i] = monotonicMs()
    unconfirmed--
    spare.push(body)
  }
  const startMs = monotonicMs()
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, 1 + Math.floor(((monotonicMs() - startMs) / 1000) * perSecond))
    while (sent < due) {
      sendOne(sent++).catch((error: unknown) => {
        failure ??= error instanceof Error ? error : new Error(String(error))
      })
    }
    await setTimeout(1)
    if (failure !== null) throw failure as Error
  }
  const deadlineMs = monotonicMs() + confirmMs
  while (unconfirmed > 0 && monotonicMs() < deadlineMs && failure === null) await setTimeout(5)
  if (failure !== null) throw failure as Error
  if (unconfirmed > 0) throw new Error(`${unconfirmed} messages were not confirmed within ${confirmMs} ms`)
  return { sentMs, confirmedMs }
}

serveSteps(steps)

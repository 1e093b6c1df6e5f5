/** A load at a fixed pace, and what it tells: how long messages take when nothing waits in line. */
import { setTimeout } from 'node:timers/promises'
import { createBody, numberBody } from './bodies.ts'
import { monotonicMs } from './clock.ts'
import { latencyOf, type Latency } from './statistics.ts'

/** W3's pace. */
export const pacePerSecond = 1000

export interface PacedTask {
  readonly bodyBytes: number
  readonly tag: number
  readonly perSecond: number
  readonly durationMs: number
  readonly first: number
}

/** Of message `first + i`, when it was sent and when it was confirmed, by `monotonicMs`. */
export interface PacedResult {
  readonly sentMs: Float64Array
  readonly confirmedMs: Float64Array
}

const confirmMs = 20_000

/** Messages not yet confirmed at most: as many as W2's largest window; more would measure this process's garbage collector. */
const unconfirmedMax = 5000

/**
 * So many a second, whether or not the ones before are confirmed. A message's time starts when it is handed to the
 * client: timers come late by up to a millisecond, which is not the server's doing. One that was held back, since too
 * many were not confirmed, has its time from when it was due: who is slow does not choose what is measured.
 */
export async function sendPaced(
  task: PacedTask,
  send: (body: Buffer) => Promise<unknown>,
): Promise<PacedResult> {
  const { bodyBytes, tag, perSecond, durationMs, first } = task
  const total = Math.round((durationMs / 1000) * perSecond)
  const sentMs = new Float64Array(total).fill(NaN)
  const confirmedMs = new Float64Array(total).fill(NaN)
  // Copied where none is free: random bytes for each would slow down the one that is late already.
  const template = createBody(bodyBytes, tag)
  const spare: Buffer[] = []
  let failure: Error | null = null
  let unconfirmed = 0
  const sendOne = async (i: number, sinceMs: number) => {
    const body = spare.pop() ?? Buffer.from(template)
    numberBody(body, first + i)
    unconfirmed++
    sentMs[i] = sinceMs
    await send(body)
    confirmedMs[i] = monotonicMs()
    unconfirmed--
    spare.push(body)
  }
  const startMs = monotonicMs()
  /** Below it messages were held back. */
  let heldEnd = 0
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, 1 + Math.floor(((monotonicMs() - startMs) / 1000) * perSecond))
    for (; sent < due && unconfirmed < unconfirmedMax; sent++) {
      const sinceMs = sent < heldEnd ? startMs + (sent / perSecond) * 1000 : monotonicMs()
      sendOne(sent, sinceMs).catch((error: unknown) => {
        failure ??= error instanceof Error ? error : new Error(String(error))
      })
    }
    if (sent < due) heldEnd = due
    await setTimeout(1)
    if (failure !== null) throw failure as Error
  }
  const deadlineMs = monotonicMs() + confirmMs
  while (unconfirmed > 0 && monotonicMs() < deadlineMs && failure === null) await setTimeout(5)
  if (failure !== null) throw failure as Error
  if (unconfirmed > 0) throw new Error(`${unconfirmed} messages were not confirmed within ${confirmMs} ms`)
  return { sentMs, confirmedMs }
}

export interface PacedFigures {
  readonly messages: number
  readonly elapsedMs: number
  readonly perSecond: number
  readonly confirm: Latency
  readonly received: Latency
}

/** Without the first `warmMs`, which are part of the same even stream. */
export function figuresOfPaced(
  { sentMs, confirmedMs }: PacedResult,
  receivedMs: Float64Array,
  { perSecond, warmMs }: { readonly perSecond: number; readonly warmMs: number },
): PacedFigures {
  const first = Math.min(sentMs.length - 1, Math.round((warmMs / 1000) * perSecond))
  const messages = sentMs.length - first
  const elapsedMs = sentMs.at(-1)! - sentMs[first]!
  return {
    messages,
    elapsedMs,
    perSecond: (Math.max(1, messages - 1) / elapsedMs) * 1000,
    confirm: latencyOf(sentMs, confirmedMs, first),
    received: latencyOf(sentMs, receivedMs, first),
  }
}

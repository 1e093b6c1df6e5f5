/** The producer's process, of whatever peer: it sends by the peer's adapter, and counts what was confirmed. */
import { setTimeout } from 'node:timers/promises'
import { createBody, numberBody } from '../bodies.ts'
import { sendOneByOne, sendSteadily, type LoadTask } from '../load.ts'
import { serveSteps } from '../steps.ts'
import { monotonicMs } from '../clock.ts'
import type { Endpoint, PeerName, Sender } from './peer.ts'
import { peers } from './peers.ts'

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

  send(task: LoadTask) {
    const target = sender!
    return sendSteadily(task, {
      send: (body) => target.send(body),
      entryOf: (body) => body,
      sendBatch: (bodies) => target.sendBatch(bodies),
    })
  },

  oneByOne: (task: LoadTask) => sendOneByOne(task, (body) => sender!.send(body)),

  paced: (task: PacedTask): Promise<PacedResult> => pace(task, sender!),

  async close(_: null): Promise<void> {
    await sender?.close()
    sender = null
  },
}

export type PeerProducerSteps = typeof steps

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

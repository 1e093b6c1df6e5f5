/**
 * One load while something grows: queues, connections, partitions, bodies, what waits. Each step has a broker of its
 * own and two halves:
 *
 *   as much as goes through, a window of messages sent, received and acked → 1,000 messages a second: latency
 *
 * The first half tells what it costs, the second how long a message takes when nothing waits in line.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { BenchArgs, Dimension } from './args.ts'
import { bodyBytesMin } from './bodies.ts'
import { sizeName } from './cases.ts'
import { queueNames } from './clients.ts'
import { perMillion } from './measure.ts'
import { pacePerSecond } from './paced.ts'
import { stepMs, Trio } from './trio.ts'

export interface Load {
  readonly queues: number
  /** Of the producer, and as many of the consumer. */
  readonly connections: number
  readonly partitions: number
  readonly bodyBytes: number
  /** Messages that wait meanwhile on a queue of their own; null: there is no such queue. */
  readonly backlog: number | null
}

export interface Step {
  readonly dimension: Dimension
  readonly at: number
  readonly load: Load
}

/** What is drawn as one line. Of a backlog there are two: the load beside it, and messages sent onto it. */
export type CurveName = Dimension | 'ontoBacklog'

export interface GrowthRun {
  readonly curve: CurveName
  readonly at: number
  readonly bodyBytes: number
  readonly messages: number
  readonly perSecond: number
  /** CPU seconds of the broker for a million messages. */
  readonly brokerCpu: number
  readonly brokerAnonymousBytes: number
  /** The second half; null: there is none. */
  readonly pacePerSecond: number | null
  readonly confirmP50Ms: number | null
  readonly confirmP99Ms: number | null
  readonly receivedP50Ms: number | null
  readonly receivedP99Ms: number | null
  readonly lost: number
  readonly duplicated: number
  readonly othersShare: number
}

export interface GrowthOptions {
  /** Where data goes. */
  readonly dir: string
  /** Of each half. */
  readonly durationMs: number
  readonly warmMs: number
  readonly profileDir: string | undefined
}

const base: Load = { queues: 1, connections: 1, partitions: 1, bodyBytes: 1024, backlog: null }

/** The load: so many messages unconfirmed, and pushed and not acked, unless their bodies are large. */
const window = { messages: 1000, bytes: 32 << 20 }
const prefetch = { messages: 20_000, bytes: 64 << 20 }
/** Bodies that are sent at a pace, a second. */
const pacedBytesPerSecond = 16 << 20
/** Bodies of one half together: bounds disk and time. */
const halfBytesMax = 3 * 2 ** 30
/** Those that one connection may have: a thousand queues take four consumers. */
const subscriptionsMax = 256
/** Both sides' connections and some more. */
const flags = ['--max-connections', '2000']

/** What waits, as W5 has it. */
const waiting = { queues: ['waiting'], bodyBytes: 100 }
const filling = { batch: 500, window: 8000, perSecondMin: 5000 }

const sizesBytes = [bodyBytesMin, 100, 1024, 16 << 10, 256 << 10, 1 << 20]
const backlogs = [0, 100_000, 1_000_000, 10_000_000]

const loads: { readonly [Name in Dimension]: (args: Pick<BenchArgs, 'backlog'>) => [number, Load][] } = {
  queues: () => [1, 10, 100, 1000].map((queues) => [queues, { ...base, queues }]),
  connections: () => [1, 10, 100, 500].map((connections) => [connections, { ...base, connections }]),
  partitions: () => [1, 4, 16].map((partitions) => [partitions, { ...base, partitions }]),
  sizes: () => sizesBytes.map((bodyBytes) => [bodyBytes, { ...base, bodyBytes }]),
  backlog: ({ backlog: most }) =>
    [...backlogs.filter((backlog) => backlog < most), most].map((backlog) => [backlog, { ...base, backlog }]),
}

/** In quick runs two steps of each. */
export function growthSteps(args: Pick<BenchArgs, 'dimensions' | 'backlog' | 'quick'>): Step[] {
  return args.dimensions.flatMap((dimension) => {
    const all = loads[dimension](args)
    return (args.quick ? all.slice(0, 2) : all).map(([at, load]) => ({ dimension, at, load }))
  })
}

export function stepName({ curve, at }: Pick<GrowthRun, 'curve' | 'at'>): string {
  return `${curve} ${curve === 'sizes' ? sizeName(at) : at.toLocaleString('en-US')}`
}

/** @throws Error when a message was lost, came twice or was damaged */
export async function measureStep(step: Step, options: GrowthOptions): Promise<GrowthRun[]> {
  const { dimension, at, load } = step
  const dir = mkdtempSync(join(options.dir, 'run-'))
  try {
    const { connections, partitions } = load
    const profileDir =
      options.profileDir === undefined ? undefined : join(options.profileDir, `growth-${dimension}-${at}`)
    await using trio = await Trio.start({
      dir,
      queues: queueNames(load.queues),
      partitions,
      producers: connections,
      consumers: Math.max(connections, Math.ceil(load.queues / subscriptionsMax)),
      profileDir,
      flags,
    })
    if (load.backlog !== null) await fill(trio, load.backlog)
    const runs = [await loadedRun(trio, step, options)]
    if (load.backlog !== null) runs.push(await ontoBacklog(trio, load.backlog, options))
    await trio.finish()
    return runs
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function loadedRun(trio: Trio, step: Step, { durationMs, warmMs }: GrowthOptions): Promise<GrowthRun> {
  const { dimension: curve, at, load } = step
  const { bodyBytes } = load
  const name = stepName({ curve, at })
  const atMost = (bound: { messages: number; bytes: number }) =>
    Math.min(bound.messages, Math.floor(bound.bytes / bodyBytes))
  const receiving = { bodyBytes, mode: 'consume', prefetch: atMost(prefetch) } as const
  const sending = { bodyBytes, batch: null, window: atMost(window) }
  const countMax = Math.floor(halfBytesMax / bodyBytes)

  await trio.receive(receiving)
  const warm = await trio.send('send', { ...sending, durationMs: warmMs, first: 0, countMax })
  await trio.untilAcked(warm.confirmed)
  const costs = trio.watch()
  const sent = await trio.send('send', { ...sending, durationMs, first: warm.confirmed, countMax })
  const total = warm.confirmed + sent.confirmed
  const { lastAckMs } = await trio.untilAcked(total)
  const { brokerCpu, othersShare } = perMillion(costs(), sent.confirmed)
  const stream = await trio.account(name, total)

  const perSecond = Math.min(pacePerSecond, Math.floor(pacedBytesPerSecond / bodyBytes))
  await trio.receive({ ...receiving, timed: true })
  const paced = await trio.pace({ bodyBytes, perSecond, durationMs, warmMs })
  const even = await trio.account(name, paced.total)
  return {
    curve,
    at,
    bodyBytes,
    messages: sent.confirmed,
    perSecond: (sent.confirmed / (lastAckMs - sent.startMs)) * 1000,
    brokerCpu,
    brokerAnonymousBytes: trio.brokerMemory().anonymousBytes,
    pacePerSecond: perSecond,
    confirmP50Ms: paced.confirm.p50Ms,
    confirmP99Ms: paced.confirm.p99Ms,
    receivedP50Ms: paced.received.p50Ms,
    receivedP99Ms: paced.received.p99Ms,
    lost: stream.lost + even.lost,
    duplicated: stream.duplicated + even.duplicated,
    othersShare,
  }
}

async function fill(trio: Trio, messages: number): Promise<void> {
  await trio.producer.call('createQueues', waiting, stepMs)
  const { batch, window, perSecondMin } = filling
  const durationMs = stepMs + (messages / perSecondMin) * 1000
  const sent = await trio.send('send', {
    ...waiting,
    batch,
    window,
    durationMs,
    first: 0,
    countMax: messages,
  })
  if (sent.confirmed !== messages)
    throw new Error(`of ${messages} messages ${sent.confirmed} were taken in time`)
}

/** W1 onto what waits; then all of it is received, which nobody times, for the account. */
async function ontoBacklog(
  trio: Trio,
  backlog: number,
  { durationMs, warmMs }: GrowthOptions,
): Promise<GrowthRun> {
  const { bodyBytes } = waiting
  const sending = { ...waiting, batch: null, window: window.messages, countMax: halfBytesMax / bodyBytes }
  const warm = await trio.send('send', { ...sending, durationMs: warmMs, first: backlog })
  const costs = trio.watch()
  const first = backlog + warm.confirmed
  const sent = await trio.send('send', { ...sending, durationMs, first })
  const { brokerCpu, othersShare } = perMillion(costs(), sent.confirmed)
  const { anonymousBytes } = trio.brokerMemory()
  const total = first + sent.confirmed
  await trio.receive({ ...waiting, mode: 'consumeBatches' })
  await trio.untilAcked(total)
  return {
    curve: 'ontoBacklog',
    at: backlog,
    bodyBytes,
    messages: sent.confirmed,
    perSecond: (sent.confirmed / (sent.endMs - sent.startMs)) * 1000,
    brokerCpu,
    brokerAnonymousBytes: anonymousBytes,
    pacePerSecond: null,
    confirmP50Ms: null,
    confirmP99Ms: null,
    receivedP50Ms: null,
    receivedP99Ms: null,
    ...(await trio.account(stepName({ curve: 'ontoBacklog', at: backlog }), total)),
    othersShare,
  }
}

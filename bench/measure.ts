/** One run of one case: fresh processes, fresh data, and an account of every message. */
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { BrokerProcess } from './broker-process.ts'
import type { Case } from './cases.ts'
import type { ConsumerSteps } from './consumer.ts'
import { anonymousBytesOf, cpuSecondsOf, machineBusySeconds, peakMemoryBytesOf } from './proc.ts'
import type { ProducerSteps, SendTask } from './producer.ts'
import type { RawSteps } from './raw-lmdb.ts'
import { nowMs } from './statistics.ts'
import { Worker } from './steps.ts'

export interface RunOptions {
  /** Where data goes. */
  readonly dir: string
  readonly durationMs: number
  /** Before it is measured: code is compiled, files are open. */
  readonly warmMs: number
  readonly window: number
  readonly profileDir: string | undefined
}

export interface Run {
  readonly case: string
  readonly window: number
  readonly messages: number
  readonly elapsedMs: number
  readonly perSecond: number
  /** CPU seconds for a million messages; null where there is no such process. */
  readonly brokerCpu: number | null
  readonly producerCpu: number | null
  readonly consumerCpu: number | null
  readonly brokerPeakBytes: number | null
  readonly brokerAnonymousBytes: number | null
  readonly p50Ms: number | null
  readonly p99Ms: number | null
  /** Messages a second when what W1 sent is received and acked afterwards. */
  readonly drainPerSecond: number | null
  readonly lost: number | null
  readonly duplicated: number | null
  /** Share of all cores that went to anything but this run, while it was measured. */
  readonly othersShare: number
}

/** Bodies of one run together, in bytes: bounds disk and time, whatever the duration. */
const runBytesMax = 3 * 2 ** 30
const queue = 'bench'
const cores = availableParallelism()
const stepMs = 30_000
/** The slowest pace at which a backlog is waited for. */
const drainPerSecondMin = 5_000

const noFigures = {
  brokerCpu: null,
  producerCpu: null,
  consumerCpu: null,
  brokerPeakBytes: null,
  brokerAnonymousBytes: null,
  p50Ms: null,
  p99Ms: null,
  drainPerSecond: null,
  lost: null,
  duplicated: null,
}

/** @throws Error when a message was lost, came twice or was damaged */
export async function measure(what: Case, options: RunOptions): Promise<Run> {
  const dir = mkdtempSync(join(options.dir, 'run-'))
  try {
    switch (what.kind) {
      case 'raw':
      case 'rawOneByOne':
        return await measureRaw(what, options, dir)
      case 'generate':
        return await measureGenerator(what, options)
      case 'w1':
      case 'w2':
      case 'w4':
        return await measureBroker(what, what.kind, options, dir)
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function measureRaw(what: Case, { durationMs }: RunOptions, dir: string): Promise<Run> {
  const worker = new Worker<RawSteps>('raw-lmdb')
  try {
    const perPut = what.batch ?? 1
    const inFlight = what.windows[0]! / perPut
    const valueBytes = perPut * what.bodyBytes
    const task = { dir, valueBytes, inFlight, durationMs, bytesMax: runBytesMax }
    const others = watchOthers([worker.pid])
    const result = await worker.call('put', task, durationMs + stepMs)
    const messages = result.puts * perPut
    return {
      ...noFigures,
      case: what.name,
      window: what.windows[0]!,
      messages,
      elapsedMs: result.elapsedMs,
      perSecond: (messages / result.elapsedMs) * 1000,
      brokerCpu: (result.cpuSeconds / messages) * 1e6,
      p50Ms: result.p50Ms,
      p99Ms: result.p99Ms,
      othersShare: others(),
    }
  } finally {
    await worker.stop()
  }
}

async function measureGenerator(what: Case, options: RunOptions): Promise<Run> {
  const producer = new Worker<ProducerSteps>('producer')
  try {
    // It makes millions a second; a second tells enough.
    const durationMs = Math.min(options.durationMs, 1000)
    const task = sendTask(what, options, { durationMs, first: 0, countMax: 2 ** 32 - 1, tag: 0 })
    const others = watchOthers([producer.pid])
    const { confirmed, startMs, endMs, cpuSeconds } = await producer.call('generate', task, stepMs)
    return {
      ...noFigures,
      case: what.name,
      window: options.window,
      messages: confirmed,
      elapsedMs: endMs - startMs,
      perSecond: (confirmed / (endMs - startMs)) * 1000,
      producerCpu: (cpuSeconds / confirmed) * 1e6,
      othersShare: others(),
    }
  } finally {
    await producer.stop()
  }
}

async function measureBroker(
  what: Case,
  kind: 'w1' | 'w2' | 'w4',
  options: RunOptions,
  dir: string,
): Promise<Run> {
  const { durationMs, warmMs, profileDir } = options
  const profiled = (name: string) =>
    profileDir === undefined
      ? []
      : ['--cpu-prof', `--cpu-prof-dir=${join(profileDir, what.name.replaceAll(' ', '-'), name)}`]
  const tag = (Math.random() * 2 ** 32) >>> 0
  let broker: BrokerProcess | null = null
  const producer = new Worker<ProducerSteps>('producer', profiled('producer'))
  const consumer = new Worker<ConsumerSteps>('consumer', profiled('consumer'))
  try {
    broker = await BrokerProcess.start({ dataDir: join(dir, 'data'), execArgv: profiled('broker') })
    const server = broker.listen
    await producer.call('connect', { server }, stepMs)
    await consumer.call('connect', { server }, stepMs)
    await producer.call('createQueue', { queue }, stepMs)
    const consume = { queue, bodyBytes: what.bodyBytes, tag, mode: what.consume ?? 'receive' }
    if (kind === 'w2') await consumer.call('start', consume, stepMs)

    const send = async (ms: number, first: number) => {
      const countMax = Math.floor(runBytesMax / what.bodyBytes)
      const task = sendTask(what, options, { durationMs: ms, first, countMax, tag })
      const step = kind === 'w4' ? 'oneByOne' : 'send'
      const sent = await producer.call(step, task, ms + 2 * stepMs)
      return {
        ...sent,
        p50Ms: 'p50Ms' in sent ? sent.p50Ms : null,
        p99Ms: 'p99Ms' in sent ? sent.p99Ms : null,
      }
    }
    const untilAcked = (total: number) => {
      const timeoutMs = stepMs + (total / drainPerSecondMin) * 1000
      return consumer.call('untilAcked', { total, timeoutMs }, timeoutMs + stepMs)
    }

    const warm = await send(warmMs, 0)
    if (kind === 'w2') await untilAcked(warm.confirmed)

    const pids = [broker.pid, producer.pid, consumer.pid]
    const cpuBefore = pids.map(cpuSecondsOf)
    const others = watchOthers(pids)
    const sent = await send(durationMs, warm.confirmed)
    const total = warm.confirmed + sent.confirmed
    const endMs = kind === 'w2' ? (await untilAcked(total)).lastAckMs : sent.endMs
    const othersShare = others()
    const [brokerCpu, producerCpu, consumerCpu] = pids.map(
      (pid, i) => ((cpuSecondsOf(pid) - cpuBefore[i]!) / sent.confirmed) * 1e6,
    )

    // What was confirmed must be there, once; in W1 and W4 nobody has looked yet.
    let drainPerSecond: number | null = null
    if (kind !== 'w2') {
      const drainStartMs = nowMs()
      await consumer.call('start', consume, stepMs)
      const { lastAckMs } = await untilAcked(total)
      drainPerSecond = (total / (lastAckMs - drainStartMs)) * 1000
    }
    const account = await consumer.call('stop', { total }, 2 * stepMs)
    const figures = {
      brokerPeakBytes: peakMemoryBytesOf(broker.pid),
      brokerAnonymousBytes: anonymousBytesOf(broker.pid),
    }
    if (account.missing > 0 || account.duplicates > 0 || account.damaged > 0) {
      throw new Error(`${what.name}: of ${total} confirmed messages: ${JSON.stringify(account)}`)
    }
    await producer.call('close', null, stepMs)
    await consumer.call('close', null, stepMs)
    const stopped = broker
    broker = null
    await stopped.stop()
    const elapsedMs = endMs - sent.startMs
    return {
      ...noFigures,
      ...figures,
      case: what.name,
      window: options.window,
      messages: sent.confirmed,
      elapsedMs,
      perSecond: (sent.confirmed / elapsedMs) * 1000,
      brokerCpu: brokerCpu!,
      producerCpu: producerCpu!,
      consumerCpu: kind === 'w2' ? consumerCpu! : null,
      p50Ms: sent.p50Ms,
      p99Ms: sent.p99Ms,
      drainPerSecond,
      lost: account.missing,
      duplicated: account.duplicates,
      othersShare,
    }
  } finally {
    await producer.stop()
    await consumer.stop()
    await broker?.kill()
  }
}

function sendTask(
  { bodyBytes, batch }: Case,
  { window }: RunOptions,
  rest: Pick<SendTask, 'durationMs' | 'first' | 'countMax' | 'tag'>,
): SendTask {
  return { queue, bodyBytes, batch, window, ...rest }
}

/** Measures what share of the machine goes to others than these processes and this one, until it is called. */
function watchOthers(pids: readonly number[]): () => number {
  const ours = () => [...pids, process.pid].reduce((sum, pid) => sum + cpuSecondsOf(pid), 0)
  const busyBefore = machineBusySeconds()
  const oursBefore = ours()
  const startMs = nowMs()
  return () => {
    const capacity = ((nowMs() - startMs) / 1000) * cores
    return Math.max(0, machineBusySeconds() - busyBefore - (ours() - oursBefore)) / capacity
  }
}

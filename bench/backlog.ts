/**
 * W5: a backlog. Messages of 100 B pile up with nobody to take them, the broker is killed, comes back, and is drained:
 *
 *   load → memory, disk → kill -9 → start → memory → drain, each message acked → disk given back → account
 *
 * What the operating system keeps of mapped files is its own to take away, so memory is counted without it.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { assertWhole } from './bodies.ts'
import { BrokerProcess } from './broker-process.ts'
import type { ConsumeMode } from './cases.ts'
import type { ConsumerSteps } from './consumer.ts'
import { diskUseOf } from './disk.ts'
import { Figures, type Figure } from './figures.ts'
import { measure } from './measure.ts'
import { memoryOf } from './proc.ts'
import type { ProducerSteps } from './producer.ts'
import { nowMs } from './statistics.ts'
import { Worker } from './steps.ts'
import { peakBeyondMap, startTimed, waitFor } from './watch.ts'

export interface BacklogOptions {
  /** Where data goes. */
  readonly dir: string
  readonly messages: number
  readonly profileDir: string | undefined
}

export const backlogModes = ['consumeBatches', 'consume'] as const satisfies readonly ConsumeMode[]

const bodyBytes = 100
const batch = 500
const batchesInFlight = 16
const queues = ['bench']
const stepMs = 30_000
const messagesPerSecondMin = 5000
const givenBackMs = 20_000
const megabytesMax = 200 * (1e6 / 2 ** 20)
/** The one that is written to and the one that is ready to follow it. */
const segmentsAtRest = 2

/** @throws Error when a message was lost, came twice or was damaged */
export async function measureBacklog(
  mode: (typeof backlogModes)[number],
  { dir: parent, messages, profileDir }: BacklogOptions,
): Promise<Figure[]> {
  const figures = new Figures(`W5 ${messages.toLocaleString('en-US')} × ${bodyBytes} B, ${mode}`)
  const w2 = await streamRate(mode, parent)
  const dir = mkdtempSync(join(parent, 'run-'))
  const dataDir = join(dir, 'data')
  const tag = (Math.random() * 2 ** 32) >>> 0
  const longMs = stepMs + (messages / messagesPerSecondMin) * 1000
  const profiled = (name: string) =>
    profileDir === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(profileDir, `w5-${mode}`, name)}`]
  const producer = new Worker<ProducerSteps>('producer')
  const consumer = new Worker<ConsumerSteps>('consumer')
  let broker: BrokerProcess | null = null
  try {
    broker = await BrokerProcess.start({ dataDir })
    const idleBytes = memoryOf(broker.pid).beyondMapBytes
    await producer.call('connect', { server: broker.listen }, stepMs)
    await producer.call('createQueues', { queues }, stepMs)
    const window = batch * batchesInFlight
    const task = { queues, bodyBytes, tag, batch, window, durationMs: longMs, first: 0, countMax: messages }
    const loading = await peakBeyondMap(broker.pid, () => producer.call('send', task, longMs + stepMs))
    const { confirmed, startMs, endMs } = loading.result
    if (confirmed !== messages) throw new Error(`of ${messages} messages ${confirmed} were taken in time`)
    figures.add('load', '/s', (messages / (endMs - startMs)) * 1000)
    const loaded = memoryOf(broker.pid)
    figures.addBytes('resident, loaded', loaded.residentBytes)
    figures.addBytes('beyond the map before', idleBytes)
    figures.addBytes('beyond the map while loading, peak', loading.bytes, megabytesMax)
    figures.addBytes('beyond the map, loaded', loaded.beyondMapBytes, megabytesMax)
    const disk = diskUseOf(dataDir)
    figures.add('on disk', 'bytes a byte', disk.bytes / (messages * bodyBytes), { atMost: 1.3 })
    figures.addBytes('on disk besides, kept in reserve', disk.reservedBytes)

    await producer.call('close', null, stepMs)
    await broker.kill()
    const restarted = await startTimed({ dataDir, execArgv: profiled('broker') })
    broker = restarted.broker
    const { pid } = broker
    figures.add('ready after kill -9', 'ms', restarted.readyMs, { atMost: 3000 })
    figures.add('CPU until then', 'ms', restarted.cpuMs)
    figures.addBytes('beyond the map, started again', memoryOf(pid).beyondMapBytes, megabytesMax)

    await consumer.call('connect', { server: broker.listen }, stepMs)
    const drainStartMs = nowMs()
    await consumer.call('start', { queues, bodyBytes, tag, mode }, stepMs)
    const untilAcked = { total: messages, timeoutMs: longMs }
    const draining = await peakBeyondMap(pid, () => consumer.call('untilAcked', untilAcked, longMs + stepMs))
    const perSecond = (messages / (draining.result.lastAckMs - drainStartMs)) * 1000
    figures.add('drain, acked', '/s', perSecond, { atLeast: w2 })
    figures.add('W2 in the same way', '/s', w2)
    figures.addBytes('beyond the map while draining, peak', draining.bytes, megabytesMax)

    const tookMs = await waitFor(givenBackMs, () => diskUseOf(dataDir).segments <= segmentsAtRest)
    figures.add('disk given back after', 's', tookMs === null ? Infinity : tookMs / 1000)
    figures.addBytes('on disk when drained', diskUseOf(dataDir).bytes, 128)
    const account = await consumer.call('stop', { total: messages }, 2 * stepMs)
    assertWhole('W5', messages, account)
    figures.add('lost', 'messages', account.missing)
    figures.add('twice', 'messages', account.duplicates)
    await consumer.call('close', null, stepMs)
    const stopped = broker
    broker = null
    await stopped.stop()
    return figures.all
  } finally {
    await producer.stop()
    await consumer.stop()
    await broker?.kill()
    rmSync(dir, { recursive: true, force: true })
  }
}

/** What W2 comes to with such messages in such batches, consumed in this way: a drain should not be slower. */
async function streamRate(consume: ConsumeMode, dir: string): Promise<number> {
  const window = batch * batchesInFlight
  const what = {
    name: 'W2',
    kind: 'w2',
    bodyBytes,
    batch,
    consume,
    windows: [window],
    against: {},
  } as const
  const run = await measure(what, { dir, durationMs: 3000, warmMs: 1000, window, profileDir: undefined })
  return run.perSecond
}

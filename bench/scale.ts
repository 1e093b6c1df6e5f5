/** What queues and messages cost that nobody touches: memory, CPU, the time of a start, disk. */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { connect, type MqClient } from '../src/index.ts'
import type { State } from './args.ts'
import { Arrivals, createBody, numberBody } from './bodies.ts'
import { BrokerProcess, within } from './broker-process.ts'
import { createQueues, queueNames } from './clients.ts'
import { diskUseOf } from './disk.ts'
import { Figures, type Figure } from './figures.ts'
import { cpuSecondsOf, memoryOf } from './proc.ts'
import { peakBeyondMap, startTimed, waitFor } from './watch.ts'

export interface ScaleOptions {
  /** Where data goes. */
  readonly dir: string
  /** Messages that are delayed, or acked around one that is not. */
  readonly messages: number
  /** Directory for CPU profiles of the brokers that are started on what is there. */
  readonly profileDir: string | undefined
}

export type ScaleState = Exclude<State, 'w5'>

const megabyte = 1e6 / 2 ** 20
const bodyBytes = 100
const batch = 500
const inFlight = 16
const queue = 'bench'
const hourMs = 3_600_000

interface Stage {
  readonly dataDir: string
  readonly messages: number
  readonly execArgv: readonly string[]
  broker: BrokerProcess
  mq: MqClient
}

export async function measureScale(state: ScaleState, options: ScaleOptions): Promise<Figure[]> {
  const { messages, profileDir } = options
  const dir = mkdtempSync(join(options.dir, 'run-'))
  const dataDir = join(dir, 'data')
  const broker = await BrokerProcess.start({ dataDir })
  const execArgv = profileDir === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(profileDir, state)}`]
  const stage: Stage = { dataDir, messages, execArgv, broker, mq: await connectTo(broker) }
  try {
    return await measures[state](stage)
  } finally {
    await stage.mq.close()
    // In order where it can: a profile is written then.
    await stage.broker.stop().catch(() => stage.broker.kill())
    rmSync(dir, { recursive: true, force: true })
  }
}

const measures: { readonly [Name in ScaleState]: (stage: Stage) => Promise<Figure[]> } = {
  async idle(stage) {
    const queues = 1000
    const figures = new Figures(`${queues.toLocaleString('en-US')} idle queues`)
    const before = memoryOf(stage.broker.pid)
    await createQueues(stage.mq, queueNames(queues))
    const { pid } = stage.broker
    const idleMs = 10_000
    // What the creation has started may end before it counts: a checkpoint, a round of the garbage collector.
    await setTimeout(2000)
    const cpu = cpuSecondsOf(pid)
    await setTimeout(idleMs)
    const share = (cpuSecondsOf(pid) - cpu) / (idleMs / 1000)
    const { residentBytes, beyondMapBytes } = memoryOf(pid)
    figures.addBytes('resident before', before.residentBytes)
    figures.addBytes('resident', residentBytes, 150 * megabyte)
    figures.addBytes('beyond the map', beyondMapBytes)
    figures.add('CPU over 10 s', '% of a core', 100 * share, { atMost: 1 })
    await restart(stage, figures)
    await setTimeout(1000)
    figures.addBytes('resident, started again', memoryOf(stage.broker.pid).residentBytes, 150 * megabyte)
    return figures.all
  },

  async queues(stage) {
    const queues = 10_000
    const figures = new Figures(`${queues.toLocaleString('en-US')} queues`)
    const startMs = performance.now()
    await createQueues(stage.mq, queueNames(queues))
    figures.add('creation', '/s', (queues / (performance.now() - startMs)) * 1000)
    figures.addBytes('beyond the map', memoryOf(stage.broker.pid).beyondMapBytes)
    await restart(stage, figures, 5000)
    const found = (await stage.mq.listQueues()).length
    if (found !== queues) throw new Error(`of ${queues} queues ${found} are there after a crash`)
    figures.addBytes('beyond the map, started again', memoryOf(stage.broker.pid).beyondMapBytes)
    await stage.mq.close()
    await stage.broker.stop()
    const { broker, readyMs, cpuMs } = await startTimed({ dataDir: stage.dataDir })
    stage.broker = broker
    stage.mq = await connectTo(broker)
    figures.add('ready after a planned stop', 'ms', readyMs, { atMost: 5000 })
    figures.add('CPU until then, planned', 'ms', cpuMs)
    return figures.all
  },

  async delayed(stage) {
    const { mq, messages } = stage
    const figures = new Figures(`${messages.toLocaleString('en-US')} delayed`)
    await mq.createQueue(queue)
    await mq.createQueue('soon')
    const before = memoryOf(stage.broker.pid).beyondMapBytes
    // Each has a time of its own: nothing can be kept for many of them at once.
    const delayMs = () => hourMs + Math.floor(Math.random() * hourMs)
    const { bytes } = await peakBeyondMap(stage.broker.pid, () =>
      sendNumbered(mq, queue, messages, 0, delayMs),
    )
    const after = memoryOf(stage.broker.pid).beyondMapBytes
    figures.addBytes('beyond the map before', before)
    figures.addBytes('added while sending, peak', bytes - before)
    figures.addBytes('added', after - before, 100 * megabyte)
    await restart(stage, figures, 3000)
    const { delayed } = (await stage.mq.describeQueue(queue)).messages
    if (delayed !== messages)
      throw new Error(`of ${messages} delayed messages ${delayed} are there after a crash`)
    figures.addBytes(
      'added, started again',
      memoryOf(stage.broker.pid).beyondMapBytes - before,
      100 * megabyte,
    )
    await setTimeout(10_000)
    figures.addBytes('… and 10 s later', memoryOf(stage.broker.pid).beyondMapBytes - before, 100 * megabyte)
    await cameInTime(stage, figures)
    return figures.all
  },

  async unacked(stage) {
    const { mq, messages, dataDir } = stage
    const figures = new Figures(`1 unacked amid ${messages.toLocaleString('en-US')}`)
    await mq.createQueue(queue, { visibilityTimeoutMs: hourMs })
    await sendNumbered(mq, queue, 1, 0)
    const [kept] = await mq.receive(queue, { max: 1, waitMs: 5000 })
    if (kept === undefined) throw new Error('the first message did not come')
    await sendNumbered(mq, queue, messages, 1)
    figures.addBytes('on disk, nothing acked', diskUseOf(dataDir).bytes)
    await drain(mq, queue, new Arrivals(bodyBytes, 1), messages)
    // Its own segment, the one that is written to, the one that is ready to follow.
    const atOnceMs = await waitFor(20_000, () => diskUseOf(dataDir).segments <= 3)
    figures.add('all but one segment given back after', 's', atOnceMs === null ? Infinity : atOnceMs / 1000)
    figures.addBytes('on disk then', diskUseOf(dataDir).bytes, 3 * 64)
    figures.add('segments then', 'segments', diskUseOf(dataDir).segments, { atMost: 3 })
    const laterMs = await waitFor(90_000, () => diskUseOf(dataDir).segments <= 2)
    figures.add('its segment given back after another', 's', laterMs === null ? Infinity : laterMs / 1000, {
      atMost: 75,
    })
    figures.addBytes('on disk in the end', diskUseOf(dataDir).bytes, 2 * 64)
    figures.add('segments in the end', 'segments', diskUseOf(dataDir).segments, { atMost: 2 })
    await kept.ack()
    const left = await mq.receive(queue, { max: 1 })
    if (left.length > 0) throw new Error('a message came after all were acked')
    return figures.all
  },
}

/** A smaller part, that does come: none early, all of them, once. */
async function cameInTime({ mq, broker }: Stage, figures: Figures): Promise<void> {
  const count = 100_000
  const spreadMs = 4000
  const lateMs: number[] = []
  const arrivals = new Arrivals(bodyBytes, 1)
  const dueMs = new Float64Array(count)
  let early = 0
  const draining = drain(mq, 'soon', arrivals, count, (number) => {
    const late = Date.now() - dueMs[number]!
    if (late < 0) early++
    lateMs.push(late)
  })
  let next = 0
  await sendNumbered(mq, 'soon', count, 0, () => {
    const delayMs = 1000 + Math.floor(Math.random() * spreadMs)
    // The broker counts from when it takes the message, which is later than this.
    dueMs[next++] = Date.now() + delayMs
    return delayMs
  })
  await within(60_000, `${count} delayed messages to come`, draining)
  if (early > 0) throw new Error(`${early} delayed messages came before their time`)
  const missing = arrivals.missing(count)
  if (missing > 0 || arrivals.duplicates > 0 || arrivals.damaged > 0) {
    throw new Error(`of ${count} delayed messages ${missing} are missing, ${arrivals.duplicates} came twice`)
  }
  lateMs.sort((a, b) => a - b)
  const name = `${count.toLocaleString('en-US')} of 1 to 5 s`
  figures.add(`${name}: lost`, 'messages', missing)
  figures.add(`${name}: twice`, 'messages', arrivals.duplicates)
  figures.add(`${name}: late, median`, 'ms', lateMs[count >> 1]!)
  figures.add(`${name}: late, p99`, 'ms', lateMs[Math.floor(count * 0.99)]!)
  figures.addBytes('beyond the map in the end', memoryOf(broker.pid).beyondMapBytes)
}

/** Messages that `Arrivals` knows, tag 1, from number `first` on. */
async function sendNumbered(
  mq: MqClient,
  name: string,
  count: number,
  first: number,
  delayMs?: () => number,
): Promise<void> {
  let next = first
  const end = first + count
  const lane = async () => {
    while (next < end) {
      const entries = Array.from({ length: Math.min(batch, end - next) }, () => {
        const body = createBody(bodyBytes, 1)
        numberBody(body, next++)
        return delayMs === undefined ? { body } : { body, delayMs: delayMs() }
      })
      for (const result of await mq.sendBatch(name, entries)) if (result instanceof Error) throw result
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
}

/** Consumes and acks so many; resolves once the last ack is confirmed. */
async function drain(
  mq: MqClient,
  name: string,
  arrivals: Arrivals,
  count: number,
  came: (number: number) => void = () => undefined,
): Promise<void> {
  let left = count
  const acks: Promise<unknown>[] = []
  for await (const batch of mq.consumeBatches(name, { max: 1000, prefetch: 20_000 })) {
    for (const { body } of batch.messages) {
      arrivals.note(body)
      came(Buffer.from(body.buffer, body.byteOffset, body.length).readUInt32LE(0))
    }
    acks.push(batch.ack())
    left -= batch.messages.length
    if (left <= 0) break
  }
  await Promise.all(acks)
}

/** kill -9, and a start on what is there. */
async function restart(stage: Stage, figures: Figures, targetMs?: number): Promise<void> {
  await stage.mq.close()
  await stage.broker.kill()
  const { broker, readyMs, cpuMs } = await startTimed({ dataDir: stage.dataDir, execArgv: stage.execArgv })
  stage.broker = broker
  stage.mq = await connectTo(broker)
  figures.add('ready after kill -9', 'ms', readyMs, targetMs === undefined ? null : { atMost: targetMs })
  figures.add('CPU until then', 'ms', cpuMs)
}

function connectTo(broker: BrokerProcess): Promise<MqClient> {
  return connect({ servers: [broker.listen], name: 'bench-scale' })
}

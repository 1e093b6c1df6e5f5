/** One run of one case: fresh processes, fresh data, and an account of every message. */
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { crowdClients, socketBufferBytes, type Case } from './cases.ts'
import type { LoadTask } from './load.ts'
import { figuresOfPaced, pacePerSecond } from './paced.ts'
import type { ProducerSteps } from './producer.ts'
import type { RawSteps } from './raw-lmdb.ts'
import type { SocketSteps } from './raw-socket.ts'
import { cpuSecondsOf } from './proc.ts'
import { quietDisk } from './quiet-disk.ts'
import { nowMs } from './statistics.ts'
import { Worker } from './steps.ts'
import { stepMs, Trio, watchOthers, type Costs } from './trio.ts'

export interface RunOptions {
  /** Where data goes. */
  readonly dir: string
  readonly durationMs: number
  /** Before it is measured: code is compiled, files are open. */
  readonly warmMs: number
  readonly window: number
  readonly profileDir: string | undefined
  /** Messages a second of w3. Default 1,000. */
  readonly pacePerSecond?: number | undefined
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
  /** From the send to the confirm. */
  readonly p50Ms: number | null
  readonly p99Ms: number | null
  readonly p999Ms: number | null
  /** From the send to the consumer. */
  readonly receivedP50Ms: number | null
  readonly receivedP99Ms: number | null
  readonly receivedP999Ms: number | null
  /** Messages a second when what W1 sent is received and acked afterwards. */
  readonly drainPerSecond: number | null
  readonly lost: number | null
  readonly duplicated: number | null
  /** Share of all cores that went to anything but this run, while it was measured. */
  readonly othersShare: number
}

/** Bodies of one run together, in bytes: bounds disk and time, whatever the duration. */
const runBytesMax = 3 * 2 ** 30
/** More than raw lmdb can do; a file is preallocated for so much. */
const rawMax = { bytesPerSecond: 2 ** 30, putsPerSecond: 10_000 }
const pageBytes = 4096
/** Of a value, before its bytes on the pages that it has for itself. */
const pageHeadBytes = 16
/** For LMDB's own pages and lists. */
const rawSlackBytes = 64 << 20
const queues = ['bench']

/** Where a figure is not measured. */
export const noFigures = {
  brokerCpu: null,
  producerCpu: null,
  consumerCpu: null,
  brokerPeakBytes: null,
  brokerAnonymousBytes: null,
  p50Ms: null,
  p99Ms: null,
  p999Ms: null,
  receivedP50Ms: null,
  receivedP99Ms: null,
  receivedP999Ms: null,
  drainPerSecond: null,
  lost: null,
  duplicated: null,
}

/** What a disk that is still at something else would tell of. */
const ofLatency = new Set<Case['kind']>(['rawOneByOne', 'rawPaced', 'w3', 'w4'])

/** @throws Error when a message was lost, came twice or was damaged */
export async function measure(what: Case, options: RunOptions): Promise<Run> {
  const dir = mkdtempSync(join(options.dir, 'run-'))
  try {
    if (ofLatency.has(what.kind)) await quietDisk(dir, options.durationMs)
    switch (what.kind) {
      case 'raw':
      case 'rawOneByOne':
        return await measureRaw(what, options, dir)
      case 'rawPaced':
        return await measureRawPaced(what, options, dir)
      case 'sockets':
        return await measureSockets(what, options)
      case 'answers':
        return await measureAnswers(what, options)
      case 'generate':
        return await measureGenerator(what, options)
      case 'w1':
      case 'w2':
      case 'w4':
      case 'crowd':
        return await measureStream(what, options, dir)
      case 'w3':
        return await measurePaced(what, options, dir)
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
    const preallocated = what.preallocated === true ? preallocationFor(valueBytes, durationMs) : null
    const bytesMax = preallocated?.bytesMax ?? runBytesMax
    await worker.call('open', { dir, valueBytes, zeroBytes: preallocated?.fileBytes ?? null }, 2 * stepMs)
    const others = watchOthers([worker.pid])
    const result = await worker.call('put', { inFlight, durationMs, bytesMax }, durationMs + stepMs)
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
      p999Ms: result.p999Ms,
      othersShare: others(),
    }
  } finally {
    await worker.stop()
  }
}

async function measureRawPaced(what: Case, { durationMs, warmMs }: RunOptions, dir: string): Promise<Run> {
  const { bodyBytes } = what
  const worker = new Worker<RawSteps>('raw-lmdb')
  try {
    await worker.call('open', { dir, valueBytes: bodyBytes, zeroBytes: null }, 2 * stepMs)
    const others = watchOthers([worker.pid])
    const wholeMs = warmMs + durationMs
    const pace = { perSecond: pacePerSecond, warmMs }
    const task = { ...pace, bodyBytes, tag: 0, durationMs: wholeMs, first: 0 }
    const paced = await worker.call('paced', task, wholeMs + 2 * stepMs)
    const { messages, elapsedMs, perSecond, confirm } = figuresOfPaced(paced, paced.confirmedMs, pace)
    return {
      ...noFigures,
      case: what.name,
      window: what.windows[0]!,
      messages,
      elapsedMs,
      perSecond,
      brokerCpu: (paced.cpuSeconds / paced.sentMs.length) * 1e6,
      ...confirm,
      othersShare: others(),
    }
  } finally {
    await worker.stop()
  }
}

/** What can be put in that time, and the file that takes it. */
function preallocationFor(valueBytes: number, durationMs: number): { bytesMax: number; fileBytes: number } {
  const perSecond = Math.min(rawMax.putsPerSecond, rawMax.bytesPerSecond / valueBytes)
  const puts = Math.min(runBytesMax / valueBytes, perSecond * (durationMs / 1000))
  const pages = Math.ceil((valueBytes + pageHeadBytes) / pageBytes)
  return { bytesMax: puts * valueBytes, fileBytes: Math.ceil(puts * pages * pageBytes + rawSlackBytes) }
}

async function measureSockets(what: Case, { durationMs }: RunOptions): Promise<Run> {
  const writer = new Worker<SocketSteps>('raw-socket')
  const reader = new Worker<SocketSteps>('raw-socket')
  try {
    const perFrame = what.batch ?? 1
    const frameBytes = perFrame * what.bodyBytes
    const port = await writer.call('listen', { bufferBytes: socketBufferBytes }, stepMs)
    const others = watchOthers([writer.pid, reader.pid])
    const reading = reader.call('read', { port }, durationMs + 2 * stepMs)
    const written = await writer.call('write', { frameBytes, durationMs }, durationMs + stepMs)
    const read = await reading
    if (read.bytes !== written.frames * frameBytes) {
      throw new Error(`${what.name}: of ${written.frames * frameBytes} bytes ${read.bytes} came`)
    }
    const messages = written.frames * perFrame
    const elapsedMs = read.endMs - written.startMs
    return {
      ...noFigures,
      case: what.name,
      window: what.windows[0]!,
      messages,
      elapsedMs,
      perSecond: (messages / elapsedMs) * 1000,
      producerCpu: (written.cpuSeconds / messages) * 1e6,
      consumerCpu: (read.cpuSeconds / messages) * 1e6,
      othersShare: others(),
    }
  } finally {
    await writer.stop()
    await reader.stop()
  }
}

async function measureAnswers(what: Case, { durationMs, warmMs, window }: RunOptions): Promise<Run> {
  const server = new Worker<SocketSteps>('raw-socket')
  const clients = new Worker<SocketSteps>('raw-socket')
  try {
    const port = await server.call('answer', { frameBytes: what.bodyBytes }, stepMs)
    const others = watchOthers([server.pid, clients.pid])
    const task = { port, sockets: window, frameBytes: what.bodyBytes, warmMs, durationMs }
    const [{ answers, elapsedMs, cpuSeconds }, serverSeconds] = await Promise.all([
      clients.call('ask', task, warmMs + durationMs + stepMs),
      cpuSecondsWithin(server.pid, warmMs, durationMs),
    ])
    return {
      ...noFigures,
      case: what.name,
      window,
      messages: answers,
      elapsedMs,
      perSecond: (answers / elapsedMs) * 1000,
      brokerCpu: (serverSeconds / answers) * 1e6,
      producerCpu: (cpuSeconds / answers) * 1e6,
      othersShare: others(),
    }
  } finally {
    await clients.stop()
    await server.stop()
  }
}

/** What a process uses within `durationMs`, which begin in `delayMs`. */
async function cpuSecondsWithin(pid: number, delayMs: number, durationMs: number): Promise<number> {
  await setTimeout(delayMs)
  const before = cpuSecondsOf(pid)
  await setTimeout(durationMs)
  return cpuSecondsOf(pid) - before
}

async function measureGenerator(what: Case, options: RunOptions): Promise<Run> {
  const producer = new Worker<ProducerSteps>('producer')
  try {
    // It makes millions a second; a second tells enough.
    const durationMs = Math.min(options.durationMs, 1000)
    const task = { ...loadOf(what, options), durationMs, first: 0, countMax: 2 ** 32 - 1, tag: 0 }
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

async function measureStream(what: Case, options: RunOptions, dir: string): Promise<Run> {
  const { durationMs, warmMs } = options
  const producers = what.kind === 'crowd' ? crowdClients : 1
  await using trio = await Trio.start({ ...trioOptions(what, options, dir), producers })
  const receives = what.kind === 'w2'
  const receive = () => trio.receive({ bodyBytes: what.bodyBytes, mode: what.consume ?? 'receive' })
  if (receives) await receive()
  const step = what.kind === 'w4' || what.kind === 'crowd' ? 'oneByOne' : 'send'
  const countMax = Math.floor(runBytesMax / what.bodyBytes)
  const send = (ms: number, first: number) =>
    trio.send(step, { ...loadOf(what, options), durationMs: ms, first, countMax })

  const warm = await send(warmMs, 0)
  if (receives) await trio.untilAcked(warm.confirmed)
  const costs = trio.watch()
  const sent = await send(durationMs, warm.confirmed)
  const total = warm.confirmed + sent.confirmed
  const endMs = receives ? (await trio.untilAcked(total)).lastAckMs : sent.endMs
  const cpu = perMillion(costs(), sent.confirmed)

  // What was confirmed must be there, once; in W1 and W4 nobody has looked yet.
  let drainPerSecond: number | null = null
  if (!receives) {
    const drainStartMs = nowMs()
    await receive()
    const { lastAckMs } = await trio.untilAcked(total)
    drainPerSecond = (total / (lastAckMs - drainStartMs)) * 1000
  }
  const account = await trio.account(what.name, total)
  const memory = memoryOf(trio)
  await trio.finish()
  const elapsedMs = endMs - sent.startMs
  return {
    ...noFigures,
    ...account,
    ...memory,
    ...cpu,
    consumerCpu: receives ? cpu.consumerCpu : null,
    case: what.name,
    window: options.window,
    messages: sent.confirmed,
    elapsedMs,
    perSecond: (sent.confirmed / elapsedMs) * 1000,
    ...('p50Ms' in sent ? { p50Ms: sent.p50Ms, p99Ms: sent.p99Ms, p999Ms: sent.p999Ms } : {}),
    drainPerSecond,
  }
}

async function measurePaced(what: Case, options: RunOptions, dir: string): Promise<Run> {
  const { bodyBytes } = what
  const perSecond = options.pacePerSecond ?? pacePerSecond
  const warmMs = options.warmMs
  const durationMs = Math.min(options.durationMs, (runBytesMax / bodyBytes / perSecond) * 1000)
  await using trio = await Trio.start(trioOptions(what, options, dir))
  await trio.receive({ bodyBytes, mode: 'consume', timed: true })
  const costs = trio.watch()
  const paced = await trio.pace({ bodyBytes, perSecond, durationMs, warmMs })
  const cpu = perMillion(costs(), paced.total)
  const account = await trio.account(what.name, paced.total)
  const memory = memoryOf(trio)
  await trio.finish()
  const { messages, elapsedMs, confirm, received } = paced
  return {
    ...noFigures,
    ...account,
    ...memory,
    ...cpu,
    case: what.name,
    window: options.window,
    messages,
    elapsedMs,
    perSecond: paced.perSecond,
    ...confirm,
    receivedP50Ms: received.p50Ms,
    receivedP99Ms: received.p99Ms,
    receivedP999Ms: received.p999Ms,
  }
}

function trioOptions(what: Case, { profileDir }: RunOptions, dir: string) {
  const profiles = profileDir === undefined ? undefined : join(profileDir, what.name.replaceAll(' ', '-'))
  return { dir, queues, profileDir: profiles }
}

function loadOf(
  { bodyBytes, batch }: Case,
  { window }: RunOptions,
): Pick<LoadTask, 'bodyBytes' | 'batch' | 'window'> {
  return { bodyBytes, batch, window }
}

/** CPU seconds for a million messages. */
export function perMillion(costs: Costs, messages: number) {
  const each = (seconds: number) => (seconds / messages) * 1e6
  return {
    brokerCpu: each(costs.broker),
    producerCpu: each(costs.producer),
    consumerCpu: each(costs.consumer),
    othersShare: costs.othersShare,
  }
}

function memoryOf(trio: Trio): Pick<Run, 'brokerPeakBytes' | 'brokerAnonymousBytes'> {
  const { peakBytes, anonymousBytes } = trio.brokerMemory()
  return { brokerPeakBytes: peakBytes, brokerAnonymousBytes: anonymousBytes }
}

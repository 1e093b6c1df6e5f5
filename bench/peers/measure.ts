/** One run of one system: fresh processes, fresh data, and an account of every message. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { LoadTask } from '../load.ts'
import { measure, type Run } from '../measure.ts'
import { cpuSecondsOf, machineBusySeconds } from '../proc.ts'
import { figuresOfPaced, pacePerSecond } from '../paced.ts'
import { quietDisk } from '../quiet-disk.ts'
import { nowMs } from '../statistics.ts'
import { Worker } from '../steps.ts'
import { heatName, type Entry, type System } from './cases.ts'
import type { PeerConsumerSteps } from './consumer.ts'
import type { DurabilityClass, Peer, PeerName, RunningServer } from './peer.ts'
import { peers } from './peers.ts'
import { cpuSecondsOfTree, PeakMemory } from './process-tree.ts'
import type { PeerProducerSteps } from './producer.ts'
import type { PeerRun, Way } from './report.ts'

export interface PeerRunOptions {
  /** Where data goes. */
  readonly dir: string
  readonly durability: DurabilityClass
  readonly durationMs: number
  /** Before it is measured: code is compiled, files are open. */
  readonly warmMs: number
}

/** Bodies of one run together, in bytes: bounds disk and the memory of those that keep all of it there. */
const runBytesMax = 2 * 2 ** 30
const queue = 'bench'
const cores = availableParallelism()
const stepMs = 30_000
/** Nothing for so long: what is missing then does not come any more. */
const stalledMs = 3000

/** The rate or latency of one entry, measured the way that its trial found best. */
export async function measureEntry(entry: Entry, way: Way, options: PeerRunOptions): Promise<PeerRun> {
  const { own } = entry
  if (own === null) {
    if (entry.workload === 'w3' || entry.workload === 'w4') await quietDisk(options.dir, options.durationMs)
    return withPeer(peerOf(entry.system), options, (bench) => bench.run(entry, way, options))
  }
  const { dir, durationMs, warmMs } = options
  const run = await measure(own, { dir, durationMs, warmMs, window: way.window, profileDir: undefined })
  return fromOwnRun(entry, way, run)
}

/** The best way of sending, out of a short run of each. */
export async function chooseWay(
  entry: Entry,
  windows: readonly number[],
  options: PeerRunOptions,
): Promise<Way> {
  const { own } = entry
  const ways = waysOf(entry, windows)
  if (ways.length === 1) return ways[0]!
  const trial = { ...options, durationMs: options.durationMs / 4, warmMs: options.warmMs / 2 }
  const rates =
    own === null
      ? await withPeer(peerOf(entry.system), options, (bench) => bench.tryAll(entry, ways, trial))
      : await inTurn(ways, async (way) => (await measureEntry(entry, way, trial)).perSecond)
  return ways[rates.indexOf(Math.max(...rates))]!
}

function waysOf({ workload, system, own }: Entry, windows: readonly number[]): Way[] {
  if (workload === 'w3' || workload === 'w4') return [{ batch: null, window: 1 }]
  if (own !== null) return own.windows.map((window) => ({ batch: own.batch, window }))
  const ways = peerOf(system).batches.flatMap((batch) =>
    windows.map((window) => ({
      batch,
      window: batch === null ? window : Math.max(1, Math.round(window / batch)) * batch,
    })),
  )
  return [...new Map(ways.map((way) => [`${way.batch}/${way.window}`, way])).values()]
}

/** W3 of this broker goes through the adapter, as the peers' does. */
function peerOf(system: System): Peer {
  return peers[system === 'send' ? 'adapter' : (system as PeerName)]
}

async function inTurn<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const item of items) results.push(await work(item))
  return results
}

function fromOwnRun(entry: Entry, way: Way, run: Run): PeerRun {
  const { messages, elapsedMs, perSecond, brokerCpu, brokerPeakBytes, p50Ms, p99Ms, p999Ms, othersShare } =
    run
  const { workload, bodyBytes, system } = entry
  const isLimit = system === 'raw' || system === 'generator'
  return {
    workload,
    bodyBytes,
    system,
    way,
    messages,
    elapsedMs,
    perSecond,
    serverCpu: brokerCpu,
    serverPeakBytes: brokerPeakBytes,
    // Of raw lmdb in W1 and W2 it would be a blob's, not a message's.
    confirm: p50Ms === null || p99Ms === null || workload !== 'w4' ? null : { p50Ms, p99Ms, p999Ms },
    received: null,
    account: isLimit
      ? null
      : { lost: run.lost ?? 0, duplicated: run.duplicated ?? 0, damaged: 0, notLookedAt: 0 },
    othersShare,
  }
}

async function withPeer<T>(
  peer: Peer,
  { dir: parent, durability }: PeerRunOptions,
  work: (bench: PeerBench) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(parent, 'peer-'))
  // A server that runs as another user has to get below it.
  chmodSync(dir, 0o711)
  const producer = new Worker<PeerProducerSteps>('peers/producer')
  const consumer = new Worker<PeerConsumerSteps>('peers/consumer')
  let server: RunningServer | null = null
  try {
    server = await peer.start(dir, durability)
    return await work(new PeerBench(peer, server, producer, consumer))
  } catch (error) {
    if (!(error instanceof Error) || server === null) throw error
    throw new Error(`${error.message}${tailOf(server)}`, { cause: error })
  } finally {
    await producer.stop()
    await consumer.stop()
    await server?.[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true, force: true })
  }
}

function tailOf(server: RunningServer): string {
  const log = server.log()
  return log === '' ? '' : `; the server's last words: ${log.slice(-300)}`
}

class PeerBench {
  readonly #peer: Peer
  readonly #server: RunningServer
  readonly #producer: Worker<PeerProducerSteps>
  readonly #consumer: Worker<PeerConsumerSteps>
  readonly #tag = (Math.random() * 2 ** 32) >>> 0
  /** Of a wait that was over too soon; 0: all came. */
  #lastAckMs = 0

  constructor(
    peer: Peer,
    server: RunningServer,
    producer: Worker<PeerProducerSteps>,
    consumer: Worker<PeerConsumerSteps>,
  ) {
    this.#peer = peer
    this.#server = server
    this.#producer = producer
    this.#consumer = consumer
  }

  /** Messages a second of each way, on one server, each with a queue of its own. */
  async tryAll(entry: Entry, ways: readonly Way[], options: PeerRunOptions): Promise<number[]> {
    const receives = entry.workload === 'w2'
    return inTurn(ways, async (way) => {
      const at = `${queue}-${way.batch ?? 1}-${way.window}`
      await this.#connect(at)
      if (receives) await this.#receive(entry, false)
      const warm = await this.#send(entry, way, options.warmMs, 0)
      const sent = await this.#send(entry, way, options.durationMs, warm.confirmed)
      const total = warm.confirmed + sent.confirmed
      if (!receives) return (sent.confirmed / (sent.endMs - sent.startMs)) * 1000
      const { acked, lastAckMs } = await this.#untilAcked(total, options)
      await this.#consumer.call('stop', { total }, 2 * stepMs)
      return (acked / (lastAckMs - warm.startMs)) * 1000
    })
  }

  async run(entry: Entry, way: Way, options: PeerRunOptions): Promise<PeerRun> {
    await this.#connect(queue)
    return entry.workload === 'w3'
      ? this.#runPaced(entry, way, options)
      : this.#runStream(entry, way, options)
  }

  async #runStream(entry: Entry, way: Way, options: PeerRunOptions): Promise<PeerRun> {
    const { workload, bodyBytes, system } = entry
    const receives = workload === 'w2'
    if (receives) await this.#receive(entry, false)
    const send = async (ms: number, first: number) => {
      if (workload !== 'w4') return { ...(await this.#send(entry, way, ms, first)), confirm: null }
      const task = this.#task(entry, way, ms, first)
      const { p50Ms, p99Ms, p999Ms, ...sent } = await this.#producer.call('oneByOne', task, ms + 2 * stepMs)
      return { ...sent, confirm: { p50Ms, p99Ms, p999Ms } }
    }
    const warm = await send(options.warmMs, 0)
    if (receives) await this.#untilAcked(warm.confirmed, options)

    using figures = this.#watch()
    const sent = await send(options.durationMs, warm.confirmed)
    const total = warm.confirmed + sent.confirmed
    let messages = sent.confirmed
    let endMs = sent.endMs
    if (receives) {
      const { acked, lastAckMs } = await this.#untilAcked(total, options)
      messages = Math.max(0, Math.min(total, acked) - warm.confirmed)
      endMs = lastAckMs
    }
    const { serverCpuSeconds, serverPeakBytes, othersShare } = figures.stop()

    // What was confirmed must be there, once; in W1 and W4 nobody has looked yet.
    if (!receives) {
      await this.#receive(entry, false)
      await this.#untilAcked(total, options)
    }
    const elapsedMs = endMs - sent.startMs
    return {
      workload,
      bodyBytes,
      system,
      way,
      messages,
      elapsedMs,
      perSecond: (messages / elapsedMs) * 1000,
      serverCpu: (serverCpuSeconds / messages) * 1e6,
      serverPeakBytes,
      confirm: sent.confirm,
      received: null,
      account: await this.#account(total),
      othersShare,
    }
  }

  /** The warm-up is the first part of one even stream, left out of the figures. */
  async #runPaced(entry: Entry, way: Way, options: PeerRunOptions): Promise<PeerRun> {
    const { workload, bodyBytes, system } = entry
    await this.#receive(entry, true)
    using figures = this.#watch()
    const durationMs = options.warmMs + options.durationMs
    const task = { bodyBytes, tag: this.#tag, perSecond: pacePerSecond, durationMs, first: 0 }
    const paced = await this.#producer.call('paced', task, durationMs + 2 * stepMs)
    const total = paced.sentMs.length
    await this.#untilAcked(total, options)
    const { serverCpuSeconds, serverPeakBytes, othersShare } = figures.stop()
    const receivedMs = await this.#consumer.call('receivedMs', { first: 0 }, stepMs)
    const account = await this.#account(total)
    return {
      workload,
      bodyBytes,
      system,
      way,
      ...figuresOfPaced(paced, receivedMs, { perSecond: pacePerSecond, warmMs: options.warmMs }),
      serverCpu: (serverCpuSeconds / total) * 1e6,
      serverPeakBytes,
      account,
      othersShare,
    }
  }

  async #connect(at: string): Promise<void> {
    const task = { peer: this.#peer.name, endpoint: this.#server.endpoint, queue: at }
    await this.#producer.call('connect', task, stepMs)
    await this.#consumer.call('connect', task, stepMs)
  }

  async #receive({ bodyBytes }: Entry, timed: boolean): Promise<void> {
    await this.#consumer.call('start', { bodyBytes, tag: this.#tag, timed }, stepMs)
  }

  #send(entry: Entry, way: Way, ms: number, first: number) {
    return this.#producer.call('send', this.#task(entry, way, ms, first), ms + 2 * stepMs)
  }

  #task({ bodyBytes }: Entry, { batch, window }: Way, durationMs: number, first: number): LoadTask {
    const countMax = Math.max(1, Math.floor(runBytesMax / bodyBytes) - first)
    return { bodyBytes, tag: this.#tag, batch, window, durationMs, countMax, first }
  }

  /** Bounded: a peer that is slow to receive would take minutes for what it took in seconds. */
  async #untilAcked(total: number, { durationMs }: PeerRunOptions) {
    const timeoutMs = 5000 + 10 * durationMs
    const result = await this.#consumer.call('untilAcked', { total, timeoutMs }, timeoutMs + stepMs)
    this.#lastAckMs = result.acked < total ? result.lastAckMs : 0
    return result
  }

  async #account(total: number): Promise<NonNullable<PeerRun['account']>> {
    // Not lost, when they still came as the time was over.
    const isOver = this.#lastAckMs > nowMs() - stalledMs
    const { missing, duplicates, damaged } = await this.#consumer.call('stop', { total }, 2 * stepMs)
    return {
      lost: isOver ? 0 : missing,
      duplicated: duplicates,
      damaged,
      notLookedAt: isOver ? missing : 0,
    }
  }

  #watch(): Watch {
    return new Watch(this.#server.pid, [this.#producer.pid, this.#consumer.pid])
  }
}

/** What the server takes from now on, and what others take of the machine. */
class Watch implements Disposable {
  readonly #server: number
  readonly #others: readonly number[]
  readonly #memory: PeakMemory
  readonly #startMs = nowMs()
  readonly #busySeconds = machineBusySeconds()
  readonly #serverSeconds: number
  readonly #ourSeconds: number

  constructor(server: number, clients: readonly number[]) {
    this.#server = server
    this.#others = [...clients, process.pid]
    this.#memory = new PeakMemory(server)
    this.#serverSeconds = cpuSecondsOfTree(server)
    this.#ourSeconds = this.#ours()
  }

  #ours(): number {
    return this.#others.reduce((sum, pid) => sum + cpuSecondsOf(pid), 0)
  }

  stop() {
    const serverCpuSeconds = cpuSecondsOfTree(this.#server) - this.#serverSeconds
    const ours = serverCpuSeconds + this.#ours() - this.#ourSeconds
    const capacity = ((nowMs() - this.#startMs) / 1000) * cores
    return {
      serverCpuSeconds,
      serverPeakBytes: this.#memory.bytes(),
      othersShare: Math.max(0, machineBusySeconds() - this.#busySeconds - ours) / capacity,
    }
  }

  [Symbol.dispose](): void {
    this.#memory.stop()
  }
}

/** For messages. */
export function entryName(entry: Entry): string {
  return `${heatName(entry)} ${entry.system}`
}

/** A broker, a producer and a consumer, each a process of its own, with fresh data, and an account of every message. */
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { assertWhole } from './bodies.ts'
import { BrokerProcess } from './broker-process.ts'
import type { ConsumerSteps, ConsumeTask } from './consumer.ts'
import { anonymousBytesOf, cpuSecondsOf, machineBusySeconds, peakMemoryBytesOf } from './proc.ts'
import type { ProducerSteps, SendTask } from './producer.ts'
import { figuresOfPaced, type PacedFigures, type PacedTask } from './paced.ts'
import { nowMs } from './statistics.ts'
import { Worker } from './steps.ts'

export interface TrioOptions {
  /** Fresh, and the caller's to remove. */
  readonly dir: string
  readonly queues: readonly string[]
  readonly partitions?: number | undefined
  /** Connections of the producer, and of the consumer. Default one each. */
  readonly producers?: number | undefined
  readonly consumers?: number | undefined
  /** Directory for a CPU profile of each; none: undefined. */
  readonly profileDir?: string | undefined
  /** For the broker. */
  readonly flags?: readonly string[] | undefined
}

export const stepMs = 30_000
/** The slowest pace at which messages are waited for. */
const perSecondMin = 5_000
const cores = availableParallelism()

/** Of the trio's own queues unless it names others. */
type OnQueues<Task extends { queues: readonly string[] }> = Omit<Task, 'tag' | 'queues'> &
  Partial<Pick<Task, 'queues'>>
type Pacing = Omit<PacedTask, 'tag' | 'first'> & { readonly warmMs: number }

export class Trio implements AsyncDisposable {
  readonly producer: Worker<ProducerSteps>
  readonly consumer: Worker<ConsumerSteps>
  readonly tag = (Math.random() * 2 ** 32) >>> 0
  readonly #queues: readonly string[]
  #broker: BrokerProcess | null = null

  private constructor({ queues, profileDir }: TrioOptions) {
    this.#queues = queues
    this.producer = new Worker<ProducerSteps>('producer', profiled(profileDir, 'producer'))
    this.consumer = new Worker<ConsumerSteps>('consumer', profiled(profileDir, 'consumer'))
  }

  /** Resolves once both clients are connected and the queues are there. */
  static async start(options: TrioOptions): Promise<Trio> {
    const { dir, queues, partitions, producers, consumers, profileDir, flags } = options
    const trio = new Trio(options)
    try {
      const execArgv = profiled(profileDir, 'broker')
      trio.#broker = await BrokerProcess.start({ dataDir: join(dir, 'data'), execArgv, flags })
      const server = trio.broker.listen
      await trio.producer.call('connect', { server, clients: producers }, stepMs)
      await trio.consumer.call('connect', { server, clients: consumers }, stepMs)
      await trio.producer.call('createQueues', { queues, partitions }, stepMs)
      return trio
    } catch (error) {
      await trio[Symbol.asyncDispose]()
      throw error
    }
  }

  get broker(): BrokerProcess {
    return this.#broker!
  }

  /** From here on messages are received and acked. */
  async receive(task: OnQueues<ConsumeTask>): Promise<void> {
    await this.consumer.call('start', { queues: this.#queues, ...task, tag: this.tag }, stepMs)
  }

  send(step: 'send' | 'oneByOne', task: OnQueues<SendTask>) {
    const timeoutMs = task.durationMs + 2 * stepMs
    return this.producer.call(step, { queues: this.#queues, ...task, tag: this.tag }, timeoutMs)
  }

  untilAcked(total: number) {
    const timeoutMs = stepMs + (total / perSecondMin) * 1000
    return this.consumer.call('untilAcked', { total, timeoutMs }, timeoutMs + stepMs)
  }

  /** A load at a pace, numbered from 0, all of it received; who receives must be timed. */
  async pace(task: Pacing): Promise<PacedFigures & { readonly total: number }> {
    const durationMs = task.warmMs + task.durationMs
    const pacing = { ...task, durationMs, first: 0, queues: this.#queues, tag: this.tag }
    const paced = await this.producer.call('paced', pacing, durationMs + 2 * stepMs)
    const total = paced.sentMs.length
    await this.untilAcked(total)
    const receivedMs = await this.consumer.call('receivedMs', { first: 0 }, stepMs)
    return { ...figuresOfPaced(paced, receivedMs, task), total }
  }

  /** Ends the receiving. @throws Error when a message that was confirmed is lost, came twice or is damaged */
  async account(what: string, total: number): Promise<{ lost: number; duplicated: number }> {
    const account = await this.consumer.call('stop', { total }, 2 * stepMs)
    assertWhole(what, total, account)
    return { lost: account.missing, duplicated: account.duplicates }
  }

  /** What the three take of the processors from now on, until it is called. */
  watch(): () => Costs {
    const pids = [this.broker.pid, this.producer.pid, this.consumer.pid]
    const before = pids.map(cpuSecondsOf)
    const others = watchOthers(pids)
    return () => {
      const [broker, producer, consumer] = pids.map((pid, i) => cpuSecondsOf(pid) - before[i]!)
      return { broker: broker!, producer: producer!, consumer: consumer!, othersShare: others() }
    }
  }

  brokerMemory(): { peakBytes: number; anonymousBytes: number } {
    const { pid } = this.broker
    return { peakBytes: peakMemoryBytesOf(pid), anonymousBytes: anonymousBytesOf(pid) }
  }

  /** In order, as a user would. @throws Error when the broker does not stop well */
  async finish(): Promise<void> {
    await this.producer.call('close', null, stepMs)
    await this.consumer.call('close', null, stepMs)
    const { broker } = this
    this.#broker = null
    await broker.stop()
  }

  /** Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.producer.stop()
    await this.consumer.stop()
    await this.#broker?.kill()
    this.#broker = null
  }
}

/** CPU seconds, and the share of all cores that went to anything else. */
export interface Costs {
  readonly broker: number
  readonly producer: number
  readonly consumer: number
  readonly othersShare: number
}

/** Measures what share of the machine goes to others than these processes and this one, until it is called. */
export function watchOthers(pids: readonly number[]): () => number {
  const ours = () => [...pids, process.pid].reduce((sum, pid) => sum + cpuSecondsOf(pid), 0)
  const busyBefore = machineBusySeconds()
  const oursBefore = ours()
  const startMs = nowMs()
  return () => {
    const capacity = ((nowMs() - startMs) / 1000) * cores
    return Math.max(0, machineBusySeconds() - busyBefore - (ours() - oursBefore)) / capacity
  }
}

function profiled(dir: string | undefined, name: string): string[] {
  return dir === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(dir, name)}`]
}

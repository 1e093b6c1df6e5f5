/**
 * A broker: composes storage, partitions and frontend, and carries out commands (`commands.ts`).
 *
 * Start: lock → bind → meta → a new epoch, durable → recover every partition → EPOCH_START of each, committed → accept.
 * Stop: refuse → hand leases over → checkpoints → administration and log flushed → answers out → connections,
 *       segments, lock; a disk that does not end a commit is not waited for, which counts as its failure.
 * A storage error: nothing is told any more, connections are cut, `failed` resolves; only a restart goes on.
 */
import { EmbeddedStore, type QueueRecord } from '../coordinator/embedded.ts'
import type { Address, Env, Put, Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import { Listener } from '../frontend/listener.ts'
import { LimitedLog } from '../observe/limited-log.ts'
import { Phases } from '../observe/phases.ts'
import { Meters, type Measured, type QueueFigures } from '../observe/metrics.ts'
import { logDefaults, SharedLog, type LogOptions } from '../storage/log.ts'
import { Retention } from '../storage/retention.ts'
import { Verifier, type VerifyProblem } from '../storage/verify.ts'
import { nowhere, sourceId, type Target } from '../partition/outbox.ts'
import { inTurns, turn } from '../turns.ts'
import type { PartitionId, ProducerId, QueueId } from '../types.ts'
import { BatchBuilder } from '../wire/batch.ts'
import { Checkpoints } from './checkpoints.ts'
import { Commands } from './commands.ts'
import type { PeerLink } from './forwarder.ts'
import { silentLogger, type Logger } from './logger.ts'
import { Partition, type PartitionContext } from './partition.ts'
import { answerForward } from './peers.ts'
import { Queue } from './queue.ts'
import { SortedNames } from './sorted-names.ts'

export type { Logger } from './logger.ts'

export interface BrokerOptions {
  /** Where clients connect. Default 127.0.0.1:7650; port 0 takes a free one. */
  listen: Address
  /** This node's name. Default: drawn at the first start and kept. */
  nodeId?: string | undefined
  log: Logger
  /** Default 1,000. */
  maxConnections: number
  /**
   * Bytes of answers that wait to be read, on all connections together. Default 256 MiB. The nearer they come to it, the
   * less one connection may have unread and still be served; see `frontend/unread.ts`. Below 128 MiB even a first answer is
   * smaller than 16 MiB.
   */
  maxUnreadBytes: number
  /** Default 10,000. */
  maxQueues: number
  /** Partitions of all queues together. Default 20,000. */
  maxPartitions: number
  /** Size of a log segment in bytes. Default 64 MiB. */
  segmentBytes: number
  /** Silence after which a connection says it is alive, in milliseconds. Default 10,000. */
  heartbeatMs: number
  /** What a stop waits for the disk to take everything, in milliseconds. Default 5,000. */
  stopTimeoutMs: number
  /** A commit that takes longer is logged, in milliseconds. Default 500. */
  slowCommitMs: number
  /**
   * For tests: what is between an outbox and its target. It carries frames to `deliver` and brings the answers, and may
   * lose, delay and repeat either.
   */
  peerLink: (deliver: PeerLink) => PeerLink
  /** For tests: everything else about the log. */
  logOptions: Partial<LogOptions>
}

export const brokerDefaults: BrokerOptions = {
  listen: { host: '127.0.0.1', port: 7650 },
  log: silentLogger,
  maxConnections: 1000,
  maxUnreadBytes: 256 << 20,
  maxQueues: 10_000,
  maxPartitions: 20_000,
  segmentBytes: logDefaults.segmentBytes,
  heartbeatMs: 10_000,
  stopTimeoutMs: 5000,
  slowCommitMs: 500,
  peerLink: (deliver) => deliver,
  logOptions: {},
}

export interface Broker {
  readonly nodeId: string
  readonly clusterId: string
  readonly address: Address
  /** Reasons why it is not ready; none when it serves. */
  readiness(): string[]
  /**
   * Resolves when the broker had to stop itself: its process should end. With `details.stuck` a system call of the
   * disk has not returned, and `process.exit` would wait for it.
   */
  readonly failed: Promise<MqError>
  /**
   * A planned stop; idempotent. Never waits for leases or for clients. When the disk does not end a commit, `failed`
   * resolves too, and the data directory is locked until the process ends.
   */
  stop(): Promise<void>
  /** For metrics. */
  readonly measured: Measured
  /** For tests and the simulator. */
  readonly internals: BrokerInternals
}

export interface BrokerInternals {
  readonly queues: ReadonlyMap<string, Queue>
  readonly log: SharedLog
}

/** Partitions that are opened, or told of a deletion, in one turn. */
const partitionsPerTurn = 100

/** What a stop waits for a commit under way beyond `stopTimeoutMs`, in milliseconds. */
const closeTimeoutMs = 1000

/**
 * Starts a broker on `env`.
 * @throws MqError DATA_DIR_LOCKED, DATA_DIR_NOT_WRITABLE, NEWER_DATA_FORMAT, ADDRESS_IN_USE, DISK_FULL, STORAGE_FAILED,
 *   …
 */
export async function startBroker(env: Env, options: Partial<BrokerOptions> = {}): Promise<Broker> {
  const set = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
  const running = new RunningBroker(env, { ...brokerDefaults, ...(set as Partial<BrokerOptions>) })
  await running.start()
  return running
}

export class RunningBroker implements Broker, Measured {
  readonly env: Env
  readonly options: BrokerOptions
  readonly logger: Logger
  readonly failed: Promise<MqError>
  readonly queues = new Map<string, Queue>()
  readonly queuesById = new Map<QueueId, Queue>()
  /** Of `queues`. */
  readonly names = new SortedNames()
  readonly meters = new Meters()
  #mode: 'starting' | 'serving' | 'stopping' | 'stopped' | 'failed' = 'starting'
  #meta: EmbeddedStore | null = null
  #log: SharedLog | null = null
  #retention: Retention | null = null
  #verifier: Verifier | null = null
  #isReserveGiven = false
  #listener: Listener | null = null
  #commands: Commands | null = null
  #tellFull!: (error: MqError) => void
  /** Resolves when the disk was found full for the first time. */
  readonly #filled: Promise<MqError>
  #tellFailed!: (error: MqError) => void
  #stopped: Promise<void> | null = null
  #entriesRead = 0
  /** For what clients bring about. */
  readonly limitedLog: LimitedLog
  readonly #context: PartitionContext
  readonly #checkpoints: Checkpoints

  constructor(env: Env, options: BrokerOptions) {
    this.env = env
    this.options = options
    this.logger = options.log
    this.limitedLog = new LimitedLog(options.log, env.clock)
    this.failed = new Promise((resolve) => (this.#tellFailed = resolve))
    this.#filled = new Promise((resolve) => (this.#tellFull = resolve))
    const { checkpointBytesPerTurn } = { ...logDefaults, ...options.logOptions }
    this.#checkpoints = new Checkpoints(env.clock, checkpointBytesPerTurn, (error) => this.failedWith(error))
    this.#context = {
      checkpoints: this.#checkpoints,
      clock: env.clock,
      logger: options.log,
      recovered: (entries) => (this.#entriesRead += entries),
      attach: (log) => this.log.attach(log),
      detach: (log) => this.log.detach(log),
      forwarding: {
        clock: env.clock,
        limitedLog: this.limitedLog,
        // There is one node: whatever an outbox sends comes back to it.
        link: options.peerLink((frame) => answerForward(this, frame)),
        builder: new BatchBuilder(),
        deadLetterTarget: (name, partition) => this.#madeDeadLetterTarget(name, partition),
        failed: (error) => this.failedWith(error),
      },
    }
  }

  get nodeId(): string {
    return this.meta.nodeId
  }

  get clusterId(): string {
    return this.meta.clusterId
  }

  get address(): Address {
    return this.#listener?.address ?? this.options.listen
  }

  get internals(): BrokerInternals {
    return { queues: this.queues, log: this.log }
  }

  get measured(): Measured {
    return this
  }

  get connections(): number {
    return this.#listener?.connections ?? 0
  }

  queueNames(): Iterable<string> {
    return this.queues.keys()
  }

  figuresOf(name: string): QueueFigures | null {
    return this.#mode === 'serving' ? (this.queues.get(name)?.figures() ?? null) : null
  }

  segmentsOf(name: string, into: Set<string>): void {
    for (const partition of this.queues.get(name)?.partitions ?? []) partition.liveSegments(into)
  }

  segments(): SharedLog['segments'] {
    return this.#log?.segments ?? []
  }

  get meta(): EmbeddedStore {
    if (this.#meta === null) throw new Error('the broker has not started')
    return this.#meta
  }

  get log(): SharedLog {
    if (this.#log === null) throw new Error('the broker has not started')
    return this.#log
  }

  get serving(): boolean {
    return this.#mode === 'serving'
  }

  readiness(): string[] {
    const reasons: string[] = []
    if (this.#mode !== 'serving') reasons.push(this.#mode)
    if (this.#log?.isFull) reasons.push('disk full')
    return reasons
  }

  async start(): Promise<void> {
    const { clock, store } = this.env
    const background = { ...logDefaults, ...this.options.logOptions }
    const phases = new Phases(clock)
    await store.lock()
    phases.end('lock')
    try {
      // The address first, and nobody is let in yet: once EPOCH_STARTs are on the disk, the leases that a planned stop
      // handed over are this start's, and they would be lost with it if the address were taken.
      this.#commands = new Commands(this)
      this.#listener = await Listener.open(this.env, this.options.listen, this, this.#commands)
      // Whichever comes first: every EPOCH_START on the disk, or the news that the disk won't take them.
      const failed = await Promise.race([this.#recover(phases), this.failed, this.#filled])
      if (failed !== undefined) throw failed
      this.#mode = 'serving'
      this.#forgetDeleted()
      this.#retention = new Retention(this.log, clock, background, (error) => this.failedWith(error))
      this.#verifier = new Verifier(this.log, clock, background, {
        verified: (bytes) => (this.meters.verifiedBytes += bytes),
        found: (problem) => this.#rotFound(problem),
        failed: (error) => this.failedWith(error),
      })
      if (this.log.isFull) this.#diskFull(true)
      this.#listener.accept()
      phases.end('listen')
    } catch (error) {
      // Why it did not start says more than why something could not be closed, as a segment that is stuck.
      await this.#close().catch((closing: unknown) => {
        this.logger.error({ reason: String(closing) }, 'the data directory could not be closed')
      })
      throw error
    }
    this.logger.info(
      {
        node: this.nodeId,
        queues: this.queues.size,
        segments: this.log.segmentCount,
        entriesRead: this.#entriesRead,
        tookMs: phases.totalMs,
        phasesMs: phases.tookMs,
      },
      'recovered',
    )
  }

  /** Everything of a start that the disk has a part in. */
  async #recover(phases: Phases): Promise<undefined> {
    const { clock, random, store } = this.env
    const logOptions = { ...logDefaults, segmentBytes: this.options.segmentBytes, ...this.options.logOptions }
    this.#meta = await EmbeddedStore.open(store, clock, random, {
      nodeId: this.options.nodeId,
      commitTimeoutMs: logOptions.commitTimeoutMs,
      failed: (error) => this.fail(error),
      makeRoom: () => this.#log?.giveReserve() ?? this.#giveReserve(),
    })
    phases.end('metadata')
    const epoch = await this.#meta.drawEpoch()
    phases.end('epoch')
    this.#log = await SharedLog.open(store, clock, random, logOptions, {
      failed: (error) => this.fail(error),
      rolled: () => this.#checkpointAll(),
      relieved: () => this.#listener?.relieved(),
      full: (isFull) => this.#diskFull(isFull),
      blocked: () => this.#diskBlocked(),
      committed: (tookMs, puts) => this.#committed(tookMs, puts),
      damaged: (segment, reason) =>
        this.logger.error({ segment, reason }, 'segment damaged: it is only read from now on'),
      removed: (segment) => this.logger.info({ segment }, 'segment removed: nothing in it is needed'),
    })
    phases.end('segments')
    for (const record of this.#meta.queues.values()) this.addQueue(await this.openQueue(record, epoch, false))
    phases.end('partitions')
    await this.#log.flushed()
    phases.end('firstCommit')
    return undefined
  }

  /**
   * Opens a queue's partitions in `epoch`, which is durable; they serve once the log has been flushed. Nobody finds
   * the queue until it is added. Others are served in between.
   * @param isNew it was never there before
   * @throws MqError STOPPING: the log is not there any more
   */
  async openQueue(record: QueueRecord, epoch: number, isNew: boolean): Promise<Queue> {
    const { clock, random } = this.env
    const { deliveryLatency } = this.meters
    const queue = new Queue(record.id, record.name, record.options, {
      clock,
      random,
      deliveryLatency,
      deadLetterTarget: (name, partition) => this.#deadLetterTarget(name, partition),
    })
    for (let id = 0; id < queue.options.partitions; id++) {
      if (id > 0 && id % partitionsPerTurn === 0) await turn(this.env.clock)
      if (this.#mode === 'stopped' || this.#mode === 'failed') {
        throw new MqError('STOPPING', 'the broker is stopping')
      }
      queue.partitions.push(
        Partition.start(
          record,
          id,
          epoch,
          this.log,
          this.#context,
          queue.leaderOptions,
          () => queue.ready(),
          isNew,
        ),
      )
    }
    return queue
  }

  #deadLetterTarget(name: string, partition: PartitionId): Target {
    const queue = this.queues.get(name)
    return queue === undefined
      ? nowhere
      : { queueId: queue.id, partition: partition % queue.partitions.length }
  }

  async #madeDeadLetterTarget(name: string, partition: PartitionId): Promise<Target | null> {
    const deadLetterQueue = this.queues.get(name)?.options.deadLetterQueue ?? null
    if (deadLetterQueue === null) return null
    await this.#commands!.ensureQueue(deadLetterQueue)
    return this.#deadLetterTarget(deadLetterQueue, partition)
  }

  /** Whose queues were deleted while this partition was not there to hear of it, as by a crash just then. */
  #forgetDeleted(): void {
    let sources: ProducerId[] | null = null
    for (const partition of this.#partitions()) {
      const { state } = partition.leader
      if (state.sources.size > 0) {
        sources ??= [...this.meta.deleted].flatMap(sourcesOf)
        partition.queueDeleted('', sources)
      }
      for (const { target } of [...state.outbox.destinations.values()]) {
        if (this.meta.wasDeleted(target.queueId)) partition.queueDeleted(target.queueId, [])
      }
    }
  }

  /** Why nothing new is taken, if so: there is room for what settles only. */
  get whyFull(): MqError | null {
    return this.log.isFull ? new MqError('DISK_FULL', 'the disk of the broker is full') : null
  }

  /** @throws MqError QUEUE_NOT_FOUND, QUEUE_DELETED */
  queueOfId(id: QueueId): Queue {
    const queue = this.queuesById.get(id)
    if (queue !== undefined) return queue
    if (this.meta.wasDeleted(id)) throw new MqError('QUEUE_DELETED', 'the queue was deleted')
    throw new MqError('QUEUE_NOT_FOUND', 'there is no queue with this id')
  }

  addQueue(queue: Queue): void {
    this.queues.set(queue.name, queue)
    this.names.add(queue.name)
    this.queuesById.set(queue.id, queue)
  }

  /**
   * Forgets a queue whose tombstone is durable; whoever waits on it hears QUEUE_DELETED. Resolves once every partition
   * has forgotten it too, which takes many turns. Nothing of it comes back in between: forwards from it are refused by
   * the tombstone, and those to it find no queue. What a crash or a stop leaves undone the next start does.
   */
  async closeQueue(queue: Queue): Promise<void> {
    this.queues.delete(queue.name)
    this.names.delete(queue.name)
    this.queuesById.delete(queue.id)
    const error = new MqError('QUEUE_DELETED', `queue ${queue.name} was deleted`)
    for (const partition of queue.partitions) partition.close(error)
    queue.refuseWaiting(error)
    const sources = sourcesOf({ id: queue.id, options: queue.optionsSet })
    for await (const partition of this.partitionsInTurns()) {
      if (!this.serving) return
      partition.queueDeleted(queue.id, sources)
    }
  }

  /** All of them, and others are served in between. */
  partitionsInTurns(): AsyncGenerator<Partition, void> {
    return inTurns(this.#partitions(), partitionsPerTurn, this.env.clock)
  }

  *#partitions(): Generator<Partition, void> {
    for (const queue of this.queues.values()) yield* queue.partitions
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #stop(): Promise<void> {
    const wasServing = this.#mode === 'serving'
    this.#retention?.close()
    void this.#verifier?.close()
    if (wasServing) {
      this.#mode = 'stopping'
      this.logger.info({}, 'stopping')
      await this.#listener?.stopAccepting()
      const error = new MqError('STOPPING', 'the broker is stopping')
      for (const queue of this.queues.values()) {
        queue.refuseWaiting(error)
        for (const partition of queue.partitions) partition.handOver()
      }
      this.#checkpointAll()
      // A queue whose creation is under way still begins its log.
      const idle = Promise.all([this.#commands!.idle(), this.#checkpoints.idle()])
      const flushed = idle.then(() => this.log.flushed()).then(() => this.log.emptyJournal())
      const stopped = Promise.race([flushed.then(() => true), this.failed.then(() => false)])
      if ((await this.#within(this.options.stopTimeoutMs, stopped)) !== true)
        this.logger.warn(
          {},
          'stopped before the disk had taken everything; what was not on it was not confirmed',
        )
    }
    await this.#close()
    this.limitedLog.close()
    if (wasServing) this.logger.info({}, 'stopped')
  }

  async #close(): Promise<void> {
    this.#checkpoints.close()
    await this.#listener?.close()
    if (this.#mode !== 'failed') this.#mode = 'stopped'
    for (const partition of this.#partitions()) partition.close()
    const close = async (): Promise<true> => {
      await Promise.all([this.#verifier?.close(), this.#log?.close(), this.#meta?.close()])
      await this.env.store.close()
      return true
    }
    if ((await this.#within(closeTimeoutMs, close())) === true) return
    const details = { stuck: true }
    this.fail(
      new MqError('STORAGE_FAILED', 'the disk did not end a commit before the stop was over', { details }),
    )
  }

  /** What `promise` resolves with, or undefined when that takes longer than `ms`. */
  async #within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
    let timer: Timer
    const late = new Promise<undefined>((resolve) => {
      timer = this.env.clock.after(ms, () => resolve(undefined))
    })
    return Promise.race([promise, late]).finally(() => timer.cancel())
  }

  #checkpointAll(): void {
    for (const partition of this.#partitions()) partition.checkpoint()
  }

  #committed(tookMs: number, puts: readonly Put[]): void {
    this.meters.commit.observeMs(tookMs)
    if (tookMs < this.options.slowCommitMs) return
    let bytes = 0
    for (const { value } of puts) bytes += value.length
    this.limitedLog.write('warn', 'slow commit', { tookMs: Math.round(tookMs), records: puts.length, bytes })
  }

  /** Of what nobody needs the disk's owner should hear, too: it is failing. */
  #rotFound({ what: reason, ...problem }: VerifyProblem): void {
    this.meters.verifyProblems++
    const isNeeded = problem.needed !== 'nothing'
    this.logger[isNeeded ? 'error' : 'warn']({ ...problem, reason }, 'a closed segment does not verify')
  }

  /** The metadata finds the disk full before the log is open: there may be a reserve of an earlier start. */
  async #giveReserve(): Promise<boolean> {
    if (this.#isReserveGiven) return false
    this.#isReserveGiven = true
    await this.env.store.release()
    return true
  }

  #diskFull(isFull: boolean): void {
    if (this.#mode === 'starting') return
    if (isFull) this.logger.error({}, 'the disk is full: sends are refused until there is room')
    else this.logger.info({}, 'the disk takes writes again')
  }

  /** Not even the reserve is left. A start can't begin then, and says so once. */
  #diskBlocked(): void {
    if (this.#mode !== 'starting') return
    this.#tellFull(new MqError('DISK_FULL', 'the disk is full, and a start has to write before it serves'))
  }

  /** Something was thrown that is no refusal. */
  failedWith(error: unknown): void {
    const isKnown = error instanceof MqError && error.code === 'STORAGE_FAILED'
    this.fail(isKnown ? error : new MqError('INTERNAL', `a defect: ${String(error)}`))
  }

  /** Safety first: after an error nobody knows what is on the disk, so nobody may hear anything that depends on it. */
  fail(error: MqError): void {
    if (this.#mode === 'failed') return
    this.#mode = 'failed'
    this.#retention?.close()
    this.#checkpoints.close()
    void this.#verifier?.close()
    const what = error.code === 'INTERNAL' ? 'a defect' : 'the disk failed'
    this.logger.error(
      { code: error.code, reason: error.message },
      `${what}: stopping at once, restart to go on`,
    )
    for (const partition of this.#partitions()) partition.close()
    this.#listener?.destroy()
    this.#tellFailed(error)
  }
}

/** By what targets know the partitions of a queue. */
function sourcesOf({ id, options }: Pick<QueueRecord, 'id' | 'options'>): ProducerId[] {
  const partitions = Array.from({ length: options.partitions ?? 1 }, (_, partition) => partition)
  return partitions.map((partition) => sourceId({ queueId: id, partition }))
}

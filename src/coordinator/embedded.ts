/**
 * The coordinator's embedded store: what this broker knows about itself and its queues, in the segment `meta`
 * (LOG.md). Writes are rare and one at a time; what is read is in memory. A deletion is a tombstone that names the
 * queue's id: a log is never removed for being absent from a list.
 */
import { crc32 } from 'node:zlib'
import type { Clock, Put, Random, Segment, Store } from '../env.ts'
import { invariant, MqError } from '../errors.ts'
import { limits, type Epoch, type QueueId, type QueueOptions } from '../types.ts'
import { asStorageError, isDiskFull, watchdog } from '../storage/disk-failure.ts'
import { isQueueName } from '../wire/codec.ts'
import { pack, unpack } from '../wire/msgpack.ts'

export const dataFormat = 1

export interface QueueRecord {
  readonly id: QueueId
  readonly name: string
  /** As set at creation; absent ones have their defaults. */
  readonly options: QueueOptions
  readonly createdMs: number
  readonly deletedMs: number | null
}

export interface EmbeddedOptions {
  /** Taken on the first start; later starts must give the same or none. */
  readonly nodeId: string | undefined
  /** A commit that takes longer has failed, as far as anybody can tell, in milliseconds. */
  readonly commitTimeoutMs: number
  /** The disk failed: nothing may be told any more. Called at most once. */
  failed(error: MqError): void
  /** The disk is full. @returns whether there is room now, and it is worth to try again */
  makeRoom(): Promise<boolean>
}

export class EmbeddedStore {
  readonly #segment: Segment
  readonly #clock: Clock
  readonly #random: Random
  readonly #options: EmbeddedOptions
  readonly #byName = new Map<string, QueueRecord>()
  readonly #deleted = new Map<QueueId, QueueRecord>()
  #clusterId = ''
  #nodeId = ''
  #epoch: Epoch = 0
  /** Writes wait for the one before. */
  #last: Promise<unknown> = Promise.resolve()
  /** Why nothing is written any more. */
  #ended: MqError | null = null
  #failed: MqError | null = null

  private constructor(segment: Segment, clock: Clock, random: Random, options: EmbeddedOptions) {
    this.#segment = segment
    this.#clock = clock
    this.#random = random
    this.#options = options
  }

  /**
   * Opens it, or makes it on the first start.
   * @throws MqError NEWER_DATA_FORMAT, INVALID_OPTION: another node's data; CORRUPT_LOG, DISK_FULL, STORAGE_FAILED
   */
  static async open(
    store: Store,
    clock: Clock,
    random: Random,
    options: EmbeddedOptions,
  ): Promise<EmbeddedStore> {
    const exists = (await store.list()).includes('meta')
    const segment = await store.open('meta', { create: !exists })
    const self = new EmbeddedStore(segment, clock, random, options)
    try {
      await self.#load(options.nodeId)
      return self
    } catch (error) {
      await self.close()
      throw error
    }
  }

  get clusterId(): string {
    return this.#clusterId
  }

  get nodeId(): string {
    return this.#nodeId
  }

  get queues(): ReadonlyMap<string, QueueRecord> {
    return this.#byName
  }

  /** Tombstones. */
  get deleted(): Iterable<QueueRecord> {
    return this.#deleted.values()
  }

  wasDeleted(id: QueueId): boolean {
    return this.#deleted.has(id)
  }

  /**
   * A number above all drawn before, durable when it resolves.
   * @throws MqError DISK_FULL; STORAGE_FAILED, STOPPING: so do all writes from then on
   */
  async drawEpoch(): Promise<Epoch> {
    const epoch = ++this.#epoch
    await this.#write([epochPut(epoch)])
    return epoch
  }

  /**
   * Creates a queue and draws the epoch in which it begins, in one commit: a crash leaves both or neither. Creations and
   * deletions come one at a time; after DISK_FULL nothing has changed.
   * @throws MqError as `drawEpoch`
   */
  async createQueue(name: string, options: QueueOptions): Promise<{ record: QueueRecord; epoch: Epoch }> {
    invariant(!this.#byName.has(name), `queue ${name} is there already`)
    const id = Buffer.from(this.#random.bytes(16)).toString('hex')
    const record: QueueRecord = { id, name, options, createdMs: this.#clock.nowMs(), deletedMs: null }
    const epoch = ++this.#epoch
    await this.#write([epochPut(epoch), queuePut(record)])
    this.#byName.set(name, record)
    return { record, epoch }
  }

  /** The queue has `options` from then on. @throws MqError as `drawEpoch` */
  async updateQueue(name: string, options: QueueOptions): Promise<void> {
    const record = this.#byName.get(name)
    invariant(record !== undefined, `queue ${name} is not there`)
    const updated: QueueRecord = { ...record, options }
    await this.#write([queuePut(updated)])
    this.#byName.set(name, updated)
  }

  async deleteQueue(name: string): Promise<void> {
    const record = this.#byName.get(name)
    invariant(record !== undefined, `queue ${name} is not there`)
    const tombstone: QueueRecord = { ...record, deletedMs: this.#clock.nowMs() }
    await this.#write([queuePut(tombstone)])
    this.#byName.delete(name)
    this.#deleted.set(record.id, tombstone)
  }

  /** Waits for a write under way, however long that takes. */
  close(): Promise<void> {
    this.#ended ??= new MqError('STOPPING', 'the broker is stopping')
    return this.#segment.close()
  }

  async #load(nodeId: string | undefined): Promise<void> {
    const format = this.#get('format') as [number] | undefined
    if (format !== undefined) assertKnownFormat(format[0])
    const node = this.#get('node') as [string, string] | undefined
    if (format === undefined || node === undefined) {
      this.#clusterId = hex(this.#random.bytes(8))
      this.#nodeId = nodeId ?? hex(this.#random.bytes(4))
      await this.#commit([metaPut('format', [dataFormat]), metaPut('node', [this.#clusterId, this.#nodeId])])
    } else {
      ;[this.#clusterId, this.#nodeId] = node
      if (nodeId !== undefined && nodeId !== this.#nodeId) {
        throw new MqError(
          'INVALID_OPTION',
          `the data directory belongs to node ${this.#nodeId}, not ${nodeId}`,
        )
      }
    }
    this.#epoch = (this.#get('epoch') as [number] | undefined)?.[0] ?? 0
    const queues: QueueRecord[] = []
    this.#segment.scan(Buffer.from('queue/'), Buffer.from('queue0'), (key, value) => {
      queues.push(queueRecordOf(Buffer.from(key), value))
      return true
    })
    for (const record of queues) {
      if (record.deletedMs === null && this.#byName.has(record.name)) {
        throw new MqError('CORRUPT_LOG', `two queues of the metadata are called '${record.name}'`)
      }
      if (record.deletedMs === null) this.#byName.set(record.name, record)
      else this.#deleted.set(record.id, record)
    }
  }

  #get(key: string): unknown {
    const value = this.#segment.get(Buffer.from(key))
    return value === undefined ? undefined : metaValue(Buffer.from(key), value)
  }

  #write(puts: readonly Put[]): Promise<void> {
    const written = this.#last.then(() => this.#commit(puts))
    this.#last = written.catch(() => undefined)
    return written
  }

  /** Resolves only if everybody may be told. */
  async #commit(puts: readonly Put[]): Promise<void> {
    if (this.#ended !== null) throw this.#ended
    const what = 'a commit of metadata'
    const timer = watchdog(this.#clock, this.#options.commitTimeoutMs, what, (error) => this.#fail(error))
    try {
      await this.#segment.commit(puts)
    } catch (error) {
      // Nothing was written, and the segment is good.
      if (isDiskFull(error)) {
        timer.cancel()
        if (this.#failed === null && (await this.#options.makeRoom())) return this.#commit(puts)
        throw error
      }
      this.#fail(asStorageError(what, error))
    } finally {
      timer.cancel()
    }
    // The watchdog may have given the disk up meanwhile, and everybody was told so.
    if (this.#failed !== null) throw this.#failed
  }

  #fail(error: MqError): void {
    if (this.#failed !== null) return
    this.#failed = this.#ended = error
    this.#options.failed(error)
  }
}

function epochPut(epoch: Epoch): Put {
  return metaPut('epoch', [epoch])
}

function queuePut({ id, name, options, createdMs, deletedMs }: QueueRecord): Put {
  return metaPut(`queue/${id}`, [name, options, createdMs, deletedMs])
}

/** @throws MqError NEWER_DATA_FORMAT */
export function assertKnownFormat(format: number): void {
  if (format <= dataFormat) return
  throw new MqError(
    'NEWER_DATA_FORMAT',
    `the data has format ${format}, this version knows up to ${dataFormat}`,
  )
}

/** What is stored: the value with its crc before it. Of one flipped bit a queue could be another, or gone, and nobody would know. */
export function metaPut(key: string, value: unknown): Put {
  const body = pack(value)
  const stored = Buffer.allocUnsafeSlow(4 + body.length)
  stored.writeUInt32BE(crc32(body, crc32(key)), 0)
  stored.set(body, 4)
  return { key: Buffer.from(key), value: stored }
}

/** @throws MqError CORRUPT_LOG */
export function metaValue(key: Uint8Array, stored: Uint8Array): unknown {
  const bytes = Buffer.from(stored)
  const body = bytes.subarray(4)
  if (bytes.length > 4 && crc32(body, crc32(key)) === bytes.readUInt32BE(0)) return unpack(body)
  throw new MqError('CORRUPT_LOG', `meta key '${Buffer.from(key).toString('latin1')}' cannot be read`)
}

/** @throws MqError CORRUPT_LOG: it is not what `queuePut` makes */
export function queueRecordOf(key: Uint8Array, value: Uint8Array): QueueRecord {
  const id = Buffer.from(key).toString('latin1').slice('queue/'.length)
  const damaged = (cause?: unknown): MqError =>
    new MqError('CORRUPT_LOG', `the record of queue ${printed(id)} in the metadata cannot be read`, { cause })
  let fields: unknown
  try {
    fields = metaValue(key, value)
  } catch (cause) {
    throw damaged(cause)
  }
  if (!Array.isArray(fields)) throw damaged()
  const [name, options, createdMs, deletedMs] = fields as unknown[]
  const isWhole =
    /^[0-9a-f]{32}$/.test(id) &&
    typeof name === 'string' &&
    isQueueName(name) &&
    typeof options === 'object' &&
    options !== null &&
    typeof createdMs === 'number' &&
    (deletedMs === null || typeof deletedMs === 'number')
  if (!isWhole) throw damaged()
  return {
    id,
    name,
    options: checkedOptions(options as Record<string, unknown>, damaged),
    createdMs,
    deletedMs,
  }
}

/** Numbers that size memory must be numbers. */
function checkedOptions(options: Record<string, unknown>, damaged: () => MqError): QueueOptions {
  const { partitions } = options
  const isCount = Number.isInteger(partitions) && (partitions as number) >= 1
  if (partitions !== undefined && !(isCount && (partitions as number) <= limits.partitionsMax))
    throw damaged()
  return options
}

/** A key that rotted may hold anything. */
function printed(id: string): string {
  return id.replace(/[^0-9a-f]/g, '?').slice(0, 32)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

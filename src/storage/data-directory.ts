/**
 * A data directory as somebody sees it who only reads, and for whom nothing there can be taken for granted: a part
 * that cannot be read is told of, and left out.
 */
import type { Damage, Segment, Store } from '../env.ts'
import { assertKnownFormat, metaValue, queueRecordOf, type QueueRecord } from '../coordinator/embedded.ts'
import { invariant, MqError } from '../errors.ts'
import { CorruptEntry, logName, type LogName } from '../partition/entry.ts'
import type { Offset, QueueId } from '../types.ts'
import { EntryCache } from './entry-cache.ts'
import { Journal } from './journal.ts'
import { JournaledSegment } from './journaled-segment.ts'
import { segmentName } from './open-segments.ts'
import { asBuffer, checkpointPrefix, copyPrefix, entryPrefix, PartitionLog } from './partition-log.ts'

/** Something that is wrong, and where. */
export interface Problem {
  readonly what: string
  readonly segment?: string | undefined
  /** The queue's name; its id, where that is all that is known. */
  readonly queue?: string | undefined
  readonly partition?: number | undefined
  readonly offset?: Offset | undefined
}

export type Tell = (problem: Problem) => void

export class DataDirectory {
  /** Those that could be opened and read so far, oldest first. */
  segments: Segment[] = []
  /** All there are. */
  segmentNames: readonly string[] = []
  readonly queues = new Map<QueueId, QueueRecord>()
  /** Queues whose record cannot be read. */
  readonly unreadable = new Set<QueueId>()
  /** Null: meta cannot be read, or says nothing of it. */
  epoch: number | null = null
  /** Whether what meta says of queues is all of them. */
  knowsQueues = false
  readonly #opened: Segment[] = []
  readonly #told = new Set<string>()
  readonly #tell: Tell

  private constructor(tell: Tell) {
    this.#tell = tell
  }

  /** Of a locked store. @throws MqError NEWER_DATA_FORMAT; STORAGE_FAILED: the directory itself can't be read */
  static async open(store: Store, tell: Tell): Promise<DataDirectory> {
    const self = new DataDirectory(tell)
    const names = await store.list()
    self.segmentNames = names.filter((name) => segmentName.test(name))
    try {
      await self.#readMeta(store, names.includes('meta'))
      for (const name of self.segmentNames) {
        const segment = await self.#open(store, name)
        if (segment !== null) self.#opened.push(segment)
      }
      self.segments = [...self.#opened]
      await self.#readJournal(store)
      return self
    } catch (error) {
      await self.close()
      throw error
    }
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#opened.map((segment) => segment.close()))
  }

  async #open(store: Store, name: string): Promise<Segment | null> {
    try {
      return await store.open(name, { create: false, sealed: true })
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      this.#tell({ what: `it cannot be opened: ${error.message}`, segment: name })
      return null
    }
  }

  /** What was committed to it alone is of the last segment, or of the one before it. */
  async #readJournal(store: Store): Promise<void> {
    try {
      const file = await store.journal(null)
      if (file === null) return
      const journal = Journal.of(await file.read().finally(() => file.close()))
      for (const [i, segment] of this.segments.entries()) {
        if (segment.name === journal.segment && i >= this.segments.length - 2)
          this.segments[i] = JournaledSegment.recover(segment, journal)
      }
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      this.#tell({ what: error.message })
    }
  }

  async #readMeta(store: Store, exists: boolean): Promise<void> {
    if (!exists) {
      this.#tell({ what: 'it is missing: nothing says which queues there are', segment: 'meta' })
      return
    }
    const segment = await this.#open(store, 'meta')
    if (segment === null) return
    try {
      this.knowsQueues = true
      segment.walk((damage) => this.tellDamage(segment, damage))
      const [format] = (this.#get(segment, 'format') ?? []) as [number?]
      if (format !== undefined) assertKnownFormat(format)
      this.#get(segment, 'node')
      this.epoch = ((this.#get(segment, 'epoch') ?? []) as [number?])[0] ?? null
      const visit = (key: Uint8Array, value: Uint8Array): boolean => {
        this.#addQueue(Buffer.from(key), Buffer.from(value))
        return true
      }
      segment.scan(Buffer.from('queue/'), Buffer.from('queue0'), visit, (damage) => {
        this.knowsQueues = false
        this.tellDamage(segment, damage)
      })
    } catch (error) {
      if (!(error instanceof MqError) || error.code === 'NEWER_DATA_FORMAT') throw error
      this.knowsQueues = false
      this.#tell({ what: error.message, segment: 'meta' })
    } finally {
      await segment.close()
    }
  }

  /** A part of a segment that can't be read, once, whoever comes upon it. */
  tellDamage({ name }: Segment, { what }: Pick<Damage, 'what'>): void {
    if (this.#told.has(what)) return
    // A bound, should a whole file be wrong: nobody reads that many.
    if (this.#told.size < damagesMax) this.#told.add(what)
    this.#tell({ what, segment: name })
  }

  #get(segment: Segment, key: string): unknown {
    let value: Uint8Array | undefined
    try {
      value = segment.get(Buffer.from(key))
    } catch (error) {
      if (!isCorrupt(error)) throw error
      this.knowsQueues = false
      this.tellDamage(segment, { what: error.message })
      return undefined
    }
    if (value === undefined) {
      this.#tell({ what: `the key '${key}' is missing`, segment: 'meta' })
      return undefined
    }
    try {
      return metaValue(Buffer.from(key), value)
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      this.#tell({ what: error.message, segment: 'meta' })
      return undefined
    }
  }

  #addQueue(key: Buffer, value: Buffer): void {
    try {
      const record = queueRecordOf(key, value)
      const twin = [...this.queues.values()].find(({ name, deletedMs }) => {
        return deletedMs === null && name === record.name
      })
      if (twin !== undefined && record.deletedMs === null)
        this.#tell({ what: `two queues are called '${record.name}'`, segment: 'meta' })
      this.queues.set(record.id, record)
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      this.unreadable.add(key.toString('latin1').slice('queue/'.length))
      this.#tell({ what: error.message, segment: 'meta' })
    }
  }

  /** The queue of that name, living if there is one, else one that is deleted; or the one with that id. */
  find(nameOrId: string): QueueRecord | undefined {
    const named = [...this.queues.values()].filter(({ name }) => name === nameOrId)
    return named.find(({ deletedMs }) => deletedMs === null) ?? named[0] ?? this.queues.get(nameOrId)
  }

  nameOf(id: QueueId): string {
    return this.queues.get(id)?.name ?? id
  }

  /** A partition's log, with where its parts are. For reading: nothing is appended to it. */
  logOf(name: LogName): PartitionLog {
    const log = new PartitionLog(name, readingOnly)
    for (const segment of [...this.segments]) {
      this.reading(segment, () => {
        const { base: first } = log.first(segment)
        if (first !== undefined) log.extents.push({ segment, first })
      })
      this.reading(segment, () => log.findCopies(segment))
    }
    log.durableEnd = Number.MAX_SAFE_INTEGER
    return log
  }

  /** All partitions of queues that are there, and all that have anything in a segment, in the order of their keys. */
  logNames(): LogName[] {
    const found = new Map<string, LogName>()
    for (const { id, options, deletedMs } of this.queues.values()) {
      if (deletedMs !== null) continue
      for (let i = 0; i < (options.partitions ?? 1); i++) found.set(`${id}/${i}`, logName(id, i))
    }
    for (const segment of [...this.segments]) {
      this.reading(segment, () => {
        for (const prefix of [entryPrefix, checkpointPrefix, copyPrefix]) {
          for (const name of namesIn(segment, prefix)) found.set(`${name.queueId}/${name.partition}`, name)
        }
      })
    }
    return [...found.values()].sort((a, b) => Buffer.compare(a.bytes, b.bytes))
  }

  /** Carries a reading of a segment out. One that fails is told, and the segment is not read any more. */
  reading(segment: Segment, read: () => void): void {
    if (!this.segments.includes(segment)) return
    try {
      read()
    } catch (error) {
      // What the disk did not give, and what its bytes make no sense of.
      if (isCorrupt(error)) {
        this.tellDamage(segment, { what: error.message })
        return
      }
      const isOfTheDisk = error instanceof MqError && error.code === 'STORAGE_FAILED'
      // A key of the wrong length.
      const isOfTheKey = error instanceof RangeError
      if (!isOfTheDisk && !isOfTheKey && !(error instanceof CorruptEntry)) throw error
      this.#tell({ what: error.message, segment: segment.name })
      if (!isOfTheDisk) return
      this.segments = this.segments.filter((other) => other !== segment)
    }
  }
}

const readingOnly = {
  // It keeps nothing, for however long.
  cache: new EntryCache(0, { monotonicMs: () => 0 }),
  currentSegment: '',
  enqueue: () => invariant(false, 'a log that is only read'),
}

/** Of one segment's file; more are told as often as they are met. */
const damagesMax = 100_000

function isCorrupt(error: unknown): error is MqError {
  return error instanceof MqError && error.code === 'CORRUPT_LOG'
}

/** The partitions that have a key with this prefix, where it can be read. */
function* namesIn(segment: Segment, prefix: number): Generator<LogName> {
  const end = Uint8Array.of(prefix + 1)
  let from: Uint8Array = Uint8Array.of(prefix)
  for (;;) {
    let key: Buffer | undefined
    const visit = (first: Uint8Array): boolean => {
      key = Buffer.from(asBuffer(first))
      return false
    }
    segment.scan(from, end, visit, () => undefined)
    if (key === undefined) return
    if (key.length >= 21) yield logName(key.toString('hex', 1, 17), key.readUInt32BE(17))
    from = Buffer.concat([key.subarray(0, 21), Buffer.alloc(9, 0xff)])
  }
}

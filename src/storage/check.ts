/**
 * Reads all of a data directory, and says what is wrong in it:
 *
 *   meta → which queues there are
 *   of each partition: its newest checkpoint, every record and copy in every segment, the fold from the checkpoint up,
 *   and whether the batch of each message that is unsettled then is where the broker will look for it
 *
 * It is the broker's own code that folds and finds, so that what is sound here starts there. Nothing is written.
 */
import { type Damage, keyBytesMax, type Segment, type Store } from '../env.ts'
import { InvariantError, invariant, MqError } from '../errors.ts'
import {
  CorruptEntry,
  decodeHeader,
  entryLength,
  payloadVerifies,
  type Entry,
  type LogName,
} from '../partition/entry.ts'
import { decodeCheckpoint } from '../partition/checkpoint.ts'
import { PartitionState } from '../partition/fold.ts'
import { RangeMap, type Run } from '../partition/range-map.ts'
import type { Offset, QueueId } from '../types.ts'
import { checkpointBody } from './checkpoint-writer.ts'
import { DataDirectory, type Problem } from './data-directory.ts'
import { foldNext } from './log.ts'
import { hasRottenMark, rottenMark } from './journaled-segment.ts'
import {
  asBuffer,
  checkpointPrefix,
  copyPrefix,
  entryPrefix,
  journalPrefix,
  recordBase,
  type PartitionLog,
} from './partition-log.ts'

export interface CheckedQueue {
  readonly name: string
  readonly id: QueueId
  partitions: number
  /** Ready or leased. */
  messages: number
  delayed: number
  /** On their way to another queue. */
  moving: number
  quarantined: number
  /** Of its entries, copies and checkpoints. */
  bytes: number
}

export interface CheckedSegment {
  readonly name: string
  /** What it has in use; null when it can't be opened. */
  readonly usedBytes: number | null
  entries: number
  copies: number
  checkpoints: number
}

/** Data of queues that are not there. */
export interface Leftover {
  queues: number
  bytes: number
}

export interface CheckReport {
  readonly ok: boolean
  /** At most `problemsMax` of them. */
  readonly problems: readonly Problem[]
  readonly problemCount: number
  readonly queues: readonly CheckedQueue[]
  readonly segments: readonly CheckedSegment[]
  /** Of deleted queues: it goes with its segments. */
  readonly deleted: Leftover
}

/** How far it is. */
export interface CheckProgress {
  readonly logs: number
  readonly logsDone: number
  readonly bytesRead: number
}

export interface CheckOptions {
  /** By which a message is delayed or ready, in ms since 1970. */
  readonly nowMs: number
  /** Called often. */
  onProgress?(progress: CheckProgress): void
}

/** More are counted, not kept: a disk can be wrong in very many places. */
export const problemsMax = 1000

/** Of a locked store. @throws MqError NEWER_DATA_FORMAT, STORAGE_FAILED */
export async function checkStore(store: Store, options: CheckOptions): Promise<CheckReport> {
  const check = new Check(options)
  const directory = await DataDirectory.open(store, (problem) => check.tell(problem))
  try {
    return check.run(directory)
  } finally {
    await directory.close()
  }
}

/** An entry, or what should be one, whose bytes do not verify. */
interface Rot {
  readonly segment: string
  readonly what: string
  readonly base: Offset
  /** Where what is lost with it ends (exclusive); null: it does not say itself. */
  readonly end: Offset | null
}

class Check {
  readonly #options: CheckOptions
  readonly #problems: Problem[] = []
  #problemCount = 0
  #directory!: DataDirectory
  readonly #queues = new Map<QueueId, CheckedQueue>()
  readonly #segments = new Map<string, CheckedSegment>()
  readonly #deleted = new Map<QueueId, number>()
  #progress = { logs: 0, logsDone: 0, bytesRead: 0 }

  constructor(options: CheckOptions) {
    this.#options = options
  }

  tell(problem: Problem): void {
    this.#problemCount++
    if (this.#problems.length < problemsMax) this.#problems.push(problem)
  }

  run(directory: DataDirectory): CheckReport {
    this.#directory = directory
    const opened = new Map(directory.segments.map((segment) => [segment.name, segment]))
    for (const name of directory.segmentNames) {
      const usedBytes = opened.get(name)?.usedBytes ?? null
      this.#segments.set(name, { name, usedBytes, entries: 0, copies: 0, checkpoints: 0 })
    }
    for (const { id, name, deletedMs, options } of directory.queues.values()) {
      if (deletedMs === null) this.#addQueue(id, name, options.partitions ?? 1)
    }
    for (const segment of directory.segments) {
      segment.walk((damage) => directory.tellDamage(segment, damage))
      directory.reading(segment, () => this.#findForeign(segment))
    }
    const names = directory.logNames()
    this.#progress.logs = names.length
    for (const name of names) {
      this.#checkLog(name)
      this.#progress.logsDone++
    }
    const queues = [...this.#queues.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
    let bytes = 0
    for (const each of this.#deleted.values()) bytes += each
    return {
      ok: this.#problemCount === 0,
      problems: this.#problems,
      problemCount: this.#problemCount,
      queues,
      segments: [...this.#segments.values()],
      deleted: { queues: this.#deleted.size, bytes },
    }
  }

  /** Keys that nobody writes: another's file, or a key that has rotted. */
  #findForeign(segment: Segment): void {
    if (hasRottenMark(segment)) this.tell({ what: rottenMark, segment: segment.name })
    const prefixes = [checkpointPrefix, journalPrefix, entryPrefix, copyPrefix]
    for (const [i, from] of [0, ...prefixes.map((prefix) => prefix + 1)].entries()) {
      const to = i < prefixes.length ? Uint8Array.of(prefixes[i]!) : new Uint8Array(keyBytesMax).fill(0xff)
      const visit = (key: Uint8Array): boolean => {
        const what = `there is a key that nobody writes, ${asBuffer(key).toString('hex')}`
        this.tell({ what, segment: segment.name })
        return false
      }
      segment.scan(Uint8Array.of(from), to, visit, (damage) => this.#directory.tellDamage(segment, damage))
    }
  }

  #addQueue(id: QueueId, name: string, partitions: number): CheckedQueue {
    const none = { messages: 0, delayed: 0, moving: 0, quarantined: 0, bytes: 0 }
    const queue: CheckedQueue = { name, id, partitions, ...none }
    this.#queues.set(id, queue)
    return queue
  }

  #checkLog(name: LogName): void {
    const { queueId, partition } = name
    const record = this.#directory.queues.get(queueId)
    if (record !== undefined && record.deletedMs !== null) {
      // Nobody reads it any more, and it goes with its segments.
      const bytes = new LogCheck(this.#directory, name, () => undefined, this.#read).countBytes()
      this.#deleted.set(queueId, (this.#deleted.get(queueId) ?? 0) + bytes)
      return
    }
    const label = record?.name ?? queueId
    const tell = (what: string, where: Pick<Problem, 'segment' | 'offset'> = {}): void =>
      this.tell({ what, ...where, queue: label, partition })
    let queue = this.#queues.get(queueId)
    if (queue === undefined) {
      queue = this.#addQueue(queueId, label, 0)
      if (this.#directory.knowsQueues && !this.#directory.unreadable.has(queueId)) {
        tell('there is a log of a queue that meta does not know')
      }
    }
    if (record === undefined) queue.partitions++
    else if (partition >= (record.options.partitions ?? 1)) {
      tell(`the queue has ${record.options.partitions ?? 1} partitions, and this is none of them`)
    }
    const log = new LogCheck(this.#directory, name, tell, this.#read)
    const state = log.check()
    const { epoch } = this.#directory
    if (epoch !== null && state.epoch > epoch)
      tell(`it is at epoch ${state.epoch}, and meta knows of none above ${epoch}`)
    let delayed = 0
    const run: Run = { start: 0, end: 0, value: 0 }
    for (let from = 0; state.delayed.nextRun(from, run); from = run.end)
      if (run.value > this.#options.nowMs) delayed += state.live.countIn(run.start, run.end)
    queue.messages += state.live.size - delayed
    queue.delayed += delayed
    queue.moving += state.outbox.moving.size
    queue.quarantined += state.quarantined.size
    queue.bytes += log.bytes
  }

  readonly #read = (
    segment: string,
    kind: 'entries' | 'copies' | 'checkpoints',
    n: number,
    bytes: number,
  ) => {
    this.#segments.get(segment)![kind] += n
    this.#progress.bytesRead += bytes
    this.#options.onProgress?.(this.#progress)
  }
}

type CountRead = (
  segment: string,
  kind: 'entries' | 'copies' | 'checkpoints',
  n: number,
  bytes: number,
) => void

/** One partition. */
class LogCheck {
  bytes = 0
  readonly #directory: DataDirectory
  readonly #name: LogName
  readonly #log: PartitionLog
  readonly #tell: (what: string, where?: Pick<Problem, 'segment' | 'offset'>) => void
  readonly #count: CountRead
  #state = new PartitionState()
  /** Up to which offset the newest checkpoint that can be read has folded. */
  #checkpointed: Offset = 0
  /** Whether `state` is that of the whole log. */
  #isWhole = true
  /** What does not verify, to be told once it is known what of it matters; bounded as the problems are. */
  readonly #damages: Rot[] = []
  readonly #damaged = new RangeMap()
  /** The first segment that has entries behind the checkpoint. */
  #firstSegment = ''
  /** Where entries may be lost that follow all that was read so far: the next one that follows tells that none are. */
  #doubt: { readonly what: string; readonly segment: string } | null = null

  constructor(
    directory: DataDirectory,
    name: LogName,
    tell: (what: string, where?: Pick<Problem, 'segment' | 'offset'>) => void,
    count: CountRead,
  ) {
    this.#directory = directory
    this.#name = name
    this.#log = directory.logOf(name)
    this.#tell = tell
    this.#count = count
  }

  countBytes(): number {
    for (const segment of this.#directory.segments) {
      this.#directory.reading(segment, () => {
        const add = (_key: Uint8Array, value: Uint8Array): boolean => {
          this.bytes += value.length
          return true
        }
        const skip = (damage: Damage): void => this.#directory.tellDamage(segment, damage)
        segment.scan(this.#log.key(0), this.#log.endKey, add, skip)
        this.#log.scanCopies(segment, add, skip)
        this.bytes += segment.get(this.#log.checkpointKey)?.length ?? 0
      })
    }
    return this.bytes
  }

  /** @returns what the log comes to, as far as it can be read */
  check(): PartitionState {
    this.#readCheckpoints()
    for (const segment of [...this.#directory.segments]) {
      this.#directory.reading(segment, () => this.#readCopies(segment))
      this.#directory.reading(segment, () => this.#readEntries(segment))
    }
    if (this.#isWhole && this.#doubt !== null) {
      const { segment } = this.#doubt
      this.#breakOff(`what follows offset ${this.#state.logEnd} may be lost`, { segment })
    }
    this.#log.durableEnd = this.#state.logEnd
    this.#checkState(this.#isWhole ? 'the log' : 'what can be read of the log')
    this.#tellDamages()
    // Of what was settled behind the place where it broke off, nobody knows.
    if (this.#isWhole) this.#findUnsettled()
    return this.#state
  }

  #readCheckpoints(): void {
    let isNewest = true
    for (const segment of [...this.#directory.segments].reverse()) {
      this.#directory.reading(segment, () => {
        const value = segment.get(this.#log.checkpointKey)
        if (value === undefined) return
        const where = { segment: segment.name }
        this.bytes += value.length
        this.#count(segment.name, 'checkpoints', 1, value.length)
        const body = checkpointBody(this.#name, value)
        if (body === null) {
          this.#tell(`${isNewest ? 'its newest' : 'an older'} checkpoint has rotted`, where)
          return
        }
        if (!isNewest) return
        isNewest = false
        try {
          const { state, firstSegment } = decodeCheckpoint(body)
          this.#state = state
          this.#firstSegment = firstSegment
          this.#checkpointed = this.#state.logEnd
        } catch (error) {
          this.#breakOff(`its newest checkpoint cannot be read: ${told(error)}`, where)
        }
        this.#checkState('its newest checkpoint', where)
      })
    }
  }

  #readCopies(segment: Segment): void {
    const visit = (key: Buffer, record: Buffer): boolean => {
      this.#readRecord(segment, key, record, 'copies')
      return true
    }
    this.#log.scanCopies(segment, visit, (damage) => this.#directory.tellDamage(segment, damage))
  }

  #readEntries(segment: Segment): void {
    const visit = (key: Uint8Array, value: Uint8Array): boolean => {
      this.#readRecord(segment, asBuffer(key), asBuffer(value), 'entries')
      return true
    }
    segment.scan(this.#log.key(0), this.#log.endKey, visit, (damage) => {
      this.#directory.tellDamage(segment, damage)
      const { name } = segment
      if (name < this.#firstSegment || Buffer.compare(damage.to, this.#log.key(this.#state.logEnd)) <= 0)
        return
      this.#doubt ??= { what: damage.what, segment: name }
    })
  }

  #readRecord(segment: Segment, key: Buffer, record: Buffer, kind: 'entries' | 'copies'): void {
    const keyBase = recordBase(key)
    this.bytes += record.length
    const what = kind === 'copies' ? 'a copy' : 'an entry'
    let entries = 0
    /** Where the next entry is; not known for sure behind one that has rotted. */
    let next = keyBase
    let isKnown = true
    try {
      for (let at = 0; at < record.length; at += entryLength(record, at)) {
        entries++
        const entry = this.#header(segment, record, at, kind, next)
        if (entry === null) {
          isKnown = false
          continue
        }
        if (isKnown && entry.base !== next)
          this.#damage(segment, `${what} has offset ${entry.base} where the record has ${next}`, next, next)
        next = entry.base + entry.count
        isKnown = true
        const isFolded = kind === 'entries' && this.#isWhole && entry.base >= this.#checkpointed
        const isRotten = !(isFolded ? this.#fold(segment, entry) : payloadVerifies(entry))
        if (isRotten) {
          const of = entry.kind === 'batch' ? messages(entry.count) : `the ${entry.kind}`
          const which = kind === 'copies' ? ' in a copy' : ''
          this.#damage(segment, `the payload of ${of}${which} has rotted`, entry.base, next)
        }
      }
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      this.#damage(segment, `the rest of a record cannot be read: ${error.message}`, next, null)
      if (kind === 'entries') this.#stopFold(next)
    }
    this.#count(segment.name, kind, entries, record.length)
  }

  #header(
    segment: Segment,
    record: Buffer,
    at: number,
    kind: 'entries' | 'copies',
    next: Offset,
  ): Entry | null {
    try {
      return decodeHeader(this.#name, record, at)
    } catch (error) {
      if (!(error instanceof CorruptEntry || isNewer(error))) throw error
      const what = isNewer(error) ? error.message : `the header of an entry has rotted`
      this.#damage(segment, kind === 'copies' ? `${what}, in a copy` : what, next, null)
      if (kind === 'entries') this.#stopFold(next)
      return null
    }
  }

  /** @returns false: it is a batch whose payload does not verify */
  #fold(segment: Segment, entry: Entry): boolean {
    try {
      const isGood = foldNext(this.#state, entry)
      this.#doubt = null
      return isGood
    } catch (error) {
      const where = { segment: segment.name, offset: entry.base }
      if (error instanceof CorruptEntry || error instanceof InvariantError || error instanceof MqError) {
        const gap = entry.base > this.#state.logEnd
        const what = gap
          ? `entries ${this.#state.logEnd} to ${entry.base - 1} are missing`
          : `the history breaks off: ${told(error)}`
        this.#breakOff(what, where)
        return true
      }
      throw error
    }
  }

  /** An entry at `next` is lost: if it is one that is to be folded, that is the end. Its damage is told apart. */
  #stopFold(next: Offset): void {
    if (next >= this.#checkpointed) this.#isWhole = false
  }

  #breakOff(what: string, where: Pick<Problem, 'segment' | 'offset'>): void {
    this.#isWhole = false
    this.#tell(`${what}; the partition will not start`, where)
  }

  #checkState(what: string, where: Pick<Problem, 'segment'> = {}): void {
    try {
      assertSound(this.#state)
    } catch (error) {
      if (!(error instanceof Error)) throw error
      this.#tell(`${what} contradicts itself: ${error.message}`, where)
    }
  }

  #damage(segment: Segment, what: string, base: Offset, end: Offset | null): void {
    if (this.#damages.length < problemsMax) this.#damages.push({ segment: segment.name, what, base, end })
    else this.#tell(what, { segment: segment.name, offset: base })
  }

  #tellDamages(): void {
    const { live, outbox, quarantined } = this.#state
    for (const { segment, what, base, end: ownEnd } of this.#damages) {
      const end = ownEnd ?? Math.max(base + 1, this.#lostEnd(base) ?? base)
      this.#damaged.set(base, end)
      const unsettled = live.countIn(base, end) + outbox.moving.countIn(base, end)
      const before = quarantined.countIn(base, end)
      const isHalted = !this.#isWhole && base >= this.#checkpointed && base >= this.#state.logEnd
      let effect = 'nothing that is unsettled needs it'
      if (isHalted) effect = 'the partition will not start'
      else if (unsettled > 0) {
        const stands = this.#isReadable(base)
        effect = stands ? 'another copy of it is whole' : `${messages(unsettled)} lost`
      } else if (before > 0) effect = `${messages(before)} quarantined already`
      this.#tell(`${what}: ${effect}`, { segment, offset: base })
    }
  }

  /** Null: the disk does not say. */
  #lostEnd(base: Offset): Offset | null {
    try {
      return this.#log.recordEnd(base)
    } catch (error) {
      if (error instanceof CorruptEntry || error instanceof MqError) return null
      throw error
    }
  }

  /** Whether the broker would get the message, from wherever it is. */
  #isReadable(offset: Offset): boolean {
    try {
      return this.#log.look(offset).kind === 'batch'
    } catch (error) {
      if (error instanceof CorruptEntry || error instanceof MqError) return false
      throw error
    }
  }

  /** Every message that is not settled must be where the broker looks for it. */
  #findUnsettled(): void {
    const { live, outbox } = this.#state
    const run: Run = { start: 0, end: 0, value: 0 }
    for (const held of [live, outbox.moving]) {
      for (let at = 0; held.nextRun(at, run);) {
        const from = Math.max(at, run.start)
        // Bases of what was read are known to verify, but for the damaged, which were told.
        const end = this.#entryEnd(from)
        if (end !== null) {
          at = end
          continue
        }
        at = Math.max(from + 1, Math.min(run.end, this.#lostEnd(from) ?? run.end))
        if (this.#damaged.countIn(from, at) > 0) continue
        this.#tell(
          `${messages(held.countIn(from, at))} missing, from this offset on: no batch that can be read holds them`,
          {
            offset: from,
          },
        )
      }
    }
  }

  #entryEnd(offset: Offset): Offset | null {
    try {
      return this.#log.headerAt(offset).end
    } catch (error) {
      if (error instanceof CorruptEntry || error instanceof MqError) return null
      throw error
    }
  }
}

/** What must hold of any partition's state. Throws when it does not. */
function assertSound({ live, delayed, quarantined, outbox, logEnd }: PartitionState): void {
  live.checkInvariants()
  delayed.checkInvariants()
  quarantined.checkInvariants()
  outbox.checkInvariants()
  const run: Run = { start: 0, end: 0, value: 0 }
  for (const map of [live, quarantined, outbox.moving]) {
    if (!map.isEmpty) invariant(map.lastEnd() <= logEnd, 'a message is behind the end of the log')
  }
  for (let from = 0; delayed.nextRun(from, run); from = run.end)
    invariant(live.covers(run.start, run.end), `what is delayed at ${run.start} is not unsettled`)
  for (const map of [quarantined, outbox.moving]) {
    for (let from = 0; map.nextRun(from, run); from = run.end)
      invariant(live.countIn(run.start, run.end) === 0, `message ${run.start} is in two states`)
  }
}

function isNewer(error: unknown): error is MqError {
  return error instanceof MqError && error.code === 'NEWER_DATA_FORMAT'
}

function told(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function messages(count: number): string {
  return count === 1 ? '1 message' : `${count} messages`
}

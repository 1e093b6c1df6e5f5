/**
 * Reads closed segments whole, one after the other and each again after some hours, so that rot is found while there is
 * something to be done about it: messages that nobody will ever get are quarantined and counted now, and a partition
 * whose next start would stumble over what has rotted writes a checkpoint, after which nothing older is read.
 *
 * It takes what it reads from the disk, in pieces, with pauses, and gives way to a log that has much to write. Nothing
 * that it sees is served to anybody.
 *
 * Races: all that it knows of a segment was true when the piece was read. The segment may be removed meanwhile, by
 * retention: then nobody needed it, and what has rotted is told of no more. Messages may be settled meanwhile: whoever
 * owns the partition looks again, at what it holds now, as a reader would. An entry in a segment never changes, so rot
 * that was seen is there.
 */
import type { Clock, Damage, Segment, Timer } from '../env.ts'
import {
  CorruptEntry,
  decodeHeader,
  entryLength,
  logName,
  payloadVerifies,
  peekEntry,
  type LogName,
} from '../partition/entry.ts'
import type { Offset } from '../types.ts'
import { checkpointBody } from './checkpoint-writer.ts'
import { isRottenMark, rottenMark } from './journaled-segment.ts'
import type { SharedLog } from './log.ts'
import {
  asBuffer,
  checkpointPrefix,
  copyPrefix,
  entryPrefix,
  journalPrefix,
  type PartitionLog,
  recordBase,
} from './partition-log.ts'

export interface VerifyOptions {
  /** What is read of closed segments, in bytes a second, at most; 0: nothing is. */
  verifyBytesPerSecond: number
  /** How long after a segment was read it is read again, in milliseconds. */
  verifyEveryMs: number
}

export interface VerifyEvents {
  /** So many bytes were read and looked at. */
  verified(bytes: number): void
  /** Something does not verify, which was not told before. */
  found(problem: VerifyProblem): void
  /** What must not happen: the disk can't be read, or a defect. */
  failed(error: unknown): void
}

export interface VerifyProblem {
  readonly segment: string
  readonly what: string
  /** Absent: of no one partition. */
  readonly queueId?: string
  readonly partition?: number
  readonly offset?: Offset
  /** What depends on it, and so what was done; of a part that can't be read nobody knows all that was there. */
  readonly needed: 'messages' | 'start' | 'nothing' | 'unknown'
}

/** Read at once: a few milliseconds of checksums. */
const pieceBytesMax = 256 << 10
/** Between two looks whether there is something to read, and whether a busy log has become less so. */
const lookMs = 1000
/** Problems of one segment that are told one by one. */
const toldPerSegmentMax = 20

export class Verifier {
  readonly #log: SharedLog
  readonly #clock: Clock
  readonly #options: VerifyOptions
  readonly #events: VerifyEvents
  #timer: Timer | null = null
  #wake: (() => void) | null = null
  #isOpen = true
  /** Ends once nothing is read any more. */
  #running: Promise<void>
  /** When each segment was read to its end. */
  readonly #verifiedMs = new Map<string, number>()
  /** What was told, by segment. */
  readonly #told = new Map<string, Set<string>>()

  constructor(log: SharedLog, clock: Clock, options: VerifyOptions, events: VerifyEvents) {
    this.#log = log
    this.#clock = clock
    this.#options = options
    this.#events = events
    this.#running = options.verifyBytesPerSecond > 0 ? this.#run() : Promise.resolve()
  }

  /** Resolves once no read is under way. Idempotent. */
  close(): Promise<void> {
    this.#isOpen = false
    this.#timer?.cancel()
    this.#wake?.()
    return this.#running
  }

  async #run(): Promise<void> {
    try {
      for (;;) {
        await this.#pause(lookMs)
        if (!this.#isOpen) return
        const segment = this.#next()
        if (segment === null) continue
        await this.#verify(segment)
        if (this.#isOpen) this.#verifiedMs.set(segment.name, this.#clock.monotonicMs())
      }
    } catch (error) {
      if (this.#isOpen) this.#events.failed(error)
    }
  }

  /** The closed segment that has waited longest, if one is due; one that was never read goes first. */
  #next(): Segment | null {
    const closed = this.#log.closedSegments
    const names = new Set(closed.map(({ name }) => name))
    for (const known of [this.#verifiedMs, this.#told]) {
      for (const name of known.keys()) if (!names.has(name)) known.delete(name)
    }
    let next: Segment | null = null
    let leastMs = this.#clock.monotonicMs() - this.#options.verifyEveryMs
    for (const segment of closed) {
      const verifiedMs = this.#verifiedMs.get(segment.name) ?? -Infinity
      if (verifiedMs > leastMs || (next !== null && verifiedMs === leastMs)) continue
      next = segment
      leastMs = verifiedMs
    }
    return next
  }

  async #verify(segment: Segment): Promise<void> {
    const pieces = segment.pieces(pieceBytesMax)
    try {
      for (;;) {
        const step = await pieces.next()
        if (step.done === true || !this.#isOpen || !this.#isThere(segment)) return
        const { bytes, entries, damages } = step.value
        this.#events.verified(bytes)
        for (const { key, value } of entries) this.#look(segment, asBuffer(key), asBuffer(value))
        for (const damage of damages) this.#damaged(segment, damage)
        await this.#pause((bytes / this.#options.verifyBytesPerSecond) * 1000)
        // Those who send and ack wait for the same disk.
        while (this.#isOpen && this.#log.backlogged) await this.#pause(lookMs)
      }
    } finally {
      await pieces.return()
    }
  }

  #isThere(segment: Segment): boolean {
    return this.#log.closedSegments.includes(segment)
  }

  #look(segment: Segment, key: Buffer, value: Buffer): void {
    const prefix = key[0]
    const isCheckpoint = prefix === checkpointPrefix && key.length === 21
    if (prefix === journalPrefix && key.length === 1) {
      if (!isRottenMark(value)) return
      this.#tell(segment, {
        segment: segment.name,
        what: rottenMark,
        needed: 'nothing',
      })
      return
    }
    const isRecord = (prefix === entryPrefix || prefix === copyPrefix) && key.length === 29
    if (!isCheckpoint && !isRecord) {
      const what = `there is a key that nobody writes, ${key.toString('hex')}`
      this.#tell(segment, { segment: segment.name, what, needed: 'nothing' })
      return
    }
    const name = logName(key.toString('hex', 1, 17), key.readUInt32BE(17))
    if (!isCheckpoint) this.#lookAtRecord(segment, name, recordBase(key), value)
    else if (checkpointBody(name, value) === null)
      this.#rotten(segment, name, 'a checkpoint has rotted', null)
  }

  #lookAtRecord(segment: Segment, name: LogName, base: Offset, record: Buffer): void {
    let next = base
    try {
      for (let at = 0; at < record.length; at += entryLength(record, at)) {
        const { base, count } = peekEntry(record, at)
        const what = whatIsWrong(name, record, at, next)
        // How far the loss goes, the owner of the partition finds out.
        if (what !== null) this.#rotten(segment, name, what, { from: next, end: next + 1 })
        // A count that has rotted says nothing.
        next = what === null ? base + count : next + 1
      }
    } catch (error) {
      if (!(error instanceof CorruptEntry)) throw error
      this.#rotten(segment, name, error.message, { from: next, end: next + 1 })
    }
  }

  /** A part of the segment can't be read: it may be of several partitions. */
  #damaged(segment: Segment, { what, from, to }: Damage): void {
    this.#tell(segment, { segment: segment.name, what, needed: 'unknown' })
    for (const log of this.#log.partitions) {
      if (Buffer.compare(from, log.checkpointKey) <= 0 && Buffer.compare(to, log.checkpointKey) > 0)
        this.#act(segment, log, null)
      for (const prefix of [entryPrefix, copyPrefix]) {
        const [first, last] = [log.key(0, prefix), log.key(Number.MAX_SAFE_INTEGER, prefix)]
        if (Buffer.compare(from, last) >= 0 || Buffer.compare(to, first) <= 0) continue
        this.#act(segment, log, {
          from: Buffer.compare(from, first) <= 0 ? 0 : recordBase(from),
          end: Buffer.compare(to, last) >= 0 ? Number.MAX_SAFE_INTEGER : recordBase(to),
        })
      }
    }
  }

  /** @param lost the messages that may be; null: it is a checkpoint */
  #rotten(segment: Segment, name: LogName, what: string, lost: { from: Offset; end: Offset } | null): void {
    const log = this.#log.partitionOf(name)
    const need = log?.needs(segment.name) ?? 'nothing'
    const { queueId, partition } = name
    const offset = lost === null ? {} : { offset: lost.from }
    const needed = need === 'all' ? 'unknown' : need
    this.#tell(segment, { segment: segment.name, queueId, partition, ...offset, what, needed })
    if (log !== undefined) this.#act(segment, log, lost)
  }

  #act(segment: Segment, log: PartitionLog, lost: { from: Offset; end: Offset } | null): void {
    // Of a log that can't be read, nothing is to be made better by reading it.
    if (log.kept !== null || log.needs(segment.name) === 'nothing') return
    // A start reads the newest checkpoint and what follows it: once there is another, nothing of this is.
    const { checkpointed } = log
    const isRead =
      checkpointed === null || checkpointed.segment === segment.name || checkpointed.from <= segment.name
    if (isRead && log.checkpointsUnderWay === 0) log.askCheckpoint()
    if (lost !== null) log.recheck(segment.name, lost.from, lost.end)
  }

  #tell(segment: Segment, problem: VerifyProblem): void {
    const { name } = segment
    let told = this.#told.get(name)
    if (told === undefined) this.#told.set(name, (told = new Set()))
    const { queueId = '', partition = '', offset = '', what } = problem
    const key = `${queueId}/${partition}/${offset} ${what}`
    if (told.has(key) || told.size >= toldPerSegmentMax) return
    told.add(key)
    this.#events.found(problem)
  }

  #pause(ms: number): Promise<void> {
    if (!this.#isOpen) return Promise.resolve()
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = null
        resolve()
      }
      this.#timer = this.#clock.after(ms, this.#wake)
    })
  }
}

function whatIsWrong(name: LogName, record: Buffer, at: number, next: Offset): string | null {
  try {
    const entry = decodeHeader(name, record, at)
    if (entry.base !== next) return `offset ${entry.base} stands where ${next} is next`
    return payloadVerifies(entry) ? null : `the payload of the ${entry.kind} entry has rotted`
  } catch (error) {
    if (error instanceof CorruptEntry) return error.message
    throw error
  }
}

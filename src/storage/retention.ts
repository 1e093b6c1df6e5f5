/**
 * Gives back what nothing needs: a closed segment goes, as a whole, once no partition has a message in it that is not
 * settled, nor its newest checkpoint, nor entries that a start would have to read. What is not needed never is again,
 * so looking may take its time, and others are served in between.
 *
 * Two things would keep a segment for little. A partition that has been idle for long has its checkpoint where nothing
 * else is needed any more: it writes another. And a few messages that nobody settles: after a while their batches are
 * copied forward, a little in each round, and the segment goes when the copies are on the disk. On a full disk that is
 * what brings it back, so a part of what was reserved is spent on it.
 */
import type { Clock, Timer } from '../env.ts'
import { CorruptEntry } from '../partition/entry.ts'
import type { Run } from '../partition/range-map.ts'
import { inTurns, turn } from '../turns.ts'
import type { SharedLog } from './log.ts'
import type { PartitionLog } from './partition-log.ts'

export interface RetentionOptions {
  /** Time between two rounds, in milliseconds. */
  retentionMs: number
  /** How long a segment is kept for a few messages in it before those are copied, in milliseconds. */
  copyAfterMs: number
  /** What a commit of the log takes, in bytes. */
  commitBytesMax: number
  /** Room that is there for what must go on when the disk is full, in bytes. */
  reserveBytes: number
}

/** Partitions that are looked at in one turn. */
const partitionsPerTurn = 500
/** Runs of messages that are counted in one turn. */
const runsPerTurn = 4096
/** Checkpoints that are asked for in one round: each is written to the log. */
const checkpointsPerRoundMax = 1000
/** A segment smaller than this is not worth to be given up early. */
const rolledBytesMin = 256 << 10
/** What is written so that a segment can go is at most this share of it: of its messages, and of its bytes. */
const shareMax = 0.25
/** Bytes that are copied in one round; a batch more, perhaps. */
const copiedPerRoundBytes = 8 << 20
/** Of the room for what must go on when the disk is full: what copies may take of it. Acks need it as well. */
const reserveShare = 0.25
/** Of a segment that went while the disk was full: what more copies may take of its room. */
const freedShare = 0.5
/** Of a commit: the copies that may be in it. Those who send and ack wait for the same disk. */
const commitShare = 0.25

interface Room {
  checkpoints: number
  bytes: number
}

export class Retention {
  readonly #log: SharedLog
  readonly #clock: Clock
  readonly #options: RetentionOptions
  readonly #failed: (error: unknown) => void
  #timer: Timer | null = null
  #isOpen = true
  /** What had been appended when it was last looked: since then nothing can have been settled. */
  #looked = -1
  /** Segments that are kept for little, and since when. */
  readonly #sparse = new Map<string, number>()
  /** When it was last counted how many messages keep a segment, and what had been appended by then. */
  readonly #counted = new Map<string, { readonly atMs: number; readonly appended: number }>()
  /** What copies may still take of the room that is left while the disk is full, in bytes. */
  #bytesWhenFull = 0
  /** Reserves that were given until then. */
  #reservesGiven = 0
  /** Segments with messages that can't be read, and so not copied. */
  readonly #rotten = new Set<string>()

  /** @param failed hears of what must not happen: the disk can't be read, or a defect */
  constructor(log: SharedLog, clock: Clock, options: RetentionOptions, failed: (error: unknown) => void) {
    this.#log = log
    this.#failed = failed
    this.#clock = clock
    this.#options = options
    this.#arm()
  }

  close(): void {
    this.#isOpen = false
    this.#timer?.cancel()
  }

  #arm(): void {
    if (!this.#isOpen) return
    this.#timer = this.#clock.after(this.#options.retentionMs, () => {
      this.#timer = null
      this.#round().then(
        () => this.#arm(),
        (error: unknown) => this.#failed(error),
      )
    })
  }

  async #round(): Promise<void> {
    const { appended, segments, isFull, cache } = this.#log
    cache.dropLate()
    this.#grant()
    if (isFull) await this.#rollIfUnneeded()
    if (!this.#isOpen) return
    if (segments.length < 2 || (appended === this.#looked && this.#sparse.size === 0 && !isFull)) return
    this.#looked = appended
    const room: Room = { checkpoints: checkpointsPerRoundMax, bytes: copiedPerRoundBytes }
    const held: string[] = []
    // The last one is written to.
    for (const { name, usedBytes } of segments.slice(0, -1)) {
      if (await this.#look(name, usedBytes, room)) held.push(name)
      if (!this.#isOpen) return
    }
    // What can go has gone: on a full disk there may be room for copies only now.
    for (const name of held) {
      if (await this.#isSparse(name)) await this.#copy(name, room)
      if (!this.#isOpen) return
    }
  }

  /** On a full disk, copies have a part of a reserve that was given, and of what they free: nothing says what else is left. */
  #grant(): void {
    const { isFull, reservesGiven } = this.#log
    if (!isFull) this.#bytesWhenFull = 0
    if (reservesGiven === this.#reservesGiven) return
    this.#reservesGiven = reservesGiven
    if (isFull) this.#bytesWhenFull = reserveShare * this.#options.reserveBytes
  }

  /** On a full disk the segment that is written to may be all there is to give back. */
  async #rollIfUnneeded(): Promise<void> {
    const { name, usedBytes } = this.#log.segments.at(-1)!
    if (usedBytes < rolledBytesMin) return
    let some: PartitionLog | null = null
    for await (const log of this.#partitions()) {
      const need = log.needs(name)
      if (need === 'messages' || need === 'all') return
      if (need === 'start') some = log
    }
    if (some === null || !this.#isOpen) return
    this.#log.rollEarly()
    // Whatever is committed next brings it about.
    some.askCheckpoint()
  }

  /** Removes a segment that can go, or sees to it that it can. @returns whether messages in it are to be kept */
  async #look(name: string, usedBytes: number, room: Room): Promise<boolean> {
    const pinning: PartitionLog[] = []
    for await (const log of this.#partitions()) {
      const need = log.needs(name)
      if (need === 'all') return false
      if (need === 'messages') return true
      if (need === 'start') pinning.push(log)
    }
    if (!this.#isOpen) return false
    this.#sparse.delete(name)
    this.#counted.delete(name)
    if (pinning.length === 0) {
      this.#rotten.delete(name)
      await this.#log.remove(name)
      if (this.#log.isFull) this.#bytesWhenFull += freedShare * usedBytes
      return false
    }
    // Else an idle broker with much state and small segments would write checkpoints for ever, each pushing out the last.
    let bytes = 0
    for (const { checkpointed } of pinning) bytes += checkpointed?.bytes ?? 0
    if (bytes > shareMax * usedBytes) return false
    for (const log of pinning) {
      if (log.checkpointsUnderWay > 0 || room.checkpoints-- <= 0) continue
      log.askCheckpoint()
    }
    return false
  }

  /** All of them, and others are served in between. */
  async *#partitions(): AsyncGenerator<PartitionLog> {
    for await (const log of inTurns(this.#log.partitions, partitionsPerTurn, this.#clock)) {
      if (!this.#isOpen) return
      yield log
    }
  }

  /** Whether a segment has been kept for little long enough. Counting may take a while, so it is not done each time. */
  async #isSparse(name: string): Promise<boolean> {
    if (this.#rotten.has(name)) return false
    const nowMs = this.#clock.monotonicMs()
    const { copyAfterMs } = this.#options
    const { appended } = this.#log
    const counted = this.#counted.get(name)
    if (counted !== undefined && nowMs - counted.atMs < copyAfterMs / 3) {
      // What has been settled since may be the last that ever is: it is to be counted even if nothing more happens.
      if (counted.appended !== appended) this.#looked = -1
      return false
    }
    this.#counted.set(name, { atMs: nowMs, appended })
    await turn(this.#clock)
    let offsets = 0
    let held = 0
    let inTurn = 0
    const run: Run = { start: 0, end: 0, value: 0 }
    for await (const log of this.#partitions()) {
      offsets += log.offsetsIn(name)
      // What is settled or copied behind this place meanwhile is counted: it is found less next time.
      for (let at = 0; log.nextHeldIn(name, at, run); at = run.end) {
        held += run.end - run.start
        if (++inTurn % runsPerTurn !== 0) continue
        await turn(this.#clock)
        if (!this.#isOpen) return false
      }
    }
    if (held >= shareMax * offsets) {
      this.#sparse.delete(name)
      return false
    }
    const sinceMs = this.#sparse.get(name)
    if (sinceMs === undefined) this.#sparse.set(name, nowMs)
    return nowMs - (sinceMs ?? nowMs) >= copyAfterMs
  }

  /** Copies what is kept of a segment; what is not copied now is in a later round. */
  async #copy(name: string, room: Room): Promise<void> {
    // What is not done in this round is in the next.
    this.#counted.delete(name)
    const run: Run = { start: 0, end: 0, value: 0 }
    let inTurn = commitShare * this.#options.commitBytesMax
    for (const log of [...this.#log.partitions]) {
      for (let at = 0; log.nextHeldIn(name, at, run);) {
        // Those who send and ack go first.
        if (room.bytes <= 0 || this.#log.backlogged) return
        if (this.#log.isFull && (this.#log.isBlocked || this.#bytesWhenFull <= 0)) return
        try {
          const { end, bytes } = log.copy(run.start)
          at = end
          room.bytes -= bytes
          if (this.#log.isFull) this.#bytesWhenFull -= bytes
          inTurn -= bytes
        } catch (error) {
          if (!(error instanceof CorruptEntry)) throw error
          // It is quarantined when somebody is to be given it, and is not to be kept then.
          this.#rotten.add(name)
          at = log.recordEnd(run.start)
        }
        if (inTurn > 0) continue
        inTurn = commitShare * this.#options.commitBytesMax
        await this.#log.flushed(true)
        // On a full disk nobody knows when that is: the rest is for the next round.
        if (!this.#isOpen || this.#log.isFull) return
      }
    }
    await this.#log.flushed(true)
    // Whether all of it is elsewhere now shows when it is next looked at; what is not, is copied then.
    this.#looked = -1
  }
}

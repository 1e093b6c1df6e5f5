/**
 * The fold: a partition's state as a pure function of its log. It reads entries and nothing else, neither clock nor
 * option nor chance, so that a leader, a replica and a restart can't disagree. `leader.ts` decides what is appended;
 * this file says what it means; `checkpoint.ts` stores what came of it. Whatever a checkpoint under way may refer to is
 * replaced, never written to: outcomes, positions, outputs.
 */
import { invariant } from '../errors.ts'
import {
  limits,
  type Epoch,
  type LeaseId,
  type Offset,
  type OutputPosition,
  type ProducerId,
} from '../types.ts'
import { chainStart } from './chain.ts'
import type { EntryHeader } from './entry.ts'
import { Outbox, positionOf, type Moved } from './outbox.ts'
import { settledBy, type EntryBody, type HandedLease, type Ranges } from './payload.ts'
import { RangeMap, type Run } from './range-map.ts'

/** What became of one accepted request of a producer; a retry is answered with it. */
export interface Outcome {
  sequence: number
  /** Epoch and base of the entry. */
  epoch: Epoch
  base: Offset
  /** Messages of a batch; 0 for a settle. */
  count: number
  /** Of the request: the batch's bytes, or the settle's action and items. */
  crc: number
  /** What a settle could not settle. */
  refused: Ranges | null
}

export interface ProducerState {
  epoch: number
  opening: Offset
  lastUsedMs: number
  /** Oldest first, sequences strictly rising, at most `limits.unansweredMax`. */
  outcomes: Outcome[]
}

export function refusedNumbersOf(outcomes: readonly Outcome[]): number {
  let numbers = 0
  for (const { refused } of outcomes) numbers += refused?.length ?? 0
  return numbers
}

export class PartitionState {
  /** The offset the next entry takes. */
  logEnd: Offset = 0
  /** Of the newest EPOCH_START. */
  epoch: Epoch = 0
  /** Of the last entry. */
  chain: Uint8Array = chainStart
  /** Of the last entry, ms since 1970; never goes back. */
  timeMs = 0
  /** Unsettled messages → 1 + failed deliveries: the number of the next delivery. */
  live = new RangeMap()
  /**
   * Unsettled messages → when they become ready, in ms since 1970. What lies before the last entry's time delays nothing
   * any more; it leaves with its message, or when an epoch starts.
   */
  delayed = new RangeMap()
  /** Messages that rotted on the disk. */
  quarantined = new RangeMap()
  producers = new Map<ProducerId, ProducerState>()
  /** Numbers in all the `refused` ranges of all outcomes. */
  refusedNumbers = 0
  /** A producer that is not known and opened below it may have been forgotten. */
  floor: Offset = 0
  /** Messages that left for another partition and are not there yet. */
  outbox = new Outbox()
  /** By the id of another partition's outbox: the position of the last of its outputs that is here. */
  sources = new Map<ProducerId, OutputPosition>()
  /** The table of a planned stop; only while the LEASES entry is the last one. */
  handedOver: { nextLease: LeaseId; leases: HandedLease[] } | null = null

  /** The lowest offset that still matters. */
  get logStart(): Offset {
    const { moving } = this.outbox
    return Math.min(
      this.live.isEmpty ? this.logEnd : this.live.firstStart(),
      moving.isEmpty ? this.logEnd : moving.firstStart(),
    )
  }

  /** Applies the next entry. A gap, a step back in time or epoch is a defect, or another log's entry. */
  apply(header: EntryHeader, body: EntryBody, chain: Uint8Array): void {
    invariant(header.base === this.logEnd, `entry at ${header.base} where the log ends at ${this.logEnd}`)
    invariant(header.timeMs >= this.timeMs, `entry at ${header.base} is older than the one before it`)
    invariant(
      body.kind === 'epochStart' ? header.epoch > this.epoch : header.epoch === this.epoch,
      `${body.kind} entry at ${header.base} has epoch ${header.epoch} in epoch ${this.epoch}`,
    )
    invariant(
      this.handedOver === null || body.kind === 'epochStart',
      `entry at ${header.base} after a hand-over`,
    )
    switch (body.kind) {
      case 'batch':
        this.live.set(header.base, header.base + header.count, 1)
        if (body.delays !== null) {
          for (let i = 0; i < body.delays.length; i += 3) {
            const start = body.delays[i]!
            this.#delay(start, start + body.delays[i + 1]!, body.delays[i + 2]!, header.timeMs)
          }
        } else if (header.notBeforeMs > 0) {
          this.#delay(header.base, header.base + header.count, header.notBeforeMs, header.timeMs)
        }
        if (header.isForwarded) {
          const { opening, sequence, producerEpoch } = header
          this.sources.set(header.producerId, positionOf([opening as number, sequence, producerEpoch]))
        } else this.#record(header, header.count, body.payloadCrc, null)
        break
      case 'settle':
        if (body.action === settledBy.nack) this.#fail(body.settled, body.notBefore, header.timeMs)
        else if (body.action === settledBy.release) this.#undelay(body.settled)
        else this.#leave(body.settled)
        if (body.moved !== null) this.#move(body.moved, header)
        this.#record(header, 0, body.requestCrc, body.refused)
        break
      case 'fail':
        this.#fail(body.ranges, body.notBefore, header.timeMs)
        if (body.moved !== null) this.#move(body.moved, header)
        break
      case 'epochStart':
        this.epoch = header.epoch
        this.handedOver = null
        this.#forgetPastDelays(header.timeMs)
        break
      case 'leases':
        this.handedOver = { nextLease: body.nextLease, leases: body.leases }
        break
      case 'evict':
        for (const id of body.producers) {
          this.refusedNumbers -= refusedNumbersOf(this.producers.get(id)?.outcomes ?? [])
          this.producers.delete(id)
        }
        this.floor = Math.max(this.floor, body.floor)
        break
      case 'purge':
        this.#leave(body.ranges)
        break
      case 'quarantine':
        for (let i = 0; i < body.ranges.length; i += 2) {
          const start = body.ranges[i]!
          const end = start + body.ranges[i + 1]!
          this.live.forEachIn(start, end, (from, to) => this.quarantined.set(from, to))
          this.live.delete(start, end)
          this.delayed.delete(start, end)
          const moving = this.outbox.remove(start, end)
          for (let j = 0; j < moving.length; j += 2) this.quarantined.set(moving[j]!, moving[j + 1]!)
        }
        break
      case 'move':
        this.#move(body.moved, header)
        break
      case 'forwarded':
        this.outbox.forwarded(body.target, body.position)
        break
      case 'redirect': {
        const back = this.outbox.redirect(body.from, body.to, header)
        for (let i = 0; i < back.length; i += 3) this.live.set(back[i]!, back[i]! + back[i + 1]!, back[i + 2])
        break
      }
      case 'forget':
        for (const id of body.sources) this.sources.delete(id)
        break
    }
    this.logEnd = header.base + header.count
    this.timeMs = header.timeMs
    this.chain = chain
  }

  #leave(ranges: Ranges): void {
    for (let i = 0; i < ranges.length; i += 2) {
      this.live.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
    }
    this.#undelay(ranges)
  }

  #move(moved: Moved, header: EntryHeader): void {
    const taken: number[] = []
    const { ranges } = moved
    for (let i = 0; i < ranges.length; i += 2) {
      const end = ranges[i]! + ranges[i + 1]!
      this.live.forEachIn(ranges[i]!, end, (from, to, next) => taken.push(from, to, next))
      this.live.delete(ranges[i]!, end)
    }
    this.#undelay(ranges)
    this.outbox.move(moved, taken, header)
  }

  /** One failed delivery more for each that is live; and when each range is ready again. */
  #fail(ranges: Ranges, notBefore: readonly number[] | null, timeMs: number): void {
    for (let i = 0; i < ranges.length; i += 2) {
      const start = ranges[i]!
      const end = start + ranges[i + 1]!
      const readyMs = notBefore?.[i >> 1] ?? 0
      const runs: number[] = []
      this.live.forEachIn(start, end, (from, to, next) => runs.push(from, to, next))
      this.delayed.delete(start, end)
      for (let j = 0; j < runs.length; j += 3) {
        this.live.set(runs[j]!, runs[j + 1]!, runs[j + 2]! + 1)
        this.#delay(runs[j]!, runs[j + 1]!, readyMs, timeMs)
      }
    }
  }

  #delay(start: Offset, end: Offset, notBeforeMs: number, timeMs: number): void {
    if (notBeforeMs > timeMs) this.delayed.set(start, end, notBeforeMs)
  }

  #undelay(ranges: Ranges): void {
    if (this.delayed.isEmpty) return
    for (let i = 0; i < ranges.length; i += 2) {
      this.delayed.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
    }
  }

  /** Else they would stay for as long as their messages, which may be for ever. */
  #forgetPastDelays(timeMs: number): void {
    // Of a million there is no list in between, and neighbours go together.
    const run: Run = { start: 0, end: 0, value: 0 }
    let from = 0
    while (this.delayed.nextRun(from, run)) {
      const { start } = run
      from = run.end
      if (run.value > timeMs) continue
      while (this.delayed.nextRun(from, run) && run.start === from && run.value <= timeMs) from = run.end
      this.delayed.delete(start, from)
    }
  }

  #record(header: EntryHeader, count: number, crc: number, refused: Ranges | null): void {
    let producer = this.producers.get(header.producerId)
    if (producer === undefined) {
      producer = { epoch: header.producerEpoch, opening: header.opening, lastUsedMs: 0, outcomes: [] }
      this.producers.set(header.producerId, producer)
    }
    const { outcomes } = producer
    invariant(header.producerEpoch >= producer.epoch, `an entry at ${header.base} of a fenced producer`)
    if (header.producerEpoch > producer.epoch) {
      // A newer instance of a named producer starts its sequences anew; the older one is fenced.
      producer.epoch = header.producerEpoch
      producer.opening = header.opening
      this.refusedNumbers -= refusedNumbersOf(outcomes)
      outcomes.length = 0
    }
    const last = outcomes.at(-1)
    invariant(last === undefined || last.sequence < header.sequence, `sequence ${header.sequence} used again`)
    producer.lastUsedMs = header.timeMs
    outcomes.push({ sequence: header.sequence, epoch: header.epoch, base: header.base, count, crc, refused })
    this.refusedNumbers += refused?.length ?? 0
    if (outcomes.length > limits.unansweredMax) this.refusedNumbers -= outcomes.shift()!.refused?.length ?? 0
  }
}

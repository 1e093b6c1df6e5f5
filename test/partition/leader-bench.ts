/**
 * One leader at a bench: its sink is recorded, its clock is moved by hand, and its disk is the list of what it
 * appended. Answers read as a conversation, `a sent 1-1` or `b settled but 3+2`.
 */
import { crc32 } from 'node:zlib'
import type { MqError } from '../../src/errors.ts'
import { decodeEntry, logName, type Entry } from '../../src/partition/entry.ts'
import { PartitionState } from '../../src/partition/fold.ts'
import {
  Leader,
  leaderDefaults,
  type LeasedItem,
  type LeaderOptions,
  type LeaderSink,
  type Now,
  type Reply,
} from '../../src/partition/leader.ts'
import { decodeBody, type EntryBody } from '../../src/partition/payload.ts'
import type { Run } from '../../src/partition/range-map.ts'

export const visibilityTimeoutMs = 30_000
const wallStartMs = 1_800_000_000_000
const log = logName('ab'.repeat(16), 0)

export interface Appended {
  bytes: Uint8Array
  base: number
  next: number
}

export interface Delivered extends LeasedItem {
  deliveryCount: number
}

export class Bench implements LeaderSink<string> {
  leader!: Leader<string>
  /** Monotonic; the wall clock runs beside it. */
  ms = 0
  /** What the wall clock is off by. */
  skewMs = 0
  epoch = 0
  appended: Appended[] = []
  /** Everything that was answered, and to whom. */
  answers: string[] = []
  errors = new Map<string, MqError>()
  readyCalls = 0
  outputsCalls = 0
  readonly #options: LeaderOptions

  constructor(options: Partial<LeaderOptions> = {}) {
    this.#options = { ...leaderDefaults, ...options }
    this.start()
    this.commit()
    this.readyCalls = 0
  }

  get now(): Now {
    return { wallMs: wallStartMs + this.ms + this.skewMs, monotonicMs: this.ms }
  }

  /** A new leader on what the disk has. */
  start(rotten: number[] = []): void {
    this.leader = new Leader(log, this.fold(), this, this.#options)
    this.leader.start(++this.epoch, this.now, rotten)
  }

  /** The fold of what the disk has. */
  fold(): PartitionState {
    const state = new PartitionState()
    for (const { bytes } of this.appended) {
      const entry = decodeEntry(log, Buffer.from(bytes), 0)
      state.apply(entry, decodeBody(entry), entry.chain)
    }
    return state
  }

  /** All is lost but the log below `durableEnd`; the next leader has not committed its epoch yet. */
  crash(durableEnd = this.leader.highWatermark): void {
    this.appended = this.appended.filter(({ next }) => next <= durableEnd)
    this.start()
  }

  /** A planned stop and the next start, `downMs` apart. */
  restart(downMs = 0, rotten: number[] = []): void {
    this.leader.handOver(this.now)
    this.commit()
    this.ms += downMs
    this.start(rotten)
    this.commit()
  }

  commit(highWatermark = this.leader.state.logEnd): void {
    this.leader.committed(highWatermark)
  }

  advance(ms: number): void {
    this.ms += ms
    this.leader.tick(this.now)
  }

  send(
    ref: string,
    changes: Partial<Parameters<Leader<string>['send']>[1]> = {},
    refusal: MqError | null = null,
  ): void {
    const batch = changes.batch ?? Buffer.from(`batch of ${ref}`)
    this.leader.send(
      ref,
      {
        ...this.#sequenced(ref),
        count: 1,
        crc: crc32(batch),
        batch,
        headroom: 0,
        ownDelays: false,
        ...changes,
      },
      this.now,
      refusal,
    )
  }

  settle(
    ref: string,
    items: readonly LeasedItem[],
    changes: Partial<Parameters<Leader<string>['settle']>[1]> = {},
  ): void {
    this.leader.settle(
      ref,
      { ...this.#sequenced(ref), action: 0, items, delayMs: null, reason: null, ...changes },
      this.now,
    )
  }

  extend(ref: string, items: readonly LeasedItem[], extendMs: number): void {
    this.leader.extend(ref, items, extendMs, this.now)
  }

  /** Without a sequence of its own, a request is the first of a producer of its own. */
  #sequenced(ref: string) {
    return { producerId: producer(ref), producerEpoch: 0, sequence: 1, opening: this.leader.state.logEnd }
  }

  /** Takes what is ready, as a queue would, under one lease. */
  receive(max = Infinity, timeoutMs = visibilityTimeoutMs): Delivered[] {
    const run: Run = { start: 0, end: 0, value: 0 }
    const found: Delivered[] = []
    const ranges: number[] = []
    let room = max
    for (let from = 0; room > 0 && this.leader.nextReady(from, run); from = run.end) {
      const count = Math.min(run.end - run.start, room)
      found.push({ leaseEpoch: this.epoch, lease: 0, offset: run.start, count, deliveryCount: run.value })
      ranges.push(run.start, run.start + count)
      room -= count
    }
    if (ranges.length === 0) return []
    const lease = this.leader.lease(ranges, timeoutMs, this.now)
    for (const one of found) one.lease = lease
    return found
  }

  /** `offset+count×delivery` of what is ready, without taking it. */
  get readyRuns(): string {
    const run: Run = { start: 0, end: 0, value: 0 }
    const found: string[] = []
    for (let from = 0; this.leader.nextReady(from, run); from = run.end) {
      found.push(`${run.start}+${run.end - run.start}×${run.value}`)
    }
    return found.join(' ')
  }

  /** What was appended, decoded. */
  get entries(): (Entry & { body: EntryBody })[] {
    return this.appended.map(({ bytes }) => {
      const entry = decodeEntry(log, Buffer.from(bytes), 0)
      return { ...entry, body: decodeBody(entry) }
    })
  }

  get kinds(): string {
    return this.entries.map(({ kind }) => kind).join(' ')
  }

  append(bytes: Uint8Array, base: number, next: number): void {
    this.appended.push({ bytes, base, next })
  }

  reply(ref: string, reply: Reply): void {
    if (reply.kind === 'refused') this.errors.set(ref, reply.error)
    this.answers.push(`${ref} ${told(reply)}`)
  }

  ready(): void {
    this.readyCalls++
  }

  outputs(): void {
    this.outputsCalls++
  }
}

export function producer(name: string): string {
  return name.padEnd(16, '.').slice(0, 16)
}

export function told(reply: Reply): string {
  switch (reply.kind) {
    case 'sent':
      return `sent ${reply.epoch}-${reply.base}${reply.duplicate ? ' before' : ''}`
    case 'settled': {
      const refused = reply.refused
      if (refused === null) return 'settled'
      return `settled but ${refused
        .map((n, i) => (i % 2 === 0 ? `${n}+` : `${n} `))
        .join('')
        .trim()}`
    }
    case 'forwarded': {
      const { epoch, offset, index } = reply.position
      return `forwarded ${epoch}-${offset}.${index}`
    }
    case 'refused':
      return reply.error.code
  }
}

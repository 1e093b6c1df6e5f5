import fc from 'fast-check'
import t from 'tap'
import { chainStart, nextChain } from '../../src/partition/chain.ts'
import { CorruptEntry, noProducer, type EntryHeader } from '../../src/partition/entry.ts'
import {
  capture,
  decodeCheckpoint,
  encodeCheckpoint,
  itemsPerPieceMax,
  piecesOf,
} from '../../src/partition/checkpoint.ts'
import { PartitionState } from '../../src/partition/fold.ts'
import type { Moved, Target } from '../../src/partition/outbox.ts'
import type { EntryBody, HandedLease, Ranges } from '../../src/partition/payload.ts'
import type { RangeMap } from '../../src/partition/range-map.ts'
import { pack, unpack } from '../../src/wire/msgpack.ts'

interface Written {
  header: EntryHeader
  body: EntryBody
  chain: Uint8Array
}

interface NaiveProducer {
  epoch: number
  opening: number
  lastUsedMs: number
  outcomes: {
    sequence: number
    epoch: number
    base: number
    count: number
    crc: number
    refused: Ranges | null
  }[]
}

/** Epoch, offset, index. */
type At = [number, number, number]

interface NaiveOutput {
  to: number
  at: At
  message: number
  deliveries: number
  why: number
}

function isAfter(a: At, b: At): boolean {
  const i = a.findIndex((n, j) => n !== b[j])
  return i >= 0 && a[i]! > b[i]!
}

/** What the log means, one message at a time; and a writer of entries that are valid. */
class NaiveLog {
  readonly entries: Written[] = []
  /** Each message ever sent → the number of its next delivery, or what became of it. */
  readonly messages = new Map<number, number | 'settled' | 'quarantined' | 'moving'>()
  /** Message → when it is ready, where that lay ahead when it was said. */
  readonly delayed = new Map<number, number>()
  readonly producers = new Map<string, NaiveProducer>()
  readonly sources = new Map<string, At>()
  /** In the order of their positions, whatever their target; which one, its partition says. */
  outputs: NaiveOutput[] = []
  handedOver: { nextLease: number; leases: HandedLease[] } | null = null
  floor = 0
  logEnd = 0
  epoch = 0
  timeMs = 0
  chain = chainStart

  get live(): number[] {
    return [...this.messages].filter(([, state]) => typeof state === 'number').map(([offset]) => offset)
  }

  write(body: EntryBody, header: Partial<EntryHeader> = {}): void {
    const full: EntryHeader = {
      kind: body.kind,
      count: 1,
      base: this.logEnd,
      epoch: this.epoch,
      timeMs: this.timeMs,
      producerId: noProducer,
      producerEpoch: 0,
      sequence: 0,
      opening: 0,
      notBeforeMs: 0,
      ownDelays: false,
      isForwarded: false,
      ...header,
    }
    this.chain = nextChain(this.chain, full.epoch, full.base, this.entries.length)
    this.entries.push({ header: full, body, chain: this.chain })
    this.logEnd += full.count
    this.timeMs = full.timeMs
    switch (body.kind) {
      case 'batch':
        for (let i = 0; i < full.count; i++) {
          this.messages.set(full.base + i, 1)
          this.#delay(full.base + i, body.delays === null ? full.notBeforeMs : 0)
        }
        for (let i = 0; i < (body.delays?.length ?? 0); i += 3) {
          const [start, count, notBeforeMs] = body.delays!.slice(i) as [number, number, number]
          for (let n = start; n < start + count; n++) this.#delay(n, notBeforeMs)
        }
        if (full.isForwarded) {
          this.sources.set(full.producerId, [full.opening, full.sequence, full.producerEpoch])
        } else this.#remember(full, full.count, body.payloadCrc, null)
        break
      case 'settle':
        if (body.action === 1) this.#fail(body.settled, body.notBefore)
        else for (const offset of offsetsOf(body.settled)) this.delayed.delete(offset)
        if (body.action === 0) {
          for (const offset of offsetsOf(body.settled)) this.messages.set(offset, 'settled')
        }
        if (body.moved !== null) this.#move(body.moved, full)
        this.#remember(full, 0, body.requestCrc, body.refused)
        break
      case 'fail':
        this.#fail(body.ranges, body.notBefore)
        if (body.moved !== null) this.#move(body.moved, full)
        break
      case 'move':
        this.#move(body.moved, full)
        break
      case 'forwarded': {
        const { epoch, offset, index } = body.position
        this.#take(({ to, at }) => to === body.target.partition && !isAfter(at, [epoch, offset, index]))
        break
      }
      case 'redirect': {
        let index = 0
        for (const output of this.#take(({ to }) => to === body.from.partition)) {
          if (body.to === null || output.why === 2) {
            this.messages.set(output.message, output.deliveries + (output.why === 2 ? 0 : 1))
          } else {
            const at: At = [full.epoch, full.base, index++]
            this.messages.set(output.message, 'moving')
            this.outputs.push({ ...output, to: body.to.partition, at })
          }
        }
        break
      }
      case 'forget':
        for (const id of body.sources) this.sources.delete(id)
        break
      case 'epochStart':
        this.epoch = full.epoch
        this.handedOver = null
        for (const [offset, ms] of this.delayed) if (ms <= full.timeMs) this.delayed.delete(offset)
        break
      case 'leases':
        this.handedOver = { nextLease: body.nextLease, leases: body.leases }
        break
      case 'evict':
        for (const id of body.producers) this.producers.delete(id)
        this.floor = Math.max(this.floor, body.floor)
        break
      case 'purge':
        for (const offset of offsetsOf(body.ranges)) {
          this.messages.set(offset, 'settled')
          this.delayed.delete(offset)
        }
        break
      case 'quarantine':
        for (const offset of offsetsOf(body.ranges)) {
          this.messages.set(offset, 'quarantined')
          this.delayed.delete(offset)
          this.outputs = this.outputs.filter(({ message }) => message !== offset)
        }
        break
    }
  }

  #move({ why, target, ranges }: Moved, { epoch, base }: EntryHeader): void {
    let index = 0
    for (const message of offsetsOf(ranges)) {
      const deliveries = this.messages.get(message)
      if (typeof deliveries !== 'number') continue
      this.messages.set(message, 'moving')
      this.delayed.delete(message)
      this.outputs.push({ to: target.partition, at: [epoch, base, index++], message, deliveries, why })
    }
  }

  /** Outputs that are done, or no longer what they were. */
  #take(which: (output: NaiveOutput) => boolean): NaiveOutput[] {
    const taken = this.outputs.filter(which)
    this.outputs = this.outputs.filter((output) => !which(output))
    for (const { message } of taken) this.messages.set(message, 'settled')
    return taken
  }

  #fail(ranges: Ranges, notBefore: number[] | null): void {
    for (let i = 0; i < ranges.length; i += 2) {
      for (const offset of offsetsOf(ranges.slice(i, i + 2))) {
        const deliveries = this.messages.get(offset)
        if (typeof deliveries !== 'number') continue
        this.messages.set(offset, deliveries + 1)
        this.delayed.delete(offset)
        this.#delay(offset, notBefore?.[i / 2] ?? 0)
      }
    }
  }

  #delay(offset: number, notBeforeMs: number): void {
    if (notBeforeMs > this.timeMs) this.delayed.set(offset, notBeforeMs)
  }

  #remember(header: EntryHeader, count: number, crc: number, refused: Ranges | null): void {
    const { producerEpoch: epoch, opening, sequence, base } = header
    const known = this.producers.get(header.producerId)
    const producer = known?.epoch === epoch ? known : { epoch, opening, lastUsedMs: 0, outcomes: [] }
    producer.lastUsedMs = header.timeMs
    producer.outcomes = [
      ...producer.outcomes,
      { sequence, epoch: header.epoch, base, count, crc, refused },
    ].slice(-64)
    this.producers.set(header.producerId, producer)
  }

  /** Everything the state says, in a form that compares. */
  describe(): object {
    const offsetsIn = (wanted: (state: number | string) => boolean) =>
      [...this.messages].filter(([, state]) => wanted(state))
    return {
      logEnd: this.logEnd,
      logStart: offsetsIn((state) => typeof state === 'number' || state === 'moving')[0]?.[0] ?? this.logEnd,
      epoch: this.epoch,
      timeMs: this.timeMs,
      chain: Buffer.from(this.chain).toString('hex'),
      live: offsetsIn((state) => typeof state === 'number'),
      quarantined: offsetsIn((state) => state === 'quarantined').map(([offset]) => offset),
      delayed: [...this.delayed].sort(([a], [b]) => a - b),
      floor: this.floor,
      producers: [...this.producers].sort(([a], [b]) => (a < b ? -1 : 1)),
      handedOver: this.handedOver,
      sources: [...this.sources].sort(([a], [b]) => (a < b ? -1 : 1)),
      moving: offsetsIn((state) => state === 'moving').map(([offset]) => offset),
      outputs: this.outputs.map(({ to, at, message, deliveries, why }) => [
        to,
        ...at,
        message,
        deliveries,
        why,
      ]),
    }
  }
}

function describe(state: PartitionState): object {
  const live: [number, number][] = []
  state.live.forEachIn(0, state.logEnd + 1000, (start, end, value) => {
    for (let offset = start; offset < end; offset++) live.push([offset, value])
  })
  const quarantined: number[] = []
  state.quarantined.forEachIn(0, state.logEnd + 1000, (start, end) => {
    for (let offset = start; offset < end; offset++) quarantined.push(offset)
  })
  const delayed: [number, number][] = []
  state.delayed.forEachIn(0, state.logEnd + 1000, (start, end, value) => {
    for (let offset = start; offset < end; offset++) delayed.push([offset, value])
  })
  return {
    logEnd: state.logEnd,
    logStart: state.logStart,
    epoch: state.epoch,
    timeMs: state.timeMs,
    chain: Buffer.from(state.chain).toString('hex'),
    live,
    quarantined,
    delayed,
    floor: state.floor,
    producers: [...state.producers].sort(([a], [b]) => (a < b ? -1 : 1)),
    handedOver: state.handedOver,
    sources: [...state.sources]
      .map(([id, { epoch, offset, index }]) => [id, [epoch, offset, index]] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
    moving: offsetsWith(state.outbox.moving),
    outputs: outputsOf(state),
  }
}

function offsetsWith(map: RangeMap): number[] {
  const offsets: number[] = []
  map.forEachIn(0, 1e6, (start, end) => {
    for (let offset = start; offset < end; offset++) offsets.push(offset)
  })
  return offsets
}

/** One line for each output, in the order of their positions. */
function outputsOf({ outbox }: PartitionState): number[][] {
  const outputs: number[][] = []
  for (const { target, pending } of outbox.destinations.values()) {
    for (const { epoch, offset, why, ranges } of pending) {
      for (let i = 0; i < ranges.length; i += 4) {
        for (let j = 0; j < ranges[i + 1]!; j++) {
          const index = ranges[i + 3]! + j
          outputs.push([target.partition, epoch, offset, index, ranges[i]! + j, ranges[i + 2]!, why])
        }
      }
    }
  }
  return outputs.sort((a, b) => a[1]! - b[1]! || a[2]! - b[2]! || a[3]! - b[3]!)
}

function offsetsOf(ranges: Ranges): number[] {
  const offsets: number[] = []
  for (let i = 0; i < ranges.length; i += 2) {
    for (let j = 0; j < ranges[i + 1]!; j++) offsets.push(ranges[i]! + j)
  }
  return offsets
}

function rangesOf(offsets: number[]): Ranges {
  const ranges: Ranges = []
  for (const offset of offsets) {
    const last = ranges.length - 2
    if (last >= 0 && ranges[last]! + ranges[last + 1]! === offset) ranges[last + 1]! += 1
    else ranges.push(offset, 1)
  }
  return ranges
}

function fold(entries: Written[], state = new PartitionState()): PartitionState {
  for (const { header, body, chain } of entries) state.apply(header, body, chain)
  return state
}

const producerIds = ['a', 'b', 'c'].map((letter) => letter.repeat(16))

interface Action {
  what:
    | 'batch'
    | 'settle'
    | 'fail'
    | 'restart'
    | 'handOver'
    | 'evict'
    | 'quarantine'
    | 'purge'
    | 'newInstance'
    | 'move'
    | 'forwarded'
    | 'redirect'
    | 'accept'
    | 'forget'
  /** Which of what there is to choose from: bit i for the i-th, going round. */
  which: number
  size: number
  laterMs: number
}

const targets: Target[] = [1, 2].map((partition) => ({ queueId: 'ab'.repeat(16), partition }))

const action: fc.Arbitrary<Action> = fc.record({
  what: fc.oneof(
    { weight: 8, arbitrary: fc.constant('batch' as const) },
    { weight: 6, arbitrary: fc.constantFrom('settle' as const, 'fail' as const) },
    { weight: 3, arbitrary: fc.constantFrom('restart' as const, 'handOver' as const, 'quarantine' as const) },
    { weight: 2, arbitrary: fc.constantFrom('evict' as const, 'newInstance' as const, 'purge' as const) },
    { weight: 4, arbitrary: fc.constantFrom('move' as const, 'forwarded' as const) },
    {
      weight: 2,
      arbitrary: fc.constantFrom('redirect' as const, 'accept' as const, 'forget' as const),
    },
  ),
  which: fc.nat(0xffff),
  size: fc.integer({ min: 1, max: 5 }),
  laterMs: fc.nat(3),
})

/** A log that a leader might have written. */
function written(actions: Action[]): NaiveLog {
  const log = new NaiveLog()
  log.write({ kind: 'epochStart', previous: 0 }, { epoch: 1 })
  actions.forEach(({ what, which, size, laterMs }, step) => {
    const chosen = log.live.filter((_, i) => ((which >> (i % 16)) & 1) === 1)
    const ranges = rangesOf(chosen)
    const producerId = producerIds[which % producerIds.length]!
    const known = log.producers.get(producerId)
    const producerEpoch = (known?.epoch ?? 0) + (what === 'newInstance' ? 1 : 0)
    const sequence = what === 'newInstance' ? 1 : (known?.outcomes.at(-1)?.sequence ?? 0) + size
    const from = { producerId, producerEpoch, sequence, opening: log.logEnd }
    const timeMs = log.timeMs + laterMs
    const crc = step * 7
    // Others than those that the entry is about: messages that leave are not among the settled.
    const others = rangesOf(log.live.filter((offset) => !chosen.includes(offset)).slice(0, size))
    const moving = (why: number): Moved | null =>
      which % 3 === 0 ? null : { why, target: targets[which % targets.length]!, error: null, ranges: others }
    const notBefore =
      which % 4 === 0 ? null : ranges.filter((_, i) => i % 2 === 0).map((n) => timeMs + (n % 3) * 2)
    switch (what) {
      case 'batch':
      case 'newInstance':
        return log.write(
          {
            kind: 'batch',
            payloadCrc: crc,
            delays: which % 3 === 0 ? [log.logEnd + size - 1, 1, timeMs + (which % 7)] : null,
          },
          { ...from, count: size, timeMs, notBeforeMs: which % 2 === 0 ? 0 : timeMs + (which % 5) },
        )
      case 'settle': {
        const refused = which % 2 === 0 ? null : [log.logEnd, 1]
        return log.write(
          {
            kind: 'settle',
            action: which % 3,
            settled: ranges,
            refused,
            requestCrc: crc,
            reason: null,
            notBefore: which % 3 === 1 ? notBefore : null,
            moved: moving(which % 2),
          },
          { ...from, timeMs },
        )
      }
      case 'fail':
        return log.write({ kind: 'fail', cause: 0, ranges, notBefore, moved: moving(0) }, { timeMs })
      case 'move': {
        const target = targets[which % targets.length]!
        return log.write({ kind: 'move', moved: { why: 2, target, error: null, ranges } }, { timeMs })
      }
      case 'forwarded': {
        const { partition } = targets[which % targets.length]!
        const theirs = log.outputs.filter(({ to }) => to === partition)
        const last = theirs[which % (theirs.length + 1)]
        if (last === undefined) return
        const [epoch, offset, index] = last.at
        const position = { epoch, offset, index }
        return log.write(
          { kind: 'forwarded', target: targets[which % targets.length]!, position },
          { timeMs },
        )
      }
      case 'redirect': {
        const from = targets[which % targets.length]!
        const to = size > 3 ? null : targets[(which + 1) % targets.length]!
        return log.write({ kind: 'redirect', from, to }, { timeMs })
      }
      case 'accept': {
        const { opening, sequence: offset, producerEpoch: index } = { ...from, producerEpoch: size }
        const isForwarded = true
        return log.write(
          { kind: 'batch', payloadCrc: crc, delays: null },
          { producerId, opening, sequence: offset, producerEpoch: index, isForwarded, count: size, timeMs },
        )
      }
      case 'forget':
        return log.write({ kind: 'forget', sources: [producerId] }, { timeMs })
      case 'restart':
        return log.write({ kind: 'epochStart', previous: log.epoch }, { epoch: log.epoch + size, timeMs })
      case 'handOver': {
        const held = ranges.flatMap((n, i) => (i % 2 === 0 ? [n] : [n, 1000 + step]))
        const leases = held.length === 0 ? [] : [{ lease: size, epoch: log.epoch, ranges: held }]
        log.write({ kind: 'leases', nextLease: size + 1, leases }, { timeMs })
        // Nothing but the next epoch may follow; that it may be missing is the end of the log.
        if (step < actions.length - 1) {
          log.write({ kind: 'epochStart', previous: log.epoch }, { epoch: log.epoch + 1, timeMs })
        }
        return
      }
      case 'evict':
        return log.write({ kind: 'evict', floor: log.logEnd - size, producers: [producerId] }, { timeMs })
      case 'purge':
        return log.write({ kind: what, ranges }, { timeMs })
      case 'quarantine': {
        const moving = log.outputs.filter((_, i) => ((which >> (i % 16)) & 1) === 1)
        const all = [...chosen, ...moving.map(({ message }) => message)].sort((a, b) => a - b)
        return log.write({ kind: what, ranges: rangesOf(all) }, { timeMs })
      }
    }
  })
  return log
}

const logs = fc.array(action, { maxLength: 40, size: 'max' }).map(written)

/** A log with one batch of `count` messages, for what comes next. */
function logOf(count: number): NaiveLog {
  const log = new NaiveLog()
  log.write({ kind: 'epochStart', previous: 0 }, { epoch: 1, timeMs: 50 })
  log.write(
    { kind: 'batch', payloadCrc: 1, delays: null },
    { count, timeMs: 100, producerId: producerIds[0]!, sequence: 1 },
  )
  return log
}

void t.test('agrees with a map of messages', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(logs, (log) => {
        const state = fold(log.entries)
        state.live.checkInvariants()
        state.quarantined.checkInvariants()
        state.delayed.checkInvariants()
        state.outbox.checkInvariants()
        if (JSON.stringify(describe(state)) !== JSON.stringify(log.describe())) {
          throw new Error(`${JSON.stringify(describe(state))}\nwanted ${JSON.stringify(log.describe())}`)
        }
      }),
      { numRuns: 300 },
    ),
  )
})

void t.test('a checkpoint at any place, and the entries after it, say the same', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(logs, (log) => {
        const wanted = JSON.stringify(log.describe())
        const state = new PartitionState()
        for (let cut = 0; cut <= log.entries.length; cut++) {
          const checkpoint = decodeCheckpoint(encodeCheckpoint(state, '00000003'))
          if (JSON.stringify(describe(checkpoint.state)) !== JSON.stringify(describe(state))) {
            throw new Error(`a checkpoint after ${cut} entries`)
          }
          fold(log.entries.slice(cut), checkpoint.state)
          if (JSON.stringify(describe(checkpoint.state)) !== wanted)
            throw new Error(`cut after ${cut} entries`)
          if (cut < log.entries.length) fold([log.entries[cut]!], state)
        }
      }),
    ),
  )
})

void t.test(
  'a checkpoint whose pieces are made while entries are applied is of the moment of its capture',
  async (t) => {
    t.doesNotThrow(() =>
      fc.assert(
        fc.property(logs, (log) => {
          for (let cut = 0; cut <= log.entries.length; cut++) {
            const state = fold(log.entries.slice(0, cut))
            const wanted = Buffer.from(encodeCheckpoint(state, ''))
            const pieces = piecesOf(capture(state, ''))
            const made: Uint8Array[] = []
            for (const entry of log.entries.slice(cut)) {
              const { value } = pieces.next()
              if (value) made.push(value)
              fold([entry], state)
            }
            if (!Buffer.concat([...made, ...pieces]).equals(wanted)) throw new Error(`after ${cut} entries`)
          }
        }),
      ),
    )
  },
)

void t.test('a checkpoint', async (t) => {
  const log = logOf(3)

  await t.test('is written as one list of msgpack', async (t) => {
    const bytes = encodeCheckpoint(fold(log.entries), '00000001')
    t.strictSame(Buffer.from(bytes), Buffer.from(pack(unpack(bytes))))
  })

  await t.test('is made in pieces of a few thousand ranges', async (t) => {
    const ranges = 3 * itemsPerPieceMax
    const state = new PartitionState()
    for (let i = 0; i < ranges; i++) {
      state.live.set(3 * i, 3 * i + 2, 1 + (i % 300))
      state.delayed.set(3 * i, 3 * i + 1, 2 ** 41 + i)
    }
    const pieces = [...piecesOf(capture(state, ''))]
    const numbersMax = 3 * (itemsPerPieceMax + 256)
    t.ok(pieces.every(({ length }) => length <= 9 * numbersMax))
    const bytes = Buffer.concat(pieces)
    t.strictSame(bytes, Buffer.from(pack(unpack(bytes))), 'and is the same as at once')
    const { live, delayed } = decodeCheckpoint(bytes).state
    t.ok(live.equals(state.live) && delayed.equals(state.delayed))
  })

  await t.test('names the segment that the entries after it begin in', async (t) => {
    t.equal(decodeCheckpoint(encodeCheckpoint(new PartitionState(), '00000017')).firstSegment, '00000017')
  })

  await t.test('does not change with the bytes it was read from', async (t) => {
    const bytes = encodeCheckpoint(fold(log.entries), '')
    const { state } = decodeCheckpoint(bytes)
    bytes.fill(0)
    t.strictSame(describe(state), log.describe())
  })

  await t.test('does not change with the state it was taken from', async (t) => {
    const state = fold(log.entries)
    const bytes = encodeCheckpoint(state, '')
    const before = Buffer.from(bytes)
    state.apply(
      { ...log.entries[1]!.header, base: 4, sequence: 2 },
      { kind: 'batch', payloadCrc: 2, delays: null },
      chainStart,
    )
    t.strictSame(Buffer.from(bytes), before)
  })

  await t.test('keeps its layout', async (t) => {
    t.matchOnly(unpack(encodeCheckpoint(fold(log.entries), '00000001')), [
      3,
      '00000001',
      4,
      1,
      Buffer.from(log.chain),
      100,
      [1, 4, 1],
      [],
      [],
      0,
      [[Buffer.from(producerIds[0]!), 0, 0, 100, [[1, 1, 1, 3, 1]]]],
      null,
      [],
      [],
    ])
  })

  await t.test('holds numbers of 53 bits', async (t) => {
    const big = 2 ** 53 - 10
    const state = new PartitionState()
    state.logEnd = state.epoch = state.timeMs = state.floor = big
    state.live.set(big - 5, big - 1, 3)
    const decoded = decodeCheckpoint(encodeCheckpoint(state, '')).state
    t.strictSame(
      [decoded.logEnd, decoded.epoch, decoded.timeMs, decoded.floor, decoded.live.toArray()],
      [big, big, big, big, [big - 5, big - 1, 3]],
    )
  })

  await t.test('cut short anywhere is none', async (t) => {
    const bytes = encodeCheckpoint(fold(log.entries), '')
    const wrong: number[] = []
    for (let length = 0; length < bytes.length; length++) {
      try {
        decodeCheckpoint(bytes.slice(0, length))
        wrong.push(length)
      } catch (error) {
        if (!(error instanceof CorruptEntry)) wrong.push(length)
      }
    }
    t.strictSame(wrong, [])
  })

  await t.test('of a newer version is not taken for rot', async (t) => {
    t.throws(() => decodeCheckpoint(pack([4, 'something else'])), { code: 'NEWER_DATA_FORMAT' })
  })
})

void t.test('an empty log', async (t) => {
  const state = new PartitionState()
  t.equal(state.logStart, 0)
  t.equal(state.live.size, 0)
})

void t.test('the log starts where the lowest unsettled message is', async (t) => {
  const log = logOf(3)
  log.write(
    {
      kind: 'settle',
      action: 0,
      settled: [1, 2],
      refused: null,
      requestCrc: 0,
      reason: null,
      notBefore: null,
      moved: null,
    },
    { sequence: 2 },
  )
  t.equal(fold(log.entries).logStart, 3)
})

void t.test('a settle takes a range across batches', async (t) => {
  const log = logOf(3)
  log.write({ kind: 'batch', payloadCrc: 0, delays: null }, { count: 3, sequence: 1 })
  log.write(
    {
      kind: 'settle',
      action: 0,
      settled: [2, 4],
      refused: null,
      requestCrc: 0,
      reason: null,
      notBefore: null,
      moved: null,
    },
    { sequence: 2 },
  )
  t.strictSame(fold(log.entries).live.toArray(), [1, 2, 1, 6, 7, 1])
})

void t.test('what entries other than batches take of the offsets is never live', async (t) => {
  const log = logOf(1)
  log.write({ kind: 'fail', cause: 0, ranges: [0, 10], notBefore: null, moved: null })
  t.strictSame(fold(log.entries).live.toArray(), [1, 2, 2])
})

/** The first message is settled for good. */
function ackFirst(log: NaiveLog): void {
  log.write(
    {
      kind: 'settle',
      action: 0,
      settled: [1, 1],
      refused: null,
      requestCrc: 0,
      reason: null,
      notBefore: null,
      moved: null,
    },
    { sequence: 2 },
  )
}

void t.test('a failed delivery of what was settled counts for nothing', async (t) => {
  const log = logOf(2)
  ackFirst(log)
  log.write({ kind: 'fail', cause: 0, ranges: [1, 2], notBefore: null, moved: null })
  t.strictSame(fold(log.entries).live.toArray(), [2, 3, 2])
})

void t.test('a quarantined message', async (t) => {
  const log = logOf(3)
  log.write({ kind: 'quarantine', ranges: [2, 1] })

  await t.test('is live no more', async (t) => {
    t.strictSame(fold(log.entries).live.toArray(), [1, 2, 1, 3, 4, 1])
  })
  await t.test('is counted', async (t) => {
    t.equal(fold(log.entries).quarantined.size, 1)
  })
  await t.test('stays, whatever fails or restarts after it', async (t) => {
    log.write({ kind: 'fail', cause: 0, ranges: [1, 3], notBefore: null, moved: null })
    log.write({ kind: 'epochStart', previous: 1 }, { epoch: 2 })
    t.equal(fold(log.entries).quarantined.has(2), true)
  })
})

void t.test('quarantine does not count what is settled', async (t) => {
  const log = logOf(3)
  ackFirst(log)
  const state = fold(log.entries)
  state.apply(
    { ...log.entries[0]!.header, kind: 'quarantine', base: 5, timeMs: 100 },
    { kind: 'quarantine', ranges: [1, 2] },
    chainStart,
  )
  t.strictSame(state.quarantined.toArray(), [2, 3, 1])
})

void t.test('a producer', async (t) => {
  const [id] = producerIds as [string]
  const send = (log: NaiveLog, sequence: number, header: Partial<EntryHeader> = {}) =>
    log.write({ kind: 'batch', payloadCrc: sequence, delays: null }, { producerId: id, sequence, ...header })

  await t.test('is remembered with its last 64 outcomes', async (t) => {
    const log = logOf(1)
    for (let sequence = 2; sequence <= 100; sequence++) send(log, sequence)
    const sequences = fold(log.entries)
      .producers.get(id)!
      .outcomes.map((o) => o.sequence)
    t.strictSame(
      sequences,
      Array.from({ length: 64 }, (_, i) => 37 + i),
    )
  })

  await t.test('shares its sequences between sends and settles', async (t) => {
    const log = logOf(1)
    log.write(
      {
        kind: 'settle',
        action: 0,
        settled: [1, 1],
        refused: [7, 1],
        requestCrc: 5,
        reason: null,
        notBefore: null,
        moved: null,
      },
      { producerId: id, sequence: 2 },
    )
    t.strictSame(fold(log.entries).producers.get(id)!.outcomes, [
      { sequence: 1, epoch: 1, base: 1, count: 1, crc: 1, refused: null },
      { sequence: 2, epoch: 1, base: 2, count: 0, crc: 5, refused: [7, 1] },
    ])
  })

  await t.test('may leave sequences out', async (t) => {
    const log = logOf(1)
    send(log, 1000)
    t.strictSame(
      fold(log.entries)
        .producers.get(id)!
        .outcomes.map((o) => o.sequence),
      [1, 1000],
    )
  })

  await t.test('opened anew under its name begins anew', async (t) => {
    const log = logOf(1)
    send(log, 50)
    send(log, 1, { producerEpoch: 1, opening: 3 })
    const { epoch, opening, outcomes } = fold(log.entries).producers.get(id)!
    t.strictSame([epoch, opening, outcomes.length], [1, 3, 1])
  })

  await t.test('that was evicted is not known', async (t) => {
    const log = logOf(1)
    log.write({ kind: 'evict', floor: 1, producers: [id] })
    t.equal(fold(log.entries).producers.has(id), false)
  })

  await t.test('never lowers the floor', async (t) => {
    const log = logOf(1)
    log.write({ kind: 'evict', floor: 9, producers: [] })
    log.write({ kind: 'evict', floor: 3, producers: [] })
    t.equal(fold(log.entries).floor, 9)
  })
})

void t.test('handed-over leases', async (t) => {
  const leases = [{ lease: 3, epoch: 1, ranges: [1, 2, 500] }]
  const log = logOf(3)
  log.write({ kind: 'leases', nextLease: 4, leases })

  await t.test('are there for the next leader', async (t) => {
    t.strictSame(fold(log.entries).handedOver, { nextLease: 4, leases })
  })
  await t.test('end with the epoch that took them over', async (t) => {
    log.write({ kind: 'epochStart', previous: 1 }, { epoch: 2 })
    t.equal(fold(log.entries).handedOver, null)
  })
})

void t.test('an entry that cannot be the next one is refused', async (t) => {
  const log = logOf(3)
  const next: EntryHeader = { ...log.entries[1]!.header, base: 4, count: 1, sequence: 2 }
  const batch: EntryBody = { kind: 'batch', payloadCrc: 1, delays: null }
  const epochStart: EntryBody = { kind: 'epochStart', previous: 1 }
  const refused = (header: Partial<EntryHeader>, body: EntryBody, what: string, before: Written[] = []) => {
    const state = fold([...log.entries, ...before])
    t.throws(
      () => state.apply({ ...next, kind: body.kind, ...header }, body, chainStart),
      { name: 'InvariantError' },
      what,
    )
  }
  t.doesNotThrow(() => fold(log.entries).apply(next, batch, chainStart), 'but this can')
  refused({ base: 5 }, batch, 'a gap')
  refused({ base: 3 }, batch, 'an offset taken twice')
  refused({ timeMs: 99 }, batch, 'a step back in time')
  refused({ epoch: 0 }, batch, 'an older epoch')
  refused({ epoch: 2 }, batch, 'a newer epoch that did not start')
  refused({ epoch: 1 }, epochStart, 'an epoch that starts twice')
  refused({ epoch: 0 }, epochStart, 'an older epoch that starts')
  refused({ sequence: 1 }, batch, 'a sequence used again')
  refused({ producerEpoch: -1 }, batch, 'an instance that is fenced')
  const handOver: Written = {
    header: { ...next, kind: 'leases' },
    body: { kind: 'leases', nextLease: 1, leases: [] },
    chain: chainStart,
  }
  refused({ base: 5 }, batch, 'a batch after a hand-over', [handOver])
})

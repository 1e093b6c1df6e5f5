import { crc32 } from 'node:zlib'
import t from 'tap'
import { MqError } from '../../src/errors.ts'
import {
  CorruptEntry,
  encodeEntry,
  headerBytes,
  logName,
  noProducer,
  type LogName,
} from '../../src/partition/entry.ts'
import { encodeCheckpoint } from '../../src/partition/checkpoint.ts'
import { type PartitionState } from '../../src/partition/fold.ts'
import { encodeBody, type EntryBody } from '../../src/partition/payload.ts'
import type { FaultOptions } from '../../src/sim/faults.ts'
import { SimStore } from '../../src/sim/store.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import { logDefaults, SharedLog, type LogOptions } from '../../src/storage/log.ts'
import type { PartitionLog } from '../../src/storage/partition-log.ts'

const orders = logName('aa'.repeat(16), 0)
const bills = logName('bb'.repeat(16), 3)
/** What a commit takes on the simulated disk. */
const commitMs = 10

/** A process whose log is open, and all that was told about it. */
class Disk {
  readonly world: SimWorld
  readonly store: SimStore
  process: SimProcess
  log!: SharedLog
  readonly events: string[] = []
  readonly #options: LogOptions

  private constructor(options: Partial<LogOptions>, store: SimStore, faults: Partial<FaultOptions>) {
    this.world = new SimWorld({ seed: 1, faults: { diskLatencyMs: [commitMs, commitMs], ...faults } })
    this.store = store
    this.process = this.world.process('broker', store)
    this.#options = { ...logDefaults, reserveBytes: 0, journalBytes: 0, ...options }
  }

  static async open(
    options: Partial<LogOptions> = {},
    store = new SimStore(),
    faults: Partial<FaultOptions> = {},
  ) {
    const disk = new Disk(options, store, faults)
    await disk.open()
    return disk
  }

  async open(): Promise<void> {
    const { env } = this.process
    await this.world.complete(env.store.lock())
    const events = {
      failed: (error: MqError) => this.events.push(`failed ${error.code}`),
      rolled: () => this.events.push('rolled'),
      relieved: () => this.events.push('relieved'),
      full: (isFull: boolean) => this.events.push(isFull ? 'full' : 'room'),
    }
    this.log = await this.world.complete(
      SharedLog.open(env.store, env.clock, env.random, this.#options, events),
    )
  }

  /** The process dies, another opens what is on the disk. */
  async crash(): Promise<void> {
    this.process.crash()
    this.process = this.world.process('broker', this.store)
    this.events.length = 0
    await this.open()
  }

  async close(): Promise<void> {
    await this.world.complete(this.log.close())
    await this.world.complete(this.process.env.store.close())
  }

  partition(name: LogName = orders): Writer {
    const { log, state, entriesRead } = this.log.recover(name)
    return new Writer(name, log, state, entriesRead, this.events)
  }

  advance(ms: number): Promise<void> {
    return this.world.advance(ms)
  }

  async flushed(): Promise<void> {
    await this.world.complete(this.log.flushed())
  }
}

/** Appends to one partition as its leader would. */
class Writer {
  readonly log: PartitionLog
  readonly state: PartitionState
  /** What its start had to read. */
  readonly entriesRead: number
  readonly #name: LogName

  constructor(
    name: LogName,
    log: PartitionLog,
    state: PartitionState,
    entriesRead: number,
    events: string[],
  ) {
    this.#name = name
    this.log = log
    this.state = state
    this.entriesRead = entriesRead
    log.onDurable = (end) => events.push(`durable ${end}`)
    if (state.epoch === 0) this.write({ kind: 'epochStart', previous: 0 }, Buffer.alloc(0), 1, 1)
  }

  /** A batch of `count` messages, `bytes` long. */
  batch(count: number, bytes = 10): number {
    const base = this.state.logEnd
    const payload = Buffer.alloc(bytes, base % 251)
    this.write({ kind: 'batch', payloadCrc: crc32(payload), delays: null }, payload, count, this.state.epoch)
    return base
  }

  settle(offset: number, count: number): void {
    const body = {
      kind: 'settle' as const,
      action: 0,
      settled: [offset, count],
      refused: null,
      requestCrc: 0,
      reason: null,
      notBefore: null,
      moved: null,
    }
    this.write(body, encodeBody(body), 1, this.state.epoch)
  }

  write(body: EntryBody, payload: Uint8Array, count: number, epoch: number): void {
    const { state } = this
    const base = state.logEnd
    const sequenced = body.kind === 'batch' || body.kind === 'settle'
    const header = {
      kind: body.kind,
      count,
      base,
      epoch,
      timeMs: base,
      producerId: sequenced ? 'p'.repeat(16) : noProducer,
      producerEpoch: 0,
      sequence: base,
      opening: 0,
      notBeforeMs: 0,
      ownDelays: false,
      isForwarded: false,
    }
    const bytes = body.kind === 'batch' || payload.length > 0 ? payload : encodeBody(body)
    const entry = encodeEntry(this.#name, header, bytes, crc32(bytes), state.chain)
    state.apply(header, body, Uint8Array.from(entry.subarray(4, 12)))
    this.log.append(entry, base, base + count)
  }

  checkpoint(): void {
    const writing = this.log.beginCheckpoint(this.state)
    while (writing.step() > 0);
  }

  get shown(): string {
    return show(this.state)
  }
}

function show(state: PartitionState): string {
  return Buffer.from(encodeCheckpoint(state, '')).toString('hex')
}

/** Keys and values of all segments, as `change` leaves them, on another disk. */
async function changed(
  store: SimStore,
  change: (record: { segment: string; key: Buffer; value: Buffer }) => { key: Buffer; value: Buffer } | null,
): Promise<SimStore> {
  const other = new SimStore()
  const from = store.attach()
  await from.lock()
  await other.lock()
  for (const name of await from.list()) {
    const segment = await from.open(name, { create: false })
    const puts: { key: Buffer; value: Buffer }[] = []
    segment.scan(Buffer.alloc(1), Buffer.alloc(40, 0xff), (key, value) => {
      const put = change({ segment: name, key: Buffer.from(key), value: Buffer.from(value) })
      if (put !== null) puts.push(put)
      return true
    })
    await segment.close()
    const copy = await other.open(name, { create: true })
    await copy.commit(puts)
    await copy.close()
  }
  await from.close()
  await other.close()
  return other
}

const isEntry = (key: Buffer) => key[0] === 0x4c
const baseOf = (key: Buffer) => Number(key.readBigUInt64BE(21))

/** Records and checkpoints on the disk, as `segment base` and `segment checkpoint`. */
async function recordsOf(store: SimStore): Promise<string[]> {
  const found: string[] = []
  await changed(store, ({ segment, key }) => {
    found.push(`${Number(segment)} ${isEntry(key) ? baseOf(key) : 'checkpoint'}`)
    return null
  })
  return found
}

void t.test('an empty directory', async (t) => {
  const disk = await Disk.open()
  t.equal(disk.log.segmentCount, 1, 'gets a first segment')
  const { log, state, entriesRead } = disk.log.recover(orders)
  t.strictSame([log.durableEnd, state.logEnd, entriesRead], [0, 0, 0], 'has an empty log')
})

void t.test('what is appended', async (t) => {
  await t.test('is not told before its commit is over', async (t) => {
    const disk = await Disk.open()
    disk.partition().batch(2)
    await disk.advance(commitMs - 1)
    t.strictSame(disk.events, [])
  })
  await t.test('is told when it is', async (t) => {
    const disk = await Disk.open()
    disk.partition().batch(2)
    await disk.advance(commitMs + 1)
    t.strictSame(disk.events, ['durable 3'])
  })
  await t.test('can then be read', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    const base = writer.batch(2)
    await disk.flushed()
    t.match(writer.log.read(base + 1), { base, count: 2, kind: 'batch' })
  })
  await t.test('survives a crash once it was told', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(2)
    await disk.flushed()
    await disk.crash()
    t.equal(disk.partition().shown, writer.shown)
  })
})

void t.test('who waits until it is on the disk, or the disk is full,', async (t) => {
  const disk = await Disk.open({ reserveBytes: 100, fullRetryMs: 100 })
  const waited: string[] = []
  const wait = (): void => {
    void disk.log.flushed().then(() => waited.push('flushed'))
    void disk.log.flushed(true).then(() => waited.push('flushed or full'))
  }
  const writer = disk.partition()
  writer.batch(2)
  wait()
  await disk.advance(commitMs + 1)
  await t.test('waits for the first', (t) => {
    t.strictSame(waited.splice(0), ['flushed', 'flushed or full'])
    t.end()
  })
  await t.test('or the second', async (t) => {
    disk.store.full = true
    writer.batch(2)
    wait()
    await disk.advance(3 * commitMs)
    t.strictSame(waited.splice(0), ['flushed or full'])
    t.ok(disk.log.isBlocked)
    t.equal(disk.log.reservesGiven, 1)
    wait()
    await disk.advance(1)
    t.strictSame(waited.splice(0), ['flushed or full'], 'at once, while it is')
    disk.store.full = false
    await disk.advance(1000)
    t.strictSame(waited, ['flushed', 'flushed'])
    t.notOk(disk.log.isBlocked)
  })
})

void t.test('a group', async (t) => {
  await t.test('holds everything of one turn', async (t) => {
    const disk = await Disk.open()
    const writers = [disk.partition(orders), disk.partition(bills)]
    for (const writer of writers) for (let i = 0; i < 50; i++) writer.batch(1)
    await disk.flushed()
    t.equal(disk.log.commits, 1)
  })
  await t.test('is told once for each partition', async (t) => {
    const disk = await Disk.open()
    const [first, second] = [disk.partition(orders), disk.partition(bills)]
    for (let i = 0; i < 3; i++) {
      first.batch(1)
      second.batch(2)
    }
    await disk.flushed()
    t.strictSame(disk.events, ['durable 4', 'durable 7'])
  })
  await t.test('is followed by one of all that came meanwhile', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.advance(1)
    for (let i = 0; i < 5; i++) {
      writer.batch(1)
      await disk.advance(1)
    }
    await disk.flushed()
    t.strictSame(disk.events, ['durable 1', 'durable 6'])
  })
  await t.test('holds no more bytes than a commit takes', async (t) => {
    const disk = await Disk.open({ commitBytesMax: 3000 })
    const writer = disk.partition()
    for (let i = 0; i < 4; i++) writer.batch(1, 1000)
    await disk.flushed()
    t.strictSame(disk.events, ['durable 3', 'durable 5'])
  })
  await t.test('holds an entry that is larger than that', async (t) => {
    const disk = await Disk.open({ commitBytesMax: 3000 })
    const writer = disk.partition()
    writer.batch(1, 5000)
    writer.batch(1, 5000)
    await disk.flushed()
    t.strictSame(disk.events, ['durable 1', 'durable 2', 'durable 3'])
  })
})

void t.test('records', async (t) => {
  await t.test('hold small neighbours together', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    for (let i = 0; i < 10; i++) writer.batch(1)
    await disk.flushed()
    await disk.close()
    t.strictSame(await recordsOf(disk.store), ['1 0'])
  })
  await t.test('give them back one by one', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    const bases = Array.from({ length: 10 }, (_, i) => writer.batch(i + 1))
    await disk.flushed()
    const found = bases.map((base) => writer.log.read(base))
    t.strictSame(
      found.map(({ base, count }) => [base, count]),
      bases.map((base, i) => [base, i + 1]),
    )
  })
  await t.test('of two partitions do not mix', async (t) => {
    const disk = await Disk.open()
    const [first, second] = [disk.partition(orders), disk.partition(bills)]
    const bases = [first.batch(1), second.batch(5), first.batch(1), second.batch(1)]
    await disk.flushed()
    t.equal(first.log.read(bases[2]!).count, 1)
    t.equal(second.log.read(bases[1]!).count, 5)
  })
  await t.test('hold a large entry alone', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(1, 10)
    writer.batch(1, 10_000)
    writer.batch(1, 10)
    await disk.flushed()
    await disk.close()
    t.strictSame(await recordsOf(disk.store), ['1 0', '1 2', '1 3'])
  })
  await t.test('have a bounded size', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    for (let i = 0; i < 100; i++) writer.batch(1, 4000)
    await disk.flushed()
    await disk.close()
    const sizes: number[] = []
    await changed(disk.store, ({ value }) => {
      sizes.push(value.length)
      return null
    })
    t.ok(sizes.length > 1 && Math.max(...sizes) <= 65_536, `sizes ${sizes.join()}`)
  })
  await t.test('are of memory of its own when read', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    const [first, second] = [writer.batch(1), writer.batch(1, 9000)]
    await disk.flushed()
    const entry = writer.log.read(first)
    const before = Buffer.from(entry.bytes)
    writer.log.read(second)
    t.strictSame(Buffer.from(entry.bytes), before)
  })
})

void t.test('what has just been committed', async (t) => {
  await t.test('is read from memory', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    const bases = Array.from({ length: 5 }, () => writer.batch(2))
    await disk.flushed()
    for (const base of bases) writer.log.read(base)
    t.match(disk.log.cache, { hits: 5, misses: 0 })
  })
  await t.test('is read from the disk, and verified, when there is no memory for it', async (t) => {
    const disk = await Disk.open({ cacheBytes: 0 })
    const writer = disk.partition()
    const bases = Array.from({ length: 5 }, () => writer.batch(2))
    await disk.flushed()
    t.strictSame(
      bases.map((base) => writer.log.read(base).base),
      bases,
    )
    t.match(disk.log.cache, { hits: 0, misses: 5 })
  })
})

void t.test('a record of five entries', async (t) => {
  const recovered = async () => {
    const disk = await Disk.open()
    const writer = disk.partition()
    const bases = Array.from({ length: 5 }, () => writer.batch(2))
    await disk.flushed()
    await disk.crash()
    return { disk, bases, log: disk.partition().log }
  }
  await t.test('is read twice by whoever wants all of it', async (t) => {
    const { disk, bases, log } = await recovered()
    t.strictSame(
      bases.map((base) => log.read(base).base),
      bases,
    )
    t.match(disk.log.cache, { hits: 3, misses: 2 })
  })
  await t.test('is not copied for whoever wants one of it, or goes backwards', async (t) => {
    const { bases, log } = await recovered()
    for (const base of bases.reverse()) {
      const { bytes } = log.read(base)
      t.equal(bytes.buffer.byteLength, bytes.length)
    }
  })
})

void t.test('reading', async (t) => {
  await t.test('an offset beyond the end finds nothing', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(1)
    await disk.flushed()
    t.throws(() => writer.log.read(2), CorruptEntry)
  })
  await t.test('a log without entries finds nothing', async (t) => {
    const disk = await Disk.open()
    disk.partition(bills).batch(3)
    await disk.flushed()
    t.throws(() => disk.log.recover(orders).log.read(0), CorruptEntry)
  })
})

void t.test('at its size a segment', async (t) => {
  const small = { segmentBytes: 5000 }
  const rolled = async () => {
    const disk = await Disk.open(small)
    const writer = disk.partition()
    const bases: number[] = []
    for (let i = 0; i < 20; i++) {
      bases.push(writer.batch(3, 900))
      await disk.flushed()
    }
    return { disk, writer, bases }
  }
  await t.test('is followed by the next', async (t) => {
    const { disk } = await rolled()
    t.equal(disk.log.segmentCount, 5)
    t.equal(disk.log.currentSegment, '00000005')
  })
  await t.test('says so, after its entries were told', async (t) => {
    const { disk } = await rolled()
    t.strictSame(disk.events.slice(0, 8), [
      'durable 4',
      'durable 7',
      'durable 10',
      'durable 13',
      'durable 16',
      'rolled',
      'durable 19',
      'durable 22',
    ])
  })
  await t.test('can still be read', async (t) => {
    const { writer, bases } = await rolled()
    t.strictSame(
      bases.map((base) => writer.log.read(base + 2).base),
      bases,
    )
  })
  await t.test('can be read after a crash', async (t) => {
    const { disk, writer, bases } = await rolled()
    await disk.crash()
    const again = disk.partition()
    t.equal(again.shown, writer.shown)
    t.strictSame(
      bases.map((base) => again.log.read(base + 2).base),
      bases,
    )
  })
  await t.test('is never written again', async (t) => {
    const { disk, bases } = await rolled()
    await disk.crash()
    const writer = disk.partition()
    const base = writer.batch(1)
    await disk.flushed()
    await disk.close()
    const records = await recordsOf(disk.store)
    t.equal(records.at(-1), `5 ${base}`)
    t.equal(records.length, 1 + bases.length, 'one record each, for each was a commit of its own')
  })
})

void t.test('the log of a partition that others outgrow', async (t) => {
  const disk = await Disk.open({ segmentBytes: 5000 })
  const [quiet, busy] = [disk.partition(bills), disk.partition(orders)]
  const first = quiet.batch(2)
  for (let i = 0; i < 12; i++) {
    busy.batch(1, 2000)
    await disk.flushed()
  }
  const second = quiet.batch(2)
  await disk.flushed()
  t.strictSame(
    [quiet.log.read(first).base, quiet.log.read(second).base],
    [first, second],
    'is read across the gap',
  )
  await disk.crash()
  t.equal(disk.partition(bills).shown, quiet.shown, 'is recovered across the gap')
})

void t.test('a checkpoint', async (t) => {
  /** Ten entries, a checkpoint, three entries. */
  const checkpointed = async (options: Partial<LogOptions> = {}) => {
    const disk = await Disk.open(options)
    const writer = disk.partition()
    for (let i = 0; i < 9; i++) writer.batch(2)
    writer.checkpoint()
    for (let i = 0; i < 3; i++) writer.batch(2)
    await disk.flushed()
    return { disk, writer }
  }
  await t.test('spares a start the entries before it', async (t) => {
    const { disk, writer } = await checkpointed()
    await disk.crash()
    const again = disk.partition()
    t.equal(again.entriesRead, 3)
    t.equal(again.shown, writer.shown)
  })
  await t.test('is not told as an entry', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    writer.checkpoint()
    await disk.flushed()
    t.strictSame(disk.events, [])
  })
  await t.test('is of the moment it was taken', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(1)
    const shown = writer.shown
    writer.checkpoint()
    await disk.flushed()
    writer.settle(1, 1)
    await disk.crash()
    t.equal(disk.partition().shown, shown)
  })
  await t.test('is of the moment it was begun, whatever comes before it is written', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    for (let i = 0; i < 9; i++) writer.batch(2)
    const { shown } = writer
    const writing = writer.log.beginCheckpoint(writer.state)
    // One after each step, and all in one commit.
    let steps = 0
    for (; writing.step() > 0; steps++) writer.settle(2 * steps, 1)
    await disk.flushed()
    t.equal(disk.store.attach().links.segments.size, 1)
    t.not(writer.shown, shown)
    await disk.crash()
    const again = disk.partition()
    t.equal(again.entriesRead, steps, 'those since then are read after it')
    t.equal(again.shown, writer.shown)
  })
  await t.test('hides nothing of the entries before it', async (t) => {
    const { disk } = await checkpointed()
    await disk.crash()
    t.equal(disk.partition().log.read(1).base, 1)
  })
  await t.test('in a later segment is the one that counts', async (t) => {
    const { disk, writer } = await checkpointed({ segmentBytes: 3000 })
    writer.batch(1, 5000)
    await disk.flushed()
    writer.batch(1)
    writer.checkpoint()
    writer.batch(1)
    await disk.flushed()
    await disk.crash()
    const again = disk.partition()
    t.equal(again.entriesRead, 1)
    t.equal(again.shown, writer.shown)
  })
  await t.test('that has rotted costs only time', async (t) => {
    const { disk, writer } = await checkpointed()
    await disk.close()
    const store = await changed(disk.store, ({ key, value }) => {
      if (!isEntry(key)) value[value.length >> 1]! ^= 4
      return { key, value }
    })
    const again = (await Disk.open({}, store)).partition()
    t.equal(again.entriesRead, 13)
    t.equal(again.shown, writer.shown)
  })
  await t.test('that has rotted gives way to the one before', async (t) => {
    const { disk, writer } = await checkpointed({ segmentBytes: 3000 })
    writer.batch(1, 5000)
    await disk.flushed()
    writer.batch(1)
    writer.checkpoint()
    await disk.flushed()
    await disk.close()
    const store = await changed(disk.store, ({ segment, key, value }) => {
      if (!isEntry(key) && segment !== '00000001') value[5]! ^= 1
      return { key, value }
    })
    const again = (await Disk.open({}, store)).partition()
    t.equal(again.entriesRead, 5)
    t.equal(again.shown, writer.shown)
  })
  await t.test('of another partition is not taken', async (t) => {
    const { disk } = await checkpointed()
    await disk.close()
    const store = await changed(disk.store, ({ key, value }) => {
      if (!isEntry(key)) bills.bytes.forEach((byte, i) => (key[1 + i] = byte))
      return { key, value }
    })
    t.equal((await Disk.open({}, store)).log.recover(bills).state.logEnd, 0)
  })
})

void t.test('a start halts the partition', async (t) => {
  /** Five records of one entry each. */
  const five = async () => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.flushed()
    for (let i = 0; i < 4; i++) {
      writer.batch(4)
      await disk.flushed()
    }
    await disk.close()
    return disk.store
  }
  const recover = async (change: Parameters<typeof changed>[1]) => {
    const disk = await Disk.open({}, await changed(await five(), change))
    return () => disk.log.recover(orders)
  }
  t.doesNotThrow(await recover((record) => record), 'not when all is well')
  await t.test("when any bit of its last entry's header has flipped", async (t) => {
    const store = await five()
    const unnoticed: number[] = []
    for (let at = 0; at < headerBytes; at++) {
      for (const bit of [1, 128]) {
        const disk = await Disk.open(
          {},
          await changed(store, ({ key, value }) => {
            if (baseOf(key) === 13) value[at]! ^= bit
            return { key, value }
          }),
        )
        try {
          disk.log.recover(orders)
          unnoticed.push(at)
        } catch (error) {
          if (!(error instanceof CorruptEntry)) throw error
        }
      }
    }
    t.strictSame(unnoticed, [])
  })
  await t.test('when the payload of anything but a batch has rotted', async (t) => {
    const rotten = await recover(({ key, value }) => {
      if (baseOf(key) === 0) value[headerBytes]! ^= 1
      return { key, value }
    })
    t.throws(rotten, CorruptEntry)
  })
  await t.test('when an entry in the middle is missing', async (t) => {
    t.throws(await recover((record) => (baseOf(record.key) === 5 ? null : record)), CorruptEntry)
  })
  await t.test('when an entry lies under a key that is not its own', async (t) => {
    const swapped = await recover(({ key, value }) => {
      if (baseOf(key) === 13) key[28] = 2
      return { key, value }
    })
    t.throws(swapped, CorruptEntry)
  })
  await t.test('when an entry of a record is of another log', async (t) => {
    const other = await recover(({ key, value }) => {
      key[1]! ^= 1
      return { key, value }
    })
    t.doesNotThrow(other)
    const disk = await Disk.open(
      {},
      await changed(await five(), ({ key, value }) => {
        bills.bytes.forEach((byte, i) => (key[1 + i] = byte))
        return { key, value }
      }),
    )
    t.throws(() => disk.log.recover(bills), CorruptEntry)
  })
  await t.test('when a record is cut short', async (t) => {
    t.throws(
      await recover(({ key, value }) => ({ key, value: value.subarray(0, value.length - 1) })),
      CorruptEntry,
    )
  })
})

void t.test('a start that finds the payload of a batch rotten', async (t) => {
  const rotten = async () => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(4)
    const base = writer.batch(3)
    writer.batch(2)
    writer.settle(base + 1, 1)
    await disk.flushed()
    await disk.close()
    const store = await changed(disk.store, ({ key, value }) => {
      if (isEntry(key)) value[headerBytes + 1 + 2 * (headerBytes + 10) - 1]! ^= 0x40
      return { key, value }
    })
    return { writer, base, found: (await Disk.open({}, store)).log.recover(orders) }
  }
  await t.test('says which messages are lost', async (t) => {
    const { base, found } = await rotten()
    t.strictSame(found.rotten, [base, 3])
  })
  await t.test('folds the entry and all that follow', async (t) => {
    const { writer, found } = await rotten()
    t.equal(show(found.state), writer.shown)
  })
  await t.test('does not serve it', async (t) => {
    const { base, found } = await rotten()
    t.throws(() => found.log.read(base), CorruptEntry)
    t.equal(found.log.recordEnd(base), base + 3)
    t.equal(found.log.read(base + 3).base, base + 3)
  })
})

void t.test('a rotten entry among its neighbours in a record', async (t) => {
  /** Batches of four in one record, the third of them rotten at `at`. */
  const rotten = async (at: number) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.flushed()
    const bases = Array.from({ length: 5 }, () => writer.batch(4))
    await disk.flushed()
    writer.checkpoint()
    await disk.flushed()
    await disk.close()
    const store = await changed(disk.store, ({ key, value }) => {
      if (isEntry(key) && baseOf(key) === 1) value[2 * (headerBytes + 10) + at]! ^= 0x40
      return { key, value }
    })
    const again = (await Disk.open({}, store)).partition()
    return { log: again.log, bases }
  }
  await t.test('is not read', async (t) => {
    const { log, bases } = await rotten(headerBytes + 3)
    t.throws(() => log.read(bases[2]!), CorruptEntry)
  })
  await t.test('does not take them with it', async (t) => {
    const { log, bases } = await rotten(headerBytes + 3)
    t.equal(log.recordEnd(bases[2]!), bases[3]!)
    t.equal(log.read(bases[1]!).base, bases[1])
    t.equal(log.read(bases[3]!).base, bases[3])
  })
  await t.test('takes those behind it when its length has rotted', async (t) => {
    const { log, bases } = await rotten(16)
    t.equal(log.recordEnd(bases[2]!), log.durableEnd)
    t.throws(() => log.read(bases[4]!), CorruptEntry)
  })
  await t.test('is corrupt and nothing else, wherever its rot is', async (t) => {
    const wrong: string[] = []
    for (let at = 0; at < headerBytes + 10; at++) {
      if (at >= 4 && at < 12) continue
      const { log, bases } = await rotten(at)
      for (const base of bases) {
        try {
          log.read(base + 3)
          if (base === bases[2]) wrong.push(`read with rot at ${at}`)
        } catch (error) {
          if (!(error instanceof CorruptEntry)) wrong.push(`${String(error)} with rot at ${at}`)
          const end = log.recordEnd(base + 3)
          if (end <= base + 3 || end > log.durableEnd) wrong.push(`end ${end} with rot at ${at}`)
        }
      }
    }
    t.strictSame(wrong, [])
  })
})

void t.test('the end of what a rotten record may have held', async (t) => {
  const disk = await Disk.open({ segmentBytes: 12_000 })
  const writer = disk.partition()
  const bases = [writer.batch(3, 5000), writer.batch(3, 5000), writer.batch(3, 5000)]
  await disk.flushed()
  writer.batch(3, 5000)
  await disk.flushed()
  const { log } = writer
  t.equal(log.recordEnd(bases[0]! + 1), bases[1], 'is the next record')
  t.equal(log.recordEnd(bases[2]!), bases[2]! + 3, 'in the last of a segment, the first of the next')
  t.equal(log.recordEnd(bases[2]! + 3), log.durableEnd, 'in the last of all, the end')
})

void t.test('a failed commit', async (t) => {
  const failed = async () => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    disk.store.nextCommit = 'storage-failed'
    writer.batch(1)
    await disk.advance(1)
    writer.batch(1)
    await disk.advance(1000)
    return { disk, writer }
  }
  await t.test('is told once, and nothing else is', async (t) => {
    const { disk } = await failed()
    t.strictSame(disk.events, ['failed STORAGE_FAILED'])
  })
  await t.test('ends the log', async (t) => {
    const { disk, writer } = await failed()
    writer.batch(1)
    await disk.advance(1000)
    t.strictSame(disk.events, ['failed STORAGE_FAILED'])
  })
  await t.test('leaves those who wait for the disk waiting', async (t) => {
    const { disk } = await failed()
    let flushed = false
    void disk.log.flushed().then(() => (flushed = true))
    await disk.advance(1000)
    t.equal(flushed, false)
  })
  await t.test('does not keep the log from closing', async (t) => {
    const { disk } = await failed()
    await disk.close()
    t.pass('closed')
  })
})

void t.test('a commit that never ends', async (t) => {
  const stuck = async () => {
    const disk = await Disk.open({ commitTimeoutMs: 5000 })
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    disk.store.nextCommit = 'stuck'
    writer.batch(1)
    return disk
  }
  await t.test('is given time', async (t) => {
    const disk = await stuck()
    await disk.advance(4999)
    t.strictSame(disk.events, [])
  })
  await t.test('has failed after that', async (t) => {
    const disk = await stuck()
    await disk.advance(5001)
    t.strictSame(disk.events, ['failed STORAGE_FAILED'])
  })
  await t.test('and is not told if it ends after all', async (t) => {
    const disk = await Disk.open({ commitTimeoutMs: 5 })
    disk.partition().batch(1)
    await disk.advance(1000)
    t.strictSame(disk.events, ['failed STORAGE_FAILED'])
  })
})

void t.test('a segment that is never made fails the log', async (t) => {
  const disk = await Disk.open({ segmentBytes: 2000, commitTimeoutMs: 5000 })
  const writer = disk.partition()
  await disk.flushed()
  disk.events.length = 0
  const { env } = disk.process
  env.store.open = () => new Promise(() => undefined)
  writer.batch(1, 3000)
  await disk.advance(10_000)
  t.strictSame(disk.events, ['durable 2', 'failed STORAGE_FAILED'])
})

void t.test('a full disk', async (t) => {
  const full = async () => {
    const disk = await Disk.open({ fullRetryMs: 500 })
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    disk.store.full = true
    writer.batch(1)
    await disk.advance(100)
    return { disk, writer }
  }
  await t.test('is told', async (t) => {
    const { disk } = await full()
    t.strictSame(disk.events, ['full'])
    t.equal(disk.log.isFull, true)
  })
  await t.test('is told once, however often the commit is tried', async (t) => {
    const { disk } = await full()
    await disk.advance(10_000)
    t.strictSame(disk.events, ['full'])
  })
  await t.test('takes what waited once there is room', async (t) => {
    const { disk } = await full()
    disk.store.full = false
    await disk.advance(1000)
    t.strictSame(disk.events, ['full', 'room', 'durable 2'])
  })
  await t.test('changes nothing in the order', async (t) => {
    const { disk, writer } = await full()
    for (let i = 0; i < 5; i++) {
      writer.batch(1)
      await disk.advance(300)
    }
    disk.store.full = false
    await disk.flushed()
    const shown = writer.shown
    await disk.crash()
    t.equal(disk.partition().shown, shown)
  })
  await t.test('does not keep the log from closing', async (t) => {
    const { disk } = await full()
    await disk.close()
    await disk.advance(10_000)
    t.strictSame(disk.events, ['full'])
  })
})

void t.test('a disk too full for the next segment', async (t) => {
  const full = async () => {
    const disk = await Disk.open({ segmentBytes: 4000, fullRetryMs: 500 })
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    writer.batch(1, 5000)
    await disk.advance(commitMs - 1)
    const { env } = disk.process
    const open = env.store.open.bind(env.store)
    env.store.open = () => Promise.reject(new MqError('DISK_FULL', 'no room for a segment'))
    await disk.advance(100)
    const makeRoom = () => (env.store.open = open)
    return { disk, writer, makeRoom }
  }
  await t.test('is told, after what was committed', async (t) => {
    const { disk } = await full()
    t.strictSame(disk.events, ['durable 2', 'full'])
  })
  await t.test('has room again once the segment is made', async (t) => {
    const { disk, makeRoom } = await full()
    makeRoom()
    await disk.advance(2000)
    t.strictSame(disk.events, ['durable 2', 'full', 'room', 'rolled'])
    t.equal(disk.log.isFull, false)
  })
  await t.test('keeps what comes meanwhile for the next segment', async (t) => {
    const { disk, writer, makeRoom } = await full()
    writer.batch(1)
    await disk.advance(2000)
    makeRoom()
    await disk.flushed()
    await disk.close()
    t.strictSame((await recordsOf(disk.store)).at(-1), '2 2')
  })
})

void t.test('back pressure', async (t) => {
  const small = { queuedBytesMax: 10_000, commitBytesMax: 2000 }
  await t.test('begins above the bound', async (t) => {
    const disk = await Disk.open(small)
    const writer = disk.partition()
    await disk.flushed()
    writer.batch(1, 9000)
    t.equal(disk.log.backlogged, false)
    writer.batch(1, 1000)
    t.equal(disk.log.backlogged, true)
  })
  await t.test('counts what is being committed', async (t) => {
    const disk = await Disk.open({ queuedBytesMax: 10_000 })
    const writer = disk.partition()
    writer.batch(1, 11_000)
    await disk.advance(1)
    t.equal(disk.log.backlogged, true)
  })
  await t.test('ends at half of it, told once', async (t) => {
    const disk = await Disk.open(small)
    const writer = disk.partition()
    await disk.flushed()
    disk.events.length = 0
    for (let i = 0; i < 11; i++) writer.batch(1, 1000)
    await disk.flushed()
    t.strictSame(
      disk.events.filter((event) => event === 'relieved'),
      ['relieved'],
    )
    t.equal(disk.log.backlogged, false)
  })
  await t.test('that never began never ends', async (t) => {
    const disk = await Disk.open(small)
    const writer = disk.partition()
    writer.batch(1, 1000)
    await disk.flushed()
    t.notOk(disk.events.includes('relieved'))
  })
})

void t.test('waiting for the disk', async (t) => {
  await t.test('is over at once when nothing was appended', async (t) => {
    const disk = await Disk.open()
    await disk.log.flushed()
    t.pass('flushed')
  })
  await t.test('is over once what was appended before is on it, though more keeps coming', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(1)
    let flushedAt = -1
    void disk.log.flushed().then(() => (flushedAt = writer.log.durableEnd))
    for (let i = 0; i < 30; i++) {
      writer.batch(1)
      await disk.advance(commitMs / 2)
    }
    t.ok(flushedAt >= 2 && flushedAt <= 3, `flushed when ${flushedAt} was durable`)
  })
  await t.test('waits for a checkpoint, too', async (t) => {
    const disk = await Disk.open()
    const writer = disk.partition()
    await disk.flushed()
    writer.checkpoint()
    await disk.flushed()
    await disk.close()
    t.strictSame(await recordsOf(disk.store), ['1 checkpoint', '1 0'])
  })
})

void t.test('closing during a commit', async (t) => {
  const closing = async () => {
    const disk = await Disk.open()
    const writer = disk.partition()
    writer.batch(1)
    await disk.advance(1)
    await disk.close()
    await disk.advance(1000)
    return { disk, writer }
  }
  await t.test('tells nothing more', async (t) => {
    t.strictSame((await closing()).disk.events, [])
  })
  await t.test('lets it end', async (t) => {
    const { disk, writer } = await closing()
    const again = await Disk.open({}, disk.store)
    t.equal(again.partition().shown, writer.shown)
  })
})

void t.test('closing while the next segment is made', async (t) => {
  const disk = await Disk.open({ segmentBytes: 2000 })
  const writer = disk.partition()
  await disk.flushed()
  writer.batch(1, 3000)
  await disk.advance(commitMs + 1)
  await disk.close()
  const again = await Disk.open({}, disk.store)
  t.equal(again.partition().shown, writer.shown, 'loses nothing and leaves no segment open')
})

void t.test('closing twice is closing once', async (t) => {
  const disk = await Disk.open()
  await disk.close()
  await disk.world.complete(disk.log.close())
  t.pass('closed')
})

void t.test('whatever a crash leaves can be read', async (t) => {
  // Crashes at any moment of a busy minute, each with its own fate of what was on its way.
  const wrong: string[] = []
  for (let seed = 0; seed < 40; seed++) {
    const disk = await Disk.open({ segmentBytes: 4000 })
    const writer = disk.partition()
    for (let i = 0; i < 10 + seed; i++) {
      const base = writer.batch((i % 3) + 1, (i * 331) % 5000)
      if (i % 4 === 3) writer.settle(base, 1)
      if (i % 7 === 6) writer.checkpoint()
      await disk.advance((seed * 7 + i * 3) % 12)
    }
    const told = writer.log.durableEnd
    await disk.crash()
    const again = disk.partition()
    if (again.state.logEnd < told) wrong.push(`${seed}: ${told} was told, ${again.state.logEnd} is there`)
    if (again.state.logEnd > writer.state.logEnd) wrong.push(`${seed}: more than was written`)
    again.batch(1)
    await disk.flushed()
  }
  t.strictSame(wrong, [])
})

void t.test('with a journal', async (t) => {
  const small = { journalBytes: 65_536, journaledBytesMax: 2000, segmentBytes: 20_000 }
  /** With eight batches that the journal has, and a next segment that was made ahead of time. */
  const filled = async () => {
    const disk = await Disk.open(small)
    const writer = disk.partition()
    for (let i = 0; i < 8; i++) {
      writer.batch(1, 1500)
      await disk.flushed()
    }
    await disk.advance(100)
    return { disk, writer, segments: disk.store.attach().links.segments }
  }
  await t.test('small groups are not in the segment yet, and can be read', async (t) => {
    const { disk, writer, segments } = await filled()
    t.strictSame(segments.get('00000001')!.keys, [])
    t.equal(writer.log.read(1).base, 1)
    t.equal(writer.log.read(8).base, 8)
    await disk.crash()
    t.equal(disk.partition().shown, writer.shown)
  })
  await t.test('of a segment whose successor was made ahead of time', async (t) => {
    const { disk, writer, segments } = await filled()
    t.strictSame([...segments.keys()], ['00000001', '00000002'])
    await disk.crash()
    t.equal(disk.log.currentSegment, '00000001', 'it goes on there')
    const again = disk.partition()
    t.equal(again.shown, writer.shown)
    for (let i = 0; i < 8; i++) {
      again.batch(1, 1500)
      await disk.flushed()
    }
    t.equal(disk.log.currentSegment, '00000002', 'and then in the one that was made')
    t.ok(segments.get('00000001')!.keys.length > 8, 'to which nothing of the one before is missing')
    await disk.crash()
    t.equal(disk.partition().shown, again.shown)
  })
  await t.test('of a segment that is damaged it is in the next', async (t) => {
    for (const isAhead of [true, false]) {
      const { disk, writer, segments } = await filled()
      writer.batch(1, 3000)
      await disk.flushed()
      for (let i = 0; i < 3; i++) writer.settle(1 + i, 1)
      await disk.flushed()
      if (!isAhead) segments.delete('00000002')
      disk.store.damage('00000001', 'x', 'y')
      await disk.crash()
      t.equal(disk.log.currentSegment, '00000002')
      const again = disk.partition()
      t.equal(again.shown, writer.shown)
      again.batch(1)
      await disk.flushed()
      await disk.crash()
      t.equal(disk.partition().shown, again.shown)
    }
  })
  await t.test('of a segment that is damaged, and a crash before anything else was written', async (t) => {
    const { disk, writer } = await filled()
    disk.store.damage('00000001', 'x', 'y')
    await disk.crash()
    await disk.crash()
    t.equal(disk.log.currentSegment, '00000002')
    const again = disk.partition()
    t.equal(again.shown, writer.shown)
    again.batch(1)
    await disk.flushed()
    await disk.crash()
    t.equal(disk.partition().shown, again.shown)
  })
  await t.test('a stop leaves nothing in it', async (t) => {
    const { disk, writer, segments } = await filled()
    await disk.world.complete(disk.log.emptyJournal())
    t.equal(segments.get('00000001')!.keys.filter((key) => key.startsWith('L')).length, 8)
    await disk.close()
    await disk.open()
    t.equal(disk.partition().shown, writer.shown)
  })
  await t.test('on a full disk a stop leaves it there', async (t) => {
    const { disk, writer, segments } = await filled()
    disk.store.nextCommit = 'disk-full'
    await disk.world.complete(disk.log.emptyJournal())
    t.strictSame(segments.get('00000001')!.keys, [])
    await disk.close()
    await disk.open()
    t.equal(disk.partition().shown, writer.shown)
  })
  await t.test('that was there when all segments were removed is another one', async (t) => {
    const { disk, segments } = await filled()
    segments.clear()
    await disk.crash()
    const writer = disk.partition()
    t.equal(writer.entriesRead, 0)
    writer.batch(1)
    await disk.flushed()
    await disk.crash()
    t.equal(disk.partition().shown, writer.shown)
  })
  await t.test('what moves fails, or never ends, and nobody waits for it', async (t) => {
    for (const fate of ['storage-failed', 'stuck'] as const) {
      const disk = await Disk.open({ ...small, journalBytes: 20_480 })
      const writer = disk.partition()
      for (let i = 0; i < 2; i++) {
        writer.batch(1, 1500)
        await disk.flushed()
      }
      // The next one turns to the other half.
      t.equal(disk.store.attach().links.segments.get('00000001')!.keys.length, 0)
      writer.batch(1, 1500)
      disk.store.nextCommit = fate
      await disk.advance(120_000)
      t.ok(disk.events.includes('failed STORAGE_FAILED'), disk.events.join())
    }
  })
  await t.test('nothing is left in it alone when nothing more comes', async (t) => {
    const { disk, writer, segments } = await filled()
    await disk.advance(1000)
    t.equal(segments.get('00000001')!.keys.filter((key) => key.startsWith('L')).length, 8)
    const { journal } = disk.store.attach().links
    journal.bytes!.fill(0, 4096)
    await disk.crash()
    t.equal(disk.partition().shown, writer.shown)
    disk.partition().batch(1)
    await disk.flushed()
    await disk.crash()
    const { shown } = disk.partition()
    await disk.advance(2000)
    journal.bytes!.fill(0, 4096)
    await disk.crash()
    t.equal(disk.partition().shown, shown, 'nor after a start')
  })
  await t.test('without room for one the log does without', async (t) => {
    const store = new SimStore()
    store.full = true
    store.releasedBytes = 1e6
    const none = await Disk.open({ ...small, journalBytes: 0 }, store)
    none.partition().batch(1)
    await none.flushed()
    t.not(store.attach().links.segments.get('00000001')!.keys.length, 0)
    t.equal(store.attach().links.journal.bytes, null)
    store.releasedBytes = 0
    none.process.crash()
    const disk = await Disk.open(small, store)
    t.equal(store.attach().links.journal.bytes, null)
    store.full = false
    disk.partition().batch(1)
    await disk.flushed()
    await disk.crash()
    t.not(store.attach().links.journal.bytes, null, 'and the next start makes one')
  })
  await t.test('that has rotted in the middle: the start says so', async (t) => {
    const { disk } = await filled()
    const { journal } = disk.store.attach().links
    journal.bytes![2 * 4096 + 100]! ^= 1
    await t.rejects(disk.crash(), { code: 'CORRUPT_LOG', message: /JOURNAL/ })
  })
})

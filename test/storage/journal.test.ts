/** The journal by itself, on a file in memory; a segment with one, on the simulated disk, against a plain map. */
import t from 'tap'
import type { JournalFile, Put, Segment, Store } from '../../src/env.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { SimStore } from '../../src/sim/store.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import { Journal } from '../../src/storage/journal.ts'
import { JournaledSegment } from '../../src/storage/journaled-segment.ts'

const blockBytes = 4096
const name = '00000001'

const put = (key: string, value: string): Put => ({ key: Buffer.from(key), value: Buffer.from(value) })
const shown = (puts: Iterable<Put>) =>
  [...puts].map(({ key, value }) => `${Buffer.from(key).toString()}=${Buffer.from(value).toString()}`)

class MemoryFile implements JournalFile {
  bytes: Buffer

  /** @param blocks for records */
  constructor(blocks: number | Buffer) {
    this.bytes =
      typeof blocks === 'number'
        ? Buffer.from(Journal.initial((blocks + 1) * blockBytes, Buffer.from('an id ..')))
        : blocks
  }

  read = async () => new Uint8Array(this.bytes)
  close = async () => undefined

  async write(at: number, bytes: Uint8Array): Promise<void> {
    this.bytes.set(bytes, at)
  }
}

const recovered = async (bytes: Buffer, applied = 0, segment = name) =>
  (await Journal.open(new MemoryFile(bytes), 1 << 16)).recover(segment, applied)
const numbers = (records: readonly { number: number }[]) => records.map(({ number }) => number)

/** With records 1 to `count`, each of as many blocks as it says. */
async function filled(count: number, blocks = 1): Promise<MemoryFile> {
  const file = new MemoryFile(16)
  const journal = await Journal.open(file, 1 << 16)
  for (let i = 1; i <= count; i++) {
    const puts = [put(`k${i}`, `v${i} `.padEnd((blocks - 1) * blockBytes + 10, 'x')), put('same', `${i}`)]
    if (!journal.hasRoom(puts)) journal.turn()
    await journal.append(name, i, puts)
  }
  return file
}

void t.test('what was appended is there again, in order', async (t) => {
  const file = await filled(3)
  const journal = await Journal.open(file, 1 << 16)
  t.equal(journal.segment, name)
  const records = journal.recover(name, 0)
  t.strictSame(numbers(records), [1, 2, 3])
  t.strictSame(shown(records[1]!.puts), ['k2=v2 xxxxxxx', 'same=2'])
  await journal.append(name, 4, [put('k4', 'v4')])
  t.strictSame(numbers(await recovered(file.bytes)), [1, 2, 3, 4], 'and it goes on behind it')
  t.strictSame(numbers(await recovered(file.bytes, 3)), [4], 'above the number that the segment names')
  t.strictSame(numbers(await recovered(file.bytes, 4)), [])
  t.strictSame(numbers(await recovered(file.bytes, 0, '00000002')), [], 'of that segment')
})

void t.test('an empty one has nothing', async (t) => {
  const journal = await Journal.open(new MemoryFile(8), 1 << 16)
  t.equal(journal.segment, null)
  t.strictSame(journal.recover(name, 7), [])
})

void t.test('a write that was cut anywhere leaves what was there before, or all', async (t) => {
  for (const blocks of [1, 2]) {
    const before = (await filled(2, blocks)).bytes
    const after = (await filled(3, blocks)).bytes
    const start = (1 + 2 * blocks) * blockBytes
    const recordEnd = after.subarray(0, start + blocks * blockBytes).findLastIndex((byte) => byte !== 0) + 1
    let whole = 0
    for (let cut = start; cut <= recordEnd; cut++) {
      const torn = Buffer.concat([after.subarray(0, cut), before.subarray(cut)])
      const found = numbers(await recovered(torn))
      if (found.length === 3) whole++
      else t.strictSame(found, [1, 2])
    }
    t.equal(whole, 1)
  }
})

void t.test('a bit of a record', async (t) => {
  const { bytes } = await filled(3)
  const recordBytes = bytes.subarray(blockBytes, 2 * blockBytes).findLastIndex((byte) => byte !== 0) + 1
  for (let record = 0; record < 3; record++) {
    for (let at = 0; at < recordBytes; at++) {
      const rotten = Buffer.from(bytes)
      rotten[(record + 1) * blockBytes + at]! ^= 1 << (at % 8)
      if (record < 2) await t.rejects(recovered(rotten), { code: 'CORRUPT_LOG' }, 'later ones are there')
      else t.strictSame(numbers(await recovered(rotten)), [1, 2], 'as of a write that was cut')
    }
  }
})

void t.test('both halves', async (t) => {
  await t.test('are read in the order of their records', async (t) => {
    t.strictSame(numbers(await recovered((await filled(12)).bytes)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  })
  await t.test('what was written over counts no more', async (t) => {
    // Eight a half: 17 to 19 stand over 1 to 3.
    const { bytes } = await filled(19)
    t.strictSame(numbers(await recovered(bytes, 8)), [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])
    t.strictSame(numbers(await recovered(bytes, 16)), [17, 18, 19])
    await t.rejects(recovered(bytes, 2), { code: 'CORRUPT_LOG' }, 'where it is missed')
  })
  await t.test('a half that turns to records of another segment', async (t) => {
    const file = await filled(12)
    const journal = await Journal.open(file, 1 << 16)
    journal.recover(name, 12)
    journal.clear()
    await journal.append('00000002', 1, [put('a', 'b')])
    t.equal((await Journal.open(file, 1)).segment, '00000002')
    t.strictSame(numbers(await recovered(file.bytes, 0, '00000002')), [1])
    t.strictSame(numbers(await recovered(file.bytes, 12)), [], 'of the one before nothing is missed')
  })
})

void t.test('what it takes', async (t) => {
  const journal = await Journal.open(new MemoryFile(4), 6000)
  t.ok(journal.takes([put('k', 'x'.repeat(5900))]))
  t.notOk(journal.takes([put('k', 'x'.repeat(6000))]), 'no more than it was told')
  const small = await Journal.open(new MemoryFile(2), 6000)
  t.notOk(small.takes([put('k', 'x'.repeat(5900))]), 'nor than half of it')
  t.notOk((await Journal.open(new MemoryFile(1), 0)).takes([put('k', '')]))
  await journal.append(name, 1, [put('k', 'x'.repeat(5000))])
  t.notOk(journal.hasRoom([put('k', '')]))
  journal.turn()
  t.ok(journal.hasRoom([put('k', '')]))
})

void t.test('another id, and nothing that it has counts', async (t) => {
  const file = await filled(3)
  const journal = await Journal.open(file, 1 << 16)
  await journal.renew(Buffer.from('another '))
  t.equal(journal.segment, null)
  t.strictSame(await recovered(file.bytes), [])
  await journal.append(name, 1, [put('k', 'v')])
  t.strictSame(numbers(await recovered(file.bytes)), [1])
})

void t.test('a header that does not verify is no journal', async (t) => {
  const { bytes } = await filled(1)
  for (let at = 0; at < 20; at++) {
    const rotten = Buffer.from(bytes)
    rotten[at]! ^= 1
    await t.rejects(recovered(rotten), { code: 'CORRUPT_LOG' })
  }
  for (const length of [0, 1, blockBytes - 1])
    await t.rejects(recovered(bytes.subarray(0, length)), { code: 'CORRUPT_LOG' })
  await t.rejects(recovered(Buffer.alloc(8 * blockBytes)), { code: 'CORRUPT_LOG' })
})

void t.test('what clients send is no record, whatever it looks like', async (t) => {
  // The same record as it would be in a file of another id: that is not known to them.
  const other = new MemoryFile(4)
  other.bytes.set(Journal.initial(blockBytes, Buffer.from('guessed.')))
  const forging = await Journal.open(other, 1 << 16)
  await forging.append(name, 1_000_000, [put('k', 'forged')])
  const forged = other.bytes.subarray(blockBytes, 2 * blockBytes)
  const file = new MemoryFile(8)
  const journal = await Journal.open(file, 1 << 16)
  const key = Buffer.from('k')
  // So that a block of the record begins with it.
  const value = Buffer.concat([Buffer.alloc(blockBytes - 36 - 5 - 1), forged])
  await journal.append(name, 1, [{ key, value }])
  t.ok(file.bytes.subarray(2 * blockBytes, 3 * blockBytes).equals(forged))
  t.strictSame(numbers(await recovered(file.bytes)), [1])
})

void t.test('garbage is nothing, and harms nothing', async (t) => {
  const random = new SeededRandom(1)
  const { bytes } = await filled(3)
  for (let round = 0; round < 300; round++) {
    const garbage = Buffer.concat([bytes.subarray(0, blockBytes), random.bytes(8 * blockBytes)])
    // Sometimes behind what is right.
    if (round % 2 === 0) bytes.copy(garbage, blockBytes, blockBytes, blockBytes + random.int(60))
    t.strictSame(await recovered(garbage), [])
  }
})

/** A segment on a simulated disk, and what must be in it. */
class Stage {
  readonly world: SimWorld
  readonly disk = new SimStore()
  readonly groupBytesMax: number
  process: SimProcess
  store!: Store
  segment!: Segment
  journal!: Journal
  journaled!: JournaledSegment
  readonly model = new Map<string, string>()

  constructor(seed: number, groupBytesMax: number) {
    this.groupBytesMax = groupBytesMax
    this.world = new SimWorld({ seed, faults: { diskLatencyMs: [0.1, 3] } })
    this.process = this.world.process('broker', this.disk)
  }

  async open(create: boolean): Promise<this> {
    const { world } = this
    this.store = this.process.env.store
    await world.complete(this.store.lock())
    const file = await world.complete(
      this.store.journal(Journal.initial(9 * blockBytes, Buffer.from('an id ..'))),
    )
    this.journal = await world.complete(Journal.open(file!, this.groupBytesMax))
    this.segment = await world.complete(this.store.open(name, { create }))
    this.journaled = create
      ? JournaledSegment.fresh(this.segment, this.journal)
      : JournaledSegment.recover(this.segment, this.journal)
    return this
  }

  async crash(): Promise<void> {
    this.process.crash()
    this.process = this.world.process('broker', this.disk)
    await this.open(false)
  }

  async commit(puts: readonly Put[]): Promise<void> {
    await this.world.complete(this.journaled.commit(puts))
    this.apply(puts)
  }

  apply(puts: readonly Put[]): void {
    for (const { key, value } of puts)
      this.model.set(Buffer.from(key).toString(), Buffer.from(value).toString())
  }

  get sorted(): Put[] {
    const entries = [...this.model].sort(([a], [b]) => (a < b ? -1 : 1))
    return entries.map(([key, value]) => put(key, value))
  }

  get scanned(): Put[] {
    const found: Put[] = []
    // The mark is below.
    this.journaled.scan(Buffer.from('a'), Buffer.from('z'), (key, value) => {
      found.push({ key: Buffer.from(key), value: Buffer.from(value) })
      return true
    })
    return found
  }
}

function randomPuts(random: SeededRandom): Put[] {
  return Array.from({ length: random.int(4) + 1 }, () => {
    const length = random.chance(0.1) ? random.int(9000) : random.int(300)
    return put(`k${random.int(200)}`, `${random.int(1e9)} `.padEnd(length, 'x'))
  })
}

void t.test('reads are those of a plain map, whatever has moved by then', async (t) => {
  const random = new SeededRandom(3)
  const stage = await new Stage(3, 5000).open(true)
  for (let round = 0; round < 400; round++) {
    await stage.commit(randomPuts(random))
    if (random.chance(0.02)) await stage.world.complete(stage.journaled.flush())
    const { sorted, journaled } = stage
    const from = `k${random.int(200)}`
    const to = `k${random.int(200)}`
    const expected = sorted.filter(({ key }) => from <= key.toString() && key.toString() < to).slice(0, 5)
    const found: Put[] = []
    journaled.scan(Buffer.from(from), Buffer.from(to), (key, value) => {
      found.push({ key: Buffer.from(key), value: Buffer.from(value) })
      return found.length < 5
    })
    t.strictSame(shown(found), shown(expected))
    const floor = journaled.floor(Buffer.from(from))
    t.strictSame(
      floor && Buffer.from(floor.key).toString('latin1').startsWith('k') ? shown([floor]) : [],
      shown(sorted.filter(({ key }) => key.toString() <= from).slice(-1)),
    )
    const got = journaled.get(Buffer.from(from))
    t.equal(got && Buffer.from(got).toString(), stage.model.get(from))
  }
  t.ok(stage.segment.get(Buffer.from('J')), 'some of it has moved')
})

void t.test('crashes at any moment lose nothing that was confirmed', async (t) => {
  const random = new SeededRandom(4)
  for (let run = 0; run < 60; run++) {
    const stage = await new Stage(100 + run, random.pick([300, 5000, 16_000])).open(true)
    for (let life = 0; life < 4; life++) {
      for (let i = random.int(60); i > 0; i--) await stage.commit(randomPuts(random))
      // One on its way, which may be there afterwards or not; as a whole.
      const last = randomPuts(random)
      void stage.journaled.commit(last).catch(() => undefined)
      await stage.world.advance(random.unit() * 3)
      const without = shown(stage.sorted)
      await stage.crash()
      const found = shown(stage.scanned)
      if (found.join() !== without.join()) {
        stage.apply(last)
        t.strictSame(found, shown(stage.sorted))
      } else t.pass('without the last')
    }
  }
})

void t.test('a disk that is full while half of it moves', async (t) => {
  const stage = await new Stage(5, 5000).open(true)
  const group = (i: number) => [put(`k${String(i).padStart(3, '0')}`, 'x'.repeat(1000))]
  for (let i = 0; i < 4; i++) await stage.commit(group(i))
  // The first group of the other half begins to move it.
  const commit = stage.segment.commit.bind(stage.segment)
  stage.segment.commit = (puts) => {
    stage.disk.nextCommit = 'disk-full'
    return commit(puts)
  }
  for (let i = 4; i < 8; i++) await stage.commit(group(i))
  await t.rejects(stage.world.complete(stage.journaled.commit(group(8))), { code: 'DISK_FULL' })
  await t.rejects(stage.world.complete(stage.journaled.commit(group(8))), { code: 'DISK_FULL' }, 'again')
  t.strictSame(shown(stage.scanned), shown(stage.sorted), 'all is there')
  stage.segment.commit = commit
  await stage.commit(group(8))
  t.strictSame(shown(stage.scanned), shown(stage.sorted))
  await stage.crash()
  t.strictSame(shown(stage.scanned), shown(stage.sorted))
})

void t.test('a failure while half of it moves is told', async (t) => {
  const stage = await new Stage(6, 5000).open(true)
  const group = (i: number) => [put(`k${i}`, 'x'.repeat(1000))]
  for (let i = 0; i < 4; i++) await stage.commit(group(i))
  const commit = stage.segment.commit.bind(stage.segment)
  stage.segment.commit = (puts) => {
    stage.disk.nextCommit = 'storage-failed'
    return commit(puts)
  }
  const failed: unknown[] = []
  stage.journaled.onMove = (move) => void move.catch((error: unknown) => failed.push(error))
  await stage.commit(group(4))
  await stage.world.advance(1000)
  t.match(failed, [{ code: 'STORAGE_FAILED' }])
  await stage.crash()
  t.strictSame(shown(stage.scanned), shown(stage.sorted), 'and nothing is lost')
})

void t.test('what a segment says of the journal', async (t) => {
  const stage = await new Stage(7, 5000).open(true)
  for (let i = 0; i < 3; i++) await stage.commit([put(`k${i}`, `${i}`)])
  await stage.world.complete(stage.journaled.flush())
  for (let i = 3; i < 6; i++) await stage.commit([put(`k${i}`, `${i}`)])
  const { keys, values } = stage.disk.attach().links.segments.get(name)!
  const mark = values[keys.indexOf('J')]!
  await t.test('may have rotted in one of its copies', async (t) => {
    for (const at of [2, 14]) {
      mark[at]! ^= 1
      await stage.crash()
      t.strictSame(shown(stage.scanned), shown(stage.sorted))
      mark[at]! ^= 1
    }
  })
  await t.test('is missed when both have', async (t) => {
    mark[2]! ^= 1
    mark[14]! ^= 1
    await t.rejects(stage.crash(), { code: 'CORRUPT_LOG' })
  })
})

void t.test('a group that failed, and another in its place', async (t) => {
  const stage = await new Stage(8, 5000).open(true)
  for (let i = 0; i < 3; i++) await stage.commit([put(`k${i}`, 'x'.repeat(1000))])
  const refused = async (puts: readonly Put[]) => {
    stage.disk.nextCommit = 'disk-full'
    await t.rejects(stage.world.complete(stage.journaled.commit(puts)), { code: 'DISK_FULL' })
  }
  await refused([put('small', 'refused')])
  // It has no room in that half.
  await refused([put('large', 'x'.repeat(4900))])
  await refused([put('large', 'x'.repeat(4900))])
  await stage.commit([put('large', 'x'.repeat(4900))])
  await stage.crash()
  t.strictSame(shown(stage.scanned), shown(stage.sorted))
})

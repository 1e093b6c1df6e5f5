import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { crc32 } from 'node:zlib'
import t from 'tap'
import { buffers } from '../../src/buffers.ts'
import { chainStart } from '../../src/partition/chain.ts'
import {
  decodeEntry,
  encodeEntry,
  entryKind,
  headerBytes,
  logName,
  parseEntry,
  peekEntry,
  type EntryKind,
} from '../../src/partition/entry.ts'
import { EntryCache, ownCopy, PartitionEntries } from '../../src/storage/entry-cache.ts'
import { SeededRandom } from '../../src/sim/random.ts'

const orders = logName('aa'.repeat(16), 0)
const overheadBytes = 256
let nowMs = 0
const clock = { monotonicMs: () => nowMs }

/** An entry of `count` messages in `bytes` bytes; `headroom` is memory that lies before it, and as much behind. */
function entry(base: number, count: number, bytes = 1000, kind: EntryKind = 'batch', headroom = 96): Buffer {
  const memory = Buffer.alloc(2 * headroom + bytes - headerBytes, base % 251)
  const payload = memory.subarray(headroom, headroom + bytes - headerBytes)
  const header = {
    kind,
    count,
    base,
    epoch: 1,
    timeMs: 5,
    producerId: 'p'.repeat(16),
    producerEpoch: 0,
    sequence: base,
    opening: 0,
    notBeforeMs: 0,
    ownDelays: false,
    isForwarded: false,
  }
  return encodeEntry(orders, header, payload, crc32(payload), chainStart, headroom)
}

/** A partition whose entries of `count` messages each, from offset 0 up, are committed. */
function filled(cache: EntryCache, entries: number, count = 10, bytes = 1000): PartitionEntries {
  const partition = new PartitionEntries(cache, orders)
  for (let i = 0; i < entries; i++)
    partition.committed(entry(i * count, count, bytes), i * count, (i + 1) * count)
  return partition
}

void t.test('what was committed', async (t) => {
  await t.test('is found by any of its offsets', async (t) => {
    const partition = filled(new EntryCache(1 << 20, clock), 20)
    const wrong: number[] = []
    for (let offset = 0; offset < 200; offset++)
      if (partition.find(offset)?.base !== offset - (offset % 10)) wrong.push(offset)
    t.strictSame(wrong, [])
  })
  await t.test('is as it was written', async (t) => {
    const partition = filled(new EntryCache(1 << 20, clock), 3)
    const found = partition.find(10)!
    t.match(found, { kind: 'batch', base: 10, count: 10, epoch: 1, timeMs: 5, sequence: 10 })
    t.strictSame(found.bytes, entry(10, 10))
    t.equal(found.payloadCrc, crc32(found.payload))
  })
  await t.test('is not found beyond the last, nor before the first', async (t) => {
    const partition = new PartitionEntries(new EntryCache(1 << 20, clock), orders)
    t.equal(partition.find(0), null)
    partition.committed(entry(5, 2), 5, 7)
    t.strictSame([partition.find(4), partition.find(7)], [null, null])
  })
  await t.test('is kept if it holds messages', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = new PartitionEntries(cache, orders)
    partition.committed(entry(0, 1, 1000, 'settle'), 0, 1)
    partition.committed(entry(1, 2), 1, 3)
    t.strictSame([partition.find(0), partition.find(2)?.base], [null, 1])
    t.equal(cache.bytes, 1000 + overheadBytes)
  })
  await t.test('is not mixed with what another partition has at that offset', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const [first, second] = [filled(cache, 1, 10), filled(cache, 1, 3)]
    t.strictSame([first.find(2)?.count, second.find(2)?.count], [10, 3])
  })
})

void t.test('a reader', async (t) => {
  const costBytes = 1000 + overheadBytes
  await t.test('that goes on leaves nothing behind', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = filled(cache, 20)
    partition.find(155)
    t.equal(cache.bytes, 5 * costBytes)
    t.equal(partition.find(145), null)
    t.equal(partition.find(151)?.base, 150, 'but what it may not have finished')
  })
  await t.test('that asks for what was never kept loses nothing', async (t) => {
    const partition = filled(new EntryCache(1 << 20, clock), 20)
    t.equal(partition.find(200), null)
    t.equal(partition.find(0)?.base, 0)
  })
  await t.test('that has fallen behind is not kept anything for', async (t) => {
    const cache = new EntryCache(4 * costBytes, clock)
    const partition = filled(cache, 4)
    t.equal(cache.bytes, 4 * costBytes)
    partition.committed(entry(40, 10), 40, 50)
    t.equal(cache.bytes, 0, 'nor what there would be room for')
    partition.committed(entry(50, 10), 50, 60)
    t.strictSame([partition.find(35), partition.find(45), partition.find(55)], [null, null, null])
    t.equal(cache.bytes, 0)
  })
  await t.test('that has caught up is kept everything for', async (t) => {
    const cache = new EntryCache(4 * costBytes, clock)
    const partition = filled(cache, 20)
    const last = entry(190, 10)
    partition.read(decodeEntry(orders, last, 0))
    partition.committed(entry(200, 10), 200, 210)
    t.equal(partition.find(205)?.base, 200)
  })
})

void t.test('what was read from the store', async (t) => {
  await t.test('is found again', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = filled(cache, 1)
    const read = filled(new EntryCache(1 << 20, clock), 8).find(70)!
    t.equal(partition.find(75), null)
    partition.read(read)
    t.equal(partition.find(75)?.base, 70)
    t.equal(partition.find(5)?.base, 0, 'beside what was committed')
  })
  await t.test('is there until another one is', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = new PartitionEntries(cache, orders)
    const source = filled(new EntryCache(1 << 20, clock), 8)
    for (const offset of [0, 10, 20]) partition.read(source.find(offset)!)
    t.strictSame([partition.find(5), partition.find(15), partition.find(25)?.base], [null, null, 20])
    t.equal(cache.bytes, 1000 + overheadBytes)
  })

  /** Four entries of ten messages, as one record. */
  const record = (): Buffer => ownCopy(Buffer.concat([0, 10, 20, 30].map((base) => entry(base, 10))))
  /** Its first entry was asked for. */
  const readRecord = (cache: EntryCache, bytes = record()): PartitionEntries => {
    const partition = new PartitionEntries(cache, orders)
    const first = decodeEntry(orders, bytes, 0)
    partition.read(first, bytes.subarray(first.bytes.length))
    return partition
  }
  await t.test('is there with what its record has behind it, until that has been passed', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = readRecord(cache)
    t.equal(partition.find(5)?.base, 0)
    t.strictSame(partition.find(15)?.bytes, entry(10, 10))
    t.equal(partition.find(11)?.base, 10, 'more than once')
    t.equal(partition.find(35)?.base, 30, 'nor must each be asked for')
    t.strictSame([partition.find(25), partition.find(5), partition.find(40)], [null, null, null])
    t.strictSame([cache.hits, cache.misses], [4, 3])
    t.equal(cache.bytes, 4000 + overheadBytes, 'all of it is counted')
    partition.committed(entry(40, 10), 40, 50)
    t.equal(partition.find(45)?.base, 40)
    t.equal(readRecord(new EntryCache(3000, clock)).find(5), null, 'not kept where all of it has no room')
  })
  await t.test('is not believed of what was not verified', async (t) => {
    const crc = 1000
    const [length, count, base, payload] = [crc + 16, crc + 20, crc + 24, crc + 500]
    for (const at of [crc, length, count, count + 3, base, base + 7, payload]) {
      const bytes = record()
      bytes[at]! ^= 0x0a
      const partition = readRecord(new EntryCache(1 << 20, clock), bytes)
      t.equal(partition.find(15), null, `byte ${at}`)
      t.equal(partition.find(5)?.base, 0)
      if (at === crc || at === payload) t.equal(partition.find(25)?.base, 20, 'nor given up for it')
    }
  })
  await t.test('is told of when a newer version wrote it, once it is asked for', async (t) => {
    const newer = entry(10, 10)
    newer[12] = 99
    newer.writeUInt32BE((crc32(newer.subarray(12, headerBytes)) ^ orders.crc) >>> 0, 0)
    const bytes = ownCopy(Buffer.concat([entry(0, 10), newer, entry(20, 10)]))
    t.throws(() => readRecord(new EntryCache(1 << 20, clock), bytes).find(15), { code: 'NEWER_DATA_FORMAT' })
    t.equal(readRecord(new EntryCache(1 << 20, clock), bytes).find(25)?.base, 20)
  })
  await t.test('goes with its partition, and after ten seconds', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = readRecord(cache)
    nowMs += 10_000
    cache.dropLate()
    t.equal(partition.find(15), null)
    const closed = readRecord(cache)
    closed.close()
    t.equal(closed.find(15), null)
    t.strictSame([cache.bytes, closed.hasSpare(1)], [0, false])
  })
  await t.test('is found even where it cannot be kept', async (t) => {
    const cache = new EntryCache(2 * (4000 + overheadBytes), clock)
    const partition = readRecord(cache)
    t.notOk(partition.hasSpare(4000), 'half of the memory is for what was just committed')
    filled(cache, 3)
    t.equal(partition.find(15)?.base, 10)
  })
})

void t.test('past its bound', async (t) => {
  await t.test('all of the partition that has the oldest goes first', async (t) => {
    const cache = new EntryCache(4 * (1000 + overheadBytes), clock)
    const first = filled(cache, 2)
    const second = filled(cache, 3)
    t.strictSame([first.find(0), first.find(10)], [null, null])
    t.strictSame([second.find(0)?.base, second.find(20)?.base], [0, 20])
    first.committed(entry(20, 10), 20, 30)
    t.equal(first.find(20), null, 'nothing is kept for its reader until that has caught up')
  })
  await t.test('so does what was read', async (t) => {
    const cache = new EntryCache(2 * (1000 + overheadBytes), clock)
    const partition = new PartitionEntries(cache, orders)
    partition.read(filled(new EntryCache(1 << 20, clock), 1).find(0)!)
    filled(cache, 2)
    t.equal(partition.find(0), null)
    t.doesNotThrow(() => partition.read(filled(new EntryCache(1 << 20, clock), 1).find(0)!))
  })
  await t.test('an entry larger than it is not kept, and drives nothing out', async (t) => {
    const cache = new EntryCache(3000, clock)
    const partition = filled(cache, 1)
    partition.committed(entry(10, 1, 5000), 10, 11)
    t.strictSame([partition.find(0)?.base, partition.find(10)], [0, null])
  })
  await t.test('without room nothing is kept', async (t) => {
    const cache = new EntryCache(0, clock)
    t.equal(filled(cache, 3).find(0), null)
    t.equal(cache.bytes, 0)
  })
})

void t.test(
  'what has waited for ten seconds goes, with all that is behind it in its partition',
  async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const late = filled(cache, 2)
    nowMs += 5000
    late.committed(entry(20, 10), 20, 30)
    const [early, quiet] = [filled(cache, 2), filled(cache, 1)]
    nowMs += 4999
    early.committed(entry(20, 10), 20, 30)
    t.equal(cache.bytes, 7 * (1000 + overheadBytes))
    nowMs += 1
    early.committed(entry(30, 10), 30, 40)
    t.equal(cache.bytes, 5 * (1000 + overheadBytes))
    t.strictSame([late.find(5), late.find(25), early.find(35)?.base], [null, null, 30])
    await t.test('and nothing of it is kept until its reader has caught up', async (t) => {
      late.committed(entry(30, 10), 30, 40)
      t.equal(late.find(35), null)
      late.read(decodeEntry(orders, entry(30, 10), 0))
      late.committed(entry(40, 10), 40, 50)
      t.equal(late.find(45)?.base, 40)
    })
    await t.test('also while nothing is added', async (t) => {
      nowMs += 5000
      cache.dropLate()
      t.equal(quiet.find(5), null)
    })
  },
)

void t.test('memory', async (t) => {
  await t.test('that holds little else is kept as it is', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = new PartitionEntries(cache, orders)
    const bytes = entry(0, 1, 10_000)
    partition.committed(bytes, 0, 1)
    t.equal(partition.find(0)!.bytes.buffer, bytes.buffer)
    t.equal(cache.bytes, bytes.buffer.byteLength + overheadBytes, 'and counted whole')
  })
  await t.test('of which an entry is a small part is left', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const partition = new PartitionEntries(cache, orders)
    partition.committed(entry(0, 1, 10_000, 'batch', 30_000), 0, 1)
    t.equal(partition.find(0)!.bytes.buffer.byteLength, 10_000)
  })
  await t.test('of a small entry is its own: one that stays keeps nothing that was passed', async (t) => {
    const cache = new EntryCache(1 << 20, clock)
    const quiet = new PartitionEntries(cache, orders)
    const busy = new PartitionEntries(cache, orders)
    for (let i = 0; i < 100; i++) {
      quiet.committed(entry(i, 1, 200, 'batch', 60_000), i, i + 1)
      busy.committed(entry(i, 1, 200, 'batch', 60_000), i, i + 1)
      busy.find(i)
    }
    const kept = Array.from({ length: 100 }, (_, i) => quiet.find(99 - i)?.bytes.buffer.byteLength ?? 0)
    t.ok(kept.every((bytes) => bytes === 0 || bytes === 200))
    t.equal(quiet.find(99)!.bytes.buffer.byteLength, 200)
  })
})

void t.test('hits and misses are counted', async (t) => {
  const cache = new EntryCache(1 << 20, clock)
  const partition = filled(cache, 2)
  for (const offset of [0, 1, 15, 20, 99]) partition.find(offset)
  t.strictSame([cache.hits, cache.misses], [3, 2])
})

void t.test('whatever is committed, read and driven out, what is found is right', async (t) => {
  const random = new SeededRandom(7)
  const cache = new EntryCache(40_000, clock)
  const partitions = Array.from({ length: 3 }, () => new PartitionEntries(cache, orders))
  const ends = [0, 0, 0]
  const written: Buffer[][] = [[], [], []]
  let wrong = 0
  for (let step = 0; step < 20_000; step++) {
    const which = random.int(3)
    const partition = partitions[which]!
    const end = ends[which]!
    if (random.chance(0.4) || end === 0) {
      const count = 1 + random.int(5)
      const kind = random.chance(0.2) ? 'settle' : 'batch'
      const bytes = entry(end, count, 100 + random.int(3000), kind)
      written[which]!.push(bytes)
      partition.committed(bytes, end, end + count)
      ends[which] = end + count
    } else {
      const offset = random.chance(0.7) ? Math.max(0, end - 1 - random.int(60)) : random.int(end)
      const found = partition.find(offset)
      if (found === null) {
        // As whoever misses it does.
        const bytes = written[which]!.find((each) => covers(each, offset))
        if (bytes?.[13] === entryKind.batch) partition.read(decodeEntry(orders, bytes, 0))
        continue
      }
      const isRight =
        found.base <= offset &&
        found.base + found.count > offset &&
        written[which]!.some((bytes) => Buffer.compare(bytes, found.bytes) === 0)
      if (!isRight) wrong++
      if (random.chance(0.1)) partition.read(found)
    }
    if (cache.bytes > 40_000) wrong++
  }
  t.equal(wrong, 0)
  t.ok(cache.hits > 500 && cache.misses > 500, `${cache.hits} hits, ${cache.misses} misses`)
})

function covers(bytes: Buffer, offset: number): boolean {
  const { base, count } = peekEntry(bytes, 0)
  return offset >= base && offset < base + count
}

void t.test('of a partition that is closed nothing is kept, nor of what comes late', async (t) => {
  const cache = new EntryCache(1 << 20, clock)
  const [closed, other] = [filled(cache, 3), filled(cache, 2)]
  closed.find(5)
  closed.read(decodeEntry(orders, entry(90, 10), 0))
  closed.close()
  closed.committed(entry(30, 10), 30, 40)
  closed.read(decodeEntry(orders, entry(30, 10), 0))
  closed.committed(entry(40, 10), 40, 50)
  t.equal(cache.bytes, 2 * (1000 + overheadBytes))
  t.strictSame(
    [closed.find(5), closed.find(35), closed.find(95), other.find(15)?.base],
    [null, null, null, 10],
  )
})

void t.test('memory that was taken', async (t) => {
  /** An entry in memory that was taken. */
  const taken = (base: number, kind?: EntryKind): Buffer => {
    const bytes = buffers.take(10_000)
    bytes.set(entry(base, 10, 10_000, kind))
    return bytes
  }
  /** Whether it has been given back. */
  const isFree = (bytes: Buffer): boolean => {
    const again = buffers.take(10_000)
    if (again.buffer !== bytes.buffer) return false
    buffers.giveBack(again)
    return true
  }
  const cached = (bytesMax = 1 << 20) => new PartitionEntries(new EntryCache(bytesMax, clock), orders)

  await t.test('is given back at once of what is not kept', async (t) => {
    const settle = taken(0, 'settle')
    cached().committed(settle, 0, 10)
    t.ok(isFree(settle))
    const batch = taken(0)
    cached(5000).committed(batch, 0, 10)
    t.ok(isFree(batch))
  })
  await t.test('is given back of what was passed over or had to go, and nobody was given', async (t) => {
    const partition = cached()
    const entries = [taken(0), taken(10)]
    for (const [i, bytes] of entries.entries()) partition.committed(bytes, 10 * i, 10 * i + 10)
    t.notOk(isFree(entries[0]!))
    partition.find(10)
    t.ok(isFree(entries[0]!))

    const small = cached(25_000)
    const more = [taken(0), taken(10), taken(20)]
    for (const [i, bytes] of more.entries()) small.committed(bytes, 10 * i, 10 * i + 10)
    t.ok(isFree(more[2]!))
  })
  await t.test('is not given back of what somebody was given', async (t) => {
    const partition = cached()
    const [first, second] = [taken(0), taken(10)]
    partition.committed(first, 0, 10)
    partition.committed(second, 10, 20)
    partition.find(5)
    partition.find(15)
    partition.find(25)
    t.notOk(isFree(first))
    t.notOk(isFree(second))
    const read = taken(20)
    partition.read(parseEntry(read))
    partition.read(parseEntry(taken(30)))
    t.notOk(isFree(read))
  })
})

void t.test('the garbage collector keeps nothing for an entry that was old when it was passed', async (t) => {
  setFlagsFromString('--expose-gc')
  const collectYoung = runInNewContext('gc.bind(null, { type: "minor" })') as () => void
  const partition = filled(new EntryCache(64 << 20, clock), 1)
  // What has survived two of them is old.
  for (let i = 0; i < 3; i++) collectYoung()
  const before = process.memoryUsage().arrayBuffers
  const entries = 20
  for (let i = 1; i <= entries; i++) {
    partition.committed(entry(10 * i, 10, 1 << 20), 10 * i, 10 * i + 10)
    partition.find(10 * i)
  }
  t.ok(process.memoryUsage().arrayBuffers - before > (entries - 1) << 20)
  for (let i = 0; i < 3; i++) collectYoung()
  const kept = process.memoryUsage().arrayBuffers - before
  t.ok(kept < 4 << 20, `${kept} bytes are kept`)
})

/** Files that LMDB wrote, read without it: the same when they are sound, and an error where they are not. */
import { copyFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { Damage, Put, Segment } from '../../src/env.ts'
import { MqError } from '../../src/errors.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { PageFile } from '../../src/storage/lmdb-pages.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'

const lowest = new Uint8Array(0)
const highest = new Uint8Array(65).fill(0xff)
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const sameBytes = (a: Uint8Array | undefined, b: Uint8Array | undefined): boolean =>
  a === undefined || b === undefined ? a === b : Buffer.compare(a, b) === 0

interface Entry {
  key: Buffer
  value: Buffer
}

function entriesOf(reader: Pick<Segment, 'scan'>, from = lowest, to = highest): Entry[] {
  const entries: Entry[] = []
  reader.scan(from, to, (key, value) => {
    entries.push({ key: Buffer.from(key), value: Buffer.from(value) })
    return true
  })
  return entries
}

async function piecesOf(file: PageFile, bytesMax = 20_000): Promise<{ entries: Entry[]; damages: Damage[] }> {
  const entries: Entry[] = []
  const damages: Damage[] = []
  for await (const piece of file.pieces(bytesMax)) {
    for (const { key, value } of piece.entries)
      entries.push({ key: Buffer.from(key), value: Buffer.from(value) })
    damages.push(...piece.damages)
  }
  entries.sort((a, b) => Buffer.compare(a.key, b.key))
  return { entries, damages }
}

/** A segment's file after these commits, and what LMDB says stands in it. */
async function written(
  t: Test,
  commits: readonly (readonly Put[])[],
  looks?: (segment: Segment, path: string) => void,
): Promise<{ path: string; entries: Entry[] }> {
  const directory = join(t.testdir(), 'data')
  const store = openLmdbStore(directory)
  await store.lock()
  const segment = await store.open('a', { create: true })
  try {
    for (const puts of commits) await segment.commit(puts)
    looks?.(segment, join(directory, 'a.mdb'))
    return { path: join(directory, 'a.mdb'), entries: entriesOf(segment) }
  } finally {
    await segment.close()
    await store.close()
  }
}

void t.test('random commits: the same as LMDB says, in every way to ask', async (t) => {
  const root = t.testdir()
  const key = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 2, max: 5 }),
    fc.uint8Array({ minLength: 20, maxLength: 29, max: 3 }),
    fc.uint8Array({ minLength: 1, maxLength: 64 }),
  )
  const value = fc
    .tuple(
      fc.oneof(fc.nat(30), fc.nat(3000), fc.integer({ min: 1900, max: 2100 }), fc.nat(70_000)),
      fc.nat(255),
    )
    .map(([length, byte]) => new Uint8Array(length).fill(byte))
  const puts = fc.array(fc.record({ key, value }), { minLength: 1, maxLength: 40 })
  let run = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(puts, { maxLength: 8 }),
      fc.array(key, { maxLength: 30 }),
      async (commits, keys) => {
        const directory = join(root, `${run++}`)
        const store = openLmdbStore(directory)
        await store.lock()
        const segment = await store.open('a', { create: true })
        let file: PageFile | undefined
        try {
          for (const each of commits) {
            await segment.commit(each)
            const now = new PageFile(join(directory, 'a.mdb'))
            now.walk(({ what }) => {
              throw new Error(`after a commit: ${what}`)
            })
            now.close()
          }
          file = new PageFile(join(directory, 'a.mdb'))
          if (file.damage !== null) throw new Error(file.damage.what)
          if (file.usedBytes !== segment.usedBytes) throw new Error('other bytes in use')
          assertSame(entriesOf(file), entriesOf(segment))
          for (const from of keys) {
            if (!sameBytes(file.get(from), segment.get(from))) throw new Error(`get ${hex(from)}`)
            const [found, expected] = [file.floor(from), segment.floor(from)]
            if (!sameBytes(found?.key, expected?.key) || !sameBytes(found?.value, expected?.value))
              throw new Error(`floor ${hex(from)}`)
            for (const to of keys.slice(0, 5))
              assertSame(entriesOf(file, from, to), entriesOf(segment, from, to))
          }
          for (const { key, value } of entriesOf(segment)) {
            if (!sameBytes(file.get(key), value)) throw new Error(`get ${hex(key)}`)
          }
          const { entries, damages } = await piecesOf(file)
          assertSame(entries, entriesOf(segment))
          if (damages.length > 0) throw new Error(damages[0]!.what)
        } finally {
          file?.close()
          await segment.close()
          await store.close()
          rmSync(directory, { recursive: true })
        }
      },
    ),
    { numRuns: 15 },
  )
  t.pass(`${run} files`)
})

function assertSame(found: readonly Entry[], expected: readonly Entry[]): void {
  if (found.length !== expected.length)
    throw new Error(`${found.length} entries where ${expected.length} are`)
  for (const [i, { key, value }] of expected.entries()) {
    if (!found[i]!.key.equals(key)) throw new Error(`key ${hex(found[i]!.key)} where ${hex(key)} is`)
    if (!found[i]!.value.equals(value)) throw new Error(`another value of ${hex(key)}`)
  }
}

/** A value that says whether it has rotted, as those of the log do. */
function selfChecked(key: Uint8Array, bytes: number, random: SeededRandom): Buffer {
  const value = Buffer.alloc(4 + bytes)
  for (let at = 4; at < value.length; at++) value[at] = random.int(256)
  value.writeUInt32LE(crc32(value.subarray(4), crc32(key)), 0)
  return value
}

function verifies(key: Uint8Array, value: Uint8Array): boolean {
  const bytes = Buffer.from(value)
  return bytes.length >= 4 && crc32(bytes.subarray(4), crc32(key)) === bytes.readUInt32LE(0)
}

function randomCommits(random: SeededRandom): Put[][] {
  return Array.from({ length: 30 }, () =>
    Array.from({ length: 5 + random.int(15) }, () => {
      const key = Buffer.alloc(29, 7)
      key[0] = random.pick([0x43, 0x4c, 0x52])
      key[20] = random.int(3)
      key.writeUInt32BE(random.int(1_000_000), 25)
      const bytes = random.chance(0.2) ? random.int(30_000) : random.int(900)
      return { key, value: selfChecked(key, bytes, random) }
    }),
  )
}

const pageBytes = 4096

/** Spoils a copy of the bytes in one of the ways a disk has. */
function spoil(bytes: Buffer, random: SeededRandom): { bytes: Buffer; how: string } {
  const pages = bytes.length / pageBytes
  const spoilt = Buffer.from(bytes)
  const way = random.int(6)
  if (way === 0) {
    const length = random.int(bytes.length)
    return { bytes: spoilt.subarray(0, length), how: `cut to ${length}` }
  }
  if (way === 1) {
    const [a, b] = [random.int(pages), random.int(pages)]
    bytes.copy(spoilt, a * pageBytes, b * pageBytes, (b + 1) * pageBytes)
    bytes.copy(spoilt, b * pageBytes, a * pageBytes, (a + 1) * pageBytes)
    return { bytes: spoilt, how: `pages ${a} and ${b} swapped` }
  }
  if (way === 2) {
    const page = random.int(pages)
    spoilt.fill(random.pick([0, 0xff]), page * pageBytes, (page + 1) * pageBytes)
    return { bytes: spoilt, how: `page ${page} wiped` }
  }
  // Headers and places of nodes, where a flip does most; the meta pages; or anywhere.
  const at =
    way === 3
      ? random.int(pages) * pageBytes + random.int(60)
      : random.int(way === 4 ? 2 * pageBytes : bytes.length)
  const mask = random.chance(0.5) ? 1 << random.int(8) : 1 + random.int(255)
  spoilt[at]! ^= mask
  return { bytes: spoilt, how: `byte ${at} ^ ${mask}` }
}

/** What a read gives, or that the file is damaged there. */
function attempt<T>(read: () => T): T | 'damaged' {
  try {
    return read()
  } catch (error) {
    if (error instanceof MqError && error.code === 'CORRUPT_LOG') return 'damaged'
    throw error
  }
}

void t.test('files that were spoilt: right data, data that does not verify, or CORRUPT_LOG', async (t) => {
  const counts = { sound: 0, damaged: 0, missing: 0 }
  for (let seed = 0; seed < 2; seed++) {
    const random = new SeededRandom(seed)
    const { path, entries } = await written(t, randomCommits(random))
    const known = new Map(entries.map(({ key, value }) => [hex(key), value]))
    const bytes = readFileSync(path)
    for (let i = 0; i < 130; i++) {
      const { bytes: spoilt, how } = spoil(bytes, random)
      const spoiltPath = `${path}.spoilt`
      writeFileSync(spoiltPath, spoilt)
      const file = new PageFile(spoiltPath)
      const wrong = (what: string): Error => new Error(`seed ${seed}, ${how}: ${what}`)
      const check = (key: Uint8Array, value: Uint8Array): void => {
        // Of a commit before the last one there may be an older value, where the file says that it is in doubt.
        if (verifies(key, value) && file.damage === null && known.get(hex(key))?.equals(value) !== true)
          throw wrong(`a value of ${hex(key)} that was never written`)
      }
      const damages: Damage[] = []
      const seen = new Set<string>()
      const visit = (key: Uint8Array, value: Uint8Array): boolean => {
        check(key, value)
        if (verifies(key, value)) seen.add(hex(key))
        return true
      }
      file.scan(lowest, highest, visit, (damage) => damages.push(damage))
      const structure: Damage[] = []
      file.walk((damage) => structure.push(damage))
      if (
        damages.length > 0 &&
        structure.length === 0 &&
        !damages.every(({ what }) => /page \d+: (it says|it is|the)/.test(what))
      )
        throw wrong(`the walk missed ${damages[0]!.what}`)
      const pieces = await piecesOf(file)
      for (const { key, value } of pieces.entries) visit(key, value)
      let missing = 0
      for (const { key, value } of entries) {
        const got = attempt(() => file.get(key))
        if (got !== undefined && got !== 'damaged') check(key, got)
        const floor = attempt(() => file.floor(key))
        if (floor !== undefined && floor !== 'damaged') check(floor.key, floor.value)
        if (got === undefined && value.length > 0) missing++
        const isTold = damages.some(
          ({ from, to }) => Buffer.compare(from, key) <= 0 && Buffer.compare(key, to) < 0,
        )
        if (!seen.has(hex(key)) && !isTold && got === 'damaged')
          throw wrong(`${hex(key)} is left out in silence`)
      }
      // One byte of a key is all that can rot in silence: then it is missing, and what follows it tells.
      if (missing > 1 || (missing > 0 && !how.startsWith('byte')))
        throw wrong(`${missing} are missing in silence`)
      counts.missing += missing
      counts[structure.length > 0 ? 'damaged' : 'sound']++
      file.close()
    }
  }
  t.comment(JSON.stringify(counts))
  t.ok(counts.damaged > 50 && counts.sound > 50, JSON.stringify(counts))
})

void t.test('behind a bad page the scan goes on, and what is lost is told exactly', async (t) => {
  const random = new SeededRandom(3)
  const { path, entries } = await written(t, randomCommits(random))
  const bytes = readFileSync(path)
  let leaves = 0
  for (let page = 2; page < bytes.length / pageBytes; page++) {
    if (bytes.readUInt16LE(page * pageBytes + 18) !== 2) continue
    const spoilt = Buffer.from(bytes)
    spoilt.writeUInt16LE(9, page * pageBytes + 18)
    writeFileSync(`${path}.spoilt`, spoilt)
    const file = new PageFile(`${path}.spoilt`)
    const damages: Damage[] = []
    const seen: string[] = []
    file.scan(
      lowest,
      highest,
      (key) => seen.push(hex(key)) > 0,
      (damage) => damages.push(damage),
    )
    const lost = entries.filter(({ key }) => !seen.includes(hex(key)))
    for (const { key } of lost)
      if (!damages.some(({ from, to }) => hex(from) <= hex(key) && hex(key) < hex(to)))
        t.fail('lost, and not told')
    for (const key of seen)
      if (damages.some(({ from, to }) => hex(from) <= key && key < hex(to))) t.fail('seen and told lost')
    if (lost.length > 0) {
      leaves++
      if (!damages[0]!.what.includes(`page ${page}: `)) t.fail(damages[0]!.what)
      if (attempt(() => entriesOf(file)) !== 'damaged') t.fail('went on, and nobody had said so')
    }
    file.close()
  }
  t.ok(leaves > 10, `${leaves} leaves`)
})

void t.test('the end of a file is missing: what is in the rest is read', async (t) => {
  const random = new SeededRandom(4)
  const { path, entries } = await written(t, randomCommits(random))
  const whole = readFileSync(path).length
  let found = 0
  for (const length of [whole - 1, whole - pageBytes, whole >> 1, 8 * pageBytes, 100, 0]) {
    copyFileSync(path, `${path}.cut`)
    truncateSync(`${path}.cut`, length)
    const file = new PageFile(`${path}.cut`)
    const structure: string[] = []
    file.walk(({ what }) => structure.push(what))
    t.match(structure[0], length < 2 * pageBytes ? /meta page/ : /cut short: it has \d+ of \d+ bytes/)
    for (const { key, value } of entries) {
      const got = attempt(() => file.get(key))
      if (got === 'damaged') continue
      found++
      if (got === undefined || !got.equals(value)) t.fail(`another value of ${hex(key)}`)
    }
    file.close()
  }
  t.ok(found > entries.length, `${found} were found`)
})

void t.test('a meta page that rots: the other is read, and all is in doubt', async (t) => {
  const { path } = await written(t, randomCommits(new SeededRandom(5)))
  const bytes = readFileSync(path)
  for (const index of [0, 1]) {
    const spoilt = Buffer.from(bytes)
    spoilt[index * pageBytes + 24]! ^= 1
    writeFileSync(`${path}.spoilt`, spoilt)
    const file = new PageFile(`${path}.spoilt`)
    t.match(file.damage?.what, /LMDB's mark is missing at \d+: the last commit may be lost/)
    const damages: Damage[] = []
    let entries = 0
    file.scan(
      lowest,
      highest,
      () => ++entries > 0,
      (damage) => damages.push(damage),
    )
    t.ok(entries > 100)
    t.strictSame(
      damages.map(({ from, to }) => [from.length, to.length]),
      [[0, 65]],
    )
    t.throws(() => file.get(Buffer.from('not there')), { code: 'CORRUPT_LOG' }, 'nobody knows')
    file.close()
  }
})

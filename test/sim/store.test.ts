import { test } from 'tap'
import type { Put, Segment } from '../../src/env.ts'
import type { FaultOptions } from '../../src/sim/faults.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { SimStore } from '../../src/sim/store.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (value: Uint8Array | undefined) => value && new TextDecoder().decode(value)
const put = (key: string, value: string): Put => ({ key: bytes(key), value: bytes(value) })

/** A world with one process whose segment is open. */
async function opened(options: { seed?: number; faults?: Partial<FaultOptions>; store?: SimStore } = {}) {
  const world = new SimWorld({
    seed: options.seed ?? 1,
    faults: { diskLatencyMs: [1, 1], ...options.faults },
  })
  const process = world.process('a', options.store)
  const segment = await openSegment(world, process)
  return { world, process, store: process.store, segment }
}

async function openSegment(world: SimWorld, { env }: SimProcess) {
  await world.complete(env.store.lock())
  return world.complete(env.store.open('s', { create: true }))
}

/** What the segment holds after a crash and a restart. */
async function afterCrash(world: SimWorld, process: SimProcess): Promise<string[]> {
  process.crash()
  return scanned(await openSegment(world, world.process(process.name, process.store)))
}

function scanned(segment: Segment): string[] {
  const found: string[] = []
  segment.scan(bytes(''), bytes('~'), (key, value) => {
    found.push(`${text(key)}=${text(value)}`)
    return true
  })
  return found
}

test('a store serves without a process', async (t) => {
  const store = new SimStore()
  await store.lock()
  const segment = await store.open('s', { create: true })
  await segment.commit([put('a', '1')])
  t.equal(text(segment.get(bytes('a'))), '1')
  t.strictSame(await store.list(), ['s'])
  t.equal(store.commits, 1)
  await segment.close()
  await store.remove('s')
  t.strictSame(await store.list(), [])
  await store.close()
})

test('a commit is seen once its latency has passed, and resolves then', async (t) => {
  const { world, store, segment } = await opened()
  let resolved = false
  const commit = segment.commit([put('a', '1'), put('b', '2')]).then(() => {
    resolved = true
  })
  await world.advance(0.9)
  t.equal(segment.get(bytes('a')), undefined)
  t.equal(resolved, false)
  await world.advance(0.1)
  t.equal(resolved, true)
  await commit
  t.equal(text(segment.get(bytes('b'))), '2')
  t.equal(store.commits, 1)
  t.equal(store.usedBytes, segment.usedBytes)
})

test('bytes changed before the commit has resolved stop the world', async (t) => {
  for (const change of ['key', 'value', 'puts'] as const) {
    const { world, segment } = await opened()
    const puts = [put('a', '1'), put('b', '2')]
    void segment.commit(puts)
    if (change === 'puts') puts.pop()
    else puts[1]![change][0]! ^= 1
    await t.rejects(world.advance(1), { name: 'InvariantError', message: /changed bytes/ }, change)
  }
})

test('one commit at a time', async (t) => {
  const { world, segment } = await opened()
  const first = segment.commit([put('a', '1')])
  await t.rejects(segment.commit([put('b', '2')]), { name: 'InvariantError' })
  await world.complete(first)
  await world.complete(segment.commit([put('b', '2')]))
})

test('keys must be of a length that every adapter takes', async (t) => {
  const { segment } = await opened()
  await t.rejects(segment.commit([{ key: new Uint8Array(0), value: bytes('x') }]), { name: 'InvariantError' })
  await t.rejects(segment.commit([{ key: new Uint8Array(65), value: bytes('x') }]), {
    name: 'InvariantError',
  })
})

test('what was read turns to garbage with the next call', async (t) => {
  const { world, segment } = await opened()
  await world.complete(segment.commit([put('a', '1'), put('b', '2')]))
  const value = segment.get(bytes('a'))!
  t.equal(text(value), '1')
  const floor = segment.floor(bytes('az'))!
  t.equal(value[0], 0xdb)
  t.equal(text(floor.key), 'a')
  const kept: Uint8Array[] = []
  segment.scan(bytes('a'), bytes('c'), (key, value) => {
    kept.push(key, value)
    return true
  })
  t.equal(floor.key[0], 0xdb)
  t.ok(kept.every((view) => view[0] === 0xdb))
  t.not(value.byteOffset, 0, 'bytes do not begin where their buffer begins')
})

test('a visit may not use its segment', async (t) => {
  const { world, segment } = await opened()
  await world.complete(segment.commit([put('a', '1')]))
  t.throws(
    () =>
      segment.scan(bytes('a'), bytes('b'), () => {
        segment.get(bytes('a'))
        return true
      }),
    { name: 'InvariantError' },
  )
  t.equal(text(segment.get(bytes('a'))), '1')
})

test('a crash in the middle of a commit: all of it is there or nothing, and nobody was told', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 1; seed <= 20; seed++) {
    const { world, process, segment } = await opened({ seed })
    await world.complete(segment.commit([put('a', 'old'), put('b', 'old')]))
    let told = false
    void segment.commit([put('a', 'new'), put('b', 'new')]).finally(() => {
      told = true
    })
    const found = await afterCrash(world, process)
    t.equal(told, false)
    outcomes.add(found.join(' '))
  }
  t.strictSame([...outcomes].sort(), ['a=new b=new', 'a=old b=old'])
})

test('what a killed process had not synced can be read, and a later power cut takes it unless it was synced', async (t) => {
  const outcomes = { unsynced: new Set<string>(), synced: new Set<string>() }
  for (let seed = 1; seed <= 100; seed++) {
    for (const what of ['unsynced', 'synced'] as const) {
      const { world, process, segment } = await opened({ seed })
      await world.complete(segment.commit([put('a', 'old'), put('b', 'old')]))
      void segment.commit([put('b', 'new'), put('c', 'new')])
      process.crash()
      const found: string[] = []
      for (const isLast of [false, true]) {
        const next = world.process(process.name, process.store)
        await world.complete(next.env.store.lock())
        const again = await world.complete(
          next.env.store.open('s', { create: false, sealed: true, synced: what === 'synced' }),
        )
        found.push(scanned(again).join(' '))
        if (!isLast) next.crash()
        t.equal(again.usedBytes, next.store.usedBytes)
      }
      outcomes[what].add(found.join(', then '))
    }
  }
  const old = 'a=old b=old'
  const young = 'a=old b=new c=new'
  t.strictSame([...outcomes.synced].sort(), [`${young}, then ${young}`, `${old}, then ${old}`])
  t.strictSame([...outcomes.unsynced].sort(), [
    `${young}, then ${young}`,
    `${young}, then ${old}`,
    `${old}, then ${old}`,
  ])
})

test('a crash while a segment is being made or removed: done or not', async (t) => {
  const made = new Set<string>()
  const removed = new Set<string>()
  for (let seed = 1; seed <= 20; seed++) {
    const { world, process, segment } = await opened({ seed })
    await world.complete(segment.close())
    void process.env.store.open('t', { create: true })
    void process.env.store.remove('s')
    process.crash()
    const { store } = world.process('a', process.store).env
    await world.complete(store.lock())
    const names = await world.complete(store.list())
    made.add(String(names.includes('t')))
    removed.add(String(!names.includes('s')))
  }
  t.equal(made.size, 2)
  t.equal(removed.size, 2)
})

test('one live process holds the lock; a crash or a close frees it', async (t) => {
  const store = new SimStore()
  const world = new SimWorld({ seed: 1 })
  const first = world.process('a', store)
  const second = world.process('b', store)
  await world.complete(first.env.store.lock())
  await t.rejects(second.env.store.lock(), { code: 'DATA_DIR_LOCKED' })
  first.crash()
  await world.complete(second.env.store.lock())
  await world.complete(second.env.store.close())
  await world.complete(world.process('a', store).env.store.lock())
  store.readOnly = true
  await t.rejects(second.env.store.lock(), { code: 'DATA_DIR_NOT_WRITABLE' })
})

test('wrong order of calls is a defect of the caller', async (t) => {
  const { world, process, segment } = await opened()
  const { store } = process.env
  await t.rejects(store.open('s', { create: false }), { name: 'InvariantError' }, 'open twice')
  await t.rejects(store.remove('s'), { name: 'InvariantError' }, 'remove while open')
  void store.open('t', { create: true }).then((other) => other.close())
  await t.rejects(store.open('t', { create: true }), { name: 'InvariantError' }, 'open while being opened')
  await world.advance(1)
  await t.rejects(store.close(), { name: 'InvariantError' }, 'close with open segments')
  await t.rejects(world.process('b').env.store.list(), { name: 'InvariantError' }, 'use without the lock')
  await world.complete(segment.close())
  t.throws(() => segment.get(bytes('a')), { name: 'InvariantError' }, 'read after close')
})

test('a full disk refuses, changes nothing, and recovers', async (t) => {
  const { world, process, store, segment } = await opened({ store: new SimStore({ capacityBytes: 100 }) })
  await world.complete(segment.commit([put('a', '1')]))
  await t.rejects(world.complete(segment.commit([put('b', 'x'.repeat(100))])), { code: 'DISK_FULL' })
  t.equal(segment.get(bytes('b')), undefined)
  await world.complete(segment.commit([put('b', '2')]))
  store.full = true
  await t.rejects(world.complete(segment.commit([put('c', '3')])), { code: 'DISK_FULL' })
  await t.rejects(world.complete(process.env.store.open('t', { create: true })), { code: 'DISK_FULL' })
  store.full = false
  store.nextCommit = 'disk-full'
  await t.rejects(world.complete(segment.commit([put('c', '3')])), { code: 'DISK_FULL' })
  t.strictSame(await afterCrash(world, process), ['a=1', 'b=2'])
})

test('after a failed commit nobody knows what is on disk, and the segment takes no more', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 1; seed <= 20; seed++) {
    const { world, process, segment } = await opened({ seed, faults: { commitFailedChance: 1 } })
    await t.rejects(world.complete(segment.commit([put('a', '1')])), { code: 'STORAGE_FAILED' })
    world.heal()
    await t.rejects(world.complete(segment.commit([put('b', '2')])), { code: 'STORAGE_FAILED' })
    outcomes.add((await afterCrash(world, process)).join(' '))
  }
  t.strictSame([...outcomes].sort(), ['', 'a=1'])
})

test('slow commits come late, stuck ones never', async (t) => {
  const slow = await opened({ faults: { slowCommitChance: 1, slowCommitMsMax: 5000 } })
  const startMs = slow.world.nowMs
  await slow.world.complete(slow.segment.commit([put('a', '1')]))
  t.ok(slow.world.nowMs - startMs > 1)

  const stuck = await opened()
  stuck.store.nextCommit = 'stuck'
  let settled = false
  void stuck.segment.commit([put('a', '1')]).finally(() => {
    settled = true
  })
  await stuck.world.advance(3_600_000)
  t.equal(settled, false)
  const chance = await opened({ faults: { stuckCommitChance: 1 } })
  await t.rejects(chance.world.complete(chance.segment.commit([])), /can no longer settle/)
})

test('rot flips one bit of one value and tells which', async (t) => {
  const { world, store, segment } = await opened()
  t.equal(store.rot(new SeededRandom(1)), undefined)
  const values = new Map(['a', 'b', 'c'].map((key) => [key, key.repeat(50)]))
  await world.complete(
    segment.commit([put('empty', ''), ...[...values].map(([key, value]) => put(key, value))]),
  )
  const rotten = store.rot(new SeededRandom(1))!
  t.equal(rotten.segment, 's')
  let flipped = 0
  for (const [key, value] of values) {
    const stored = segment.get(bytes(key))!
    const good = bytes(value)
    for (const [at, byte] of stored.entries()) {
      const difference = byte ^ good[at]!
      if (difference === 0) continue
      flipped += 1
      t.equal(key, text(rotten.key))
      t.equal(difference & (difference - 1), 0, 'one bit')
    }
  }
  t.equal(flipped, 1)
})

test('floor and scan agree with a plain sorted list', async (t) => {
  const world = new SimWorld({ seed: 5 })
  const segment = await openSegment(world, world.process('a'))
  const random = new SeededRandom(5)
  const model = new Map<string, string>()
  const hex = (value: Uint8Array) => Buffer.from(value).toString('hex')
  for (let round = 0; round < 30; round++) {
    const puts = Array.from({ length: 10 }, () => ({
      key: random.bytes(1 + random.int(2)).map((byte) => byte & 0xf0),
      value: random.bytes(random.int(20)),
    }))
    for (const { key, value } of puts) model.set(hex(key), hex(value))
    await world.complete(segment.commit(puts))
    const sorted = [...model].sort(([a], [b]) => (a < b ? -1 : 1))
    const from = random.bytes(1)
    const to = random.bytes(2)
    const floor = segment.floor(from)
    const expected = sorted.filter(([key]) => key <= hex(from)).at(-1)
    t.strictSame(floor && [hex(floor.key), hex(floor.value)], expected)
    const scanned: string[][] = []
    segment.scan(from, to, (key, value) => {
      scanned.push([hex(key), hex(value)])
      return scanned.length < 7
    })
    t.strictSame(scanned, sorted.filter(([key]) => key >= hex(from) && key < hex(to)).slice(0, 7))
  }
})

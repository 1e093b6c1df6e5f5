// What src/env.ts promises about `Store` and `Segment`, as tests for any adapter. Uses nothing else of it.

import { setImmediate } from 'node:timers/promises'
import type { Test } from 'tap'
import { keyBytesMax, type Put, type Segment, type Store } from '../../src/env.ts'

/** Makes an empty data directory; each call of the result is a new store on that same directory. */
export type MakeStore = (t: Test) => () => Store

export async function storeContract(t: Test, makeStore: MakeStore): Promise<void> {
  /** A locked store with one new segment, closed after the test. */
  async function makeSegment(t: Test): Promise<Segment> {
    const store = makeStore(t)()
    await store.lock()
    const segment = await store.open('a', { create: true })
    t.teardown(async () => {
      await segment.close()
      await store.close()
    })
    return segment
  }

  t.test('a new directory has no segments', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    t.same(await store.list(), [])
    await store.close()
  })

  t.test('one store has the directory, until it closes', async (t) => {
    const openStore = makeStore(t)
    const first = openStore()
    const second = openStore()
    await first.lock()
    await t.rejects(second.lock(), { code: 'DATA_DIR_LOCKED' })
    await t.rejects(second.lock(), { code: 'DATA_DIR_LOCKED' }, 'and trying does not free it')
    await first.close()
    await second.lock()
    await second.close()
  })

  t.test('segments are listed by name, ascending, open or not', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    for (const name of ['b', '10', '9', 'a-1', 'B']) {
      const segment = await store.open(name, { create: true })
      t.equal(segment.name, name)
      await segment.close()
    }
    const open = await store.open('a', { create: true })
    t.same(await store.list(), ['10', '9', 'B', 'a', 'a-1', 'b'])
    await open.close()
    await store.close()
  })

  t.test('segments are there after the store was closed', async (t) => {
    const openStore = makeStore(t)
    const before = openStore()
    await before.lock()
    for (const name of ['2', '1']) await (await before.open(name, { create: true })).close()
    await before.close()
    const after = openStore()
    await after.lock()
    t.same(await after.list(), ['1', '2'])
    await after.close()
  })

  t.test('a segment that is not there does not open', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    await t.rejects(store.open('a', { create: false }), { code: 'STORAGE_FAILED' })
    t.same(await store.list(), [], 'and was not made by trying')
    const segment = await store.open('a', { create: true })
    await segment.close()
    await store.close()
  })

  t.test('a removed segment is gone, and its name is free', async (t) => {
    const openStore = makeStore(t)
    const store = openStore()
    await store.lock()
    for (const name of ['a', 'b']) {
      const segment = await store.open(name, { create: true })
      await segment.commit([{ key: bytes('k'), value: bytes(`of ${name}`) }])
      await segment.close()
    }
    await store.remove('a')
    t.same(await store.list(), ['b'])
    await t.rejects(store.open('a', { create: false }), { code: 'STORAGE_FAILED' })
    const again = await store.open('a', { create: true })
    t.equal(again.get(bytes('k')), undefined, 'made again, it is empty')
    await again.close()
    const other = await store.open('b', { create: false })
    t.same(other.get(bytes('k')), bytes('of b'), 'the other one was left alone')
    await other.close()
    await store.close()
  })

  t.test('a new segment is empty', async (t) => {
    const segment = await makeSegment(t)
    t.equal(segment.get(bytes('k')), undefined)
    t.equal(segment.floor(bytes('k')), undefined)
    t.same(entries(segment), [])
  })

  t.test('a commit of nothing', async (t) => {
    const segment = await makeSegment(t)
    await segment.commit([])
    t.same(entries(segment), [])
  })

  t.test('committed puts are there after a reopen', async (t) => {
    const openStore = makeStore(t)
    const before = openStore()
    await before.lock()
    const first = await before.open('a', { create: true })
    await first.commit([{ key: bytes('1'), value: bytes('one') }])
    await first.commit([
      { key: bytes('3'), value: bytes('three') },
      { key: bytes('2'), value: bytes('two') },
    ])
    const usedBytes = first.usedBytes
    await first.close()
    await before.close()

    const after = openStore()
    await after.lock()
    const second = await after.open('a', { create: false })
    t.same(entries(second), ['1=one', '2=two', '3=three'])
    t.equal(second.usedBytes, usedBytes)
    await second.commit([{ key: bytes('4'), value: bytes('four') }])
    t.same(entries(second), ['1=one', '2=two', '3=three', '4=four'])
    await second.close()
    await after.close()
  })

  t.test('a segment can be opened again in the same store', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    const first = await store.open('a', { create: true })
    await first.commit([{ key: bytes('k'), value: bytes('v') }])
    await first.close()
    await first.close()
    const second = await store.open('a', { create: false })
    t.same(entries(second), ['k=v'])
    await second.close()
    await store.close()
  })

  t.test('a segment closes after the commit that is under way', async (t) => {
    const openStore = makeStore(t)
    const before = openStore()
    await before.lock()
    const first = await before.open('a', { create: true })
    const ended: string[] = []
    const commit = first.commit([{ key: bytes('k'), value: bytes('v') }]).then(() => ended.push('commit'))
    await Promise.all([first.close().then(() => ended.push('close')), commit])
    t.same(ended, ['commit', 'close'])
    await before.close()
    const after = openStore()
    await after.lock()
    const second = await after.open('a', { create: false })
    t.same(entries(second), ['k=v'])
    await second.close()
    await after.close()
  })

  t.test('reads see a commit as soon as it has resolved', async (t) => {
    const segment = await makeSegment(t)
    const key = bytes('k')
    for (let round = 0; round < 50; round++) {
      // The reads before it, in the same turn, must not fix what the later ones see.
      segment.get(key)
      const committed = segment.commit([{ key, value: bytes(`${round}`) }])
      segment.get(key)
      await committed
      const seen = [text(segment.get(key)), text(segment.floor(key)?.value), ...entries(segment)]
      t.same(seen, [`${round}`, `${round}`, `k=${round}`])
    }
  })

  t.test('a commit becomes visible as a whole', async (t) => {
    const segment = await makeSegment(t)
    for (let round = 0; round < 20; round++) {
      const puts: Put[] = []
      for (let i = 0; i < 50; i++) puts.push({ key: bytes(`k${i}`), value: filled(20_000, round) })
      let resolved = false
      const committed = segment.commit(puts).then(() => (resolved = true))
      while (!resolved) {
        const seen: (number | undefined)[] = []
        segment.scan(bytes('k'), bytes('l'), (_key, value) => {
          seen.push(value[0])
          return true
        })
        const isWhole = new Set(seen).size <= 1 && [0, puts.length].includes(seen.length)
        if (!isWhole) t.fail(`a scan saw a part of a commit: ${seen.join()}`)
        await setImmediate()
      }
      await committed
    }
    t.equal(entries(segment).length, 50)
  })

  t.test('a later commit replaces the value of a key', async (t) => {
    const segment = await makeSegment(t)
    const key = bytes('k')
    for (const length of [10, 100_000, 0, 5000, 1]) {
      await segment.commit([{ key, value: filled(length, length) }])
      t.ok(equal(segment.get(key), filled(length, length)), `${length} bytes`)
    }
    t.equal(entries(segment).length, 1)
  })

  t.test('keys and values may be reused once their commit has resolved', async (t) => {
    const segment = await makeSegment(t)
    const slab = new Uint8Array(300)
    const puts = [{ key: slab.subarray(7, 10), value: slab.subarray(20, 220) }]
    for (let round = 1; round <= 20; round++) {
      slab.fill(round)
      await segment.commit(puts)
      slab.fill(255)
    }
    for (let round = 1; round <= 20; round++) {
      t.ok(equal(segment.get(filled(3, round)), filled(200, round)), `round ${round}`)
    }
  })

  t.test('values of every length', async (t) => {
    const segment = await makeSegment(t)
    const lengths = [0, 1, 2, 2000, 4095, 4096, 4097, 100 << 10, (1 << 20) + 1, 16 << 20]
    for (const [i, length] of lengths.entries()) {
      await segment.commit([{ key: Uint8Array.of(i), value: pattern(length) }])
    }
    for (const [i, length] of lengths.entries()) {
      const expected = pattern(length)
      t.ok(equal(segment.get(Uint8Array.of(i)), expected), `get: ${length} bytes`)
      const found = segment.floor(Uint8Array.of(i, 0))
      t.ok(equal(found?.key, Uint8Array.of(i)) && equal(found?.value, expected), `floor: ${length} bytes`)
    }
    const scanned: boolean[] = []
    segment.scan(Uint8Array.of(0), Uint8Array.of(255), (key, value) => {
      scanned.push(equal(value, pattern(lengths[key[0]!]!)))
      return true
    })
    t.same(scanned, Array(lengths.length).fill(true), 'scan')
  })

  t.test('usedBytes grows by what is put', async (t) => {
    const segment = await makeSegment(t)
    let before = segment.usedBytes
    for (let i = 0; i < 5; i++) {
      await segment.commit([{ key: Uint8Array.of(i), value: filled(100_000, i) }])
      t.ok(segment.usedBytes >= before + 100_000, `${before} -> ${segment.usedBytes}`)
      t.ok(segment.usedBytes < before + 200_000, 'but hardly more')
      before = segment.usedBytes
    }
  })

  t.test('bytes that were read are what memory of their own would be', async (t) => {
    const segment = await makeSegment(t)
    await segment.commit([{ key: bytes('k'), value: bytes('value') }])
    for (const read of [() => segment.get(bytes('k'))!, () => segment.floor(bytes('k'))!.value]) {
      const value = read()
      t.equal(value.length, 5)
      t.equal(value.byteLength, 5)
      t.same(new Uint8Array(value), bytes('value'))
      t.same(value.subarray(1), bytes('alue'))
      t.same(value.slice(-2), bytes('ue'))
      t.same(new Uint8Array(value.buffer, value.byteOffset, value.byteLength), bytes('value'))
    }
  })

  t.test('what one segment read stays while another reads', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    const segments = [
      await store.open('a', { create: true }),
      await store.open('b', { create: true }),
    ] as const
    const [a, b] = segments
    await Promise.all(
      segments.map((segment, i) => segment.commit([{ key: bytes('k'), value: filled(1000, i + 1) }])),
    )
    const got = a.get(bytes('k'))
    b.get(bytes('k'))
    t.ok(equal(got, filled(1000, 1)), 'get')
    const found = a.floor(bytes('l'))
    b.floor(bytes('l'))
    t.ok(equal(found?.key, bytes('k')) && equal(found?.value, filled(1000, 1)), 'floor')
    a.scan(bytes('a'), bytes('z'), (key, value) => {
      b.scan(bytes('a'), bytes('z'), () => true)
      t.ok(equal(key, bytes('k')) && equal(value, filled(1000, 1)), 'scan')
      return true
    })
    for (const segment of segments) await segment.close()
    await store.close()
  })

  t.test('segments commit at the same time, and do not mix', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    const segments = await Promise.all(['a', 'b', 'c'].map((name) => store.open(name, { create: true })))
    await Promise.all(
      segments.map(async (segment) => {
        for (let i = 0; i < 10; i++) {
          await segment.commit([{ key: bytes(`k${i}`), value: bytes(segment.name + i) }])
        }
      }),
    )
    for (const segment of segments) {
      const expected = Array.from({ length: 10 }, (_, i) => `k${i}=${segment.name}${i}`)
      t.same(entries(segment), expected)
      await segment.close()
    }
    await store.close()
  })

  t.test('keys are ordered byte by byte, the shorter one first', async (t) => {
    const segment = await makeSegment(t)
    const keys = [
      ...allKeys([0x00, 0x01, 0x7f, 0x80, 0xff], 3),
      filled(keyBytesMax, 0x00),
      filled(keyBytesMax, 0x80),
      filled(keyBytesMax, 0xff),
      filled(keyBytesMax - 1, 0xff),
    ]
    // 7 and the number of keys have no common factor: this is an order without a pattern, and the same each time.
    const shuffled = keys.map((_, i) => keys[(i * 7) % keys.length]!)
    t.equal(new Set(shuffled).size, keys.length)
    for (let at = 0; at < shuffled.length; at += 10) {
      await segment.commit(shuffled.slice(at, at + 10).map((key) => ({ key, value: key })))
    }
    const scanned: string[] = []
    segment.scan(new Uint8Array(0), filled(keyBytesMax + 1, 0xff), (key, value) => {
      t.ok(equal(key, value))
      scanned.push(hex(key))
      return true
    })
    t.same(scanned, keys.sort(compare).map(hex))
  })

  t.test('floor and scan, for every key and every pair of bounds', async (t) => {
    const segment = await makeSegment(t)
    const probes = [new Uint8Array(0), ...allKeys([0x00, 0x01, 0xff], 3)].sort(compare)
    const stored = probes.filter((key, i) => key.length > 0 && (i % 3 === 1 || key.length === 1))
    await segment.commit(stored.map((key) => ({ key, value: bytes(hex(key)) })))
    for (const probe of probes) {
      const expected = stored.filter((key) => compare(key, probe) <= 0).at(-1)
      const found = segment.floor(probe)
      t.equal(found && hex(found.key), expected && hex(expected), `floor ${hex(probe)}`)
      t.equal(text(found?.value), expected && hex(expected))
      const held = stored.some((key) => equal(key, probe))
      t.equal(text(segment.get(probe)), held ? hex(probe) : undefined, `get ${hex(probe)}`)
    }
    for (const from of probes) {
      for (const to of probes) {
        const within = (key: Uint8Array) => compare(from, key) <= 0 && compare(key, to) < 0
        const expected = stored.filter(within).map((key) => `${hex(key)}=${hex(key)}`)
        const scanned: string[] = []
        segment.scan(from, to, (key, value) => {
          scanned.push(`${hex(key)}=${text(value)}`)
          return true
        })
        if (scanned.join() !== expected.join()) t.same(scanned, expected, `scan ${hex(from)} to ${hex(to)}`)
      }
    }
  })

  t.test('a scan ends when the visitor says so', async (t) => {
    const segment = await makeSegment(t)
    await segment.commit(['1', '2', '3', '4'].map((name) => ({ key: bytes(name), value: bytes(name) })))
    for (let stopAt = 1; stopAt <= 4; stopAt++) {
      let visits = 0
      segment.scan(bytes('1'), bytes('9'), () => ++visits < stopAt)
      t.equal(visits, stopAt)
    }
    t.equal(entries(segment).length, 4, 'the next one begins anew')
  })

  t.test("a visitor's error comes out of scan, and harms nothing", async (t) => {
    const segment = await makeSegment(t)
    await segment.commit(['1', '2', '3'].map((name) => ({ key: bytes(name), value: bytes(name) })))
    const error = new Error('of the visitor')
    const scan = () =>
      segment.scan(bytes('1'), bytes('9'), () => {
        throw error
      })
    t.throws(scan, error)
    t.equal(entries(segment).length, 3)
    await segment.commit([{ key: bytes('4'), value: bytes('4') }])
    t.equal(entries(segment).length, 4)
  })

  t.test('a journal is made once, and is there afterwards', async (t) => {
    const openStore = makeStore(t)
    const before = openStore()
    await before.lock()
    t.equal(await before.journal(null), null, 'none is made unasked')
    const file = (await before.journal(filled(8192, 3)))!
    t.ok(equal(await file.read(), filled(8192, 3)))
    await t.rejects(before.journal(filled(8192, 3)), { name: 'InvariantError' }, 'it is open')
    await file.write(4096, pattern(4096))
    await file.write(0, filled(10, 1))
    await file.close()
    await file.close()
    await before.close()

    const after = openStore()
    await after.lock()
    t.same(await after.list(), [], 'it is no segment')
    for (const initial of [null, filled(16_384, 4)]) {
      const again = (await after.journal(initial))!
      const expected = filled(8192, 3)
      expected.set(filled(10, 1))
      expected.set(pattern(4096), 4096)
      t.ok(equal(await again.read(), expected), 'as long as it was made')
      await again.close()
    }
    await after.close()
  })

  t.test('a journal takes one write at a time', async (t) => {
    const store = makeStore(t)()
    await store.lock()
    const file = (await store.journal(filled(8192, 3)))!
    const first = file.write(0, filled(100, 1))
    await t.rejects(file.write(4096, filled(100, 2)), { name: 'InvariantError' })
    await file.close()
    await first
    await t.rejects(file.write(0, filled(100, 2)), { name: 'InvariantError' }, 'and none once it is closed')
    await store.close()
  })
}

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

function text(bytes: Uint8Array | undefined): string | undefined {
  return bytes && new TextDecoder().decode(bytes)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function compare(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b)
}

function equal(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && compare(a, b) === 0
}

function filled(length: number, byte: number): Uint8Array {
  return new Uint8Array(length).fill(byte)
}

/** Bytes in which a shift or a cut shows. */
function pattern(length: number): Uint8Array {
  const result = new Uint8Array(length)
  for (let i = 0; i < length; i++) result[i] = (i * 31 + (i >> 8) * 17 + length) & 0xff
  return result
}

/** Every key of 1 to `lengthMax` bytes over the alphabet. */
function allKeys(alphabet: readonly number[], lengthMax: number): Uint8Array[] {
  const keys: Uint8Array[] = []
  let shorter = [new Uint8Array(0)]
  for (let length = 1; length <= lengthMax; length++) {
    shorter = shorter.flatMap((key) => alphabet.map((byte) => Uint8Array.of(...key, byte)))
    keys.push(...shorter)
  }
  return keys
}

function entries(segment: Segment): string[] {
  const result: string[] = []
  segment.scan(new Uint8Array(0), filled(keyBytesMax + 1, 0xff), (key, value) => {
    result.push(`${text(key)}=${text(value)}`)
    return true
  })
  return result
}

import fc from 'fast-check'
import t from 'tap'
import { BufferPool } from '../src/buffers.ts'

const options = { smallBytes: 100, largeBytes: 1 << 20, freeBytesMax: 1 << 20 }

void t.test('what was given back is used again for the same size, the last first', async (t) => {
  const pool = new BufferPool(options)
  const [first, second] = [pool.take(100_000), pool.take(100_001)]
  t.strictSame([first.length, second.length], [100_000, 100_001])
  t.not(first.buffer, second.buffer)
  pool.giveBack(first)
  pool.giveBack(second.subarray(50, 60))
  t.equal(pool.freeBytes, 2 * 112 * 1024)
  t.not(pool.take(50_000).buffer, second.buffer)
  t.equal(pool.take(99_000).buffer, second.buffer)
  t.equal(pool.take(99_000).buffer, first.buffer)
  t.equal(pool.freeBytes, 0)
})

void t.test('what is given back twice, or never was taken, is nobody else’s', async (t) => {
  const pool = new BufferPool(options)
  const bytes = pool.take(5000)
  pool.giveBack(bytes)
  pool.giveBack(bytes)
  t.equal(pool.freeBytes, 5120)
  pool.giveBack(Buffer.allocUnsafeSlow(5120))
  pool.giveBack(new BufferPool(options).take(5000))
  pool.giveBack(pool.take(99))
  t.equal(pool.freeBytes, 5120)
})

void t.test('small ones come of Node’s pool; neither they nor large ones are kept', async (t) => {
  const pool = new BufferPool(options)
  const [small, other, large] = [pool.take(99), pool.take(1), pool.take((1 << 20) + 1)]
  t.equal(small.buffer, other.buffer)
  t.strictSame([small.length, large.length, large.buffer.byteLength], [99, (1 << 20) + 1, (1 << 20) + 1])
  for (const bytes of [small, other, large]) pool.giveBack(bytes)
  t.equal(pool.freeBytes, 0)
})

void t.test('sizes that are no longer asked for make room for those that are', async (t) => {
  const pool = new BufferPool({ ...options, freeBytesMax: 400_000 })
  for (const bytes of [100_000, 100_000, 100_000].map((length) => pool.take(length))) pool.giveBack(bytes)
  t.equal(pool.freeBytes, 3 * 114_688)
  const other = [pool.take(262_144), pool.take(262_144)]
  pool.giveBack(other[0]!)
  t.equal(pool.freeBytes, 262_144 + 114_688, 'no more of them than needed')
  pool.giveBack(other[1]!)
  t.equal(pool.freeBytes, 262_144, 'and a size does not push itself out')
  // Both are asked for, and the one that is not was there last.
  pool.take(262_144)
  pool.giveBack(pool.take(262_144))
  pool.giveBack(pool.take(131_072))
  t.equal(pool.freeBytes, 262_144 + 131_072)
})

void t.test('what is given back can be wiped', async (t) => {
  const pool = new BufferPool(options)
  pool.wipes = true
  const bytes = pool.take(200).fill(1)
  pool.giveBack(bytes)
  t.ok(bytes.every((byte) => byte === 0xdd))
})

void t.test('what is taken at a time never overlaps, and wastes a quarter at most', async (t) => {
  const steps = fc.array(fc.oneof(fc.nat(2 << 20), fc.nat(5000), fc.constant(-1)), { maxLength: 60 })
  const holds = fc.property(steps, (steps) => {
    const pool = new BufferPool(options)
    const taken: Buffer[] = []
    for (const [i, step] of steps.entries()) {
      if (step >= 0) {
        const bytes = pool.take(step).fill(i)
        if (bytes.length !== step) return false
        if (step > 100 && bytes.buffer.byteLength > 1.25 * step + 3) return false
        taken.push(bytes)
      } else if (taken.length > 0) pool.giveBack(taken.splice(taken.length >> 1, 1)[0]!)
      if (pool.freeBytes > options.freeBytesMax) return false
    }
    return taken.every((bytes) => bytes.every((byte) => byte === bytes[0]))
  })
  t.doesNotThrow(() => fc.assert(holds))
})

import { createHash } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { chainStart, nextChain } from '../../src/partition/chain.ts'

void t.test('the chain is what sha256 says', async (t) => {
  const u32 = (value: number): Buffer => Buffer.of(value >>> 24, value >>> 16, value >>> 8, value)
  const u64 = (value: number): Buffer => Buffer.concat([u32(Math.floor(value / 2 ** 32)), u32(value)])
  const isRight = (previous: Uint8Array, epoch: number, base: number, crc: number): void => {
    const digest = createHash('sha256').update(previous).update(u64(epoch)).update(u64(base)).update(u32(crc))
    const chain = nextChain(previous, epoch, base, crc)
    if (Buffer.compare(chain, digest.digest().subarray(0, 8)) !== 0)
      throw new Error(`${Buffer.from(chain).toString('hex')} of ${epoch}, ${base}, ${crc}`)
  }
  const chain = fc.uint8Array({ minLength: 8, maxLength: 8 })
  const crc = fc.integer({ min: 0, max: 2 ** 32 - 1 })
  t.doesNotThrow(() => fc.assert(fc.property(chain, fc.maxSafeNat(), fc.maxSafeNat(), crc, isRight)))
  t.doesNotThrow(() => isRight(chainStart, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 2 ** 32 - 1))
  t.doesNotThrow(() => isRight(chainStart, 0, 0, 0))
})

void t.test('the chain depends on all that came before', async (t) => {
  const links: [number, number, number][] = [
    [1, 0, 10],
    [1, 1, 20],
    [2, 2, 30],
  ]
  const chainOf = (all: [number, number, number][]) =>
    Buffer.from(all.reduce((chain, [e, b, crc]) => nextChain(chain, e, b, crc), chainStart)).toString('hex')
  const others = links.flatMap((_, i) =>
    [0, 1, 2].map((field) => {
      const changed = links.map((link) => [...link] as [number, number, number])
      changed[i]![field]! += 1
      return chainOf(changed)
    }),
  )
  t.equal(new Set([chainOf(links), ...others]).size, 10, 'each epoch, base and crc counts')
})

void t.test('the chain of an entry is not memory that the next one reuses', async (t) => {
  const first = nextChain(chainStart, 1, 0, 10)
  const copy = Uint8Array.from(first)
  nextChain(first, 1, 1, 20)
  t.strictSame(Uint8Array.from(first), copy)
})

/** What log entries, checkpoints and the coordinator's records are written with. */
import t from 'tap'
import { pack, unpack } from '../../src/wire/msgpack.ts'

const bytes = (...values: number[]) => Uint8Array.from(values)

t.test('what was packed comes back', (t) => {
  const value = [1, -1, 0.5, 2 ** 40, Number.MAX_SAFE_INTEGER, null, true, 'käse', { a: [], b: {} }]
  t.strictSame(unpack(pack(value)), value)
  t.strictSame(Buffer.from(unpack(pack(bytes(1, 2))) as Uint8Array), Buffer.from([1, 2]))
  t.end()
})

t.test('a packed value is not overwritten by the next', (t) => {
  const first = pack(['first'])
  pack(['other'])
  t.strictSame(unpack(first), ['first'])
  t.end()
})

t.test('a 64-bit integer within 2^53 - 1 is a number, as another writer may write it', (t) => {
  t.equal(unpack(bytes(0xcf, 0, 0, 0, 0, 0, 0, 0, 7)), 7)
  t.equal(unpack(bytes(0xcf, 0, 0x1f, 255, 255, 255, 255, 255, 255)), Number.MAX_SAFE_INTEGER)
  t.equal(unpack(bytes(0xd3, 255, 255, 255, 255, 255, 255, 255, 255)), -1)
  t.end()
})

t.test('one beyond 2^53 - 1 is refused: it would come out as its neighbour', (t) => {
  t.throws(() => unpack(bytes(0xcf, 0, 0x20, 0, 0, 0, 0, 0, 1)), /2\^53/)
  t.throws(() => unpack(bytes(0x91, 0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0)), /2\^53/)
  t.end()
})

t.test('what is no single value of ours is refused, by an error that answers no peer', (t) => {
  const wrong = {
    extension: [0xd4, 0x72, 0x40],
    bomb: [0xdd, 255, 255, 255, 255],
    half: [0x92, 1],
    more: [1, 2],
  }
  for (const [name, value] of Object.entries(wrong)) {
    t.throws(() => unpack(bytes(...value)), { name: 'Error' }, name)
  }
  t.end()
})

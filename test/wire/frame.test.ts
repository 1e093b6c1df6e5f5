import t from 'tap'
import fc from 'fast-check'
import { MqError } from '../../src/errors.ts'
import { encodeFrame, FrameReader } from '../../src/wire/frame.ts'
import { plainDecode, valueOf } from './arbitrary.ts'

const frameBytesMax = 1 << 20

/** Reads `chunks` and returns what came out, as text, and the headroom of each frame. */
function read(chunks: readonly Uint8Array[], options: { headroom?: number; preface?: boolean } = {}) {
  const frames: string[] = []
  const headrooms: number[] = []
  const reader = new FrameReader({ frameBytesMax, headroom: 0, ...options }, (bytes, headroom) => {
    frames.push(Buffer.from(bytes).toString('hex'))
    headrooms.push(headroom)
  })
  for (const chunk of chunks) reader.push(Uint8Array.from(chunk))
  return { frames, headrooms, reader }
}

function stream(...bodies: Uint8Array[]): Uint8Array {
  return Buffer.concat(
    bodies.flatMap((body) => {
      const length = Buffer.alloc(4)
      length.writeUInt32BE(body.length)
      return [length, body]
    }),
  )
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

t.test('a stream cut at any byte gives the same frames', (t) => {
  const bodies = [1, 3, 200, 2, 70].map((length, i) => new Uint8Array(length).fill(i + 1))
  const bytes = Buffer.concat([Buffer.from('MQB1'), stream(...bodies)])
  for (let cut = 0; cut <= bytes.length; cut++) {
    const { frames, reader } = read([bytes.subarray(0, cut), bytes.subarray(cut)], {
      preface: true,
      headroom: 5,
    })
    t.same(frames, bodies.map(hex), `cut at ${cut}`)
    t.notOk(reader.hasPartial)
  }
  const { frames } = read(
    [...bytes].map((byte) => Uint8Array.of(byte)),
    { preface: true },
  )
  t.same(frames, bodies.map(hex), 'one byte at a time')
  t.end()
})

t.test('a stream cut at random gives the same frames, and headroom that is free to overwrite', (t) => {
  const bodies = fc.array(fc.uint8Array({ minLength: 1, maxLength: 50 }), { minLength: 1, maxLength: 10 })
  const cuts = fc.array(fc.nat(400))
  fc.assert(
    fc.property(bodies, cuts, fc.nat(30), (bodies, cuts, headroom) => {
      const bytes = stream(...bodies)
      const ends = [...cuts.map((it) => it % (bytes.length + 1)), bytes.length].sort((a, b) => a - b)
      const kept: Uint8Array[] = []
      const reader = new FrameReader({ frameBytesMax, headroom }, (frame, room) => {
        new Uint8Array(frame.buffer, frame.byteOffset - room, room).fill(0xee)
        kept.push(frame)
      })
      let at = 0
      for (const end of ends) {
        const chunk = Uint8Array.from(bytes.subarray(at, end))
        reader.push(chunk)
        chunk.fill(0xcc)
        at = end
      }
      t.same(kept.map(hex), bodies.map(hex))
    }),
  )
  t.end()
})

t.test('a frame within a chunk is a copy, or lent as a view where that is wanted', (t) => {
  for (const lends of [false, true]) {
    const large = new Uint8Array(9000).fill(7)
    const chunk = Uint8Array.from(stream(Uint8Array.of(1, 2), Uint8Array.of(3), large))
    const seen: Uint8Array[] = []
    const reader = new FrameReader({ frameBytesMax, headroom: 64, lends }, (frame, headroom) => {
      t.equal(headroom, 0)
      seen.push(frame)
    })
    reader.push(chunk)
    t.same(
      seen.map((it) => it.buffer === chunk.buffer),
      [lends, lends, lends],
    )
    if (lends) t.equal(seen[0]!.byteOffset, 4)
    else {
      chunk.fill(0)
      t.same(seen.map(hex), [Uint8Array.of(1, 2), Uint8Array.of(3), large].map(hex))
    }
  }
  t.end()
})

t.test('what a pause holds back is kept, whatever becomes of the chunk', (t) => {
  const chunk = Uint8Array.from(stream(Uint8Array.of(1), Uint8Array.of(2)))
  const seen: string[] = []
  const reader: FrameReader = new FrameReader({ frameBytesMax, headroom: 8, lends: true }, (bytes) => {
    seen.push(hex(bytes))
    reader.pause()
  })
  reader.push(chunk)
  chunk.fill(0)
  const second = Uint8Array.from(stream(Uint8Array.of(3)))
  reader.push(second)
  second.fill(0)
  reader.resume()
  reader.resume()
  t.same(seen, ['01', '02', '03'])
  t.end()
})

t.test('a frame that spans chunks stands in memory of its own, behind the headroom asked for', (t) => {
  const body = new Uint8Array(300_000).map((_, i) => i)
  const bytes = stream(body)
  const chunks = [bytes.subarray(0, 10), bytes.subarray(10, 100_000), bytes.subarray(100_000)]
  const { frames, headrooms } = read(chunks, { headroom: 64 })
  t.equal(frames[0], hex(body))
  t.same(headrooms, [64])
  t.end()
})

t.test('hasPartial from the first byte of a length to the last of its frame', (t) => {
  const { reader } = read([])
  const seen = [...stream(Uint8Array.of(7, 8))].map((byte) => {
    reader.push(Uint8Array.of(byte))
    return reader.hasPartial
  })
  t.same(seen, [true, true, true, true, true, false])
  t.end()
})

t.test('the limit applies from the next length on', (t) => {
  const lengths: number[] = []
  const reader = new FrameReader({ frameBytesMax: 10, headroom: 0 }, (bytes) => {
    lengths.push(bytes.length)
    reader.frameBytesMax = 20
  })
  reader.push(stream(new Uint8Array(10), new Uint8Array(20)))
  t.same(lengths, [10, 20])
  t.throws(() => reader.push(stream(new Uint8Array(21))), { code: 'FRAME_TOO_LARGE' })
  t.end()
})

t.test('what the callee throws passes through and ends the reader', (t) => {
  let calls = 0
  const reader = new FrameReader({ frameBytesMax, headroom: 0 }, () => {
    calls++
    throw new MqError('BAD_FRAME', 'no')
  })
  t.throws(() => reader.push(stream(Uint8Array.of(1), Uint8Array.of(2))), { code: 'BAD_FRAME' })
  reader.push(stream(Uint8Array.of(3)))
  t.equal(calls, 1)
  t.end()
})

t.test('a reader that was stopped hands out nothing more, even of the same chunk', (t) => {
  let calls = 0
  const reader = new FrameReader({ frameBytesMax, headroom: 0 }, () => {
    calls++
    reader.stop()
  })
  reader.push(stream(Uint8Array.of(1), Uint8Array.of(2)))
  t.equal(calls, 1)
  t.notOk(reader.hasPartial)
  t.end()
})

t.test('a claimed length allocates only with the bytes that come', (t) => {
  // 200 claims of 16 MiB would be 3 GiB.
  const before = process.memoryUsage().arrayBuffers
  const readers = Array.from({ length: 200 }, () => {
    const reader = new FrameReader({ frameBytesMax: 16 << 20, headroom: 64 }, () =>
      t.fail('nothing is complete'),
    )
    reader.push(Uint8Array.of(1, 0, 0, 0, 9))
    return reader
  })
  t.ok(readers.every((it) => it.hasPartial))
  t.ok(process.memoryUsage().arrayBuffers - before < 32 << 20)
  t.end()
})

t.test('a frame is what any msgpack library reads: a length, then an array', (t) => {
  const frame = encodeFrame([40, 7, { a: 1, left: undefined, big: 2 ** 40 }])
  t.equal(Buffer.from(frame).readUInt32BE(0), frame.length - 4)
  t.same(plainDecode(valueOf(frame)), [40, 7, { a: 1, big: 2 ** 40 }])
  const large = encodeFrame([40, 7, 'x'.repeat(100_000)])
  t.equal(Buffer.from(large).readUInt32BE(0), large.length - 4)
  t.same(plainDecode(valueOf(frame)), [40, 7, { a: 1, big: 2 ** 40 }], 'which is not written again')
  t.end()
})

t.test('a paused reader keeps what comes, the rest of a chunk too, and goes on in order', (t) => {
  const seen: unknown[] = []
  const reader: FrameReader = new FrameReader({ frameBytesMax: 100, headroom: 8 }, (bytes) => {
    seen.push(plainDecode(bytes)[0])
    if (seen.length % 2 === 1) reader.pause()
  })
  const stream = Buffer.concat([1, 2, 3, 4, 5].map((n) => encodeFrame([n])))
  reader.push(Uint8Array.from(stream.subarray(0, 8)))
  reader.push(Uint8Array.from(stream.subarray(8, 17)))
  reader.push(Uint8Array.from(stream.subarray(17)))
  t.strictSame(seen, [1])
  t.ok(reader.holds)
  reader.resume()
  t.strictSame(seen, [1, 2, 3])
  reader.resume()
  t.strictSame(seen, [1, 2, 3, 4, 5])
  reader.resume()
  t.notOk(reader.holds)
  t.end()
})

t.test('a paused reader that is stopped forgets what it kept', (t) => {
  const reader: FrameReader = new FrameReader({ frameBytesMax: 100, headroom: 8 }, () => reader.pause())
  reader.push(Uint8Array.from(Buffer.concat([encodeFrame([1]), encodeFrame([2])])))
  reader.stop()
  t.notOk(reader.holds)
  reader.resume()
  t.equal(reader.frames, 1)
  t.end()
})

t.test('what was kept and cannot be trusted is thrown by resume', (t) => {
  const reader: FrameReader = new FrameReader({ frameBytesMax: 100, headroom: 8 }, () => reader.pause())
  reader.push(Uint8Array.from(Buffer.concat([encodeFrame([1]), Buffer.alloc(4)])))
  t.throws(() => reader.resume(), { code: 'BAD_FRAME' })
  t.end()
})

import fc from 'fast-check'
import t from 'tap'
import { lines } from '../../src/cli/lines.ts'

async function* chunksOf(chunks: readonly Uint8Array[]) {
  for (const chunk of chunks) yield chunk
}

async function split(chunks: readonly (string | Uint8Array)[], lineBytesMax = 1000): Promise<string[]> {
  const found: string[] = []
  const input = chunksOf(chunks.map((chunk) => Buffer.from(chunk)))
  for await (const line of lines(input, lineBytesMax)) found.push(Buffer.from(line).toString('latin1'))
  return found
}

t.test('lines come without their newline, empty ones too, and the last needs none', async (t) => {
  t.strictSame(await split(['a\n', 'b\n']), ['a', 'b'])
  t.strictSame(await split(['a\n\nb']), ['a', '', 'b'])
  t.strictSame(await split(['\n']), [''])
  t.strictSame(await split(['a\r\n']), ['a\r'])
  t.strictSame(await split([]), [])
})

t.test('bytes that are no text stay as they are', async (t) => {
  t.strictSame(await split([Uint8Array.of(0xff, 0x00, 0x0a, 0xc3)]), ['\xff\x00', '\xc3'])
})

t.test('it does not matter where the chunks end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom('a', 'bc', '\n', '', '\n\n')), async (chunks) => {
      const together = chunks.join('')
      const expected = together.split('\n')
      if (expected.at(-1) === '') expected.pop()
      const found = await split(chunks)
      return JSON.stringify(found) === JSON.stringify(expected)
    }),
  )
})

t.test('a line over the limit is refused by number, before it is held', async (t) => {
  t.strictSame(await split(['a\n', '12345'], 5), ['a', '12345'])
  await t.rejects(split(['a\n', '12345', '6'], 5), {
    code: 'MESSAGE_TOO_LARGE',
    message: 'line 2 is longer than 5 bytes',
  })
  let read = 0
  const endless = (async function* () {
    for (;;) {
      read++
      yield Buffer.alloc(1000, 'x')
    }
  })()
  await t.rejects(lines(endless, 10_000).next(), { code: 'MESSAGE_TOO_LARGE' })
  t.equal(read, 11)
})

/** Lines of a stream as bytes: unlike readline's, they need not be text, and none of them fills the memory. */
import { MqError } from '../errors.ts'

/**
 * Yields each line without its `\n`; the last one need not have one. Holds one line and what was read along with
 * it; reads on when asked for the next.
 * @throws MqError MESSAGE_TOO_LARGE at a line of more than `lineBytesMax` bytes
 */
export async function* lines(
  input: AsyncIterable<Uint8Array>,
  lineBytesMax: number,
): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = []
  let partsBytes = 0
  let number = 1
  const add = (part: Uint8Array) => {
    parts.push(part)
    partsBytes += part.length
    if (partsBytes <= lineBytesMax) return
    throw new MqError('MESSAGE_TOO_LARGE', `line ${number} is longer than ${lineBytesMax} bytes`)
  }
  for await (const chunk of input) {
    let start = 0
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      add(chunk.subarray(start, end))
      yield parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)
      parts = []
      partsBytes = 0
      number++
      start = end + 1
    }
    if (start < chunk.length) add(chunk.subarray(start))
  }
  if (partsBytes > 0) yield Buffer.concat(parts)
}

const newline = 0x0a

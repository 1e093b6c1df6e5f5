/**
 * msgpack for values that are not hot: options, control answers, the payloads of log entries. No records, no
 * extensions, no classes: what is written can be read in any language.
 */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import { scanValue } from './scan.ts'

const packr = new Packr({ useRecords: false, moreTypes: false, variableMapSize: true })
const unpackr = new Unpackr({
  useRecords: false,
  mapsAsObjects: true,
  moreTypes: false,
  int64AsType: 'number',
})

/** A copy of its own, never a view into the packer's buffer. */
export function pack(value: unknown): Uint8Array {
  return Uint8Array.prototype.slice.call(packr.pack(value))
}

/**
 * The one value that `bytes` hold; bins come out as views into them.
 * @throws Error when they are anything else than PROTOCOL.md allows, integers beyond 2^53 - 1 above all: those would
 *   come out as neighbouring numbers
 */
export function unpack(bytes: Uint8Array): unknown {
  const { value, end } = unpackAt(bytes, 0)
  if (end !== bytes.length) throw new Error(`${bytes.length - end} bytes behind the value`)
  return value
}

/** As `unpack`, the value that begins at `from`, and where it ends. */
export function unpackAt(bytes: Uint8Array, from: number): { value: unknown; end: number } {
  let end: number
  try {
    end = scanValue(bytes, from, bytes.length)
  } catch (cause) {
    // Not the scan's own error: that is an answer to a peer, and these bytes are mostly ours.
    throw new Error(`no value that this writes: ${(cause as Error).message}`, { cause })
  }
  return { value: unpackr.unpack(bytes.subarray(from, end)), end }
}

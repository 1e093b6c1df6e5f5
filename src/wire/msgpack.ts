/**
 * msgpack for values that are not hot: options, control answers, the payloads of log entries. No records, no
 * extensions, no classes: what is written can be read in any language.
 */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'

const packr = new Packr({ useRecords: false, moreTypes: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, moreTypes: false })

/** A copy of its own, never a view into the packer's buffer. */
export function pack(value: unknown): Uint8Array {
  return Uint8Array.prototype.slice.call(packr.pack(value))
}

/** Bins come out as views into `bytes`. Bytes of a peer are scanned first (`scan.ts`). */
export function unpack(bytes: Uint8Array): unknown {
  return unpackr.unpack(bytes)
}

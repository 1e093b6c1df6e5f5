/**
 * msgpack for values that are not hot: options, control answers, the payloads of log entries. No records, no
 * extensions, no classes: what is written can be read in any language.
 */
import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import { Cursor } from './cursor.ts'
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
  scanWhole(bytes)
  return unpackr.unpack(bytes)
}

/** Reads one value part by part: a list may hold more numbers than one wants to have at once. */
export class PartReader {
  readonly #cursor: Cursor

  /** @throws Error as `unpack` */
  constructor(bytes: Uint8Array) {
    scanWhole(bytes)
    this.#cursor = new Cursor(bytes, 0)
  }

  /**
   * Passes the head of a list, whose items are read next.
   * @returns how many
   * @throws Error it is none
   */
  list(): number {
    const length = this.#cursor.arrayHead()
    if (length < 0) throw new Error('not a list')
    return length
  }

  /** @throws MqError INVALID_FIELD: it is no integer from 0 on */
  integer(): number {
    return this.#cursor.integer('value', 0, Number.MAX_SAFE_INTEGER)
  }

  /** The next part whole, as `unpack` gives it. */
  next(): unknown {
    const { bytes, at } = this.#cursor
    this.#cursor.at = scanValue(bytes, at, bytes.length)
    return unpackr.unpack(bytes.subarray(at, this.#cursor.at))
  }
}

function scanWhole(bytes: Uint8Array): void {
  let end: number
  try {
    end = scanValue(bytes, 0, bytes.length)
  } catch (cause) {
    // Not the scan's own error: that is an answer to a peer, and these bytes are mostly ours.
    throw new Error(`no value that this writes: ${(cause as Error).message}`, { cause })
  }
  if (end !== bytes.length) throw new Error(`${bytes.length - end} bytes behind the value`)
}

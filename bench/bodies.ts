/**
 * Bodies that can be told apart and checked. Random bytes, but for
 *
 *   0 … 3  the message's number, u32    4 … 7  the run's tag, u32    last 4  the number again
 *
 * so that a body that was cut, mixed up or left over from another run is noticed.
 */
import { randomBytes } from 'node:crypto'
import { monotonicMs } from './clock.ts'

export const bodyBytesMin = 12

export function createBody(bytes: number, tag: number): Buffer {
  const body = randomBytes(bytes)
  body.writeUInt32LE(tag, 4)
  return body
}

export function numberBody(body: Buffer, number: number): void {
  body.writeUInt32LE(number, 0)
  body.writeUInt32LE(number, body.length - 4)
}

/** What of a run has arrived. */
export class Arrivals {
  readonly #bytes: number
  readonly #tag: number
  /** A bit for each number. */
  #seen = new Uint8Array(1 << 17)
  distinct = 0
  duplicates = 0
  /** Of another run, or not what was sent. */
  damaged = 0
  #end = 0
  readonly #timed: boolean
  /** When each number came first, by `monotonicMs`; empty unless asked for. */
  readonly #receivedMs: number[] = []

  constructor(bytes: number, tag: number, timed = false) {
    this.#bytes = bytes
    this.#tag = tag
    this.#timed = timed
  }

  /** Of numbers from `first` on; NaN: it has not come. */
  receivedMs(first: number): Float64Array {
    return Float64Array.from(this.#receivedMs.slice(first), (ms) => ms ?? NaN)
  }

  note(body: Uint8Array): void {
    const last = this.#bytes - 4
    const number = u32(body, 0)
    if (body.length !== this.#bytes || u32(body, 4) !== this.#tag || u32(body, last) !== number) {
      this.damaged++
      return
    }
    const at = number >>> 3
    while (at >= this.#seen.length) {
      const wider = new Uint8Array(this.#seen.length * 2)
      wider.set(this.#seen)
      this.#seen = wider
    }
    const bit = 1 << (number & 7)
    if ((this.#seen[at]! & bit) !== 0) {
      this.duplicates++
      return
    }
    this.#seen[at]! |= bit
    this.distinct++
    if (this.#timed) this.#receivedMs[number] = monotonicMs()
    if (number >= this.#end) this.#end = number + 1
  }

  /** How many of the numbers below `total` have not arrived; those above it were never sent, and count too. */
  missing(total: number): number {
    return Math.max(0, this.#end - total) + total - this.distinct
  }
}

/** @throws Error unless each of `total` confirmed messages came, once, and as it was sent */
export function assertWhole(
  what: string,
  total: number,
  account: { readonly missing: number; readonly duplicates: number; readonly damaged: number },
): void {
  const { missing, duplicates, damaged } = account
  if (missing === 0 && duplicates === 0 && damaged === 0) return
  throw new Error(`${what}: of ${total} confirmed messages: ${JSON.stringify(account)}`)
}

function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
}

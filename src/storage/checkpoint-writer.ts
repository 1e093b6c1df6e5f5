/**
 * One checkpoint on its way to the log: encoded a piece at a time, then put together a piece at a time, and queued.
 * Entries go on being appended in between; all of them come after it in the partition's log, although before it in the
 * queue, and their first begins a record (`PartitionLog.beginCheckpoint`), so that a start finds where to go on. A crash
 * in between leaves the checkpoint before it, whose tail says the same.
 */
import { crc32 } from 'node:zlib'
import type { LogName } from '../partition/entry.ts'

/** What it costs to begin a piece, in bytes of encoding. */
const pieceCostBytes = 4096

export class CheckpointWriter {
  readonly #name: LogName
  readonly #pieces: Iterator<Uint8Array, void>
  readonly #enqueue: (bytes: Uint8Array) => void
  readonly #encoded: Uint8Array[] = []
  #length = crcBytes
  #crc = 0
  /** Where everything goes once its length is known. */
  #bytes: Buffer | null = null
  #filled = crcBytes
  #next = 0

  /** @param enqueue takes what is stored as the checkpoint */
  constructor(name: LogName, pieces: Iterator<Uint8Array, void>, enqueue: (bytes: Uint8Array) => void) {
    this.#name = name
    this.#pieces = pieces
    this.#enqueue = enqueue
  }

  /**
   * Does one piece of the work.
   * @returns what that cost, in bytes of encoding; 0: it is queued
   */
  step(): number {
    if (this.#bytes === null) {
      const { value, done } = this.#pieces.next()
      if (done !== true) {
        this.#crc = crc32(value, this.#crc)
        this.#encoded.push(value)
        this.#length += value.length
        return pieceCostBytes + value.length
      }
      this.#bytes = Buffer.allocUnsafeSlow(this.#length)
      this.#bytes.writeUInt32BE(checkpointCrc(this.#name, this.#crc), 0)
    }
    // Pieces are let go as they are copied, so that there are never two of all of them.
    let cost = 0
    while (this.#next < this.#encoded.length && cost < copiedPerStepBytes) {
      const piece = this.#encoded[this.#next]!
      this.#encoded[this.#next++] = nothing
      this.#bytes.set(piece, this.#filled)
      this.#filled += piece.length
      cost += piece.length
    }
    if (cost > 0) return cost
    this.#enqueue(this.#bytes)
    return 0
  }
}

const crcBytes = 4
const copiedPerStepBytes = 256 << 10
const nothing = new Uint8Array(0)

function checkpointCrc(name: LogName, bodyCrc: number): number {
  return (bodyCrc ^ name.crc) >>> 0
}

/** What is stored as a checkpoint, without its crc, in memory of its own; null when it has rotted. */
export function checkpointBody(name: LogName, value: Uint8Array): Buffer | null {
  const stored = Buffer.from(value)
  const body = stored.subarray(crcBytes)
  return body.length > 0 && checkpointCrc(name, crc32(body)) === stored.readUInt32BE(0) ? body : null
}

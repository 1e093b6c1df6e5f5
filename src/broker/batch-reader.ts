/** Reads the batches of a partition for somebody who goes through its messages one after the other. */
import type { Entry } from '../partition/entry.ts'
import type { Offset } from '../types.ts'
import { readBatch, type BatchView } from '../wire/batch.ts'
import type { Partition } from './partition.ts'

/** What one turn may read: scattered over many large batches, a few messages could hold everybody up. */
export const readBytesMax = 4 << 20

/** A batch with its view; or, without them, what can't be read up to `end`. */
export type ReadBatch =
  | { readonly entry: Entry; readonly view: BatchView; readonly end: Offset }
  | { readonly entry: null; readonly view: null; readonly end: Offset }

/** Keeps the batch that it read last: to read its columns anew for each message would take the square of the time. */
export class BatchReader {
  /** Of all batches that were read. */
  bytes = 0
  readonly #partition: Partition
  #last: ReadBatch | null = null
  #lastBase: Offset = 0

  constructor(partition: Partition) {
    this.#partition = partition
  }

  /** The batch that holds a live or moving offset: mostly the one of the message before. */
  at(offset: Offset): ReadBatch {
    const last = this.#last
    if (last !== null && offset >= this.#lastBase && offset < last.end) return last
    const { entry, end } = this.#partition.look(offset)
    this.bytes += entry?.payload.length ?? 0
    this.#lastBase = entry?.base ?? offset
    this.#last = entry === null ? { entry, view: null, end } : { entry, view: readBatch(entry.payload), end }
    return this.#last
  }
}

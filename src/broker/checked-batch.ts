import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import { crcOf, readBatch, validateAttributes, type BatchView } from '../wire/batch.ts'

/**
 * What a batch must be, whoever brings it.
 * @returns its view, and the names of the columns that it has
 * @throws MqError CORRUPT_BATCH, INVALID_FIELD, UNSUPPORTED
 */
export function checkedBatch(
  batch: Uint8Array,
  count: number,
  crc: number,
  supported: ReadonlySet<string>,
): { view: BatchView; columns: readonly string[] } {
  if (crcOf(batch) !== crc) throw new MqError('CORRUPT_BATCH', 'the batch does not match its crc')
  const view = readBatch(batch)
  if (view.count !== count) {
    throw new MqError('INVALID_FIELD', `count is ${count}, the batch holds ${view.count}`, {
      details: { field: 'count' },
    })
  }
  if (count > 1 && batch.length > limits.batchBytesMax) {
    throw new MqError(
      'INVALID_FIELD',
      `a batch of several messages has at most ${limits.batchBytesMax} bytes`,
      { details: { field: 'batch' } },
    )
  }
  return { view, columns: view.hasAttributes ? validateAttributes(view, supported) : noColumns }
}

const noColumns: readonly string[] = []

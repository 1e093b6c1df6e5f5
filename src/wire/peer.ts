/** Frames between nodes: PROTOCOL.md's FORWARD and its answers. Clients can't send them. */
import { MqError } from '../errors.ts'
import { limits, type OutputPosition, type PartitionId, type QueueId } from '../types.ts'
import { checkFields, decodeServerFrame, encodeServerFrame, openFrame, readQueueId } from './codec.ts'
import type { Cursor } from './cursor.ts'
import { encodeFrame, lengthBytes } from './frame.ts'
import type { RequestId } from './messages.ts'

export const peerOp = { forward: 64, forwarded: 65 } as const

export interface ForwardRequest {
  readonly id: RequestId
  readonly queueId: QueueId
  readonly partition: PartitionId
  /** Whose outputs they are: a partition of this queue. */
  readonly sourceQueueId: QueueId
  readonly sourcePartition: PartitionId
  /** Of the output before the first one in `batch`. */
  readonly previous: OutputPosition
  /** Of the last one in `batch`. */
  readonly position: OutputPosition
  readonly count: number
  readonly crc: number
  readonly batch: Uint8Array
}

export type ForwardAnswer =
  | { readonly id: RequestId; readonly position: OutputPosition }
  | { readonly id: RequestId; readonly error: MqError }

const forwardFields = [
  'queueId',
  'partition',
  'sourceQueueId',
  'sourcePartition',
  'previousEpoch',
  'previousOffset',
  'previousIndex',
  'epoch',
  'offset',
  'index',
  'count',
  'crc',
  'batch',
] as const
const forwardedFields = ['epoch', 'offset', 'index'] as const

/** A whole frame. */
export function encodeForward(request: ForwardRequest): Uint8Array {
  const { previous, position } = request
  return encodeFrame([
    peerOp.forward,
    request.id,
    Buffer.from(request.queueId, 'hex'),
    request.partition,
    Buffer.from(request.sourceQueueId, 'hex'),
    request.sourcePartition,
    previous.epoch,
    previous.offset,
    previous.index,
    position.epoch,
    position.offset,
    position.index,
    request.count,
    request.crc,
    request.batch,
  ])
}

/** @throws MqError INVALID_FIELD, BAD_FRAME, … */
export function decodeForward(frame: Uint8Array): ForwardRequest {
  const head = openFrame(frame.subarray(lengthBytes))
  const { cursor, nr, id } = head
  if (nr !== peerOp.forward) throw new MqError('BAD_FRAME', `operation ${nr} is no FORWARD`)
  checkFields(head, forwardFields)
  return {
    id,
    queueId: readQueueId(cursor),
    partition: cursor.integer('partition', 0, limits.partitionsMax - 1),
    sourceQueueId: readQueueId(cursor),
    sourcePartition: cursor.integer('sourcePartition', 0, limits.partitionsMax - 1),
    previous: readPosition(cursor, 'previous'),
    position: readPosition(cursor, 'position'),
    count: cursor.integer('count', 1, limits.batchMessagesMax),
    crc: cursor.integer('crc', 0, 0xffff_ffff),
    batch: cursor.bin('batch'),
  }
}

/** A whole frame. */
export function encodeForwardAnswer(answer: ForwardAnswer): Uint8Array {
  if ('position' in answer) {
    const { epoch, offset, index } = answer.position
    return encodeFrame([peerOp.forwarded, answer.id, epoch, offset, index])
  }
  const { code, message, retryable, details } = answer.error
  return encodeServerFrame({ op: 'error', id: answer.id, code, message, retryable, details: details ?? null })
}

/** @throws MqError INVALID_FIELD, BAD_FRAME, … */
export function decodeForwardAnswer(frame: Uint8Array): ForwardAnswer {
  const bytes = frame.subarray(lengthBytes)
  const head = openFrame(bytes)
  if (head.nr === peerOp.forwarded) {
    checkFields(head, forwardedFields)
    return { id: head.id, position: readPosition(head.cursor, 'position') }
  }
  const answer = decodeServerFrame(bytes)
  if (answer.op !== 'error') throw new MqError('BAD_FRAME', `operation ${head.nr} answers no FORWARD`)
  const { id, code, message, details } = answer
  return { id, error: new MqError(code, message, details === null ? {} : { details }) }
}

function readPosition(cursor: Cursor, field: string): OutputPosition {
  return {
    epoch: cursor.integer(field, 0, Number.MAX_SAFE_INTEGER),
    offset: cursor.integer(field, 0, Number.MAX_SAFE_INTEGER),
    index: cursor.integer(field, 0, 0xffff_ffff),
  }
}

/**
 * The text by which any connection, of any process, can settle a delivery while its lease lasts: `r` and the base64url
 * of queue id (16 bytes), partition (u32), lease epoch, lease, offset (u64 each); then `.` and the queue's name, so that
 * whoever has only the receipt knows where to go.
 */
import type { Epoch, LeaseId, Offset, PartitionId, QueueId } from '../types.ts'

export interface DeliveryReceipt {
  queueId: QueueId
  partition: PartitionId
  leaseEpoch: Epoch
  lease: LeaseId
  offset: Offset
  /** The queue's name, if the receipt says it. */
  queue?: string | undefined
}

const receiptBytes = 44
/** 'r' and 44 bytes at 6 bits a character. */
const shape = /^r[A-Za-z0-9_-]{59}(?:\.([A-Za-z0-9._-]{1,255}))?$/
const high = 2 ** 32

export function encodeReceipt(receipt: DeliveryReceipt): string {
  const bytes = Buffer.allocUnsafe(receiptBytes)
  bytes.write(receipt.queueId, 0, 'hex')
  bytes.writeUInt32BE(receipt.partition, 16)
  writeU64(bytes, receipt.leaseEpoch, 20)
  writeU64(bytes, receipt.lease, 28)
  writeU64(bytes, receipt.offset, 36)
  return `r${bytes.toString('base64url')}${receipt.queue === undefined ? '' : `.${receipt.queue}`}`
}

/** What a receipt says, or null for a text that no client has made. Forged numbers are the broker's to refuse. */
export function decodeReceipt(text: unknown): DeliveryReceipt | null {
  const parts = typeof text === 'string' ? shape.exec(text) : null
  if (parts === null) return null
  const bytes = Buffer.from(parts[0].slice(1, 60), 'base64url')
  if (bytes.length !== receiptBytes) return null
  const leaseEpoch = readU64(bytes, 20)
  const lease = readU64(bytes, 28)
  const offset = readU64(bytes, 36)
  if (!Number.isSafeInteger(leaseEpoch) || !Number.isSafeInteger(lease) || !Number.isSafeInteger(offset)) {
    return null
  }
  return {
    queueId: bytes.toString('hex', 0, 16),
    partition: bytes.readUInt32BE(16),
    leaseEpoch,
    lease,
    offset,
    queue: parts[1],
  }
}

function writeU64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / high), at)
  bytes.writeUInt32BE(value % high, at + 4)
}

function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * high + bytes.readUInt32BE(at + 4)
}

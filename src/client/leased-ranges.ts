/** Messages as their leases name them, in ranges: what settles and extensions ask for, and what is refused of them. */
import type { Epoch, LeaseId, Offset } from '../types.ts'
import type { LeasedRange } from '../wire/messages.ts'

/** A message as its lease names it. */
export interface Leased {
  readonly leaseEpoch: Epoch
  readonly lease: LeaseId
  readonly offset: Offset
}

/** Whether a message is the neighbour of the last one of `ranges`, under the same lease. */
export function joins(
  ranges: readonly LeasedRange[],
  leaseEpoch: Epoch,
  lease: LeaseId,
  offset: Offset,
): boolean {
  const last = ranges.at(-1)
  return (
    last !== undefined &&
    last.offset + last.count === offset &&
    last.lease === lease &&
    last.leaseEpoch === leaseEpoch
  )
}

/** Adds a message, to the last range where it is its neighbour. In the order of delivery, most are. */
export function append(ranges: LeasedRange[], leaseEpoch: Epoch, lease: LeaseId, offset: Offset): void {
  if (joins(ranges, leaseEpoch, lease, offset)) ranges.at(-1)!.count++
  else ranges.push({ leaseEpoch, lease, offset, count: 1 })
}

/** Whether flat `offset, count` pairs name an offset. */
export function contains(ranges: readonly number[], offset: Offset): boolean {
  for (let i = 0; i < ranges.length; i += 2) {
    if (offset >= ranges[i]! && offset < ranges[i]! + ranges[i + 1]!) return true
  }
  return false
}

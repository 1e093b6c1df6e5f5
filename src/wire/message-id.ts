import type { Epoch, Offset, PartitionId } from '../types.ts'

/** A message's id, as PROTOCOL.md makes it of where it stands. */
export function messageId(queue: string, partition: PartitionId, epoch: Epoch, offset: Offset): string {
  return `${queue}/${partition}/${epoch}-${offset}`
}

/** The partition in a message's id; null when it is none. */
export function partitionOfId(id: string): PartitionId | null {
  const partition = /^[^/]+\/(\d{1,4})\/\d+-\d+$/.exec(id)?.[1]
  return partition === undefined ? null : Number(partition)
}

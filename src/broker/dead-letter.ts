/** What a message looks like in the queue to which its own has given it up, or from which it goes on. */
import { movedBecause, type Outputs } from '../partition/outbox.ts'
import type { BatchView, MessageAttributes } from '../wire/batch.ts'
import { attributes } from '../wire/batch.ts'
import { deadLetterHeader } from '../wire/dead-letter.ts'

const reasons: Readonly<Record<number, string>> = {
  [movedBecause.maxDeliveries]: 'max-deliveries',
  [movedBecause.rejected]: 'rejected',
}

/** Attributes that meant something to the queue that the message leaves, and the headers that tell of them. */
const spent = {
  deliverAt: 'mq-deliver-at',
  delay: 'mq-delay',
  dedupeId: 'mq-dedupe-id',
  ttl: 'mq-ttl',
} as const

/**
 * The attributes of message `i` of `view` in its next queue.
 * @param origin where it leaves
 */
export function attributesOnward(
  view: BatchView,
  i: number,
  { why, error, timeMs }: Outputs,
  origin: { queue: string; id: string; deliveries: number },
): MessageAttributes | null {
  const columns = attributes(view)
  const headers = { ...(columns?.['headers']?.[i] as Record<string, string> | null | undefined) }
  for (const [attribute, header] of Object.entries(spent)) {
    const value = columns?.[attribute]?.[i] as string | number | null | undefined
    if (value !== null && value !== undefined) headers[header] = String(value)
  }
  if (why !== movedBecause.redriven) {
    headers[deadLetterHeader.reason] = reasons[why]!
    // Not that of an earlier death.
    delete headers[deadLetterHeader.error]
    if (error !== null) headers[deadLetterHeader.error] = error
    headers[deadLetterHeader.originQueue] = origin.queue
    headers[deadLetterHeader.originId] = origin.id
    headers[deadLetterHeader.deliveries] = String(origin.deliveries)
    headers[deadLetterHeader.at] = new Date(timeMs).toISOString()
  }
  const key = (columns?.['key']?.[i] as string | null | undefined) ?? undefined
  const priority = (columns?.['priority']?.[i] as number | null | undefined) ?? undefined
  const hasHeaders = Object.keys(headers).length > 0
  if (!hasHeaders && key === undefined && priority === undefined) return null
  return { headers: hasHeaders ? headers : undefined, key, priority }
}

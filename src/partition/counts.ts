import { movedBecause, type Moved } from './outbox.ts'
import { settledBy, type EntryBody, type Ranges } from './payload.ts'

/** What became of a partition's messages since this leader began: plain numbers, read when somebody asks. */
export class Counts {
  /** Messages taken. */
  sent = 0
  /** Messages leased; again and again for one that is delivered again. */
  delivered = 0
  /** Messages settled for good. */
  acked = 0
  /** Deliveries that failed. */
  failed = 0
  /** Messages that left for the dead-letter queue. */
  deadLettered = 0

  /** The leader has decided on an entry: one addition for a batch, one for each range of any other. */
  entry(body: EntryBody, messages: number): void {
    // The other kinds are about no message, or about none that a consumer had.
    if (body.kind === 'batch') this.sent += messages
    else if (body.kind === 'settle') {
      if (body.action === settledBy.ack) this.acked += sizeOf(body.settled)
      else if (body.action === settledBy.nack) this.failed += sizeOf(body.settled)
      this.#moved(body.moved)
    } else if (body.kind === 'fail') {
      this.failed += sizeOf(body.ranges)
      this.#moved(body.moved)
    }
  }

  /** Whatever becomes a dead letter is so because its delivery failed. */
  #moved(moved: Moved | null): void {
    if (moved === null || moved.why === movedBecause.redriven) return
    const messages = sizeOf(moved.ranges)
    this.failed += messages
    this.deadLettered += messages
  }
}

function sizeOf(ranges: Ranges): number {
  let size = 0
  for (let i = 1; i < ranges.length; i += 2) size += ranges[i]!
  return size
}

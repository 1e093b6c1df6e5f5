/**
 * What `/metrics` tells of a broker: read from plain fields when it is asked for, in slices of queues, so that the
 * event loop is not held however many there are. A queue that is gone has no series any more.
 */
import type { Clock } from '../env.ts'
import { inTurns } from '../turns.ts'
import type { Exposition } from './exposition.ts'
import { Histogram } from './histogram.ts'

/** What the broker times as it goes: one observation for a request, a commit or a batch, never for a message. */
export class Meters {
  readonly sendConfirm = new Histogram()
  readonly commit = new Histogram()
  readonly deliveryLatency = new Histogram()
  /** Of closed segments, read again to find rot. */
  verifiedBytes = 0
  /** Places where something does not verify. */
  verifyProblems = 0
}

/** What is known of one queue. */
export interface QueueFigures {
  readonly queue: string
  readonly sent: number
  readonly delivered: number
  readonly acked: number
  readonly failed: number
  readonly deadLettered: number
  readonly states: Readonly<Record<string, number>>
  readonly oldestAgeMs: number
}

/** A broker, for whoever measures it. */
export interface Measured {
  readonly meters: Meters
  readonly connections: number
  /** Names of queues, any order. */
  queueNames(): Iterable<string>
  /** Null when the queue, or the broker, is gone. */
  figuresOf(queue: string): QueueFigures | null
  /** Segments that hold something of this queue that is not settled, as numbers of bytes by name. */
  segmentsOf(queue: string, into: Set<string>): void
  segments(): readonly { readonly name: string; readonly usedBytes: number }[]
}

const queuesPerTurn = 200

/** By name of the metric, what of the figures is its value. */
const counters = {
  mq_sent_messages_total: ['sent', 'Messages that the queue has taken.'],
  mq_delivered_messages_total: ['delivered', 'Messages leased to consumers, each time they are.'],
  mq_acked_messages_total: ['acked', 'Messages settled for good.'],
  mq_failed_deliveries_total: ['failed', 'Deliveries that ended without an ack.'],
  mq_dead_lettered_messages_total: ['deadLettered', 'Messages that went to the dead-letter queue.'],
} as const

/** Writes the broker's metrics. Counters begin at 0 with the process. */
export async function writeMetrics(broker: Measured, clock: Clock, out: Exposition): Promise<void> {
  const figures: QueueFigures[] = []
  const live = new Set<string>()
  for await (const name of inTurns([...broker.queueNames()], queuesPerTurn, clock)) {
    const queue = broker.figuresOf(name)
    if (queue === null) continue
    figures.push(queue)
    broker.segmentsOf(name, live)
  }

  for (const [name, [field, help]] of Object.entries(counters)) {
    out.family(name, 'counter', help)
    for (const each of figures) out.sample(name, { queue: each.queue }, each[field])
  }
  out.family('mq_queue_messages', 'gauge', 'Messages in the queue now, by state.')
  for (const { queue, states } of figures) {
    for (const [state, messages] of Object.entries(states)) {
      out.sample('mq_queue_messages', { queue, state }, messages)
    }
  }
  out.family(
    'mq_queue_oldest_age_seconds',
    'gauge',
    'Age of the oldest message that is not settled; 0: none.',
  )
  for (const { queue, oldestAgeMs } of figures) {
    out.sample('mq_queue_oldest_age_seconds', { queue }, oldestAgeMs / 1000)
  }
  const { meters } = broker
  out.histogram(
    'mq_send_confirm_seconds',
    'From the arrival of a batch to its confirm, one for each batch.',
    meters.sendConfirm,
  )
  out.histogram('mq_commit_seconds', 'Length of a group commit, sync included.', meters.commit)
  out.histogram(
    'mq_delivery_latency_seconds',
    'From the arrival of a batch to its first delivery, one for each piece that is delivered.',
    meters.deliveryLatency,
  )
  writeSegments(broker, live, out)
  out.single(
    'mq_verified_bytes_total',
    'counter',
    'Bytes of closed log segments that were read again, to find rot.',
    meters.verifiedBytes,
  )
  out.single(
    'mq_verify_problems_total',
    'counter',
    'Places of closed log segments where something does not verify, each counted once.',
    meters.verifyProblems,
  )
  out.single('mq_connections', 'gauge', 'Connections that are open.', broker.connections)
}

function writeSegments(broker: Measured, live: ReadonlySet<string>, out: Exposition): void {
  const bytes = { live: 0, dead: 0 }
  const segments = broker.segments()
  for (const [i, { name, usedBytes }] of segments.entries()) {
    // The last one is still written to.
    const isLive = live.has(name) || i === segments.length - 1
    bytes[isLive ? 'live' : 'dead'] += usedBytes
  }
  out.family(
    'mq_segment_bytes',
    'gauge',
    'Bytes of log segments, by whether anything in them is not settled yet (live) or nothing is (dead).',
  )
  for (const [state, sum] of Object.entries(bytes)) out.sample('mq_segment_bytes', { state }, sum)
}

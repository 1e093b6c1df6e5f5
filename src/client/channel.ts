/**
 * What this client has under way on one partition: its sends and settles, which share one sequence (PROTOCOL.md).
 * A request keeps its sequence and bytes until it is answered, whatever happens to connections and to whoever waits
 * for it; at most `unansweredMax` are unanswered, counted from the oldest.
 */
import { MqError } from '../errors.ts'
import { limits, type Offset, type PartitionId, type ProducerId } from '../types.ts'
import type { RequestId, Sequenced } from '../wire/messages.ts'
import { isRetried, retryPause, type Core } from './core.ts'
import { mayHaveBegun } from './ending.ts'
import type { Queue, Queues } from './queues.ts'
import { errorOf, type Answer, type Request } from './session.ts'

/** One request of a sequence, as its maker sees it. */
export interface SequencedWork {
  encode(id: RequestId, as: Sequenced): readonly Uint8Array[]
  answered(answer: Answer): void
  /** Refused for good; `error.outcome` says what is known. */
  refused(error: MqError): void
}

export class Channel {
  readonly partition: PartitionId
  /** Called when there may be room again. */
  onRoom: () => void = () => undefined
  readonly #core: Core
  readonly #queues: Queues
  readonly #queue: Queue
  #producerId: ProducerId
  #opening: Offset
  /** Nothing has been sent under this producer id: its opening may still move up. */
  #fresh = true
  #nextSequence = 1
  /** Ascending by sequence. */
  readonly #unanswered = new Map<number, SequencedRequest>()
  #renewing = false
  /** Until a new producer is opened. */
  readonly #parked: SequencedWork[] = []

  constructor(core: Core, queues: Queues, queue: Queue, partition: PartitionId, logEnd: Offset) {
    this.#core = core
    this.#queues = queues
    this.#queue = queue
    this.partition = partition
    this.#producerId = queues.producerId()
    this.#opening = logEnd
  }

  get isIdle(): boolean {
    return this.#unanswered.size === 0 && this.#parked.length === 0
  }

  /** Requests without an answer. */
  get unanswered(): number {
    return this.#unanswered.size + this.#parked.length
  }

  /** The window takes another request. */
  get hasRoom(): boolean {
    if (this.#unanswered.size === 0) return this.#parked.length === 0
    const [oldest] = this.#unanswered.keys()
    return !this.#renewing && this.#nextSequence - oldest! < limits.unansweredMax
  }

  lookedUp(logEnd: Offset): void {
    if (this.#fresh) this.#opening = Math.max(this.#opening, logEnd)
  }

  /** Sends `work` under the next sequence. There must be room. */
  submit(work: SequencedWork): void {
    if (this.#renewing) {
      this.#parked.push(work)
      return
    }
    this.#fresh = false
    const request = new SequencedRequest(this.#core, this, work, {
      producerId: this.#producerId,
      producerEpoch: 0,
      sequence: this.#nextSequence++,
      opening: this.#opening,
    })
    this.#unanswered.set(request.as.sequence, request)
    request.start()
  }

  /** @internal */
  ended(request: SequencedRequest): void {
    this.#unanswered.delete(request.as.sequence)
  }

  /** @internal The broker has forgotten the producer, and this request is certainly new: as another producer, then. */
  renew(work: SequencedWork, forgotten: ProducerId): void {
    if (forgotten !== this.#producerId && !this.#renewing) {
      this.submit(work)
      return
    }
    this.#parked.push(work)
    if (this.#renewing) return
    this.#renewing = true
    this.#queues.logEnd(this.#queue, this.partition).then(
      (logEnd) => {
        this.#renewing = false
        this.#producerId = this.#queues.freshProducerId()
        this.#opening = logEnd
        for (const each of this.#parked.splice(0)) this.submit(each)
      },
      (error: unknown) => {
        this.#renewing = false
        const { code, message } = error instanceof MqError ? error : new MqError('INTERNAL', String(error))
        for (const each of this.#parked.splice(0))
          each.refused(new MqError(code, message, { outcome: 'failed' }))
        this.onRoom()
      },
    )
  }
}

class SequencedRequest implements Request {
  readonly as: Sequenced
  readonly #core: Core
  readonly #channel: Channel
  readonly #work: SequencedWork
  /** A connection ended before its answer came: an earlier copy may have been accepted. */
  #doubtful = false

  constructor(core: Core, channel: Channel, work: SequencedWork, as: Sequenced) {
    this.#core = core
    this.#channel = channel
    this.#work = work
    this.as = as
  }

  start(): void {
    this.#core.session.start(this)
  }

  encode(id: RequestId): readonly Uint8Array[] {
    return this.#work.encode(id, this.as)
  }

  interrupted(): boolean {
    this.#doubtful = true
    return true
  }

  answered(answer: Answer): void {
    if (answer.op !== 'error') {
      this.#channel.ended(this)
      this.#work.answered(answer)
      this.#channel.onRoom()
      return
    }
    const error = errorOf(answer)
    if (isRetried(error.code)) {
      // Not looked at, or refused without a trace: the same sequence may come again.
      this.#core.clock.after(retryPause(this.#core, error.details), () => this.start())
      return
    }
    if (error.code === 'REFUSED_BEFORE') {
      // Nothing was done under this sequence, and later ones were: it needs a new one.
      this.#channel.ended(this)
      this.#channel.submit(this.#work)
      return
    }
    if (error.code === 'UNKNOWN_PRODUCER' && !this.#doubtful) {
      this.#channel.ended(this)
      this.#channel.renew(this.#work, this.as.producerId)
      return
    }
    this.#channel.ended(this)
    const { code, message, details } = error
    // A refusal by sequence speaks of every copy; any other only of this one.
    const unknown = this.#doubtful || mayHaveBegun(code) || code === 'OUT_OF_ORDER_SEQUENCE'
    this.#work.refused(new MqError(code, message, { outcome: unknown ? 'unknown' : 'failed', details }))
    this.#channel.onRoom()
  }
}

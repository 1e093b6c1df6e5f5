/**
 * What this client has under way on one partition: its sends and settles, which share one sequence (PROTOCOL.md).
 * A request keeps its sequence and bytes until it is answered, whatever happens to connections and to whoever waits
 * for it; at most `unansweredMax` are unanswered, counted from the oldest.
 */
import { MqError } from '../errors.ts'
import type { Offset, PartitionId, ProducerId } from '../types.ts'
import type { RequestId, Sequenced } from '../wire/messages.ts'
import { isRetried, retryPause, type Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { mayHaveBegun } from './ending.ts'
import type { Queue, Queues } from './queues.ts'
import { errorOf, type Answer, type Request } from './session.ts'

/** One request of a sequence, as its maker sees it. */
export interface SequencedWork {
  encode(id: RequestId, as: Sequenced): readonly Uint8Array[]
  /** @param hasLeft as of `Request` */
  answered(answer: Answer, hasLeft: boolean): void
  /** Refused for good; `error.outcome` says what is known. */
  refused(error: MqError): void
}

export class Channel implements Deadline {
  place: Place | null = null
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
  /** Those of them that the broker could not look at just then. New ones wait behind them, so that order is kept. */
  readonly #paused = new Set<SequencedRequest>()
  /** A new producer is being opened. */
  #renewing = false
  /** Were sent, certainly without effect, and need a new sequence. They go before anything new. */
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

  /** Takes another request. */
  get hasRoom(): boolean {
    return this.#parked.length === 0 && this.#isOpen
  }

  get #isOpen(): boolean {
    if (this.#renewing || this.#paused.size > 0) return false
    for (const oldest of this.#unanswered.keys()) {
      return this.#nextSequence - oldest < this.#core.session.limits.unansweredMax
    }
    return true
  }

  lookedUp(logEnd: Offset): void {
    if (this.#fresh) this.#opening = Math.max(this.#opening, logEnd)
  }

  /** Sends `work` under the next sequence. There must be room. */
  submit(work: SequencedWork): void {
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

  /** @internal It has its answer, or is of no use any more. */
  ended(request: SequencedRequest): void {
    this.#unanswered.delete(request.as.sequence)
    if (this.#paused.delete(request) && this.#paused.size === 0) this.#core.deadlines.remove(this)
  }

  /** @internal There may be room again. */
  flush(): void {
    while (this.#parked.length > 0 && this.#isOpen) this.submit(this.#parked.shift()!)
    this.onRoom()
  }

  /** @internal The broker asks for a pause: the request keeps its sequence and its place. */
  pause(request: SequencedRequest, pauseMs: number): void {
    this.#paused.add(request)
    const { deadlines, turn } = this.#core
    // All that are paused go on together, in their order, when the last pause is over.
    if (this.place === null || this.place.dueMs < turn.nowMs + pauseMs)
      deadlines.set(this, turn.nowMs, pauseMs)
  }

  /** The pause is over. */
  expire(): void {
    const paused = [...this.#paused].sort((a, b) => a.as.sequence - b.as.sequence)
    this.#paused.clear()
    for (const request of paused) request.resume()
    this.flush()
  }

  /** @internal Certainly nothing was done: under a new sequence, then. */
  again(work: SequencedWork): void {
    this.#parked.push(work)
    this.flush()
  }

  /** @internal The broker has forgotten the producer, and this request is certainly new: as another producer, then. */
  renew(work: SequencedWork, forgotten: ProducerId): void {
    if (forgotten === this.#producerId && !this.#renewing) this.#openProducer()
    this.again(work)
  }

  #openProducer(): void {
    this.#renewing = true
    this.#queues.logEnd(this.#queue, this.partition).then(
      (logEnd) => {
        this.#renewing = false
        this.#producerId = this.#queues.freshProducerId()
        this.#opening = logEnd
        this.flush()
      },
      (error: unknown) => {
        this.#renewing = false
        const { code, message } = error instanceof MqError ? error : new MqError('INTERNAL', String(error))
        for (const each of this.#parked.splice(0))
          each.refused(new MqError(code, message, { outcome: 'failed' }))
        this.flush()
      },
    )
  }
}

class SequencedRequest implements Request {
  readonly as: Sequenced
  readonly #core: Core
  readonly #channel: Channel
  readonly #work: SequencedWork
  /** In the session's table. */
  #id = 0
  /** A connection ended before its answer came: an earlier copy may have been accepted. */
  #doubtful = false

  constructor(core: Core, channel: Channel, work: SequencedWork, as: Sequenced) {
    this.#core = core
    this.#channel = channel
    this.#work = work
    this.as = as
  }

  start(): void {
    this.#id = this.#core.session.start(this)
  }

  /** Its pause is over. */
  resume(): void {
    this.#core.session.resume(this.#id)
  }

  encode(id: RequestId): readonly Uint8Array[] {
    return this.#work.encode(id, this.as)
  }

  interrupted(): boolean {
    this.#doubtful = true
    return true
  }

  answered(answer: Answer, hasLeft: boolean): boolean {
    if (answer.op !== 'error') {
      this.#channel.ended(this)
      this.#work.answered(answer, hasLeft)
      this.#channel.flush()
      return false
    }
    const error = errorOf(answer)
    if (isRetried(error.code)) {
      // Not looked at, or refused without a trace: the same sequence may come again.
      this.#channel.pause(this, retryPause(this.#core, error.details))
      return true
    }
    this.#channel.ended(this)
    if (error.code === 'REFUSED_BEFORE') {
      // Nothing was done under this sequence, and later ones were: it needs a new one.
      this.#channel.again(this.#work)
      return false
    }
    if (error.code === 'UNKNOWN_PRODUCER' && !this.#doubtful) {
      this.#channel.renew(this.#work, this.as.producerId)
      return false
    }
    const { code, message, details } = error
    // A refusal by sequence speaks of every copy; any other only of this one.
    const unknown = this.#doubtful || mayHaveBegun(code) || code === 'OUT_OF_ORDER_SEQUENCE'
    this.#work.refused(new MqError(code, message, { outcome: unknown ? 'unknown' : 'failed', details }))
    this.#channel.flush()
    return false
  }
}

/**
 * Gathers a queue's messages into batches. A batch leaves at the end of the turn, or when it is large; while enough
 * of them are unanswered it waits and grows, so that load makes batches larger and not more.
 */
import { invariant } from '../errors.ts'
import type { BatchBuilder, MessageAttributes } from '../wire/batch.ts'
import type { BuilderPool } from './builder-pool.ts'
import type { Channel } from './channel.ts'
import type { Core } from './core.ts'
import type { Queue } from './queues.ts'
import { SendBatch, type Sending } from './send-batch.ts'
import type { TurnWork } from './turn.ts'

export interface OutgoingMessage {
  readonly body: Uint8Array | string
  readonly serializer: string | null
  readonly attributes: MessageAttributes | null
  readonly bodyBytes: number
  /** What counts against the queue's `maxMessageBytes`. */
  readonly sizeBytes: number
  /** What counts against the client's `maxPendingBytes`. */
  readonly heldBytes: number
}

/** A batch leaves without waiting for the end of the turn once it has this many bytes or messages. */
const softBytes = 256 << 10
const softMessages = 2000
/** Batches of one partition on their way before the next one waits and grows. */
const aheadMax = 4

export class Sender implements TurnWork {
  inTurn = false
  /** Bytes of messages that were unconfirmed are no longer. */
  onRelief: (bytes: number) => void = () => undefined
  readonly #core: Core
  readonly #queue: Queue
  readonly #builders: BuilderPool
  #builder: BatchBuilder | null = null
  #open: SendBatch | null = null
  /** Complete, and waiting for room. */
  readonly #sealed: SendBatch[] = []
  #turn = 0
  #unanswered = 0

  constructor(core: Core, queue: Queue, builders: BuilderPool) {
    this.#core = core
    this.#queue = queue
    this.#builders = builders
  }

  get isIdle(): boolean {
    return this.#unanswered === 0
  }

  /** Adds a message, whose size was checked; its body is copied. */
  add({ body, bodyBytes, serializer, attributes }: OutgoingMessage, sending: Sending): void {
    const { batchMessagesMax, batchBytesMax } = this.#core.session.limits
    if (
      this.#builder !== null &&
      (this.#builder.count >= batchMessagesMax ||
        this.#builder.wouldExceed(batchBytesMax, bodyBytes, serializer, attributes))
    ) {
      this.#seal()
      this.pump()
    }
    const builder = (this.#builder ??= this.#builders.take())
    const batch = (this.#open ??= this.#begin())
    builder.add(body, serializer, attributes)
    batch.add(sending)
    if (builder.byteLength >= softBytes || builder.count >= softMessages) this.pump()
    this.#core.turn.add(this)
  }

  atEndOfTurn(): void {
    this.pump()
  }

  /** Puts on their way what there is room for. */
  pump(): void {
    // Without a connection batches stay here, where what is given up can still be left out of them.
    while (this.#core.session.isReady && (this.#sealed.length > 0 || this.#open !== null)) {
      const channel = this.#nextChannel()
      if (channel === null) return
      if (this.#sealed.length === 0) this.#seal()
      const batch = this.#sealed.shift()!
      if (batch.leavesFor(channel.partition)) channel.submit(batch)
    }
  }

  #begin(): SendBatch {
    this.#unanswered++
    this.#queue.begins()
    return new SendBatch(
      this.#core,
      this.#queue,
      (bytes) => this.onRelief(bytes),
      () => this.#unanswered--,
    )
  }

  #seal(): void {
    const batch = this.#open
    const builder = this.#builder
    invariant(batch !== null && builder !== null, 'there is a batch to seal')
    batch.seal(builder.finish())
    this.#builders.give(builder)
    this.#open = null
    this.#builder = null
    this.#sealed.push(batch)
  }

  /** The next partition in turn that takes a batch. */
  #nextChannel(): Channel | null {
    const { channels } = this.#queue
    for (let i = 0; i < channels.length; i++) {
      const at = (this.#turn + i) % channels.length
      const channel = channels[at]!
      if (channel.unanswered >= aheadMax || !channel.hasRoom) continue
      this.#turn = (at + 1) % channels.length
      return channel
    }
    return null
  }
}

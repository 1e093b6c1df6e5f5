/** One batch of messages, from the first to the answer. */
import type { Offset } from '../types.ts'
import { attributes, BatchBuilder, crcOf, messageBody, readBatch } from '../wire/batch.ts'
import { encodeSend } from '../wire/codec.ts'
import type { RequestId, Sequenced } from '../wire/messages.ts'
import type { Work } from './activity.ts'
import type { SequencedWork } from './channel.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, timedOut, type Abandonment } from './ending.ts'
import { unexpected, type Queue } from './queues.ts'
import { SendReceipt } from './receipt.ts'
import type { MqError } from '../errors.ts'
import type { Answer } from './session.ts'

/** Who waits for a message's confirmation. `tag` is what it gave with the message. */
export interface SendTarget {
  sent(receipt: SendReceipt, tag: number): void
  failed(error: MqError, tag: number): void
}

const confirms = ['replicas', 'leader', 'none'] as const
const storages = ['disk', 'memory'] as const

export class SendBatch implements SequencedWork, Deadline, Work {
  place: Place | null = null
  readonly #core: Core
  readonly #queue: Queue
  /** Told of bytes that nobody waits for any more, and of the end. */
  readonly #released: (bytes: number, ended: boolean) => void
  /** Null once told. */
  readonly #targets: (SendTarget | null)[] = []
  readonly #tags: number[] = []
  readonly #dueMs: number[] = []
  readonly #bytes: number[] = []
  #waiting = 0
  #batch: Uint8Array | null = null
  #crc = 0
  #count = 0
  #partition = 0
  /** It was given to a connection: nobody but the broker knows what becomes of it. */
  #onWire = false
  #ended = false

  constructor(core: Core, queue: Queue, released: (bytes: number, ended: boolean) => void) {
    this.#core = core
    this.#queue = queue
    this.#released = released
    core.activity.begin(this)
  }

  add(target: SendTarget, tag: number, dueMs: number, bytes: number): void {
    this.#targets.push(target)
    this.#tags.push(tag)
    this.#dueMs.push(dueMs)
    this.#bytes.push(bytes)
    this.#waiting++
    // Nearly always all messages of a batch have one time-out, so the first one's stands for them.
    if (this.place === null || dueMs < this.place.dueMs) {
      const { nowMs } = this.#core.turn
      this.#core.deadlines.set(this, nowMs, Math.max(0, dueMs - nowMs))
    }
  }

  seal(batch: Uint8Array): void {
    this.#batch = batch
    this.#count = this.#targets.length
  }

  /** Just before it leaves for a partition. @returns false when nobody wants it any more, and it must not */
  leavesFor(partition: number): boolean {
    if (this.#waiting === 0) {
      this.#end()
      return false
    }
    if (this.#waiting < this.#count) this.#leaveOut()
    this.#partition = partition
    this.#crc = crcOf(this.#batch!)
    return true
  }

  encode(id: RequestId, as: Sequenced): readonly Uint8Array[] {
    this.#onWire = true
    return encodeSend({
      id,
      queueId: this.#queue.queueId,
      partition: this.#partition,
      producerId: as.producerId,
      producerEpoch: as.producerEpoch,
      sequence: as.sequence,
      opening: as.opening,
      count: this.#count,
      crc: this.#crc,
      batch: this.#batch!,
    })
  }

  answered(answer: Answer): void {
    if (answer.op !== 'sent') {
      this.refused(unexpected('SEND', answer.op))
      return
    }
    const base: Offset = answer.base
    const shared = {
      queue: this.#queue.name,
      partition: this.#partition,
      epoch: answer.epoch,
      base,
      duplicate: answer.duplicate,
      confirm: confirms[answer.confirm] ?? 'replicas',
      storage: storages[answer.storage] ?? 'disk',
    }
    this.#end()
    for (let i = 0; i < this.#count; i++) this.#targets[i]?.sent(new SendReceipt(shared, i), this.#tags[i]!)
  }

  refused(error: MqError): void {
    if (error.code === 'QUEUE_DELETED' || error.code === 'QUEUE_NOT_FOUND') this.#queue.isGone()
    this.#end()
    for (let i = 0; i < this.#count; i++) this.#targets[i]?.failed(error, this.#tags[i]!)
  }

  expire(nowMs: number): void {
    let next = Infinity
    for (let i = 0; i < this.#targets.length; i++) {
      if (this.#targets[i] === null) continue
      if (this.#dueMs[i]! <= nowMs) this.#tell(i, timedOut('sending a message', this.#onWire))
      else next = Math.min(next, this.#dueMs[i]!)
    }
    if (next !== Infinity) this.#core.deadlines.set(this, nowMs, next - nowMs)
  }

  abandon(why: Abandonment): void {
    for (let i = 0; i < this.#targets.length; i++) {
      if (this.#targets[i] !== null) this.#tell(i, abandoned('sending a message', why, this.#onWire))
    }
    this.#core.activity.end(this)
  }

  /** `target` gives its message up. @returns null when it has been told already, else whether a broker may have it */
  giveUp(target: SendTarget): { mayBeDone: boolean } | null {
    const i = this.#ended ? -1 : this.#targets.indexOf(target)
    if (i < 0) return null
    this.#drop(i)
    return { mayBeDone: this.#onWire }
  }

  #tell(i: number, error: MqError): void {
    const target = this.#targets[i]!
    this.#drop(i)
    target.failed(error, this.#tags[i]!)
  }

  #drop(i: number): void {
    this.#targets[i] = null
    this.#waiting--
    this.#released(this.#bytes[i]!, false)
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#core.deadlines.remove(this)
    this.#core.activity.end(this)
    let bytes = 0
    for (let i = 0; i < this.#targets.length; i++) if (this.#targets[i] !== null) bytes += this.#bytes[i]!
    this.#released(bytes, true)
  }

  /** Some were given up before the batch left, and were told that nothing was done: so they must not leave. */
  #leaveOut(): void {
    const view = readBatch(this.#batch!)
    const columns = attributes(view)
    const { serializer } = view
    const builder = new BatchBuilder()
    let kept = 0
    for (let i = 0; i < this.#count; i++) {
      if (this.#targets[i] === null) continue
      const headers = columns?.['headers']?.[i] as Record<string, string> | null | undefined
      builder.add(
        messageBody(view, i),
        serializer === null || typeof serializer === 'string' ? serializer : serializer[i]!,
        headers ? { headers } : null,
      )
      this.#targets[kept] = this.#targets[i]!
      this.#tags[kept] = this.#tags[i]!
      this.#dueMs[kept] = this.#dueMs[i]!
      this.#bytes[kept] = this.#bytes[i]!
      kept++
    }
    this.#targets.length = this.#tags.length = this.#dueMs.length = this.#bytes.length = kept
    this.#count = kept
    this.#batch = builder.finish()
  }
}

/** Gathers the acks of one partition: those of a turn, or of a wait for room, leave as ranges in one SETTLE. */
import { MqError } from '../errors.ts'
import { limits, type Epoch, type LeaseId, type Offset } from '../types.ts'
import { encodeClientFrame } from '../wire/codec.ts'
import { settleAction, type LeasedRange, type RequestId, type Sequenced } from '../wire/messages.ts'
import type { Work } from './activity.ts'
import type { Channel, SequencedWork } from './channel.ts'
import type { Core } from './core.ts'
import type { Deadline, Place } from './deadlines.ts'
import { abandoned, timedOut, type Abandonment } from './ending.ts'
import { unexpected, type Queue } from './queues.ts'
import type { Answer } from './session.ts'
import type { TurnWork } from './turn.ts'

/** Who waits for an ack's answer. */
export interface AckTarget {
  settled(): void
  failed(error: MqError): void
}

/** Requests of one partition on their way before the next settle waits and grows. */
const aheadMax = 4
/** Ranges in one SETTLE. */
const itemsMax = Math.min(4096, limits.batchMessagesMax)

export function leaseLost(): MqError {
  return new MqError('LEASE_LOST', 'the lease has ended, or the message was settled before', {
    outcome: 'failed',
  })
}

export class Acker implements TurnWork {
  inTurn = false
  readonly #core: Core
  readonly #queue: Queue
  readonly #channel: Channel
  #open: AckBatch | null = null

  constructor(core: Core, queue: Queue, channel: Channel) {
    this.#core = core
    this.#queue = queue
    this.#channel = channel
  }

  get isIdle(): boolean {
    return this.#open === null
  }

  /** @returns the batch it is in, for `giveUp` */
  ack(leaseEpoch: Epoch, lease: LeaseId, offset: Offset, target: AckTarget, dueMs: number): AckBatch {
    const batch = (this.#open ??= new AckBatch(this.#core, this.#queue, this.#channel.partition))
    batch.add(leaseEpoch, lease, offset, target, dueMs)
    this.#core.turn.add(this)
    return batch
  }

  atEndOfTurn(): void {
    this.pump()
  }

  pump(): void {
    // Without a connection acks stay here: what is given up before it leaves was certainly not done.
    if (
      !this.#core.session.isReady ||
      this.#open === null ||
      !this.#channel.hasRoom ||
      this.#channel.unanswered >= 2 * aheadMax
    )
      return
    const batch = this.#open
    this.#open = null
    for (const part of batch.split()) this.#channel.submit(part)
  }
}

export class AckBatch implements SequencedWork, Deadline, Work {
  place: Place | null = null
  readonly #core: Core
  readonly #queue: Queue
  readonly #partition: number
  /** One for each ack; null once told. */
  readonly #targets: (AckTarget | null)[] = []
  readonly #leases: LeasedRange[] = []
  readonly #dueMs: number[] = []
  #items: LeasedRange[] = []
  /** Holds the acks that did not fit. */
  #rest: AckBatch | null = null
  #onWire = false

  constructor(core: Core, queue: Queue, partition: number) {
    this.#core = core
    this.#queue = queue
    this.#partition = partition
    core.activity.begin(this)
  }

  add(leaseEpoch: Epoch, lease: LeaseId, offset: Offset, target: AckTarget, dueMs: number): void {
    this.#targets.push(target)
    this.#leases.push({ leaseEpoch, lease, offset, count: 1 })
    this.#dueMs.push(dueMs)
    if (dueMs !== Infinity && (this.place === null || dueMs < this.place.dueMs)) {
      this.#core.deadlines.set(this, this.#core.turn.nowMs, dueMs - this.#core.turn.nowMs)
    }
  }

  /**
   * Ready to leave: the acks that are still wanted, as ranges; several batches if one can't hold them. The broker
   * names the offsets that it refuses, so two acks of one message must not be in one batch: the second is refused,
   * and the first would be told so too.
   */
  split(): AckBatch[] {
    let last: LeasedRange | undefined
    // In the order of delivery offsets rise, and no set of them is needed.
    let highest = -1
    let offsets: Set<Offset> | null = null
    for (let i = 0; i < this.#targets.length; i++) {
      if (this.#targets[i] === null) continue
      const ack = this.#leases[i]!
      if (ack.offset <= highest) {
        offsets ??= this.#wantedOffsets(i)
        if (offsets.has(ack.offset)) return [this, ...this.#splitAt(i)]
      }
      highest = Math.max(highest, ack.offset)
      offsets?.add(ack.offset)
      // In the order of delivery neighbours follow each other, so nothing has to be sorted.
      if (
        last !== undefined &&
        last.offset + last.count === ack.offset &&
        last.lease === ack.lease &&
        last.leaseEpoch === ack.leaseEpoch
      ) {
        last.count++
        continue
      }
      if (this.#items.length === itemsMax) return [this, ...this.#splitAt(i)]
      last = { ...ack }
      this.#items.push(last)
    }
    if (this.#items.length > 0) return [this]
    this.#end()
    return []
  }

  #wantedOffsets(end: number): Set<Offset> {
    const offsets = new Set<Offset>()
    for (let i = 0; i < end; i++) if (this.#targets[i] !== null) offsets.add(this.#leases[i]!.offset)
    return offsets
  }

  #splitAt(at: number): AckBatch[] {
    const rest = (this.#rest = new AckBatch(this.#core, this.#queue, this.#partition))
    for (let i = at; i < this.#targets.length; i++) {
      const target = this.#targets[i]
      const { leaseEpoch, lease, offset } = this.#leases[i]!
      if (target) rest.add(leaseEpoch, lease, offset, target, this.#dueMs[i]!)
    }
    this.#targets.length = this.#leases.length = this.#dueMs.length = at
    return rest.split()
  }

  encode(id: RequestId, as: Sequenced): readonly Uint8Array[] {
    this.#onWire = true
    const { queueId } = this.#queue
    const action = settleAction.ack
    const { producerId, producerEpoch, sequence, opening } = as
    return [
      encodeClientFrame({
        op: 'settle',
        id,
        queueId,
        partition: this.#partition,
        producerId,
        producerEpoch,
        sequence,
        opening,
        action,
        items: this.#items,
        options: null,
        outputs: null,
      }),
    ]
  }

  answered(answer: Answer): void {
    if (answer.op !== 'settled') {
      this.refused(unexpected('SETTLE', answer.op))
      return
    }
    this.#end()
    const { refused } = answer
    for (let i = 0; i < this.#targets.length; i++) {
      const target = this.#targets[i]
      if (!target) continue
      if (refused !== null && contains(refused, this.#leases[i]!.offset)) target.failed(leaseLost())
      else target.settled()
    }
  }

  refused(error: MqError): void {
    if (error.code === 'QUEUE_DELETED' || error.code === 'QUEUE_NOT_FOUND') this.#queue.isGone()
    this.#end()
    for (const target of this.#targets) target?.failed(error)
  }

  expire(nowMs: number): void {
    let next = Infinity
    for (let i = 0; i < this.#targets.length; i++) {
      const target = this.#targets[i]
      if (!target) continue
      if (this.#dueMs[i]! <= nowMs) {
        this.#targets[i] = null
        target.failed(timedOut('acking a message', this.#onWire))
      } else next = Math.min(next, this.#dueMs[i]!)
    }
    if (next !== Infinity) this.#core.deadlines.set(this, nowMs, next - nowMs)
  }

  abandon(why: Abandonment): void {
    for (let i = 0; i < this.#targets.length; i++) {
      const target = this.#targets[i]
      this.#targets[i] = null
      target?.failed(abandoned('acking a message', why, this.#onWire))
    }
    this.#core.activity.end(this)
  }

  /** @returns null when it has been told already, else whether a broker may have the ack */
  giveUp(target: AckTarget): { mayBeDone: boolean } | null {
    const i = this.#targets.indexOf(target)
    if (i < 0) return this.#rest?.giveUp(target) ?? null
    this.#targets[i] = null
    return { mayBeDone: this.#onWire }
  }

  #end(): void {
    this.#core.deadlines.remove(this)
    this.#core.activity.end(this)
  }
}

function contains(ranges: readonly number[], offset: Offset): boolean {
  for (let i = 0; i < ranges.length; i += 2) {
    if (offset >= ranges[i]! && offset < ranges[i]! + ranges[i + 1]!) return true
  }
  return false
}

/**
 * Gathers the settles of one partition, acks and all others: what is done alike in a turn, or in a wait for room,
 * leaves as ranges in one SETTLE.
 */
import { invariant, InvariantError, MqError } from '../errors.ts'
import { limits, type Epoch, type LeaseId, type Offset, type PartitionId } from '../types.ts'
import { encodeClientFrame } from '../wire/codec.ts'
import {
  settleAction,
  type LeasedRange,
  type RequestId,
  type Sequenced,
  type SettleOptions,
} from '../wire/messages.ts'
import type { Channel, SequencedWork } from './channel.ts'
import { checkOnline, type Core } from './core.ts'
import { Fifo } from './fifo.ts'
import { append, contains, joins } from './leased-ranges.ts'
import { isGone, unexpected, type Queue } from './queues.ts'
import type { Answer } from './session.ts'
import type { TurnWork } from './turn.ts'
import { Waiters, type Waiter } from './waiters.ts'

/** What is done with a leased message. Those that are equal travel together. */
export interface Settling {
  readonly action: (typeof settleAction)[keyof typeof settleAction]
  /** Of a nack or a dead-letter. */
  readonly options: SettleOptions | null
}

export const acking: Settling = { action: settleAction.ack, options: null }
export const releasing: Settling = { action: settleAction.release, options: null }

const whatIsDone = {
  [settleAction.ack]: 'acking a message',
  [settleAction.nack]: 'nacking a message',
  [settleAction.release]: 'releasing a message',
  [settleAction.deadLetter]: 'dead-lettering a message',
} as const

/** Who waits for the answer to a settle. */
export interface AckTarget extends Waiter {
  settled(): void
  failed(error: MqError): void
}

/**
 * SETTLEs of one partition on their way before the next one waits and grows. While one is being synced the next is there
 * already; more, which would trickle in one by one, would cost the broker more commits. Those that differ in what is done
 * can't grow together, so more of them go: nacks whose reasons differ, above all.
 */
const aheadMax = 2
const aheadMaxUnlike = 8
/** Messages in one batch, and ranges in one SETTLE. */
const acksMax = limits.batchMessagesMax
const itemsMax = Math.min(4096, limits.batchMessagesMax)

function keyOf({ action, options }: Settling): string {
  if (options === null) return String(action)
  const { delayMs, reason } = options
  return `${action} ${delayMs} ${reason === null ? '' : `=${reason}`}`
}

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
  /** Complete, and waiting for room. */
  readonly #full = new Fifo<AckBatch>()
  /** By what is done, in the order in which they were begun. */
  readonly #open = new Map<string, AckBatch>()
  /** Given to the channel, and not ended; also those that it keeps back. */
  #unanswered = 0

  constructor(core: Core, queue: Queue, channel: Channel) {
    this.#core = core
    this.#queue = queue
    this.#channel = channel
  }

  get isIdle(): boolean {
    return this.#open.size === 0 && this.#full.size === 0
  }

  /** @throws MqError DISCONNECTED */
  settle(how: Settling, leaseEpoch: Epoch, lease: LeaseId, offset: Offset, target: AckTarget): void {
    checkOnline(this.#core)
    const key = keyOf(how)
    let open = this.#open.get(key)
    if (open === undefined) {
      open = this.#begin(how)
      this.#open.set(key, open)
      this.#queue.begins()
    }
    open.add(leaseEpoch, lease, offset, target)
    if (open.length === acksMax) {
      this.#full.push(open)
      this.#open.delete(key)
    }
    this.#core.turn.add(this)
  }

  #begin(how: Settling): AckBatch {
    return new AckBatch(this.#core, this.#queue, this.#channel.partition, how, () => {
      this.#unanswered--
      invariant(this.#unanswered >= 0, 'a settle ends once')
    })
  }

  atEndOfTurn(): void {
    this.pump()
  }

  /** Puts on their way what there is room for. */
  pump(): void {
    const max = this.#open.size + this.#full.size > 1 ? aheadMaxUnlike : aheadMax
    // Without a connection acks stay here: what is given up before it leaves was certainly not done.
    while (!this.isIdle && this.#core.session.isReady && this.#channel.hasRoom && this.#unanswered < max) {
      const batch = this.#next()
      const rest = batch.seal()
      if (rest !== null) this.#full.push(rest)
      if (!batch.isWanted) continue
      this.#unanswered++
      this.#channel.submit(batch)
    }
  }

  #next(): AckBatch {
    const full = this.#full.shift()
    if (full !== undefined) return full
    for (const [key, open] of this.#open) {
      this.#open.delete(key)
      return open
    }
    throw new InvariantError('there is a batch')
  }
}

class AckBatch implements SequencedWork {
  readonly #core: Core
  readonly #queue: Queue
  readonly #partition: PartitionId
  readonly #how: Settling
  readonly #waiters: Waiters<AckTarget>
  /** What each waiter asks for, in their order. Neighbours mostly follow each other, so ranges say it shortest. */
  readonly #asked: LeasedRange[] = []
  /** The greatest offset of all that were asked for; Infinity once one was not greater than those before it. */
  #highest = -1
  /** What leaves. */
  #items: LeasedRange[] = []
  /** Told of the answer, once it has left. */
  readonly #ended: () => void

  constructor(core: Core, queue: Queue, partition: PartitionId, how: Settling, ended: () => void) {
    this.#core = core
    this.#queue = queue
    this.#partition = partition
    this.#how = how
    this.#ended = ended
    this.#waiters = new Waiters(core, whatIsDone[how.action], (target, error) => target.failed(error))
  }

  add(leaseEpoch: Epoch, lease: LeaseId, offset: Offset, target: AckTarget): void {
    append(this.#asked, leaseEpoch, lease, offset)
    this.#highest = offset > this.#highest ? offset : Infinity
    this.#waiters.add(target)
  }

  get length(): number {
    return this.#waiters.length
  }

  /** Somebody still waits for it. */
  get isWanted(): boolean {
    return this.#waiters.waiting > 0
  }

  /**
   * Just before it leaves: puts those that are still wanted together.
   * @returns a batch of those that must go in another request; null when there are none
   */
  seal(): AckBatch | null {
    const areAllWanted = this.#waiters.waiting === this.#waiters.length
    if (areAllWanted && this.#highest < Infinity && this.#asked.length <= itemsMax) {
      this.#items = this.#asked
      return null
    }
    let rest: AckBatch | null = null
    const items: LeasedRange[] = []
    const offsets = new Set<Offset>()
    let i = -1
    for (const { leaseEpoch, lease, offset: first, count } of this.#asked) {
      for (let offset = first; offset < first + count; offset++) {
        if (!this.#waiters.isWaiting(++i)) continue
        // The answer names what it refuses by offset alone, so each offset stands once in a request: two receipts of a
        // message have two answers.
        if (offsets.has(offset) || (items.length === itemsMax && !joins(items, leaseEpoch, lease, offset))) {
          rest ??= new AckBatch(this.#core, this.#queue, this.#partition, this.#how, this.#ended)
          rest.add(leaseEpoch, lease, offset, this.#waiters.take(i))
          continue
        }
        offsets.add(offset)
        append(items, leaseEpoch, lease, offset)
      }
    }
    invariant(i === this.#waiters.length - 1, 'each waiter asks for one message')
    this.#items = items
    return rest
  }

  encode(id: RequestId, as: Sequenced): readonly Uint8Array[] {
    this.#waiters.onWire = true
    const { queueId } = this.#queue
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
        action: this.#how.action,
        items: this.#items,
        options: this.#how.options,
        outputs: null,
      }),
    ]
  }

  answered(answer: Answer): void {
    if (answer.op !== 'settled') {
      this.refused(unexpected('SETTLE', answer.op))
      return
    }
    this.#ended()
    const { refused } = answer
    if (refused === null) {
      this.#waiters.end((target) => target.settled())
      return
    }
    const offsets = this.#asked.flatMap(({ offset, count }) =>
      Array.from({ length: count }, (_, i) => offset + i),
    )
    this.#waiters.end((target, i) => {
      if (contains(refused, offsets[i]!)) target.failed(leaseLost())
      else target.settled()
    })
  }

  refused(error: MqError): void {
    this.#ended()
    if (isGone(error)) this.#queue.isGone()
    this.#waiters.end((target) => target.failed(error))
  }
}

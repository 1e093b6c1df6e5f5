import type { Offset, PartitionId } from '../types.ts'
import { bodyLength } from '../wire/batch.ts'
import type { Delivery, LeasedRange } from '../wire/messages.ts'
import { append, contains, type Leased } from './leased-ranges.ts'
import { Message, type DeliveryContext, type LeaseKeeper } from './message.ts'

/** Who counts what is held. */
export interface Holder {
  /** One message of `held` is held no more. */
  let(held: Held): void
}

const isHeld = 0
const isSettling = 1
const isGone = 2

/** The messages of one delivery under their lease, until each is settled or its lease is lost. */
export class Held implements LeaseKeeper {
  readonly partition: PartitionId
  readonly base: Offset
  readonly leaseMs: number
  /** Of the batch. */
  readonly bytes: number
  /** Monotonic times: of the next renewal, and at which the lease has ended for all that is known here. */
  dueMs: number
  expiresMs: number
  readonly #holder: Holder
  readonly #leaseEpoch: number
  readonly #lease: number
  /** Null until its batch has been read. */
  #delivery: DeliveryContext | null = null
  /** By index. */
  #states: Uint8Array = new Uint8Array(0)
  #left = 0
  /** The first that was not handed out, and where in the batch its body begins. */
  #next = 0
  #nextAt = 0
  /** Who wants to know that a lease is lost, by index. */
  #watchers: Map<number, () => void> | null = null

  constructor(holder: Holder, delivery: Delivery, nowMs: number) {
    this.#holder = holder
    this.partition = delivery.partition
    this.base = delivery.base
    this.#leaseEpoch = delivery.leaseEpoch
    this.#lease = delivery.lease
    this.leaseMs = Math.max(1, delivery.leaseMs)
    this.bytes = delivery.batch.length
    this.dueMs = 0
    this.expiresMs = 0
    this.renewed(nowMs)
  }

  /** Its batch has been read. */
  begin(delivery: DeliveryContext): void {
    this.#delivery = delivery
    this.#left = delivery.view.count
    this.#states = new Uint8Array(this.#left)
    this.#nextAt = delivery.view.bodiesAt
  }

  get count(): number {
    return this.#states.length
  }

  /** Messages that are neither settled nor lost. */
  get left(): number {
    return this.#left
  }

  /** There may be some that were not handed out. */
  get hasMore(): boolean {
    return this.#next < this.#states.length
  }

  /** The lease lasts for its whole length from `nowMs` on. */
  renewed(nowMs: number): void {
    this.dueMs = nowMs + this.leaseMs / 3
    this.expiresMs = nowMs + this.leaseMs
  }

  /** Hands the next message out. @returns its index, or -1 when there is none */
  handOut(): number {
    while (this.#next < this.#states.length) {
      const index = this.#next++
      this.#nextAt += bodyLength(this.#delivery!.view, index)
      if (this.#states[index] !== isGone) return index
    }
    return -1
  }

  /** The message that was handed out last. It is made only now: what is young when it dies costs next to nothing. */
  message(): Message {
    const delivery = this.#delivery!
    const { view } = delivery
    const index = this.#next - 1
    const body = view.bytes.subarray(this.#nextAt - bodyLength(view, index), this.#nextAt)
    return new Message(delivery, index, body)
  }

  /** What was not handed out, which is let go of. */
  takeRest(): Leased[] {
    const rest: Leased[] = []
    for (let index = this.handOut(); index >= 0; index = this.handOut()) {
      rest.push({ leaseEpoch: this.#leaseEpoch, lease: this.#lease, offset: this.base + index })
      this.gone(index)
    }
    return rest
  }

  settling(index: number): void {
    if (this.#states[index] === isHeld) this.#states[index] = isSettling
  }

  unsettled(index: number): void {
    if (this.#states[index] === isSettling) this.#states[index] = isHeld
  }

  gone(index: number): void {
    if (this.#states[index] === isGone) return
    this.#states[index] = isGone
    this.#left--
    this.#watchers?.delete(index)
    this.#holder.let(this)
  }

  /** Calls `run` if the lease of message `index` is lost before it is settled. */
  onLost(index: number, run: () => void): void {
    this.#watchers ??= new Map()
    this.#watchers.set(index, run)
  }

  /** The lease is over as far as anybody here knows. */
  expired(): void {
    for (let index = 0; index < this.#states.length; index++) this.#lose(index)
  }

  /** The broker has no such lease for some: flat `offset, count`. A settle that is on its way explains that. */
  refused(ranges: readonly number[]): void {
    for (let index = 0; index < this.#states.length; index++) {
      if (this.#states[index] === isHeld && contains(ranges, this.base + index)) this.#lose(index)
    }
  }

  #lose(index: number): void {
    if (this.#states[index] === isGone) return
    const run = this.#watchers?.get(index)
    this.gone(index)
    run?.()
  }

  /** Adds what is left to `items`, as ranges. */
  addTo(items: LeasedRange[]): void {
    for (let index = 0; index < this.#states.length; index++) {
      if (this.#states[index] !== isGone) append(items, this.#leaseEpoch, this.#lease, this.base + index)
    }
  }
}

/**
 * The oracle: a model of what may happen to each message, fed with what clients saw, that objects at once.
 *
 * Every body is sent once and names itself, so a delivery says which send it came from, and its headers which
 * incarnation of that it is (`lineage.ts`). A receipt says which lease a delivery has; (epoch, number) of leases rises
 * in the order in which a partition grants them, whatever the network does to the answers. That makes the rules about
 * leases exact without knowing when anything happened at the broker.
 *
 * Checked here (numbers of correctness.md): nothing confirmed is lost (9), nothing unsent (10) or definitely refused
 * (11) is delivered, ids are unique (12), a message has one id however often its client retried (13), first
 * deliveries are in order (14), one valid lease a message (15), none after its ack or its purge (16), what is given up
 * or redriven is in the next queue once and no longer in its own (18), delivery counts (19: they rise by nack and
 * expiry, never by release, and up to the limit), bytes (22); receipts are good until they run out, across planned
 * stops too; no message is delivered while it is delayed, unless the broker's clock was set. What peek shows must be
 * there.
 *
 * Not asserted: how soon anything is delivered while faults go on; that an operation of unknown outcome was done or
 * not; fairness between consumers; which partition a message goes to; what purge, redrive and peek count or leave out.
 */
import { decodeReceipt } from '../../src/client/delivery-receipt.ts'
import { backoffDelayMs } from '../../src/partition/backoff.ts'
import type { QueueOptions } from '../../src/types.ts'
import { Admin } from './admin.ts'
import type { QueueConfig } from './config.ts'
import { grantName as name, isBefore, type Grant, type Settle } from './grant.ts'
import {
  deadLetterQueueOf,
  Lineage,
  parseId,
  readDeadLetter,
  sentHeaders,
  type DeadLetter,
  type Headers,
  type Incarnation,
  type Place,
} from './lineage.ts'
import { Violation } from './violation.ts'

interface Message extends Sent {
  readonly lineage: Lineage
  readonly beganMs: number
  outcome: 'pending' | 'ok' | 'failed' | 'unknown'
}

export interface Sent {
  readonly token: string
  readonly queue: string
  readonly body: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly delayMs?: number
  /** By the client's clock, as the broker's before anybody set that. */
  readonly deliverAt?: number
}

export interface Delivered {
  readonly queue: string
  readonly id: string
  readonly body: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly deliveryCount: number
  readonly receipt: string
  readonly receiveBeganMs: number
  /** Undefined: the queue's. */
  readonly visibilityTimeoutMs: number | undefined
  /** By a loop or a worker, which renews its lease. */
  readonly isRenewed: boolean
  /** Unplanned ends of the broker when the receive began. */
  readonly crashesBefore: number
}

/** What peek shows of a message. */
export type Peeked = Pick<Delivered, 'queue' | 'id' | 'body' | 'headers' | 'deliveryCount'>

/** Of a broker that makes a queue by itself. */
const visibilityTimeoutMsDefault = 30_000

export class Shadow {
  readonly admin: Admin
  readonly #nowMs: () => number
  readonly #messages = new Map<string, Message>()
  readonly #byId = new Map<string, Incarnation>()
  readonly #byReceipt = new Map<string, { message: Incarnation; grant: Grant }>()
  /** fiber/queue/partition → the highest offset that a send of it was confirmed with. */
  readonly #lastSent = new Map<string, Place>()
  /** queue/partition/lease epoch → lease → lowest and highest offset it delivered for the first time. */
  readonly #firsts = new Map<string, Map<number, [number, number]>>()
  readonly #startMs: number
  readonly #unordered = new Set<string>()
  #crashes = 0
  #clockJumped = false

  /**
   * @param nowMs time since the start of the run
   * @param startMs what clocks showed then
   */
  constructor(nowMs: () => number, queues: readonly QueueConfig[], startMs: number) {
    this.#nowMs = nowMs
    this.admin = new Admin(nowMs, queues)
    this.#startMs = startMs
  }

  /** The broker's wall clock was set: delays that run may be shorter from here on. */
  clockJumped(): void {
    this.#clockJumped = true
  }

  /** Unplanned ends of the broker, and whatever else ends leases early. */
  get crashes(): number {
    return this.#crashes
  }

  get messageCount(): number {
    return this.#messages.size
  }

  /** The broker ended without handing its leases over; from here on they may be gone. */
  brokerCrashed(): void {
    this.#crashes++
  }

  sendBegan(sent: Sent): void {
    this.#messages.set(sent.token, {
      ...sent,
      lineage: new Lineage(sent.token, sent.queue, this.admin),
      beganMs: this.#nowMs(),
      outcome: 'pending',
    })
  }

  /**
   * @param id from the receipt, when confirmed
   * @param fiber whose sends follow each other
   */
  sendEnded(token: string, outcome: 'ok' | 'failed' | 'unknown', id: string | null, fiber: string): void {
    const message = this.#messages.get(token)!
    message.outcome = outcome
    if (outcome === 'failed' && message.lineage.wasSeen) {
      throw new Violation('11', `${token} was delivered, and its send failed`)
    }
    if (outcome !== 'ok') return
    if (id === null) throw new Violation('', `${token} was confirmed without an id`)
    message.lineage.bindRoot(id)
    const place = this.#there(message.lineage.root, id)
    const key = `${fiber}/${place.queue}/${place.partition}`
    const last = this.#lastSent.get(key)
    const isAnew = last !== undefined && place.epoch > last.epoch && this.admin.mayHaveDeleted(place.queue, 0)
    if (last !== undefined && !isAnew && (place.offset <= last.offset || place.epoch < last.epoch)) {
      throw new Violation('14', `${token} was sent after ${last.epoch}-${last.offset} and is at ${id}`)
    }
    this.#lastSent.set(key, place)
  }

  delivered(delivery: Delivered): void {
    const { id, deliveryCount } = delivery
    const { message, of, place } = this.#seen(delivery, delivery.receiveBeganMs)

    const receipt = decodeReceipt(delivery.receipt)
    if (receipt === null) throw new Violation('', `${id} has a receipt that cannot be read`)
    if (receipt.offset !== place.offset || receipt.partition !== place.partition) {
      throw new Violation('', `the receipt of ${id} names another message`)
    }
    if (this.#byReceipt.has(delivery.receipt)) throw new Violation('15', `one lease delivered ${id} twice`)
    const visibilityMs = this.#leastVisibilityMs(delivery)
    const grant: Grant = {
      epoch: receipt.leaseEpoch,
      lease: receipt.lease,
      deliveryCount,
      fromMs: delivery.receiveBeganMs,
      seenMs: this.#nowMs(),
      crashesBefore: delivery.crashesBefore,
      goodUntilMs: delivery.receiveBeganMs + visibilityMs,
      renewalMs: delivery.isRenewed ? visibilityMs : Infinity,
      extendDoubt: false,
      extends: 0,
      settles: 0,
      returns: 0,
      releases: 0,
      rejections: [],
      endedBy: null,
      restsUntilMs: 0,
    }
    this.#byReceipt.set(delivery.receipt, { message, grant })
    // Answers may come late, so a lease may take its place before one that was seen earlier.
    let at = message.grants.length
    while (at > 0 && isBefore(grant, message.grants[at - 1]!)) at--
    message.grants.splice(at, 0, grant)
    if (at > 0) this.#checkPair(message, message.grants[at - 1]!, grant)
    if (at + 1 < message.grants.length) this.#checkPair(message, grant, message.grants[at + 1]!)
    if (message.acked !== null && isBefore(message.acked, grant)) {
      throw new Violation(
        '16',
        `${id} is leased as ${name(grant)}, after the ack of ${name(message.acked)} was confirmed`,
      )
    }
    if (message.givenUp !== null && isBefore(message.givenUp, grant)) {
      throw new Violation(
        '18',
        `${id} is leased as ${name(grant)}, after it was given up as ${name(message.givenUp)}`,
      )
    }
    if (!(deliveryCount >= 1)) throw new Violation('19', `${id} has delivery count ${deliveryCount}`)
    if (message.kind !== 'sent') return
    this.#checkDelay(message, grant, this.#notBeforeMs(of), 'sent')
    // What was delayed or given back comes later than its neighbours.
    if (deliveryCount === 1 && !message.wasReleased && !this.#mayBeDelayed(of)) this.#noteFirst(place, grant)
  }

  /** What peek showed, which began then. */
  peeked(peeked: Peeked, beganMs: number): void {
    const { message } = this.#seen(peeked, beganMs)
    if (message.ackedMs < beganMs)
      throw new Violation('16', `peek shows ${peeked.id}, whose ack was confirmed`)
  }

  /** Somebody sees a message, in an answer to what began then. */
  #seen(seen: Peeked, beganMs: number): { message: Incarnation; of: Message; place: Place } {
    const { id, queue, deliveryCount } = seen
    const token = tokenOf(seen.body)
    const of = this.#messages.get(token)
    if (of === undefined) throw new Violation('10', `${id} was delivered, and nobody sent its body`)
    if (of.outcome === 'failed')
      throw new Violation('11', `${token} is delivered as ${id}, and its send failed`)
    if (Buffer.compare(of.body, seen.body) !== 0) throw new Violation('22', `the body of ${id} has changed`)
    const letter = readDeadLetter(seen.headers)
    if (!sameHeaders(of.headers, letter === null ? seen.headers : sentHeaders(seen.headers)))
      throw new Violation('22', `the headers of ${id} have changed`)
    const message = of.lineage.find(queue, id, letter, this.#nowMs())
    const place = this.#there(message, id)
    if (letter !== null) this.#checkDeadLetter(id, letter)
    if (message.nextSeenMs < beganMs) {
      throw new Violation('18', `${id} is there after it had become ${message.next!.name}`)
    }
    if (this.admin.hasPurged(queue, message.thereMs, beganMs))
      throw new Violation('16', `${id} is there after a purge`)
    const { maxDeliveries = Infinity } = this.admin.fixed(queue)
    if (deliveryCount > maxDeliveries)
      throw new Violation('19', `${id} is delivered the ${deliveryCount}th time, of ${maxDeliveries}`)
    return { message, of, place }
  }

  /** A message was given up: it must have deserved it. */
  #checkDeadLetter(id: string, { reason, error, originId, originQueue, deliveries }: DeadLetter): void {
    const origin = this.#byId.get(originId)
    const grants = origin?.grants ?? []
    const newest = grants.at(-1)
    if (newest !== undefined && newest.deliveryCount > deliveries) {
      throw new Violation(
        '19',
        `${id} says ${deliveries} deliveries, and its origin ${originId} had ${newest.deliveryCount}`,
      )
    }
    if (reason === 'rejected') {
      const isTrue = grants.some(
        ({ rejections, deliveryCount }) => rejections.includes(error) && deliveryCount === deliveries,
      )
      if (!isTrue)
        throw new Violation('19', `${originId} was rejected as ${id} ('${error}'), and nobody did that`)
      return
    }
    const { maxDeliveries } = this.admin.fixed(originQueue)
    if (deliveries !== maxDeliveries) {
      throw new Violation('19', `${originId} was given up after ${deliveries} deliveries of ${maxDeliveries}`)
    }
    if (newest !== undefined && newest.deliveryCount === deliveries && !this.#mayHaveFailed(newest)) {
      throw new Violation('19', `${originId} was given up as ${id} during its lease ${name(newest)}`)
    }
  }

  #mayHaveFailed(grant: Grant): boolean {
    return grant.returns > 0 || !this.#isGood(grant)
  }

  ackBegan(receipt: string): void {
    const held = this.#byReceipt.get(receipt)!
    held.message.acksInDoubt++
    held.grant.settles++
  }

  /** @param outcome failed: the broker said that this ack settled nothing */
  ackEnded(receipt: string, outcome: 'ok' | 'failed' | 'unknown', code: string): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    if (outcome === 'unknown') return
    message.acksInDoubt--
    if (outcome === 'ok') {
      const newest = message.grants.at(-1)!
      if (isBefore(grant, newest)) {
        throw new Violation(
          '15',
          `${message.id} was acked as ${name(grant)} although ${name(newest)} was granted`,
        )
      }
      if (message.next !== null) {
        throw new Violation('18', `${message.name} is acked, and has become ${message.next.name}`)
      }
      message.acked = grant
      message.ackedMs = this.#nowMs()
      this.#ended(message, grant, 'ack')
    } else this.#refused(message, grant, code)
  }

  nackBegan(receipt: string): void {
    const { grant } = this.#byReceipt.get(receipt)!
    grant.settles++
    grant.returns++
  }

  /** @param delayMs as asked for */
  nackEnded(
    receipt: string,
    beganMs: number,
    delayMs: number | undefined,
    outcome: 'ok' | 'failed' | 'unknown',
    code: string,
  ): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    if (outcome === 'unknown') return
    if (outcome === 'ok') {
      this.#ended(message, grant, 'nack')
      const { maxDeliveries = Infinity } = this.admin.fixed(message.queue)
      if (grant.deliveryCount >= maxDeliveries) return this.#givenUp(message, grant)
      grant.restsUntilMs = beganMs + (delayMs ?? this.#leastBackoffMs(message, grant))
      const next = message.grants[message.grants.indexOf(grant) + 1]
      if (next !== undefined) this.#checkPair(message, grant, next)
      return
    }
    grant.returns--
    this.#refused(message, grant, code)
  }

  releaseBegan(receipt: string): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    grant.settles++
    grant.returns++
    grant.releases++
    message.wasReleased = true
  }

  releaseEnded(receipt: string, outcome: 'ok' | 'failed' | 'unknown', code: string): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    if (outcome === 'unknown') return
    if (outcome === 'ok') {
      this.#ended(message, grant, 'release')
      const next = message.grants[message.grants.indexOf(grant) + 1]
      if (next !== undefined) this.#checkPair(message, grant, next)
      return
    }
    grant.returns--
    grant.releases--
    this.#refused(message, grant, code)
  }

  deadLetterBegan(receipt: string, reason: string | undefined): void {
    const { grant } = this.#byReceipt.get(receipt)!
    grant.settles++
    grant.rejections.push(reason)
  }

  deadLetterEnded(receipt: string, outcome: 'ok' | 'failed' | 'unknown', code: string): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    if (outcome === 'unknown') return
    if (outcome === 'failed') return this.#refused(message, grant, code)
    this.#ended(message, grant, 'dead-letter')
    this.#givenUp(message, grant)
  }

  /** By a confirmed settle of its lease, which was the last one then. */
  #givenUp(message: Incarnation, grant: Grant): void {
    const newest = message.grants.at(-1)!
    if (isBefore(grant, newest)) {
      throw new Violation(
        '18',
        `${message.id} was given up as ${name(grant)} although ${name(newest)} was granted`,
      )
    }
    message.givenUp = grant
  }

  /** One settle of a lease was confirmed; another can't be. */
  #ended(message: Incarnation, grant: Grant, by: Settle): void {
    if (grant.endedBy !== null) {
      throw new Violation(
        '15',
        `${message.id}: lease ${name(grant)} was ended by ${grant.endedBy} and by ${by}`,
      )
    }
    grant.endedBy = by
  }

  #refused(message: Incarnation, grant: Grant, code: string): void {
    if (
      code === 'LEASE_LOST' &&
      this.#isGood(grant) &&
      grant.settles === 1 &&
      !this.#mayBePurged(message, grant)
    ) {
      throw new Violation('15', `${message.id}: lease ${name(grant)} was refused before it had run out`)
    }
  }

  /** Its holder may nack or release it at any time from now on: it is promised to nobody any more. */
  givenUp(receipt: string): void {
    const { grant } = this.#byReceipt.get(receipt)!
    grant.goodUntilMs = -Infinity
    grant.releases++
    grant.returns++
  }

  /**
   * Messages of this queue that were delivered and seen by nobody may be given back, and come for the first time once
   * more: behind others, then.
   */
  mayComeBack(queue: string): void {
    this.#unordered.add(queue)
  }

  extendBegan(receipt: string, extendMs: number): void {
    const { grant } = this.#byReceipt.get(receipt)!
    grant.goodUntilMs = Math.min(grant.goodUntilMs, this.#nowMs() + extendMs)
    // Of two at a time nobody knows which came last.
    if (++grant.extends > 1) grant.extendDoubt = true
  }

  extendEnded(
    receipt: string,
    beganMs: number,
    extendMs: number,
    outcome: 'ok' | 'failed' | 'unknown',
    code: string,
  ): void {
    const { message, grant } = this.#byReceipt.get(receipt)!
    const wasGood = this.#isGood(grant) && !this.#mayBePurged(message, grant)
    if (outcome === 'unknown') {
      grant.extendDoubt = true
      return
    }
    grant.extends--
    if (outcome === 'ok' && !grant.extendDoubt)
      grant.goodUntilMs = beganMs + Math.min(extendMs, grant.renewalMs)
    if (outcome === 'failed' && code === 'LEASE_LOST' && wasGood && grant.settles === 0) {
      throw new Violation('15', `${message.id}: lease ${name(grant)} was not extended before it had run out`)
    }
  }

  /** Everything has come to rest and the queues are empty. */
  finish(): void {
    for (const { lineage, outcome, token, beganMs } of this.#messages.values()) {
      for (const message of lineage.all) this.#checkGivenUp(message)
      const { leaves, root } = lineage
      const acked = leaves.filter((leaf) => leaf.acked !== null)
      if (acked.length > 1) {
        throw new Violation('18', `${token} was acked as ${acked.map((leaf) => leaf.name).join(' and as ')}`)
      }
      if (outcome !== 'ok' || acked.length > 0) continue
      if (leaves.some((leaf) => leaf.acksInDoubt > 0 || this.#mayEndPurged(leaf, beganMs))) continue
      const seen = leaves.map(({ name: what, grants }) => `${what}, ${grants.length} times delivered`)
      throw new Violation(
        '9',
        `${token} (${root.id}) was confirmed and is gone: ${seen.join('; ')}, never acked`,
      )
    }
    for (const [where, leases] of this.#firsts) {
      if (this.#unordered.has(where.slice(0, where.indexOf('/')))) continue
      let before = -1
      for (const [lease, [lowest, highest]] of [...leases].sort(([a], [b]) => a - b)) {
        if (lowest <= before) {
          throw new Violation(
            '14',
            `${where}: lease ${lease} delivers ${lowest} first, after ${before} had been delivered`,
          )
        }
        before = highest
      }
    }
  }

  /** What was given up for certain is a dead letter, or was one. */
  #checkGivenUp({ name: what, queue, givenUp, next, lineage }: Incarnation): void {
    if (givenUp === null || next !== null || lineage.isBroken) return
    // With a queue goes what it had not forwarded.
    if (this.admin.mayHaveDeleted(queue, givenUp.fromMs)) return
    const deadLetterQueue = deadLetterQueueOf(this.admin, queue)
    if (deadLetterQueue !== null && this.#mayEndPurged({ queue: deadLetterQueue }, givenUp.fromMs)) return
    throw new Violation('18', `${what} was given up as ${name(givenUp)} and is no dead letter`)
  }

  /** Whether it may be gone by a purge, perhaps after it had moved on unseen. */
  #mayEndPurged({ queue }: Pick<Incarnation, 'queue'>, sinceMs: number): boolean {
    const { admin } = this
    const next = deadLetterQueueOf(admin, queue)
    const isSpread = admin.hasRedriven(queue) || (next !== null && admin.hasRedriven(next))
    const queues = isSpread ? admin.queueNames : next === null ? [queue] : [queue, next]
    return queues.some((each) => admin.mayHavePurged(each, sinceMs))
  }

  #mayBePurged({ queue }: Incarnation, { fromMs }: Grant): boolean {
    return this.admin.mayHavePurged(queue, fromMs)
  }

  /** A message is known to be where its id says. */
  #there(message: Incarnation, id: string): Place {
    const holder = this.#byId.get(id)
    if (holder !== undefined && holder.lineage !== message.lineage) {
      throw new Violation('12', `${id} is both ${holder.lineage.token} and ${message.lineage.token}`)
    }
    const place = parseId(id)
    if (place.queue !== message.queue) {
      throw new Violation('12', `${message.lineage.token} is in ${message.queue}, as ${id}`)
    }
    message.thereMs = Math.min(message.thereMs, this.#nowMs())
    this.#byId.set(id, message)
    return place
  }

  /** Two leases of one message, `first` granted before `second`, with none between them that was seen. */
  #checkPair(message: Incarnation, first: Grant, second: Grant): void {
    const pair = `${message.id}: lease ${name(first)} has delivery count ${first.deliveryCount}, ${name(second)} has ${second.deliveryCount}`
    if (second.deliveryCount < first.deliveryCount) throw new Violation('19', pair)
    // What a nack said is in the log, and holds whatever happens to the broker's memory.
    this.#checkDelay(message, second, first.restsUntilMs, 'nacked')
    if (first.endedBy === 'nack' && second.deliveryCount === first.deliveryCount)
      throw new Violation('19', `${pair}, though the first was nacked`)
    // Was the broker's memory lost between the two? Both receives are taken whole, since nobody knows when in them.
    if (this.#crashes > first.crashesBefore) return
    if (second.deliveryCount === first.deliveryCount && first.releases === 0)
      throw new Violation('19', `${pair}, though the first must have failed`)
    const leasesBetween = second.lease - first.lease - (first.endedBy === 'release' ? 1 : 0)
    if (second.deliveryCount - first.deliveryCount > leasesBetween) {
      throw new Violation('19', `${pair}: more failures than leases`)
    }
    if (first.returns > 0) return
    this.#checkDelay(message, second, first.goodUntilMs + this.#leastBackoffMs(message, first), 'expired')
    if (second.seenMs + 1 < first.goodUntilMs) {
      throw new Violation(
        '15',
        `${message.id}: leased as ${name(second)} while ${name(first)} had not run out`,
      )
    }
  }

  #checkDelay({ id }: Incarnation, grant: Grant, notBeforeMs: number, why: string): void {
    if (this.#clockJumped || grant.seenMs + 1 >= notBeforeMs) return
    throw new Violation(
      '23',
      `${id} is leased as ${name(grant)} at ${grant.seenMs}; as it was ${why}, it is delayed until ${notBeforeMs}`,
    )
  }

  /** How long a message rests at least when this delivery fails. */
  #leastBackoffMs({ queue }: Incarnation, { deliveryCount, fromMs }: Grant): number {
    return this.#least(queue, fromMs, ({ backoff }) =>
      backoff === undefined ? 0 : Math.floor(backoffDelayMs(backoff, deliveryCount, 1)),
    )
  }

  #leastVisibilityMs({ queue, visibilityTimeoutMs, receiveBeganMs }: Delivered): number {
    return (
      visibilityTimeoutMs ??
      this.#least(
        queue,
        receiveBeganMs,
        (options) => options.visibilityTimeoutMs ?? visibilityTimeoutMsDefault,
      )
    )
  }

  /** When a message may be delivered that was sent to its queue. */
  #notBeforeMs({ queue, delayMs, deliverAt, beganMs }: Message): number {
    if (deliverAt !== undefined) return deliverAt - this.#startMs
    return beganMs + (delayMs ?? this.#least(queue, beganMs, (options) => options.delayMs ?? 0))
  }

  #mayBeDelayed({ queue, delayMs, deliverAt, beganMs }: Message): boolean {
    if (delayMs !== undefined || deliverAt !== undefined) return true
    return this.admin.optionsSince(queue, beganMs).some((options) => (options.delayMs ?? 0) > 0)
  }

  /** Whatever options were in force, at some time since then. */
  #least(queue: string, sinceMs: number, of: (options: QueueOptions) => number): number {
    return Math.min(...this.admin.optionsSince(queue, sinceMs).map(of))
  }

  #isGood(grant: Grant): boolean {
    return this.#sinceNoCrash(grant) && this.#nowMs() + 1 < grant.goodUntilMs
  }

  #sinceNoCrash(grant: Grant): boolean {
    return this.#crashes === grant.crashesBefore
  }

  #noteFirst(place: Place, grant: Grant): void {
    if (this.#unordered.has(place.queue)) return
    const key = `${place.queue}/${place.partition} in epoch ${grant.epoch}`
    let leases = this.#firsts.get(key)
    if (leases === undefined) this.#firsts.set(key, (leases = new Map()))
    const range = leases.get(grant.lease)
    if (range === undefined) leases.set(grant.lease, [place.offset, place.offset])
    else if (place.offset <= range[1]) {
      throw new Violation('14', `${key}: lease ${grant.lease} delivers ${place.offset} after ${range[1]}`)
    } else range[1] = place.offset
  }
}

/** A body's name for itself: what comes before the first bar. */
export function tokenOf(body: Uint8Array): string {
  const end = body.indexOf(0x7c)
  return Buffer.from(body.buffer, body.byteOffset, end < 0 ? body.byteLength : end).toString('latin1')
}

function sameHeaders(a: Headers, b: Headers): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((key) => a[key] === b[key])
}

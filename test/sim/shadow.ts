/**
 * The oracle: a model of what may happen to each message, fed with what clients saw, that objects at once.
 *
 * Every body is sent once and names itself, so a delivery says which send it came from. A receipt says which lease a
 * delivery has; (epoch, number) of leases rises in the order in which a partition grants them, whatever the network
 * does to the answers. That makes the rules about leases exact without knowing when anything happened at the broker.
 *
 * Checked here (numbers of correctness.md): nothing confirmed is lost (9), nothing unsent (10) or definitely refused
 * (11) is delivered, ids are unique (12), a message has one id however often its client retried (13), first
 * deliveries are in order (14), one valid lease a message (15), none after its ack (16), delivery counts (19: they rise
 * by nack and expiry, never by release), bytes (22); receipts are good until they run out, across planned stops too; no
 * message is delivered while it is delayed, unless the broker's clock was set.
 *
 * Not asserted: how soon anything is delivered while faults go on; that an operation of unknown outcome was done or
 * not; fairness between consumers; which partition a message goes to.
 */
import { decodeReceipt } from '../../src/client/delivery-receipt.ts'
import { backoffDelayMs } from '../../src/partition/backoff.ts'
import type { QueueOptions } from '../../src/types.ts'

export class Violation extends Error {
  override readonly name = 'Violation'
  /** Of correctness.md; '' where it is none of those. */
  readonly rule: string

  constructor(rule: string, message: string) {
    super(rule === '' ? message : `invariant ${rule}: ${message}`)
    this.rule = rule
  }
}

interface Place {
  readonly queue: string
  readonly partition: number
  readonly epoch: number
  readonly offset: number
}

/** One delivery of a message. */
interface Grant {
  readonly epoch: number
  readonly lease: number
  readonly deliveryCount: number
  /** Of the receive: the lease was granted no earlier. */
  readonly fromMs: number
  /** The broker's unplanned ends by then. */
  readonly crashesBefore: number
  /** Of the receive: the lease was granted no later. */
  readonly seenMs: number
  /** It was good at least until then, if the broker did not end unplanned. */
  goodUntilMs: number
  /** An extension of it may or may not have happened, or may yet happen. */
  extendDoubt: boolean
  /** Extensions on their way. */
  extends: number
  /** Acks, nacks and releases of this very lease that have begun. */
  settles: number
  /** Nacks and releases among them that may have been carried out. */
  returns: number
  /** Releases among those. */
  releases: number
  /** What ended this lease, as far as anybody was told. */
  endedBy: 'ack' | 'nack' | 'release' | null
  /** After a nack that was confirmed: no delivery before that. */
  restsUntilMs: number
}

interface Message {
  readonly token: string
  readonly queue: string
  readonly body: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  outcome: 'pending' | 'ok' | 'failed' | 'unknown'
  id: string | null
  /** By lease, in the order in which they were granted. */
  readonly grants: Grant[]
  /** The lease whose ack was confirmed. */
  acked: Grant | null
  /** Acks that may have been carried out. */
  acksInDoubt: number
  /** When its send began, or when it asked to be delivered: no delivery before that. */
  readonly notBeforeMs: number
  readonly isDelayed: boolean
  /** Leases of it may have been given back. */
  wasReleased: boolean
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
  readonly visibilityTimeoutMs: number
  /** Unplanned ends of the broker when the receive began. */
  readonly crashesBefore: number
}

export class Shadow {
  readonly #nowMs: () => number
  readonly #messages = new Map<string, Message>()
  readonly #byId = new Map<string, Message>()
  readonly #byReceipt = new Map<string, { message: Message; grant: Grant }>()
  /** fiber/queue/partition → the highest offset that a send of it was confirmed with. */
  readonly #lastSent = new Map<string, Place>()
  /** queue/partition/lease epoch → lease → lowest and highest offset it delivered for the first time. */
  readonly #firsts = new Map<string, Map<number, [number, number]>>()
  readonly #queues: ReadonlyMap<string, QueueOptions>
  readonly #startMs: number
  readonly #unordered = new Set<string>()
  #crashes = 0
  #clockJumped = false

  /**
   * @param nowMs time since the start of the run
   * @param startMs what clocks showed then
   */
  constructor(
    nowMs: () => number,
    queues: readonly { readonly name: string; readonly options: QueueOptions }[],
    startMs: number,
  ) {
    this.#nowMs = nowMs
    this.#queues = new Map(queues.map(({ name, options }) => [name, options]))
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
      outcome: 'pending',
      id: null,
      grants: [],
      acked: null,
      acksInDoubt: 0,
      notBeforeMs:
        sent.deliverAt === undefined
          ? this.#nowMs() + (sent.delayMs ?? this.#queues.get(sent.queue)!.delayMs ?? 0)
          : sent.deliverAt - this.#startMs,
      isDelayed:
        sent.delayMs !== undefined ||
        sent.deliverAt !== undefined ||
        this.#queues.get(sent.queue)!.delayMs !== undefined,
      wasReleased: false,
    })
  }

  /**
   * @param id from the receipt, when confirmed
   * @param fiber whose sends follow each other
   */
  sendEnded(token: string, outcome: 'ok' | 'failed' | 'unknown', id: string | null, fiber: string): void {
    const message = this.#messages.get(token)!
    message.outcome = outcome
    if (outcome === 'failed' && message.id !== null) {
      throw new Violation('11', `${token} was delivered as ${message.id}, and its send failed`)
    }
    if (outcome !== 'ok') return
    if (id === null) throw new Violation('', `${token} was confirmed without an id`)
    const place = this.#bind(message, id)
    const key = `${fiber}/${place.queue}/${place.partition}`
    const last = this.#lastSent.get(key)
    if (last !== undefined && (place.offset <= last.offset || place.epoch < last.epoch)) {
      throw new Violation('14', `${token} was sent after ${last.epoch}-${last.offset} and is at ${id}`)
    }
    this.#lastSent.set(key, place)
  }

  delivered(delivery: Delivered): void {
    const { id, deliveryCount } = delivery
    const token = tokenOf(delivery.body)
    const message = this.#messages.get(token)
    if (message === undefined) throw new Violation('10', `${id} was delivered, and nobody sent its body`)
    if (message.queue !== delivery.queue)
      throw new Violation('10', `${token} was sent to another queue than ${id}`)
    if (message.outcome === 'failed')
      throw new Violation('11', `${token} is delivered as ${id}, and its send failed`)
    if (Buffer.compare(message.body, delivery.body) !== 0)
      throw new Violation('22', `the body of ${id} has changed`)
    if (!sameHeaders(message.headers, delivery.headers))
      throw new Violation('22', `the headers of ${id} have changed`)
    const place = this.#bind(message, id)

    const receipt = decodeReceipt(delivery.receipt)
    if (receipt === null) throw new Violation('', `${id} has a receipt that cannot be read`)
    if (receipt.offset !== place.offset || receipt.partition !== place.partition) {
      throw new Violation('', `the receipt of ${id} names another message`)
    }
    if (this.#byReceipt.has(delivery.receipt)) throw new Violation('15', `one lease delivered ${id} twice`)
    const grant: Grant = {
      epoch: receipt.leaseEpoch,
      lease: receipt.lease,
      deliveryCount,
      fromMs: delivery.receiveBeganMs,
      seenMs: this.#nowMs(),
      crashesBefore: delivery.crashesBefore,
      goodUntilMs: delivery.receiveBeganMs + delivery.visibilityTimeoutMs,
      extendDoubt: false,
      extends: 0,
      settles: 0,
      returns: 0,
      releases: 0,
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
    if (!(deliveryCount >= 1)) throw new Violation('19', `${id} has delivery count ${deliveryCount}`)
    this.#checkDelay(message, grant, message.notBeforeMs, 'sent')
    // What was delayed or given back comes later than its neighbours.
    if (deliveryCount === 1 && !message.wasReleased && !message.isDelayed) this.#noteFirst(place, grant)
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
      message.acked = grant
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

  /** One settle of a lease was confirmed; another can't be. */
  #ended(message: Message, grant: Grant, by: 'ack' | 'nack' | 'release'): void {
    if (grant.endedBy !== null) {
      throw new Violation(
        '15',
        `${message.id}: lease ${name(grant)} was ended by ${grant.endedBy} and by ${by}`,
      )
    }
    grant.endedBy = by
  }

  #refused(message: Message, grant: Grant, code: string): void {
    if (code === 'LEASE_LOST' && this.#isGood(grant) && grant.settles === 1) {
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
    const wasGood = this.#isGood(grant)
    if (outcome === 'unknown') {
      grant.extendDoubt = true
      return
    }
    grant.extends--
    if (outcome === 'ok' && !grant.extendDoubt) grant.goodUntilMs = beganMs + extendMs
    if (outcome === 'failed' && code === 'LEASE_LOST' && wasGood && grant.settles === 0) {
      throw new Violation('15', `${message.id}: lease ${name(grant)} was not extended before it had run out`)
    }
  }

  /** Everything has come to rest and the queues are empty. */
  finish(): void {
    for (const message of this.#messages.values()) {
      if (message.outcome !== 'ok' || message.acked !== null || message.acksInDoubt > 0) continue
      const seen =
        message.grants.length === 0 ? 'never delivered' : `delivered ${message.grants.length} times`
      throw new Violation(
        '9',
        `${message.token} (${message.id}) was confirmed and is gone: ${seen}, never acked`,
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

  #bind(message: Message, id: string): Place {
    if (message.id !== null && message.id !== id) {
      throw new Violation('13', `${message.token} was sent once and is ${message.id} and ${id}`)
    }
    const holder = this.#byId.get(id)
    if (holder !== undefined && holder !== message) {
      throw new Violation('12', `${id} is both ${holder.token} and ${message.token}`)
    }
    const place = parseId(id)
    if (place.queue !== message.queue)
      throw new Violation('12', `${message.token} was sent to ${message.queue} and is ${id}`)
    message.id = id
    this.#byId.set(id, message)
    return place
  }

  /** Two leases of one message, `first` granted before `second`, with none between them that was seen. */
  #checkPair(message: Message, first: Grant, second: Grant): void {
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

  #checkDelay({ id }: Message, grant: Grant, notBeforeMs: number, why: string): void {
    if (this.#clockJumped || grant.seenMs + 1 >= notBeforeMs) return
    throw new Violation(
      '23',
      `${id} is leased as ${name(grant)} at ${grant.seenMs}; as it was ${why}, it is delayed until ${notBeforeMs}`,
    )
  }

  /** How long a message rests at least when this delivery fails. */
  #leastBackoffMs({ queue }: Message, { deliveryCount }: Grant): number {
    const { backoff } = this.#queues.get(queue)!
    return backoff === undefined ? 0 : Math.floor(backoffDelayMs(backoff, deliveryCount, 1))
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

function parseId(id: string): Place {
  const parts = /^(.+)\/(\d+)\/(\d+)-(\d+)$/.exec(id)
  if (parts === null) throw new Violation('12', `an id looks like '${id}'`)
  return { queue: parts[1]!, partition: Number(parts[2]), epoch: Number(parts[3]), offset: Number(parts[4]) }
}

function isBefore(a: Grant, b: Grant): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.lease < b.lease)
}

function name(grant: Grant): string {
  return `${grant.epoch}/${grant.lease}`
}

function sameHeaders(a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((key) => a[key] === b[key])
}

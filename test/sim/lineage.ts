/**
 * What becomes of one message: it is sent to a queue, given up there and a dead letter in another, redriven from that
 * to a third, and so on. Each of these is a message of its own, with an id, and here an incarnation of the one that was
 * sent; only the last of them is left.
 *
 *   sent → dead letter → redriven → dead letter → …
 *
 * A dead letter names the id it had before (`mq-dead-letter-origin-id`), and keeps that when it is redriven. So the
 * origin, and whether this is a dead-letter queue, say which incarnation a delivery is of, and it has one id, or
 * something was done twice. Some are never seen by anybody, and known by the origin of the next only.
 */
import type { Admin } from './admin.ts'
import type { Grant } from './grant.ts'
import { Violation } from './violation.ts'

export type Headers = Readonly<Record<string, string>>

export interface Place {
  readonly queue: string
  readonly partition: number
  readonly epoch: number
  readonly offset: number
}

export function parseId(id: string): Place {
  const parts = /^(.+)\/(\d+)\/(\d+)-(\d+)$/.exec(id)
  if (parts === null) throw new Violation('12', `an id looks like '${id}'`)
  return { queue: parts[1]!, partition: Number(parts[2]), epoch: Number(parts[3]), offset: Number(parts[4]) }
}

/** `unseen`: it was sent or redriven, nobody knows which. */
export type Kind = 'sent' | 'dead' | 'redriven' | 'unseen'

export class Incarnation {
  readonly lineage: Lineage
  readonly queue: string
  kind: Kind
  /** Of the one that was given up before; null if none was. */
  origin: string | null
  id: string | null
  /** What came of it, and since when that is known. */
  next: Incarnation | null = null
  nextSeenMs = Infinity
  /** Since when it was there for certain: it was confirmed, or seen. */
  thereMs = Infinity
  /** By lease, in the order in which they were granted. */
  readonly grants: Grant[] = []
  /** The lease whose ack was confirmed, and when. */
  acked: Grant | null = null
  ackedMs = Infinity
  /** Acks that may have been carried out. */
  acksInDoubt = 0
  /** The lease with which it was given up, by a confirmed settle: a dead letter must come of it. */
  givenUp: Grant | null = null
  /** Leases of it may have been given back. */
  wasReleased = false

  constructor(lineage: Lineage, queue: string, kind: Kind, origin: string | null, id: string | null) {
    this.lineage = lineage
    this.queue = queue
    this.kind = kind
    this.origin = origin
    this.id = id
  }

  /** For a report. */
  get name(): string {
    return this.id ?? `${this.lineage.token} in ${this.queue}`
  }
}

const deadLetterPrefix = 'mq-dead-letter-'
/** Attributes that mean something to one queue only. */
const spentHeaders = ['mq-deliver-at', 'mq-delay', 'mq-dedupe-id', 'mq-ttl']

/** The story that the headers of a dead letter tell. */
export interface DeadLetter {
  readonly reason: string
  readonly error: string | undefined
  readonly originQueue: string
  readonly originId: string
  readonly deliveries: number
}

/** Null: it was never given up. */
export function readDeadLetter(headers: Headers): DeadLetter | null {
  const originId = headers['mq-dead-letter-origin-id']
  if (originId === undefined) {
    const stray = Object.keys(headers).find((name) => name.startsWith(deadLetterPrefix))
    if (stray !== undefined) throw new Violation('18', `a header ${stray}, and no origin`)
    return null
  }
  const reason = headers['mq-dead-letter-reason'] ?? ''
  const originQueue = headers['mq-dead-letter-origin-queue'] ?? ''
  const deliveries = Number(headers['mq-dead-letter-deliveries'])
  if (!['max-deliveries', 'rejected'].includes(reason) || !(deliveries >= 1)) {
    throw new Violation('19', `${originId} was given up for '${reason}' after ${deliveries} deliveries`)
  }
  if (!(Date.parse(headers['mq-dead-letter-at'] ?? '') > 0)) {
    throw new Violation('19', `${originId} was given up at '${headers['mq-dead-letter-at']}'`)
  }
  return { reason, error: headers['mq-dead-letter-error'], originQueue, originId, deliveries }
}

/** Headers as they were sent, without those that moving adds. */
export function sentHeaders(headers: Headers): Headers {
  return Object.fromEntries(
    Object.entries(headers).filter(
      ([name]) => !name.startsWith(deadLetterPrefix) && !spentHeaders.includes(name),
    ),
  )
}

export class Lineage {
  readonly token: string
  readonly root: Incarnation
  readonly #admin: Admin
  readonly #byId = new Map<string, Incarnation>()
  /** By kind and origin. */
  readonly #known = new Map<string, Incarnation>()

  constructor(token: string, queue: string, admin: Admin) {
    this.token = token
    this.#admin = admin
    this.root = new Incarnation(this, queue, 'sent', null, null)
  }

  get all(): Iterable<Incarnation> {
    return new Set([this.root, ...this.#known.values(), ...this.#byId.values()])
  }

  /** Whether any of it has an id. */
  get wasSeen(): boolean {
    return this.root.id !== null || this.#byId.size > 0
  }

  /** Some of it was redriven and given up again, and nobody saw it in between. */
  get isBroken(): boolean {
    return [...this.#byId.values()].some(({ kind }) => kind === 'unseen')
  }

  /** What is left of it is one of these; of a line that is not broken, there is one. */
  get leaves(): Incarnation[] {
    return [...this.all].filter(({ next }) => next === null)
  }

  bindRoot(id: string): void {
    const { root } = this
    if (root.id !== null && root.id !== id)
      throw new Violation('13', `${this.token} was sent once and is ${root.id} and ${id}`)
    const known = this.#byId.get(id)
    if (known !== undefined && known !== root) {
      if (known.kind !== 'unseen') throw new Violation('12', `${id} is ${known.kind} and was sent`)
      root.next = known.next
      root.nextSeenMs = known.nextSeenMs
    }
    root.id = id
    this.#byId.set(id, root)
  }

  /** The incarnation that is in `queue` as `id`, with this story, now that it is seen. */
  find(queue: string, id: string, letter: DeadLetter | null, nowMs: number): Incarnation {
    if (letter === null) {
      if (queue !== this.root.queue) {
        throw new Violation('10', `${this.token} was sent to ${this.root.queue}, and is ${id}`)
      }
      this.bindRoot(id)
      return this.root
    }
    const { originQueue } = letter
    const deadLetterQueue = deadLetterQueueOf(this.#admin, originQueue)
    if (deadLetterQueue === null) {
      throw new Violation('18', `${id} is a dead letter of ${originQueue}, which has no dead-letter queue`)
    }
    const origin = this.#originOf(id, letter)
    if (queue === deadLetterQueue) return this.#follow(origin, 'dead', queue, id, nowMs)
    if (!this.#admin.mayHaveRedriven(deadLetterQueue, queue, originQueue)) {
      throw new Violation('18', `${id} was redriven from ${deadLetterQueue}, and nobody had asked for that`)
    }
    const dead = this.#follow(origin, 'dead', deadLetterQueue, null, nowMs)
    return this.#follow(dead, 'redriven', queue, id, nowMs)
  }

  /** The incarnation that a dead letter says it came of. */
  #originOf(id: string, { originId, originQueue }: DeadLetter): Incarnation {
    if (parseId(originId).queue !== originQueue)
      throw new Violation('18', `${id} comes from ${originQueue}, as ${originId}`)
    let origin = this.#byId.get(originId)
    if (origin === undefined) {
      const isRoot = this.root.id === null && this.root.queue === originQueue
      const isRedriven = this.#admin.queueNames.some((from) =>
        this.#admin.queueNames.some((first) => this.#admin.mayHaveRedriven(from, originQueue, first)),
      )
      if (!isRoot && !isRedriven)
        throw new Violation('18', `${id} comes of ${originId}, and ${this.token} never was that`)
      origin = new Incarnation(this, originQueue, 'unseen', null, originId)
      this.#byId.set(originId, origin)
    }
    if (origin.kind === 'dead') throw new Violation('18', `${id} is the dead letter of a dead letter`)
    return origin
  }

  /** What came of `before`. */
  #follow(
    before: Incarnation,
    kind: 'dead' | 'redriven',
    queue: string,
    id: string | null,
    nowMs: number,
  ): Incarnation {
    const origin = kind === 'dead' ? before.id! : before.origin!
    const key = `${kind} ${origin}`
    let found = this.#known.get(key)
    if (found === undefined) {
      // Its own next may have been seen before it was.
      const known = id === null ? undefined : this.#byId.get(id)
      if (known !== undefined && known.kind !== 'unseen') {
        throw new Violation('18', `${id} is ${known.kind} of ${known.origin}, and ${kind} of ${origin}`)
      }
      found = known ?? new Incarnation(this, queue, kind, origin, null)
      found.kind = kind
      found.origin = origin
      this.#known.set(key, found)
    }
    if (id !== null) {
      if (found.id !== null && found.id !== id) {
        throw new Violation('18', `${origin} is ${kind} twice, as ${found.id} and as ${id}`)
      }
      if (found.queue !== queue)
        throw new Violation('18', `${origin} is ${kind} twice, in ${found.queue} and as ${id}`)
      found.id = id
      this.#byId.set(id, found)
    }
    if (before.acked !== null) throw new Violation('18', `${before.name} was acked, and is ${kind} as ${id}`)
    before.next = found
    before.nextSeenMs = Math.min(before.nextSeenMs, nowMs)
    return found
  }
}

export function deadLetterQueueOf(admin: Admin, queue: string): string | null {
  const { deadLetterQueue, maxDeliveries } = admin.fixed(queue)
  return deadLetterQueue ?? (maxDeliveries === undefined ? null : `${queue}.dlq`)
}

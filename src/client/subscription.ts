/**
 * A standing SUBSCRIBE: what the broker pushes is held here until it is settled, and at most `prefetch` messages are.
 *
 *   new → finding (LOOKUP) → standing ⇄ pausing (the broker could not serve it just then)
 *       → ending (given up; until the broker says so, what it pushes is given back) → ended
 *
 * Credit: at any time, messages held + credit that the broker has + what is to be given back = `prefetch`. What was
 * given back goes to the broker when it is half of all, or at once when the broker has none and nothing waits here.
 * On a new connection the broker knows nothing: SUBSCRIBE is sent again with all that is not held. What is held keeps
 * its leases across that, unless the broker crashed: so they are renewed at once, and what is lost is not handed out.
 */
import type { Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import type { Delivery, RequestId } from '../wire/messages.ts'
import { encodeClientFrame } from '../wire/codec.ts'
import { releasing } from './acker.ts'
import type { Stream, Work } from './activity.ts'
import { checkOnline, isRetried, retryPause, type Core } from './core.ts'
import { aborted } from './ending.ts'
import { Held, type Holder } from './held.ts'
import { Fifo } from './fifo.ts'
import type { Message } from './message.ts'
import { isGone, type Queue, type Queues } from './queues.ts'
import { readDelivery } from './receiver.ts'
import { Renewals } from './renewals.ts'
import { errorOf, type Answer, type Request } from './session.ts'
import type { Serializer } from './serializer.ts'
import type { TurnWork } from './turn.ts'

export interface SubscriptionSpec {
  readonly name: string
  /** Messages held at most. */
  readonly prefetch: number
  /** null: the queue's. */
  readonly visibilityTimeoutMs: number | null
  /** Whether what was handed out is held, and renewed, until it is settled. */
  readonly keeps: boolean
  readonly signal: AbortSignal | undefined
}

/** What subscriptions need of their client. */
export interface SubscriptionContext {
  readonly core: Core
  readonly queues: Queues
  readonly serializer: Serializer
}

/** Bytes of batches held at most, but for one larger message. */
const windowBytes = 16 << 20
/** Deliveries that were lost before they were handed out, and stand in the way of nothing but memory. */
const deadMax = 1024
/** How long giving back may take. */
const releaseTimeoutMs = 30_000

export interface Taken {
  readonly message: Message
  readonly held: Held
  readonly index: number
}

export class Subscription implements Request, Holder, TurnWork, Work, Stream {
  inTurn = false
  /** There is more to take, or it has ended. */
  onChange: () => void = () => undefined
  readonly #context: SubscriptionContext
  readonly #spec: SubscriptionSpec
  #state: 'new' | 'finding' | 'standing' | 'pausing' | 'ending' | 'ended' = 'new'
  /** Why it ended by itself. */
  #error: MqError | null = null
  #queue: Queue | null = null
  #renewals: Renewals | null = null
  /** In the session's table; 0: it is not. */
  #id: RequestId = 0
  #pause: Timer | null = null
  /** Ends the lookup. */
  readonly #lookup = new AbortController()
  /** What was not handed out, oldest first. */
  #buffer = new Fifo<Held>()
  /** Those in it whose leases were all lost before they were handed out, about: they must not gather. */
  #dead = 0
  #heldMessages = 0
  #heldBytes = 0
  /** Of the broker, on this connection. Bytes may be below 0: the broker owes nothing until that is made up for. */
  #creditMessages = 0
  #creditBytes = 0
  /** On a new connection, and what is held comes from before. */
  #isAnew = false

  constructor(context: SubscriptionContext, spec: SubscriptionSpec) {
    this.#context = context
    this.#spec = spec
  }

  get isOver(): boolean {
    return this.#state === 'ending' || this.#state === 'ended'
  }

  /** Why it ended by itself; null while it stands, and when it was ended. */
  get error(): MqError | null {
    return this.#error
  }

  start(): void {
    if (this.#state !== 'new') return
    const { core, queues } = this.#context
    const { name, signal } = this.#spec
    this.#state = 'finding'
    core.activity.streams.add(this)
    if (signal !== undefined) core.aborts.add(signal, this.#onAbort)
    queues.get(name, Infinity, this.#lookup.signal).then(
      (queue) => {
        if (this.#state === 'finding') this.#found(queue)
      },
      (error: unknown) => {
        if (this.#state !== 'finding') return
        if (error instanceof MqError) this.#fail(error)
        else throw error
      },
    )
  }

  #found(queue: Queue): void {
    const { core } = this.#context
    this.#queue = queue
    this.#renewals = new Renewals(core, queue)
    try {
      checkOnline(core)
      if (core.session.isFull) throw new MqError('THROTTLED', 'too many calls wait for an answer')
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      this.#fail(error)
      return
    }
    this.#stand()
  }

  #stand(): void {
    this.#state = 'standing'
    this.#id = this.#context.core.session.start(this)
  }

  // -------------------------------------------------------------------------------------------------------------
  // As its user sees it

  /** The next message, if there is one. */
  take(): Taken | null {
    for (let held = this.#buffer.first; held !== undefined; held = this.#buffer.first) {
      const index = held.handOut()
      if (index >= 0) {
        const message = held.message()
        if (!this.#spec.keeps) held.gone(index)
        return { message, held, index }
      }
      this.#buffer.shift()
    }
    // Nothing waits here: little that can be given back is enough.
    this.#context.core.turn.add(this)
    return null
  }

  /** The next messages that are there, at most `max`. */
  takeUpTo(max: number): Taken[] {
    const all: Taken[] = []
    while (all.length < max) {
      const taken = this.take()
      if (taken === null) break
      all.push(taken)
    }
    return all
  }

  /** Takes no more, and gives back what was not handed out. What was is held on, until `letGo`. Idempotent. */
  end(): void {
    if (this.isOver) return
    const { core } = this.#context
    const wasFinding = this.#state === 'finding'
    if (this.#id !== 0 && core.session.cancel(this.#id)) {
      // What the broker pushes until it has heard of that is given back as well.
      this.#state = 'ending'
      core.activity.begin(this)
    } else {
      if (this.#id !== 0) core.session.forget(this.#id, false)
      this.#ended()
    }
    if (wasFinding) this.#lookup.abort()
    this.#giveBack()
    this.#leave()
    this.onChange()
  }

  /** What is held is renewed no more. */
  letGo(): void {
    this.#renewals?.stop()
  }

  #leave(): void {
    const { core } = this.#context
    const { signal } = this.#spec
    core.activity.streams.delete(this)
    if (signal !== undefined) core.aborts.remove(signal, this.#onAbort)
    this.#pause?.cancel()
    this.#pause = null
  }

  #ended(): void {
    this.#state = 'ended'
    this.#id = 0
    this.#context.core.activity.end(this)
  }

  #fail(error: MqError): void {
    this.#error = error
    this.#ended()
    this.#giveBack()
    this.letGo()
    this.#leave()
    this.onChange()
  }

  readonly #onAbort = (): void => {
    this.#error = aborted(`consuming '${this.#spec.name}'`, this.#spec.signal, false)
    this.end()
  }

  #giveBack(): void {
    for (let held = this.#buffer.shift(); held !== undefined; held = this.#buffer.shift()) this.#release(held)
  }

  /** Nobody waits for that: what can't be given back is ready again when its lease has ended. */
  #release(held: Held): void {
    const leased = held.takeRest()
    if (leased.length === 0) return
    const { core } = this.#context
    const dueMs = core.clock.monotonicMs() + releaseTimeoutMs
    const target = { settled: () => undefined, failed: () => undefined, dueMs, signal: undefined }
    try {
      const acker = this.#queue!.ackers[held.partition]!
      for (const { leaseEpoch, lease, offset } of leased) {
        acker.settle(releasing, leaseEpoch, lease, offset, target)
      }
    } catch (error) {
      if (!(error instanceof MqError)) throw error
    }
  }

  // -------------------------------------------------------------------------------------------------------------
  // Credit

  let(held: Held): void {
    this.#heldMessages--
    // A message's share; the last one has the rest.
    const share = Math.floor(held.bytes / held.count)
    this.#heldBytes -= held.left > 0 ? share : held.bytes - share * (held.count - 1)
    if (held.left === 0) {
      this.#renewals!.remove(held)
      if (held.hasMore && ++this.#dead > deadMax) this.#bury()
    }
    this.#context.core.turn.add(this)
  }

  #bury(): void {
    const living = new Fifo<Held>()
    for (const held of this.#buffer) if (held.left > 0) living.push(held)
    this.#buffer = living
    this.#dead = 0
  }

  atEndOfTurn(): void {
    if (this.#state !== 'standing') return
    if (this.#isAnew) {
      this.#isAnew = false
      this.#renewals!.renewNow()
    }
    const { prefetch } = this.#spec
    const messages = prefetch - this.#heldMessages - this.#creditMessages
    const bytes = windowBytes - this.#heldBytes - this.#creditBytes
    if (messages <= 0 && bytes <= 0) return
    const isEmpty = this.#buffer.first === undefined
    const isOut = isEmpty && (this.#creditMessages <= 0 || this.#creditBytes <= 0)
    if (!isOut && 2 * messages < prefetch && 2 * bytes < windowBytes) return
    const credit = {
      op: 'credit',
      id: this.#id,
      messages: Math.max(0, messages),
      bytes: Math.max(0, bytes),
    } as const
    if (!this.#context.core.session.follow(this.#id, () => encodeClientFrame(credit))) return
    this.#creditMessages += credit.messages
    this.#creditBytes += credit.bytes
  }

  // -------------------------------------------------------------------------------------------------------------
  // As the session sees it

  encode(id: RequestId): readonly Uint8Array[] {
    const { prefetch, visibilityTimeoutMs } = this.#spec
    if (this.#heldMessages > 0) {
      this.#isAnew = true
      this.#context.core.turn.add(this)
    }
    this.#creditMessages = Math.max(0, prefetch - this.#heldMessages)
    this.#creditBytes = Math.max(0, windowBytes - this.#heldBytes)
    return [
      encodeClientFrame({
        op: 'subscribe',
        id,
        queueId: this.#queue!.queueId,
        partition: null,
        messages: this.#creditMessages,
        bytes: this.#creditBytes,
        visibilityTimeoutMs,
        mode: 0,
      }),
    ]
  }

  pushed(deliveries: Delivery[]): void {
    const { core, serializer } = this.#context
    const nowMs = core.clock.monotonicMs()
    let isDamaged = false
    for (const delivery of deliveries) {
      const held = new Held(this, delivery, nowMs)
      const context = readDelivery(core, serializer, this.#queue!, delivery, held)
      if (context === null) {
        isDamaged = true
        continue
      }
      held.begin(context)
      this.#creditMessages -= held.count
      this.#creditBytes -= held.bytes
      this.#heldMessages += held.count
      this.#heldBytes += held.bytes
      if (this.#state !== 'standing') {
        this.#release(held)
        continue
      }
      this.#buffer.push(held)
      this.#renewals!.add(held)
    }
    if (isDamaged && this.#state === 'standing') {
      // Nobody knows how many messages those were, so the count of the credit is lost: it begins anew.
      core.session.forget(this.#id, true)
      this.#stand()
    }
    this.onChange()
  }

  answered(answer: Answer): false {
    this.#id = 0
    if (this.#state === 'ending') {
      this.#ended()
      return false
    }
    if (answer.op !== 'error') {
      this.#fail(new MqError('INTERNAL', `the broker answered SUBSCRIBE with '${answer.op}'`))
      return false
    }
    const error = errorOf(answer)
    if (isRetried(error.code)) {
      const { core } = this.#context
      this.#state = 'pausing'
      this.#pause = core.clock.after(retryPause(core, error.details), () => {
        this.#pause = null
        this.#stand()
      })
      return false
    }
    if (isGone(error)) this.#queue!.isGone()
    this.#fail(error)
    return false
  }

  interrupted(): boolean {
    if (this.#state === 'standing') return true
    this.#ended()
    return false
  }

  /** The client closes while the broker has not said that this has ended. */
  abandon(): void {
    if (this.#state !== 'ending') return
    if (this.#id !== 0) this.#context.core.session.forget(this.#id, false)
    this.#ended()
  }
}

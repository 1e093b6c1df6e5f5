/**
 * Runs a handler on what a subscription brings.
 *
 *   open → (close) closing: handlers under way may finish → (graceMs over) their signals abort → closed
 */
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import type { Core } from './core.ts'
import { consumeSpec } from './consumer.ts'
import type { Message } from './message.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import { checkInteger, checkSignal, checkTimeout } from './options.ts'
import { Subscription, type SubscriptionContext, type Taken } from './subscription.ts'

export interface WorkOptions {
  /** Handlers that run at the same time, 1 (default) to 10,000. */
  concurrency?: number | undefined
  /** Messages at most that a handler gets at once, as an array, 1 to 10,000. Default: one by itself. */
  batch?: number | undefined
  /** How long `close` lets handlers finish, in milliseconds. Default 30,000. */
  graceMs?: number | undefined
  /** How long messages are leased between two renewals, in milliseconds. Default: the queue's; 1 to 12 hours. */
  visibilityTimeoutMs?: number | undefined
  /** Messages at most that have come and are not settled, 1 to 65,536. Default: twice what handlers can be busy with. */
  prefetch?: number | undefined
  /** Closes the worker, as `close` does. */
  signal?: AbortSignal | undefined
}

const workOptionNames = optionNames<WorkOptions>({
  concurrency: true,
  batch: true,
  graceMs: true,
  visibilityTimeoutMs: true,
  prefetch: true,
  signal: true,
})

export interface WorkContext {
  /** Aborts when the lease of what the handler works on is lost, and when the worker waits for it no longer. */
  readonly signal: AbortSignal
}

/** Returning acks the message, throwing nacks it, unless the handler has settled it by itself: `deadLetter`, say. */
export type Handler = (message: Message, context: WorkContext) => unknown

/** Returning nothing acks all, returning some of them nacks the others; throwing nacks all. */
export type BatchHandler = (messages: Message[], context: WorkContext) => unknown

const graceMsDefault = 30_000

class Task implements WorkContext {
  readonly taken: readonly Taken[]
  /** The worker has given it up: what it throws now is not the messages' fault. */
  isGivenUp = false
  /** Only for handlers that ask for it. */
  #controller: AbortController | null = null
  #reason: MqError | null = null

  constructor(taken: readonly Taken[]) {
    this.taken = taken
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#reason !== null) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  abort(reason: MqError): void {
    this.#reason ??= reason
    this.#controller?.abort(reason)
  }
}

/** What `work` returns. */
export class Worker {
  readonly #core: Core
  readonly #queue: string
  readonly #handler: (given: never, context: WorkContext) => unknown
  readonly #subscription: Subscription
  readonly #concurrency: number
  /** null: the handler gets one message, not an array. */
  readonly #batch: number | null
  readonly #graceMs: number
  readonly #running = new Set<Task>()
  /** Settles without an answer. */
  #settling = 0
  #whenQuiet: (() => void) | null = null
  #mode: 'open' | 'closing' | 'closed' = 'open'
  #closing: Promise<void> | null = null
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = (): void => void this.close()

  /** @internal Use `work`. @throws MqError */
  constructor(
    core: Core,
    context: SubscriptionContext,
    queue: string,
    handler: Handler | BatchHandler,
    options: WorkOptions,
  ) {
    if (typeof handler !== 'function') throw new MqError('INVALID_OPTION', 'the handler must be a function')
    checkOptionNames(options, workOptionNames)
    const { concurrency = 1, batch, graceMs } = options
    this.#core = core
    this.#queue = queue
    this.#handler = handler
    this.#concurrency = checkInteger('concurrency', concurrency, 1, limits.batchMessagesMax)
    this.#batch = batch === undefined ? null : checkInteger('batch', batch, 1, limits.batchMessagesMax)
    this.#graceMs = checkTimeout(graceMs, graceMsDefault)
    const busy = Math.min(this.#concurrency * (this.#batch ?? 1), limits.creditMessagesMax / 2)
    const { prefetch = 2 * busy, visibilityTimeoutMs } = options
    const spec = consumeSpec(queue, { prefetch, visibilityTimeoutMs })
    this.#subscription = new Subscription(context, spec)
    this.#subscription.onChange = () => this.#onChange()
    this.#signal = checkSignal(options.signal)
    if (this.#signal !== undefined) core.aborts.add(this.#signal, this.#onAbort)
    this.#subscription.start()
  }

  /** Why it takes nothing any more, if that was not asked for: QUEUE_NOT_FOUND, QUEUE_DELETED, … */
  get error(): MqError | null {
    return this.#subscription.error
  }

  /**
   * Takes nothing new, releases what no handler has got, lets handlers finish within `graceMs` and then aborts their
   * signals. Resolves once what they did is settled; never rejects. Idempotent.
   */
  close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    this.#closing ??= this.#close(checkTimeout(options.graceMs, this.#graceMs))
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(graceMs: number): Promise<void> {
    if (this.#mode === 'closed') return
    this.#mode = 'closing'
    this.#subscription.end()
    await this.#quiet(graceMs)
    this.#stop(new MqError('ABORTED', 'the worker was closed'))
  }

  #stop(reason: MqError): void {
    this.#mode = 'closed'
    if (this.#signal !== undefined) this.#core.aborts.remove(this.#signal, this.#onAbort)
    for (const task of [...this.#running]) {
      task.isGivenUp = true
      task.abort(reason)
    }
    this.#subscription.letGo()
  }

  /** Until nothing runs and everything is settled, or `graceMs` are over. */
  #quiet(graceMs: number): Promise<void> {
    if (this.#isQuiet) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = this.#core.clock.after(graceMs, () => {
        this.#whenQuiet = null
        resolve()
      })
      this.#whenQuiet = () => {
        timer.cancel()
        this.#whenQuiet = null
        resolve()
      }
    })
  }

  get #isQuiet(): boolean {
    return this.#running.size === 0 && this.#settling === 0
  }

  #onChange(): void {
    if (!this.#subscription.isOver) {
      this.#pump()
      return
    }
    if (this.#mode !== 'open') return
    // The client closes or drains, or the queue is gone: nothing that handlers do can be settled any more.
    const { error } = this.#subscription
    this.#stop(error ?? new MqError('CLOSED', 'the client was closed'))
    if (error !== null) this.#core.events.emit('error', error)
  }

  #pump(): void {
    while (this.#running.size < this.#concurrency && !this.#subscription.isOver) {
      const taken = this.#subscription.takeUpTo(this.#batch ?? 1)
      if (taken.length === 0) return
      this.#run(new Task(taken))
    }
  }

  #run(task: Task): void {
    this.#running.add(task)
    const lost = (): void => {
      task.abort(new MqError('LEASE_LOST', `the lease of a message of '${this.#queue}' is lost`))
    }
    for (const { held, index } of task.taken) held.onLost(index, lost)
    const messages = task.taken.map(({ message }) => message)
    const run = async (): Promise<unknown> =>
      this.#handler((this.#batch === null ? messages[0]! : messages) as never, task)
    run().then(
      (result) => {
        const isSome = this.#batch !== null && Array.isArray(result)
        const did = isSome ? new Set<unknown>(result) : null
        for (const taken of task.taken) {
          const { message } = taken
          if (did === null || did.has(message)) this.#settle(taken, message.ack())
          else this.#settle(taken, message.nack({ reason: 'the handler did not return it' }))
        }
        this.#ended(task)
      },
      (error: unknown) => {
        const reason = reasonOf(error)
        for (const taken of task.taken) {
          const { message } = taken
          this.#settle(taken, task.isGivenUp ? message.release() : message.nack({ reason }))
        }
        this.#ended(task)
      },
    )
  }

  #ended(task: Task): void {
    this.#running.delete(task)
    this.#pump()
    this.#tellQuiet()
  }

  #settle({ held, index }: Taken, settled: Promise<void>): void {
    this.#settling++
    settled.then(
      () => this.#settled(null),
      (error: unknown) => {
        // Nobody works on it any more: if it is not settled its lease must end, and it is delivered again.
        held.gone(index)
        this.#settled(error)
      },
    )
  }

  #settled(error: unknown): void {
    this.#settling--
    this.#tellQuiet()
    if (!(error instanceof MqError)) return
    // What is lost is delivered again; a client that closes was told to.
    if (error.code !== 'LEASE_LOST' && error.code !== 'CLOSED') this.#core.events.emit('error', error)
  }

  #tellQuiet(): void {
    if (this.#isQuiet) this.#whenQuiet?.()
  }
}

function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  const bytes = Buffer.from(text)
  if (bytes.length <= limits.reasonBytesMax) return text
  // A character that is cut in two becomes U+FFFD, of three bytes.
  return bytes.toString('utf8', 0, limits.reasonBytesMax - 3)
}

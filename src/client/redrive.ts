/**
 * Empties a dead-letter queue back into other queues, step by step.
 *
 * The broker remembers nothing between two steps: the cursor of each answer goes into the next request, so whoever
 * drives also sets the pace. A step that was done cannot be done again, since its messages have left: asked a second
 * time the broker redrives what comes next. Without a limit that is what is wanted anyway; with one, a step whose
 * answer was lost ends the whole.
 */
import type { Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import { encodeClientFrame, redriveOfResult } from '../wire/codec.ts'
import type { RedriveResult } from '../wire/messages.ts'
import type { Work } from './activity.ts'
import { runCall } from './call.ts'
import type { Core } from './core.ts'
import { abandoned, aborted, type Abandonment } from './ending.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import { checkInteger, checkQueueName, checkSignal, checkTimeout, type CallOptions } from './options.ts'
import { unexpected } from './queues.ts'

export interface RedriveOptions extends CallOptions {
  /** The queue that all go to. Default: each goes to the one that it came from. */
  to?: string | undefined
  /** Messages to redrive at most, from 1; those that are skipped do not count. Default: all that are ready. */
  max?: number | undefined
  /** Messages to redrive in a second at most, 1 to 1,000,000. Default: as fast as the broker can. */
  ratePerSecond?: number | undefined
  /** Redrive nothing, only count what would be. Default false. */
  dryRun?: boolean | undefined
  /** How long each step of up to 1,000 messages may take, in milliseconds; default 30,000. */
  timeoutMs?: number | undefined
  /** @internal Ends it between two steps, with ABORTED: what `signal` does at once. */
  stop?: AbortSignal | undefined
  /** @internal Hears after each step what has been done by then. */
  onProgress?: ((soFar: Redriven) => void) | undefined
}

const redriveOptionNames = optionNames<RedriveOptions>({
  to: true,
  max: true,
  ratePerSecond: true,
  dryRun: true,
  signal: true,
  timeoutMs: true,
  stop: true,
  onProgress: true,
})

/** What a redrive did, or with `dryRun` would have done. */
export interface Redriven {
  /** Messages that are in their queues now. */
  messages: number
  /** Messages that stayed: the queue they came from is not named or not there, or takes none of their size. */
  skipped: number
  /** By queue, how many of `messages` went there. */
  targets: Record<string, number>
}

/** Steps in a second when there is a pace: few enough to cost nothing, enough to be smooth. */
const pacedSteps = 10

export async function redrive(core: Core, name: string, options: RedriveOptions): Promise<Redriven> {
  core.checkOpen()
  const run = new Redrive(core, name, options)
  core.activity.begin(run)
  try {
    return await run.all()
  } finally {
    core.activity.end(run)
  }
}

class Redrive implements Work {
  readonly #core: Core
  readonly #name: string
  readonly #to: string | null
  readonly #max: number | undefined
  readonly #ratePerSecond: number
  readonly #dryRun: boolean
  readonly #timeoutMs: number
  readonly #signal: AbortSignal | undefined
  readonly #stop: AbortSignal | undefined
  readonly #onProgress: ((soFar: Redriven) => void) | undefined
  #messages = 0
  #skipped = 0
  readonly #targets = new Map<string, number>()
  /** The client lets go of everything. */
  #abandoned: Abandonment | null = null
  #endPause: (() => void) | null = null

  /** @throws MqError INVALID_NAME, INVALID_FIELD, INVALID_OPTION, ABORTED */
  constructor(core: Core, name: string, options: RedriveOptions) {
    checkOptionNames(options, redriveOptionNames)
    const { to, max, ratePerSecond, dryRun = false } = options
    checkQueueName(name)
    if (to !== undefined) checkQueueName(to)
    if (typeof dryRun !== 'boolean') throw new MqError('INVALID_OPTION', "'dryRun' must be true or false")
    this.#core = core
    this.#name = name
    this.#to = to ?? null
    this.#max = max === undefined ? undefined : checkInteger('max', max, 1, Number.MAX_SAFE_INTEGER)
    const rate =
      ratePerSecond === undefined ? Infinity : checkInteger('ratePerSecond', ratePerSecond, 1, 1_000_000)
    // What only counts disturbs nobody.
    this.#ratePerSecond = dryRun ? Infinity : rate
    this.#dryRun = dryRun
    this.#timeoutMs = checkTimeout(options.timeoutMs)
    this.#signal = checkSignal(options.signal)
    this.#stop = options.stop
    this.#onProgress = options.onProgress
  }

  get #what(): string {
    return `redriving queue '${this.#name}'`
  }

  /** What ends it between two steps. */
  get #signals(): AbortSignal[] {
    return [this.#signal, this.#stop].filter((signal) => signal !== undefined)
  }

  abandon(why: Abandonment): void {
    this.#abandoned = why
    this.#endPause?.()
  }

  async all(): Promise<Redriven> {
    const { clock } = this.#core
    let cursor: number[] | null = null
    try {
      for (;;) {
        const begunMs = clock.monotonicMs()
        const step: RedriveResult = await this.#step(cursor)
        this.#count(step)
        this.#onProgress?.(this.#soFar())
        cursor = step.cursor
        if (cursor === null || this.#messages >= (this.#max ?? Infinity)) return this.#soFar()
        // What has taken too long already is not made up for: a pause of the broker is followed by no rush.
        await this.#pauseUntil(begunMs + (step.messages * 1000) / this.#ratePerSecond)
      }
    } catch (error) {
      if (!(error instanceof MqError)) throw error
      const { code, message, outcome, cause } = error
      const details = { ...error.details, messages: this.#messages, skipped: this.#skipped }
      throw new MqError(code, message, { outcome, cause, details })
    }
  }

  #step(cursor: number[] | null): Promise<RedriveResult> {
    this.#checkGoesOn()
    const leftMax = this.#max === undefined ? Infinity : this.#max - this.#messages
    const max = Math.min(limits.redriveMessagesMax, Math.ceil(this.#ratePerSecond / pacedSteps), leftMax)
    return runCall(this.#core, {
      what: this.#what,
      timeoutMs: this.#timeoutMs,
      signal: this.#signal,
      repeatable: this.#max === undefined || this.#dryRun,
      encode: (id) =>
        encodeClientFrame({
          op: 'redrive',
          id,
          name: this.#name,
          to: this.#to,
          max,
          dryRun: this.#dryRun,
          cursor,
        }),
      read(answer) {
        if (answer.op !== 'ok') throw unexpected('REDRIVE', answer.op)
        return redriveOfResult(answer.result)
      },
    })
  }

  /** @throws MqError ABORTED, CLOSED, DISCONNECTED */
  #checkGoesOn(): void {
    for (const signal of this.#signals) if (signal.aborted) throw aborted(this.#what, signal, false)
    if (this.#abandoned !== null) throw abandoned(this.#what, this.#abandoned, false)
  }

  /** Resolves at that monotonic time, or when there is nothing more to wait for. */
  #pauseUntil(dueMs: number): Promise<void> {
    const { clock, aborts } = this.#core
    const delayMs = dueMs - clock.monotonicMs()
    const signals = this.#signals
    const isEnding = this.#abandoned !== null || signals.some(({ aborted }) => aborted)
    if (delayMs <= 0 || isEnding) return Promise.resolve()
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel()
        for (const signal of signals) aborts.remove(signal, end)
        this.#endPause = null
        resolve()
      }
      const timer: Timer = clock.after(delayMs, end)
      this.#endPause = end
      for (const signal of signals) aborts.add(signal, end)
    })
  }

  #count({ messages, skipped, targets }: RedriveResult): void {
    this.#messages += messages
    this.#skipped += skipped
    for (const [queue, count] of Object.entries(targets)) {
      this.#targets.set(queue, (this.#targets.get(queue) ?? 0) + count)
    }
  }

  #soFar(): Redriven {
    return {
      messages: this.#messages,
      skipped: this.#skipped,
      targets: Object.fromEntries(this.#targets),
    }
  }
}

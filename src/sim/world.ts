/**
 * A world in one thread, in which time is a number and everything that can happen is an event in one queue. One seed
 * decides every latency, fault and random byte, so a run can be repeated exactly.
 *
 * A step takes the earliest event, runs it, and waits until the promise callbacks it brought about have all run, as
 * the real event loop does between two events. So product code uses promises as it likes. What it must not do is
 * wait for the real world (a file, a worker, an `AbortSignal.timeout`): that would come at another step in each run.
 */
import type { Clock, Env, Network, Random, Store } from '../env.ts'
import { invariant } from '../errors.ts'
import { afterMicrotasks } from '../system.ts'
import { mix } from './bytes.ts'
import { eventKinds, EventQueue, SimEvent, type EventKind, type SimHost, type SimKernel } from './events.ts'
import { noFaults, type FaultOptions } from './faults.ts'
import { SimNetwork } from './network.ts'
import { SeededRandom } from './random.ts'
import { SimStore, type AttachedStore } from './store.ts'

/**
 * Time moves in ticks of 1/1024 ms. A power of two keeps every sum exact, so a timer is never a rounding error early,
 * and code that asks for the rest of its delay again cannot spin without time moving on.
 */
const ticksPerMs = 1024

/** A delay beyond 30,000 years is never. */
const delayMsMax = 1e15

export interface SimWorldOptions {
  readonly seed: number
  /** The wall clock's start. Default: 2026-01-01. */
  readonly startMs?: number
  readonly faults?: Partial<FaultOptions>
}

/** Why `run` returned: `until` held, `untilMs` was reached, or nothing is left to happen. */
export type RunEnd = 'until' | 'time' | 'idle'

export class SimWorld {
  readonly seed: number
  /** For drivers and checkers. Drawing from it changes nothing that the world itself draws. */
  readonly random: SeededRandom
  readonly network: SimNetwork
  /** Runs after each step, when all its promise callbacks have run: the place for invariants. */
  afterEachStep: (() => void | Promise<void>) | undefined
  /** Is told every event and delivery, one line each: two runs with one seed tell the same. */
  log: ((line: string) => void) | undefined
  /** Is told when something is due at this very moment: for a driver that keeps the world going by itself. */
  onDue: (() => void) | undefined

  #faults: FaultOptions
  readonly #queue = new EventQueue()
  /** The latest process of each name, and how many there were before it. */
  readonly #processes = new Map<string, { process: SimProcess; incarnation: number }>()
  readonly #startMs: number
  #exactMs: number
  #sequence = 0
  #steps = 0
  #stepping = false
  #traceLow = 0x9747b28c
  #traceHigh = 0x2f1c5a3d

  constructor(options: SimWorldOptions) {
    this.seed = options.seed
    this.random = new SeededRandom(options.seed).fork('driver')
    this.#faults = { ...noFaults, ...options.faults }
    this.#startMs = Math.floor(options.startMs ?? Date.UTC(2026, 0, 1))
    this.#exactMs = this.#startMs
    const kernel: SimKernel = {
      exactMs: () => this.#exactMs,
      faults: () => this.#faults,
      schedule: (delayMs, kind, run) => this.#schedule(delayMs, kind, undefined, run),
    }
    this.network = new SimNetwork(kernel, new SeededRandom(options.seed).fork('network'))
  }

  /** Wall-clock time in whole milliseconds. */
  get nowMs(): number {
    return Math.floor(this.#exactMs)
  }

  /** Wall-clock time in fractions of milliseconds. */
  get exactMs(): number {
    return this.#exactMs
  }

  /** When the next event is due, as `exactMs` counts; Infinity when nothing is left to happen. */
  get nextMs(): number {
    return this.#queue.peek()?.atMs ?? Infinity
  }

  /** Events run so far. */
  get steps(): number {
    return this.#steps
  }

  /** Stands for everything that has happened so far: what, when, to whom, and the bytes of it. */
  get traceHash(): string {
    const hex = (lane: number) => (lane >>> 0).toString(16).padStart(8, '0')
    return hex(this.#traceHigh) + hex(this.#traceLow)
  }

  get faults(): FaultOptions {
    return this.#faults
  }

  /** Changes some of the faults from now on. */
  setFaults(faults: Partial<FaultOptions>): void {
    this.#faults = { ...this.#faults, ...faults }
  }

  /** No new faults from now on, and partitions are over. Latencies stay; so does what is already broken. */
  heal(): void {
    const { networkLatencyMs, diskLatencyMs } = this.#faults
    this.#faults = { ...noFaults, networkLatencyMs, diskLatencyMs }
    this.network.heal()
  }

  /**
   * Starts a process. After a crash, the same name and store make the restart.
   * @param store its disk; without one it gets an empty disk of its own
   */
  process(name: string, store: SimStore = new SimStore()): SimProcess {
    const before = this.#processes.get(name)
    invariant(before?.process.alive !== true, `${name} still runs`)
    const incarnation = before === undefined ? 0 : before.incarnation + 1
    const random = new SeededRandom(this.seed).fork(`process ${name} ${incarnation}`)
    const links: ProcessLinks = {
      random,
      network: this.network,
      store,
      exactMs: () => this.#exactMs,
      faults: () => this.#faults,
      schedule: (delayMs, kind, host, run) => this.#schedule(delayMs, kind, host, run),
      enqueueNow: (event) => {
        event.atMs = this.#exactMs
        event.sequence = this.#sequence++
        this.#queue.push(event)
      },
      note: (kind, host, value) => this.#note(kind, host, value),
    }
    const process = new SimProcess(name, incarnation, links)
    this.#processes.set(name, { process, incarnation })
    return process
  }

  /**
   * Cuts two processes off from each other for `ms` (or until `heal`, if infinite). Connections live on: what is
   * sent meanwhile arrives afterwards, as TCP sends it again.
   */
  partition(a: string, b: string, ms: number, options: { readonly oneWay?: boolean } = {}): void {
    this.network.block(a, b, this.#exactMs + ms)
    if (options.oneWay !== true) this.network.block(b, a, this.#exactMs + ms)
  }

  /** Breaks the connections between two processes. */
  cut(a: string, b: string): void {
    for (const connection of this.network.between(a, b)) connection.cut()
  }

  /** From now on the present connections between two processes lose all that the first sends to the second. */
  blackHole(from: string, to: string): void {
    for (const connection of this.network.between(from, to)) connection.blackHole(from)
  }

  /**
   * Runs the earliest event and all promise callbacks it brings about.
   * @returns false when nothing is left to happen
   * @throws whatever the event's code throws: that is a defect, and the world stops there
   */
  async step(): Promise<boolean> {
    return this.#alone(() => this.#stepBefore(Infinity))
  }

  /**
   * Steps until `until` holds (looked at before the first step and after each), until virtual time `untilMs` (wall
   * clock, not a duration), or until nothing is left to happen.
   * @throws Error after `maxSteps` steps: something does not come to rest
   */
  async run(options: { untilMs?: number; until?: () => boolean; maxSteps?: number } = {}): Promise<RunEnd> {
    const { untilMs = Infinity, until, maxSteps = 10_000_000 } = options
    return this.#alone(async () => {
      for (let steps = 0; ; steps++) {
        if (until?.() === true) return 'until'
        if (steps === maxSteps) throw new Error(`no end after ${maxSteps} steps (seed ${this.seed})`)
        if (await this.#stepBefore(untilMs)) continue
        if (untilMs === Infinity) return 'idle'
        this.#exactMs = Math.max(this.#exactMs, toTicks(untilMs))
        return 'time'
      }
    })
  }

  /** Runs all that is due within the next `ms` milliseconds, and leaves the clock at their end. */
  async advance(ms: number): Promise<void> {
    await this.run({ untilMs: this.#exactMs + ms })
  }

  /**
   * Steps until a promise settles, and gives its value.
   * @throws what it rejects with, or Error when it can no longer settle or has not within `maxSteps`
   */
  async complete<T>(promise: Promise<T>, maxSteps = 10_000_000): Promise<T> {
    let settled = false
    const watched = promise.finally(() => {
      settled = true
    })
    // Looked at below; until then a rejection is not unhandled.
    watched.catch(() => undefined)
    const end = await this.run({ until: () => settled, maxSteps })
    if (end !== 'until') throw new Error(`the promise can no longer settle (seed ${this.seed})`)
    return watched
  }

  /** Steps of two drivers must not mix. */
  async #alone<T>(work: () => Promise<T>): Promise<T> {
    invariant(!this.#stepping, 'one driver at a time: await the last step, run or advance first')
    this.#stepping = true
    try {
      // What the driver has just called may only now add its first events.
      await afterMicrotasks()
      return await work()
    } finally {
      this.#stepping = false
    }
  }

  /** Runs the next event, if it is due by `limitMs`. */
  async #stepBefore(limitMs: number): Promise<boolean> {
    for (;;) {
      const event = this.#queue.peek()
      if (event === undefined || event.atMs > limitMs) return false
      this.#queue.pop()
      invariant(event.atMs >= this.#exactMs, 'time goes forward')
      this.#exactMs = event.atMs
      if (event.host instanceof SimProcess && event.host.hold(event)) continue
      const run = event.run as () => void
      event.run = undefined
      this.#steps += 1
      this.#note(event.kind, event.host, event.sequence)
      run()
      await afterMicrotasks()
      const hook = this.afterEachStep?.()
      if (hook !== undefined) await hook
      return true
    }
  }

  #schedule(delayMs: number, kind: EventKind, host: SimHost | undefined, run: () => void): SimEvent {
    invariant(!Number.isNaN(delayMs), 'a delay is a number')
    if (delayMs > delayMsMax) return new SimEvent(Infinity, 0, kind, host, undefined)
    return this.#push(this.#exactMs + toTicks(Math.max(0, delayMs)), kind, host, run)
  }

  #push(atMs: number, kind: EventKind, host: SimHost | undefined, run: (() => void) | undefined): SimEvent {
    const event = new SimEvent(atMs, this.#sequence++, kind, host, run)
    this.#queue.push(event)
    if (atMs <= this.#exactMs) this.onDue?.()
    return event
  }

  #note(kind: EventKind, host: SimHost | undefined, value: number): void {
    const ticks = (this.#exactMs - this.#startMs) * ticksPerMs
    const which = host instanceof SimProcess ? host.id : 0
    let low = mix(this.#traceLow, eventKinds[kind])
    low = mix(low, ticks | 0)
    low = mix(low, value | 0)
    this.#traceLow = low
    this.#traceHigh = mix(mix(mix(this.#traceHigh, low), which), (ticks / 2 ** 32) | 0)
    this.log?.(`${(this.#exactMs - this.#startMs).toFixed(3)} ${host?.name ?? '-'} ${kind} ${value >>> 0}`)
  }
}

function toTicks(ms: number): number {
  return Math.ceil(ms * ticksPerMs) / ticksPerMs
}

/** What a process needs of its world. */
interface ProcessLinks {
  readonly random: SeededRandom
  readonly network: SimNetwork
  readonly store: SimStore
  exactMs(): number
  faults(): FaultOptions
  schedule(delayMs: number, kind: EventKind, host: SimHost, run: () => void): SimEvent
  enqueueNow(event: SimEvent): void
  note(kind: EventKind, host: SimHost, value: number): void
}

/** One operating-system process. */
export class SimProcess implements SimHost {
  readonly name: string
  /** Stands for the process in the trace. */
  readonly id: number
  readonly random: SeededRandom
  readonly env: Env
  /** Its disk, for the restart. */
  readonly store: SimStore
  /** What its wall clock shows beyond the world's, in milliseconds. Setting it makes that clock jump. */
  skewMs = 0

  readonly #links: ProcessLinks
  readonly #attached: AttachedStore
  #alive = true
  /** Present while paused: what will happen when it goes on, in order. */
  #held: SimEvent[] | undefined
  #pausedUntilMs = 0
  readonly #turns: SeededRandom
  /** When what was asked for last to come soon comes. */
  #nextTurnMs = 0

  constructor(name: string, incarnation: number, links: ProcessLinks) {
    this.name = name
    this.#links = links
    this.random = links.random
    this.#turns = this.random.fork('turns')
    this.id = mix(incarnation + 1, this.random.fork('id').int(2 ** 31))
    this.store = links.store
    this.#attached = links.store.attach(this)
    this.env = {
      clock: this.#clock(),
      random: this.#random(),
      network: links.network.of(this) satisfies Network,
      store: this.#attached satisfies Store,
    }
  }

  get alive(): boolean {
    return this.#alive
  }

  get paused(): boolean {
    return this.#held !== undefined
  }

  get faults(): FaultOptions {
    return this.#links.faults()
  }

  /**
   * Ends the process as `kill -9` does: no timer fires, peers see their connections break after a while, what the
   * disk had not finished is there wholly or not at all. Whatever its code still calls has no effect, and what it
   * waits for never comes.
   */
  crash(): void {
    if (!this.#alive) return
    this.#links.note('crash', this, 0)
    this.#alive = false
    this.#held = undefined
    this.#links.network.crash(this)
    this.#attached.crash()
  }

  /** Stops the process as SIGSTOP does, for `ms`. The world goes on; its own events wait. */
  pause(ms: number): void {
    if (!this.#alive) return
    this.#held ??= []
    const untilMs = this.#links.exactMs() + ms
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, untilMs)
    this.#wake(ms)
  }

  /** Ends a pause early. */
  resume(): void {
    const held = this.#held
    this.#held = undefined
    this.#pausedUntilMs = 0
    for (const event of held ?? []) this.#links.enqueueNow(event)
  }

  /** Takes an event that comes while the process is paused. */
  hold(event: SimEvent): boolean {
    if (this.#held === undefined || event.kind === 'resume') return false
    this.#held.push(event)
    return true
  }

  schedule(delayMs: number, kind: EventKind, run: () => void): SimEvent {
    if (!this.#alive) return new SimEvent(Infinity, 0, kind, this, undefined)
    return this.#links.schedule(delayMs, kind, this, run)
  }

  note(kind: EventKind, value: number): void {
    this.#links.note(kind, this, value)
  }

  #wake(ms: number): void {
    this.schedule(ms, 'resume', () => {
      if (this.#held !== undefined && this.#links.exactMs() >= this.#pausedUntilMs) this.resume()
    })
  }

  /** How long until what the process does soon: at once, or after others' events. It stays in order. */
  #untilNextTurnMs(): number {
    const nowMs = this.#links.exactMs()
    if (this.#nextTurnMs > nowMs) return this.#nextTurnMs - nowMs
    const { busyTurnChance, busyTurnMsMax } = this.faults
    if (!this.#turns.chance(busyTurnChance)) return 0
    this.#nextTurnMs = nowMs + toTicks(this.#turns.between(0, busyTurnMsMax))
    return this.#nextTurnMs - nowMs
  }

  #clock(): Clock {
    const bootMs = this.#links.exactMs() - this.random.fork('monotonic').int(1_000_000)
    return {
      nowMs: () => Math.floor(this.#links.exactMs() + this.skewMs),
      monotonicMs: () => this.#links.exactMs() - bootMs,
      // As with the real clock, no delay is so short that time would not move on.
      after: (delayMs, run) => this.schedule(Math.max(delayMs, 1 / ticksPerMs), 'timer', run),
      soon: (run) => {
        this.schedule(this.#untilNextTurnMs(), 'soon', run)
      },
    }
  }

  #random(): Random {
    const random = this.random.fork('env')
    return { bytes: (length) => random.bytes(length), unit: () => random.unit() }
  }
}

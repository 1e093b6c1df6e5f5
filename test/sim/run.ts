/**
 * One seed, one run: a broker, its clients and everything that befalls them, until the workload is done; then faults
 * stop, everything is drained, and the shadow has its last word.
 */
import { buffers } from '../../src/buffers.ts'
import { startBroker, type Broker } from '../../src/broker/broker.ts'
import { MqError } from '../../src/errors.ts'
import type { PartitionState } from '../../src/partition/fold.ts'
import type { SeededRandom } from '../../src/sim/random.ts'
import { SimStore } from '../../src/sim/store.ts'
import { SimWorld, type SimProcess } from '../../src/sim/world.ts'
import { chooseConfig, type ChaosAction, type SimConfig } from './config.ts'
import { History } from './history.ts'
import { Invariants } from './invariants.ts'
import { faultyLink, type LinkFaults } from './link.ts'
import { Shadow } from './shadow.ts'
import { Violation } from './violation.ts'
import { Client, pickWeighted, type Workload } from './workload.ts'

export interface RunOptions {
  readonly operations?: number | undefined
  /** Every line of the trace and of the history, as it comes. */
  readonly log?: ((line: string) => void) | undefined
  /** The world's events too. */
  readonly events?: boolean | undefined
}

export interface RunResult {
  readonly seed: number
  /** What must not happen and did. */
  readonly violation: Error | null
  /** The last lines of the history. */
  readonly tail: readonly string[]
  readonly config: SimConfig
  readonly traceHash: string
  readonly historyHash: string
  readonly operations: number
  readonly messages: number
  readonly steps: number
  readonly simulatedMs: number
  readonly starts: number
  readonly crashes: number
  readonly folds: number
  readonly counts: ReadonlyMap<string, number>
}

/** Steps between two looks at the state of the partitions, and at the logs. */
const stepsPerCheck = 16
const stepsPerLogCheck = 4000
const stepsMax = 3_000_000
/** How long a run's workload may take, simulated: a broker on a bad disk may hardly serve at all. */
const workloadMsMax = 600_000
/** And how often it may be started for it: more of the same finds nothing more. */
const workloadStartsMax = 150
/** How long after the last fault everything must be drained, beside what leases and time-outs take. */
const drainMs = 60_000
/** An operator's patience with a broker that does not come up, or does not end. */
const startMsMax = 60_000
/** What the broker's wall clock may be set off by. */
const skewMsMax = 20_000
const stopMsMax = 30_000

const goodLink: LinkFaults = {
  latencyMs: [0.01, 1],
  dropChance: 0,
  repeatChance: 0,
  delayChance: 0,
  delayMsMax: 0,
}

// Whoever reads what was given back, be it ever so small, is found out.
buffers.wipes = true
buffers.options.smallBytes = 0

export async function run(seed: number, options: RunOptions = {}): Promise<RunResult> {
  const simulation = new Simulation(seed, options)
  const stray = (error: unknown): void => simulation.fail(error)
  process.on('unhandledRejection', stray)
  try {
    return await simulation.run()
  } finally {
    process.off('unhandledRejection', stray)
  }
}

interface Planned {
  readonly atMs: number
  readonly run: () => void
}

class Simulation {
  readonly #seed: number
  readonly #config: SimConfig
  readonly #world: SimWorld
  readonly #random: SeededRandom
  readonly #history: History
  readonly #shadow: Shadow
  readonly #invariants = new Invariants()
  readonly #disk = new SimStore({ keepsRemoved: true })
  readonly #startMs: number
  readonly #clients: (Client | null)[] = []
  #clientStarts = 0
  #process: SimProcess | null = null
  #broker: Broker | null = null
  #mode: 'down' | 'starting' | 'serving' | 'stopping' = 'down'
  #starts = 0
  #working = true
  #healed = false
  #planned: Planned[] = []
  #replan = false
  #error: Error | null = null
  /** Of leases in memory: the wall clock has jumped, so a planned stop may shorten them. */
  #clockJumped = false
  /** Length of all pauses of the broker together. */
  #pausesMs = 0

  constructor(seed: number, options: RunOptions) {
    this.#seed = seed
    this.#config = chooseConfig(seed, options.operations)
    this.#world = new SimWorld({ seed, faults: this.#config.faults })
    this.#random = this.#world.random
    this.#startMs = this.#world.nowMs
    const nowMs = (): number => this.#world.nowMs - this.#startMs
    this.#history = new History(nowMs)
    this.#shadow = new Shadow(
      nowMs,
      [...this.#config.queues, ...this.#config.deadLetterQueues],
      this.#startMs,
    )
    this.#history.log = options.log
    if (options.events === true) this.#world.log = options.log
  }

  /** The first thing that must not happen ends the run. */
  fail(error: unknown): void {
    this.#error ??= error instanceof Error ? error : new Error(String(error))
  }

  async run(): Promise<RunResult> {
    const world = this.#world
    world.afterEachStep = () => this.#afterStep()
    try {
      this.#startBroker()
      for (let i = 0; i < this.#config.clients; i++) this.#clients.push(this.#startClient(i))
      this.#planChaos()
      await this.#until(
        () => !this.#working && this.#clients.every((client) => client?.isDone !== false),
        workloadMsMax,
      )
      this.#working = false
      this.#heal()
      await this.#until(() => this.#clients.every((client) => client?.isDone !== false), this.#drainWithinMs)
      if (this.#error === null) await this.#drain()
    } catch (error) {
      this.fail(error)
    }
    if (this.#error !== null) this.#history.note(`violation: ${this.#error.message}`)
    return {
      seed: this.#seed,
      violation: this.#error,
      tail: this.#history.tail,
      config: this.#config,
      traceHash: world.traceHash,
      historyHash: this.#history.hash,
      operations: this.#history.operations,
      messages: this.#shadow.messageCount,
      steps: world.steps,
      simulatedMs: world.nowMs - this.#startMs,
      starts: this.#starts,
      crashes: this.#shadow.crashes,
      folds: this.#invariants.folds,
      counts: this.#history.counts,
    }
  }

  /** Runs the world and what is planned, until `done` or the time is over. */
  async #until(done: () => boolean, ms: number): Promise<boolean> {
    const endMs = this.#world.nowMs + ms
    for (;;) {
      if (this.#error !== null) throw this.#error
      if (done()) return true
      if (this.#world.nowMs >= endMs) return false
      const next = this.#planned[0]
      const untilMs = Math.min(endMs, next?.atMs ?? Infinity)
      const end = await this.#world.run({
        untilMs,
        until: () => this.#error !== null || this.#replan || done(),
        maxSteps: stepsMax,
      })
      this.#replan = false
      if (this.#world.steps > stepsMax) throw new Error(`no end after ${stepsMax} steps`)
      if (end === 'time' && next !== undefined && next.atMs <= this.#world.nowMs) {
        this.#planned.shift()
        next.run()
      }
    }
  }

  #plan(delayMs: number, run: () => void): void {
    // Whole, as the world's clock shows it: a fraction more and the clock would never be seen to reach it.
    const atMs = this.#world.nowMs + Math.ceil(delayMs)
    const place = this.#planned.findIndex((planned) => planned.atMs > atMs)
    this.#planned.splice(place < 0 ? this.#planned.length : place, 0, { atMs, run })
    this.#replan = true
  }

  #afterStep(): void {
    if (this.#history.operations >= this.#config.operations || this.#starts >= workloadStartsMax) {
      this.#working = false
    }
    const { steps } = this.#world
    if (this.#broker === null || this.#mode !== 'serving' || this.#process?.alive !== true) return
    if (steps % stepsPerCheck === 0) this.#invariants.check(this.#broker)
    if (steps % stepsPerLogCheck === 0) this.#invariants.checkLogs(this.#broker, this.#disk)
  }

  // -------------------------------------------------------------------------------------------------------------
  // The broker

  #startBroker(): void {
    const process = this.#world.process('broker', this.#disk)
    this.#process = process
    this.#mode = 'starting'
    this.#starts++
    this.#history.note(`broker starts, number ${this.#starts}`)
    const { segmentBytes, heartbeatMs, logOptions } = this.#config
    const listen = { host: 'broker', port: 7650 }
    const random = process.random.fork('link')
    const peerLink = faultyLink(process.env.clock, random, () =>
      this.#healed ? goodLink : this.#config.link,
    )
    const options = { listen, segmentBytes, heartbeatMs, logOptions, peerLink }
    startBroker(process.env, options)
      .then(
        (broker) => {
          if (this.#process !== process || !process.alive) return
          this.#broker = broker
          this.#mode = 'serving'
          this.#history.note('broker serves')
          this.#invariants.check(broker)
          if (this.#starts <= 10 || this.#starts % 5 === 0) this.#invariants.checkLogs(broker, this.#disk)
          void broker.failed.then((error) => {
            this.#judgeFailure(error)
            if (this.#process === process && process.alive) this.#crashBroker(`failed: ${error.code}`)
          })
        },
        (error: unknown) => {
          if (this.#process !== process || !process.alive) return
          if (error instanceof MqError) this.#judgeFailure(error)
          else this.fail(error)
          this.#crashBroker(`did not start: ${String(error)}`)
        },
      )
      .catch((error: unknown) => this.fail(error))
    this.#plan(startMsMax, () => {
      if (this.#process === process && this.#mode === 'starting') this.#crashBroker('hung at its start')
    })
  }

  /** A bad disk is a reason to stop; anything else is a defect. */
  #judgeFailure(error: MqError): void {
    if (error.code === 'STORAGE_FAILED' || error.code === 'DISK_FULL') return
    this.fail(new Violation('', `the broker ended with ${error.code}: ${error.message}`))
  }

  #crashBroker(why: string): void {
    this.#history.note(`broker crashes: ${why}`)
    this.#process!.crash()
    this.#shadow.brokerCrashed()
    this.#brokerIsDown()
  }

  #brokerIsDown(): void {
    this.#broker = null
    this.#mode = 'down'
    this.#plan(this.#healed ? 10 : this.#random.between(0, this.#random.pick([10, 1000])), () => {
      if (this.#mode === 'down') this.#startBroker()
    })
  }

  #stopBroker(): void {
    const process = this.#process!
    const broker = this.#broker!
    this.#mode = 'stopping'
    this.#history.note('broker stops')
    if (this.#clockJumped) this.#shadow.brokerCrashed()
    let failed = false
    let late = false
    // What was not on the disk in time is lost, as in a crash.
    void broker.failed.then(() => (failed = true))
    const commitsMs = this.#world.nowMs
    broker.stop().then(
      () => {
        if (this.#process !== process || !process.alive) return
        late = this.#world.nowMs - commitsMs >= stopTimeoutMs
        this.#history.note('broker has stopped')
        if (failed || late) this.#shadow.brokerCrashed()
        process.crash()
        this.#brokerIsDown()
      },
      (error: unknown) => this.fail(error),
    )
    this.#watchStop(process)
  }

  /** Whatever its disk does, it must have stopped after a while in which nobody paused it. */
  #watchStop(process: SimProcess): void {
    const pausesMs = this.#pausesMs
    this.#plan(stopMsMax, () => {
      if (this.#process !== process || !process.alive) return
      if (process.paused || this.#pausesMs > pausesMs) this.#watchStop(process)
      else this.fail(new Violation('', `the broker did not stop within ${stopMsMax} ms`))
    })
  }

  // -------------------------------------------------------------------------------------------------------------
  // Clients

  #startClient(index: number): Client {
    const label = `c${index}.${this.#clientStarts++}`
    const process = this.#world.process(`client ${index}`)
    const client = new Client(process, label, this.#workload)
    client.start()
    return client
  }

  get #workload(): Workload {
    return {
      config: this.#config,
      history: this.#history,
      shadow: this.#shadow,
      goOn: () => this.#working,
      fail: (error) => this.fail(error),
    }
  }

  // -------------------------------------------------------------------------------------------------------------
  // Chaos

  #planChaos(): void {
    const { chaosEveryMs } = this.#config
    if (chaosEveryMs === Infinity) return
    this.#plan(this.#random.between(0, 2 * chaosEveryMs), () => {
      if (this.#healed) return
      if (Object.values(this.#config.chaos).some((weight) => weight > 0)) {
        this.#do(pickWeighted(this.#random, this.#config.chaos))
      }
      this.#planChaos()
    })
  }

  #do(action: ChaosAction): void {
    const random = this.#random
    const index = random.int(this.#clients.length)
    const client = this.#clients[index]
    const clientProcess = client?.process
    const clientName = clientProcess?.name ?? ''
    this.#history.note(`chaos: ${action} ${clientName}`)
    switch (action) {
      case 'crashBroker':
        if (this.#mode !== 'down') this.#crashBroker('chaos')
        return
      case 'stopBroker':
        if (this.#mode === 'serving') this.#stopBroker()
        return
      case 'failCommit':
        this.#disk.nextCommit = 'storage-failed'
        return
      case 'stickCommit':
        this.#disk.nextCommit = 'stuck'
        return
      case 'fillDisk':
        this.#disk.full = true
        this.#plan(random.between(0, 3000), () => (this.#disk.full = false))
        return
      case 'pauseBroker': {
        const ms = random.between(0, 5000)
        this.#pausesMs += ms
        this.#process?.pause(ms)
        return
      }
      case 'jumpClock':
        if (this.#process !== null) {
          this.#clockJumped = true
          this.#shadow.clockJumped()
          // Leases that are being handed over go by the wall clock, which may end them early.
          if (this.#mode !== 'serving') this.#shadow.brokerCrashed()
          this.#process.skewMs = Math.floor(random.between(-skewMsMax, skewMsMax))
        }
        return
      case 'crashClient':
        if (client === null || client === undefined) return
        this.#clients[index] = null
        client.process.crash()
        this.#history.clientCrashed(client.name)
        this.#plan(random.between(0, 500), () => {
          if (!this.#healed) this.#clients[index] = this.#startClient(index)
        })
        return
      case 'pauseClient':
        clientProcess?.pause(random.between(0, 3000))
        return
      case 'cut':
        this.#world.cut(clientName, 'broker')
        return
      case 'blackHole':
        if (random.chance(0.5)) this.#world.blackHole(clientName, 'broker')
        else this.#world.blackHole('broker', clientName)
        return
      case 'partition':
        this.#world.partition(clientName, 'broker', random.between(0, 4000), { oneWay: random.chance(0.5) })
        return
    }
  }

  /** No more faults; the broker comes back if it is down. What is broken already takes its course. */
  #heal(): void {
    this.#history.note('faults stop')
    this.#healed = true
    this.#disk.full = false
    this.#disk.nextCommit = undefined
    this.#world.heal()
    this.#process?.resume()
    for (const client of this.#clients) client?.process.resume()
    if (this.#mode === 'down') this.#startBroker()
  }

  get #drainWithinMs(): number {
    // A call's time-out, a lease that was extended at the last moment, and a delay by a clock that is off.
    const { visibilityTimeoutMsMax, delayMsMax, deadLetterQueues } = this.#config
    // An outbox may have given its target up for a while, and a lease there be as long as by default.
    const onwardMs = deadLetterQueues.length > 0 ? 90_000 : 0
    return onwardMs + drainMs + 30_000 + 2 * visibilityTimeoutMsMax + 2 * delayMsMax + skewMsMax
  }

  async #drain(): Promise<void> {
    const busy = [...this.#history.pending]
    if (busy.length > 0) {
      const { client, number, what } = busy[0]!
      throw new Violation(
        '24',
        `${busy.length} operations have no end, among them ${client} #${number} ${what}`,
      )
    }
    const isDrained = (): boolean => {
      if (this.#mode !== 'serving' || this.#broker === null) return false
      for (const { partitions } of this.#broker.internals.queues.values()) {
        for (const { leader } of partitions) {
          if (!isEmpty(leader.state) || leader.highWatermark < leader.state.logEnd) return false
        }
      }
      const { queues } = this.#broker.internals
      return this.#config.created.every(({ name }) => queues.has(name))
    }
    const drainer = new Client(this.#world.process('drainer'), 'drainer', this.#workload)
    let over = false
    drainer.drain(isDrained).then(
      () => (over = true),
      (error: unknown) => this.fail(error),
    )
    if (!(await this.#until(() => over, this.#drainWithinMs))) {
      const left = [...(this.#broker?.internals.queues.values() ?? [])].map(
        (queue) => `${queue.name}: ${queue.messages}`,
      )
      throw new Violation(
        '24',
        `not drained ${this.#drainWithinMs} ms after the last fault; ${left.join(', ') || 'no broker'}`,
      )
    }
    this.#shadow.finish()
    if (this.#broker !== null) {
      this.#invariants.check(this.#broker)
      this.#invariants.checkLogs(this.#broker, this.#disk)
    }
  }
}

/** Nothing is left of it, nor on its way to another queue. */
function isEmpty({ live, outbox }: PartitionState): boolean {
  return live.isEmpty && outbox.moving.isEmpty
}

/** The broker's default. */
const stopTimeoutMs = 5000

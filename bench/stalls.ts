/**
 * What stops others. Each case does one large thing to a broker of its own, a process as the command starts it, while
 * a bystander on another queue sends and receives 200 times a second. Reported are the longest stop of the broker's
 * event loop, by the clock and in CPU time of its thread, and what the bystander saw of it; the first row is the
 * bystander alone, with what this machine's disk and scheduler add.
 *
 *   npm run bench:stalls -- [--only TEXT] [--messages N] [--dir DIR]
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { connect, type Message, type MqClient } from '../src/index.ts'
import { BrokerProcess, buildCommandIfStale } from './broker-process.ts'
import type { BystanderSteps, Latencies } from './bystander.ts'
import type { CrowdSteps } from './crowd.ts'
import { anonymousBytesOf, peakMemoryBytesOf } from './proc.ts'
import type { Stops } from './loop-probe.ts'
import { Worker } from './steps.ts'

interface Row {
  readonly what: string
  readonly tookMs: number
  readonly stops: Stops | null
  readonly bystander: Latencies | null
  readonly note: string
}

const stepMs = 180_000
const segmentBytes = 64 << 20
const queue = 'large'
const batch = 1000
const bodyBytes = 100
/** Longer than any case. */
const longLeaseMs = 3_600_000
/** What preparing a case may take, before something becomes due. */
const untilDueMs = 60_000
/** The broker looks at its segments once a second. */
const retentionLooksMs = 3000

class Stage {
  readonly rows: Row[]
  readonly dataDir: string
  #broker: BrokerProcess | null = null
  #bystander: Worker<BystanderSteps> | null = null
  #client: MqClient | null = null

  constructor(dir: string, rows: Row[]) {
    this.dataDir = join(mkdtempSync(join(dir, 'stage-')), 'data')
    this.rows = rows
  }

  get mq(): MqClient {
    return this.#client!
  }

  get server(): string {
    return this.#broker!.listen
  }

  get pid(): number {
    return this.#broker!.pid
  }

  async start(): Promise<void> {
    const probe = new URL('./loop-probe.js', import.meta.url).href
    const execArgv = ['--import', probe]
    this.#broker = await BrokerProcess.start({ dataDir: this.dataDir, execArgv, channel: true })
    this.#client = await connect({ servers: [this.server], name: 'stalls' })
  }

  async stop(): Promise<void> {
    await this.#client?.close()
    await this.#bystander?.stop()
    this.#bystander = null
    await this.#broker?.stop()
    this.#broker = null
  }

  async kill(): Promise<void> {
    await this.#bystander?.stop()
    await this.#broker?.kill()
    rmSync(join(this.dataDir, '..'), { recursive: true, force: true })
  }

  /** @param act what is measured; a text that it returns goes into the table */
  async measure(what: string, act: () => Promise<string | void>): Promise<void> {
    if (this.#bystander === null) {
      this.#bystander = new Worker<BystanderSteps>('bystander')
      await this.#bystander.call('start', { server: this.server }, stepMs)
      await pause(1000)
    }
    await this.#bystander.call('look', null, stepMs)
    await this.#broker!.ask('longest stop')
    const begunMs = performance.now()
    const note = (await act()) ?? ''
    const tookMs = performance.now() - begunMs
    const bystander = await this.#bystander.call('look', null, stepMs)
    const stops = await this.#broker!.ask<Stops>('longest stop')
    this.note({ what, tookMs, stops, bystander, note })
  }

  note(row: Row): void {
    this.rows.push(row)
    const { what, stops, bystander } = row
    console.error(
      `${what}: stop ${ms(stops?.longestMs)}, CPU ${ms(stops?.longestCpuMs)}; ` +
        `bystander p99.9 ${ms(bystander?.p999Ms)}, at most ${ms(bystander?.maxMs)}`,
    )
  }

  /** Fills a new queue. `deliverAt` of the message with this number; 0: at once. */
  async fill(messages: number, deliverAt: (i: number) => number = () => 0): Promise<void> {
    await this.mq.createQueue(queue, { visibilityTimeoutMs: longLeaseMs })
    const body = Buffer.alloc(bodyBytes, 'x')
    let next = 0
    const sendSome = async (): Promise<void> => {
      while (next < messages) {
        const first = next
        next += Math.min(batch, messages - next)
        const entries = Array.from({ length: next - first }, (_, i) => {
          const at = deliverAt(first + i)
          return at === 0 ? { body } : { body, deliverAt: at }
        })
        for (const result of await this.mq.sendBatch(queue, entries))
          if (result instanceof Error) throw result
      }
    }
    await Promise.all(Array.from({ length: 8 }, sendSome))
  }

  /** Acks the messages that `isAcked` names by their number and gives the others back. */
  async fragment(messages: number, isAcked: (i: number) => boolean): Promise<void> {
    let left = messages
    const takeSome = async (): Promise<void> => {
      while (left > 0) {
        const taken = await this.mq.receive(queue, { max: Math.min(batch, left) })
        left -= taken.length
        const acked = taken.filter((_, i) => isAcked(i))
        await Promise.all(acked.map((message) => message.ack()))
        this.#held.push(...taken.filter((_, i) => !isAcked(i)))
      }
    }
    await takeSome()
    // Only now, or they would be received again.
    for (let i = 0; i < this.#held.length; i += 10_000)
      await Promise.all(this.#held.slice(i, i + 10_000).map((message) => message.release()))
    this.#held = []
  }

  #held: Message[] = []

  /** Makes the log go on in the next segment, twice, at a pace that harms nobody, and waits for what that entails. */
  async roll(): Promise<void> {
    await this.mq.createQueue('roll')
    const before = this.segments
    const body = Buffer.alloc(64 << 10, 'x')
    for (let bytes = 0; this.segments < before + 2 && bytes < 3 * segmentBytes; bytes += 4 * body.length) {
      await Promise.all(Array.from({ length: 4 }, () => this.mq.send('roll', body)))
      await pause(5)
    }
    await pause(2000)
  }

  get segments(): number {
    return readdirSync(this.dataDir).filter((name) => /^\d{8}/.test(name) && !name.includes('lock')).length
  }
}

interface Case {
  readonly name: string
  readonly run: (stage: Stage, messages: number) => Promise<void>
}

const every = (n: number) => (i: number) => i % n === 0

const cases: readonly Case[] = [
  {
    name: 'alone',
    run: (stage) => stage.measure('the bystander alone, 10 s', () => pause(10_000)),
  },
  {
    name: 'purge',
    async run(stage, messages) {
      await stage.fill(messages)
      await stage.measure('purge of all', () => stage.mq.purgeQueue(queue).then(() => undefined))
    },
  },
  {
    name: 'purge fragmented',
    async run(stage, messages) {
      await stage.fill(messages)
      await stage.fragment(messages, every(2))
      await stage.measure('purge of every second', () => stage.mq.purgeQueue(queue).then(() => undefined))
    },
  },
  {
    name: 'checkpoint',
    async run(stage, messages) {
      await stage.fill(messages)
      await stage.fragment(messages, every(2))
      await stage.measure('two rolls, checkpoints of every second', () => stage.roll())
      await stage.measure('updateQueue', async () => {
        await stage.mq.updateQueue(queue, { delayMs: 1000 })
      })
      await stage.measure('deletion of every second, and its segments', async () => {
        await stage.mq.deleteQueue(queue)
        await pause(retentionLooksMs)
      })
    },
  },
  {
    name: 'partitions',
    async run(stage) {
      await stage.measure('10 queues with 1,000 partitions each are made', async () => {
        for (let i = 0; i < 10; i++) await stage.mq.createQueue(`wide-${i}`, { partitions: 1000 })
      })
      await stage.measure('two rolls, 10,000 partitions', () => stage.roll())
      await stage.measure('deletion of one with 1,000 partitions', () => stage.mq.deleteQueue('wide-0'))
    },
  },
  {
    name: 'delete',
    async run(stage, messages) {
      await stage.fill(messages)
      await stage.measure('deletion of all, and its segments', async () => {
        await stage.mq.deleteQueue(queue)
        await pause(retentionLooksMs)
      })
    },
  },
  {
    name: 'copy-forward',
    async run(stage, messages) {
      await stage.fill(messages)
      const isKept = every(5)
      await stage.fragment(messages, (i) => !isKept(i))
      const before = stage.segments
      await stage.measure('copy-forward of every fifth', async () => {
        // They are given half a minute first.
        const dueMs = performance.now() + 75_000
        while (stage.segments >= before && performance.now() < dueMs) await pause(200)
        await pause(5000)
        return `${before} segments, then ${stage.segments}`
      })
    },
  },
  {
    name: 'connections',
    async run(stage) {
      const clients = 990
      const prefetch = 100
      // A client is sent as many again as it was handed out: without renewal those count no more.
      await stage.fill(2 * clients * prefetch + 50_000)
      const crowd = new Worker<CrowdSteps>('crowd')
      await stage.measure('990 consumers come and take 100 each', () =>
        crowd.call('hold', { server: stage.server, queue, clients, prefetch }, stepMs),
      )
      await stage.measure('990 consumers with 99,000 leases end at once', async () => {
        await crowd.stop()
        await pause(2000)
      })
    },
  },
  {
    name: 'expiry',
    async run(stage, messages) {
      const leases = messages / 10
      await stage.fill(leases)
      const dueMs = Date.now() + untilDueMs
      await takeEach(stage.mq, leases, () => Math.max(1, dueMs - Date.now()))
      mustLieAhead(dueMs)
      await stage.measure('expiry of 100,000 leases', async () => {
        await pause(Math.max(0, dueMs - Date.now()) + 2000)
        const { messages: states } = await stage.mq.describeQueue(queue)
        return `leased ${states.leased}, ready ${states.ready}`
      })
    },
  },
  {
    name: 'delayed',
    async run(stage, messages) {
      const dueMs = Date.now() + untilDueMs
      const beforeBytes = anonymousBytesOf(stage.pid)
      // Neighbours differ, so that no two are one range.
      await stage.fill(messages, (i) => dueMs + (i & 1))
      mustLieAhead(dueMs)
      const heldBytes = anonymousBytesOf(stage.pid) - beforeBytes
      await stage.measure('all become ready, each a range', async () => {
        await pause(Math.max(0, dueMs - Date.now()) + 4000)
        const { messages: states } = await stage.mq.describeQueue(queue)
        return `${Math.round(heldBytes / 2 ** 20)} MiB; delayed ${states.delayed}, ready ${states.ready}`
      })
    },
  },
  {
    name: 'restart',
    async run(stage, messages) {
      const leases = messages / 10
      await stage.fill(leases)
      await takeEach(stage.mq, leases, () => longLeaseMs)
      await timed(stage, 'stop with 100,000 leases', () => stage.stop())
      await timed(stage, 'start that takes them over', () => stage.start())
      await stage.mq.deleteQueue(queue)
      await stage.fill(messages)
      await stage.fragment(messages, every(2))
      await timed(stage, 'stop with every second', () => stage.stop())
      await timed(stage, 'start with every second', () => stage.start())
    },
  },
]

function mustLieAhead(dueMs: number): void {
  if (dueMs < Date.now() + 2000)
    throw new Error(`the machine took over ${untilDueMs} ms to prepare this case`)
}

/** Takes messages one by one: a lease each. */
async function takeEach(mq: MqClient, messages: number, leaseMs: () => number): Promise<void> {
  let left = messages
  const takeSome = async (): Promise<void> => {
    while (left-- > 0) await mq.receive(queue, { max: 1, visibilityTimeoutMs: leaseMs() })
  }
  await Promise.all(Array.from({ length: 64 }, takeSome))
}

async function timed(stage: Stage, what: string, act: () => Promise<unknown>): Promise<void> {
  const begunMs = performance.now()
  await act()
  stage.note({ what, tookMs: performance.now() - begunMs, stops: null, bystander: null, note: '' })
}

function ms(value: number | null | undefined): string {
  return value === null || value === undefined ? '–' : `${value.toFixed(1)} ms`
}

function render(rows: readonly Row[]): string {
  const columns: [string, (row: Row) => string][] = [
    ['operation', (row) => row.what],
    ['took', (row) => `${(row.tookMs / 1000).toFixed(2)} s`],
    ['longest stop', (row) => ms(row.stops?.longestMs)],
    ['of it CPU', (row) => ms(row.stops?.longestCpuMs)],
    ['bystander p99.9', (row) => ms(row.bystander?.p999Ms)],
    ['max', (row) => ms(row.bystander?.maxMs)],
    ['', (row) => row.note],
  ]
  const lines = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, of]) => of(row)))]
  lines.splice(1, 0, ['---', '---:', '---:', '---:', '---:', '---:', '---'])
  return lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', default: '' },
      messages: { type: 'string', default: '1000000' },
      dir: { type: 'string', default: tmpdir() },
    },
  })
  buildCommandIfStale()
  const dir = mkdtempSync(join(values.dir, 'mq-stalls-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  const rows: Row[] = []
  const only = values.only.split(',')
  for (const { name, run } of cases) {
    if (!only.some((text) => name.includes(text))) continue
    const stage = new Stage(dir, rows)
    try {
      await stage.start()
      await run(stage, Number(values.messages))
      stage.rows.push({
        what: `(${name}: peak memory)`,
        tookMs: 0,
        stops: null,
        bystander: null,
        note: `${Math.round(peakMemoryBytesOf(stage.pid) / 2 ** 20)} MiB`,
      })
    } finally {
      await stage.kill()
    }
  }
  console.log(render(rows))
}

try {
  await main()
} catch (error) {
  console.error(error)
  process.exitCode = 1
}
process.exit()

/**
 * A client that nothing concerns: it sends and receives on a queue of its own at a fixed pace, whatever the broker is
 * busy with. What waits in line counts with all its waiting.
 */
import { connect, type MqClient } from '../src/index.ts'
import { percentile } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface Latencies {
  readonly messages: number
  readonly p999Ms: number
  readonly maxMs: number
}

/** 200 a second. */
const everyMs = 5
const queue = 'bystander'
const prefetch = 1000

let client: MqClient
let failure: Error | null = null
let latenciesMs: number[] = []
let sent = 0
let received = 0
let arrived: (() => void) | null = null

function failed(error: unknown): void {
  failure ??= error instanceof Error ? error : new Error(String(error))
  arrived?.()
}

async function consume(): Promise<void> {
  for await (const message of client.consume(queue, { prefetch })) {
    latenciesMs.push(performance.now() - Number(message.text()))
    received++
    message.ack().catch(failed)
    arrived?.()
  }
}

const steps = {
  async start({ server }: { server: string }): Promise<void> {
    client = await connect({ servers: [server], name: 'bystander' })
    await client.createQueue(queue)
    consume().catch(failed)
    setInterval(() => {
      sent++
      client.send(queue, String(performance.now())).catch(failed)
    }, everyMs)
  },

  /** Latencies, from the call of `send` to the arrival, since the last look; waits for what is on its way. */
  async look(_: null): Promise<Latencies> {
    const until = sent
    while (received < until && failure === null) await new Promise<void>((resolve) => (arrived = resolve))
    if (failure !== null) throw failure
    const sorted = Float64Array.from(latenciesMs).sort()
    latenciesMs = []
    return { messages: sorted.length, p999Ms: percentile(sorted, 0.999), maxMs: percentile(sorted, 1) }
  },
}

export type BystanderSteps = typeof steps

serveSteps(steps)

/** Many clients in one process, each a consumer that holds what it got: when the process ends they are gone at once. */
import { connect } from '../src/index.ts'
import { inLanes } from './lanes.ts'
import { serveSteps } from './steps.ts'

export interface CrowdTask {
  readonly server: string
  readonly queue: string
  readonly clients: number
  /** Messages that each takes and keeps. */
  readonly prefetch: number
}

/** Clients that connect at the same time. */
const connecting = 50

const steps = {
  /** Resolves once each client has its share. */
  async hold({ server, queue, clients, prefetch }: CrowdTask): Promise<void> {
    await inLanes(clients, connecting, async () => {
      const client = await connect({ servers: [server], timeoutMs: 30_000 })
      const messages = client.consume(queue, { prefetch, renew: false })
      for (let held = 0; held < prefetch; held++) await messages.next()
    })
  },
}

export type CrowdSteps = typeof steps

serveSteps(steps)

/** The producer's process: it sends by the client, or nowhere, which tells what the load itself costs. */
import { connect, type MqClient } from '../src/index.ts'
import { sendOneByOne, sendSteadily, type LoadTarget, type LoadTask } from './load.ts'
import { serveSteps } from './steps.ts'

export interface SendTask extends LoadTask {
  readonly queue: string
}

let client: MqClient | null = null

const steps = {
  async connect({ server }: { server: string }): Promise<void> {
    client = await connect({ servers: [server], name: 'bench-producer' })
  },

  async createQueue({ queue }: { queue: string }): Promise<void> {
    await client!.createQueue(queue)
  },

  send: (task: SendTask) => sendSteadily(task, targetOf(client!, task.queue)),

  generate(task: SendTask) {
    const done = Promise.resolve()
    return sendSteadily(task, { send: () => done, entryOf: (body) => ({ body }), sendBatch: () => done })
  },

  oneByOne: (task: SendTask) => sendOneByOne(task, (body) => client!.send(task.queue, body)),

  async close(_: null): Promise<void> {
    await client?.close()
    client = null
  },
}

export type ProducerSteps = typeof steps

function targetOf(mq: MqClient, queue: string): LoadTarget<{ readonly body: Buffer }> {
  return {
    send: (body) => mq.send(queue, body),
    entryOf: (body) => ({ body }),
    async sendBatch(entries) {
      for (const result of await mq.sendBatch(queue, entries)) if (result instanceof Error) throw result
    },
  }
}

serveSteps(steps)

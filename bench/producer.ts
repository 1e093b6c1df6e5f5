/** The producer's process: it sends by the client, or nowhere, which tells what the load itself costs. */
import type { MqClient } from '../src/index.ts'
import { closeClients, connectClients, createQueues, type ClientsTask } from './clients.ts'
import { sendOneByOne, sendSteadily, type LoadTarget, type LoadTask } from './load.ts'
import { sendPaced, type PacedTask } from './paced.ts'
import { serveSteps } from './steps.ts'

/** To each queue in turn, by each client in turn. */
interface Target {
  readonly queues: readonly string[]
}

export interface SendTask extends LoadTask, Target {}

export interface QueuesTask extends Target {
  readonly partitions?: number | undefined
}

let clients: MqClient[] = []

const steps = {
  async connect(task: ClientsTask): Promise<void> {
    clients = await connectClients(task, 'bench-producer')
  },

  createQueues: ({ queues, partitions }: QueuesTask) => createQueues(clients[0]!, queues, { partitions }),

  send: (task: SendTask) => sendSteadily(task, targetOf(task.queues)),

  generate(task: LoadTask) {
    const done = Promise.resolve()
    return sendSteadily(task, { send: () => done, entryOf: (body) => ({ body }), sendBatch: () => done })
  },

  /** Each client by itself. */
  oneByOne: (task: SendTask) =>
    sendOneByOne(
      task,
      ...clients.map((mq, i) => (body: Buffer) => mq.send(task.queues[i % task.queues.length]!, body)),
    ),

  paced(task: PacedTask & Target) {
    const target = targetOf(task.queues)
    return sendPaced(task, (body) => target.send(body))
  },

  async close(_: null): Promise<void> {
    await closeClients(clients)
    clients = []
  },
}

export type ProducerSteps = typeof steps

function targetOf(queues: readonly string[]): LoadTarget<{ readonly body: Buffer }> {
  let next = 0
  const turn = () => {
    const at = next++
    return { mq: clients[at % clients.length]!, queue: queues[at % queues.length]! }
  }
  return {
    send(body) {
      const { mq, queue } = turn()
      return mq.send(queue, body)
    },
    entryOf: (body) => ({ body }),
    async sendBatch(entries) {
      const { mq, queue } = turn()
      for (const result of await mq.sendBatch(queue, entries)) if (result instanceof Error) throw result
    },
  }
}

serveSteps(steps)

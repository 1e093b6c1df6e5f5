/** The producer's process, of whatever peer: it sends by the peer's adapter, and counts what was confirmed. */
import { sendOneByOne, sendSteadily, type LoadTask } from '../load.ts'
import { sendPaced, type PacedTask } from '../paced.ts'
import { serveSteps } from '../steps.ts'
import type { Endpoint, PeerName, Sender } from './peer.ts'
import { peers } from './peers.ts'

let sender: Sender | null = null

const steps = {
  async connect({ peer, endpoint, queue }: { peer: PeerName; endpoint: Endpoint; queue: string }) {
    await sender?.close()
    sender = await peers[peer].adapter.openSender(endpoint, queue)
  },

  send(task: LoadTask) {
    const target = sender!
    return sendSteadily(task, {
      send: (body) => target.send(body),
      entryOf: (body) => body,
      sendBatch: (bodies) => target.sendBatch(bodies),
    })
  },

  oneByOne: (task: LoadTask) => sendOneByOne(task, (body) => sender!.send(body)),

  paced: (task: PacedTask) => sendPaced(task, (body) => sender!.send(body)),

  async close(_: null): Promise<void> {
    await sender?.close()
    sender = null
  },
}

export type PeerProducerSteps = typeof steps

serveSteps(steps)

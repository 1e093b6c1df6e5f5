/** The consumer's process, of whatever peer: it receives and acks by the peer's adapter, and keeps account. */
import { setTimeout } from 'node:timers/promises'
import { Acks } from '../acks.ts'
import { Arrivals } from '../bodies.ts'
import { serveSteps } from '../steps.ts'
import type { Endpoint, PeerName, Receiver, Sink } from './peer.ts'
import { peers } from './peers.ts'

export interface ReceiveTask {
  readonly bodyBytes: number
  readonly tag: number
  /** Keep when each message came: of its number, the first time. */
  readonly timed: boolean
}

export interface Account {
  readonly acked: number
  readonly distinct: number
  readonly missing: number
  readonly duplicates: number
  readonly damaged: number
}

/** After the last message: for what should not be there. */
const lookMs = 300

class Run implements Sink {
  readonly arrivals: Arrivals
  readonly #receiver: Receiver
  readonly #ended: Promise<void>
  readonly #acks = new Acks()

  constructor(receiver: Receiver, { bodyBytes, tag, timed }: ReceiveTask) {
    this.arrivals = new Arrivals(bodyBytes, tag, timed)
    this.#receiver = receiver
    this.#ended = receiver.run(this).catch((error: unknown) => this.failed(error))
  }

  received(body: Uint8Array): void {
    this.arrivals.note(body)
  }

  acked(count: number): void {
    this.#acks.add(count)
  }

  failed(error: unknown): void {
    this.#acks.fail(error)
  }

  untilAcked(total: number, timeoutMs: number) {
    return this.#acks.until(total, timeoutMs)
  }

  async stop(total: number): Promise<Account> {
    await setTimeout(lookMs)
    await this.#receiver.stop()
    await this.#ended
    this.#acks.assertGood()
    const { distinct, duplicates, damaged } = this.arrivals
    return { acked: this.#acks.count, distinct, missing: this.arrivals.missing(total), duplicates, damaged }
  }
}

let receiver: Receiver | null = null
let run: Run | null = null

const steps = {
  async connect({ peer, endpoint, queue }: { peer: PeerName; endpoint: Endpoint; queue: string }) {
    await receiver?.close()
    receiver = await peers[peer].adapter.openReceiver(endpoint, queue)
  },

  start(task: ReceiveTask): void {
    run = new Run(receiver!, task)
  },

  untilAcked: ({ total, timeoutMs }: { total: number; timeoutMs: number }) =>
    run!.untilAcked(total, timeoutMs),

  receivedMs: ({ first }: { first: number }) => run!.arrivals.receivedMs(first),

  stop: ({ total }: { total: number }) => run!.stop(total),

  async close(_: null): Promise<void> {
    await receiver?.close()
    receiver = null
  },
}

export type PeerConsumerSteps = typeof steps

serveSteps(steps)

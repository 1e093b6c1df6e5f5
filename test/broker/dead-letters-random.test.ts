/** Dead letters and redrives over a link that loses and repeats, through crashes and stops: each message is somewhere, once. */
import t from 'tap'
import type { PeerLink } from '../../src/broker/forwarder.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { BrokerBench } from './broker-bench.ts'

const seeds = 20
const steps = 40

function faulty(random: SeededRandom): (deliver: PeerLink) => PeerLink {
  return (deliver) => {
    const frames: Uint8Array[] = []
    return async (frame) => {
      frames.push(frame)
      if (random.chance(0.2)) throw new Error('lost')
      if (random.chance(0.2)) deliver(random.pick(frames)).catch(() => undefined)
      const answer = await deliver(frame)
      if (random.chance(0.2)) throw new Error('lost')
      return random.chance(0.05) ? new Promise<never>(() => undefined) : answer
    }
  }
}

for (let seed = 1; seed <= seeds; seed++) {
  void t.test(`seed ${seed}`, async (t) => {
    const random = new SeededRandom(seed)
    const options = { peerLink: faulty(random), segmentBytes: 65_536 }
    const bench = await BrokerBench.serving(options)
    const mq = await bench.connect()
    const shared = { deadLetterQueue: 'dead', visibilityTimeoutMs: 500 }
    await bench.complete(mq.createQueue('dead', { partitions: 1 + random.int(2) }))
    await bench.complete(
      mq.createQueue('orders', { ...shared, partitions: 1 + random.int(3), maxDeliveries: 2 }),
    )
    await bench.complete(mq.createQueue('others', { ...shared, maxDeliveries: 1 }))
    let sent = 0
    const settleSome = async (queue: string): Promise<void> => {
      for (const message of await bench.complete(mq.receive(queue, { max: 15 }))) {
        const how = random.int(5)
        const settled =
          how === 0
            ? message.release()
            : how === 1
              ? message.nack()
              : how === 2 && queue !== 'dead'
                ? message.deadLetter()
                : Promise.resolve()
        // By a crash its lease may be lost.
        settled.catch(() => undefined)
      }
    }
    for (let step = 0; step < steps; step++) {
      const queue = random.pick(['orders', 'others'])
      const what = random.unit()
      if (what < 0.3) {
        const bodies = Array.from({ length: 1 + random.int(20) }, () => ({ body: String(sent++) }))
        await bench.complete(mq.sendBatch(queue, bodies))
      } else if (what < 0.6) await settleSome(random.chance(0.2) ? 'dead' : queue)
      else if (what < 0.75) mq.redrive('dead', random.chance(0.3) ? { to: queue } : {}).catch(() => undefined)
      else if (what < 0.9) {
        if (random.chance(0.3)) await bench.complete(bench.broker.stop())
        await bench.restart(options)
      } else await bench.world.advance(random.int(1000))
      await bench.world.advance(random.int(5))
    }
    await bench.world.advance(120_000)
    const found: number[] = []
    for (const [name, { partitions }] of bench.broker.internals.queues) {
      for (const { leader } of partitions) {
        leader.checkInvariants()
        t.equal(leader.state.outbox.moving.size, 0, 'nothing is stuck')
      }
      for (;;) {
        const messages = await bench.complete(mq.receive(name, { max: 1000, visibilityTimeoutMs: 3_600_000 }))
        if (messages.length === 0) break
        found.push(...messages.map((message) => Number(message.text())))
      }
    }
    const sorted = found.sort((a, b) => a - b)
    t.strictSame(
      sorted,
      Array.from({ length: sent }, (_, i) => i),
    )
  })
}

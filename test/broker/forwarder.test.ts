/** What an outbox does when messages rot, the target refuses or knows something else, and when there is very much. */
import t from 'tap'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import type { PeerLink } from '../../src/broker/forwarder.ts'
import type { QueueOptions } from '../../src/types.ts'
import { MqError } from '../../src/errors.ts'
import { decodeForward, encodeForwardAnswer } from '../../src/wire/peer.ts'
import { BrokerBench, gatedLink } from './broker-bench.ts'

async function givenUp(bodies: string[], options: QueueOptions, brokerOptions: Partial<BrokerOptions>) {
  const bench = await BrokerBench.serving(brokerOptions)
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { maxDeliveries: 1, ...options }))
  for (const body of bodies) await bench.complete(mq.send('orders', body))
  const messages = await bench.complete(mq.receive('orders', { max: 1000 }))
  await bench.complete(Promise.all(messages.map((message) => message.nack())))
  const dead = async (queue = 'orders.dlq'): Promise<string[]> => {
    const client = await bench.connect()
    const received = await bench.complete(client.receive(queue, { max: 1000 }))
    return received.map((message) => message.text())
  }
  const outbox = () => bench.broker.internals.queues.get('orders')!.partitions[0]!.leader.state.outbox
  return { bench, mq, dead, outbox }
}

void t.test('a dead letter that rots before it is forwarded is quarantined, and the others go', async (t) => {
  for (const rotten of ['first', 'second', 'third']) {
    const gate = gatedLink()
    const { bench, dead, outbox } = await givenUp(
      ['first', 'second', 'third'],
      {},
      { peerLink: gate.peerLink, logOptions: { cacheBytes: 0, journalBytes: 0 } },
    )
    bench.rot(rotten)
    gate.isOpen = true
    await bench.world.advance(60_000)
    t.strictSame(
      await dead(),
      ['first', 'second', 'third'].filter((body) => body !== rotten),
    )
    t.equal(outbox().moving.size, 0)
    const { leader } = bench.broker.internals.queues.get('orders')!.partitions[0]!
    leader.checkInvariants()
    t.equal(leader.state.quarantined.size, 1)
  }
})

void t.test('what is refused stays, and is tried again ever more seldom', async (t) => {
  let refusals = 0
  const peerLink =
    (deliver: PeerLink): PeerLink =>
    async (frame) => {
      if (refusals++ >= 12) return deliver(frame)
      return encodeForwardAnswer({ id: decodeForward(frame).id, error: new MqError('DISK_FULL', 'full') })
    }
  const { bench, dead, outbox } = await givenUp(['a'], {}, { peerLink })
  await bench.world.advance(30_000)
  t.ok(refusals <= 11, `${refusals} tries in half a minute`)
  t.equal(outbox().moving.size, 1)
  t.ok(bench.logged.includes('messages of the outbox were refused, and stay'))
  await bench.world.advance(120_000)
  t.strictSame(await dead(), ['a'])
})

void t.test('a target that does not know what it had confirmed is not forwarded to, loudly', async (t) => {
  let id = 0
  const peerLink =
    (deliver: PeerLink): PeerLink =>
    async (frame) => {
      id = decodeForward(frame).id
      const answer = await deliver(frame)
      return id === 1 ? answer : encodeForwardAnswer({ id, position: { epoch: 0, offset: 0, index: 0 } })
    }
  const { bench, mq, outbox } = await givenUp(['a'], {}, { peerLink })
  await bench.world.advance(1000)
  await bench.complete(mq.send('orders', 'b'))
  const [message] = await bench.complete(mq.receive('orders'))
  await bench.complete(message!.nack())
  await bench.world.advance(60_000)
  t.equal(id, 2, 'and not asked again')
  t.equal(outbox().moving.size, 1)
  t.ok(bench.logged.includes('the outbox is halted: the target does not know what it had confirmed'))
})

void t.test('a message as large as there are arrives, with a story on top', async (t) => {
  const body = 'x'.repeat(15 << 20)
  const { bench, dead } = await givenUp([body], { maxMessageBytes: 16 << 20 }, {})
  await bench.world.advance(60_000)
  t.ok((await dead())[0] === body)
})

void t.test('a batch of ten thousand, given up at once, arrives in order', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { maxDeliveries: 1, visibilityTimeoutMs: 60_000 }))
  const bodies = Array.from({ length: 10_000 }, (_, i) => String(i))
  const results = await bench.complete(
    mq.sendBatch(
      'orders',
      bodies.map((body) => ({ body })),
    ),
  )
  t.ok(results.every((result) => !(result instanceof Error)))
  for (let left = bodies.length; left > 0;) {
    left -= (await bench.complete(mq.receive('orders', { max: 1000 }))).length
  }
  await bench.world.advance(120_000)
  const dead: string[] = []
  for (let more = true; more;) {
    const messages = await bench.complete(mq.receive('orders.dlq', { max: 1000 }))
    dead.push(...messages.map((message) => message.text()))
    more = messages.length > 0
  }
  t.strictSame(dead, bodies)
})

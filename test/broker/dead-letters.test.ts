/** Dead letters and redrives through a whole broker, its outbox and a client, on the simulated world. */
import t from 'tap'
import type { Message } from '../../src/client/message.ts'
import type { PeerLink } from '../../src/broker/forwarder.ts'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import type { QueueOptions } from '../../src/types.ts'
import { BrokerBench, gatedLink } from './broker-bench.ts'

async function withQueue(options: QueueOptions = {}, brokerOptions: Partial<BrokerOptions> = {}) {
  const bench = await BrokerBench.serving(brokerOptions)
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', options))
  const receive = async (queue: string, max = 100): Promise<Message[]> =>
    bench.complete(mq.receive(queue, { max }))
  const texts = async (queue: string) => {
    const messages = await receive(queue)
    return messages.map((message) => `${message.text()}×${message.deliveryCount}`).join(' ')
  }
  const nackAll = async (queue: string, reason?: string) => {
    const messages = await receive(queue)
    for (const message of messages) await bench.complete(message.nack({ reason }))
    return messages
  }
  const names = async () => (await bench.complete(mq.listQueues())).map(({ name }) => name)
  return { bench, mq, receive, texts, nackAll, names }
}

void t.test('a message whose last delivery fails is in the dead-letter queue, with its story', async (t) => {
  const { bench, mq, receive, texts, nackAll } = await withQueue({ maxDeliveries: 2 })
  const { id } = await bench.complete(mq.send('orders', 'poison', { headers: { trace: 'x' } }))
  await bench.complete(mq.send('orders', 'good'))
  await nackAll('orders', 'first')
  t.equal(await texts('orders.dlq'), '')
  const [poison, good] = await receive('orders')
  await bench.complete(good!.ack())
  await bench.complete(poison!.nack({ reason: 'no such customer' }))
  await bench.world.advance(100)
  const [dead] = await receive('orders.dlq')
  t.equal(dead!.text(), 'poison')
  t.equal(dead!.deliveryCount, 1)
  t.match(dead!.headers, {
    trace: 'x',
    'mq-dead-letter-reason': 'max-deliveries',
    'mq-dead-letter-error': 'no such customer',
    'mq-dead-letter-origin-queue': 'orders',
    'mq-dead-letter-origin-id': id,
    'mq-dead-letter-deliveries': '2',
    'mq-dead-letter-at': /^\d{4}-\d\d-\d\dT[\d:.]+Z$/,
  })
  t.equal(await texts('orders'), '')
  t.strictSame((await bench.complete(mq.describeQueue('orders'))).messages, {
    ready: 0,
    leased: 0,
    delayed: 0,
  })
  const figures = bench.broker.measured.figuresOf('orders')!
  t.equal(figures.deadLettered, 1)
  t.equal(figures.failed, 3)
})

void t.test('an expiry is a failure too', async (t) => {
  const { bench, mq, receive } = await withQueue({ maxDeliveries: 1, visibilityTimeoutMs: 1000 })
  await bench.complete(mq.send('orders', 'a'))
  await receive('orders')
  await bench.world.advance(1100)
  const [dead] = await receive('orders.dlq')
  t.match(dead!.headers, {
    'mq-dead-letter-reason': 'max-deliveries',
    'mq-dead-letter-error': 'the lease expired',
  })
})

void t.test('the dead-letter queue', async (t) => {
  await t.test('is made with its queue, with default options', async (t) => {
    const { names } = await withQueue({ maxDeliveries: 2, visibilityTimeoutMs: 5 })
    t.strictSame(await names(), ['orders', 'orders.dlq'])
  })
  await t.test('may be named, and may be there', async (t) => {
    const { bench, mq, names } = await withQueue({ deadLetterQueue: 'dead' })
    await bench.complete(mq.createQueue('others', { maxDeliveries: 1, deadLetterQueue: 'dead' }))
    t.strictSame(await names(), ['dead', 'orders', 'others'])
    await t.rejects(bench.complete(mq.createQueue('dead', { deadLetterQueue: 'dead' })), {
      code: 'INVALID_FIELD',
    })
  })
  await t.test('is made by an update that needs it', async (t) => {
    const { bench, mq, names, nackAll, texts } = await withQueue()
    await bench.complete(mq.updateQueue('orders', { maxDeliveries: 1 }))
    t.strictSame(await names(), ['orders', 'orders.dlq'])
    await bench.complete(mq.send('orders', 'a'))
    await nackAll('orders')
    await bench.world.advance(100)
    t.equal(await texts('orders.dlq'), 'a×1')
  })
  await t.test('is made anew when it was deleted and is needed', async (t) => {
    const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 1 })
    await bench.complete(mq.deleteQueue('orders.dlq'))
    await bench.complete(mq.send('orders', 'a'))
    await nackAll('orders')
    await bench.world.advance(1000)
    t.equal(await texts('orders.dlq'), 'a×1')
    t.equal(await texts('orders'), '')
  })
  await t.test('of several partitions gets what each partition gives up', async (t) => {
    const { bench, mq, nackAll, receive } = await withQueue({ partitions: 3, deadLetterQueue: 'dead' })
    await bench.complete(mq.deleteQueue('dead'))
    await bench.complete(mq.createQueue('dead', { partitions: 2 }))
    await bench.complete(mq.updateQueue('orders', { maxDeliveries: 1 }))
    const bodies = Array.from({ length: 30 }, (_, i) => ({ body: String(i) }))
    for (const each of bodies) await bench.complete(mq.send('orders', each.body))
    while ((await nackAll('orders')).length > 0);
    await bench.world.advance(1000)
    const dead = (await receive('dead')).concat(await receive('dead'))
    t.strictSame(new Set(dead.map((message) => message.text())), new Set(bodies.map(({ body }) => body)))
    t.equal(dead.length, 30)
  })
})

void t.test('what waits for a dead-letter queue that is gone', async (t) => {
  await t.test('goes to the one that is made in its place', async (t) => {
    const gate = gatedLink()
    const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 1 }, gate)
    await bench.complete(mq.sendBatch('orders', [{ body: 'a' }, { body: 'b' }]))
    await nackAll('orders')
    await bench.complete(mq.deleteQueue('orders.dlq'))
    gate.isOpen = true
    await bench.world.advance(60_000)
    t.equal(await texts('orders.dlq'), 'a×1 b×1')
    t.equal(await texts('orders'), '')
  })
  await t.test('does not come again when it was there, and only the answer was lost', async (t) => {
    const answers = { areLost: true }
    const peerLink = (deliver: PeerLink): PeerLink => {
      return async (frame) => {
        const answer = await deliver(frame)
        if (answers.areLost) throw new Error('cut')
        return answer
      }
    }
    const { bench, mq, nackAll, receive, texts } = await withQueue({ maxDeliveries: 1 }, { peerLink })
    await bench.complete(mq.send('orders', 'a'))
    await nackAll('orders')
    await bench.world.advance(1)
    const [dead] = await receive('orders.dlq')
    await bench.complete(dead!.ack())
    await bench.complete(mq.deleteQueue('orders.dlq'))
    answers.areLost = false
    await bench.complete(mq.createQueue('orders.dlq'))
    await bench.world.advance(60_000)
    t.equal(await texts('orders.dlq'), '', 'what was acked is not issued anew for the successor')
    await bench.complete(mq.send('orders', 'b'))
    await nackAll('orders')
    await bench.world.advance(60_000)
    t.equal(await texts('orders.dlq'), 'b×1', 'what is given up from then on is')
  })
  await t.test('comes back when the queue has none any more', async (t) => {
    const gate = gatedLink()
    const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 2 }, gate)
    await bench.complete(mq.send('orders', 'a'))
    await nackAll('orders')
    await nackAll('orders')
    await bench.complete(mq.updateQueue('orders', { maxDeliveries: null, deadLetterQueue: null }))
    await bench.complete(mq.deleteQueue('orders.dlq'))
    gate.isOpen = true
    await bench.world.advance(60_000)
    t.equal(await texts('orders'), 'a×3')
  })
})

void t.test('each dead letter arrives once', async (t) => {
  const faults: Record<string, (deliver: PeerLink) => PeerLink> = {
    'though the first answer is lost': (deliver) => {
      let lost = 0
      return async (frame) => {
        const answer = await deliver(frame)
        if (lost++ === 0) throw new Error('cut')
        return answer
      }
    },
    'though each request comes twice': (deliver) => async (frame) => {
      const [first] = await Promise.all([deliver(frame), deliver(frame)])
      return first
    },
    'though an old copy comes late': (deliver) => {
      const frames: Uint8Array[] = []
      return async (frame) => {
        frames.push(frame)
        const answer = await deliver(frame)
        for (const old of frames) await deliver(old)
        return answer
      }
    },
    'though an answer never comes': (deliver) => {
      let asked = 0
      return async (frame) => {
        const answer = await deliver(frame)
        return asked++ === 0 ? new Promise<never>(() => undefined) : answer
      }
    },
  }
  for (const [how, peerLink] of Object.entries(faults)) {
    await t.test(how, async (t) => {
      const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 1 }, { peerLink })
      for (const body of ['a', 'b', 'c']) {
        await bench.complete(mq.send('orders', body))
        await nackAll('orders')
      }
      await bench.world.advance(20_000)
      t.equal(await texts('orders.dlq'), 'a×1 b×1 c×1')
      for (const queue of bench.broker.internals.queues.values()) {
        for (const { leader } of queue.partitions) {
          leader.checkInvariants()
          t.equal(leader.state.outbox.moving.size, 0)
        }
      }
    })
  }
  await t.test('though the broker dies between any two steps', async (t) => {
    for (let afterMs = 0; afterMs < 12; afterMs++) {
      const { bench, mq, receive, texts } = await withQueue({ maxDeliveries: 1 })
      await bench.complete(mq.sendBatch('orders', [{ body: 'a' }, { body: 'b' }]))
      const messages = await receive('orders')
      for (const message of messages) message.nack().catch(() => undefined)
      await bench.world.advance(afterMs / 2)
      await bench.restart()
      await bench.world.advance(5000)
      const [left, dead] = [await texts('orders'), await texts('orders.dlq')]
      t.equal(
        left === '' ? dead : `${left} in doubt`,
        left === '' ? 'a×1 b×1' : 'a×1 b×1 in doubt',
        `${afterMs / 2} ms`,
      )
      t.notOk(left !== '' && dead !== '', 'never in both')
    }
  })
  await t.test('though a planned stop comes in between', async (t) => {
    const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 1 })
    await bench.complete(mq.send('orders', 'a'))
    await nackAll('orders')
    await bench.complete(bench.broker.stop())
    await bench.restart()
    await bench.world.advance(5000)
    t.equal(await texts('orders.dlq'), 'a×1')
  })
})

void t.test('a source that is deleted is forgotten by its dead-letter queue', async (t) => {
  const { bench, mq, nackAll, texts } = await withQueue({ maxDeliveries: 1 })
  const sources = () =>
    bench.broker.internals.queues.get('orders.dlq')!.partitions.map(({ leader }) => leader.state.sources.size)
  await bench.complete(mq.send('orders', 'a'))
  await nackAll('orders')
  await bench.world.advance(1000)
  t.strictSame(sources(), [1])
  await bench.complete(mq.deleteQueue('orders'))
  await bench.world.advance(1000)
  t.strictSame(sources(), [0])
  await bench.restart()
  t.strictSame(sources(), [0])
  t.equal(await texts('orders.dlq'), 'a×1', 'its dead letters stay')
})

void t.test('a defect of the target ends the broker, and is not tried again', async (t) => {
  const { bench, mq, nackAll } = await withQueue({ maxDeliveries: 1 })
  const { leader } = bench.broker.internals.queues.get('orders.dlq')!.partitions[0]!
  leader.accept = () => {
    throw new TypeError('a defect')
  }
  await bench.complete(mq.send('orders', 'a'))
  await nackAll('orders')
  t.match(await bench.complete(bench.broker.failed), { code: 'INTERNAL' })
})

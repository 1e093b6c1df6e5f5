/** Peers that are there and are not: gone without a word, idle, or deaf to what they asked for, one and many. */
import t from 'tap'
import type { BrokerOptions } from '../../src/broker/broker.ts'
import { silentLogger } from '../../src/broker/logger.ts'
import { op } from '../../src/wire/messages.ts'
import {
  assertRefused,
  batchOf,
  receiveFields,
  sendFields,
  simulatedStage,
  subscribeFields,
  type KnownQueue,
  type Peer,
  type Stage,
} from './stage.ts'

const mebibyte = 1 << 20

/** The broker's connections. */
const served = (stage: Stage) => stage.world!.network.connections.filter((it) => it.server === 'broker')

/** What the broker keeps for peers that do not read. */
const unreadBytes = (stage: Stage) =>
  served(stage).reduce((sum, { serverEnd }) => sum + serverEnd.bufferedBytes, 0)

const leaderOf = (stage: Stage, queue: KnownQueue) =>
  stage.broker.internals.queues.get(queue.name)!.partitions[0]!.leader

/** Stores `count` messages, each in an entry of its own. */
async function fill(stage: Stage, queue: KnownQueue, count: number, bytes: number): Promise<void> {
  const peer = await stage.peer()
  const batch = batchOf([Buffer.alloc(bytes)])
  for (let sequence = 1; sequence <= count; sequence++) {
    const answer = await peer.ask(op.send, ...sendFields(queue, { batch, sequence }))
    if (answer[0] !== op.sent) throw new Error(`not sent: ${JSON.stringify(answer)}`)
  }
  peer.destroy()
  stage.keep()
}

/** Peers that ask for all there is and read nothing. */
async function deaf(stage: Stage, queue: KnownQueue, count: number): Promise<Peer[]> {
  const peers: Peer[] = []
  for (let i = 0; i < count; i++) {
    const peer = await stage.peer()
    peer.pause()
    peer.send([op.subscribe, 1, ...subscribeFields(queue, { messages: 60_000, bytes: 64 * mebibyte })])
    peers.push(peer)
  }
  return peers
}

/** A broker's options, and the codes of the errors that its connections ended by. */
function watched(options: Partial<BrokerOptions> = {}) {
  const codes = new Set<unknown>()
  const warn = (fields: object, message: string) => {
    if (message === 'connection ended by an error') codes.add((fields as { code: unknown }).code)
  }
  return { codes, options: { ...options, log: { ...silentLogger, warn } } }
}

/** Lets time pass, and gives the most that the broker kept for them meanwhile. */
async function watch(stage: Stage, ms: number): Promise<number> {
  let most = 0
  for (let passedMs = 0; passedMs < ms; passedMs += 50) {
    await stage.world!.advance(50)
    most = Math.max(most, unreadBytes(stage))
  }
  return most
}

/** A message sent, received and acked by others. */
async function roundTrip(stage: Stage): Promise<string | undefined> {
  const client = await stage.client()
  const trip = async () => {
    await client.send('witness', 'through')
    const [message] = await client.receive('witness', { waitMs: 20_000 })
    await message!.ack()
    return message!.text()
  }
  const text = await stage.world!.complete(trip())
  await stage.world!.complete(client.close())
  stage.keep()
  return text
}

t.test('peers that vanish are gone after three heartbeats, with all that they waited for', async (t) => {
  const { codes, options } = watched()
  const stage = await simulatedStage(t, options)
  const queue = await stage.queue()
  const before = served(stage).length
  for (let i = 0; i < 50; i++) {
    const peer = await stage.peer()
    peer.send([op.receive, 1, ...receiveFields(queue, { waitMs: 20_000 })])
    peer.send([op.subscribe, 2, ...subscribeFields(queue)])
  }
  await stage.world!.advance(100)
  // Neither side hears of it: no FIN, no reset.
  for (const connection of served(stage).slice(before)) {
    connection.blackHole('client')
    connection.blackHole('broker')
  }
  await stage.world!.advance(29_000)
  t.equal(served(stage).filter(({ serverEnd }) => serverEnd.state !== 'closed').length, before + 50)
  await stage.world!.advance(3000)
  t.equal(served(stage).filter(({ serverEnd }) => serverEnd.state !== 'closed').length, before)
  t.strictSame([...codes], ['DISCONNECTED'])
  await stage.sent(queue, 'for nobody yet')
  t.equal(leaderOf(stage, queue).leasedCount, 0)
  await stage.check(t)
})

t.test(
  'a peer that vanishes with answers on their way: they are given back to memory and queue',
  async (t) => {
    const stage = await simulatedStage(t)
    const queue = await stage.queue()
    await fill(stage, queue, 8, mebibyte)
    await deaf(stage, queue, 1)
    await stage.world!.advance(100)
    served(stage).at(-1)!.blackHole('client')
    served(stage).at(-1)!.blackHole('broker')
    t.ok(unreadBytes(stage) > mebibyte)
    await stage.world!.advance(32_000)
    t.equal(unreadBytes(stage), 0)
    await stage.world!.advance(30_000)
    t.equal(leaderOf(stage, queue).leasedCount, 0)
    stage.keep()
    await stage.check(t)
  },
)

t.test('clients that have nothing to do for an hour keep their connections', async (t) => {
  const stage = await simulatedStage(t)
  let disconnects = 0
  const clients = []
  for (let i = 0; i < 20; i++) {
    const client = await stage.client()
    client.on('disconnect', () => disconnects++)
    clients.push(client)
  }
  await stage.world!.advance(3_600_000)
  t.equal(disconnects, 0)
  for (const client of clients) await stage.world!.complete(client.close())
  await stage.check(t)
})

t.test('peeks whose answers nobody reads: not read further, and cut off in time', async (t) => {
  const { codes, options } = watched()
  const stage = await simulatedStage(t, options)
  const queue = await stage.queue()
  await fill(stage, queue, 4, mebibyte)
  const peer = await stage.peer()
  peer.pause()
  for (let id = 1; id <= 500; id++) peer.send([op.peek, id, queue.name, 1000])
  t.ok((await watch(stage, 5000)) <= 9 * mebibyte)
  await stage.world!.advance(45_000)
  t.equal(unreadBytes(stage), 0)
  t.strictSame([...codes], ['SLOW_CONSUMER'])
  peer.resume()
  await peer.end()
  t.ok(peer.frames.length <= 2)
  await stage.check(t)
})

t.test('many that do not read share one bound, and those that read do not feel it', async (t) => {
  const stage = await simulatedStage(t, { maxUnreadBytes: 8 * mebibyte })
  const queue = await stage.queue()
  await fill(stage, queue, 3000, 16 << 10)
  const peers = await deaf(stage, queue, 30)
  const most = await watch(stage, 1000)
  t.ok(most > 4 * mebibyte && most <= 8 * mebibyte, `${most} bytes`)
  const begunMs = stage.world!.nowMs
  t.equal(await roundTrip(stage), 'through')
  t.ok(stage.world!.nowMs - begunMs < 1000, 'at once')
  // Nothing is over the bound, so the time they have is that of everybody.
  await stage.world!.advance(20_000)
  t.notOk(peers.some(({ ended }) => ended))
  for (const peer of peers) peer.destroy()
  await stage.world!.advance(60_000)
  t.equal(leaderOf(stage, queue).leasedCount, 0)
  stage.keep()
  await stage.check(t)
})

t.test('over the bound: whoever has most and does not read is cut off, small ones go on', async (t) => {
  const { codes, options } = watched({ maxUnreadBytes: 8 * mebibyte })
  const stage = await simulatedStage(t, options)
  const queue = await stage.queue()
  await fill(stage, queue, 20, mebibyte)
  const small = await stage.peer()
  small.pause()
  for (let id = 1; id <= 3000; id++) small.send([op.describeQueue, id, queue.name])
  const large = await deaf(stage, queue, 10)
  const most = await watch(stage, 500)
  t.ok(most > 7 * mebibyte && most <= 9 * mebibyte, `${most} bytes: one message at most beyond the bound`)

  const other = await stage.peer()
  t.equal((await other.ask(op.send, ...sendFields(queue, { sequence: 1000 })))[0], op.sent, 'others send')
  stage.keep()
  await stage.world!.advance(8000)
  t.ok(unreadBytes(stage) < 8 * mebibyte, 'there is room')
  t.strictSame([...codes], ['SLOW_CONSUMER'])
  for (const peer of large) peer.resume()
  await stage.world!.advance(1000)
  t.ok(large.some(({ ended }) => ended))
  t.ok(
    large.some(({ ended }) => !ended),
    'not more of them than had to be',
  )
  t.notOk(small.ended)
  for (const peer of large) peer.destroy()
  await stage.world!.advance(1000)
  await stage.sent(queue, 'for others')
  const [nr, , deliveries] = await other.ask(op.receive, ...receiveFields(queue, { maxBytes: 4 * mebibyte }))
  t.equal(nr, op.delivered)
  t.ok(deliveries.length > 0, 'and others receive')
  small.resume()
  await small.until(() => small.frames.length === 3000)
  // The leases run out, and that is in the log.
  await stage.world!.advance(60_000)
  stage.keep()
  await stage.check(t)
})

t.test(
  'what needs a large answer is THROTTLED while there is no room, and served when there is',
  async (t) => {
    const stage = await simulatedStage(t, { maxUnreadBytes: 8 * mebibyte })
    const queue = await stage.queue()
    await fill(stage, queue, 20, mebibyte)
    const waiting = await stage.peer()
    const large: Peer[] = await deaf(stage, queue, 12)
    const most = await watch(stage, 500)
    t.ok(most > 7 * mebibyte && most <= 9 * mebibyte, `${most} bytes: one message at most beyond the bound`)

    for (const [nr, ...fields] of [
      [op.receive, ...receiveFields(queue)],
      [op.peek, queue.name, 1],
      [op.listQueues, null, 1000],
      [op.describeQueue, queue.name],
    ] as [number, ...unknown[]][]) {
      assertRefused(t, await waiting.ask(nr, ...fields), { code: 'THROTTLED' }, `operation ${nr}`)
    }
    t.equal((await waiting.ask(op.lookup, queue.name))[0], op.ok, 'what is small is answered')
    waiting.send([op.receive, 99, ...receiveFields(queue, { waitMs: 20_000 })])
    await stage.world!.advance(100)
    t.strictSame(waiting.frames, [], 'a receive that can wait does')

    t.equal((await waiting.answer(99))[2].length > 0, true, 'until enough of the others were cut off')
    t.ok(
      large.some(({ ended }) => !ended),
      'not more of them than had to be',
    )
    for (const peer of large) peer.destroy()
    await stage.world!.advance(60_000)
    t.equal(unreadBytes(stage), 0)
    stage.keep()
    await stage.check(t)
  },
)

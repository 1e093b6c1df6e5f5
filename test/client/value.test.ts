/** What arrives is what was sent: through the real broker, whatever the value. */
import { test } from 'tap'
import { startBroker } from '../../src/broker/broker.ts'
import type { MqClient } from '../../src/client/client.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { Message } from '../../src/client/message.ts'
import type { ConnectOptions } from '../../src/client/options.ts'
import type { Serializer } from '../../src/client/serializer.ts'
import type { MqError } from '../../src/errors.ts'
import { SimWorld } from '../../src/sim/world.ts'
import { delivery, stage, verdict, watch } from './scripted-server.ts'

/** A client of a broker that has the queue `q`. */
async function connected(options: ConnectOptions = {}) {
  const world = new SimWorld({ seed: 1 })
  const starting = startBroker(world.process('broker').env, { listen: { host: 'broker', port: 7650 } })
  await world.complete(starting)
  const connect = (name: string, options: ConnectOptions = {}): Promise<MqClient> =>
    world.complete(connectWith(world.process(name).env, { servers: ['broker:7650'], ...options }))
  const mq = await connect('client', options)
  await world.complete(mq.createQueue('q'))
  return { world, mq, connect }
}

/** Sends all, and receives all. */
async function roundTrip(bodies: readonly unknown[], options: ConnectOptions = {}): Promise<Message[]> {
  const { world, mq } = await connected(options)
  const results = await world.complete(
    mq.sendBatch(
      'q',
      bodies.map((body) => ({ body })),
    ),
  )
  for (const result of results) if (result instanceof Error) throw result
  return world.complete(mq.receive('q', { max: 1000 }))
}

const json: Serializer = {
  name: 'json',
  encode: (value) => Buffer.from(JSON.stringify(value)),
  decode: (bytes) => JSON.parse(Buffer.from(bytes).toString()),
}

test('strings arrive as strings, as UTF-8, unchanged', async (t) => {
  const texts = ['', 'a', 'ä€😀', '\ufeffwith a byte order mark', 'nul\0within', 'x'.repeat(100_000)]
  const messages = await roundTrip(texts)
  t.strictSame(
    messages.map((message) => message.value()),
    texts,
  )
  t.strictSame(
    messages.map((message) => message.text()),
    texts,
  )
})

test('bytes arrive as bytes, whatever their view', async (t) => {
  const shared = Uint8Array.from({ length: 16 }, (_, i) => i)
  const messages = await roundTrip([Buffer.from([0, 255]), new Uint8Array(0), shared.subarray(4, 8)])
  t.strictSame(
    messages.map((message) => [...message.value<Uint8Array>()]),
    [[0, 255], [], [4, 5, 6, 7]],
  )
  t.strictSame([...messages[2]!.body], [4, 5, 6, 7])
})

test('other values go through msgpack and come back as they were', async (t) => {
  const values = [
    null,
    undefined,
    true,
    0,
    -1,
    1.5,
    2 ** 53,
    NaN,
    Infinity,
    2n ** 62n,
    [],
    {},
    { nested: [{ deep: ['value'] }], text: 'ä', none: null },
    new Date(Date.UTC(2026, 0, 1)),
    { bytes: Buffer.from([1, 2]) },
    { numbers: Float64Array.of(1, 2) },
  ]
  const messages = await roundTrip(values)
  t.same(
    messages.map((message) => message.value()),
    values,
  )
})

test('what would not come back as it was is refused when it is sent', async (t) => {
  const { mq, settle } = await stage()
  const cycle: Record<string, unknown> = {}
  cycle['self'] = cycle
  let deep: unknown = null
  for (let i = 0; i < 200; i++) deep = [deep]
  const wrong = { set: new Set([1]), error: new Error('x'), pattern: /x/, cycle, deep, large: 2n ** 70n }
  for (const [name, value] of Object.entries(wrong)) {
    const sent = watch(mq.send('q', value))
    await settle()
    t.equal(verdict(sent), 'INVALID_FIELD failed', name)
  }
})

test('a function or a symbol is no value', async (t) => {
  const { mq, settle } = await stage()
  for (const [name, value] of Object.entries({
    function: () => 1,
    symbol: Symbol('s'),
    method: { run: () => 1 },
  })) {
    const sent = watch(mq.send('q', value))
    await settle()
    t.equal(verdict(sent), 'INVALID_FIELD failed', name)
  }
})

test('values of several kinds in one batch keep each its kind', async (t) => {
  const messages = await roundTrip(['text', Buffer.from('bytes'), { a: 1 }, 'again'])
  t.same(
    messages.map((message) => message.value()),
    ['text', Buffer.from('bytes'), { a: 1 }, 'again'],
  )
})

test('headers arrive with their message, and none where there are none', async (t) => {
  const { world, mq } = await connected()
  const headers = { plain: 'text', 'ä€': '', '': 'no name', toString: 'own', nul: '\0' }
  await world.complete(mq.sendBatch('q', [{ body: 'a', headers }, { body: 'b' }, { body: 'c', headers: {} }]))
  const messages = await world.complete(mq.receive('q', { max: 10 }))
  t.strictSame(
    messages.map((message) => ({ ...message.headers })),
    [headers, {}, {}],
  )
})

test('a message says what it is', async (t) => {
  const { world, mq } = await connected()
  const receipt = await world.complete(mq.send('q', 'a'))
  const sentMs = world.nowMs
  const [message] = await world.complete(mq.receive('q'))
  t.match(message, { id: receipt.id, queue: 'q', deliveryCount: 1, priority: 0, key: undefined })
  t.ok(Math.abs(message!.sentAtMs - sentMs) < 1000)
  t.match(message!.receipt, /^[A-Za-z][A-Za-z0-9_.-]*$/)
})

test('a body stays as it is, however long it is kept', async (t) => {
  const { world, mq } = await connected()
  await world.complete(mq.send('q', 'the first'))
  const [kept] = await world.complete(mq.receive('q'))
  for (let i = 0; i < 50; i++) {
    await world.complete(mq.send('q', 'x'.repeat(10_000)))
    await world.complete(mq.receive('q'))
  }
  t.equal(kept!.text(), 'the first')
})

test('receive gives all that is ready up to max, oldest first', async (t) => {
  const { world, mq } = await connected()
  for (const body of ['a', 'b', 'c']) await world.complete(mq.send('q', body))
  const two = await world.complete(mq.receive('q', { max: 2 }))
  const rest = await world.complete(mq.receive('q', { max: 2, waitMs: 1000 }))
  const none = await world.complete(mq.receive('q', { max: 2, waitMs: 1000 }))
  t.strictSame(
    [two, rest, none].map((messages) => messages.map((message) => message.text())),
    [['a', 'b'], ['c'], []],
  )
})

test('a receive that waits gets what is sent meanwhile', async (t) => {
  const { world, mq } = await connected()
  const received = watch(mq.receive('q', { waitMs: 20_000 }))
  await world.advance(10_000)
  await world.complete(mq.send('q', 'late'))
  await world.advance(10)
  t.equal(received.value?.[0]?.text(), 'late')
})

test('receive: numbers out of their limits', async (t) => {
  const { mq, settle } = await stage()
  for (const options of [
    { max: 0 },
    { max: 1001 },
    { max: 1.5 },
    { waitMs: -1 },
    { waitMs: 20_001 },
    { visibilityTimeoutMs: 0 },
    { visibilityTimeoutMs: 12 * 3_600_000 + 1 },
  ]) {
    const received = watch(mq.receive('q', options))
    await settle()
    t.equal(verdict(received), 'INVALID_FIELD failed', JSON.stringify(options))
  }
})

test('a lease that has ended: the ack has lost it, and the message comes again', async (t) => {
  const { world, mq } = await connected()
  await world.complete(mq.send('q', 'a'))
  const [first] = await world.complete(mq.receive('q', { visibilityTimeoutMs: 1000 }))
  await world.advance(1001)
  const acked = watch(first!.ack())
  await world.advance(10)
  t.equal(verdict(acked), 'LEASE_LOST failed')
  const [again] = await world.complete(mq.receive('q'))
  t.equal(again!.deliveryCount, 2)
})

test('an extended lease lasts that much longer', async (t) => {
  const { world, mq } = await connected()
  await world.complete(mq.send('q', 'a'))
  const [message] = await world.complete(mq.receive('q', { visibilityTimeoutMs: 1000 }))
  await world.complete(message!.extend(5000))
  await world.advance(4000)
  const acked = watch(message!.ack())
  await world.advance(10)
  t.equal(acked.state, 'resolved')
})

test('a receipt settles on any connection', async (t) => {
  const { world, mq, connect } = await connected()
  await world.complete(mq.send('q', 'a'))
  const [message] = await world.complete(mq.receive('q'))
  const other = await connect('other')
  await world.complete(mq.close())
  t.strictSame(await world.complete(other.ack('q', [message!.receipt])), [null])
  t.match(await world.complete(other.describeQueue('q')), { messages: { ready: 0, leased: 0 } })
})

test('the queues there are, by name', async (t) => {
  const { world, mq } = await connected()
  await world.complete(mq.createQueue('a', { partitions: 2 }))
  await world.complete(mq.deleteQueue('q'))
  const queues = await world.complete(mq.listQueues())
  t.match(queues, [{ name: 'a', options: { partitions: 2 }, messages: 0 }])
  const again = watch(mq.createQueue('a'))
  await world.advance(100)
  t.equal(verdict(again), 'QUEUE_EXISTS failed')
})

test('a queue that another client has deleted and made again takes the next but one message', async (t) => {
  const { world, mq, connect } = await connected()
  await world.complete(mq.send('q', 'old'))
  const other = await connect('other')
  await world.complete(other.deleteQueue('q'))
  await world.complete(other.createQueue('q'))
  const refused = watch(mq.send('q', 'refused'))
  await world.advance(100)
  t.equal(verdict(refused), 'QUEUE_DELETED failed')
  await world.complete(mq.send('q', 'new'))
  const messages = await world.complete(mq.receive('q', { max: 10 }))
  t.strictSame(
    messages.map((message) => message.text()),
    ['new'],
  )
})

// -----------------------------------------------------------------------------------------------------------------
// Serializers

test('a serializer of one’s own encodes what is neither a string nor bytes', async (t) => {
  const messages = await roundTrip([{ a: 1 }, 'text', Buffer.from('bytes')], { serializer: json })
  t.strictSame(messages[0]!.text(), '{"a":1}')
  t.same(
    messages.map((message) => message.value()),
    [{ a: 1 }, 'text', Buffer.from('bytes')],
  )
})

test('a receiver reads msgpack whatever its own serializer, and no other', async (t) => {
  const { world, mq, connect } = await connected()
  const other = await connect('other', { serializer: json })
  await world.complete(mq.send('q', { by: 'msgpack' }))
  await world.complete(other.send('q', { by: 'json' }))
  const [first] = await world.complete(other.receive('q'))
  t.strictSame(first!.value(), { by: 'msgpack' })
  const [second] = await world.complete(mq.receive('q'))
  t.throws(() => second!.value(), { code: 'UNSUPPORTED', details: { serializer: 'json' } })
  t.equal(second!.text(), '{"by":"json"}')
})

test('a serializer that fails or makes no bytes refuses its message alone', async (t) => {
  const { mq, server, settle } = await stage(
    {},
    {
      serializer: {
        name: 'moody',
        encode(value) {
          if (value === 1) throw new Error('not this one')
          return value === 2 ? ('no bytes' as unknown as Uint8Array) : Buffer.from('fine')
        },
        decode: () => null,
      },
    },
  )
  const sends = [1, 2, 3].map((value) => watch(mq.send('q', value)))
  await settle()
  t.strictSame(sends.map(verdict), ['INVALID_FIELD failed', 'INVALID_FIELD failed', 'resolved'])
  t.match((sends[0]!.error as MqError).message, 'not this one')
  t.strictSame(server.taken[0], ['fine'])
})

test('a body that is not what its serializer makes is refused by value, and can still be read', async (t) => {
  const { mq, server, world } = await stage()
  const bodies = [Buffer.from([0xc1]), Buffer.from([0x93, 1]), Buffer.from([0xd4, 0x78, 0]), Buffer.alloc(0)]
  server.on.receive = ({ id }, line) =>
    line.send({
      op: 'delivered',
      id,
      deliveries: [
        delivery(
          0,
          bodies.map((body) => ({ body, serializer: 'msgpack' })),
        ),
      ],
    })
  const messages = await world.complete(mq.receive('q', { max: 10 }))
  for (const [i, message] of messages.entries()) {
    t.throws(() => message.value(), { code: 'INVALID_FIELD', details: { serializer: 'msgpack' } })
    t.strictSame(Buffer.from(message.body), bodies[i])
  }
})

test('a delivery that was damaged is not handed out, and told by an event', async (t) => {
  const { mq, server, world } = await stage()
  const errors: string[] = []
  mq.on('error', (error) => errors.push(error.code))
  server.on.receive = ({ id }, line) =>
    line.send({
      op: 'delivered',
      id,
      deliveries: [
        delivery(0, ['damaged'], { crc: 1 }),
        delivery(1, ['fine']),
        delivery(2, ['x'], { partition: 7 }),
      ],
    })
  const messages = await world.complete(mq.receive('q', { max: 10 }))
  t.strictSame(
    messages.map((message) => message.text()),
    ['fine'],
  )
  t.strictSame(errors, ['CORRUPT_BATCH', 'CORRUPT_BATCH'])
})

test('each message of a delivery has its own count, offset and id', async (t) => {
  const { mq, server, world } = await stage()
  server.on.receive = ({ id }, line) =>
    line.send({
      op: 'delivered',
      id,
      deliveries: [delivery(40, ['a', 'b'], { epoch: 3, deliveryCount: [1, 4] })],
    })
  const messages = await world.complete(mq.receive('q', { max: 10 }))
  t.strictSame(
    messages.map(({ id, deliveryCount }) => [id, deliveryCount]),
    [
      ['q/0/3-40', 1],
      ['q/0/3-41', 4],
    ],
  )
})

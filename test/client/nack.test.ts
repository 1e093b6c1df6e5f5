/** Nacks, releases, dead letters and delays, as the client says them. */
import { test } from 'tap'
import { attributes, readBatch } from '../../src/wire/batch.ts'
import { delivery, stage, verdict, watch } from './scripted-server.ts'

/** A client with messages 0 … count - 1 of queue `q` under lease 1. */
async function leased(count: number) {
  const staged = await stage()
  const { server, world, mq } = staged
  const bodies = Array.from({ length: count }, (_, i) => String(i))
  server.on.receive = ({ id }, line) => line.send({ op: 'delivered', id, deliveries: [delivery(0, bodies)] })
  const messages = await world.complete(mq.receive('q', { max: 1000 }))
  delete server.on.receive
  /** What the settles said: action, options, and `offset+count` of the items. */
  const settles = () =>
    server.all('settle').map(({ action, options, items }) => {
      const said = options === null ? '' : ` ${options.delayMs} ${options.reason}`
      return `${action}${said}: ${items.map(({ offset, count: n }) => `${offset}+${n}`).join(' ')}`
    })
  return { ...staged, messages, settles }
}

test('nacks of a turn leave together where they say the same, apart from acks and releases', async (t) => {
  const { messages, settles, settle } = await leased(9)
  void messages[0]!.nack()
  void messages[1]!.ack()
  void messages[2]!.nack({ delayMs: 5 })
  void messages[3]!.release()
  void messages[4]!.nack({ delayMs: 5 })
  void messages[5]!.nack({ delayMs: 5, reason: 'disk' })
  void messages[6]!.ack()
  void messages[7]!.nack()
  void messages[8]!.release()
  await settle()
  t.strictSame(settles(), ['1: 0+1 7+1', '0: 1+1 6+1', '1 5 null: 2+1 4+1', '2: 3+1 8+1', '1 5 disk: 5+1'])
})

test('a nack of neighbours is one range', async (t) => {
  const { mq, messages, settles, settle } = await leased(1000)
  const results = watch(
    mq.nack(
      'q',
      messages.map(({ receipt }) => receipt),
      { delayMs: 5 },
    ),
  )
  await settle()
  t.strictSame(settles(), ['1 5 null: 0+1000'])
  t.strictSame(results.value, new Array(1000).fill(null))
})

test('a message is settled once, in whatever way', async (t) => {
  const { messages, settles, settle } = await leased(1)
  const message = messages[0]!
  const calls = [message.nack(), message.ack(), message.release(), message.deadLetter(), message.nack()].map(
    watch,
  )
  await settle()
  t.strictSame(calls.map(verdict), ['resolved', ...Array<string>(4).fill('LEASE_LOST failed')])
  t.strictSame(settles(), ['1: 0+1'])
})

test('dead letters of a turn leave together where they have the same reason', async (t) => {
  const { messages, settles, settle } = await leased(5)
  void messages[0]!.deadLetter('no such customer')
  void messages[1]!.deadLetter()
  void messages[2]!.nack({ reason: 'no such customer' })
  void messages[3]!.deadLetter('no such customer')
  void messages[4]!.deadLetter('')
  await settle()
  t.strictSame(settles(), [
    '3 null no such customer: 0+1 3+1',
    '3: 1+1',
    '1 null no such customer: 2+1',
    '3 null : 4+1',
  ])
})

test('nacks that differ can not grow together: up to eight are on their way', async (t) => {
  const { messages, server, settles, settle } = await leased(20)
  server.on.settle = () => undefined
  messages.forEach((message, i) => void message.nack({ reason: `reason ${i}` }))
  await settle()
  t.equal(settles().length, 8)
})

test('the reason of a dead letter is a text of at most 1 KiB', async (t) => {
  const { messages, settles, settle } = await leased(1)
  const message = messages[0]!
  for (const reason of ['x'.repeat(1025), 'ä'.repeat(513), 5 as never, null as never]) {
    const refusal = { code: 'INVALID_FIELD', outcome: 'failed', details: { field: 'reason' } }
    await t.rejects(message.deadLetter(reason), refusal)
  }
  t.strictSame(settles(), [])
  const longest = watch(message.deadLetter('ä'.repeat(512)))
  await settle()
  t.equal(longest.state, 'resolved')
})

test('without a dead-letter queue nothing is done, and the message can still be settled', async (t) => {
  const { messages, server, settle } = await leased(1)
  const message = messages[0]!
  server.on.settle = ({ id }, line) => line.refuse(id, 'NO_DEAD_LETTER_QUEUE')
  const refused = watch(message.deadLetter())
  await settle()
  t.equal(verdict(refused), 'NO_DEAD_LETTER_QUEUE failed')
  delete server.on.settle
  const acked = watch(message.ack())
  await settle()
  t.equal(acked.state, 'resolved')
})

test('a dead letter whose answer is late: its time, its signal, and the same request again', async (t) => {
  const { messages, server, settle, world } = await leased(2)
  server.on.settle = () => undefined
  const controller = new AbortController()
  const timed = watch(messages[0]!.deadLetter('late', { timeoutMs: 100 }))
  const aborted = watch(messages[1]!.deadLetter('late', { signal: controller.signal }))
  await settle()
  controller.abort()
  await settle()
  t.strictSame([timed, aborted].map(verdict), ['TIMEOUT unknown', 'ABORTED unknown'])
  delete server.on.settle
  world.cut('client', 'broker')
  await settle()
  const [first, again, ...rest] = server.all('settle')
  t.strictSame({ ...again, id: 0 }, { ...first, id: 0 })
  t.strictSame(rest, [])
})

test('LEASE_LOST of a nack or a release goes to the messages that the answer names', async (t) => {
  const { mq, messages, server, settle } = await leased(4)
  server.on.settle = ({ id }, line) => line.send({ op: 'settled', id, refused: [1, 2] })
  const nacks = [messages[0]!.nack(), messages[1]!.nack(), messages[2]!.release(), messages[3]!.release()]
  const watched = nacks.map(watch)
  await settle()
  t.strictSame(watched.map(verdict), ['resolved', 'LEASE_LOST failed', 'LEASE_LOST failed', 'resolved'])
  const byReceipt = watch(mq.nack('q', [messages[1]!.receipt, messages[3]!.receipt, 'nonsense']))
  await settle()
  t.match(byReceipt.value, [{ code: 'LEASE_LOST' }, null, { code: 'LEASE_LOST' }])
})

test('options of a nack that cannot be meant are refused before anything is sent', async (t) => {
  const { mq, messages, settles, settle } = await leased(1)
  const message = messages[0]!
  const wrong: [object, string][] = [
    [{ delayMs: -1 }, 'delayMs'],
    [{ delayMs: 1.5 }, 'delayMs'],
    [{ delayMs: 31_536_000_001 }, 'delayMs'],
    [{ delayMs: '1s' }, 'delayMs'],
    [{ reason: 'x'.repeat(1025) }, 'reason'],
    [{ reason: 'ä'.repeat(513) }, 'reason'],
    [{ reason: 5 }, 'reason'],
  ]
  for (const [options, field] of wrong) {
    const calls: Promise<unknown>[] = [message.nack(options), mq.nack('q', [message.receipt], options)]
    for (const call of calls) {
      await t.rejects(call, { code: 'INVALID_FIELD', outcome: 'failed', details: { field } })
    }
  }
  t.strictSame(settles(), [])
  const nacked = watch(message.nack({ delayMs: 31_536_000_000, reason: 'ä'.repeat(512) }))
  await settle()
  t.equal(nacked.state, 'resolved', 'and change nothing')
})

test('a nack that is sent again after a lost connection is the same request', async (t) => {
  const { messages, server, settle, world } = await leased(2)
  server.on.settle = () => undefined
  const nacked = watch(messages[0]!.nack({ delayMs: 7 }))
  await settle()
  const first = server.all('settle')[0]!
  delete server.on.settle
  world.cut('client', 'broker')
  await settle()
  await settle()
  const again = server.all('settle').at(-1)!
  t.equal(nacked.state, 'resolved')
  t.not(again, first)
  t.strictSame({ ...again, id: 0 }, { ...first, id: 0 })
})

test('delays travel as columns, beside headers, absent where there are none', async (t) => {
  const { mq, server, settle } = await stage()
  void mq.send('q', 'a')
  void mq.send('q', 'b', { delayMs: 5, headers: { h: '1' } })
  void mq.send('q', 'c', { deliverAt: 1_900_000_000_000 })
  void mq.send('q', 'd', { deliverAt: new Date(1_900_000_000_001) })
  void mq.send('q', 'e', { delayMs: 0 })
  await settle()
  t.strictSame(attributes(readBatch(server.all('send')[0]!.batch)), {
    headers: [null, { h: '1' }, null, null, null],
    deliverAt: [null, null, 1_900_000_000_000, 1_900_000_000_001, null],
    delay: [null, 5, null, null, 0],
  })
})

test('of a batch from which some were given up the others keep their delays', async (t) => {
  const { mq, server, settle, world } = await stage()
  await world.complete(mq.send('q', 'known'))
  const controller = new AbortController()
  server.frames.length = 0
  const given = watch(mq.send('q', 'a', { delayMs: 4, signal: controller.signal }))
  void mq.send('q', 'b', { delayMs: 5, headers: { h: '1' } })
  void mq.send('q', 'c')
  controller.abort()
  await settle()
  t.equal(verdict(given), 'ABORTED failed')
  t.strictSame(attributes(readBatch(server.all('send')[0]!.batch)), {
    headers: [{ h: '1' }, null],
    delay: [5, null],
  })
})

test('a delay that cannot be meant is refused, and harms no other entry', async (t) => {
  const { mq, settle } = await stage()
  const wrong: [object, string][] = [
    [{ delayMs: -1 }, 'delayMs'],
    [{ delayMs: 31_536_000_001 }, 'delayMs'],
    [{ delayMs: 0.5 }, 'delayMs'],
    [{ deliverAt: -1 }, 'deliverAt'],
    [{ deliverAt: new Date(NaN) }, 'deliverAt'],
    [{ deliverAt: '2030-01-01' }, 'deliverAt'],
    [{ delayMs: 1, deliverAt: 1 }, 'deliverAt'],
  ]
  const sent = watch(
    mq.sendBatch('q', [...wrong.map(([options]) => ({ body: 'x', ...options })), { body: 'y' }]),
  )
  await settle()
  t.match(sent.value, [
    ...wrong.map(([, field]) => ({ code: 'INVALID_FIELD', details: { field } })),
    { duplicate: false },
  ])
})

/** What a client sends again: after a lost connection, and after the refusals that it answers by itself. */
import { test } from 'tap'
import { buffers } from '../../src/buffers.ts'
import { delivery, queueIdOf, stage, verdict, watch } from './scripted-server.ts'

/** A client whose queue is known, so that what follows goes at once. */
async function warm(...options: Parameters<typeof stage>) {
  const staged = await stage(...options)
  await staged.world.complete(staged.mq.send('q', 'warm'))
  staged.server.heard.length = 0
  staged.server.frames.length = 0
  return staged
}

test('after a cut all that is unanswered is sent again: oldest first, same sequences, before anything new', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  for (const body of ['a', 'b', 'c']) {
    void mq.send('q', body).catch(() => undefined)
    await settle()
  }
  world.cut('client', 'broker')
  await world.advance(1)
  void mq.send('q', 'new').catch(() => undefined)
  await settle()
  t.strictSame(server.heard, [
    '1: send 0 #2 a',
    '1: send 0 #3 b',
    '1: send 0 #4 c',
    '2: send 0 #2 a',
    '2: send 0 #3 b',
    '2: send 0 #4 c',
    '2: send 0 #5 new',
  ])
})

test('what is sent again has the bytes, the producer and the opening of the first time', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  void mq.send('q', { some: 'value' }, { headers: { a: 'b' } }).catch(() => undefined)
  await settle()
  world.cut('client', 'broker')
  server.logEnd = 99
  await settle()
  const [first, second] = server.all('send')
  t.strictSame({ ...second, id: 0 }, { ...first, id: 0 })
})

test('sends and acks share one sequence, and are sent again in it', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = server.on.settle = () => undefined
  server.on.receive = (frame, line) =>
    line.send({ op: 'delivered', id: frame.id, deliveries: [delivery(0, ['m'])] })
  const [message] = await world.complete(mq.receive('q'))
  void mq.send('q', 'a').catch(() => undefined)
  await settle()
  message!.ack().catch(() => undefined)
  await settle()
  server.heard.length = 0
  world.cut('client', 'broker')
  await settle()
  t.strictSame(server.heard, ['2: send 0 #2 a', '2: settle 0 #3 1:0'])
})

test('a cut while the broker is away changes nothing of the order', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  void mq.send('q', 'a').catch(() => undefined)
  await settle()
  world.partition('client', 'broker', 3000)
  world.cut('client', 'broker')
  await settle()
  void mq.send('q', 'b').catch(() => undefined)
  await settle()
  void mq.send('q', 'c').catch(() => undefined)
  server.heard.length = 0
  await world.advance(5000)
  t.match(server.heard, [/send 0 #2 a$/, /send 0 #3 b c$/])
})

test('an answer that was lost with its connection comes with the second copy, once', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => world.cut('client', 'broker')
  const sent = watch(mq.send('q', 'a'))
  await world.advance(1)
  server.on.send = ({ id }, line) =>
    line.send({ op: 'sent', id, epoch: 1, base: 1, duplicate: true, confirm: 0, storage: 0 })
  await settle()
  t.equal(sent.value?.duplicate, true)
  t.equal(sent.value?.id, 'q/0/1-1')
})

test('REFUSED_BEFORE: nothing was done, so it is sent under a new sequence', async (t) => {
  const { mq, server, settle } = await warm()
  server.on.send = (frame, line) => {
    if (frame.sequence === 2) line.refuse(frame.id, 'REFUSED_BEFORE')
    else line.answer(frame)
  }
  const sent = watch(mq.send('q', 'a'))
  await settle()
  t.strictSame(server.heard, ['1: send 0 #2 a', '1: send 0 #3 a'])
  t.equal(sent.state, 'resolved')
})

test('a broker that could not look at it is asked again after a pause, under the same sequence', async (t) => {
  for (const code of ['THROTTLED', 'STOPPING', 'NOT_LEADER', 'STALE_EPOCH'] as const) {
    const { mq, server, settle } = await warm()
    let refusals = 2
    server.on.send = (frame, line) => {
      if (refusals-- > 0) line.refuse(frame.id, code)
      else line.answer(frame)
    }
    const sent = watch(mq.send('q', 'a'))
    await settle()
    t.equal(sent.state, 'resolved', code)
    t.strictSame(server.heard, Array(3).fill('1: send 0 #2 a'))
  }
})

test('the pause is the one that the broker asks for', async (t) => {
  const { mq, server, world } = await warm()
  server.on.send = (frame, line) => line.refuse(frame.id, 'THROTTLED', { retryAfterMs: 7000 })
  void mq.send('q', 'a').catch(() => undefined)
  await world.advance(6990)
  t.equal(server.heard.length, 1)
  await world.advance(20)
  t.equal(server.heard.length, 2)
})

test('batches that were throttled together keep their order, and go before new ones', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  for (const body of ['a', 'b', 'c', 'd']) {
    void mq.send('q', body).catch(() => undefined)
    await world.advance(1)
  }
  for (const frame of server.all('send')) server.line.refuse(frame.id, 'THROTTLED')
  await world.advance(1)
  void mq.send('q', 'new').catch(() => undefined)
  server.heard.length = 0
  delete server.on.send
  await settle()
  t.strictSame(server.heard, [
    '1: send 0 #2 a',
    '1: send 0 #3 b',
    '1: send 0 #4 c',
    '1: send 0 #5 d',
    '1: send 0 #6 new',
  ])
})

test('a batch in its pause keeps its place when the connection is cut', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  for (const body of ['a', 'b']) {
    void mq.send('q', body).catch(() => undefined)
    await world.advance(1)
  }
  server.line.refuse(server.all('send')[0]!.id, 'THROTTLED', { retryAfterMs: 300 })
  await world.advance(1)
  world.cut('client', 'broker')
  server.heard.length = 0
  await settle()
  t.strictSame(server.heard.slice(0, 2), ['2: send 0 #2 a', '2: send 0 #3 b'])
})

test('at most 64 requests of a partition are unanswered, counted from the oldest', async (t) => {
  const { mq, server, settle } = await warm()
  let oldest: number | null = null
  server.on.send = (frame, line) => {
    oldest ??= frame.sequence
    if (frame.sequence !== oldest) line.answer(frame)
  }
  for (let i = 0; i < 80; i++) {
    void mq.send('q', String(i)).catch(() => undefined)
    await settle()
  }
  const sequences = server.all('send').map((frame) => frame.sequence)
  t.equal(Math.max(...sequences) - Math.min(...sequences), 63)
})

test('a refused batch does not break the window of 64 with its new sequence', async (t) => {
  const { mq, server, settle } = await warm()
  server.on.send = (frame, line) => {
    if (frame.sequence === 65) line.refuse(frame.id, 'REFUSED_BEFORE')
    else if (frame.sequence !== 2) line.answer(frame)
  }
  for (let i = 0; i < 70; i++) {
    void mq.send('q', String(i)).catch(() => undefined)
    await settle()
  }
  t.equal(server.all('send').at(-1)?.sequence, 65)
  server.line.answer(server.all('send')[0]!)
  await settle()
  t.strictSame(server.heard.slice(64, 66), ['1: send 0 #66 63', '1: send 0 #67 64 65 66 67 68 69'])
})

test('a server that takes fewer at a time gets fewer', async (t) => {
  const { mq, server, settle } = await warm({ limits: { unansweredMax: 2 } })
  server.on.send = () => undefined
  for (const body of ['a', 'b', 'c', 'd']) {
    void mq.send('q', body).catch(() => undefined)
    await settle()
  }
  t.strictSame(server.heard, ['1: send 0 #2 a', '1: send 0 #3 b'])
})

test('a broker that has forgotten the producer gets what is certainly new from another one', async (t) => {
  const { mq, server, settle } = await warm()
  const first = new Set<string>()
  server.logEnd = 50
  server.on.send = (frame, line) => {
    if (first.size === 0) first.add(frame.producerId)
    if (first.has(frame.producerId)) line.refuse(frame.id, 'UNKNOWN_PRODUCER')
    else line.answer(frame)
  }
  const sent = watch(mq.send('q', 'a'))
  await settle()
  t.equal(sent.state, 'resolved')
  const last = server.all('send').at(-1)!
  t.notOk(first.has(last.producerId))
  t.equal(last.opening, 50)
})

test('of a batch that may have been accepted before, a forgotten producer leaves nothing known', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  server.on.send = (frame, line) => line.refuse(frame.id, 'UNKNOWN_PRODUCER')
  world.cut('client', 'broker')
  await settle()
  t.equal(verdict(sent), 'UNKNOWN_PRODUCER unknown')
})

test('a refusal of the second copy says nothing of the first', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await settle()
  server.on.send = (frame, line) => line.refuse(frame.id, 'DISK_FULL')
  world.cut('client', 'broker')
  await settle()
  t.equal(verdict(sent), 'DISK_FULL unknown')
})

test('a call is sent again on the next connection, under a new id or the same, and answered once', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.createQueue = () => undefined
  const created = watch(mq.createQueue('other'))
  await settle()
  delete server.on.createQueue
  world.cut('client', 'broker')
  await settle()
  t.equal(created.state, 'resolved')
  t.strictSame(server.heard, ['1: createQueue other', '2: createQueue other'])
})

test('a deletion that is sent again names the queue that it meant, not whichever has the name by then', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.deleteQueue = () => undefined
  const deleted = watch(mq.deleteQueue('other'))
  await settle()
  delete server.on.deleteQueue
  server.on.lookup = (frame, line) => line.refuse(frame.id, 'QUEUE_NOT_FOUND')
  world.cut('client', 'broker')
  await settle()
  t.equal(deleted.state, 'resolved')
  t.strictSame(
    server.all('deleteQueue').map(({ queueId }) => queueId),
    [queueIdOf('other'), queueIdOf('other')],
  )
})

test('deleting a queue that is not there is QUEUE_NOT_FOUND', async (t) => {
  const { mq, server, settle } = await warm()
  server.on.lookup = (frame, line) => line.refuse(frame.id, 'QUEUE_NOT_FOUND')
  const deleted = watch(mq.deleteQueue('other'))
  await settle()
  t.equal(verdict(deleted), 'QUEUE_NOT_FOUND failed')
})

test('a receive asks the next connection only for the rest of its wait', async (t) => {
  const { mq, server, world, settle } = await warm()
  server.on.receive = () => undefined
  void mq.receive('q', { waitMs: 10_000 }).catch(() => undefined)
  await world.advance(4000)
  world.cut('client', 'broker')
  await settle()
  const waits = server.all('receive').map((frame) => frame.waitMs)
  t.equal(waits[0], 10_000)
  t.ok(waits[1]! <= 6000 && waits[1]! > 5500, `${waits[1]} ms`)
})

test('a batch that is answered before it has left keeps its memory: what is next in it is another’s', async (t) => {
  const { mq, server, settle } = await warm()
  buffers.wipes = true
  t.teardown(() => (buffers.wipes = false))
  let firstId = 0
  server.on.send = (frame, line) => {
    firstId = frame.id
    line.pause()
  }
  void mq.send('q', 'first').catch(() => undefined)
  await settle()
  delete server.on.send
  const bodies = ['a', 'b', 'c'].map((letter) => letter.repeat(200_000))
  const sent: unknown[] = []
  for (const body of bodies) {
    void mq.send('q', body).then((receipt) => sent.push(receipt.duplicate))
    await settle()
  }
  for (let id = firstId + 1; id <= firstId + 3; id++) {
    server.line.send({ op: 'sent', id, epoch: 1, base: id, duplicate: false, confirm: 0, storage: 0 })
  }
  await settle()
  t.strictSame(sent, [false, false, false])
  server.line.resume()
  await settle()
  t.ok(server.taken[0]!.slice(-3).join() === bodies.join(), 'and they come as they were sent')
})

/** How sends leave: what goes together, in which order, and what waits. */
import { test } from 'tap'
import { MqError } from '../../src/errors.ts'
import { attributes, readBatch } from '../../src/wire/batch.ts'
import { bodiesOf, stage, verdict, watch } from './scripted-server.ts'

test('the sends of one turn leave in one frame, those of the next in another', async (t) => {
  const { mq, server, settle } = await stage()
  void mq.send('q', 'first')
  await settle()
  void mq.send('q', 'a')
  void mq.send('q', 'b')
  await settle()
  void mq.send('q', 'c')
  await settle()
  t.strictSame(server.heard, ['1: send 0 #1 first', '1: send 0 #2 a b', '1: send 0 #3 c'])
})

test('the batches of a queue go to its partitions in turn', async (t) => {
  const { mq, server, settle } = await stage({ partitions: 3 })
  for (const body of ['a', 'b', 'c', 'd']) {
    void mq.send('q', body)
    await settle()
  }
  t.strictSame(server.heard, ['1: send 0 #1 a', '1: send 1 #1 b', '1: send 2 #1 c', '1: send 0 #2 d'])
})

test('two queues never share a frame', async (t) => {
  const { mq, server, settle } = await stage()
  for (const name of ['p', 'q']) void mq.send(name, 'first')
  await settle()
  server.heard.length = 0
  void mq.send('p', 'to p')
  void mq.send('q', 'to q')
  void mq.send('p', 'to p again')
  await settle()
  t.strictSame(server.heard, ['1: send 0 #2 to p to p again', '1: send 0 #2 to q'])
})

test('sends keep their order, whatever they wait for', async (t) => {
  const { mq, server, settle } = await stage()
  const bodies = Array.from({ length: 5000 }, (_, i) => String(i))
  for (const body of bodies) void mq.send('q', body)
  await settle()
  t.strictSame(server.taken[0], bodies)
})

test('while batches are unanswered the next one waits and grows', async (t) => {
  const { mq, server, settle } = await stage()
  server.on.send = () => undefined
  for (const body of ['a', 'b', 'c', 'd', 'e', 'f']) {
    void mq.send('q', body).catch(() => undefined)
    await settle()
  }
  t.equal(server.heard.length, 4, 'only so many are on their way')
  server.line.answer(server.all('send')[0]!)
  await settle()
  t.strictSame(server.heard.at(-1), '1: send 0 #5 e f')
})

test('a batch never exceeds what the broker takes in one', async (t) => {
  const { mq, server, settle } = await stage({ limits: { batchMessagesMax: 3, batchBytesMax: 1000 } })
  void mq.send('q', 'first')
  await settle()
  for (let i = 0; i < 7; i++) void mq.send('q', String(i))
  void mq.send('q', 'x'.repeat(600))
  void mq.send('q', 'y'.repeat(600))
  await settle()
  const counts = server.all('send').map((frame) => bodiesOf(frame).length)
  t.strictSame(counts, [1, 3, 3, 2, 1])
})

test('a body is copied before send returns, also while its queue is looked up', async (t) => {
  const { mq, server, settle } = await stage()
  const body = Buffer.from('before')
  void mq.send('q', body)
  body.write('after!')
  await settle()
  body.write('known.')
  void mq.send('q', body)
  body.write('after!')
  await settle()
  t.strictSame(server.taken[0], ['before', 'known.'])
})

test('a receipt says where the message stands and what held it', async (t) => {
  const { mq, server, world } = await stage()
  server.on.send = ({ id }, line) =>
    line.send({ op: 'sent', id, epoch: 7, base: 40, duplicate: true, confirm: 1, storage: 1 })
  const receipts = await world.complete(Promise.all([mq.send('q', 'a'), mq.send('q', 'b')]))
  t.strictSame(
    receipts.map((receipt) => receipt.toJSON()),
    [
      { id: 'q/0/7-40', duplicate: true, confirm: 'leader', storage: 'memory' },
      { id: 'q/0/7-41', duplicate: true, confirm: 'leader', storage: 'memory' },
    ],
  )
})

test('under confirm none a receipt has no id', async (t) => {
  const { mq, server, world } = await stage()
  server.on.send = ({ id }, line) =>
    line.send({ op: 'sent', id, epoch: 0, base: 0, duplicate: false, confirm: 2, storage: 0 })
  const receipt = await world.complete(mq.send('q', 'a'))
  t.equal(receipt.id, null)
})

test('headers go with their message alone', async (t) => {
  const { mq, server, settle } = await stage()
  void mq.send('q', 'plain')
  void mq.send('q', 'marked', { headers: { source: 'web' } })
  await settle()
  const view = readBatch(server.all('send')[0]!.batch)
  t.strictSame(attributes(view), { headers: [null, { source: 'web' }] })
})

test('sends to a queue that does not exist share one answer', async (t) => {
  const { mq, server, settle } = await stage()
  server.on.lookup = (frame, line) => line.refuse(frame.id, 'QUEUE_NOT_FOUND')
  const sends = ['a', 'b', 'c'].map((body) => watch(mq.send('missing', body)))
  await settle()
  t.strictSame(sends.map(verdict), Array(3).fill('QUEUE_NOT_FOUND failed'))
  t.equal(server.all('lookup').length, 1)
})

test('a refused batch is refused to each of its messages, and the queue goes on', async (t) => {
  const { mq, server, settle } = await stage()
  server.on.send = (frame, line) => line.refuse(frame.id, 'DISK_FULL')
  const sends = [watch(mq.send('q', 'a')), watch(mq.send('q', 'b'))]
  await settle()
  t.strictSame(sends.map(verdict), ['DISK_FULL failed', 'DISK_FULL failed'])
  delete server.on.send
  const next = watch(mq.send('q', 'c'))
  await settle()
  t.equal(next.state, 'resolved')
})

test('a queue that was deleted and made again is found at the next send', async (t) => {
  const { mq, server, settle } = await stage()
  void mq.send('q', 'a')
  await settle()
  server.on.send = (frame, line) => line.refuse(frame.id, 'QUEUE_DELETED')
  const refused = watch(mq.send('q', 'b'))
  await settle()
  t.equal(verdict(refused), 'QUEUE_DELETED failed')
  delete server.on.send
  void mq.send('q', 'c')
  await settle()
  t.equal(server.all('lookup').length, 2)
  t.equal(server.heard.at(-1)?.endsWith(' c'), true)
})

test('a queue that this client creates is looked up anew, for another may have deleted it before', async (t) => {
  const { mq, server, settle } = await stage()
  void mq.send('q', 'a')
  await settle()
  void mq.createQueue('q')
  await settle()
  void mq.send('q', 'b')
  await settle()
  t.equal(server.all('lookup').length, 2)
})

test('a message over the limit of its queue is refused before anything is sent', async (t) => {
  const { mq, server, settle } = await stage({ maxMessageBytes: 10 })
  const tooLarge = watch(mq.send('q', '0123456789x'))
  const withHeaders = watch(mq.send('q', '01234567', { headers: { a: 'bc' } }))
  const fits = watch(mq.send('q', '0123456', { headers: { a: 'bc', 'mq-own': 'does not count' } }))
  await settle()
  t.equal(verdict(tooLarge), 'MESSAGE_TOO_LARGE failed')
  t.strictSame((tooLarge.error as MqError).details, { bytes: 11, maxMessageBytes: 10 })
  t.equal(verdict(withHeaders), 'MESSAGE_TOO_LARGE failed')
  t.equal(fits.state, 'resolved')
  t.strictSame(server.taken[0], ['0123456'])
})

test('a message that no frame can hold is refused, and does not end the connection', async (t) => {
  const { mq, server, settle } = await stage()
  const tooLarge = watch(mq.send('q', 'a', { headers: { 'mq-own': 'x'.repeat(17 << 20) } }))
  await settle()
  t.equal(verdict(tooLarge), 'MESSAGE_TOO_LARGE failed')
  const next = watch(mq.send('q', 'b'))
  await settle()
  t.equal(next.state, 'resolved')
  t.equal(server.lines.length, 1)
})

test('options that are not built yet are refused, not ignored', async (t) => {
  const { mq, settle } = await stage()
  const options = { key: 'k', dedupeId: 'd', priority: 1, ttlMs: 1 }
  for (const [name, value] of Object.entries(options)) {
    const sent = watch(mq.send('q', 'a', { [name]: value }))
    await settle()
    t.equal(verdict(sent), 'UNSUPPORTED failed', name)
  }
})

test('headers must be text to text', async (t) => {
  const { mq, settle } = await stage()
  const wrong: unknown[] = [
    null,
    'text',
    { n: 1 },
    { list: ['a'] },
    JSON.parse('{"__proto__": "x"}'),
    { 'nul\0': '' },
  ]
  for (const headers of wrong) {
    const sent = watch(mq.send('q', 'a', { headers: headers as Record<string, string> }))
    await settle()
    t.equal(verdict(sent), 'INVALID_FIELD failed', JSON.stringify(headers))
  }
})

test('a name that no queue can have is refused without asking', async (t) => {
  const { mq, server, settle } = await stage()
  for (const name of ['', '-a', 'a..b', 'a/b', 'x'.repeat(256), 'a\n']) {
    const sent = watch(mq.send(name, 'a'))
    await settle()
    t.equal(verdict(sent), 'INVALID_NAME failed', JSON.stringify(name))
  }
  t.equal(server.frames.length, 0)
})

// -----------------------------------------------------------------------------------------------------------------
// sendBatch

test('sendBatch sends its entries in one frame and gives a receipt for each', async (t) => {
  const { mq, server, world } = await stage()
  const results = await world.complete(mq.sendBatch('q', [{ body: 'a' }, { body: 'b' }]))
  t.strictSame(server.heard, ['1: send 0 #1 a b'])
  t.strictSame(
    results.map((result) => (result instanceof MqError ? result.code : result.id)),
    ['q/0/1-0', 'q/0/1-1'],
  )
})

test('bad entries of sendBatch get errors in their places, and the rest goes through', async (t) => {
  const { mq, server, world } = await stage({ maxMessageBytes: 10 })
  await world.complete(mq.send('q', 'known'))
  const entries: unknown[] = [
    { body: 'a' },
    { body: 'x'.repeat(11) },
    null,
    { body: 'b', headers: { n: 1 } },
    { body: new Set([1]) },
    { body: 'c', key: 'k' },
    { body: 'd' },
  ]
  const results = await world.complete(mq.sendBatch('q', entries as { body: unknown }[]))
  t.strictSame(
    results.map((result) => (result instanceof MqError ? result.code : result.id)),
    [
      'q/0/1-1',
      'MESSAGE_TOO_LARGE',
      'INVALID_FIELD',
      'INVALID_FIELD',
      'INVALID_FIELD',
      'UNSUPPORTED',
      'q/0/1-2',
    ],
  )
  t.strictSame(server.taken[0], ['known', 'a', 'd'])
})

test('sendBatch to a queue that does not exist gives that error to each entry', async (t) => {
  const { mq, server, world } = await stage()
  server.on.lookup = (frame, line) => line.refuse(frame.id, 'QUEUE_NOT_FOUND')
  const results = await world.complete(mq.sendBatch('missing', [{ body: 'a' }, { body: 'b' }]))
  t.match(results, [{ code: 'QUEUE_NOT_FOUND' }, { code: 'QUEUE_NOT_FOUND' }])
})

test('sendBatch of nothing resolves to nothing', async (t) => {
  const { mq, world } = await stage()
  t.strictSame(await world.complete(mq.sendBatch('q', [])), [])
})

test('sendBatch of what is no list is refused', async (t) => {
  const { mq, settle } = await stage()
  const sent = watch(mq.sendBatch('q', { body: 'a' } as unknown as []))
  await settle()
  t.equal(verdict(sent), 'INVALID_FIELD failed')
})

test('a hole in the entries of a batch is a bad entry, and the call ends', async (t) => {
  const { mq, world } = await stage()

  const results = await world.complete(
    mq.sendBatch('q', [{ body: 'a' }, , { body: 'b' }] as { body: string }[]),
  )
  t.strictSame(
    results.map((result) => (result instanceof Error ? result.code : 'sent')),
    ['sent', 'INVALID_FIELD', 'sent'],
  )
})

test('what waits for room when its signal aborts is not sent, though the abort of another makes room', async (t) => {
  const { mq, server, settle } = await stage({}, { maxPendingBytes: 100 })
  server.on.send = () => undefined
  const controller = new AbortController()
  const { signal } = controller
  const first = watch(mq.send('q', 'a'.repeat(200), { signal }))
  await settle()
  const second = watch(mq.send('q', 'b', { signal }))
  await settle()
  controller.abort()
  await settle()
  t.strictSame([first, second].map(verdict), ['ABORTED unknown', 'ABORTED failed'])
  t.equal(server.heard.length, 1)
})

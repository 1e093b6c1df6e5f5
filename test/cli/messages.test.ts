/** Queues and messages by the command, against a broker that the command started. */
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { assertOneLine, firstLine, runOn, startBroker } from './process.ts'

const receiptForm = /^[A-Za-z][A-Za-z0-9_.-]*$/

async function brokerWithQueue(t: Test, ...options: string[]) {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  const { code } = await broker.run(['queue', 'create', 'orders', ...options])
  t.equal(code, 0)
  return broker
}

t.test('queue create, ls, info, rm', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  const create = ['queue', 'create', 'orders', '--visibility-timeout', '5s', '--max-message-bytes', '2KiB']
  t.strictSame(await broker.run(create), { code: 0, stdout: 'queue orders is ready\n', stderr: '' })
  const created = JSON.parse((await broker.run([...create, '--json'])).stdout)
  t.match(created, { name: 'orders', options: { visibilityTimeoutMs: 5000, confirm: 'replicas' } })
  t.equal((await broker.run(create)).code, 0, 'the same once more is as if created')

  const differently = await broker.run(['queue', 'create', 'orders', '--visibility-timeout', '6s'])
  t.equal(differently.code, 1)
  assertOneLine(t, differently.stderr, /\(QUEUE_EXISTS\)/)

  await broker.run(['send', 'orders', 'hello'])
  const ls = await broker.run(['queue', 'ls'])
  t.match(ls.stdout, /^NAME +MESSAGES .*\norders +1 +1 +replicas +disk\n$/)
  const lsJson = JSON.parse((await broker.run(['queue', 'ls', '--json'])).stdout)
  t.match(lsJson, [
    { name: 'orders', messages: 1, options: { visibilityTimeoutMs: 5000, maxMessageBytes: 2048 } },
  ])
  t.equal(lsJson.length, 1)

  const info = await broker.run(['queue', 'info', 'orders'])
  t.match(info.stdout, /\nready +1\n/)
  t.match(info.stdout, /\nvisibility-timeout +5s\n/)
  t.match(info.stdout, /\nmax-message-bytes +2KiB\n/)
  const infoJson = JSON.parse((await broker.run(['queue', 'info', 'orders', '--json'])).stdout)
  t.match(infoJson, {
    name: 'orders',
    messages: { ready: 1, leased: 0, delayed: 0 },
    partitions: [{ id: 0 }],
  })

  const { stdout } = await broker.run(['queue', 'rm', 'orders', '--dry-run'])
  t.match(stdout, /^queue orders would be removed, with \d+ messages?\n$/)
  t.strictSame(await broker.run(['queue', 'rm', 'orders']), {
    code: 0,
    stdout: 'queue orders is removed\n',
    stderr: '',
  })
  t.strictSame(JSON.parse((await broker.run(['queue', 'ls', '--json'])).stdout), [])
})

t.test('an option that is not built yet is refused, not ignored', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  for (const flag of ['--ordered-batch', '--max-bytes=1GiB', '--overflow=dropOldest', '--retain-acked=1d']) {
    const { code, stderr } = await broker.run(['queue', 'create', 'orders', flag])
    t.equal(code, 1, flag)
    assertOneLine(t, stderr, /\(UNSUPPORTED\)/)
  }
  t.strictSame(JSON.parse((await broker.run(['queue', 'ls', '--json'])).stdout), [])
})

t.test('echo hello | send orders -, then receive orders --ack', async (t) => {
  const broker = await brokerWithQueue(t)
  const sent = await broker.run(['send', 'orders', '-'], { input: 'hello\n' })
  t.equal(sent.code, 0)
  t.match(sent.stdout, /^\S+\/0\/\d+-\d+\n$/)
  t.equal(sent.stderr, '')
  t.strictSame(await broker.run(['receive', 'orders', '--ack']), { code: 0, stdout: 'hello\n', stderr: '' })
  t.strictSame(
    await broker.run(['receive', 'orders', '--ack']),
    { code: 0, stdout: '', stderr: '' },
    'it is gone',
  )
  t.equal((await broker.run(['receive', 'orders', '--json'])).stdout, '[]\n')
})

t.test('each line is a message, in order, and so are the ids', async (t) => {
  const broker = await brokerWithQueue(t)
  const input = Array.from({ length: 2500 }, (_, i) => `message ${i}\n`).join('')
  const sent = await broker.run(['send', 'orders', '-'], { input })
  t.equal(new Set(sent.stdout.trimEnd().split('\n')).size, 2500)
  let received = ''
  for (;;) {
    const { stdout } = await broker.run(['receive', 'orders', '--max', '1000', '--ack'])
    if (stdout === '') break
    received += stdout
  }
  t.ok(received === input, 'what was sent came back')
})

t.test('without --ack the lease is kept and the receipt printed', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', 'hello'])
  const { stdout } = await broker.run(['receive', 'orders'])
  const [body, receipt] = stdout.trimEnd().split('\t')
  t.equal(body, 'hello')
  t.match(receipt, receiptForm)
  t.equal((await broker.run(['receive', 'orders'])).stdout, '', 'it is leased')
  const info = JSON.parse((await broker.run(['queue', 'info', 'orders', '--json'])).stdout)
  t.match(info.messages, { ready: 0, leased: 1 })
})

t.test('--json keeps every body, header and fact', async (t) => {
  const broker = await brokerWithQueue(t)
  const sent = await broker.run(['send', 'orders', 'grüße', '--header', 'a=1', '--header', 'b=x=y', '--json'])
  const { id, ...facts } = JSON.parse(sent.stdout)
  t.strictSame(facts, { duplicate: false, confirm: 'replicas', storage: 'disk' })
  await broker.run(['send', 'orders', '-'], { input: Uint8Array.of(0xff, 0x00, 0x0a) })

  const received = JSON.parse((await broker.run(['receive', 'orders', '--max', '2', '--json'])).stdout)
  t.equal(received.length, 2)
  t.match(received[0], {
    id,
    queue: 'orders',
    body: 'grüße',
    headers: { a: '1', b: 'x=y' },
    deliveryCount: 1,
  })
  t.match(received[0].receipt, receiptForm)
  t.equal(received[1].bodyBase64, '/wA=')
  t.notOk('body' in received[1])
})

t.test('a lease that was told to be short comes back, counted', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', 'hello'])
  await broker.run(['receive', 'orders', '--visibility-timeout', '1'])
  const again = await broker.run(['receive', 'orders', '--wait', '20s', '--json'])
  t.match(JSON.parse(again.stdout), [{ body: 'hello', deliveryCount: 2 }])
})

t.test('receive --wait gets what is sent meanwhile', async (t) => {
  const broker = await brokerWithQueue(t)
  const [received] = await Promise.all([
    broker.run(['receive', 'orders', '--wait', '20s', '--ack']),
    broker.run(['send', 'orders', 'hello']),
  ])
  t.equal(received.stdout, 'hello\n')
})

t.test('receive --follow prints what comes, until so many or until interrupted', async (t) => {
  const broker = await brokerWithQueue(t, '--visibility-timeout', '1s')
  await broker.run(['send', 'orders', '-'], { input: 'one\ntwo\nthree\n' })
  const some = await broker.run(['receive', 'orders', '--follow', '--max', '2', '--ack', '--json'])
  t.equal(some.code, 0)
  t.match(
    some.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
    [
      { body: 'one', deliveryCount: 1 },
      { body: 'two', deliveryCount: 1 },
    ],
  )
  const child = runOn(t, ['receive', 'orders', '--follow', '--ack', '--server', broker.listen])
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  t.equal((await lines.next()).value, 'three', 'what was fetched beyond the two')
  await broker.run(['send', 'orders', 'four'])
  t.equal((await lines.next()).value, 'four')
  child.kill('SIGINT')
  const [code] = await once(child, 'exit')
  t.equal(code, 0)
  const info = JSON.parse((await broker.run(['queue', 'info', 'orders', '--json'])).stdout)
  t.strictSame(info.messages, { ready: 0, leased: 0, delayed: 0 })
})

t.test('receive --follow without --ack: receipts, and the leases are left to whoever has them', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', 'hello'])
  const { code, stdout } = await broker.run(['receive', 'orders', '--follow', '--max', '1'])
  t.equal(code, 0)
  const [body, receipt] = stdout.trimEnd().split('\t')
  t.equal(body, 'hello')
  t.match(receipt, receiptForm)
  const wait = await broker.run(['receive', 'orders', '--follow', '--wait', '1s'])
  t.equal(wait.code, 2)
})

t.test('a queue that is missing: 1, and the ones with near names are told', async (t) => {
  const broker = await brokerWithQueue(t)
  for (const args of [
    ['send', 'ordres', 'hello'],
    ['receive', 'ordres'],
    ['queue', 'info', 'ordres'],
    ['queue', 'rm', 'ordres'],
  ]) {
    const { code, stdout, stderr } = await broker.run(args)
    t.equal(code, 1)
    t.equal(stdout, '')
    assertOneLine(t, stderr, /ordres.*orders.*\(QUEUE_NOT_FOUND\)/)
  }
})

t.test('a line that is refused is named, and the others are sent', async (t) => {
  const broker = await brokerWithQueue(t, '--max-message-bytes', '10')
  const { code, stdout, stderr } = await broker.run(['send', 'orders', '-'], {
    input: `one\n${'x'.repeat(11)}\nthree\n`,
  })
  t.equal(code, 1)
  t.equal(stdout.trimEnd().split('\n').length, 2)
  assertOneLine(t, stderr, /line 2 was not sent, 2 lines were sent.*\(MESSAGE_TOO_LARGE\)/)
  t.equal((await broker.run(['receive', 'orders', '--max', '5', '--ack'])).stdout, 'one\nthree\n')
})

t.test('ids are printed while the input goes on', async (t) => {
  const broker = await brokerWithQueue(t)
  const child = runOn(t, ['send', 'orders', '-'], { MQ_SERVER: broker.listen })
  child.stdin.write('hello\n')
  t.match(await firstLine(child), /^\S+\/0\/\d+-\d+$/)
  t.equal(child.exitCode, null, 'it is still there')
})

t.test('an input or output that fails: 1, and a line', async (t) => {
  const broker = await brokerWithQueue(t)
  const none = await broker.run(['send', 'ordres', '-'], { input: '' })
  t.equal(none.code, 1, 'also without a line to send')
  assertOneLine(t, none.stderr, /\(QUEUE_NOT_FOUND\)/)
  const directory = await broker.run(['send', 'orders', '-'], { stdin: t.testdir() })
  t.equal(directory.code, 1)
  assertOneLine(t, directory.stderr, /cannot read the input: it is a directory/)
  await broker.run(['send', 'orders', 'hello'])
  const full = await broker.run(['receive', 'orders', '--ack'], { stdout: '/dev/full' })
  t.equal(full.code, 1)
  assertOneLine(t, full.stderr, /cannot write the output: ENOSPC/)
  t.equal((await broker.run(['receive', 'orders', '--ack'])).stdout, 'hello\n', 'it was not acked')
})

t.test('a lost connection is told, and that it is back', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const before = await startBroker(t, dataDir)
  await before.run(['queue', 'create', 'orders'])
  await before.run(['send', 'orders', 'one'])
  const child = runOn(t, ['receive', 'orders', '--follow', '--ack', '--server', before.listen])
  const bodies = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const told = createInterface({ input: child.stderr })[Symbol.asyncIterator]()
  t.equal((await bodies.next()).value, 'one')
  await before.end('SIGTERM')
  t.equal((await told.next()).value, 'mq-broker: connection lost, waiting for the broker')
  const after = await startBroker(t, dataDir, ['--listen', before.listen])
  t.equal((await told.next()).value, 'mq-broker: the broker is back')
  await after.run(['send', 'orders', 'two'])
  t.equal((await bodies.next()).value, 'two')
})

t.test('--server wins over MQ_SERVER', async (t) => {
  const broker = await brokerWithQueue(t)
  const { code } = await broker.run(['queue', 'ls', '--server', '127.0.0.1:1'])
  t.equal(code, 1)
})

t.test('nack, extend and ack by receipt', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', 'hello'])
  const receive = async () => {
    const { stdout } = await broker.run(['receive', 'orders', '--wait', '20s', '--json'])
    return (JSON.parse(stdout) as { receipt: string; deliveryCount: number }[])[0]!
  }
  const first = await receive()
  const nacked = await broker.run(['nack', first.receipt, '--delay', '200', '--reason', 'no disk'])
  t.strictSame(nacked, { code: 0, stdout: '1 nacked\n', stderr: '' })

  const second = await receive()
  t.equal(second.deliveryCount, 2)
  t.strictSame(await broker.run(['extend', second.receipt, '--for', '1h']), {
    code: 0,
    stdout: '1 extended\n',
    stderr: '',
  })

  t.strictSame(await broker.run(['ack', second.receipt]), { code: 0, stdout: '1 acked\n', stderr: '' })
})

t.test('of two receipts one may be lost; the other is acked', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', '-'], { input: 'a\nb\n' })
  const { stdout } = await broker.run(['receive', 'orders', '--max', '2', '--json'])
  const [a, b] = (JSON.parse(stdout) as { receipt: string }[]).map(({ receipt }) => receipt)
  await broker.run(['ack', a!])
  const both = await broker.run(['ack', a!, b!, '--json'])
  t.equal(both.code, 1)
  t.match(JSON.parse(both.stdout), [
    { receipt: a, error: { code: 'LEASE_LOST' } },
    { receipt: b, error: null },
  ])
  assertOneLine(t, both.stderr, /1 of 2 not acked.*\(LEASE_LOST\)/)
  const nonsense = await broker.run(['nack', 'nonsense'])
  t.equal(nonsense.code, 2)
  assertOneLine(t, nonsense.stderr, /no receipt/)
})

t.test('a message that was sent with a delay is delayed, and then there', async (t) => {
  const broker = await brokerWithQueue(t, '--backoff', 'exponential', '--backoff-delay', '1s')
  await broker.run(['send', 'orders', 'later', '--delay', '1h'])
  await broker.run(['send', 'orders', 'soon', '--delay', '300'])
  const info = JSON.parse((await broker.run(['queue', 'info', 'orders', '--json'])).stdout)
  t.match(info.options, { backoff: { type: 'exponential', delayMs: 1000 }, delayMs: 0 })
  t.match(info.messages, { leased: 0 })
  t.equal(info.messages.ready + info.messages.delayed, 2)
  const received = await broker.run(['receive', 'orders', '--max', '2', '--wait', '20s', '--ack'])
  t.equal(received.stdout, 'soon\n')
})

t.test('queue edit changes what is given, and prints what is in force', async (t) => {
  const broker = await brokerWithQueue(t, '--max-message-bytes', '2KiB')
  const { code, stdout } = await broker.run(['queue', 'edit', 'orders', '--visibility-timeout', '5s'])
  t.equal(code, 0)
  t.match(stdout, /\nvisibility-timeout +5s\n/)
  t.match(stdout, /\nmax-message-bytes +2KiB\n/)
})

t.test('queue edit --unset brings defaults back', async (t) => {
  const broker = await brokerWithQueue(t, '--max-deliveries', '3', '--visibility-timeout', '5s')
  const unset = ['--unset', 'max-deliveries', '--unset', 'visibility-timeout']
  const { code, stdout } = await broker.run(['queue', 'edit', 'orders', ...unset, '--json'])
  t.equal(code, 0)
  t.match(JSON.parse(stdout).options, {
    maxDeliveries: null,
    visibilityTimeoutMs: 30_000,
    deadLetterQueue: 'orders.dlq',
  })
})

t.test('queue edit without an option is wrong usage', async (t) => {
  const broker = await brokerWithQueue(t)
  const { code, stderr } = await broker.run(['queue', 'edit', 'orders'])
  t.equal(code, 2)
  assertOneLine(t, stderr, /at least one option/)
})

t.test('queue edit of what cannot be changed is refused', async (t) => {
  const broker = await brokerWithQueue(t)
  const { code, stderr } = await broker.run(['queue', 'edit', 'orders', '--partitions', '2'])
  t.equal(code, 1)
  assertOneLine(t, stderr, /partitions is 1 and cannot be changed.*\(UNSUPPORTED\)/)
})

t.test('queue purge removes messages, and with --dry-run only counts them', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', '-'], { input: 'one\ntwo\n' })
  const dry = await broker.run(['queue', 'purge', 'orders', '--dry-run'])
  t.equal(dry.stdout, '2 messages of queue orders would be removed\n')
  const purged = await broker.run(['queue', 'purge', 'orders', '--json'])
  t.strictSame(JSON.parse(purged.stdout), { name: 'orders', messages: 2, dryRun: false })
  t.equal((await broker.run(['receive', 'orders'])).stdout, '')
})

t.test('peek prints messages and leaves them', async (t) => {
  const broker = await brokerWithQueue(t)
  await broker.run(['send', 'orders', '-'], { input: 'one\ntwo\n' })
  await broker.run(['receive', 'orders'])
  const { stdout } = await broker.run(['peek', 'orders'])
  t.match(stdout, /^leased\t1\torders\/0\/\d+-\d+\t-\tone\nready\t0\torders\/0\/\d+-\d+\t-\ttwo\n$/)
  await broker.run(['send', 'orders', '\u001b[2J'])
  t.match((await broker.run(['peek', 'orders'])).stdout, /\t\\u001b\[2J\n$/, 'harmless anywhere')
  const json = JSON.parse((await broker.run(['peek', 'orders', '--max', '1', '--json'])).stdout)
  t.match(json, [{ queue: 'orders', state: 'leased', body: 'one', deliveryCount: 1, priority: 0 }])
  t.equal((await broker.run(['receive', 'orders', '--ack'])).stdout, 'two\n')
})

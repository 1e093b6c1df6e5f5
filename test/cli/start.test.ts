/** A broker as a process: how it says that it serves, why it refuses to start, and how it ends. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { metaPut } from '../../src/coordinator/embedded.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { assertOneLine, firstLine, run, runOn, startBroker } from './process.ts'

const freePorts = ['--listen', '127.0.0.1:0', '--http', '127.0.0.1:0']

t.test('start --json prints one line with where it serves', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'), ['--node-id', 'n1'])
  t.equal(broker.node, 'n1')
  t.match(broker.listen, /^127\.0\.0\.1:[1-9]\d*$/)
  t.match(broker.http, /^127\.0\.0\.1:[1-9]\d*$/)
  t.equal(broker.pid, broker.child.pid)
  const health = await fetch(`http://${broker.http}/healthz`)
  t.equal(health.status, 200)
  const ready = await fetch(`http://${broker.http}/readyz`)
  t.strictSame(await ready.json(), { ready: true, reasons: [] })
})

t.test('start prints the same as a sentence, and logs JSON to stderr', async (t) => {
  const child = runOn(t, ['start', '--data-dir', join(t.testdir(), 'data'), ...freePorts])
  let log = ''
  child.stderr.on('data', (chunk) => (log += chunk))
  const line = await firstLine(child)
  t.match(
    line,
    /^Node \S+ serves clients on 127\.0\.0\.1:\d+ and HTTP on 127\.0\.0\.1:\d+, as process \d+\.$/,
  )
  child.kill('SIGTERM')
  await once(child, 'close')
  for (const entry of log.trimEnd().split('\n')) t.type(JSON.parse(entry).msg, 'string')
})

t.test('options come from the environment and from a file', async (t) => {
  const directory = t.testdir({ 'mq.yaml': 'node-id: from-file\nhttp: 127.0.0.1:0\n' })
  const child = runOn(t, ['start', '--json', '--data-dir', join(directory, 'data')], {
    MQ_CONFIG: join(directory, 'mq.yaml'),
    MQ_LISTEN: '127.0.0.1:0',
  })
  const line = await firstLine(child)
  t.match(JSON.parse(line ?? 'null'), { node: 'from-file', pid: child.pid })
})

t.test('SIGTERM and SIGINT end it with 0, whatever is connected and leased', async (t) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const broker = await startBroker(t, join(t.testdir(), 'data'))
    await broker.run(['queue', 'create', 'orders'])
    const sender = runOn(t, ['send', 'orders', '-'], { MQ_SERVER: broker.listen })
    sender.stdin.write('hello\n')
    t.ok(await firstLine(sender), 'a client is connected')
    t.match((await broker.run(['receive', 'orders'])).stdout, 'hello')
    const begunMs = performance.now()
    t.strictSame(await broker.end(signal), { code: 0, signal: null }, signal)
    t.ok(performance.now() - begunMs < 10_000)
    t.match(broker.log(), `"signal":"${signal}"`)
  }
})

t.test('a defect ends it with 1, and the stack is in the log', async (t) => {
  const throwOnSignal = "process.on('SIGUSR2', () => { throw new Error('boom') })"
  const broker = await startBroker(t, join(t.testdir(), 'data'), [], {
    NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(throwOnSignal)}"`,
  })
  t.strictSame(await broker.end('SIGUSR2'), { code: 1, signal: null })
  const lines = broker.log().trimEnd().split('\n')
  const logged = lines.find((line) => line.includes('"level":60')) ?? 'null'
  t.match(JSON.parse(logged), { level: 60, err: { message: 'boom', stack: /\n +at / } })
})

t.test('a port that is taken: 1, and the port is named', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as { port: number }
  const dataDir = join(t.testdir(), 'data')
  for (const ports of [
    ['--listen', `127.0.0.1:${port}`, '--http', '127.0.0.1:0'],
    ['--listen', '127.0.0.1:0', '--http', `127.0.0.1:${port}`],
  ]) {
    const { code, stdout, stderr } = await run([
      'start',
      '--log-level',
      'silent',
      '--data-dir',
      dataDir,
      ...ports,
    ])
    t.equal(code, 1)
    t.equal(stdout, '')
    assertOneLine(t, stderr, new RegExp(`127\\.0\\.0\\.1:${port}.*another port.*\\(ADDRESS_IN_USE\\)`))
  }
})

t.test('a data directory that another broker uses: 1', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  await startBroker(t, dataDir)
  const { code, stderr } = await run(['start', '--log-level', 'silent', '--data-dir', dataDir, ...freePorts])
  t.equal(code, 1)
  assertOneLine(t, stderr, /\(DATA_DIR_LOCKED\)/)
})

t.test('a data directory that cannot be made: 1', async (t) => {
  // Below a regular file nobody can write, not even root.
  const directory = t.testdir({ file: '' })
  const file = join(directory, 'file')
  // And in /proc Node's recursive mkdir never comes to an end.
  for (const dataDir of [file, join(file, 'data'), join(file, 'data', 'below'), '/proc/x', '/proc/x/y']) {
    const { code, stderr } = await run([
      'start',
      '--log-level',
      'silent',
      '--data-dir',
      dataDir,
      ...freePorts,
    ])
    t.equal(code, 1)
    assertOneLine(t, stderr, /\(DATA_DIR_NOT_WRITABLE\)/)
  }
})

t.test('data of a newer version: 1, and it is left alone', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const store = openLmdbStore(dataDir)
  await store.lock()
  const meta = await store.open('meta', { create: true })
  await meta.commit([metaPut('format', [2])])
  await meta.close()
  await store.close()
  const { code, stderr } = await run(['start', '--log-level', 'silent', '--data-dir', dataDir, ...freePorts])
  t.equal(code, 1)
  assertOneLine(t, stderr, /\(NEWER_DATA_FORMAT\)/)
})

t.test('after kill -9 the same directory serves again, with what was not acked', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const before = await startBroker(t, dataDir)
  await before.run(['queue', 'create', 'orders'])
  await before.run(['send', 'orders', '-'], { input: 'acked\nkept\n' })
  t.equal((await before.run(['receive', 'orders', '--ack'])).stdout, 'acked\n')
  t.strictSame(await before.end('SIGKILL'), { code: null, signal: 'SIGKILL' })

  const after = await startBroker(t, dataDir)
  t.equal(after.node, before.node, 'it is the same node')
  t.equal((await after.run(['receive', 'orders', '--max', '10', '--ack'])).stdout, 'kept\n')
})

t.test('a node keeps leases over a planned stop', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const before = await startBroker(t, dataDir)
  await before.run(['queue', 'create', 'orders', '--visibility-timeout', '1h'])
  await before.run(['send', 'orders', 'leased'])
  t.match((await before.run(['receive', 'orders'])).stdout, /^leased\t/)
  await before.end('SIGTERM')
  const after = await startBroker(t, dataDir)
  t.equal((await after.run(['receive', 'orders'])).stdout, '')
})

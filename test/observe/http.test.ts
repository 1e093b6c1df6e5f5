import { once } from 'node:events'
import { request } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { MqError } from '../../src/errors.ts'
import { startHttp } from '../../src/observe/http.ts'

const metrics = async () => 'up 1\n'

async function server(t: Test, readiness: () => readonly string[] = () => [], options: object = {}) {
  const address = { host: '127.0.0.1', port: 0 }
  const http = await startHttp({ address, readiness, metrics, ...options })
  t.teardown(() => http.close())
  return http
}

async function ask({ port }: { port: number }, path: string, method = 'GET') {
  const sent = request({ host: '127.0.0.1', port, path, method, agent: false })
  sent.end()
  const [response] = await once(sent, 'response')
  return { status: response.statusCode, body: await text(response), headers: response.headers }
}

t.test('/healthz is 200 while the process lives', async (t) => {
  const { address } = await server(t, () => ['starting'])
  const { status, body } = await ask(address, '/healthz')
  t.equal(status, 200)
  t.equal(body, 'ok\n')
})

t.test('/readyz is 200 while it serves, and else tells why not', async (t) => {
  let reasons: string[] = []
  const { address } = await server(t, () => reasons)
  const ready = await ask(address, '/readyz')
  t.equal(ready.status, 200)
  t.strictSame(JSON.parse(ready.body), { ready: true, reasons: [] })
  reasons = ['disk full']
  const notReady = await ask(address, '/readyz?verbose')
  t.equal(notReady.status, 503)
  t.strictSame(JSON.parse(notReady.body), { ready: false, reasons: ['disk full'] })
  t.equal(notReady.headers['cache-control'], 'no-store')
})

t.test('HEAD is GET without the body', async (t) => {
  const { address } = await server(t, () => ['starting'])
  const { status, body, headers } = await ask(address, '/readyz', 'HEAD')
  t.equal(status, 503)
  t.equal(body, '')
  t.ok(Number(headers['content-length']) > 0)
})

t.test('/metrics is what the broker writes, in the format that Prometheus asks for', async (t) => {
  const { address } = await server(t)
  const { status, body, headers } = await ask(address, '/metrics')
  t.equal(status, 200)
  t.equal(body, 'up 1\n')
  t.equal(headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
})

t.test('whoever asks for metrics while they are written gets the same answer', async (t) => {
  let written = 0
  let finish = () => {}
  const asked = new Promise<void>((resolve) => (finish = resolve))
  const slow = async () => {
    await asked
    return `written ${++written}\n`
  }
  const { address } = await server(t, () => [], { metrics: slow })
  const answers = Promise.all([ask(address, '/metrics'), ask(address, '/metrics')])
  // A third answer, so that both questions have been read.
  await ask(address, '/healthz')
  finish()
  t.strictSame(
    (await answers).map(({ body }) => body),
    ['written 1\n', 'written 1\n'],
  )
})

t.test('metrics that cannot be written are 500, without a word of why', async (t) => {
  const metrics = () => Promise.reject(new Error('secret'))
  const { address } = await server(t, () => [], { metrics })
  const { status, body } = await ask(address, '/metrics')
  t.equal(status, 500)
  t.notMatch(body, 'secret')
})

t.test('anything else is told what there is', async (t) => {
  const { address } = await server(t)
  for (const path of ['/', '/metrics/', '/healthz/', '/../healthz', '/%2e']) {
    const { status, body } = await ask(address, path)
    t.equal(status, 404, path)
    t.match(body, '/healthz')
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await ask(address, '/healthz', method)
    t.equal(status, 405, method)
    t.equal(headers.allow, 'GET, HEAD')
  }
})

t.test('what is no HTTP, or has endless headers, is refused', async (t) => {
  const { address } = await server(t)
  for (const [bytes, answer] of [
    ['MQB1\0\0\0\0\r\n\r\n', /^HTTP\/1.1 400 /],
    [`GET /healthz HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(10_000)}\r\n\r\n`, /^HTTP\/1.1 431 /],
  ] as const) {
    const socket = connect(address.port, '127.0.0.1')
    socket.write(bytes)
    t.match(await text(socket), answer)
  }
})

t.test('a port that is taken is refused by name', async (t) => {
  const { address } = await server(t)
  const again = startHttp({ address, readiness: () => [], metrics })
  await t.rejects(again, new MqError('ADDRESS_IN_USE', `127.0.0.1:${address.port} (HTTP) is in use`))
})

t.test('an address that is not ours is refused', async (t) => {
  const start = startHttp({ address: { host: '192.0.2.1', port: 0 }, readiness: () => [], metrics })
  await t.rejects(start, { code: 'ADDRESS_NOT_AVAILABLE' })
})

t.test('connections are bounded', async (t) => {
  const { address } = await server(t)
  const sockets = Array.from({ length: 64 }, () => connect(address.port, '127.0.0.1'))
  t.teardown(() => sockets.forEach((socket) => socket.destroy()))
  // Answered, hence accepted.
  for (const socket of sockets) {
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(socket, 'data')
  }
  const oneMore = connect(address.port, '127.0.0.1')
  t.equal(await text(oneMore), '')
})

t.test('close ends connections that are open, and may be called again', async (t) => {
  const http = await startHttp({ address: { host: '127.0.0.1', port: 0 }, readiness: () => [], metrics })
  const socket = connect(http.address.port, '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  socket.write('GET /healthz HTTP/1.1\r\n')
  const closed = new Promise((resolve) => socket.on('close', resolve))
  await http.close()
  await closed
  await http.close()
  t.pass('closed')
})

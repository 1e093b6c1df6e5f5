/** Connecting, reconnecting, and servers that are not what they should be. */
import { test } from 'tap'
import type { ConnectOptions } from '../../src/client/options.ts'
import type { MqError } from '../../src/errors.ts'
import { SimWorld } from '../../src/sim/world.ts'
import { encodeServerFrame } from '../../src/wire/codec.ts'
import {
  connectTo,
  stage,
  startServer,
  verdict,
  watch,
  type Line,
  type ScriptedServer,
} from './scripted-server.ts'

/** A client on its way to the servers, which tests may change before anything has happened. */
async function connecting(servers: number, options: ConnectOptions = {}) {
  const world = new SimWorld({ seed: 1 })
  const started: ScriptedServer[] = []
  for (let i = 0; i < servers; i++) started.push(await startServer(world, { name: `broker${i}` }))
  const connected = watch(connectTo(world, started, options))
  return { world, servers: started as [ScriptedServer, ...ScriptedServer[]], connected }
}

test('HELLO says who the client is, and counts its connections', async (t) => {
  const { mq, server, world, settle } = await stage()
  const hellos: [string, number][] = []
  server.on.hello = ({ clientId, session }, line) => {
    hellos.push([clientId, session])
    line.welcome()
  }
  for (let i = 0; i < 2; i++) {
    world.cut('client', 'broker')
    await settle()
  }
  t.strictSame(
    hellos.map(([, session]) => session),
    [2, 3],
  )
  t.equal(hellos[0]![0], hellos[1]![0])
  await world.complete(mq.close())
})

test('nobody listens: DISCONNECTED when the time is over, and no attempt afterwards', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const server = await startServer(world)
  server.process.crash()
  const connected = watch(connectTo(world, [server], { timeoutMs: 2000 }))
  await world.advance(1999)
  t.equal(connected.state, 'pending')
  await world.advance(2)
  t.equal(verdict(connected), 'DISCONNECTED failed')
  t.equal(await world.run(), 'idle')
})

test('the time to connect is 5 s by default', async (t) => {
  const { world, servers, connected } = await connecting(1)
  servers[0].on.hello = () => undefined
  await world.advance(4999)
  t.equal(connected.state, 'pending')
  await world.advance(2)
  t.equal(verdict(connected), 'TIMEOUT failed')
})

test('nobody listens, and calls are to fail then: refused after one round', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const server = await startServer(world)
  server.process.crash()
  const connected = watch(connectTo(world, [server], { offline: 'fail' }))
  await world.advance(10)
  t.equal(verdict(connected), 'DISCONNECTED failed')
})

test('a server that comes up in time is found', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const gone = await startServer(world)
  gone.process.crash()
  const connected = watch(connectTo(world, [gone]))
  await world.advance(3000)
  await startServer(world)
  await world.advance(1990)
  t.equal(connected.state, 'resolved')
})

test('a signal ends connecting: before, during, not after', async (t) => {
  const before = await connecting(1, { signal: AbortSignal.abort() })
  await before.world.advance(10)
  t.equal(verdict(before.connected), 'ABORTED failed')
  t.equal(before.servers[0].lines.length, 0)

  const controller = new AbortController()
  const during = await connecting(1, { signal: controller.signal })
  during.servers[0].on.hello = () => undefined
  await during.world.advance(10)
  controller.abort()
  await during.world.advance(10)
  t.equal(verdict(during.connected), 'ABORTED failed')
  t.equal(await during.world.run(), 'idle')

  const late = new AbortController()
  const after = await connecting(1, { signal: late.signal })
  await after.world.advance(10)
  late.abort()
  const sent = watch(after.connected.value!.send('q', 'a'))
  await after.world.advance(10)
  t.equal(sent.state, 'resolved')
})

// -----------------------------------------------------------------------------------------------------------------
// Several servers

test('the first server that answers is taken, in the order of the list', async (t) => {
  const { world, servers, connected } = await connecting(3)
  servers[0].process.crash()
  await world.advance(100)
  t.equal(connected.state, 'resolved')
  t.strictSame(
    servers.map(({ lines }) => lines.length),
    [0, 1, 0],
  )
})

const silent: Record<string, (world: SimWorld, server: ScriptedServer) => void> = {
  'that takes a connection and says nothing': (_, server) => (server.on.hello = () => undefined),
  'behind a network that loses everything': (world, server) =>
    world.partition('client', server.process.name, Infinity),
}

for (const [what, silence] of Object.entries(silent)) {
  test(`a server ${what} leaves the others their time`, async (t) => {
    const { world, servers, connected } = await connecting(2)
    silence(world, servers[0])
    await world.advance(4000)
    t.equal(connected.state, 'resolved')
    t.equal(servers[1]!.lines.length, 1)
  })

  test(`a server ${what} holds a reconnection up no longer`, async (t) => {
    const { world, servers, connected } = await connecting(2)
    await world.advance(100)
    const mq = connected.value!
    silence(world, servers[0])
    world.cut('client', 'broker0')
    const sent = watch(mq.send('q', 'a'))
    await world.advance(6000)
    t.equal(sent.state, 'resolved')
    t.equal(servers[1]!.lines.length, 1)
  })
}

test('when its server is gone the client goes on with another, and nothing is lost', async (t) => {
  const { world, servers, connected } = await connecting(2)
  await world.advance(100)
  const mq = connected.value!
  await world.complete(mq.send('q', 'warm'))
  servers[0].on.send = () => undefined
  const sent = watch(mq.send('q', 'a'))
  await world.advance(10)
  servers[0].process.crash()
  await world.advance(1000)
  t.equal(sent.state, 'resolved')
  t.strictSame(servers[1]!.heard, ['1: send 0 #2 a'])
})

test('a broker that goes away is left once it has answered, and asked last', async (t) => {
  const { world, servers, connected } = await connecting(2)
  await world.advance(100)
  const mq = connected.value!
  await world.complete(mq.send('q', 'warm'))
  servers[0].on.send = () => undefined
  const underWay = watch(mq.send('q', 'under way'))
  await world.advance(10)
  servers[0].line.send({ op: 'goAway', reason: 'stopping' })
  await world.advance(10)
  const next = watch(mq.send('q', 'next'))
  await world.advance(1000)
  t.equal(next.state, 'pending', 'it stays for what it was asked')
  servers[0].line.answer(servers[0].all('send').at(-1)!)
  await world.advance(1000)
  t.equal(underWay.state, 'resolved')
  t.equal(next.state, 'resolved')
  t.strictSame(servers[1]!.heard, ['1: send 0 #3 next'])
})

// -----------------------------------------------------------------------------------------------------------------
// Servers that are not what they should be

const http = Buffer.from('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')

const strange: Record<string, { hello: (line: Line) => void; expected: string }> = {
  'answers HTTP': { hello: (line) => line.sendBytes(http), expected: 'BAD_MAGIC failed' },
  'answers garbage': {
    hello: (line) => line.sendBytes(Uint8Array.of(0, 0, 0, 4, 0xc1, 0xc1, 0xc1, 0xc1)),
    expected: 'BAD_MAGIC failed',
  },
  'answers with a frame that is none of a handshake': {
    hello: (line) => line.send({ op: 'ok', id: 1, result: null }),
    expected: 'BAD_FRAME failed',
  },
  'speaks another version': {
    hello: (line) => {
      line.send({
        op: 'error',
        id: 0,
        code: 'UNSUPPORTED_VERSION',
        message: 'speaks 2 to 3',
        retryable: false,
        details: { min: 2, max: 3 },
      })
      line.end()
    },
    expected: 'UNSUPPORTED_VERSION failed',
  },
  'agrees to a version that was not offered': {
    hello: (line) => line.welcome({ version: 2 }),
    expected: 'BAD_FRAME failed',
  },
  'closes in the handshake': { hello: (line) => line.end(), expected: 'DISCONNECTED failed' },
  'is full': {
    hello: (line) => {
      line.refuse(0, 'TOO_MANY_CONNECTIONS')
      line.end()
    },
    expected: 'TIMEOUT failed',
  },
}

for (const [what, { hello, expected }] of Object.entries(strange)) {
  test(`a server that ${what}`, async (t) => {
    const { world, servers, connected } = await connecting(1)
    servers[0].on.hello = (_, line) => hello(line)
    await world.advance(5001)
    t.equal(verdict(connected), expected)
    t.equal(await world.run(), 'idle', 'nothing is left behind')
  })

  test(`a server that ${what}, beside one that serves`, async (t) => {
    const { world, servers, connected } = await connecting(2)
    servers[0].on.hello = (_, line) => hello(line)
    await world.advance(5001)
    t.equal(connected.state, 'resolved')
  })
}

test('what cannot be read ends the connection, and what was asked is asked again', async (t) => {
  const { mq, server, settle } = await stage()
  let first = true
  server.on.describeQueue = (frame, line) => {
    if (first) line.sendBytes(http)
    else line.answer(frame)
    first = false
  }
  const described = watch(mq.describeQueue('q'))
  await settle()
  t.equal(described.state, 'resolved')
  t.equal(server.lines.length, 2)
})

test('an answer of the wrong kind is a defect of the broker, and leaves open what was done', async (t) => {
  const { mq, server, settle, world } = await stage()
  await world.complete(mq.send('q', 'warm'))
  server.on.send = ({ id }, line) => line.send({ op: 'ok', id, result: null })
  server.on.describeQueue = ({ id }, line) => line.send({ op: 'settled', id, refused: null })
  server.on.listQueues = ({ id }, line) => line.send({ op: 'ok', id, result: null })
  const calls = [
    watch<unknown>(mq.send('q', 'a')),
    watch<unknown>(mq.describeQueue('q')),
    watch<unknown>(mq.listQueues()),
  ]
  await settle()
  t.strictSame(calls.map(verdict), Array(3).fill('INTERNAL unknown'))
})

test('an answer that cannot be read leaves open what was done', async (t) => {
  const { mq, server, settle } = await stage()
  server.on.describeQueue = ({ id }, line) => {
    const frame = Buffer.from(encodeServerFrame({ op: 'settled', id, refused: [1, 2] }))
    // A list of one, and that a text.
    frame.set([0x91, 0xa1, 0x61], frame.length - 3)
    line.sendBytes(frame)
  }
  const described = watch(mq.describeQueue('q'))
  await settle()
  t.equal((described.error as MqError | undefined)?.outcome, 'unknown')
})

test('an answer to nobody changes nothing', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.line.send({ op: 'ok', id: 12_345, result: null })
  await settle()
  await world.complete(mq.send('q', 'a'))
  t.equal(server.lines.length, 1)
})

test('another cluster at the same address is not taken for the first', async (t) => {
  const { mq, server, world, settle } = await stage()
  const errors: MqError[] = []
  mq.on('error', (error) => errors.push(error))
  server.on.hello = (_, line) => line.welcome({ clusterId: 'another' })
  world.cut('client', 'broker')
  const sent = watch(mq.send('q', 'a', { timeoutMs: 2000 }))
  await settle()
  t.equal(errors[0]?.code, 'WRONG_CLUSTER')
  await world.advance(2000)
  t.equal(verdict(sent), 'TIMEOUT failed')
  t.strictSame(server.heard, [])
})

test('a server that falls silent is left', async (t) => {
  const { mq, server, world } = await stage({ limits: { heartbeatMs: 1000 } })
  const ends: (string | undefined)[] = []
  mq.on('disconnect', (error) => ends.push(error?.code))
  world.blackHole('broker', 'client')
  await world.advance(4500)
  t.strictSame(ends, ['DISCONNECTED'])
  t.equal(server.lines.length, 2)
})

// -----------------------------------------------------------------------------------------------------------------
// Events

test('a lost connection and the way back are told', async (t) => {
  const { mq, server, world } = await stage()
  const events: string[] = []
  mq.on('disconnect', (error) => events.push(`disconnect ${error?.code ?? 'in order'}`))
  mq.on('reconnecting', ({ attempt }) => events.push(`reconnecting ${attempt}`))
  mq.on('reconnect', () => events.push('reconnect'))
  mq.on('close', () => events.push('close'))
  world.partition('client', 'broker', 6000)
  world.cut('client', 'broker')
  await world.advance(15_000)
  server.line.end()
  await world.advance(1000)
  await world.complete(mq.close())
  t.strictSame(events, [
    'disconnect DISCONNECTED',
    'reconnecting 1',
    'reconnecting 2',
    'reconnect',
    'disconnect in order',
    'reconnecting 3',
    'reconnect',
    'close',
  ])
})

test('the pauses between attempts grow up to 2 s, and vary', async (t) => {
  const { mq, server, world } = await stage()
  const delays: number[] = []
  mq.on('reconnecting', ({ delayMs }) => delays.push(delayMs))
  server.process.crash()
  await world.advance(30_000)
  t.ok(delays[0]! <= 50)
  t.ok(delays.every((delayMs) => delayMs <= 2000))
  t.ok(delays.slice(-5).every((delayMs) => delayMs >= 1000))
  t.ok(new Set(delays.slice(-5)).size > 1)
  await world.complete(mq.close())
})

test('a slow consumer is told by its own event, and connected again', async (t) => {
  const { mq, server, settle } = await stage()
  const events: string[] = []
  mq.on('slowConsumer', (error) => events.push(error.code))
  mq.on('error', () => events.push('error'))
  server.line.refuse(0, 'SLOW_CONSUMER')
  server.line.end()
  await settle()
  t.strictSame(events, ['SLOW_CONSUMER'])
  t.equal(server.lines.length, 2)
})

test('an error that nobody listens to ends nothing', async (t) => {
  const { mq, server, world, settle } = await stage()
  server.line.refuse(0, 'INTERNAL')
  server.line.end()
  await settle()
  await world.complete(mq.send('q', 'a'))
  t.equal(server.lines.length, 2)
})

test('a listener that was taken back hears nothing; one that was added twice hears twice', async (t) => {
  const { mq, world } = await stage()
  let heard = 0
  const listener = () => heard++
  mq.on('close', listener).on('close', listener).on('close', listener).off('close', listener)
  await world.complete(mq.close())
  t.equal(heard, 2)
})

test('close within any event ends the client', async (t) => {
  for (const name of ['disconnect', 'reconnecting', 'reconnect'] as const) {
    const { mq, world } = await stage()
    mq.on(name, () => void mq.close())
    world.cut('client', 'broker')
    await world.advance(1000)
    t.equal(world.network.connections.length, 0, name)
    t.equal(await world.run(), 'idle')
  }
})

// -----------------------------------------------------------------------------------------------------------------
// Options

test('options that make no sense are refused before anything happens', async (t) => {
  const wrong: [ConnectOptions | Record<string, unknown>, string][] = [
    [{ servers: [] }, 'INVALID_OPTION'],
    [{ servers: [''] }, 'INVALID_OPTION'],
    [{ servers: ['host:0'] }, 'INVALID_OPTION'],
    [{ servers: ['host:65536'] }, 'INVALID_OPTION'],
    [{ servers: ['http://host'] }, 'INVALID_OPTION'],
    [{ servers: 7 }, 'INVALID_OPTION'],
    [{ servers: ['mqs://host'] }, 'UNSUPPORTED'],
    [{ servers: ['mq://user:secret@host'] }, 'UNSUPPORTED'],
    [{ tls: {} }, 'UNSUPPORTED'],
    [{ name: 'x'.repeat(256) }, 'INVALID_OPTION'],
    [{ offline: 'never' }, 'INVALID_OPTION'],
    [{ maxPendingBytes: 0 }, 'INVALID_OPTION'],
    [{ timeoutMs: -1 }, 'INVALID_OPTION'],
    [{ signal: {} }, 'INVALID_OPTION'],
    [{ serializer: { name: 'text', encode() {}, decode() {} } }, 'INVALID_OPTION'],
    [{ serializer: { name: 'own' } }, 'INVALID_OPTION'],
  ]
  for (const [options, code] of wrong) {
    const { world, servers, connected } = await connecting(1, options)
    await world.advance(10)
    t.equal(verdict(connected).split(' ')[0], code, JSON.stringify(options))
    t.notMatch(String(connected.error), 'user:secret')
    t.equal(servers[0].lines.length, 0)
  }
})

test('servers are host:port, with or without mq://, port 7650 by default', async (t) => {
  for (const servers of [['mq://broker'], ['broker'], ['broker:7650'], ['mq://broker:7650/'], 'broker']) {
    const world = new SimWorld({ seed: 1 })
    const server = await startServer(world)
    await world.complete(connectTo(world, [server], { servers }))
    t.equal(server.lines.length, 1, String(servers))
  }
})

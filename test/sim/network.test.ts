import { test } from 'tap'
import type { Socket } from '../../src/env.ts'
import type { FaultOptions } from '../../src/sim/faults.ts'
import { windowBytes } from '../../src/sim/network.ts'
import { SimWorld } from '../../src/sim/world.ts'

const timeoutMs = 60_000
const serverAddress = { host: 'server', port: 7000 }
const bytes = (text: string) => new TextEncoder().encode(text)

/** Remembers what a socket tells its owner. */
function watch(socket: Socket) {
  const seen = { chunks: [] as Uint8Array[], bytes: 0, drains: 0, closes: [] as (string | undefined)[] }
  socket.onData = (chunk) => {
    seen.chunks.push(Uint8Array.from(chunk))
    seen.bytes += chunk.byteLength
  }
  socket.onDrain = () => {
    seen.drains += 1
  }
  socket.onClose = (error) => {
    seen.closes.push(error?.message)
  }
  return { socket, seen, text: () => Buffer.concat(seen.chunks).toString() }
}

/** Two processes and a connection between them. */
async function connected(options: { seed?: number; faults?: Partial<FaultOptions> } = {}) {
  const world = new SimWorld({
    seed: options.seed ?? 1,
    faults: { networkLatencyMs: [1, 3], ...options.faults },
  })
  const serverProcess = world.process('server')
  const clientProcess = world.process('client')
  const accepted: ReturnType<typeof watch>[] = []
  const listener = await serverProcess.env.network.listen(serverAddress, (socket) =>
    accepted.push(watch(socket)),
  )
  const client = watch(await world.complete(clientProcess.env.network.connect(serverAddress, { timeoutMs })))
  await world.run({ until: () => accepted.length > 0 })
  return { world, serverProcess, clientProcess, listener, client, server: accepted[0]!, accepted }
}

const reset = 'read ECONNRESET'

test('all writes of one turn arrive as one chunk, which is lent', async (t) => {
  const { world, client, server } = await connected()
  const word = bytes('all ')
  const { onData } = server.socket
  let lent: Uint8Array = new Uint8Array()
  server.socket.onData = (chunk) => onData((lent = chunk))
  for (const part of [word, bytes('in '), bytes('one')]) client.socket.write(part)
  t.equal(client.socket.bufferedBytes, 10)
  await world.run()
  t.equal(server.seen.chunks.length, 1)
  t.equal(server.text(), 'all in one')
  t.equal(client.seen.drains, 1)
  t.equal(client.socket.bufferedBytes, 0)
  t.same(lent, new Uint8Array(10).fill(0xa5))
  t.same(word, bytes('all '))
  t.not(lent.byteOffset, 0)
  t.match([client.socket.remote, server.socket.remote], ['server:7000', /^client:\d+$/])
})

test('enough bytes leave before the end of their turn, what comes after them at its end', async (t) => {
  const { world, client, server } = await connected({ faults: { enoughBytes: 6 } })
  for (const word of ['all ', 'in ', 'two']) client.socket.write(bytes(word))
  t.equal(client.socket.bufferedBytes, 3)
  await world.run()
  t.strictSame(
    server.seen.chunks.map((chunk) => Buffer.from(chunk).toString()),
    ['all in ', 'two'],
  )
  t.equal(client.seen.drains, 1)
})

test('bytes stay in order, however they are cut and delayed', async (t) => {
  const faults = { splitChance: 0.7, delayChance: 0.3, delayMsMax: 1000 }
  for (let seed = 1; seed <= 10; seed++) {
    const { world, client, server, clientProcess } = await connected({ seed, faults })
    const sent: Uint8Array[] = []
    for (let round = 0; round < 50; round++) {
      const part = world.random.bytes(1 + world.random.int(300))
      sent.push(part)
      clientProcess.env.clock.after(world.random.int(40), () => undefined)
      client.socket.write(part)
      await world.advance(world.random.int(3))
    }
    await world.run()
    t.ok(Buffer.concat(sent).equals(Buffer.concat(server.seen.chunks)))
    t.ok(server.seen.chunks.length > 50)
  }
})

test('bytes changed after they were written stop the world', async (t) => {
  const { world, client } = await connected()
  const word = bytes('unchanged')
  client.socket.write(word)
  word[0] = 0
  await t.rejects(world.run(), { name: 'InvariantError', message: /client changed bytes/ })
})

test('a reader that pauses fills the window; then the bytes of the writer wait', async (t) => {
  const { world, client, server } = await connected()
  const first = watch(server.socket)
  server.socket.pause()
  const extraBytes = 100_000
  for (let rest = windowBytes + extraBytes; rest > 0; rest -= 1000) {
    client.socket.write(new Uint8Array(Math.min(rest, 1000)).fill(rest))
  }
  await world.run()
  t.equal(client.socket.bufferedBytes, extraBytes)
  t.equal(client.seen.drains, 0)
  t.equal(first.seen.bytes, 0)
  server.socket.resume()
  server.socket.resume()
  await world.run()
  t.equal(first.seen.bytes, windowBytes + extraBytes)
  t.equal(client.socket.bufferedBytes, 0)
  t.equal(client.seen.drains, 1)
})

test('a pause within a delivery holds the next chunk back', async (t) => {
  const { world, client, server } = await connected({ faults: { splitChance: 1 } })
  server.socket.onData = (chunk) => {
    server.seen.bytes += chunk.byteLength
    server.socket.pause()
  }
  client.socket.write(new Uint8Array(1000))
  await world.run()
  t.ok(server.seen.bytes < 1000)
  while (server.seen.bytes < 1000) {
    const before = server.seen.bytes
    server.socket.resume()
    await world.run()
    t.ok(server.seen.bytes > before)
  }
})

test('end sends what is buffered; both sides close once, without an error', async (t) => {
  const { world, client, server } = await connected()
  client.socket.write(new Uint8Array(2 * windowBytes))
  client.socket.end()
  client.socket.write(bytes('too late'))
  await world.run()
  t.equal(server.seen.bytes, 2 * windowBytes)
  t.strictSame(server.seen.closes, [undefined])
  t.strictSame(client.seen.closes, [undefined])
  client.socket.end()
  client.socket.destroy()
  await world.run()
  t.equal(client.seen.closes.length, 1)
  t.equal(world.network.connections.length, 0)
})

test("the peer's end is seen behind its bytes, also by a paused reader", async (t) => {
  const { world, client, server } = await connected()
  server.socket.pause()
  client.socket.write(bytes('last words'))
  client.socket.end()
  await world.run()
  t.strictSame(server.seen.closes, [])
  server.socket.resume()
  await world.run()
  t.equal(server.text(), 'last words')
  t.strictSame(server.seen.closes, [undefined])
})

test('destroy silences every handler but onClose; the peer sees an end, or a reset if bytes went unread', async (t) => {
  for (const unread of [false, true]) {
    const { world, client, server } = await connected()
    if (unread) {
      client.socket.write(bytes('unread'))
      await world.advance(0)
    }
    server.socket.destroy()
    server.socket.destroy()
    await world.run()
    t.strictSame(server.seen.closes, [undefined])
    t.equal(server.seen.bytes, 0)
    t.strictSame(client.seen.closes, [unread ? reset : undefined])
    t.equal(world.network.connections.length, 0)
  }
})

test('bytes that reach a destroyed end are answered with a reset', async (t) => {
  const { world, client, server } = await connected({ faults: { networkLatencyMs: [5, 5] } })
  server.socket.destroy()
  client.socket.write(bytes('nobody is there'))
  client.socket.pause()
  await world.run()
  t.strictSame(client.seen.closes, [reset])
})

test('nobody listens, nobody answers in time, or the caller gives up', async (t) => {
  const { world, clientProcess, serverProcess, listener } = await connected()
  const { network } = clientProcess.env
  const nowhere = { host: 'nowhere', port: 1 }
  const failed = { name: 'MqError', outcome: 'failed' }
  await t.rejects(world.complete(network.connect(nowhere, { timeoutMs })), {
    ...failed,
    code: 'DISCONNECTED',
  })

  const signal = AbortSignal.abort()
  await t.rejects(network.connect(serverAddress, { timeoutMs, signal }), { ...failed, code: 'ABORTED' })
  const controller = new AbortController()
  const abandoned = network.connect(serverAddress, { timeoutMs, signal: controller.signal })
  controller.abort()
  await t.rejects(abandoned, { ...failed, code: 'ABORTED' })

  world.partition('client', 'server', 10_000)
  await t.rejects(world.complete(network.connect(serverAddress, { timeoutMs: 5000 })), {
    ...failed,
    code: 'DISCONNECTED',
  })
  world.heal()
  world.setFaults({ connectRefusedChance: 1 })
  await t.rejects(world.complete(network.connect(serverAddress, { timeoutMs })), { code: 'DISCONNECTED' })
  world.heal()

  await listener.close()
  await t.rejects(world.complete(network.connect(serverAddress, { timeoutMs })), { code: 'DISCONNECTED' })
  await serverProcess.env.network.listen(serverAddress, () => undefined)
  await world.complete(network.connect(serverAddress, { timeoutMs }))
})

test('a connect that timed out while it was being accepted leaves no connection behind', async (t) => {
  const { world, clientProcess, accepted } = await connected({ faults: { networkLatencyMs: [10, 10] } })
  const { network } = clientProcess.env
  await t.rejects(world.complete(network.connect(serverAddress, { timeoutMs: 15 })), { code: 'DISCONNECTED' })
  await world.run()
  t.equal(accepted.length, 2)
  t.strictSame(accepted[1]?.seen.closes, [undefined])
  t.equal(world.network.connections.length, 1)
})

test('an address is used once; port 0 means any', async (t) => {
  const { world, serverProcess, clientProcess, listener } = await connected()
  const ignore = () => undefined
  await t.rejects(clientProcess.env.network.listen(serverAddress, ignore), { code: 'ADDRESS_IN_USE' })
  await listener.close()
  const taken = await clientProcess.env.network.listen(serverAddress, ignore)
  await listener.close()
  await t.rejects(serverProcess.env.network.listen(serverAddress, ignore), { code: 'ADDRESS_IN_USE' })
  t.strictSame(taken.address, serverAddress)
  const any = { host: 'server', port: 0 }
  const ports = new Set<number>()
  for (let count = 0; count < 10; count++) {
    ports.add((await serverProcess.env.network.listen(any, ignore)).address.port)
  }
  t.equal(ports.size, 10)
  clientProcess.crash()
  await world.complete(serverProcess.env.network.listen(serverAddress, ignore))
})

test('a cut is seen by both ends, each at its own time, and loses what is on its way', async (t) => {
  const { world, client, server } = await connected()
  client.socket.write(bytes('lost'))
  await world.advance(0)
  world.cut('server', 'client')
  const times: number[] = []
  client.socket.onClose = server.socket.onClose = (error) => {
    t.equal(error?.message, reset)
    times.push(world.steps)
  }
  await world.run()
  t.equal(times.length, 2)
  t.equal(server.seen.bytes, 0)
  t.equal(world.network.connections.length, 0)
})

test('a black hole swallows one direction and tells nobody', async (t) => {
  const { world, client, server } = await connected()
  world.blackHole('client', 'server')
  client.socket.write(new Uint8Array(windowBytes + 5))
  server.socket.write(bytes('still heard'))
  await world.run()
  t.equal(server.seen.bytes, 0)
  t.equal(client.text(), 'still heard')
  t.equal(client.socket.bufferedBytes, 5)
  client.socket.destroy()
  await world.run()
  t.strictSame(server.seen.closes, [])
  server.socket.write(bytes('?'))
  await world.run()
  t.strictSame(server.seen.closes, [], 'the answer to that is swallowed too')
  server.socket.destroy()
  await world.run()
  t.strictSame(server.seen.closes, [undefined])
})

test('a partition delays; what was held back arrives in order once it is over', async (t) => {
  const { world, client, server } = await connected()
  client.socket.write(bytes('1'))
  world.partition('client', 'server', 1000)
  await world.advance(500)
  client.socket.write(bytes('2'))
  server.socket.write(bytes('back'))
  await world.advance(499)
  t.equal(server.seen.bytes + client.seen.bytes, 0)
  client.socket.write(bytes('3'))
  await world.run()
  t.equal(server.text(), '123')
  t.equal(client.text(), 'back')
})

test('a partition can be one-way, and end early', async (t) => {
  const { world, client, server, clientProcess } = await connected()
  world.partition('client', 'server', Infinity, { oneWay: true })
  server.socket.write(bytes('through'))
  client.socket.write(bytes('held'))
  const connect = clientProcess.env.network.connect(serverAddress, { timeoutMs: Infinity })
  await world.advance(100_000)
  t.equal(client.text(), 'through')
  t.equal(server.text(), '')
  world.heal()
  await world.complete(connect)
  await world.run()
  t.equal(server.text(), 'held')
})

test('a crash breaks connections; what was sent before it may or may not arrive', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 1; seed <= 20; seed++) {
    const { world, client, server, clientProcess } = await connected({ seed })
    client.socket.write(bytes('sent'))
    await world.advance(0)
    client.socket.write(bytes(', never sent'))
    clientProcess.crash()
    client.socket.write(bytes('zombie'))
    client.socket.destroy()
    await world.run()
    t.strictSame(server.seen.closes, [reset])
    t.strictSame(client.seen.closes, [])
    t.equal(world.network.connections.length, 0)
    outcomes.add(server.text())
  }
  t.strictSame([...outcomes].sort(), ['', 'sent'])
})

test('a paused reader feels nothing and loses nothing', async (t) => {
  const { world, client, server, serverProcess } = await connected()
  serverProcess.pause(1000)
  client.socket.write(new Uint8Array(windowBytes + 77))
  await world.advance(999)
  t.equal(server.seen.bytes, 0)
  t.equal(client.socket.bufferedBytes, 77)
  await world.run()
  t.equal(server.seen.bytes, windowBytes + 77)
})

test('faults by chance happen, and stop when the world heals', async (t) => {
  const cut = await connected({ faults: { cutChance: 1 } })
  cut.client.socket.write(bytes('x'))
  await cut.world.run()
  t.strictSame([cut.client.seen.closes, cut.server.seen.closes], [[reset], [reset]])

  const hole = await connected({ faults: { blackHoleChance: 1 } })
  hole.client.socket.write(bytes('x'))
  await hole.world.run()
  t.strictSame([hole.client.seen.closes, hole.server.seen.bytes], [[], 0])

  const healed = await connected({ faults: { cutChance: 1, blackHoleChance: 1, splitChance: 1 } })
  healed.world.heal()
  healed.client.socket.write(bytes('whole'))
  await healed.world.run()
  t.equal(healed.server.text(), 'whole')
})

test('bytes for an owner that has set no handler are a defect', async (t) => {
  const world = new SimWorld({ seed: 1 })
  await world.process('server').env.network.listen(serverAddress, () => undefined)
  const { network } = world.process('client').env
  const socket = await world.complete(network.connect(serverAddress, { timeoutMs }))
  socket.write(bytes('x'))
  await t.rejects(world.run(), { name: 'InvariantError' })
})

/** Two processes that talk while everything breaks: what each end was sent, has read and was told. */
async function storm(seed: number) {
  const world = new SimWorld({
    seed,
    faults: {
      networkLatencyMs: [0, 20],
      connectRefusedChance: 0.1,
      splitChance: 0.3,
      cutChance: 0.005,
      blackHoleChance: 0.002,
      delayChance: 0.02,
      delayMsMax: 3000,
    },
  })
  const names = ['server', 'client']
  const { random } = world
  const sent = new Map<Socket, Uint8Array[]>()
  const ends: ReturnType<typeof watch>[] = []
  const live: Socket[] = []
  const own = (socket: Socket) => {
    const end = watch(socket)
    ends.push(end)
    live.push(socket)
    sent.set(socket, [])
  }
  let processes = names.map((name) => world.process(name))
  const listen = () => processes[0]!.env.network.listen(serverAddress, own)
  await listen()
  for (let round = 0; round < 300; round++) {
    const act = random.int(100)
    const socket = live.length > 0 ? random.pick(live) : undefined
    if (act < 10) {
      const connect = processes[1]!.env.network.connect(serverAddress, { timeoutMs: 100 })
      connect.then(own, () => undefined)
    } else if (act < 60 && socket !== undefined) {
      const part = random.bytes(1 + random.int(random.chance(0.05) ? 200_000 : 500))
      sent.get(socket)!.push(part)
      socket.write(part)
    } else if (act < 70) socket?.pause()
    else if (act < 84) socket?.resume()
    else if (act < 87) socket?.end()
    else if (act < 90) socket?.destroy()
    else if (act < 92) world.partition('client', 'server', random.int(500), { oneWay: random.chance(0.5) })
    else if (act < 94) random.pick(processes).pause(random.int(300))
    else if (act < 95) world.cut('client', 'server')
    else if (act < 96) {
      const which = random.int(2)
      processes[which]!.crash()
      processes = processes.map((process, at) => (at === which ? world.process(process.name) : process))
      if (which === 0) await listen()
    }
    await world.advance(random.int(20))
  }
  world.heal()
  for (const end of ends) end.socket.resume()
  await world.run()
  for (const end of ends) end.socket.destroy()
  await world.run()
  return { world, ends, sent: [...sent.values()].map((parts) => Buffer.concat(parts)) }
}

test('whatever breaks, what is read is the beginning of what one peer has sent, and an end closes once', async (t) => {
  let read = 0
  for (let seed = 1; seed <= 30; seed++) {
    const { world, ends, sent } = await storm(seed)
    for (const { seen } of ends) {
      const bytes = Buffer.concat(seen.chunks)
      read += bytes.byteLength
      const whole = sent.some((all) => all.subarray(0, bytes.byteLength).equals(bytes))
      if (!whole) t.fail(`seed ${seed}: bytes that nobody sent in this order`)
      if (seen.closes.length > 1) t.fail(`seed ${seed}: closed ${seen.closes.length} times`)
    }
    t.equal(world.network.connections.length, 0, `seed ${seed} leaves no connection behind`)
  }
  t.ok(read > 1_000_000)
})

test('a storm can be repeated', async (t) => {
  t.equal((await storm(5)).world.traceHash, (await storm(5)).world.traceHash)
  t.not((await storm(5)).world.traceHash, (await storm(6)).world.traceHash)
})

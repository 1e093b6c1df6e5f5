/** How many connections there can be, with sockets whose peers do nothing that they should. */
import t from 'tap'
import type { Env, Socket } from '../../src/env.ts'
import { Listener, type Backend } from '../../src/frontend/listener.ts'
import { SimWorld } from '../../src/sim/world.ts'
import { decodeServerFrame } from '../../src/wire/codec.ts'
import { valueOf } from '../wire/arbitrary.ts'

/** A socket whose peer never ends its side, and takes what it is told. */
class DeafSocket implements Socket {
  readonly remote = 'peer:1'
  readonly bufferedBytes = 0
  written: Uint8Array[] = []
  state: 'open' | 'ended' | 'destroyed' = 'open'
  onData: (bytes: Uint8Array) => void = () => {}
  onDrain: () => void = () => {}
  onClose: (error?: Error) => void = () => {}

  /** What it was told: the code of an ERROR 0, or nothing. */
  get told(): string | undefined {
    const last = this.written.at(-1)
    if (last === undefined) return undefined
    const frame = decodeServerFrame(valueOf(last))
    return frame.op === 'error' ? frame.code : frame.op
  }

  write(bytes: Uint8Array): void {
    this.written.push(bytes)
  }

  pause(): void {}
  resume(): void {}

  end(): void {
    if (this.state === 'open') this.state = 'ended'
  }

  destroy(): void {
    if (this.state === 'destroyed') return
    this.state = 'destroyed'
    this.onClose()
  }
}

const maxConnections = 10
const refusedMax = 64

async function setUp() {
  const world = new SimWorld({ seed: 1 })
  let accept: (socket: Socket) => void = () => {}
  const process = world.process('broker')
  const env: Env = {
    ...process.env,
    network: {
      ...process.env.network,
      listen: async (address, onSocket) => {
        accept = onSocket
        return { address, close: async () => {} }
      },
    },
  }
  const backend: Backend = {
    clusterId: 'c',
    nodeId: 'n',
    options: { heartbeatMs: 10_000, maxConnections, maxUnreadBytes: 256 << 20 },
    logger: { debug: () => {}, info: () => {}, warn: () => {} },
    log: { backlogged: false },
    fail: (error) => {
      throw error
    },
  }
  const handler = { handle: () => {}, credit: () => undefined, drained: () => {} }
  const listener = await Listener.open(env, { host: 'broker', port: 7650 }, backend, handler)
  listener.accept()
  const connect = () => {
    const socket = new DeafSocket()
    accept(socket)
    return socket
  }
  return { world, listener, connect }
}

const count = (sockets: DeafSocket[], state: DeafSocket['state']) =>
  sockets.filter((it) => it.state === state).length

t.test('as many as allowed are served, the next is told why not', async (t) => {
  const { connect } = await setUp()
  const sockets = Array.from({ length: maxConnections }, connect)
  t.equal(count(sockets, 'open'), maxConnections)
  t.equal(connect().told, 'TOO_MANY_CONNECTIONS')
})

t.test('a flood of peers that never leave holds a bounded number of sockets', async (t) => {
  const { listener, connect } = await setUp()
  const sockets = Array.from({ length: 5000 }, connect)
  t.equal(count(sockets, 'open'), maxConnections)
  t.equal(count(sockets, 'ended'), refusedMax, 'are told, and waited for a moment')
  t.equal(count(sockets, 'destroyed'), 5000 - maxConnections - refusedMax, 'are cut off')
  t.equal(listener.connections, maxConnections + refusedMax)
})

t.test('those that were refused do not take the place of those that may come', async (t) => {
  const { connect } = await setUp()
  const sockets = Array.from({ length: 200 }, connect)
  sockets[0]!.destroy()
  const next = connect()
  t.equal(next.state, 'open')
  t.equal(connect().state, 'destroyed')
})

t.test('after the flood there is room to be told again', async (t) => {
  const { world, connect } = await setUp()
  const sockets = Array.from({ length: 200 }, connect)
  await world.advance(1000)
  t.equal(count(sockets, 'ended'), 0, 'nobody is waited for any longer')
  t.equal(connect().told, 'TOO_MANY_CONNECTIONS')
})

t.test('a listener that stops tells who comes, within the same bound', async (t) => {
  const { listener, connect } = await setUp()
  await listener.stopAccepting()
  const sockets = Array.from({ length: 200 }, connect)
  t.equal(sockets[0]!.told, 'STOPPING')
  t.equal(count(sockets, 'open'), 0)
  t.equal(listener.connections, refusedMax)
})

/** The real broker, on real files whose pages have rotted or whose ends are missing. */
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Broker, type BrokerOptions, startBroker } from '../../src/broker/broker.ts'
import { connectWith } from '../../src/client/connect.ts'
import type { Env } from '../../src/env.ts'
import { PageFile } from '../../src/storage/lmdb-pages.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { systemClock, systemRandom } from '../../src/system.ts'
import { socketNetwork } from '../../src/wire/sockets.ts'

const pageBytes = 4096
const leafFlag = 2
const messages = 200
const bodyOf = (i: number): string => `message ${i} `.padEnd(900, 'x')

interface Stage {
  broker: Broker
  /** What it logged as an error, with the reason. */
  logged: string[]
}

async function start(dataDir: string, options: Partial<BrokerOptions> = {}): Promise<Stage> {
  const env: Env = {
    clock: systemClock,
    random: systemRandom,
    network: socketNetwork,
    store: openLmdbStore(dataDir),
  }
  const logged: string[] = []
  const error = (fields: object, message: string): void =>
    void logged.push(`${message}: ${(fields as { reason?: string }).reason}`)
  const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error }
  const listen = { host: '127.0.0.1', port: 0 }
  const broker = await startBroker(env, {
    listen,
    log,
    segmentBytes: 64_000,
    // Whose pages are LMDB's.
    logOptions: { reserveBytes: 0, journalBytes: 0 },
    ...options,
  })
  return { broker, logged }
}

async function connect({ broker }: Stage) {
  const { host, port } = broker.address
  const env = { clock: systemClock, random: systemRandom, network: socketNetwork }
  return connectWith(env, { servers: [`${host}:${port}`] })
}

/** A directory with messages in several segments, none of them settled, after a stop. */
async function left(t: Test): Promise<string> {
  const dataDir = join(t.testdir(), 'data')
  const stage = await start(dataDir)
  const mq = await connect(stage)
  await mq.createQueue('orders', { visibilityTimeoutMs: 3_600_000 })
  for (let i = 0; i < messages; i++) await mq.send('orders', bodyOf(i))
  await mq.close()
  const { length } = stage.broker.measured.segments()
  await stage.broker.stop()
  if (length < 4) throw new Error(`there are ${length} segments`)
  return dataDir
}

/** Everything that is ready, as numbers. */
async function receiveAll(stage: Stage): Promise<number[]> {
  const mq = await connect(stage)
  const received: number[] = []
  for (;;) {
    const some = await mq.receive('orders', { max: 50, waitMs: 0 })
    if (some.length === 0) break
    for (const message of some) {
      const number = Number(message.text().split(' ')[1])
      if (message.text() !== bodyOf(number)) throw new Error(`message ${number} is not what was sent`)
      received.push(number)
    }
  }
  await mq.close()
  return received
}

/** Parts of a file that can't be read. */
function damagesOf(path: string): number {
  const file = new PageFile(path)
  let damages = 0
  file.walk(() => damages++)
  file.close()
  return damages
}

function leavesOf(path: string): number[] {
  const bytes = readFileSync(path)
  const pages = Array.from({ length: bytes.length / pageBytes }, (_, page) => page)
  return pages.filter((page) => page >= 2 && bytes.readUInt16LE(page * pageBytes + 18) === leafFlag)
}

/** Flips a bit of a leaf page of the newest commit: its kind is another then. @returns which page */
function spoilLeaf(path: string): number {
  const bytes = readFileSync(path)
  for (const page of leavesOf(path)) {
    const spoilt = Buffer.from(bytes)
    spoilt[page * pageBytes + 18]! ^= 8
    writeFileSync(path, spoilt)
    if (damagesOf(path) > 0) return page
  }
  throw new Error('no leaf is in use')
}

const quarantinedOf = ({ broker }: Stage): number =>
  broker.internals.queues.get('orders')!.partitions[0]!.leader.state.quarantined.size

void t.test('a byte of a leaf page of a closed segment: the rest is received', async (t) => {
  const dataDir = await left(t)
  const path = join(dataDir, '00000002.mdb')
  const page = spoilLeaf(path)
  const stage = await start(dataDir)
  const received = await receiveAll(stage)
  const lost = quarantinedOf(stage)
  t.ok(received.length > messages / 2, `${received.length} were received`)
  t.ok(lost > 0)
  t.equal(received.length + lost, messages, 'each was received or quarantined')
  t.equal(new Set(received).size, received.length)
  const line = new RegExp(`messages quarantined.*00000002\\.mdb, page ${page}: `)
  t.ok(
    stage.logged.some((each) => line.test(each)),
    stage.logged.join('\n'),
  )
  const mq = await connect(stage)
  await mq.send('orders', bodyOf(messages))
  t.strictSame(await receiveAll(stage), [messages], 'and it goes on')
  await mq.close()
  await stage.broker.stop()
})

void t.test('a closed segment that was cut short: what is left of it is received', async (t) => {
  const dataDir = await left(t)
  truncateSync(join(dataDir, '00000002.mdb'), 30_000)
  const stage = await start(dataDir)
  const received = await receiveAll(stage)
  t.equal(received.length + quarantinedOf(stage), messages)
  t.ok(received.length < messages && received.length > messages / 2, `${received.length} were received`)
  await stage.broker.stop()
})

void t.test('the last segment is damaged: it is written to no more, and one line says why', async (t) => {
  const dataDir = await left(t)
  const segments = readdirSync(dataDir).filter((file) => /^\d{8}\.mdb$/.test(file))
  segments.sort()
  // One that was made ahead of time is empty, and no segment yet that could be damaged.
  if (leavesOf(join(dataDir, segments.at(-1)!)).length === 0) rmSync(join(dataDir, segments.pop()!))
  const last = segments.at(-1)!
  const path = join(dataDir, last)
  const page = spoilLeaf(path)
  const bytes = readFileSync(path)
  const again = await start(dataDir)
  t.match(
    again.logged.find((line) => line.startsWith('segment damaged')),
    new RegExp(`^segment damaged: .*${last}.*, page ${page}: `),
  )
  t.ok(again.broker.measured.segments().at(-1)!.name > last.slice(0, 8), 'the log goes on in another')
  const client = await connect(again)
  await client.createQueue('new')
  await client.send('new', 'served')
  t.equal((await client.receive('new'))[0]!.text(), 'served')
  await client.close()
  await again.broker.stop()
  t.ok(readFileSync(path).equals(bytes), 'nothing was written to it')
})

void t.test('rot in a page of the metadata: the broker does not start, and says where', async (t) => {
  const dataDir = await left(t)
  const path = join(dataDir, 'meta.mdb')
  const bytes = readFileSync(path)
  for (let page = 2; page < bytes.length / pageBytes; page++) bytes[page * pageBytes]! ^= 0x40
  writeFileSync(path, bytes)
  await t.rejects(start(dataDir), { code: 'CORRUPT_LOG', message: /meta\.mdb/ })
})

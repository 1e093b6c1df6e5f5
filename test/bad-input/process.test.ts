/**
 * What keeps a broker from starting: one line on stderr that says what and what to do, exit code 1 or 2, nothing on
 * stdout, no stack trace, and whoever runs already runs on. More of these stand in test/cli.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import t, { type Test } from 'tap'
import { startBroker as startInProcess } from '../../src/broker/broker.ts'
import { metaPut } from '../../src/coordinator/embedded.ts'
import type { Put } from '../../src/env.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { systemClock, systemRandom } from '../../src/system.ts'
import { socketNetwork } from '../../src/wire/sockets.ts'
import { assertOneLine, run, startBroker } from '../cli/process.ts'

const freePorts = ['--log-level', 'silent', '--listen', '127.0.0.1:0', '--http', '127.0.0.1:0']

async function assertRefused(t: Test, args: string[], code: number, says: RegExp): Promise<void> {
  const outcome = await run(['start', ...freePorts, ...args])
  t.equal(outcome.code, code)
  t.equal(outcome.stdout, '')
  assertOneLine(t, outcome.stderr, says)
}

/** A data directory with a queue and a message in it, as a planned stop leaves it. */
async function usedDirectory(t: Test): Promise<string> {
  const dataDir = join(t.testdir(), 'data')
  const broker = await startBroker(t, dataDir)
  await broker.run(['queue', 'create', 'orders'])
  await broker.run(['send', 'orders', 'hello'])
  await broker.end('SIGTERM')
  return dataDir
}

/** Changes what is stored in one segment of a directory that nobody uses. */
async function rewrite(dataDir: string, segment: string, change: (puts: Put[]) => Put[]): Promise<void> {
  const store = openLmdbStore(dataDir)
  await store.lock()
  const open = await store.open(segment, { create: false })
  const puts: Put[] = []
  open.scan(Buffer.alloc(1), Buffer.alloc(64, 0xff), (key, value) => {
    puts.push({ key: Buffer.from(key), value: Buffer.from(value) })
    return true
  })
  await open.commit(change(puts))
  await open.close()
  await store.close()
}

/** All files but the locks, byte by byte. */
function contents(dataDir: string): Record<string, string> {
  const files = readdirSync(dataDir).filter((name) => name.endsWith('.mdb'))
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(dataDir, name)).toString('base64')]))
}

t.test('a data directory that is a file', async (t) => {
  const directory = t.testdir({ file: '' })
  await assertRefused(t, ['--data-dir', join(directory, 'file')], 1, /\/file: .*\(DATA_DIR_NOT_WRITABLE\)/)
})

t.test(
  'a data directory that is there and not writable',
  { skip: process.platform === 'linux' ? false : 'needs a directory that even root cannot write to' },
  async (t) => {
    await assertRefused(t, ['--data-dir', '/sys'], 1, /\/sys: .*writable.*\(DATA_DIR_NOT_WRITABLE\)/)
  },
)

t.test('a data directory whose lock is no file', async (t) => {
  const directory = t.testdir({ LOCK: {} })
  await assertRefused(t, ['--data-dir', directory], 1, /\(DATA_DIR_NOT_WRITABLE\)/)
})

t.test('a data directory in use: whoever uses it is not disturbed', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const broker = await startBroker(t, dataDir)
  await broker.run(['queue', 'create', 'orders'])
  for (let i = 0; i < 3; i++) await assertRefused(t, ['--data-dir', dataDir], 1, /\(DATA_DIR_LOCKED\)/)
  t.equal((await broker.run(['send', 'orders', 'hello'])).code, 0)
  t.equal((await broker.run(['receive', 'orders', '--ack'])).stdout, 'hello\n')
})

t.test('files that are no segments', async (t) => {
  for (const [what, bytes] of Object.entries({
    empty: Buffer.alloc(0),
    zeros: Buffer.alloc(100_000),
    text: Buffer.from('not a database\n'.repeat(10_000)),
  })) {
    const dataDir = join(t.testdir(), 'data')
    mkdirSync(dataDir)
    writeFileSync(join(dataDir, 'meta.mdb'), bytes)
    await assertRefused(t, ['--data-dir', dataDir], 1, /meta\.mdb .*\(CORRUPT_LOG\)/)
    t.ok(readFileSync(join(dataDir, 'meta.mdb')).equals(bytes), `${what}: left alone`)
  }
})

t.test('metadata that was cut short', async (t) => {
  const dataDir = await usedDirectory(t)
  const bytes = readFileSync(join(dataDir, 'meta.mdb'))
  writeFileSync(join(dataDir, 'meta.mdb'), bytes.subarray(0, 8192))
  await assertRefused(t, ['--data-dir', dataDir], 1, /meta\.mdb.*\(CORRUPT_LOG\)/)
})

t.test('a segment that was cut short: the broker serves, and says which', async (t) => {
  const dataDir = await usedDirectory(t)
  const segment = readdirSync(dataDir).find((name) => /^\d+\.mdb$/.test(name))!
  const bytes = readFileSync(join(dataDir, segment))
  writeFileSync(join(dataDir, segment), bytes.subarray(0, 8192))
  const broker = await startBroker(t, dataDir)
  t.match(broker.log(), /segment damaged/)
  t.match(broker.log(), new RegExp(`${segment} was cut short: it has 8192 of ${bytes.length} bytes`))
  t.equal((await broker.run(['queue', 'create', 'other'])).code, 0)
  t.equal((await broker.run(['send', 'other', 'hello'])).code, 0)
  t.strictSame(await broker.end('SIGTERM'), { code: 0, signal: null })
})

t.test('a data directory of another node: wrong usage', async (t) => {
  const dataDir = await usedDirectory(t)
  await assertRefused(t, ['--data-dir', dataDir, '--node-id', 'other'], 2, /node .*other.*\(INVALID_OPTION\)/)
})

t.test('meta data of a newer version', async (t) => {
  const dataDir = await usedDirectory(t)
  await rewrite(dataDir, 'meta', () => [metaPut('format', [2])])
  const before = contents(dataDir)
  await assertRefused(t, ['--data-dir', dataDir], 1, /newer.*\(NEWER_DATA_FORMAT\)/)
  t.strictSame(contents(dataDir), before, 'left alone')
})

/** The crc of LOG.md over an entry's header, or over a checkpoint, of the log that `key` belongs to. */
const keyCrc = (key: Uint8Array) => crc32(key.subarray(1, 21))

t.test('a log entry of a newer version', async (t) => {
  const dataDir = await usedDirectory(t)
  await rewrite(dataDir, '00000001', (puts) => {
    const record = puts.filter(({ key }) => key[0] === 0x4c).at(-1)!
    const entry = Buffer.from(record.value)
    entry[12] = 2
    entry.writeUInt32BE((crc32(entry.subarray(12, 96)) ^ keyCrc(record.key)) >>> 0)
    // No checkpoint spares the start from reading it.
    const spoilt = puts
      .filter(({ key }) => key[0] === 0x43)
      .map(({ key }) => ({ key, value: Buffer.alloc(8) }))
    return [{ key: record.key, value: entry }, ...spoilt]
  })
  await assertRefused(t, ['--data-dir', dataDir], 1, /newer.*\(NEWER_DATA_FORMAT\)/)
})

t.test('an address that is not ours, and one that nobody knows', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  for (const host of ['192.0.2.1:7650', 'nowhere.invalid:7650']) {
    const args = ['--data-dir', dataDir, '--allow-plaintext', '--listen', host]
    await assertRefused(t, args, 1, new RegExp(`${host}.*\\(ADDRESS_NOT_AVAILABLE\\)`))
  }
})

t.test('a start that was refused gives back what it took', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const args = ['--data-dir', dataDir, '--allow-plaintext', '--listen', '192.0.2.1:7650']
  await assertRefused(t, args, 1, /\(ADDRESS_NOT_AVAILABLE\)/)
  const env = { clock: systemClock, random: systemRandom, network: socketNetwork }
  const broker = await startInProcess(
    { ...env, store: openLmdbStore(dataDir) },
    { listen: { host: '127.0.0.1', port: 0 } },
  )
  t.strictSame(broker.readiness(), [])
  await broker.stop()
})

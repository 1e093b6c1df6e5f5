/** The check as users run it, on the real disk. */
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { assertOneLine, run, runOn, startBroker } from './process.ts'

/** A directory that a broker has left in order: two messages of three are not settled. */
async function left(t: Test): Promise<string> {
  const dataDir = join(t.testdir(), 'data')
  const broker = await startBroker(t, dataDir)
  await broker.run(['queue', 'create', 'orders'])
  for (const body of ['first', 'second', 'third']) await broker.run(['send', 'orders', body])
  await broker.run(['receive', 'orders', '--ack'])
  await broker.end('SIGTERM')
  return dataDir
}

const segmentOf = (dataDir: string) => join(dataDir, '00000001.mdb')

/** Flips a bit in each place of the file where `text` stands. */
function rot(path: string, text: string): void {
  const bytes = readFileSync(path)
  for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1)) bytes[at]! ^= 1
  writeFileSync(path, bytes)
}

t.test('a sound directory: 0, a table, and the data is as it was', async (t) => {
  const dataDir = await left(t)
  const data = readFileSync(segmentOf(dataDir))
  const files = readdirSync(dataDir).sort()
  const { code, stdout, stderr } = await run(['check', dataDir])
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  t.match(
    stdout,
    /^QUEUE +PARTITIONS +MESSAGES +DELAYED +MOVING +QUARANTINED +BYTES\norders +1 +2 +0 +0 +0 +\d+\n$/,
  )
  t.strictSame(readdirSync(dataDir).sort(), files)
  t.ok(readFileSync(segmentOf(dataDir)).equals(data))
})

t.test('--json prints one document', async (t) => {
  const { code, stdout } = await run(['check', await left(t), '--json'])
  t.equal(code, 0)
  t.match(JSON.parse(stdout), {
    ok: true,
    problems: [],
    queues: [{ name: 'orders', partitions: 1, messages: 2 }],
    segments: [{ name: '00000001', checkpoints: 1 }],
  })
})

t.test('a flipped byte: 1, what is lost and where, and one last line on stderr', async (t) => {
  const dataDir = await left(t)
  rot(segmentOf(dataDir), 'second')
  const { code, stdout, stderr } = await run(['check', dataDir])
  t.equal(code, 1)
  const line = 'the payload of 1 message has rotted: 1 message lost'
  t.match(stdout, `\nsegment 00000001, partition 0 of queue orders, offset 2: ${line}\n`)
  assertOneLine(t, stderr, /^mq-broker: 1 thing is wrong in .*Keep a copy.*\(CORRUPT_LOG\)$/m)
  const json = JSON.parse((await run(['check', dataDir, '--json'])).stdout)
  t.match(json, { ok: false, problems: [{ queue: 'orders', partition: 0, offset: 2, segment: '00000001' }] })
})

t.test('a journal whose header has rotted: 1, and a line that begins with its name', async (t) => {
  const dataDir = await left(t)
  rot(join(dataDir, 'JOURNAL'), 'MQJRNL1')
  const { code, stdout } = await run(['check', dataDir])
  t.equal(code, 1)
  t.match(stdout, /\nJOURNAL: its header does not verify\n/)
})

t.test('files cut short, whatever is left of them: 1, and no signal', async (t) => {
  const dataDir = await left(t)
  const { size } = statSync(segmentOf(dataDir))
  for (const bytes of [size - 4096, 8192, 5000, 100, 0]) {
    truncateSync(segmentOf(dataDir), bytes)
    const { code, stdout } = await run(['check', dataDir])
    t.equal(code, 1, `${bytes} bytes`)
    t.match(stdout, /\nsegment 00000001: .*(was cut short: |cannot be read, )/)
  }
  truncateSync(join(dataDir, 'meta.mdb'), 4096)
  const { code, stdout } = await run(['check', dataDir])
  t.equal(code, 1)
  t.match(stdout, /\nmeta: .*was cut short: /)
})

t.test('a directory that is none is left alone', async (t) => {
  const directory = t.testdir({ file: '' })
  mkdirSync(join(directory, 'empty'))
  for (const name of ['nowhere', 'empty', 'file']) {
    const { code, stdout, stderr } = await run(['check', join(directory, name)])
    t.strictSame({ code, stdout }, { code: 2, stdout: '' }, name)
    assertOneLine(t, stderr, new RegExp(name))
  }
  t.notOk(existsSync(join(directory, 'nowhere')))
  t.strictSame(readdirSync(join(directory, 'empty')), [])
})

t.test("a running broker's directory: 1", async (t) => {
  const dataDir = join(t.testdir(), 'data')
  await startBroker(t, dataDir)
  const { code, stderr } = await run(['check', dataDir])
  t.equal(code, 1)
  assertOneLine(t, stderr, /\(DATA_DIR_LOCKED\)/)
})

t.test('--dump prints an entry a line', async (t) => {
  const dataDir = await left(t)
  const { code, stdout, stderr } = await run(['check', dataDir, '--dump', 'orders', '--bodies'])
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
  const rows = stdout.split('\n').map((line) => line.split('\t'))
  t.strictSame(
    rows.slice(0, 5).map(([offset, , , kind]) => `${offset} ${kind}`),
    ['0 epochStart', '1 batch', '2 batch', '3 batch', '4 settle'],
  )
  t.match(rows[1]![6], /^1 message, \d+ bytes, 0 headers, "first"$/)
  t.equal(rows[4]![6], 'ack 1')
  const some = await run(['check', dataDir, '--dump', 'orders/0', '--from', '2', '--max', '2', '--json'])
  const objects = some.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.match(objects, [
    { offset: 2, kind: 'batch', count: 1 },
    { offset: 3, kind: 'batch', count: 1 },
  ])
  t.equal(objects.length, 2)
})

t.test('--dump marks rot where it is', async (t) => {
  const dataDir = await left(t)
  rot(segmentOf(dataDir), 'second')
  const { code, stdout } = await run(['check', dataDir, '--dump', 'orders'])
  t.equal(code, 0)
  t.match(stdout, /^2\t.*\tbatch\t.*!! ROT: its payload has rotted$/m)
})

t.test('--dump of a queue that is not there: 1', async (t) => {
  const { code, stderr } = await run(['check', await left(t), '--dump', 'bills'])
  t.equal(code, 1)
  assertOneLine(t, stderr, /the data has no queue bills.*\(QUEUE_NOT_FOUND\)/)
})

t.test('--dump ends with 0 when nobody reads on', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const broker = await startBroker(t, dataDir)
  await broker.run(['queue', 'create', 'orders'])
  await broker.run(['send', 'orders', '-'], { input: 'x\n'.repeat(20_000) })
  await broker.run(['receive', 'orders', '--max', '1000', '--ack'])
  await broker.end('SIGTERM')
  const child = runOn(t, ['check', dataDir, '--dump', 'orders', '--json', '--bodies'])
  let stderr = ''
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const closed = once(child, 'close')
  for await (const line of createInterface({ input: child.stdout })) {
    t.match(JSON.parse(line), { offset: 0 })
    break
  }
  child.stdout.destroy()
  const [code] = await closed
  t.strictSame({ code, stderr }, { code: 0, stderr: '' })
})

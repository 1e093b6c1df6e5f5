/** A check says that what is sound is, and finds each kind of damage, on the simulated disk. */
import t from 'tap'
import { metaPut } from '../../src/coordinator/embedded.ts'
import { logName } from '../../src/partition/entry.ts'
import { SimStore } from '../../src/sim/store.ts'
import { type CheckReport, checkStore } from '../../src/storage/check.ts'
import { DataDirectory } from '../../src/storage/data-directory.ts'
import { dumpLog } from '../../src/storage/dump.ts'
import { BrokerBench } from '../broker/broker-bench.ts'

const entryPrefix = 0x4c
const checkpointPrefix = 0x43
const copyPrefix = 0x52

const segmentsOf = (disk: SimStore) => disk.attach().links.segments

/** The values whose keys begin with `prefix` and that hold `text`. */
function stored(
  disk: SimStore,
  prefix: number,
  text = '',
): { segment: string; key: string; value: Buffer }[] {
  const found: { segment: string; key: string; value: Buffer }[] = []
  for (const [segment, { keys, values }] of segmentsOf(disk)) {
    if (segment === 'meta') continue
    for (const [i, key] of keys.entries()) {
      const value = Buffer.from(values[i]!.buffer, values[i]!.byteOffset, values[i]!.length)
      if (key.charCodeAt(0) === prefix && value.includes(text)) found.push({ segment, key, value })
    }
  }
  return found
}

function remove(disk: SimStore, segment: string, key: string): void {
  const { keys, values } = segmentsOf(disk).get(segment)!
  const i = keys.indexOf(key)
  keys.splice(i, 1)
  values.splice(i, 1)
}

async function check(disk: SimStore, nowMs = 0): Promise<CheckReport> {
  await disk.lock()
  try {
    return await checkStore(disk, { nowMs })
  } finally {
    await disk.close()
  }
}

const told = ({ problems }: CheckReport) =>
  problems.map(({ what, segment, queue, partition, offset }) => {
    const where = [segment, queue === undefined ? undefined : `${queue}/${partition}`, offset]
    return `${where.filter((each) => each !== undefined).join(' ')}: ${what}`
  })

/** A queue of which the first message is acked, the other two not, in records of their own; after a crash. */
async function three(options: { planned?: boolean } = {}): Promise<SimStore> {
  const bench = await BrokerBench.serving({ logOptions: { journalBytes: 0 } })
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders'))
  for (const text of ['first', 'second', 'third']) await bench.complete(mq.send('orders', text))
  const [first] = await bench.complete(mq.receive('orders'))
  await bench.complete(first!.ack())
  await bench.complete(mq.close())
  if (options.planned) await bench.complete(bench.broker.stop())
  else bench.process!.crash()
  return bench.disk
}

/** Everything that a log can hold: acks, nacks, delays, dead letters on their way and there, copies. */
async function everything({ deletes = true } = {}): Promise<{ disk: SimStore; nowMs: number }> {
  const logOptions = { journalBytes: 8192, retentionMs: 100, copyAfterMs: 500 }
  const options = { segmentBytes: 4000, logOptions }
  const bench = await BrokerBench.serving(options, new SimStore())
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('orders', { maxDeliveries: 2, visibilityTimeoutMs: 43_200_000 }))
  await bench.complete(mq.createQueue('stuck', { visibilityTimeoutMs: 43_200_000 }))
  await bench.complete(mq.createQueue('gone'))
  await bench.complete(mq.send('gone', 'x'))
  await bench.complete(mq.send('stuck', 'copied'))
  for (let i = 0; i < 2; i++) {
    if (i === 0) await bench.complete(mq.send('orders', 'dead'))
    const [message] = await bench.complete(mq.receive('orders'))
    await bench.complete(message!.nack())
  }
  await bench.complete(mq.send('orders', 'later', { delayMs: 86_400_000 }))
  for (let i = 0; i < 30; i++) {
    await bench.complete(mq.send('orders', 'x'.repeat(500)))
    const [message] = await bench.complete(mq.receive('orders'))
    await bench.complete(message!.ack())
  }
  await bench.world.advance(5000)
  await bench.complete(mq.send('orders', 'ready'))
  if (deletes) await bench.complete(mq.deleteQueue('gone'))
  const nowMs = bench.process!.env.clock.nowMs()
  await bench.complete(bench.broker.stop())
  return { disk: bench.disk, nowMs }
}

void t.test('a sound directory, with all there can be', async (t) => {
  const { disk, nowMs } = await everything()
  t.not(stored(disk, copyPrefix).length, 0, 'there are copies')
  const report = await check(disk, nowMs)
  t.strictSame(told(report), [])
  t.ok(report.ok)
  const counts = report.queues.map(({ name, messages, delayed, moving }) => [name, messages, delayed, moving])
  t.strictSame(counts, [
    ['orders', 1, 1, 0],
    ['orders.dlq', 1, 0, 0],
    ['stuck', 1, 0, 0],
  ])
})

void t.test('it writes nothing', async (t) => {
  const disk = await three()
  const before = disk.commits
  const used = disk.usedBytes
  t.ok((await check(disk)).ok)
  t.strictSame([disk.commits, disk.usedBytes], [before, used])
})

void t.test('data of a deleted queue is counted apart', async (t) => {
  const bench = await BrokerBench.serving()
  const mq = await bench.connect()
  await bench.complete(mq.createQueue('gone'))
  await bench.complete(mq.send('gone', 'x'))
  await bench.complete(mq.deleteQueue('gone'))
  await bench.complete(bench.broker.stop())
  const report = await check(bench.disk)
  t.match(report, { ok: true, queues: [], deleted: { queues: 1 } })
  t.ok(report.deleted.bytes > 0)
})

void t.test('a bit of a header', async (t) => {
  const disk = await three()
  const [record] = stored(disk, entryPrefix, 'second')
  record!.value[30]! ^= 1
  const lines = told(await check(disk))
  t.strictSame(lines, [
    '00000001 orders/0 2: the header of an entry has rotted: the partition will not start',
  ])
})

void t.test('a bit of a payload: the message is lost, and no other', async (t) => {
  const disk = await three()
  const [record] = stored(disk, entryPrefix, 'second')
  record!.value[record!.value.indexOf('second')]! ^= 1
  const report = await check(disk)
  t.strictSame(told(report), ['00000001 orders/0 2: the payload of 1 message has rotted: 1 message lost'])
  t.equal(report.queues[0]!.messages, 2)
})

void t.test('a bit of what is acked harms nothing, and is told', async (t) => {
  const disk = await three()
  const [record] = stored(disk, entryPrefix, 'first')
  record!.value[record!.value.indexOf('first')]! ^= 1
  t.strictSame(told(await check(disk)), [
    '00000001 orders/0 1: the payload of 1 message has rotted: nothing that is unsettled needs it',
  ])
})

void t.test('a bit of the chain', async (t) => {
  const disk = await three()
  const [record] = stored(disk, entryPrefix, 'second')
  record!.value[5]! ^= 1
  t.strictSame(told(await check(disk)), [
    '00000001 orders/0 2: the history breaks off: chain of the entry at offset 2; the partition will not start',
  ])
})

void t.test('a record that is missing', async (t) => {
  const disk = await three()
  const [record] = stored(disk, entryPrefix, 'second')
  remove(disk, record!.segment, record!.key)
  t.strictSame(told(await check(disk)), [
    '00000001 orders/0 3: entries 2 to 2 are missing; the partition will not start',
  ])
})

void t.test('a rotten checkpoint is told; where the log has everything it costs nothing else', async (t) => {
  const disk = await three({ planned: true })
  const [checkpoint] = stored(disk, checkpointPrefix)
  checkpoint!.value[10]! ^= 1
  const report = await check(disk)
  t.strictSame(told(report), ['00000001 orders/0: its newest checkpoint has rotted'])
  t.equal(report.queues[0]!.messages, 2)
})

void t.test('the batch of an unsettled message is missing below the checkpoint', async (t) => {
  const disk = await three({ planned: true })
  const [record] = stored(disk, entryPrefix, 'second')
  remove(disk, record!.segment, record!.key)
  t.strictSame(told(await check(disk)), [
    'orders/0 2: 1 message missing, from this offset on: no batch that can be read holds them',
  ])
})

void t.test('the batch of a settled one may be missing there', async (t) => {
  const disk = await three({ planned: true })
  const [record] = stored(disk, entryPrefix, 'first')
  remove(disk, record!.segment, record!.key)
  t.ok((await check(disk)).ok)
})

void t.test('a copy that has rotted, and one that is missing', async (t) => {
  const { disk, nowMs } = await everything()
  const copies = stored(disk, copyPrefix, 'copied')
  const newest = copies.at(-1)!
  newest.value[newest.value.indexOf('copied')]! ^= 1
  const [line, ...others] = told(await check(disk, nowMs))
  t.match(line, /stuck\/0 1: the payload of 1 message in a copy has rotted: 1 message lost/)
  t.strictSame(others, [])
  for (const { segment, key } of copies) remove(disk, segment, key)
  t.strictSame(stored(disk, entryPrefix, 'copied'), [], 'the segment it was written to is gone')
  t.match(told(await check(disk, nowMs)).join('\n'), /stuck\/0 1: 1 message missing/)
})

void t.test('rotten metadata of a queue', async (t) => {
  const disk = await three()
  const { keys, values } = segmentsOf(disk).get('meta')!
  values[keys.findIndex((key) => key.startsWith('queue/'))]![8]! ^= 1
  const report = await check(disk)
  t.match(told(report), [/^meta: the record of queue [0-9a-f]{32} in the metadata cannot be read$/])
  t.equal(report.queues[0]!.messages, 2, 'its log is looked at all the same')
})

void t.test('a log of a queue that meta does not know', async (t) => {
  const disk = await three()
  const { keys, values } = segmentsOf(disk).get('meta')!
  const i = keys.findIndex((key) => key.startsWith('queue/'))
  keys.splice(i, 1)
  values.splice(i, 1)
  t.match(told(await check(disk)), [/^[0-9a-f]{32}\/0: there is a log of a queue that meta does not know$/])
})

void t.test('without meta all logs are looked at', async (t) => {
  const disk = await three()
  segmentsOf(disk).delete('meta')
  const report = await check(disk)
  t.strictSame(told(report), ['meta: it is missing: nothing says which queues there are'])
  t.equal(report.queues[0]!.messages, 2)
})

void t.test('data of a newer version is refused', async (t) => {
  const disk = await three()
  await disk.lock()
  const meta = await disk.open('meta', { create: false })
  await meta.commit([metaPut('format', [2])])
  await meta.close()
  await disk.close()
  await t.rejects(check(disk), { code: 'NEWER_DATA_FORMAT' })
})

void t.test('any flipped bit is found, and none ends the check', async (t) => {
  const { disk, nowMs } = await everything({ deletes: false })
  let flips = 0
  for (const [, { values }] of segmentsOf(disk)) {
    for (const value of values) {
      for (let i = 0; i < 20; i++) {
        const at = (++flips * 37) % value.length
        const bit = 1 << (flips % 8)
        value[at]! ^= bit
        const report = await check(disk, nowMs)
        value[at]! ^= bit
        // Nobody looks at the chain of a copy, or of what lies below a checkpoint.
        const isChain = at >= 4 && at < 12
        if (report.ok && !isChain) t.fail(`flip ${flips}: byte ${at} of ${value.length}`)
      }
    }
  }
  t.ok(flips > 200, `${flips} flips`)
  t.ok((await check(disk, nowMs)).ok)
})

async function dumped(disk: SimStore, queue: string, from = 0): Promise<string[]> {
  await disk.lock()
  const directory = await DataDirectory.open(disk, () => undefined)
  const name = logName(directory.find(queue)!.id, 0)
  const lines = [...dumpLog(directory, name, from)].map((each) => {
    if (!('entry' in each)) return `${each.offset} ${each.rot ?? `gap to ${each.end}`}`
    const { entry, rot, isCopy } = each
    return `${entry.base} ${entry.kind}${isCopy ? ' copy' : ''}${rot === null ? '' : ` ${rot}`}`
  })
  await directory.close()
  await disk.close()
  return lines
}

void t.test('a dump has the entries in order, and rot and gaps where they are', async (t) => {
  const disk = await three()
  const whole = ['0 epochStart', '1 batch', '2 batch', '3 batch', '4 settle']
  t.strictSame(await dumped(disk, 'orders'), whole)
  t.strictSame(await dumped(disk, 'orders', 3), whole.slice(3))
  const [second] = stored(disk, entryPrefix, 'second')
  const [third] = stored(disk, entryPrefix, 'third')
  third!.value[third!.value.indexOf('third')]! ^= 1
  remove(disk, second!.segment, second!.key)
  const [, , gap, rotten] = await dumped(disk, 'orders')
  t.equal(gap, '2 gap to 3')
  t.equal(rotten, '3 batch its payload has rotted')
})

void t.test('a dump shows a batch once, the copy where there is nothing else', async (t) => {
  const { disk } = await everything()
  const lines = (await dumped(disk, 'stuck')).filter((line) => line.startsWith('1 '))
  t.equal(lines.length, 1)
  t.match(lines[0], /^1 batch/)
})

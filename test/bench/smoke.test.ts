/**
 * `npm run bench` really runs: every case, a tenth of a second each, with all its processes. What is asserted is that
 * each is there, whole and well written; how fast it was is no matter of a test.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { buildCommandIfStale } from '../../bench/broker-process.ts'
import type { Report, Row } from '../../bench/report.ts'
import { compileBench, runCompiled } from './compiled.ts'
import { whyNotWellFormed } from './well-formed.ts'

const rates = [
  'raw lmdb 100 × 1 KiB',
  'raw lmdb 100 × 1 KiB, preallocated',
  'socket pair 100 × 1 KiB',
  'socket pair 1 KiB',
  'generator 1 KiB',
  'W1 1 KiB send',
  'W1 1 KiB sendBatch',
  'W2 1 KiB send',
  'W2 1 KiB sendBatch',
  'W2 1 KiB send, consume',
  'W2 1 KiB sendBatch, consume',
  'W2 1 KiB send, consumeBatches',
  'W2 1 KiB sendBatch, consumeBatches',
]
const latencies = ['raw lmdb 1 KiB at 1,000/s', 'W3 1 KiB at 1,000/s', "W3 1 KiB at half of W2's rate"]
const single = [
  'raw lmdb one put at a time 1 KiB',
  'raw lmdb one put at a time 1 KiB, preallocated',
  'W4 1 KiB',
  '1 KiB answered, 200 sockets',
  'W4 1 KiB, 200 clients',
]
/** Two steps of each are enough. */
const growth = ['queues 1', 'queues 10', 'backlog 0', 'backlog 1000', 'ontoBacklog 0', 'ontoBacklog 1000']

buildCommandIfStale()
const main = compileBench(t.testdir())

t.test(
  'each case runs, nothing is lost or twice, and table, JSON and picture are written',
  { timeout: 300_000 },
  async (t) => {
    const dir = t.testdir({ data: {}, out: {} })
    const { code, stdout, stderr } = await runCompiled(t, main, [
      ...['--quick', '--seconds', '0.1', '--workload', 'w1,w2,w3,w4,growth'],
      ...['--grow', 'queues,backlog', '--backlog', '1000'],
      ...['--dir', join(dir, 'data'), '--out', join(dir, 'out')],
    ])
    t.equal(code, 0, stderr)
    t.strictSame(readdirSync(join(dir, 'data')), [], 'data is removed')

    const files = readdirSync(join(dir, 'out'))
    const read = (ending: string) => {
      const name = files.find((file) => file.endsWith(ending))
      return name === undefined ? '' : readFileSync(join(dir, 'out', name), 'utf8')
    }
    t.equal(`\n${read('.txt')}`, stdout, 'the table')
    t.equal(whyNotWellFormed(read('.svg')), null, 'the picture')
    const report = JSON.parse(read('.json')) as Report
    const { rows, growthRows, machine } = report

    t.strictSame(
      rows.map((row) => row.case),
      [...rates, ...latencies, ...single],
    )
    t.strictSame(growthRows.map(({ curve, at }) => `${curve} ${at}`).sort(), growth.toSorted())
    for (const row of rows) assertWhole(row)
    for (const { curve, at, perSecond, lost, duplicated, pacePerSecond, receivedP99Ms } of growthRows) {
      t.ok(perSecond.median > 0, `${curve} ${at}`)
      t.strictSame([lost, duplicated], [0, 0], `${curve} ${at}`)
      t.equal((receivedP99Ms ?? 0) > 0, pacePerSecond !== null, `${curve} ${at}: latency`)
    }
    t.ok(Object.values(machine).every((value) => value !== '' && value !== 0))
    for (const row of rows) t.ok(stdout.includes(`\n${row.case} `), `${row.case} is in the table`)

    function assertWhole(row: Row): void {
      const isBroker = /^W\d/.test(row.case)
      t.ok(row.perSecond.median > 0 && row.perSecond.max < Infinity, row.case)
      t.strictSame([row.lost, row.duplicated], isBroker ? [0, 0] : [null, null], row.case)
      const received = [row.receivedP50Ms, row.receivedP99Ms, row.receivedP999Ms]
      const isPaced = row.case.startsWith('W3')
      t.ok(
        received.every((spread) => (isPaced ? spread !== null && spread.median > 0 : spread === null)),
        row.case,
      )
    }
  },
)

t.test('wrong options end it before anything runs', async (t) => {
  const { code, stdout, stderr } = await runCompiled(t, main, ['--workload', 'w9'])
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr, /^bench: --workload: 'w9' is none of w1, /)
})

/** The bench of this broker alone, as far as it is pure: no processes. */
import { test } from 'tap'
import { parseBenchArgs, type BenchArgs } from '../../bench/args.ts'
import { Arrivals, assertWhole, createBody, numberBody } from '../../bench/bodies.ts'
import { chooseCases } from '../../bench/cases.ts'
import { compare } from '../../bench/compare.ts'
import { sendOneByOne } from '../../bench/load.ts'
import { figuresOfPaced, sendPaced } from '../../bench/paced.ts'
import { renderBenchPicture } from '../../bench/picture.ts'
import { renderReport, summarize } from '../../bench/report.ts'
import { judgeRows } from '../../bench/targets.ts'
import { growthRun, reportOf, run } from './runs.ts'
import { whyNotWellFormed } from './well-formed.ts'

function parse(...argv: string[]): BenchArgs {
  const args = parseBenchArgs(argv)
  if (args === 'help') throw new Error('help was not asked for')
  return args
}

const kibibyte = chooseCases(parse('--size', '1024'))

/** A run of each case at 1 KiB; those that are named, at the rates that are given. */
function runsWith(rates: Readonly<Record<string, number>>) {
  return kibibyte.map(({ name, kind }) => {
    const paced = kind === 'w3' ? { receivedP50Ms: 1, receivedP99Ms: 2, receivedP999Ms: 3 } : {}
    return run(name, rates[name] ?? 1000, paced)
  })
}

test('without options the four streams are measured, latency for longer, growth in short steps', (t) => {
  const args = parse()
  t.strictSame(args.workloads, ['w1', 'w2', 'w3', 'w4'])
  t.strictSame(args.sizesBytes, [1024, 100])
  t.strictSame([args.durationMs, args.pacedMs, args.stepMs], [10_000, 15_000, 3000])
  t.strictSame(Object.values(parse('--seconds', '2')).filter((value) => value === 2000).length, 3)
  t.strictSame(parse('--workload', 'scale').workloads, ['idle', 'queues', 'delayed', 'unacked'])
  t.end()
})

test('a wrong option is refused with a sentence that names it', (t) => {
  const wrong: [argv: string[], sentence: RegExp][] = [
    [['--workload', 'w6'], /--workload: 'w6' is none of w1, /],
    [['--grow', 'nodes'], /--grow: 'nodes' is none of queues, /],
    [['--size', '11'], /--size: '11' is not a number from 12 /],
    [['--window', '1.5'], /--window: '1.5' is not a whole number/],
    [['--backlog', '10'], /--backlog: '10' is not a number from 1000 /],
    [['--save', '../x'], /--save: '..\/x' is not a name/],
  ]
  for (const [argv, sentence] of wrong) {
    t.throws(() => parseBenchArgs(argv), { message: sentence }, argv.join(' '))
  }
  t.equal(parseBenchArgs(['--help', '--size', '11']), 'help')
  t.end()
})

test('what a rate is compared with is measured in the same run, before it', (t) => {
  const names = chooseCases(parse()).map(({ name }) => name)
  t.equal(new Set(names).size, names.length)
  for (const { name, against } of chooseCases(parse())) {
    for (const limit of Object.values(against)) {
      t.ok(names.indexOf(limit) >= 0 && names.indexOf(limit) < names.indexOf(name), `${name}: ${limit}`)
    }
  }
  t.end()
})

test('latency and one message at a time are measured at the first size', (t) => {
  const names = (...argv: string[]) => chooseCases(parse(...argv)).map(({ name }) => name)
  t.strictSame(names('--workload', 'w3', '--size', '100,1024'), [
    'raw lmdb 100 B at 1,000/s',
    'W3 100 B at 1,000/s',
    "W3 100 B at half of W2's rate",
  ])
  t.strictSame(names('--workload', 'w4'), [
    'raw lmdb one put at a time 1 KiB',
    'raw lmdb one put at a time 1 KiB, preallocated',
    'W4 1 KiB',
    '1 KiB answered, 200 sockets',
    'W4 1 KiB, 200 clients',
  ])
  t.end()
})

test('a row has the median of its runs and its ratio to each limit', (t) => {
  const rates = { 'raw lmdb 100 × 1 KiB': 400, 'raw lmdb 100 × 1 KiB, preallocated': 800 }
  const runs = [150, 100, 250].flatMap((rate) => runsWith({ ...rates, 'W1 1 KiB send': rate }))
  const row = summarize(kibibyte, runs).find((one) => one.case === 'W1 1 KiB send')!
  t.strictSame(row.perSecond, { median: 150, min: 100, max: 250 })
  t.strictSame(row.of, { raw: 0.375, preallocated: 0.1875, sockets: 0.15 })
  t.end()
})

test('targets are told of what was measured', (t) => {
  const met = (rates: Record<string, number>) =>
    judgeRows(summarize(kibibyte, runsWith(rates))).map(({ what, isMet }) => [what, isMet])
  const rates = {
    'raw lmdb 100 × 1 KiB': 1000,
    'W1 1 KiB send': 450,
    'W1 1 KiB sendBatch': 599,
    'W4 1 KiB': 50,
  }
  t.strictSame(met(rates), [
    ['W1 1 KiB send × raw lmdb 100 × 1 KiB', true],
    ['W1 1 KiB sendBatch × raw lmdb 100 × 1 KiB', false],
    ['W4 1 KiB × raw lmdb one put at a time 1 KiB', false],
    ['W4 1 KiB, 200 clients × W4 1 KiB', true],
  ])
  t.strictSame(judgeRows([]), [])
  t.end()
})

test('the table tells rates with their limits, latencies apart, and the targets that are missed', (t) => {
  const runs = runsWith({
    'raw lmdb 100 × 1 KiB': 400_000,
    'W1 1 KiB send': 100_000,
    'W1 1 KiB sendBatch': 300_000,
  })
  const text = renderReport(reportOf(kibibyte, runs))
  t.match(text, /^W1 1 KiB send +1 +100,000 +100,000 – 100,000 +0\.25 +100\.00 +100\.00 .* 0 +0 +0%$/m)
  t.match(text, /^W3 1 KiB at 1,000\/s +1,000 +1,000 – 1,000 +1\.00 +2\.00 +3\.00 +2\.00 – 2\.00 +0 +0 +0%$/m)
  t.match(text, /^W1 1 KiB send × raw lmdb 100 × 1 KiB +≥ 0\.45 +0\.25 +MISSED$/m)
  t.match(text, /Linux 6\.1, Node v20, lmdb 3$/m)
  t.end()
})

test('the picture has a bar for each, lmdb as lines, the socket pair cut, and curves of what grew', (t) => {
  const runs = runsWith({
    'raw lmdb 100 × 1 KiB': 400_000,
    'raw lmdb 100 × 1 KiB, preallocated': 500_000,
    'socket pair 100 × 1 KiB': 4_000_000,
    'W1 1 KiB send': 100_000,
  })
  const growth = [growthRun({ at: 1, perSecond: 3000 }), growthRun({ at: 10, perSecond: 1234 })]
  const svg = renderBenchPicture(reportOf(kibibyte, runs, growth))!
  t.equal(whyNotWellFormed(svg), null)
  t.match(svg, />100,000<tspan[^>]*>0\.25 × raw lmdb</)
  t.match(svg, />raw lmdb, preallocated: 500,000</)
  t.match(svg, /stroke-width="2\.5"/, 'cut')
  t.match(svg, /A &amp; B &lt;C&gt;/)
  t.match(svg, /fill="#dc2626"[^>]*>1,234</, 'a step that falls off is red')
  const names = ['200 clients', 'at 1,000/s', 'sendBatch, consumeBatches', 'queues']
  for (const name of names) t.ok(svg.includes(`>${name}<`), name)
  t.end()
})

test('there is no picture of nothing, and one of growth alone', (t) => {
  t.equal(renderBenchPicture(reportOf([], [])), null)
  const unpaced = { curve: 'ontoBacklog', receivedP50Ms: null, receivedP99Ms: null } as const
  const svg = renderBenchPicture(reportOf([], [], [growthRun({}), growthRun(unpaced)]))!
  t.equal(whyNotWellFormed(svg), null)
  t.match(svg, />mq-broker while something grows</)
  t.end()
})

test('what the other checkout cannot measure is not compared', (t) => {
  const theirs = [run('W1 1 KiB send', 100)]
  const [only, ...more] = compare(kibibyte, runsWith({ 'W1 1 KiB send': 150 }), theirs)
  t.match(only, { case: 'W1 1 KiB send', perSecond: { median: 1.5 } })
  t.strictSame(more, [])
  t.end()
})

test('latencies are of what came after the warm-up, and what did not come is left out', (t) => {
  const sentMs = Float64Array.from({ length: 10 }, (_, i) => i)
  const confirmedMs = sentMs.map((at) => at + 1)
  const receivedMs = sentMs.map((at) => (at === 9 ? NaN : at + (at < 4 ? 100 : 2)))
  const figures = figuresOfPaced({ sentMs, confirmedMs }, receivedMs, { perSecond: 1000, warmMs: 4 })
  t.equal(figures.messages, 6)
  t.equal(figures.perSecond, 1000)
  t.strictSame(figures.confirm, { p50Ms: 1, p99Ms: 1, p999Ms: 1 })
  t.strictSame(figures.received, { p50Ms: 2, p99Ms: 2, p999Ms: 2 })
  t.end()
})

test('a pace that is too much for who confirms is held back, and its time runs from when it was due', async (t) => {
  const arrivals = new Arrivals(100, 7)
  const confirms: (() => void)[] = []
  let most = 0
  const send = (body: Buffer) => {
    arrivals.note(Buffer.from(body))
    return new Promise<void>((resolve) => {
      most = Math.max(most, confirms.push(resolve))
      // Who confirms does so late, and all at once.
      if (most === 5000) setImmediate(() => confirms.splice(0).forEach((confirm) => confirm()))
      if (arrivals.distinct > 5000) resolve()
    })
  }
  const task = { bodyBytes: 100, tag: 7, perSecond: 1_000_000, durationMs: 10, first: 0 }
  const { sentMs, confirmedMs } = await sendPaced(task, send)
  t.strictSame([arrivals.missing(10_000), arrivals.duplicates, arrivals.damaged], [0, 0, 0])
  t.equal(most >= 5000, true)
  t.ok(sentMs.every((at, i) => at <= confirmedMs[i]!))
  t.ok(sentMs[7000]! <= sentMs[9999]!, 'in the order in which they were due')
})

test('several that send one at a time send each number once', async (t) => {
  const arrivals = new Arrivals(100, 7)
  let underWay = 0
  const sender = async (body: Buffer) => {
    underWay++
    arrivals.note(Buffer.from(body))
    await Promise.resolve()
    t.ok(underWay-- <= 3)
  }
  const task = { bodyBytes: 100, tag: 7, batch: null, window: 1, durationMs: 60_000, countMax: 50, first: 0 }
  const { confirmed } = await sendOneByOne(task, sender, sender, sender)
  t.equal(confirmed, 50)
  t.strictSame([arrivals.missing(50), arrivals.duplicates, arrivals.damaged], [0, 0, 0])
})

test('the account tells what is missing, twice, damaged or another run’s, and when each came first', (t) => {
  const body = (number: number, tag = 7) => {
    const made = createBody(20, tag)
    numberBody(made, number)
    return made
  }
  const arrivals = new Arrivals(20, 7, true)
  for (const number of [0, 2, 2]) arrivals.note(body(number))
  arrivals.note(body(1, 8))
  arrivals.note(body(1).subarray(1))
  t.strictSame([arrivals.missing(3), arrivals.duplicates, arrivals.damaged], [1, 1, 2])
  t.throws(() => assertWhole('W2', 3, { missing: 1, duplicates: 0, damaged: 0 }), {
    message: 'W2: of 3 confirmed messages: {"missing":1,"duplicates":0,"damaged":0}',
  })
  t.throws(() => assertWhole('W2', 3, { missing: 0, duplicates: 1, damaged: 0 }))
  t.throws(() => assertWhole('W2', 3, { missing: 0, duplicates: 0, damaged: 1 }))
  assertWhole('W2', 3, { missing: 0, duplicates: 0, damaged: 0 })
  const received = [...arrivals.receivedMs(0)]
  t.equal(received.length, 3)
  t.strictSame(received.map(Number.isNaN), [false, true, false])
  t.end()
})

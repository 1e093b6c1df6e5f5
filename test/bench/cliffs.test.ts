/** Where growth falls off. */
import { test } from 'tap'
import { parseBenchArgs, type BenchArgs } from '../../bench/args.ts'
import { cliffOf, type Point } from '../../bench/cliffs.ts'
import { growthSteps } from '../../bench/growth.ts'
import { renderGrowth, summarizeGrowth } from '../../bench/growth-report.ts'
import { growthRun } from './runs.ts'

const kibibyte = 1024

function point(perSecond: number, more: Partial<Point> = {}): Point {
  return { bodyBytes: kibibyte, perSecond, receivedP50Ms: 1, othersShare: 0, ...more }
}

function parse(...argv: string[]): BenchArgs {
  const args = parseBenchArgs(argv)
  if (args === 'help') throw new Error('help was not asked for')
  return args
}

test('a step may lose a quarter of the rate, and no more', (t) => {
  t.equal(cliffOf(point(100), point(75)), null)
  t.match(cliffOf(point(100), point(74)), { rateLost: 0.26, latencyTimes: null })
  t.equal(cliffOf(point(100), point(300)), null)
  t.end()
})

test('a loss is doubtful when others had the machine in either of the two', (t) => {
  const disturbed = { othersShare: 0.3 }
  t.match(cliffOf(point(100), point(50)), { isDoubtful: false })
  t.match(cliffOf(point(100), point(50, disturbed)), { rateLost: 0.5, isDoubtful: true })
  t.match(cliffOf(point(100, disturbed), point(50)), { isDoubtful: true })
  t.equal(cliffOf(point(100, disturbed), point(90)), null)
  const [, row] = summarizeGrowth([growthRun({}), growthRun({ at: 10, perSecond: 500, ...disturbed })])
  t.match(renderGrowth([row!]).join('\n'), / CLIFF\? rate −50%$/m)
  t.end()
})

test('larger bodies may cost messages or bytes, not both', (t) => {
  const larger = { bodyBytes: 16 * kibibyte }
  t.equal(cliffOf(point(1600), point(100, larger)), null, 'the same bytes a second')
  t.equal(cliffOf(point(1600), point(1500, larger)), null, 'the same messages a second')
  t.match(cliffOf(point(1600), point(50, larger)), { rateLost: 0.5 }, 'half of the bytes')
  t.end()
})

test('latency may take a third more, and what the bytes of a message explain', (t) => {
  const slower = (receivedP50Ms: number, more: Partial<Point> = {}) => point(100, { receivedP50Ms, ...more })
  t.equal(cliffOf(slower(3), slower(4)), null)
  t.match(cliffOf(slower(3), slower(4.5)), { rateLost: null, latencyTimes: 1.5 })
  t.equal(cliffOf(slower(0.5), slower(0.9)), null, 'less than timers differ by')
  t.equal(cliffOf(slower(3), slower(30, { bodyBytes: 10 * kibibyte })), null)
  t.match(cliffOf(slower(3), slower(60, { bodyBytes: 10 * kibibyte })), { latencyTimes: 2 })
  t.equal(cliffOf(slower(3), point(100, { receivedP50Ms: null })), null, 'not measured')
  t.end()
})

test('each step is judged by its medians against the one before it, each line by itself', (t) => {
  const rates = [
    [1, 1000],
    [10, 990],
    [100, 500],
    [1000, 490],
  ] as const
  const runs = [0.9, 1, 1.1].flatMap((noise) => [
    ...rates.map(([at, perSecond]) => growthRun({ at, perSecond: perSecond * noise })),
    growthRun({ curve: 'partitions', at: 1, perSecond: 10 }),
  ])
  const rows = summarizeGrowth(runs)
  t.strictSame(
    rows.map(({ curve, at, perSecond, runs, cliff }) => [curve, at, perSecond.median, runs, cliff !== null]),
    [
      ['queues', 1, 1000, 3, false],
      ['queues', 10, 990, 3, false],
      ['queues', 100, 500, 3, true],
      ['queues', 1000, 490, 3, false],
      ['partitions', 1, 10, 3, false],
    ],
  )
  const text = renderGrowth(rows).join('\n')
  t.match(text, /^100 +500 .* CLIFF rate −49%$/m)
  t.match(text, /^1,000 +490 .* 0%$/m)
  t.end()
})

test('what was lost or came twice is summed over the runs', (t) => {
  const [row] = summarizeGrowth([growthRun({ lost: 1 }), growthRun({ lost: 2, duplicated: 3 })])
  t.equal(row!.lost, 3)
  t.equal(row!.duplicated, 3)
  t.end()
})

test('steps grow in one dimension; a backlog as far as it was asked for', (t) => {
  const at = (...argv: string[]) => growthSteps(parse(...argv)).map((step) => [step.dimension, step.at])
  t.strictSame(at('--grow', 'queues').flat().filter(Number), [1, 10, 100, 1000])
  t.strictSame(at('--grow', 'backlog').flat().filter(Number.isInteger), [0, 100_000, 1_000_000])
  t.strictSame(at('--grow', 'backlog', '--backlog', '10000000').at(-1), ['backlog', 10_000_000])
  t.strictSame(at('--grow', 'backlog', '--backlog', '2000', '--quick'), [
    ['backlog', 0],
    ['backlog', 2000],
  ])
  t.strictSame(at('--grow', 'sizes').at(0), ['sizes', 12], 'the least that the account needs')
  for (const { dimension, load } of growthSteps(parse())) {
    const grown = [load.queues > 1, load.connections > 1, load.partitions > 1, load.bodyBytes !== kibibyte]
    t.ok(grown.filter(Boolean).length <= 1, dimension)
  }
  t.end()
})

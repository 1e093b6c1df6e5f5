/** The side-by-side bench, as far as it is pure: no servers, no clients. */
import { test } from 'tap'
import { parsePeersArgs, type PeersArgs } from '../../bench/peers/args.ts'
import { chooseHeats, entriesOf } from '../../bench/peers/cases.ts'
import { peerNames } from '../../bench/peers/peer.ts'
import { renderPicture } from '../../bench/peers/picture.ts'
import { summarizeRuns, type Participant, type PeerRun, type PeersReport } from '../../bench/peers/report.ts'
import { judge } from '../../bench/peers/targets.ts'
import { renderPeers } from '../../bench/peers/text.ts'
import { ratioText } from '../../bench/report.ts'

const kibibyte = 1024

function parse(...argv: string[]): PeersArgs {
  const args = parsePeersArgs(argv)
  if (args === 'help') throw new Error('help was not asked for')
  return args
}

const runDefaults: PeerRun = {
  workload: 'w1',
  bodyBytes: kibibyte,
  system: 'send',
  way: { batch: null, window: 1000 },
  messages: 1,
  elapsedMs: 1,
  perSecond: 0,
  serverCpu: null,
  serverPeakBytes: null,
  confirm: null,
  received: null,
  account: { lost: 0, duplicated: 0, damaged: 0, notLookedAt: 0 },
  othersShare: 0,
}

const run = (fields: Partial<PeerRun>): PeerRun => ({ ...runDefaults, ...fields })

const participant = (fields: Pick<Participant, 'system' | 'title'> & Partial<Participant>): Participant => ({
  version: '1.0',
  clients: [],
  note: 'synced',
  ...fields,
})

const participants: Participant[] = [
  participant({ system: 'send', title: 'mq-broker send' }),
  participant({ system: 'sendBatch', title: 'mq-broker sendBatch' }),
  participant({ system: 'raw', title: 'raw lmdb, the limit' }),
  participant({ system: 'redis', title: 'Redis Streams', clients: ['redis 6'] }),
  participant({
    system: 'rabbitmq',
    title: 'RabbitMQ',
    version: null,
    note: 'rabbitmq-server is not on this machine',
  }),
]

function reportOf(runs: readonly PeerRun[], fields: Partial<PeersReport> = {}): PeersReport {
  const heats = [
    ...new Map(runs.map(({ workload, bodyBytes }) => [workload, { workload, bodyBytes }])).values(),
  ]
  return {
    machine: { cores: 2, cpu: 'A & B <C>', memoryBytes: 8 * 2 ** 30, kernel: '6.1', node: 'v20', lmdb: '3' },
    startedAt: '2026-01-02T03:04:05.678Z',
    durability: 'F',
    settings: { repeat: '3' },
    participants,
    heats,
    rows: summarizeRuns(
      heats,
      participants.map(({ system }) => system),
      runs,
    ),
    failures: [],
    runs,
    ...fields,
  }
}

const w1 = (send: number, redis: number): PeerRun[] => [
  run({ system: 'send', perSecond: send }),
  run({ system: 'sendBatch', perSecond: 2 * send, way: { batch: 100, window: 1600 } }),
  run({ system: 'raw', perSecond: 4 * send, account: null }),
  run({ system: 'redis', perSecond: redis }),
]

test('without options every peer runs every workload, synced, but for the adapter that checks the others', (t) => {
  const args = parse()
  t.strictSame(
    args.peers,
    peerNames.filter((name) => name !== 'adapter'),
  )
  t.strictSame(args.workloads, ['w1', 'w2', 'w3', 'w4'])
  t.strictSame(args.sizesBytes, [1024, 100])
  t.equal(args.durability, 'F')
  t.end()
})

test('lists are taken in the order of the table, each name once', (t) => {
  const { peers, workloads, windows, durability, durationMs } = parse(
    ...['--peers', 'beanstalkd,redis,redis', '--workload', 'w4,w1', '--window', '64,64,16'],
    ...['--class', 'D', '--seconds', '0.5'],
  )
  t.strictSame(peers, ['redis', 'beanstalkd'])
  t.strictSame(workloads, ['w1', 'w4'])
  t.strictSame(windows, [64, 16])
  t.equal(durability, 'D')
  t.equal(durationMs, 500)
  t.end()
})

test('a wrong option is refused with a sentence that names it', (t) => {
  const wrong: [argv: string[], sentence: RegExp][] = [
    [['--peers', 'kafka'], /--peers: 'kafka' is none of redis, /],
    [['--workload', ''], /--workload: '' is none of /],
    [['--class', 'E'], /--class: 'E' is none of F, D/],
    [['--size', '8'], /--size: '8' is not a number from 12 /],
    [['--size', '100.5'], /--size: '100.5' is not a whole number/],
    [['--seconds', 'x'], /--seconds: 'x' is not a number/],
    [['--repeat', '0'], /--repeat: '0' is not a number from 1 /],
    [['--repeat', '1.5'], /--repeat: '1.5' is not a whole number/],
    [['--window', '1,'], /--window: '' is not a number/],
    [['--save', '../x'], /--save: '..\/x' is not a name/],
    [['--save', 'tmp'], /--save: 'tmp' is not a name/],
    [['--fast'], /--fast/],
  ]
  for (const [argv, sentence] of wrong)
    t.throws(() => parsePeersArgs(argv), { message: sentence }, argv.join(' '))
  t.equal(parsePeersArgs(['--help', '--peers', 'kafka']), 'help')
  t.end()
})

test('latency and one-at-a-time are measured at one size, streams at each', (t) => {
  const heats = chooseHeats(parse('--size', '100,2048'))
  t.strictSame(
    heats.map(({ workload, bodyBytes }) => `${workload} ${bodyBytes}`),
    ['w1 100', 'w1 2048', 'w2 100', 'w2 2048', 'w3 1024', 'w4 1024'],
  )
  t.end()
})

test('each heat has this broker, its limits and the peers that are here', (t) => {
  const args = parse()
  const systemsOf = (workload: 'w1' | 'w2' | 'w3' | 'w4') =>
    entriesOf({ workload, bodyBytes: kibibyte }, args, ['redis']).map(({ system }) => system)
  t.strictSame(systemsOf('w1'), ['send', 'sendBatch', 'raw', 'generator', 'redis'])
  t.strictSame(systemsOf('w2'), ['send', 'sendBatch', 'raw', 'generator', 'redis'])
  t.strictSame(systemsOf('w3'), ['send', 'redis'])
  t.strictSame(systemsOf('w4'), ['send', 'raw', 'redis'])
  t.end()
})

test('a row has the median of its runs, and the sum of what went wrong', (t) => {
  const account = { lost: 1, duplicated: 2, damaged: 0, notLookedAt: 3 }
  const runs = [30, 10, 20].map((perSecond) =>
    run({ system: 'redis', perSecond, serverCpu: perSecond / 10, account }),
  )
  const [row] = reportOf(runs).rows
  t.strictSame(row!.perSecond, { median: 20, min: 10, max: 30 })
  t.equal(row!.serverCpu!.median, 2)
  t.strictSame(row!.account, { lost: 3, duplicated: 6, damaged: 0, notLookedAt: 9 })
  t.end()
})

test('a target compares the medians of one run of the bench', (t) => {
  const met = (runs: PeerRun[]) => {
    const rows = judge(reportOf(runs)).filter(({ what }) => what === 'W1 1 KiB: send × Redis')
    return rows.map(({ value, isMet }) => [value, isMet])
  }
  t.strictSame(met(w1(500, 100)), [[5, true]])
  t.strictSame(met(w1(499, 100)), [[4.99, false]])
  t.strictSame(met(w1(500, 100).filter(({ system }) => system !== 'redis')), [[null, null]])
  t.end()
})

test('latency is judged beside the best of the peers, not beside the adapter', (t) => {
  const received = (p99Ms: number) => ({ p50Ms: 1, p99Ms, p999Ms: null })
  const runs = [
    run({ workload: 'w3', system: 'send', received: received(3) }),
    run({ workload: 'w3', system: 'redis', received: received(4) }),
    run({ workload: 'w3', system: 'adapter', received: received(1) }),
  ]
  const names = participants.concat(participant({ system: 'adapter', title: 'adapter' }))
  const heats = [{ workload: 'w3', bodyBytes: kibibyte }] as const
  const rows = summarizeRuns(
    heats,
    names.map(({ system }) => system),
    runs,
  )
  t.strictSame(
    judge(reportOf(runs, { rows })).map(({ value, isMet }) => [value, isMet]),
    [[0.75, true]],
  )
  t.end()
})

test('peers that do not sync are no measure for targets', (t) => {
  t.strictSame(judge(reportOf(w1(500, 100), { durability: 'D' })), [])
  t.end()
})

test('ratios keep the digits that mean something', (t) => {
  t.strictSame([0.123, 0.98, 1.26, 9.96, 35.4].map(ratioText), ['0.12', '0.98', '1.3', '10.0', '35'])
  t.end()
})

test('the table tells rates, ratios, who is absent, who failed, and which targets are missed', (t) => {
  const failed = { workload: 'w1', bodyBytes: kibibyte, system: 'redis', error: 'it fell over' } as const
  const text = renderPeers(reportOf(w1(420_000, 100_000), { failures: [failed] }))
  t.match(text, /^Redis Streams +1, 1,000 +100,000 .* 4\.2 +8\.4 /m)
  t.match(text, /^RabbitMQ +absent: rabbitmq-server is not on this machine$/m)
  t.match(text, /^Redis Streams +failed: it fell over$/m)
  t.match(text, /^W1 1 KiB: send × Redis +≥ 5 +4\.2 +MISSED$/m)
  t.match(text, /^W1 1 KiB: sendBatch × Redis +≥ 8 +8\.4 +met$/m)
  t.match(text, /^W1 1 KiB: send × RabbitMQ +≥ 15 +not measured$/m)
  t.end()
})

test('what was not looked at is told beside what was lost', (t) => {
  const account = { lost: 0, duplicated: 0, damaged: 0, notLookedAt: 1234 }
  const runs = w1(1000, 100).map((one) => (one.system === 'redis' ? { ...one, account } : one))
  t.match(renderPeers(reportOf(runs)), /^Redis Streams .* 0 \+1,234 /m)
  t.end()
})

test('the picture has a bar for each, its number as text, the limit as a line, and well-formed text', (t) => {
  const svg = renderPicture(reportOf(w1(420_000, 100_000)))
  t.match(svg, /^<svg [^>]*xmlns=/)
  t.match(svg, />420,000</)
  t.match(svg, />100,000<tspan[^>]*>send is 4\.2 ×</)
  t.match(svg, />raw lmdb: 1,680,000</)
  t.match(svg, /stroke-dasharray/)
  t.match(svg, />absent</)
  t.match(svg, /A &amp; B &lt;C&gt;/)
  t.notMatch(svg, /NaN|undefined|Infinity/)
  const opened = svg.match(/<(?!\/)(svg|g|text|tspan|title)\b/g)!.length
  t.equal(svg.match(/<\/(svg|g|text|tspan|title)>/g)!.length, opened)
  t.end()
})

test('a latency far behind the others is cut, so that the others can be read', (t) => {
  const received = (p99Ms: number) => ({ p50Ms: p99Ms / 2, p99Ms, p999Ms: p99Ms })
  const svg = renderPicture(
    reportOf([
      run({ workload: 'w3', system: 'send', received: received(4) }),
      run({ workload: 'w3', system: 'redis', received: received(400) }),
    ]),
  )
  t.match(svg, />2\.00 \/ 4\.00 ms</)
  t.match(svg, />200 \/ 400 ms</)
  t.match(svg, /stroke-width="2\.5"/)
  t.end()
})

/**
 * This broker beside what a TypeScript team would pick today: the same bodies, the same machine, the same minutes,
 * the same durability. Server, producer and consumer are processes of their own, one server at a time.
 *
 *   memory is touched once → each case tries its ways of sending briefly → repeat × every case in turn → medians
 */
import { chmodSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { buildCommandIfStale } from '../broker-process.ts'
import { batchOf, sizeName } from '../cases.ts'
import { makeDataDir, touchMemory, warmUpMs } from '../preparation.ts'
import { describeMachine } from '../proc.ts'
import { nameOf, resultsDir, writeResult } from '../results.ts'
import { parsePeersArgs, usage, type PeersArgs } from './args.ts'
import { chooseHeats, entriesOf, heatName, type Entry } from './cases.ts'
import { missingClients } from './clients.ts'
import { withLock } from '../lock.ts'
import { chooseWay, measureEntry } from './measure.ts'
import { participantsOf, presentOf } from './participants.ts'
import { peers } from './peers.ts'
import { renderPicture } from './picture.ts'
import { summarizeRuns, type Failure, type PeerRun, type PeersReport, type Way } from './report.ts'
import { renderPeers, wayText } from './text.ts'

/** Wrong arguments, or clients that are not installed. */
const exitUsage = 2
const errorCharsMax = 300

async function bench(args: PeersArgs): Promise<void> {
  buildCommandIfStale()
  const startedAt = new Date().toISOString()
  const dir = makeDataDir(args.dir ?? tmpdir())
  // Servers of other users get below it.
  chmodSync(dir, 0o711)
  const warmMs = warmUpMs(args.durationMs)
  const warmedBytes = args.quick ? 0 : await withLock(args.lockFile, touchMemory)
  const options = { dir, durability: args.durability, durationMs: args.durationMs, warmMs }
  const participants = participantsOf(args.peers, args.durability)
  const present = presentOf(participants)
  const heats = chooseHeats(args)
  const entries = heats.flatMap((heat) => entriesOf(heat, args, present))

  const runs: PeerRun[] = []
  const failures: Failure[] = []
  /** Peers may fail, and the others go on; this broker may not. */
  const attempt = async <T>(entry: Entry, work: () => Promise<T>): Promise<T | null> => {
    try {
      return await withLock(args.lockFile, work)
    } catch (error) {
      if (entry.own !== null || entry.system === 'send') throw error
      const { workload, bodyBytes, system } = entry
      const message = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ')
      failures.push({ workload, bodyBytes, system, error: message.slice(0, errorCharsMax) })
      console.error(`${heatName(entry)} ${system} failed: ${message}`)
      return null
    }
  }

  const ways = new Map<Entry, Way>()
  for (const entry of entries) {
    const way = await attempt(entry, () => chooseWay(entry, args.windows, options))
    if (way === null) continue
    ways.set(entry, way)
    if (entry.workload === 'w1' || entry.workload === 'w2') {
      console.error(`trial  ${heatName(entry)} ${entry.system}: ${wayText(way)}`)
    }
  }
  for (let round = 1; round <= args.repeat; round++) {
    for (const [entry, way] of ways) {
      const run = await attempt(entry, () => measureEntry(entry, way, options))
      if (run === null) continue
      assertWhole(run)
      runs.push(run)
      say(run, `${round}/${args.repeat}`)
    }
  }

  const report: PeersReport = {
    machine: describeMachine(),
    startedAt,
    durability: args.durability,
    settings: {
      seconds: String(args.durationMs / 1000),
      'warm-up seconds': (warmMs / 1000).toFixed(1),
      repeat: String(args.repeat),
      'windows tried': args.windows.join('/'),
      'sendBatch of': args.sizesBytes.map((bytes) => `${batchOf(bytes)} (${sizeName(bytes)})`).join('/'),
      'memory touched before': `${(warmedBytes / 2 ** 30).toFixed(1)} GiB`,
    },
    participants,
    heats,
    rows: summarizeRuns(
      heats,
      participants.map(({ system }) => system),
      runs,
    ),
    failures,
    runs,
  }
  const text = renderPeers(report)
  console.log(`\n${text}`)
  const result = { report, text, picture: renderPicture(report) }
  writeResult(resultsDir('tmp'), `peers-${nameOf(startedAt)}`, result)
  if (args.save !== undefined) writeResult(resultsDir(), args.save, result)
}

/** @throws Error when this broker lost a message or sent one twice; of a peer its row says so */
function assertWhole({ system, account, workload }: PeerRun): void {
  if (system !== 'send' && system !== 'sendBatch' && system !== 'adapter') return
  if (account === null) return
  const { lost, duplicated, damaged } = account
  if (lost + duplicated + damaged > 0) {
    throw new Error(`mq-broker, ${workload}: of its confirmed messages: ${JSON.stringify(account)}`)
  }
}

/** How it goes, on stderr: stdout is for the table. */
function say(run: PeerRun, which: string): void {
  const rate = Math.round(run.perSecond).toLocaleString('en-US')
  const cpu = run.serverCpu === null ? '' : `, ${run.serverCpu.toFixed(2)} CPU s/M`
  const received = run.received === null ? '' : `, received p99 ${run.received.p99Ms.toFixed(2)} ms`
  const others = `others ${Math.round(run.othersShare * 100)}%`
  console.error(`${which}  ${heatName(run)} ${run.system}: ${rate}/s${cpu}${received}, ${others}`)
}

function readArgs(): PeersArgs | null {
  try {
    const args = parsePeersArgs(process.argv.slice(2))
    if (args === 'help') {
      console.log(usage)
      return null
    }
    const missing = missingClients(args.peers.flatMap((name) => peers[name].clients))
    if (missing.length === 0) return args
    console.error(`bench:peers: run \`npm ci --prefix bench\` first; not installed: ${missing.join(', ')}`)
  } catch (error) {
    console.error(`bench:peers: ${error instanceof Error ? error.message : String(error)}`)
  }
  process.exitCode = exitUsage
  return null
}

const args = readArgs()
try {
  if (args !== null) await bench(args)
} catch (error) {
  console.error(`bench:peers: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}
// Whatever still holds the loop open is ours to end: children go with this process.
process.exit()

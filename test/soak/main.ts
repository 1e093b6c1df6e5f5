/**
 * `npm run soak -- [--minutes 10] [--seed N] [--rate 1500] [--out DIR]`: load on a real broker for long, and whether its
 * memory, files and rates stay flat. Exit code 1 when they do not, or when a message was lost or came twice.
 */
import { randomInt } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildCommandIfStale, projectRoot } from '../../bench/broker-process.ts'
import { describeMachine } from '../../bench/proc.ts'
import { judgeAll } from './bounds.ts'
import { drawPicture } from './picture.ts'
import type { Sample } from './sample.ts'
import { pictureOf, soak } from './soak.ts'

const usage = `Usage: npm run soak -- [options]
  --minutes N   how long the load lasts, from 1; default 10
  --seed N      of what the clients choose; default any
  --rate N      messages that are sent a second; default 1500
  --out DIR     where soak.json and soak.svg go; default bench/results/tmp
Memory, descriptors, files and rates are judged after the first third. Exit code 1: something is not flat, or a message
was lost or came twice.`

const text = { type: 'string' } as const
const flags = {
  minutes: text,
  seed: text,
  rate: text,
  out: text,
  help: { type: 'boolean', short: 'h' },
} as const
const progressSamples = 60
const logLinesMax = 5

async function main(): Promise<number> {
  const { values } = parseArgs({ options: flags })
  if (values.help === true) {
    console.log(usage)
    return 0
  }
  const minutes = numberOf('minutes', values.minutes ?? '10', 1, 100_000)
  const seed = numberOf('seed', values.seed ?? String(randomInt(2 ** 31)), 0, 2 ** 32)
  const perSecond = numberOf('rate', values.rate ?? '1500', 20, 100_000)
  const out = values.out ?? join(projectRoot(), 'bench', 'results', 'tmp')
  mkdirSync(out, { recursive: true })
  buildCommandIfStale()
  const dataDir = mkdtempSync(join(tmpdir(), 'mq-soak-'))
  process.once('exit', () => rmSync(dataDir, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  console.log(`seed ${seed}, ${minutes} minutes, ${perSecond} messages a second`)
  const startedAt = new Date().toISOString()
  let count = 0
  const onSample = (sample: Sample) => {
    if (++count % progressSamples === 0) console.log(progressOf(sample))
  }
  const run = { dataDir, loadMs: minutes * 60_000, seed, perSecond, killedEveryMs: 5000, onSample }
  const result = await soak(run)
  const verdicts = judgeAll(result.samples)
  const { samples, ...rest } = result
  const machine = describeMachine()
  const document = { startedAt, seed, minutes, perSecond, machine, ...rest, verdicts, samples }
  writeFileSync(join(out, 'soak.json'), `${JSON.stringify(document, null, 1)}\n`)
  const subtitle =
    `${startedAt.slice(0, 10)}, ${minutes} minutes, ${result.messages.toLocaleString('en-US')} messages; ` +
    `${machine.cores} cores, Node ${machine.node}; grey: warm-up, not judged`
  writeFileSync(join(out, 'soak.svg'), drawPicture(pictureOf(samples, 'mq-broker soak', subtitle)))

  console.log(
    Object.entries(result.done)
      .map(([kind, times]) => `${kind} ${times}`)
      .join(', '),
  )
  console.log(`${result.messages} messages, ${result.refusedSettles} settles after their lease had ended`)
  // Clients that were killed are no news.
  const logged = result.log.split('\n').filter((line) => line !== '' && !line.includes('ECONNRESET'))
  for (const line of logged.slice(-logLinesMax)) console.log(`the broker logged: ${line}`)
  let isGood = result.violations === 0
  for (const words of result.words) console.log(words)
  console.log(`lost, twice, early or invented: ${result.violations}`)
  for (const [measure, { level, trend, step, allowed, isFlat }] of Object.entries(verdicts)) {
    const figures = [level, trend, step, allowed].map((value) => Math.round(value).toLocaleString('en-US'))
    const [from, slope, between, most] = figures
    console.log(
      `${isFlat ? 'flat' : 'NOT FLAT'}  ${measure}: level ${from}, trend ${slope}, step ${between}, allowed ${most}`,
    )
    isGood &&= isFlat
  }
  console.log(`written: ${join(out, 'soak.json')}, soak.svg`)
  if (!isGood) console.log(`again with --seed ${seed} --minutes ${minutes} --rate ${perSecond}`)
  return isGood ? 0 : 1
}

function progressOf(sample: Sample): string {
  const mebi = (bytes: number) => Math.round(bytes / 2 ** 20)
  return (
    `${Math.round(sample.seconds)} s: resident ${mebi(sample.residentBytes)} MiB, beyond the map ` +
    `${mebi(sample.beyondMapBytes)}, heap ${mebi(sample.heapUsedBytes)}, data ${mebi(sample.dataBytes)}; ` +
    `${sample.segments} segments, ${sample.openDescriptors} descriptors, ${Math.round(sample.ackedPerSecond)} acked/s`
  )
}

function numberOf(flag: string, given: string, min: number, max: number): number {
  const value = Number(given)
  if (given.trim() === '' || !(value >= min && value <= max)) {
    throw new Error(`--${flag}: '${given}' is not a number from ${min} to ${max}`)
  }
  return value
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(error)
  process.exitCode = 1
}
process.exit()

/**
 * The bench. Broker, producer and consumer are processes of their own on this machine; raw lmdb and the load
 * generator alone are measured in between, so that what the machine does that day divides out.
 *
 *   memory is touched once → each case tries its windows briefly → repeat × every case in turn → medians
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseBenchArgs, states, usage, type BenchArgs } from './args.ts'
import { backlogModes, measureBacklog } from './backlog.ts'
import { bodyBytesMin } from './bodies.ts'
import { buildCommandIfStale, projectRoot } from './broker-process.ts'
import { batchOf, chooseCases, type Case } from './cases.ts'
import { compare, measureOf } from './compare.ts'
import { summarizeFigures, targetText, valueText, type Figure } from './figures.ts'
import { measure, type Run } from './measure.ts'
import { makeDataDir, touchMemory } from './preparation.ts'
import { describeMachine } from './proc.ts'
import { topOfProfiles } from './profile.ts'
import { renderReport, settingsOf, summarize, type Report } from './report.ts'
import { measureScale } from './scale.ts'

async function bench(args: BenchArgs): Promise<void> {
  const against = args.against === undefined ? null : await measureOf(args.against)
  buildCommandIfStale()
  const startedAt = new Date().toISOString()
  const dir = makeDataDir(args.dir ?? tmpdir())
  const warmMs = Math.min(1000, args.durationMs / 3)
  const warmedBytes = args.quick ? 0 : await touchMemory()
  const cases = chooseCases(args)

  const trialMs = args.durationMs / 4
  const windows = new Map<Case, number>()
  for (const what of cases) {
    let best = 0
    for (const window of what.windows) {
      if (what.windows.length === 1) windows.set(what, window)
      else {
        const run = await measure(what, { dir, durationMs: trialMs, warmMs, window, profileDir: undefined })
        say(run, 'trial')
        if (run.perSecond > best) {
          best = run.perSecond
          windows.set(what, window)
        }
      }
    }
  }

  const runs: Run[] = []
  const theirs: Run[] = []
  const figures: Figure[] = []
  for (let round = 1; round <= args.repeat; round++) {
    for (const what of cases) {
      const profileDir = args.profileDir === undefined ? undefined : join(args.profileDir, `run-${round}`)
      const window = windows.get(what)!
      const options = { dir, durationMs: args.durationMs, warmMs, window, profileDir }
      const ourTurn = async (): Promise<void> => {
        const run = await measure(what, options)
        runs.push(run)
        say(run, `${round}/${args.repeat}`)
      }
      // Whoever is second finds another machine than the first, so they take turns.
      if (round % 2 === 1) await ourTurn()
      if (against !== null) {
        const run = await against(what, { ...options, profileDir: undefined })
        theirs.push(run)
        say(run, `${round}/${args.repeat} of the other`)
      }
      if (round % 2 === 0) await ourTurn()
    }
    for await (const figure of measureStates(args, dir, round)) {
      figures.push(figure)
      const { of, what, unit, value, target } = figure
      const wanted = target === null ? '' : ` (wanted ${targetText(target)})`
      console.error(`${round}/${args.repeat}  ${of}: ${what} ${valueText(value)} ${unit}${wanted}`)
    }
  }

  const report: Report = {
    machine: describeMachine(),
    startedAt,
    settings: settingsOf({ ...args, warmMs, warmedBytes, batches: args.sizesBytes.map(batchOf) }),
    rows: summarize(cases, runs),
    runs,
    comparisons: against === null ? [] : compare(cases, runs, theirs),
    figureRows: summarizeFigures(figures),
    figures,
  }
  console.log(`\n${renderReport(report)}`)
  const results = join(projectRoot(), 'bench', 'results', 'tmp')
  mkdirSync(results, { recursive: true })
  const json = `${JSON.stringify(report, null, 2)}\n`
  writeFileSync(join(results, `${startedAt.replaceAll(':', '-')}.json`), json)
  if (args.jsonFile !== undefined) writeFileSync(args.jsonFile, json)
  if (args.profileDir !== undefined) console.log(topOfProfiles(args.profileDir).join('\n'))
}

/** The figures of what is no stream, one after the other. */
async function* measureStates(args: BenchArgs, dir: string, round: number): AsyncGenerator<Figure> {
  const messages = args.backlog
  const profileDir = args.profileDir === undefined ? undefined : join(args.profileDir, `run-${round}`)
  for (const state of states.filter((name) => args.workloads.includes(name))) {
    if (state === 'w5') {
      for (const mode of backlogModes) yield* await measureBacklog(mode, { dir, messages, profileDir })
    } else yield* await measureScale(state, { dir, messages, profileDir })
  }
}

/** How it goes, on stderr: stdout is for the table. */
function say(run: Run, which: string): void {
  const rate = Math.round(run.perSecond).toLocaleString('en-US')
  const cpu = run.brokerCpu === null ? '' : `, ${run.brokerCpu.toFixed(2)} CPU s/M`
  const others = `others ${Math.round(run.othersShare * 100)}%`
  console.error(`${which}  ${run.case}, window ${run.window}: ${rate}/s${cpu}, ${others}`)
}

try {
  const args = parseBenchArgs(process.argv.slice(2))
  if (args === 'help') console.log(usage)
  else if (args.sizesBytes.some((bytes) => bytes < bodyBytesMin)) {
    throw new Error(`--size: a body has at least ${bodyBytesMin} bytes`)
  } else await bench(args)
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}
// Whatever still holds the loop open is ours to end: children go with this process.
process.exit()

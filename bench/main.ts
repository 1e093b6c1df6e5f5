/**
 * The bench. Broker, producer and consumer are processes of their own on this machine; raw lmdb, a socket pair and the
 * load generator alone are measured in between, so that what the machine does that day divides out.
 *
 *   memory is touched once → each case tries its windows briefly → repeat × every case in turn → medians
 */
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseBenchArgs, states, usage, type BenchArgs } from './args.ts'
import { backlogModes, measureBacklog } from './backlog.ts'
import { buildCommandIfStale } from './broker-process.ts'
import { batchOf, chooseCases, unpacedName, type Case } from './cases.ts'
import { compare, measureOf } from './compare.ts'
import { summarizeFigures, targetText, valueText, type Figure } from './figures.ts'
import { summarizeGrowth } from './growth-report.ts'
import { growthSteps, measureStep, stepName, type GrowthRun } from './growth.ts'
import { withLock } from './lock.ts'
import { measure, type Run } from './measure.ts'
import { renderBenchPicture } from './picture.ts'
import { makeDataDir, touchMemory, warmUpMs } from './preparation.ts'
import { describeMachine } from './proc.ts'
import { topOfProfiles } from './profile.ts'
import { renderReport, settingsOf, summarize, thousands, type Report } from './report.ts'
import { jsonOf, nameOf, resultsDir, writeResult } from './results.ts'
import { measureScale } from './scale.ts'
import { judgeRows } from './targets.ts'

async function bench(args: BenchArgs): Promise<void> {
  const against = args.against === undefined ? null : await measureOf(args.against)
  buildCommandIfStale()
  const startedAt = new Date().toISOString()
  const dir = makeDataDir(args.dir ?? tmpdir())
  const warmMs = warmUpMs(args.durationMs)
  const inTurn: InTurn = (work) => withLock(args.lockFile, work)
  const warmedBytes = args.quick ? 0 : await inTurn(touchMemory)
  const cases = chooseCases(args)

  /** Of each way that was tried. */
  const tried: Run[] = []
  const trial = async (what: Case, window: number): Promise<Run> => {
    const options = { dir, durationMs: args.durationMs / 4, warmMs, window, profileDir: undefined }
    const run = await inTurn(() => measure(what, options))
    say(run, 'trial')
    tried.push(run)
    return run
  }
  const windows = new Map<Case, number>()
  for (const what of cases) {
    if (what.windows.length > 1) for (const window of what.windows) await trial(what, window)
    windows.set(what, bestOf(tried, what.name)?.window ?? what.windows[0]!)
  }
  const runs: Run[] = []
  const theirs: Run[] = []
  const figures: Figure[] = []
  const growthRuns: GrowthRun[] = []
  const paces = new Map<Case, number>()
  const halfOf = async (unpaced: Case): Promise<number> => {
    const run = bestOf(runs, unpaced.name) ?? (await trial(unpaced, unpaced.windows.at(-1)!))
    return Math.max(1, Math.round(run.perSecond / 2))
  }
  for (let round = 1; round <= args.repeat; round++) {
    for (const what of cases) {
      // The same pace in each round: the first one's W2 tells it, or else a trial.
      if (what.atHalf === true && round === 1) paces.set(what, await halfOf(unpacedOf(what, args)))
      const profileDir = args.profileDir === undefined ? undefined : join(args.profileDir, `run-${round}`)
      const isPaced = what.kind === 'w3' || what.kind === 'rawPaced'
      const durationMs = isPaced ? args.pacedMs : args.durationMs
      const window = windows.get(what)!
      const options = { dir, durationMs, warmMs, window, profileDir, pacePerSecond: paces.get(what) }
      const ourTurn = async (): Promise<void> => {
        const run = await inTurn(() => measure(what, options))
        runs.push(run)
        say(run, `${round}/${args.repeat}`)
      }
      // Whoever is second finds another machine than the first, so they take turns.
      if (round % 2 === 1) await ourTurn()
      if (against !== null) {
        const run = await inTurn(() => against(what, { ...options, profileDir: undefined }))
        if (run !== null) {
          theirs.push(run)
          say(run, `${round}/${args.repeat} of the other`)
        }
      }
      if (round % 2 === 0) await ourTurn()
    }
    for await (const figure of measureStates(args, dir, round, inTurn)) {
      figures.push(figure)
      sayFigure(figure, `${round}/${args.repeat}`)
    }
    for await (const run of measureGrowth(args, dir, round, inTurn)) {
      growthRuns.push(run)
      sayStep(run, `${round}/${args.repeat}`)
    }
  }

  const rows = summarize(cases, runs)
  const report: Report = {
    machine: describeMachine(),
    startedAt,
    settings: settingsOf({ ...args, warmMs, warmedBytes, batches: args.sizesBytes.map(batchOf) }),
    rows,
    targets: judgeRows(rows),
    runs,
    comparisons: against === null ? [] : compare(cases, runs, theirs),
    figureRows: summarizeFigures(figures),
    figures,
    growthRows: summarizeGrowth(growthRuns),
    growthRuns,
  }
  keep(report, args)
}

/** The table on stdout; the rest where it was asked for. */
function keep(report: Report, { out, save, jsonFile, profileDir }: BenchArgs): void {
  const text = renderReport(report)
  console.log(`\n${text}`)
  const result = { report, text, picture: renderBenchPicture(report) }
  writeResult(out ?? resultsDir('tmp'), nameOf(report.startedAt), result)
  if (save !== undefined) writeResult(resultsDir(), save, result)
  if (jsonFile !== undefined) writeFileSync(jsonFile, jsonOf(report))
  if (profileDir !== undefined) console.log(topOfProfiles(profileDir).join('\n'))
}

/** Undefined: none of that name. */
function bestOf(runs: readonly Run[], name: string): Run | undefined {
  return runs.filter((run) => run.case === name).sort((a, b) => b.perSecond - a.perSecond)[0]
}

/** The W2 that a W3 is half as fast as. */
function unpacedOf({ bodyBytes }: Case, args: BenchArgs): Case {
  const name = unpacedName(bodyBytes)
  return chooseCases({ ...args, workloads: ['w2'], sizesBytes: [bodyBytes] }).find(
    (what) => what.name === name,
  )!
}

/** Runs what disturbs others, and is disturbed by them, once it is its turn. */
type InTurn = <T>(work: () => Promise<T>) => Promise<T>

/** The figures of what is no stream, one after the other. */
async function* measureStates(
  args: BenchArgs,
  dir: string,
  round: number,
  inTurn: InTurn,
): AsyncGenerator<Figure> {
  const messages = args.backlog
  const profileDir = args.profileDir === undefined ? undefined : join(args.profileDir, `run-${round}`)
  const options = { dir, messages, profileDir }
  for (const state of states.filter((name) => args.workloads.includes(name))) {
    if (state === 'w5') {
      for (const mode of backlogModes) yield* await inTurn(() => measureBacklog(mode, options))
    } else yield* await inTurn(() => measureScale(state, options))
  }
}

/** The steps of growth, one after the other. */
async function* measureGrowth(
  args: BenchArgs,
  dir: string,
  round: number,
  inTurn: InTurn,
): AsyncGenerator<GrowthRun> {
  if (!args.workloads.includes('growth')) return
  const profileDir = args.profileDir === undefined ? undefined : join(args.profileDir, `run-${round}`)
  const durationMs = args.stepMs
  const options = { dir, durationMs, warmMs: Math.min(1000, durationMs / 3), profileDir }
  for (const step of growthSteps(args)) yield* await inTurn(() => measureStep(step, options))
}

/** How it goes, on stderr: stdout is for the table. */
function say(run: Run, which: string): void {
  const cpu = run.brokerCpu === null ? '' : `, ${run.brokerCpu.toFixed(2)} CPU s/M`
  const received = run.receivedP99Ms === null ? '' : `, received p99 ${run.receivedP99Ms.toFixed(2)} ms`
  const others = `others ${Math.round(run.othersShare * 100)}%`
  console.error(
    `${which}  ${run.case}, window ${run.window}: ${thousands(run.perSecond)}/s${cpu}${received}, ${others}`,
  )
}

function sayFigure({ of, what, unit, value, target }: Figure, which: string): void {
  const wanted = target === null ? '' : ` (wanted ${targetText(target)})`
  console.error(`${which}  ${of}: ${what} ${valueText(value)} ${unit}${wanted}`)
}

function sayStep(run: GrowthRun, which: string): void {
  const received = run.receivedP50Ms === null ? '' : `, received p50 ${run.receivedP50Ms.toFixed(2)} ms`
  const others = `others ${Math.round(run.othersShare * 100)}%`
  console.error(`${which}  ${stepName(run)}: ${thousands(run.perSecond)}/s${received}, ${others}`)
}

try {
  const args = parseBenchArgs(process.argv.slice(2))
  if (args === 'help') console.log(usage)
  else await bench(args)
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}
// Whatever still holds the loop open is ours to end: children go with this process.
process.exit()

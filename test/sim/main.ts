/** `npm run sim -- [--seed N] [--seeds COUNT] [--from N] [--steps M] [--verbose]`: runs seeds until one fails. */
import { parseArgs } from 'node:util'
import { run, type RunResult } from './run.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string' },
    steps: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    /** Prints one line of JSON at the end and nothing else; goes on after failures. For planted.ts. */
    json: { type: 'boolean', default: false },
    /** With --json: failures after which it ends. */
    failures: { type: 'string', default: '1' },
    /** With --json: no seed is begun after so many minutes. */
    minutes: { type: 'string', default: 'Infinity' },
    'keep-going': { type: 'boolean', default: false },
  },
})

const operations = values.steps === undefined ? undefined : Number(values.steps)
const single = values.seed !== undefined
const count = single ? 1 : Number(values.seeds)
const from = Number(values.seed ?? values.from ?? freshSeed())

if (values.json) await runJson()
else await runAll()

/** A seed that nobody has tried, most likely. */
function freshSeed(): number {
  return Math.floor(Math.random() * 2 ** 31)
}

async function runAll(): Promise<void> {
  const startedMs = performance.now()
  if (!single) console.log(`${count} seeds from ${from}`)
  const totals = { operations: 0, messages: 0, steps: 0, crashes: 0, starts: 0, folds: 0, simulatedMs: 0 }
  const counts = new Map<string, number>()
  let failures = 0
  let lineMs = startedMs
  for (let i = 0; i < count; i++) {
    const result = await run(from + i, {
      operations,
      log: values.verbose ? (line) => console.log(line) : undefined,
      events: values.verbose,
    })
    for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += result[key]
    for (const [name, n] of result.counts) counts.set(name, (counts.get(name) ?? 0) + n)
    if (result.violation !== null) {
      failures++
      report(result)
      if (!values['keep-going']) break
    }
    if ((i + 1) % 100 === 0) {
      const nowMs = performance.now()
      console.log(
        `${i + 1} seeds, ${(100_000 / (nowMs - lineMs)).toFixed(1)} a second; ${totals.operations} operations, ` +
          `${totals.messages} messages, ${totals.starts} starts, ${totals.crashes} crashes, ${failures} failures`,
      )
      lineMs = nowMs
    }
  }
  const seconds = (performance.now() - startedMs) / 1000
  if (single || values.verbose)
    for (const [name, n] of [...counts].sort()) console.log(`${String(n).padStart(8)} ${name}`)
  console.log(
    `${failures === 0 ? 'all good' : `${failures} FAILED`}: ${totals.operations} operations in ${totals.steps} steps, ` +
      `${Math.round(totals.simulatedMs / 1000)} simulated seconds, ${totals.folds} logs folded, ${seconds.toFixed(1)} s`,
  )
  process.exit(failures === 0 ? 0 : 1)
}

function report(result: RunResult): void {
  console.log(`\nseed ${result.seed} FAILED: ${result.violation?.stack ?? ''}`)
  console.log(`config ${JSON.stringify(result.config)}`)
  for (const line of result.tail) console.log(`  ${line.length > 400 ? `${line.slice(0, 400)} …` : line}`)
  const steps = operations === undefined ? '' : ` --steps ${operations}`
  console.log(`run it again: npm run sim -- --seed ${result.seed}${steps} [--verbose]\n`)
}

async function runJson(): Promise<void> {
  const found: { seed: number; error: string }[] = []
  const endMs = performance.now() + Number(values.minutes) * 60_000
  let seeds = 0
  for (; seeds < count && found.length < Number(values.failures); seeds++) {
    if (performance.now() >= endMs) break
    const { seed, violation } = await run(from + seeds, { operations })
    if (violation !== null) found.push({ seed, error: violation.message })
  }
  console.log(JSON.stringify({ seeds, found }))
  process.exit(0)
}

/**
 * A bounded share of the simulation (`npm run sim` and `npm run planted` run more): the same seeds always, some that
 * nobody has tried, and bugs put in on purpose, which must be found. Compiled, in processes of their own, two at a
 * time: so it takes a sixth of the time.
 */
import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'tap'
import { hunt, plantedBugs, runSeeds } from './planted.ts'

const processes = 2
const fixedSeeds = 30
const freshSeeds = 1000
/** A slow machine tries fewer of them. */
const freshMinutes = 1
/** Most bugs are found within ten. */
const seedsPerBugMax = 400

test('simulation', async (t) => {
  const root = resolve(import.meta.dirname, '../..')
  const built = t.testdir({ src: {}, test: {}, bench: {} })
  const tsc = resolve(root, 'node_modules/typescript/bin/tsc')
  await promisify(execFile)(
    process.execPath,
    [tsc, '-p', resolve(root, 'tsconfig.json'), '--outDir', built],
    {
      env: { PATH: process.env['PATH'] },
    },
  )
  t.jobs = processes
  const parallel = { buffered: true }
  const tests = [
    t.test('the seeds that were always tried', parallel, async (t) => {
      const { found } = await runSeeds(built, 1, fixedSeeds, 3)
      t.strictSame(found, [])
    }),
  ]
  const from = Math.floor(Math.random() * 2 ** 31)
  for (let share = 0; share < processes; share++) {
    const seeds = freshSeeds / processes
    tests.push(
      t.test(`seeds that nobody has tried, share ${share + 1}`, parallel, async (t) => {
        const { seeds: tried, found } = await runSeeds(built, from + share * seeds, seeds, 3, freshMinutes)
        t.comment(`${tried} seeds from ${from + share * seeds}`)
        t.strictSame(found, [], `${found.map(({ seed }) => `npm run sim -- --seed ${seed}`).join('; ')}`)
      }),
    )
  }
  for (const bug of plantedBugs) {
    tests.push(
      t.test(`a planted bug is found: ${bug.name}`, parallel, async (t) => {
        const { seeds, found } = await hunt(bug, root, built, bug.from ?? 1, seedsPerBugMax)
        t.equal(found.length, 1, `found in ${seeds} seeds`)
      }),
    )
  }
  await Promise.all(tests)
})

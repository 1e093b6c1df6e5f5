/**
 * A bounded share of the simulation (`npm run sim` and `npm run planted` run more): the same seeds always, some that
 * nobody has tried, and bugs put in on purpose, which must be found. Compiled, in processes of their own: so it takes
 * a third of the time.
 */
import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'tap'
import { hunt, plantedBugs, runSeeds } from './planted.ts'

const fixedSeeds = 30
const freshSeeds = 30
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

  await t.test('the seeds that were always tried', async (t) => {
    const { found } = await runSeeds(built, 1, fixedSeeds, 3)
    t.strictSame(found, [])
  })

  await t.test('seeds that nobody has tried', async (t) => {
    const { found } = await runSeeds(built, Math.floor(Math.random() * 2 ** 31), freshSeeds, 3)
    t.strictSame(found, [], `${found.map(({ seed }) => `npm run sim -- --seed ${seed}`).join('; ')}`)
  })

  for (const bug of plantedBugs) {
    await t.test(`a planted bug is found: ${bug.name}`, async (t) => {
      const { seeds, found } = await hunt(bug, root, built, 1, seedsPerBugMax)
      t.equal(found.length, 1, `found in ${seeds} seeds`)
    })
  }
})

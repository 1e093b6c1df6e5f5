import { join } from 'node:path'
import { test } from 'tap'
import { buildCommandIfStale, projectRoot } from '../../bench/broker-process.ts'
import { huntBug, wrongBrokers } from './planted.ts'
import { whyNotTraced } from './recording.ts'

// A few of them; `npm run crash-images -- --planted` tries all.
const tried = ['LMDB overlaps commits with syncs', 'a send is confirmed before its entry is on the disk']

test('images find a broker that is wrong on purpose', { timeout: 600_000 }, async (t) => {
  const why = whyNotTraced()
  if (why !== null) return t.fail(why)
  buildCommandIfStale()
  for (const name of tried) {
    const { changes } = wrongBrokers.find((bug) => bug.name === name)!
    const folder = join(t.testdir(), 'wrong')
    const { isFound, words } = await huntBug(projectRoot(), folder, changes, {
      seed: 20_262,
      imagesMax: 600,
      confirms: 300,
    })
    t.ok(isFound, `found: ${name}`)
    t.comment(words[0]?.slice(0, 200))
  }
})

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { drawPicture } from './picture.ts'
import { pictureOf, soak } from './soak.ts'

// A bounded share of the long run (`npm run soak`). Whether memory is flat shows in no twenty seconds: judge.test.ts
// tests who says so.
test(
  'all kinds of work are done, nothing is lost or comes twice, and the picture is drawn',
  { timeout: 240_000 },
  async (t) => {
    const folder = t.testdir()
    const dataDir = join(folder, 'data')
    mkdirSync(dataDir)
    const result = await soak({ dataDir, loadMs: 20_000, seed: 20_261, perSecond: 500, killedEveryMs: 500 })
    t.strictSame(result.words, [])
    t.equal(result.violations, 0)
    for (const [kind, times] of Object.entries(result.done)) t.ok(times > 0, `${kind}: ${times}`)

    const file = join(folder, 'soak.svg')
    writeFileSync(file, drawPicture(pictureOf(result.samples, 'soak', 'a short one')))
    const svg = readFileSync(file, 'utf8')
    for (const title of ['Memory of the broker', 'Log segments', 'Rates'])
      t.ok(svg.includes(`>${title}<`), title)
    t.notMatch(svg, /NaN|Infinity|undefined/)
    t.ok(svg.length < 200_000)
  },
)

import { randomInt } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { buildCommandIfStale, projectRoot } from '../../bench/broker-process.ts'
import { copyPackage, inAHurry } from './package-copy.ts'
import { huntLie, lyingDisks } from './planted.ts'
import { describeRecorded, record, whyNotTraced, type Recorded } from './recording.ts'
import { describeReplay, replay } from './replay.ts'

// A share of the long run (`npm run crash-images`). With the fixed seed the clients make the same choices, and chance
// picks the same images of a recording; which calls the broker makes differs, since processes run as they like.
const fixedSeed = 20_261
const seeds = [fixedSeed, randomInt(2 ** 31)]
const imagesPerSeed = 450
const imagesPerLie = 150
const confirms = 600

test(
  'what a power cut leaves opens, and misses nothing that was confirmed',
  { timeout: 600_000 },
  async (t) => {
    const why = whyNotTraced()
    if (why !== null) return t.fail(why)
    buildCommandIfStale()
    const folder = t.testdir()
    const root = join(folder, 'package')
    copyPackage(projectRoot(), root, inAHurry)
    for (const seed of seeds) {
      const own = join(folder, String(seed))
      mkdirSync(own)
      await t.test(`seed ${seed}`, async (t) => {
        const recorded = await record({ root, folder: own, seed, confirms })
        t.comment(describeRecorded(recorded))
        const result = await replay(recorded, { seed, imagesMax: imagesPerSeed })
        t.comment(describeReplay(result))
        t.same(result.words, [])
        t.equal(result.opened, imagesPerSeed, 'so many images were opened')
        t.ok(result.tornOpened > 0, 'some had torn writes')
        t.ok(result.owedMax > 0, 'messages were confirmed that had to be there')
        t.ok(recorded.segments.removed > 0, 'segments were removed')
        t.ok(result.copiesMax > 0, 'batches were copied')
        if (seed === fixedSeed) await testLies(t, recorded, seed)
      })
    }
  },
)

async function testLies(t: Test, recorded: Recorded, seed: number): Promise<void> {
  for (const lying of lyingDisks) {
    const { isFound, words } = await huntLie(recorded, lying, { seed, imagesMax: imagesPerLie })
    t.ok(isFound, `found: ${lying.name}`)
    t.comment(words[0]?.slice(0, 200))
  }
}

/**
 * `npm run crash-images -- [--seed N] [--images N|all] [--confirms N] [--planted]`: records a broker and opens what power
 * cuts may have left of it. Exit code 1 on any violation; then what was recorded is kept. With --planted: does it find
 * what is wrong on purpose?
 */
import { randomInt } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildCommandIfStale, projectRoot } from '../../bench/broker-process.ts'
import { copyPackage, inAHurry } from './package-copy.ts'
import { huntAll } from './planted.ts'
import { describeRecorded, record, whyNotTraced } from './recording.ts'
import { describeReplay, replay } from './replay.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    images: { type: 'string', default: '10000' },
    confirms: { type: 'string', default: '600' },
    planted: { type: 'boolean', default: false },
  },
})
const seed = Number(values.seed ?? randomInt(2 ** 31))
const imagesMax = values.images === 'all' ? Infinity : Number(values.images)
const confirms = Number(values.confirms)
const folder = mkdtempSync(join(tmpdir(), 'mq-crash-images-'))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
let isKept = false
process.once('exit', () => {
  if (!isKept) rmSync(folder, { recursive: true, force: true })
})
try {
  if (!Number.isSafeInteger(seed)) throw new Error('--seed is an integer')
  if (!(imagesMax > 0) || !(confirms > 0)) throw new Error('--images and --confirms are numbers above 0')
  const why = whyNotTraced()
  if (why !== null) throw new Error(why)
  console.log(`seed ${seed}`)
  buildCommandIfStale()
  const root = join(folder, 'package')
  copyPackage(projectRoot(), root, inAHurry)
  if (values.planted) {
    const missed = await huntAll(projectRoot(), folder, root, { seed, imagesMax, confirms }, console.log)
    process.exit(missed === 0 ? 0 : 1)
  }
  const recorded = await record({ root, folder, seed, confirms })
  console.log(describeRecorded(recorded))
  const result = await replay(recorded, { seed, imagesMax, say: console.log })
  console.log(describeReplay(result))
  if (result.violations > 0) {
    isKept = true
    process.exitCode = 1
    console.log(`the traces are kept in ${folder}`)
  }
} catch (error) {
  console.error(error)
  process.exitCode = 1
  isKept = existsSync(join(folder, 'data'))
  if (isKept) console.log(`what was recorded by then is kept in ${folder}`)
}
process.exit()

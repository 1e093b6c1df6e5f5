/** `npm run crash -- [--kills 50] [--seed N]`: the crash loop at length. Exit code 1 on any violation. */
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildCommandIfStale, within } from '../../bench/broker-process.ts'
import { crashLoop, describeResult } from './loop.ts'

const msPerKill = 10_000
const msBesides = 300_000

const { values } = parseArgs({ options: { kills: { type: 'string' }, seed: { type: 'string' } } })
const kills = Number(values.kills ?? 50)
const seed = Number(values.seed ?? randomInt(2 ** 31))
const dataDir = mkdtempSync(join(tmpdir(), 'mq-crash-'))
process.once('exit', () => rmSync(dataDir, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
try {
  if (!Number.isSafeInteger(kills) || kills < 0) throw new Error('--kills is a number from 0')
  if (!Number.isSafeInteger(seed)) throw new Error('--seed is an integer')
  console.log(`seed ${seed}`)
  buildCommandIfStale()
  const loop = crashLoop({ dataDir, kills, seed, say: console.log })
  const result = await within(kills * msPerKill + msBesides, 'the crash loop', loop)
  console.log(describeResult(result))
  if (result.history.violated) process.exitCode = 1
} catch (error) {
  console.error(error)
  process.exitCode = 1
}
if (process.exitCode === 1) console.log(`again with --seed ${seed} --kills ${kills}`)
process.exit()

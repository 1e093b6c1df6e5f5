/**
 * The broker asks for eight threads in libuv's pool before anything uses it. A running process has others beside
 * them (four of V8's own, by default), so threads are counted against a process whose pool was given another size.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBroker } from './process.ts'

/** Threads of a broker that has used its pool: its log, its store and its clients have. */
async function threadsOf(t: Test, poolSize?: string): Promise<number> {
  const environment = poolSize === undefined ? {} : { UV_THREADPOOL_SIZE: poolSize }
  const dataDir = join(t.testdirName, `pool-${poolSize}`)
  const broker = await startBroker(t, dataDir, [], environment)
  await broker.run(['queue', 'create', 'orders'])
  await broker.run(['send', 'orders', 'hello'])
  return readdirSync(`/proc/${broker.pid}/task`).length
}

t.test(
  'the pool has eight threads, unless the environment says otherwise',
  { skip: process.platform === 'linux' ? false : 'needs /proc' },
  async (t) => {
    t.testdir()
    const byDefault = await threadsOf(t)
    t.equal(byDefault - (await threadsOf(t, '2')), 8 - 2)
    t.equal((await threadsOf(t, '12')) - byDefault, 12 - 8)
    t.equal(await threadsOf(t, ''), byDefault, 'empty counts as unset')
  },
)

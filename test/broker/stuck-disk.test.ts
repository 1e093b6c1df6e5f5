/** A real broker whose disk never ends a sync: seen from outside, since only a real thread can be stuck. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { childEnvironment, ownChild, projectRoot } from '../../bench/broker-process.ts'
import { connect } from '../../src/index.ts'
import { firstLine } from '../cli/process.ts'

/** Promised for a stop. */
const stopMsMax = 10_000

/** Its threads have ended, but for the stuck one, which strace does not let go of. */
function isDead(pid: number): boolean {
  return / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
}

interface Stuck {
  readonly file: string
  readonly call: string
}

/** Makes a queue and ends the broker, to which a call of one file never returns. @returns what the client heard */
async function endStuck(t: Test, { file, call }: Stuck): Promise<unknown> {
  if (spawnSync('strace', ['-V']).error !== undefined) {
    throw new Error('this test needs strace: apt-get install strace')
  }
  const dataDir = join(t.testdir(), 'data')
  mkdirSync(dataDir)
  const trace = join(dataDir, '..', 'trace')
  const stuck = ['-P', join(dataDir, file), '-e', `inject=${call}:delay_enter=120000000`]
  const start = [join(projectRoot(), 'bin', 'mq-broker.js'), 'start', '--json', '--data-dir', dataDir]
  const ports = ['--listen', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const child = spawn(
    'strace',
    ['-f', '-o', trace, '-e', `trace=${call}`, ...stuck, process.execPath, ...start, ...ports],
    { env: childEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] },
  )
  ownChild(child)
  t.teardown(() => child.kill('SIGKILL'))
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const { pid, listen } = JSON.parse((await firstLine(child)) ?? '{}') as { pid: number; listen: string }

  const mq = await connect({ servers: [listen] })
  const created = mq
    .createQueue('orders')
    .then(() => 'created')
    .catch((error: unknown) => error)
  // Its log's first entry is on the way to the disk, or there.
  const isThere = created.then(() => true)
  const isStuck = () => readFileSync(trace, 'utf8').includes(`${call}(`)
  while (!isStuck() && !(await Promise.race([isThere, setTimeout(10)])));
  const begunMs = performance.now()
  process.kill(pid, 'SIGTERM')
  while (!isDead(pid) && performance.now() - begunMs < 2 * stopMsMax) await setTimeout(50)
  const tookMs = performance.now() - begunMs
  t.ok(tookMs < stopMsMax, `it took ${Math.round(tookMs)} ms`)
  // It is dead, and what it said last may still be on its way here.
  const lastWords = /^mq-broker: the disk did not end a commit before the stop was over/m
  while (!lastWords.test(log) && performance.now() - begunMs < 2 * stopMsMax) await setTimeout(50)
  t.match(log, lastWords)
  await mq.close()
  return created
}

void t.test('SIGTERM ends the process', { timeout: 120_000 }, async (t) => {
  await t.test('though a write to the journal never returns', async (t) => {
    t.match(await endStuck(t, { file: 'JOURNAL', call: 'pwrite64' }), { outcome: 'unknown' })
  })
  await t.test('though a sync never returns of what moves from the journal to its segment', async (t) => {
    t.equal(await endStuck(t, { file: '00000001.mdb', call: 'fdatasync' }), 'created')
  })
})

/** A real broker whose disk never ends a sync: seen from outside, since only a real thread can be stuck. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import { childEnvironment, ownChild, projectRoot } from '../../bench/broker-process.ts'
import { connect } from '../../src/index.ts'
import { firstLine } from '../cli/process.ts'

/** Promised for a stop. */
const stopMsMax = 10_000

/** Its threads have ended, but for the stuck one, which strace does not let go of. */
function isDead(pid: number): boolean {
  return / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
}

void t.test('SIGTERM ends the process though a sync never returns', { timeout: 60_000 }, async (t) => {
  if (spawnSync('strace', ['-V']).error !== undefined) {
    t.fail('this test needs strace: apt-get install strace')
    return
  }
  const dataDir = join(t.testdir(), 'data')
  mkdirSync(dataDir)
  const trace = join(dataDir, '..', 'trace')
  // Only the log's segment: a start without queues writes nothing there.
  const stuck = ['-P', join(dataDir, '00000001.mdb'), '-e', 'inject=fdatasync:delay_enter=120000000']
  const start = [join(projectRoot(), 'bin', 'mq-broker.js'), 'start', '--json', '--data-dir', dataDir]
  const ports = ['--listen', '127.0.0.1:0', '--http', '127.0.0.1:0']
  const child = spawn(
    'strace',
    ['-f', '-o', trace, '-e', 'trace=fdatasync', ...stuck, process.execPath, ...start, ...ports],
    { env: childEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] },
  )
  ownChild(child)
  t.teardown(() => child.kill('SIGKILL'))
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text))
  const { pid, listen } = JSON.parse((await firstLine(child)) ?? '{}') as { pid: number; listen: string }

  const mq = await connect({ servers: [listen] })
  const created = mq.createQueue('orders').catch((error: unknown) => error)
  // Its log's first entry is on the way to the disk.
  while (!readFileSync(trace, 'utf8').includes('fdatasync(')) await setTimeout(10)
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
  t.match(await created, { outcome: 'unknown' })
})

import { test } from 'tap'
import { LimitedLog } from '../../src/observe/limited-log.ts'
import { SimWorld } from '../../src/sim/world.ts'

function setUp() {
  const world = new SimWorld({ seed: 1 })
  const lines: Record<string, unknown>[] = []
  const note = (fields: object, message: string): void => void lines.push({ ...fields, message })
  const { clock } = world.process('broker').env
  return { world, lines, log: new LimitedLog({ debug: note, info: note, warn: note }, clock) }
}

test('a kind of line is written twenty times in ten seconds, whatever happens', (t) => {
  const { lines, log } = setUp()
  for (let i = 0; i < 10_000; i++) log.write('info', 'refused', { i })
  t.equal(lines.length, 20)
  t.end()
})

test('the next line that is written says how many were left out', async (t) => {
  const { world, lines, log } = setUp()
  for (let i = 0; i < 25; i++) log.write('info', 'refused', {})
  await world.advance(10_000)
  log.write('info', 'refused', {})
  log.write('info', 'refused', {})
  t.strictSame(lines.slice(20), [{ leftOut: 5, message: 'refused' }, { message: 'refused' }])
})

test('what was left out is told at the end', (t) => {
  const { lines, log } = setUp()
  for (let i = 0; i < 25; i++) log.write('info', 'refused', { code: 'THROTTLED' })
  log.close()
  t.strictSame(lines.at(-1), { kind: 'refused THROTTLED', leftOut: 5, message: 'lines were left out' })
  t.end()
})

test('one code does not hide another', (t) => {
  const { lines, log } = setUp()
  for (let i = 0; i < 25; i++) log.write('info', 'refused', { code: 'THROTTLED' })
  log.write('info', 'refused', { code: 'DISK_FULL' })
  t.equal(lines.at(-1)!['code'], 'DISK_FULL')
  t.end()
})

test('text that a client chose is cut', (t) => {
  const { lines, log } = setUp()
  log.write('warn', 'refused', { reason: 'x'.repeat(1_000_000) })
  t.ok((lines[0]!['reason'] as string).length < 400)
  t.end()
})

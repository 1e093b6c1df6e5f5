/** What retention does to a log whose disk is full, on the simulated clock; the log is one that says what the test wants. */
import t from 'tap'
import type { Run } from '../../src/partition/range-map.ts'
import { SimWorld } from '../../src/sim/world.ts'
import type { SharedLog } from '../../src/storage/log.ts'
import { Retention } from '../../src/storage/retention.ts'

const reserveBytes = 8_000_000
const copiedBytes = 1000

/** A full disk, with a segment that is kept for one message of a thousand, and one that is kept for all. */
function fullDisk() {
  const world = new SimWorld({ seed: 1 })
  const needs: Record<string, 'messages' | 'nothing'> = { '1': 'messages', '2': 'messages' }
  const seen = { copies: 0, removed: [] as string[] }
  const partition = {
    needs: (name: string) => needs[name],
    nextHeldIn(name: string, from: number, into: Run): boolean {
      if (from > 0) return false
      Object.assign(into, { start: 0, end: name === '1' ? 1 : 1000 })
      return true
    },
    offsetsIn: () => 1000,
    copy() {
      seen.copies++
      return { end: 1, bytes: copiedBytes }
    },
  }
  const log = {
    appended: 1,
    isFull: true,
    isBlocked: false,
    reservesGiven: 1,
    backlogged: false,
    cache: { dropLate: () => undefined },
    segments: ['1', '2', '3'].map((name) => ({ name, usedBytes: name === '3' ? 1000 : 4_000_000 })),
    partitions: [partition],
    // Not before somebody makes room.
    flushed: (orFull = false) => (orFull ? Promise.resolve() : new Promise<void>(() => undefined)),
    async remove(name: string) {
      seen.removed.push(name)
      log.segments = log.segments.filter((segment) => segment.name !== name)
    },
  }
  const options = { retentionMs: 100, copyAfterMs: 30_000, commitBytesMax: 2 << 20, reserveBytes }
  const failed = (error: unknown): void => {
    t.fail(String(error))
  }
  const { clock } = world.process('broker').env
  const retention = new Retention(log as unknown as SharedLog, clock, options, failed)
  t.teardown(() => retention.close())
  return { world, log, needs, seen }
}

void t.test('what nothing needs any more is removed, whatever copies wait for', async (t) => {
  const { world, needs, seen } = fullDisk()
  await world.advance(60_000)
  t.ok(seen.copies > 0)
  needs['2'] = 'nothing'
  await world.advance(200)
  t.strictSame(seen.removed, ['2'])
})

void t.test('copies have no more than their part of a reserve, and none once that is used up', async (t) => {
  const { world, log, seen } = fullDisk()
  await world.advance(300_000)
  t.equal(seen.copies, reserveBytes / 4 / copiedBytes)
  log.reservesGiven++
  log.isBlocked = true
  await world.advance(60_000)
  t.equal(seen.copies, reserveBytes / 4 / copiedBytes)
})

void t.test('nor have they any of a disk that is full without a reserve', async (t) => {
  const { world, log, seen } = fullDisk()
  log.reservesGiven = 0
  await world.advance(100_000)
  t.equal(seen.copies, 0)
})

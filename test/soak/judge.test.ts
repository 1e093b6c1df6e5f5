import { test } from 'tap'
import { SeededRandom } from '../crash/random.ts'
import { bounds } from './bounds.ts'
import { judge } from './judge.ts'

const seconds = Array.from({ length: 900 }, (_, i) => i)
const mebibyte = 2 ** 20
const bound = bounds.beyondMapBytes

/** Memory as a garbage collector leaves it: a saw, with noise and now and then a peak. */
function saw(seed: number, growthPerSecond = 0): number[] {
  const random = new SeededRandom(seed)
  return seconds.map((second) => {
    const tooth = (second % 17) * 1.5 + random.unit() * 6 + (random.chance(0.01) ? 60 : 0)
    return (80 + tooth + growthPerSecond * second) * mebibyte
  })
}

test('memory that goes up and down is flat, whatever the noise', async (t) => {
  for (let seed = 1; seed <= 20; seed++) t.ok(judge(seconds, saw(seed), bound).isFlat, `seed ${seed}`)
})

test('memory that grows below its noise is found', async (t) => {
  // 5 KiB a message at ten messages a second.
  for (let seed = 1; seed <= 20; seed++) {
    t.notOk(judge(seconds, saw(seed, 0.05), bound).isFlat, `seed ${seed}`)
  }
})

test('what grows while it warms up, and then no more, is flat', async (t) => {
  const values = seconds.map((second) => Math.min(second, 290) * mebibyte)
  const { isFlat, trend, step } = judge(seconds, values, bound)
  t.ok(isFlat)
  t.equal(trend, 0)
  t.equal(step, 0)
})

test('a step in the last third is found, though a slope over all would be small', async (t) => {
  const values = seconds.map((second) => (second < 720 ? 100 : 150) * mebibyte)
  t.notOk(judge(seconds, values, bound).isFlat)
})

test('a leak of descriptors is found', async (t) => {
  const values = seconds.map((second) => 30 + Math.floor(second / 50) + (second % 3))
  t.notOk(judge(seconds, values, bounds.openDescriptors).isFlat)
})

test('of a rate a decline is found, a rise is none', async (t) => {
  const falling = seconds.map((second) => 2000 - second)
  t.notOk(judge(seconds, falling, bounds.sentPerSecond).isFlat)
  t.ok(judge(seconds, falling.toReversed(), bounds.sentPerSecond).isFlat)
})

test('what becomes less is flat where growth is bad', async (t) => {
  const falling = seconds.map((second) => (1000 - second) * mebibyte)
  t.ok(judge(seconds, falling, bound).isFlat)
})

test('a few bad seconds are no trend', async (t) => {
  const values = seconds.map((second) => (second > 700 && second < 730 ? 10 : 2000))
  t.ok(judge(seconds, values, bounds.ackedPerSecond).isFlat)
})

test('hours are judged too, and a handful of samples is not', async (t) => {
  const hours = Array.from({ length: 20_000 }, (_, i) => i)
  const leaking = hours.map((second) => (100 + second * 0.003) * mebibyte)
  t.notOk(judge(hours, leaking, bound).isFlat)
  t.throws(() => judge([0, 1, 2], [1, 1, 1], bound), { message: /too few/ })
})

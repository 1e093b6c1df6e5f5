import { test } from 'tap'
import { afterMicrotasks, systemClock, systemRandom } from '../src/system.ts'

test('a timer runs once, no sooner than asked', async (t) => {
  const startMs = systemClock.monotonicMs()
  let runs = 0
  await new Promise<void>((resolve) => {
    systemClock.after(2.5, () => {
      runs += 1
      resolve()
    })
  })
  t.ok(systemClock.monotonicMs() - startMs >= 2.5)
  t.equal(runs, 1)
})

test('a delay longer than node can count does not run at once', async (t) => {
  const early: string[] = []
  const timers = [2 ** 31, 2 ** 40, Infinity].map((delayMs) =>
    systemClock.after(delayMs, () => early.push(`${delayMs} ms`)),
  )
  await new Promise<void>((resolve) => systemClock.after(5, resolve))
  for (const timer of timers) timer.cancel()
  for (const timer of timers) timer.cancel()
  t.strictSame(early, [])
})

test('a cancelled timer never runs', async (t) => {
  const timer = systemClock.after(1, () => t.fail('ran'))
  timer.cancel()
  await new Promise<void>((resolve) => systemClock.after(3, resolve))
  timer.cancel()
})

test('soon comes after the promises and ticks of this turn', async (t) => {
  const order: string[] = []
  await new Promise<void>((resolve) => {
    systemClock.soon(() => {
      order.push('soon')
      resolve()
    })
    process.nextTick(() => order.push('tick'))
    void Promise.resolve().then(() => order.push('promise'))
  })
  t.equal(order.at(-1), 'soon')
  t.equal(order.length, 3)
})

test('afterMicrotasks waits for chains of promises and ticks', async (t) => {
  let hops = 0
  const hop = (): void => {
    hops += 1
    if (hops === 100) return
    if (hops % 2 === 0) process.nextTick(hop)
    else void Promise.resolve().then(hop)
  }
  hop()
  await afterMicrotasks()
  t.equal(hops, 100)
})

test('random bytes and numbers are of the asked size', async (t) => {
  t.equal(systemRandom.bytes(16).byteLength, 16)
  const unit = systemRandom.unit()
  t.ok(unit >= 0 && unit < 1)
})

/** One seed, one run: without that, a failure could not be looked at twice. */
import { test } from 'tap'
import { run } from './run.ts'

const seeds = [3, 8, 1072]

for (const seed of seeds) {
  test(`seed ${seed} runs the same twice`, async (t) => {
    const first = await run(seed)
    const second = await run(seed)
    t.equal(second.traceHash, first.traceHash)
    t.equal(second.historyHash, first.historyHash)
    t.equal(second.steps, first.steps)
    t.ok(first.messages > 0, 'and something has happened')
  })
}

test('another seed runs differently', async (t) => {
  const [one, other] = [await run(3), await run(8)]
  t.not(one.traceHash, other.traceHash)
  t.not(one.historyHash, other.historyHash)
})

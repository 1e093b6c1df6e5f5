import { test } from 'tap'
import { crashLoop, describeResult } from './loop.ts'

// A fixed share of the long loop (`npm run crash`). The seed is fixed too: moments of a kill still differ, since
// processes run as they like.
test(
  'kill -9 under load loses nothing confirmed and brings nothing back',
  { timeout: 110_000 },
  async (t) => {
    const dataDir = t.testdir()
    const result = await crashLoop({ dataDir, kills: 4, seed: 20_260, say: (line) => t.comment(line) })
    t.comment(describeResult(result))
    t.same(result.history.words, [])
    t.ok(result.history.counts.confirmedSends > 0, 'sends were confirmed')
    t.ok(result.history.counts.confirmedAcks > 0, 'acks were confirmed')
  },
)

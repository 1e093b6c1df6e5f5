import { test } from 'tap'
import { RangeMap } from '../../src/partition/range-map.ts'
import type { Conversation } from './conversation.ts'
import { Promises, type Found } from './promises.ts'

const log = 'a1/0'
const purge = { what: 'purge', queue: 'jobs', asked: 30, told: 40 } as const

/** One message, confirmed at 20, and a purge that is asked for at 30. */
function promised(): Promises {
  const sent = { log, count: 1, crc: 1, asked: 10, told: 20, base: 0, epoch: 1 }
  const conversation: Conversation = {
    sends: [sent],
    settles: [],
    commands: [purge],
    ids: new Map([['jobs', new Set(['a1'])]]),
    origins: new Map(),
  }
  return new Promises(conversation)
}

/** Of the log, one message, which is gone. */
function purged(): Found {
  const logs = new Map([
    [log, { live: new RangeMap(), moving: new RangeMap(), logEnd: 1, batches: [], origins: new Map() }],
  ])
  return { problems: [], copies: 0, queues: new Map(), logs }
}

test('what was confirmed is owed until a purge is asked for', (t) => {
  const promises = promised()
  promises.advance(9, 10)
  t.same(promises.judge(purged()), [])
  promises.advance(29, 30)
  t.same(promises.judge(purged()), ['lost: 1 of jobs/0/1-0 to 0'])
  promises.advance(30, 31)
  t.same(promises.judge(purged()), [])
  t.end()
})

test('what was confirmed before a purge is not owed after it, though both come at once', (t) => {
  const promises = promised()
  promises.advance(30, 31)
  t.same(promises.judge(purged()), [])
  t.end()
})

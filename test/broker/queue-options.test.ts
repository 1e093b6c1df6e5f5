import t from 'tap'
import { effectiveOptions, parseQueueOptions, sameOptions } from '../../src/broker/queue-options.ts'
import { isQueueName } from '../../src/wire/codec.ts'

const invalid = (field: string) => ({ code: 'INVALID_FIELD', details: { field } })

void t.test('what is not set has its default', async (t) => {
  t.strictSame(effectiveOptions(parseQueueOptions('orders', {})), {
    partitions: 1,
    replicas: 1,
    minInSync: 1,
    confirm: 'replicas',
    storage: 'disk',
    visibilityTimeoutMs: 30_000,
    maxMessageBytes: 1_048_576,
    delayMs: 0,
    backoff: null,
    maxDeliveries: null,
    deadLetterQueue: null,
  })
})

void t.test('only what was set is kept', async (t) => {
  t.strictSame(
    parseQueueOptions('orders', { partitions: 4, visibilityTimeoutMs: null, maxMessageBytes: undefined }),
    {
      partitions: 4,
    },
  )
})

void t.test('each limit', async (t) => {
  const limits = { partitions: 1024, visibilityTimeoutMs: 12 * 3_600_000, maxMessageBytes: 16 << 20 }
  for (const [name, most] of Object.entries(limits)) {
    t.strictSame(parseQueueOptions('orders', { [name]: 1 }), { [name]: 1 }, `${name} of 1`)
    t.strictSame(parseQueueOptions('orders', { [name]: most }), { [name]: most }, `${name} of ${most}`)
    for (const wrong of [0, -1, most + 1, 1.5, NaN, Infinity, '1', true, [1], {}]) {
      t.throws(
        () => parseQueueOptions('orders', { [name]: wrong }),
        invalid(name),
        `${name} of ${JSON.stringify(wrong)}`,
      )
    }
  }
})

void t.test('a delay is up to a year', async (t) => {
  for (const delayMs of [0, 1, 31_536_000_000])
    t.strictSame(parseQueueOptions('orders', { delayMs }), { delayMs })
  for (const delayMs of [-1, 31_536_000_001, 1.5, '1s']) {
    t.throws(() => parseQueueOptions('orders', { delayMs }), invalid('delayMs'))
  }
})

void t.test('a backoff', async (t) => {
  const fixed = { type: 'fixed', delayMs: 10 } as const
  await t.test('has defaults', async (t) => {
    t.strictSame(
      effectiveOptions(parseQueueOptions('orders', { backoff: { ...fixed, maxMs: null } })).backoff,
      {
        type: 'fixed',
        delayMs: 10,
        maxMs: 31_536_000_000,
        jitter: 0,
      },
    )
  })
  await t.test('that is wrong is refused by the name of what is wrong', async (t) => {
    const wrong: [unknown, string][] = [
      [1, 'backoff'],
      [[], 'backoff'],
      [{ type: 'fixed' }, 'backoff.delayMs'],
      [{ ...fixed, type: 'linear' }, 'backoff.type'],
      [{ ...fixed, delayMs: 0 }, 'backoff.delayMs'],
      [{ ...fixed, maxMs: 9 }, 'backoff.maxMs'],
      [{ ...fixed, maxMs: 31_536_000_001 }, 'backoff.maxMs'],
      [{ ...fixed, jitter: 1.1 }, 'backoff.jitter'],
      [{ ...fixed, jitter: -0.1 }, 'backoff.jitter'],
      [{ ...fixed, factor: 3 }, 'backoff.factor'],
    ]
    for (const [backoff, field] of wrong) {
      t.throws(() => parseQueueOptions('orders', { backoff }), invalid(field), JSON.stringify(backoff))
    }
  })
  await t.test('is equal to another that does the same', async (t) => {
    t.ok(sameOptions({ backoff: fixed }, { backoff: { ...fixed, jitter: 0 } }))
    t.notOk(sameOptions({ backoff: fixed }, { backoff: { ...fixed, jitter: 0.5 } }))
    t.notOk(sameOptions({ backoff: fixed }, {}))
  })
})

void t.test('a word that is none of the choices', async (t) => {
  t.throws(() => parseQueueOptions('orders', { confirm: 'all' }), invalid('confirm'))
  t.throws(() => parseQueueOptions('orders', { storage: 'tape' }), invalid('storage'))
})

void t.test('an option that nobody knows is named', async (t) => {
  t.throws(() => parseQueueOptions('orders', { partitons: 1 }), invalid('partitons'))
  t.throws(() => parseQueueOptions('orders', JSON.parse('{"__proto__": 1}')), invalid('__proto__'))
  t.throws(() => parseQueueOptions('orders', { constructor: 1 }), invalid('constructor'))
})

void t.test('what is not built yet is refused, not ignored', async (t) => {
  const later = {
    ttlMs: 1,
    dedupeWindowMs: 1,
    retainAckedMs: 1,
    maxMessages: 1,
    maxBytes: 1,
    overflow: 'reject',
    fairness: 1,
    singleActiveConsumer: true,
    orderedBatch: true,
    confirm: 'none',
    storage: 'memory',
    replicas: 3,
    minInSync: 2,
  }
  for (const [name, value] of Object.entries(later)) {
    t.throws(() => parseQueueOptions('orders', { [name]: value }), { code: 'UNSUPPORTED' }, name)
    t.strictSame(parseQueueOptions('orders', { [name]: null }), {}, `${name} of nil counts as absent`)
  }
})

void t.test('an option in force today is not among them', async (t) => {
  t.strictSame(
    parseQueueOptions('orders', { confirm: 'leader', storage: 'disk', replicas: 1, minInSync: 1 }),
    {
      confirm: 'leader',
      storage: 'disk',
      replicas: 1,
      minInSync: 1,
    },
  )
})

void t.test('queues are the same', async (t) => {
  t.equal(sameOptions({}, { partitions: 1, confirm: 'replicas' }), true, 'when a default was set')
  t.equal(sameOptions({ partitions: 2 }, {}), false, 'and are not when one option differs')
})

void t.test('a queue name', async (t) => {
  for (const name of ['a', '0', 'orders', 'a.b_c-D', 'a.', 'a--', 'x'.repeat(255)]) {
    t.equal(isQueueName(name), true, name.slice(0, 20))
  }
  const wrong = ['', '.a', '-a', '_a', 'a..b', 'a b', 'a/b', 'ä', 'a\n', 'a\0', '\u{1F600}', 'x'.repeat(256)]
  for (const name of wrong) t.equal(isQueueName(name), false, JSON.stringify(name.slice(0, 20)))
})

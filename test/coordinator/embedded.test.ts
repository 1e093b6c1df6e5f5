/** Metadata that has rotted is said to be so: a start never guesses what queues there are. */
import { test, type Test } from 'tap'
import { EmbeddedStore, metaPut } from '../../src/coordinator/embedded.ts'
import type { Put } from '../../src/env.ts'
import { SimStore } from '../../src/sim/store.ts'
import { systemClock, systemRandom } from '../../src/system.ts'

const id = 'ab'.repeat(16)

async function opened(store: SimStore): Promise<EmbeddedStore> {
  return EmbeddedStore.open(store, systemClock, systemRandom, {
    nodeId: undefined,
    commitTimeoutMs: 1000,
    failed: () => undefined,
    makeRoom: () => Promise.resolve(false),
  })
}

/** Opens a store in which the records of queues are these. */
async function withRecords(_t: Test, ...records: Put[]): Promise<EmbeddedStore> {
  const store = new SimStore()
  await store.lock()
  await (await opened(store)).close()
  const segment = await store.open('meta', { create: false })
  await segment.commit(records)
  await segment.close()
  return opened(store)
}

test('a record that is whole is read', async (t) => {
  const meta = await withRecords(t, metaPut(`queue/${id}`, ['orders', { partitions: 2 }, 1, null]))
  t.match(meta.queues.get('orders'), { id, options: { partitions: 2 }, createdMs: 1 })
})

const whole = metaPut(`queue/${id}`, ['orders', { partitions: 2 }, 1, null])

const damaged: Record<string, Put> = {
  'bytes that are no msgpack': { ...whole, value: Uint8Array.of(0xc1, 0xff) },
  'a record cut short': { ...whole, value: whole.value.subarray(0, 9) },
  'a record that is no list': metaPut(`queue/${id}`, 'orders'),
  'a name that is none': metaPut(`queue/${id}`, ['../orders', {}, 1, null]),
  'no options': metaPut(`queue/${id}`, ['orders', null, 1, null]),
  'partitions that are no number': metaPut(`queue/${id}`, ['orders', { partitions: 'x' }, 1, null]),
  'more partitions than there can be': metaPut(`queue/${id}`, ['orders', { partitions: 1e9 }, 1, null]),
  'a time that is none': metaPut(`queue/${id}`, ['orders', {}, 'now', null]),
  'an id that is none': metaPut('queue/orders', ['orders', {}, 1, null]),
}

for (const [what, record] of Object.entries(damaged)) {
  test(`${what}: CORRUPT_LOG`, async (t) => {
    await t.rejects(withRecords(t, record), { code: 'CORRUPT_LOG' })
  })
}

test('two queues of one name: CORRUPT_LOG', async (t) => {
  const value = ['orders', {}, 1, null]
  await t.rejects(withRecords(t, metaPut(`queue/${id}`, value), metaPut(`queue/${'cd'.repeat(16)}`, value)), {
    code: 'CORRUPT_LOG',
  })
})

/** Metadata that has rotted is said to be so: a start never guesses what queues there are. */
import { test, type Test } from 'tap'
import { EmbeddedStore } from '../../src/coordinator/embedded.ts'
import { SimStore } from '../../src/sim/store.ts'
import { systemClock, systemRandom } from '../../src/system.ts'
import { pack } from '../../src/wire/msgpack.ts'

const id = 'ab'.repeat(16)

async function opened(store: SimStore): Promise<EmbeddedStore> {
  return EmbeddedStore.open(store, systemClock, systemRandom, {
    nodeId: undefined,
    commitTimeoutMs: 1000,
    failed: () => undefined,
  })
}

/** Opens a store in which the records of queues are these. */
async function withRecords(_t: Test, ...records: [key: string, value: Uint8Array][]): Promise<EmbeddedStore> {
  const store = new SimStore()
  await store.lock()
  await (await opened(store)).close()
  const segment = await store.open('meta', { create: false })
  await segment.commit(records.map(([key, value]) => ({ key: Buffer.from(key), value })))
  await segment.close()
  return opened(store)
}

test('a record that is whole is read', async (t) => {
  const meta = await withRecords(t, [`queue/${id}`, pack(['orders', { partitions: 2 }, 1, null])])
  t.match(meta.queues.get('orders'), { id, options: { partitions: 2 }, createdMs: 1 })
})

const damaged: Record<string, [key: string, value: Uint8Array]> = {
  'bytes that are no msgpack': [`queue/${id}`, Uint8Array.of(0xc1, 0xff)],
  'a record cut short': [`queue/${id}`, pack(['orders', { partitions: 2 }, 1, null]).subarray(0, 9)],
  'a record that is no list': [`queue/${id}`, pack('orders')],
  'a name that is none': [`queue/${id}`, pack(['../orders', {}, 1, null])],
  'no options': [`queue/${id}`, pack(['orders', null, 1, null])],
  'partitions that are no number': [`queue/${id}`, pack(['orders', { partitions: 'x' }, 1, null])],
  'more partitions than there can be': [`queue/${id}`, pack(['orders', { partitions: 1e9 }, 1, null])],
  'a time that is none': [`queue/${id}`, pack(['orders', {}, 'now', null])],
  'an id that is none': ['queue/orders', pack(['orders', {}, 1, null])],
}

for (const [what, record] of Object.entries(damaged)) {
  test(`${what}: CORRUPT_LOG`, async (t) => {
    await t.rejects(withRecords(t, record), { code: 'CORRUPT_LOG' })
  })
}

test('two queues of one name: CORRUPT_LOG', async (t) => {
  const value = pack(['orders', {}, 1, null])
  await t.rejects(withRecords(t, [`queue/${id}`, value], [`queue/${'cd'.repeat(16)}`, value]), {
    code: 'CORRUPT_LOG',
  })
})

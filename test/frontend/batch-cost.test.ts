/**
 * What the broker does for a batch does not depend on how many messages are in it. V8 counts the calls of every
 * function while a batch is sent, received and acked through the whole broker: once for fewer messages, once for
 * more. What is called more often for more looks at single messages.
 */
import t from 'tap'
import { buffers } from '../../src/buffers.ts'
import { op } from '../../src/wire/messages.ts'
import type { MessageAttributes } from '../../src/wire/batch.ts'
import { callsOf, endCounting } from '../calls.ts'
import {
  batchOf,
  receiveFields,
  sendFields,
  settleFields,
  simulatedStage,
  type Stage,
} from '../bad-input/stage.ts'

/** Numbers of messages that take the same bytes to write, so that no call differs for that. */
const fewer = 300
const more = 900
// Nor where their memory comes from.
Object.assign(buffers.options, { smallBytes: 0, largeBytes: 0 })

/** Calls of each function of the product by name, and what passed by on the way. */
interface Cost {
  calls: Map<string, number>
  /** Entries that the partition appended to its log. */
  entries: number
  /** Leases that the partition granted. */
  leases: number
  deliveries: number
  /** The batch came back byte by byte. */
  unchanged: boolean
}

/** Sends `count` messages as one batch, receives and acks them as one range, each measured. */
async function costsOf(stage: Stage, count: number, attributes?: MessageAttributes) {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const partition = stage.broker.internals.queues.get(queue.name)!.partitions[0]!
  const passing = { entries: 0, leases: 0 }
  const append = partition.append.bind(partition)
  const lease = partition.lease.bind(partition)
  partition.append = (...args) => {
    passing.entries++
    append(...args)
  }
  partition.lease = (...args) => {
    passing.leases++
    return lease(...args)
  }
  const measured = async (work: () => Promise<Partial<Cost>>): Promise<Cost> => {
    Object.assign(passing, { entries: 0, leases: 0 })
    let rest: Partial<Cost> = {}
    const calls = await callsOf(async () => {
      rest = await work()
    })
    return { calls, deliveries: 0, unchanged: true, ...passing, ...rest }
  }
  const batch = batchOf(new Array<string>(count).fill('body'), attributes)
  const send = await measured(async () => {
    const [nr] = await peer.ask(op.send, ...sendFields(queue, { batch, count }))
    return { unchanged: nr === op.sent }
  })
  let items: number[] = []
  const receive = await measured(async () => {
    const [, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue, { max: 1000 }))
    const [, leaseEpoch, number, , , base, , , , bytes] = deliveries[0]
    items = [leaseEpoch, number, base, count]
    return { deliveries: deliveries.length, unchanged: batch.equals(bytes) }
  })
  const ack = await measured(async () => {
    const answer = await peer.ask(op.settle, ...settleFields(queue, { sequence: 2, items }))
    return { unchanged: answer[0] === op.settled && answer[2] === null }
  })
  return { send, receive, ack }
}

/** Functions that were called more often in `large`, and how much more. */
function grown(small: Cost, large: Cost): Record<string, number> {
  const growth = [...large.calls].map(
    ([name, count]) => [name, count - (small.calls.get(name) ?? 0)] as const,
  )
  return Object.fromEntries(
    growth.filter(([, by]) => by > 0).map(([name, by]) => [name.replace(/ \d+$/, ''), by]),
  )
}

const stage = await simulatedStage(t)
// Whatever happens on first use only has happened.
await costsOf(stage, 2)
const small = await costsOf(stage, fewer)
const large = await costsOf(stage, more)

/** The one pass over the column of lengths: reading one is all that is done for a message. */
const lengthsRead = { 'wire/scan.ts uint32At': more - fewer }

t.test('a send is one entry, and looks at nothing but the length of each message', async (t) => {
  t.strictSame(grown(small.send, large.send), lengthsRead)
  t.match(large.send, { entries: 1, leases: 0, unchanged: true })
})

t.test('a receive is one lease and one delivery of the very bytes that were sent', async (t) => {
  t.strictSame(grown(small.receive, large.receive), lengthsRead)
  t.match(large.receive, { entries: 0, leases: 1, deliveries: 1, unchanged: true })
})

t.test('an ack of a contiguous range is one entry, and looks at no message', async (t) => {
  t.strictSame(grown(small.ack, large.ack), {})
  t.match(large.ack, { entries: 1, leases: 0, unchanged: true })
})

t.test('neither decodes any value: no serializer, no attribute', async (t) => {
  for (const { calls } of [large.send, large.receive]) {
    const decoded = [...calls.keys()].filter((name) =>
      /batch\.ts (get |decodeColumns|measureExtras|readHeaders|serializerName|forEachMessage|messageBody)/.test(
        name,
      ),
    )
    t.strictSame(decoded, [])
  }
})

t.test('a batch that is given out message by message is parsed once', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const count = 50
  await peer.ask(
    op.send,
    ...sendFields(queue, { batch: batchOf(new Array<string>(count).fill('body')), count }),
  )
  let received = 0
  const calls = await callsOf(async () => {
    for (; received < count; received++) {
      const [, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue, { max: 1 }))
      if (deliveries.length !== 1) return
    }
  })
  t.equal(received, count)
  const parsed = [...calls].filter(([name]) => name.startsWith('wire/batch.ts readBatch'))
  t.strictSame(
    parsed.map(([, times]) => times),
    [1],
  )
})

t.test('that this can fail: with headers each message is looked at', async (t) => {
  const headers = { headers: { name: 'value' } }
  const few = await costsOf(stage, fewer, headers)
  const lots = await costsOf(stage, more, headers)
  const growth = grown(few.send, lots.send)
  t.equal(growth['wire/batch.ts passHeaders'], 2 * (more - fewer), 'once to check, once to measure')
})

t.test('that this can fail: as many batches of one are as many entries', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  const calls = await callsOf(async () => {
    for (let sequence = 1; sequence <= 10; sequence++)
      await peer.ask(op.send, ...sendFields(queue, { sequence }))
  })
  const encoded = [...calls].find(([name]) => name.startsWith('partition/entry.ts encodeEntry'))
  t.equal(encoded?.[1], 10)
  endCounting()
})

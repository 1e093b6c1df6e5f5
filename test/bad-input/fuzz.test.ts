/**
 * Nonsense with a plan: many connections send requests about real queues, with fields at random, some of them spoilt
 * byte by byte. Whatever comes is answered by a code of the list or cuts off who sent it; others are served; the
 * state stays sound; memory comes to rest; and what the log has taken, a new broker can read.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { startBroker } from '../../src/broker/broker.ts'
import { isErrorCode } from '../../src/errors.ts'
import { afterMicrotasks } from '../../src/system.ts'
import { encodeFrame } from '../../src/wire/frame.ts'
import { op } from '../../src/wire/messages.ts'
import { fuzzOptions, generator, replay, spoil } from '../wire/spoil.ts'
import {
  batchOf,
  receiveFields,
  sendFields,
  settleFields,
  simulatedStage,
  subscribeFields,
  type Frame,
  type KnownQueue,
} from './stage.ts'

const options = fuzzOptions(100_000)
/** Frames that one connection sends in one go. A spoilt one mostly ends it: so that is the last one, mostly. */
const perConnection = 20
/** What memory may grow by after a fifth of the run, beside what is on the simulated disk, in bytes. */
const growthBytesMax = 16 << 20

/** Between nodes only. */
const forward = 64
const forwarded = 65

type Below = (n: number) => number

const edges = [0, 1, 2, 63, 64, 255, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 10_001, 2 ** 53 - 1]

/** Mostly what makes sense, sometimes anything. */
function number(below: Below, sensible: number): number {
  return below(4) === 0 ? edges[below(edges.length)]! : below(sensible)
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** What is held on to. Buffers that were garbage are given back only in the turn after that, and by the next. */
async function heldBytes(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collectGarbage()
    await afterMicrotasks()
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Rises with each use: most sequences are new. */
let sequences = 0

function request(below: Below, queues: KnownQueue[], items: number[][], id: number): Frame {
  const queue = queues[below(queues.length)]!
  const producer = {
    partition: below(8) === 0 ? below(3) : 0,
    // A producer that used the last sequence or epoch there is can't go on: others come.
    producerId: Buffer.alloc(16, `${sequences >> 5} ${below(3)}`),
    producerEpoch: below(20) === 0 ? number(below, 3) : 0,
    sequence: [number(below, 300), Math.max(0, sequences - below(4)), ++sequences, ++sequences][below(4)]!,
    opening: number(below, 1 + queue.opening),
  }
  const known = items.length > 0 && below(3) > 0 ? items[below(items.length)]! : undefined
  const named = known ?? [number(below, 5), number(below, 50), number(below, 500), 1 + below(20)]
  switch (below(10)) {
    case 0:
    case 1: {
      const count = 1 + below(5)
      const headers = below(3) === 0 ? { headers: { name: 'a'.repeat(below(50)) } } : undefined
      const bodies = Array.from({ length: count }, () => 'b'.repeat(below(200)))
      return [op.send, id, ...sendFields(queue, { ...producer, batch: batchOf(bodies, headers), count })]
    }
    case 2:
    case 3: {
      const maxBytes = 1 + below(2000)
      const visibilityTimeoutMs = below(2) === 0 ? null : 1 + below(5000)
      const receive = {
        partition: below(2) === 0 ? null : 0,
        max: 1 + below(20),
        maxBytes,
        visibilityTimeoutMs,
      }
      return [
        op.receive,
        id,
        ...receiveFields(queue, { ...receive, waitMs: below(3) === 0 ? below(3000) : 0 }),
      ]
    }
    case 4:
    case 5: {
      const action = below(2) * below(5)
      const reason = below(4) === 0 ? 'r'.repeat(number(below, 10) % 2000) : null
      const delayMs = below(4) === 0 ? number(below, 1000) : null
      const options = below(2) === 0 ? null : action === 1 ? { reason, delayMs } : { reason }
      return [op.settle, id, ...settleFields(queue, { ...producer, items: named, action, options })]
    }
    case 6:
      return [op.extend, id, queue.id, 0, 1 + below(10_000), named]
    case 7: {
      const name = ['lively', 'fleeting', '../etc', 'ordres', ''][below(5)]!
      const created = { partitions: 1 + below(3), maxMessageBytes: 1 + below(2000), constructor: below(2) }
      if (below(3) > 0) delete (created as Partial<typeof created>).constructor
      return [
        [op.createQueue, id, name, created],
        [op.deleteQueue, id, name, null],
        [op.lookup, id, name],
        [op.describeQueue, id, name],
      ][below(4)]!
    }
    case 8: {
      const name = [queue.name, queue.name, 'q1.dlq', 'ordres'][below(4)]!
      const to = below(3) > 0 ? null : [queue.name, 'q2', 'ordres', ''][below(4)]!
      const cursor = below(2) === 0 ? null : [number(below, 3), number(below, 50), number(below, 50)]
      const changed = {
        visibilityTimeoutMs: 1 + number(below, 5000),
        maxDeliveries: [null, 1 + below(3)][below(2)],
      }
      return [
        [op.redrive, id, name, to, number(below, 100), below(2) === 0, cursor],
        [op.updateQueue, id, name, changed],
        [op.purgeQueue, id, name, below(30) > 0],
        [op.peek, id, name, number(below, 100)],
        [
          op.subscribe,
          id,
          ...subscribeFields(queue, { messages: number(below, 20), bytes: number(below, 5000) }),
        ],
        [op.credit, 1 + below(perConnection), below(20), below(5000)],
        [op.unsubscribe, id, 1 + below(perConnection)],
      ][below(7)]!
    }
    default:
      return [
        [op.listQueues, id, null, 1 + below(5)],
        [op.cancel, 1 + below(perConnection)],
        [op.heartbeat, 0],
        [op.peek, id],
        [64 + below(64), id],
        [forward, id, queue.id, 0, Buffer.alloc(16), 0, 0, 0, 1, number(below, 50), 0, 1, 0, batchOf(['b'])],
        [forwarded, id, 1, 1, 0],
      ][below(7)]!
  }
}

t.test(`${options.runs} requests that mean little, from seed ${options.seed}`, async (t) => {
  const below = generator(options.seed)
  // Small segments, so that the log rolls on and checkpoints while all this happens; a small cache, so that memory tells.
  const stage = await simulatedStage(
    t,
    { segmentBytes: 50_000, logOptions: { cacheBytes: 1 << 20 } },
    { diskLatencyMs: [0.1, 3] },
  )
  const { world, broker } = stage
  let failure: Error | undefined
  void broker.failed.then((error) => {
    failure = error
  })
  const queues = [
    await stage.queue({ maxDeliveries: 3 }),
    await stage.queue({ maxMessageBytes: 100, visibilityTimeoutMs: 200, deadLetterQueue: 'q1' }),
  ]
  /** What was delivered lately, as items. */
  const items: number[][] = []
  const answers: Record<string, number> = {}
  let warmBytes = 0
  for (let run = 0; run < options.runs; run += perConnection) {
    if (warmBytes === 0 && run >= options.runs / 5)
      warmBytes = (await heldBytes()) - stage.process!.store.usedBytes
    const peer = await stage.peer()
    queues.forEach(({ name }, i) => (queues[i] = stage.known(name)))
    const frames = Array.from({ length: perConnection }, (_, i) => {
      const frame = Uint8Array.from(encodeFrame(request(below, queues, items, 1 + i)))
      if (below(i < perConnection - 1 ? 60 : 4) > 0) return frame
      // A spoilt frame has a length that is its own, mostly.
      const value = spoil(frame.subarray(4), below)
      const length = Buffer.alloc(4)
      length.writeUInt32BE(below(50) === 0 ? below(2 ** 32) : value.length)
      return Buffer.concat([length, value])
    })
    peer.write(Buffer.concat(frames))
    await world!.advance(below(20) === 0 ? 1000 : 20)
    for (const [place, [nr, id, what]] of peer.frames.entries()) {
      const answer = nr === op.error ? String(what) : String(nr)
      answers[answer] = (answers[answer] ?? 0) + 1
      if (nr === op.error && !isErrorCode(answer)) t.fail(`${replay(options, run)}: ${answer} is no code`)
      if (nr === op.error && id === 0 && !(peer.ended && place === peer.frames.length - 1)) {
        t.fail(`${replay(options, run)}: ${answer} about a connection that goes on`)
      }
      if (nr !== op.delivered && nr !== op.push) continue
      for (const [, leaseEpoch, lease, , , base] of what) items.push([leaseEpoch, lease, base, 1 + below(4)])
    }
    items.splice(0, Math.max(0, items.length - 20))
    peer.destroy()
    for (const { partitions } of broker.internals.queues.values()) {
      try {
        for (const { leader } of partitions) leader.checkInvariants()
      } catch (cause) {
        throw new Error(replay(options, run), { cause })
      }
    }
    if (failure !== undefined) throw new Error(replay(options, run), { cause: failure })
  }
  // All kinds of answers were reached, or this only scratches at the gate.
  const { sent, delivered, settled, ok } = op
  for (const kind of [sent, delivered, settled, ok].map(String))
    t.ok(answers[kind]! > options.runs / 100, kind)
  for (const code of [
    'INVALID_FIELD',
    'BAD_FRAME',
    'DECODE_LIMIT',
    'DUPLICATE_MISMATCH',
    'MESSAGE_TOO_LARGE',
    'FORBIDDEN',
  ]) {
    t.ok(answers[code]! > 0, code)
  }
  const growthBytes = (await heldBytes()) - stage.process!.store.usedBytes - warmBytes
  t.ok(growthBytes < growthBytesMax, `memory has grown by ${growthBytes >> 10} KiB`)
  // Leases run out, and what moves on arrives: from here on nothing happens by itself.
  await world!.advance(60_000)
  stage.keep()
  await stage.check(t)

  const before = [...broker.internals.queues.values()].map(({ name, messages }) => ({ name, messages }))
  stage.process!.crash()
  const restarted = world!.process('broker', stage.process!.store)
  const again = await world!.complete(startBroker(restarted.env, { listen: broker.address }))
  for (const { name, messages } of before) {
    const queue = again.internals.queues.get(name)!
    t.strictSame(
      queue.partitions.map((it) => it.halted),
      queue.partitions.map(() => null),
      `${name} can be read`,
    )
    t.equal(queue.messages, messages, `${name} has its messages`)
  }
  await world!.complete(again.stop())
})

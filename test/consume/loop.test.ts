/** Loops over messages, from a real broker. */
import { test } from 'tap'
import type { MqError } from '../../src/errors.ts'
import { watch, verdict } from '../client/scripted-server.ts'
import { stage } from './stage.ts'

test('a loop gets each message once, in order, those that come later too', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(1000)
  const got: string[] = []
  const loop = (async () => {
    for await (const message of mq.consume('q', { prefetch: 16 })) {
      got.push(message.text())
      await message.ack()
      if (got.length === 1010) break
    }
  })()
  await it.wait(10_000)
  t.equal(got.length, 1000)
  await it.send(mq, 1000, 10)
  await it.do(loop)
  t.strictSame(
    got,
    Array.from({ length: 1010 }, (_, i) => String(i)),
  )
  t.strictSame(await it.counts(mq), { ready: 0, leased: 0, delayed: 0 })
})

test('batches, each acked by one promise', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(1000)
  const sizes: number[] = []
  let got = 0
  const loop = async () => {
    for await (const batch of mq.consumeBatches('q', { max: 70 })) {
      sizes.push(batch.messages.length)
      got += batch.messages.length
      await batch.ack()
      if (got === 1000) return
    }
  }
  await it.do(loop())
  t.ok(sizes.every((size) => size >= 1 && size <= 70))
  t.ok(sizes.length < 30, `${sizes.length} batches`)
  t.strictSame(await it.counts(mq), { ready: 0, leased: 0, delayed: 0 })
})

test('not more than prefetch is leased while nothing is settled', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(1000)
  const loop = mq.consume('q', { prefetch: 7 })
  for (let i = 0; i < 7; i++) t.equal((await it.do(loop.next())).value?.text(), String(i))
  const eighth = watch(loop.next())
  await it.wait(100_000)
  t.equal(eighth.state, 'pending')
  t.strictSame(await it.counts(mq), { ready: 993, leased: 7, delayed: 0 }, 'and the leases are renewed')
  await it.do(loop.return())
  t.strictSame(eighth.value, { value: undefined, done: true })
})

test('a loop survives a planned restart and a crash of the broker', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(300)
  const got = new Map<string, number>()
  const errors: string[] = []
  const loop = (async () => {
    for await (const message of mq.consume('q', { prefetch: 10 })) {
      got.set(message.text(), (got.get(message.text()) ?? 0) + 1)
      await it.sleep(20)
      await message.ack().catch((error: MqError) => errors.push(error.code))
      if (got.size === 300) break
    }
  })()
  await it.wait(1000)
  await it.restart()
  await it.wait(1000)
  t.strictSame(errors, [], 'receipts outlive a planned stop')
  t.ok([...got.values()].every((times) => times === 1))
  await it.crash()
  await it.do(loop)
  t.ok(errors.length <= 10, 'those that were held')
  t.ok(errors.every((code) => code === 'LEASE_LOST'))
  t.strictSame(await it.counts(mq), { ready: 0, leased: 0, delayed: 0 })
})

test('a queue that is missing is thrown; so is its deletion', async (t) => {
  const it = await stage(t)
  const mq = await it.queue(3)
  const missing = watch(mq.consume('none').next())
  await it.wait(1000)
  t.equal(verdict(missing), 'QUEUE_NOT_FOUND failed')
  const loop = mq.consume('q', { prefetch: 2 })
  await it.do(loop.next())
  await it.do(loop.next())
  const next = watch(loop.next())
  await it.do(mq.deleteQueue('q'))
  await it.wait(1000)
  t.match(next.error, { code: 'QUEUE_DELETED' })
  t.strictSame(await it.do(loop.next()), { value: undefined, done: true })
})

/** Answers keep to the limits that the handshake told. */
import t from 'tap'
import { limits } from '../../src/types.ts'
import { op } from '../../src/wire/messages.ts'
import { batchOf, receiveFields, sendFields, simulatedStage } from './stage.ts'

t.test('a receive of messages that are mostly headers stays below the largest frame', async (t) => {
  const stage = await simulatedStage(t)
  const queue = await stage.queue()
  const peer = await stage.peer()
  const batch = batchOf(new Array<string>(60).fill(''), { headers: { a: 'a'.repeat(17_000) } })
  for (let sequence = 1; sequence <= 17; sequence++) {
    const [nr] = await peer.ask(op.send, ...sendFields(queue, { batch, count: 60, sequence }))
    t.equal(nr, op.sent)
  }
  const receive = { max: 1000, maxBytes: limits.receiveBytesMax }
  const [, , deliveries] = await peer.ask(op.receive, ...receiveFields(queue, receive))
  const bytes = deliveries.reduce((sum: number, it: unknown[]) => sum + (it[9] as Buffer).length, 0)
  t.ok(bytes <= limits.frameBytesMax, `${bytes} bytes in a frame of at most ${limits.frameBytesMax}`)
})

import { test } from 'tap'
import { encodeReceipt } from '../../src/client/delivery-receipt.ts'
import { MqError } from '../../src/errors.ts'
import { bodyOf, Ledger } from './ledger.ts'

function delivery(number: number, lease: number, id = `id-${number}`) {
  const place = { queueId: '00'.repeat(16), partition: 0, leaseEpoch: 1, offset: number }
  return { id, body: bodyOf(number), receipt: encodeReceipt({ ...place, lease }) }
}

function sent(ledger: Ledger): number {
  const number = ledger.begin()
  ledger.confirmed(number, `id-${number}`)
  return number
}

test('a message that comes again until it is acked is as it should be', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  t.ok(ledger.delivered(delivery(number, 1)))
  ledger.delivered(delivery(number, 2))!.acked()
  ledger.checkDrained()
  t.strictSame(ledger.words, [])
  t.equal(ledger.open, 0)
})

test('a confirmed message that was never acked is lost, one whose send ended without an answer is not', async (t) => {
  const ledger = new Ledger()
  sent(ledger)
  ledger.sendFailed(ledger.begin(), new MqError('TIMEOUT', 'late', { outcome: 'unknown' }))
  t.equal(ledger.owed, 1)
  ledger.checkDrained()
  t.strictSame(ledger.words, ['lost: message 0 (id-0) came 0 times and was never acked'])
})

test('what comes under a later lease than the acked one came twice', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  ledger.delivered(delivery(number, 5))!.acked()
  t.equal(ledger.delivered(delivery(number, 4)), null, 'an older one waited in a client')
  t.equal(ledger.violations, 0)
  ledger.delivered(delivery(number, 6))
  t.strictSame(ledger.words, ['twice: id-0 (0) was acked under lease 5, and came under 6'])
})

test('an ack under a lease that had a later one is found', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  const first = ledger.delivered(delivery(number, 1))!
  ledger.delivered(delivery(number, 2))
  first.acked()
  t.equal(ledger.violations, 1)
})

test('one lease hands a message out once, and two acks of it are one too many', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  const held = ledger.delivered(delivery(number, 1))!
  ledger.delivered(delivery(number, 1))
  t.equal(ledger.violations, 1)
  held.acked()
  held.acked()
  t.equal(ledger.violations, 2)
})

test('another id is another message, unless it was a dead letter', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  ledger.delivered(delivery(number, 1, 'other'), true)
  t.equal(ledger.violations, 0)
  ledger.delivered(delivery(number, 2, 'other'))
  t.equal(ledger.violations, 1)
})

test('what was never sent, or not so, is invented', async (t) => {
  const ledger = new Ledger()
  const number = sent(ledger)
  t.equal(ledger.delivered(delivery(number + 1, 1)), null)
  t.equal(ledger.delivered({ ...delivery(number, 1), body: Buffer.from('0:spoilt') }), null)
  t.equal(ledger.violations, 2)
})

test('a delayed message that comes at once is early', async (t) => {
  const ledger = new Ledger()
  const number = ledger.begin(Date.now() + 3_600_000)
  ledger.confirmed(number, `id-${number}`)
  ledger.delivered(delivery(number, 1))
  t.match(ledger.words, [/^early/])
})

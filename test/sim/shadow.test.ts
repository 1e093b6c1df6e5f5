/**
 * Is the oracle a judge? It must accept what is right, or nobody could use it, and it must object to each wrong: told
 * by hand here, a step at a time. Queue `work` gives up after two deliveries, to `work.dlq`.
 */
import t from 'tap'
import { encodeReceipt } from '../../src/client/delivery-receipt.ts'
import { parseId, type Headers } from './lineage.ts'
import { Shadow, type Delivered } from './shadow.ts'
import type { Violation } from './violation.ts'

const visibilityTimeoutMs = 1000
const origin = 'work/0/1-5'

class Story {
  readonly shadow: Shadow
  #nowMs = 0
  #leases = 0

  constructor() {
    const queues = [
      { name: 'work', options: { maxDeliveries: 2, visibilityTimeoutMs } },
      { name: 'work.dlq', options: { visibilityTimeoutMs } },
      { name: 'other', options: { visibilityTimeoutMs } },
    ]
    this.shadow = new Shadow(() => this.#nowMs, queues, 0)
  }

  passes(ms: number): this {
    this.#nowMs += ms
    return this
  }

  sent(id = origin, token = 'token'): this {
    const { queue } = parseId(id)
    this.shadow.sendBegan({ token, queue, body: bodyOf(token), headers: { own: 'yes' } })
    this.shadow.sendEnded(token, 'ok', id, 'fiber')
    return this.passes(1)
  }

  /** A delivery, right away. @returns its receipt */
  got(
    id: string,
    deliveryCount: number,
    headers: Headers = {},
    token = 'token',
    beganMs = this.#nowMs,
  ): string {
    const { queue, partition, offset } = parseId(id)
    const queueId = '0'.repeat(32)
    const lease = ++this.#leases
    const receipt = encodeReceipt({ queueId, partition, leaseEpoch: 1, lease, offset, queue })
    const delivered: Delivered = {
      queue,
      id,
      body: bodyOf(token),
      headers: { own: 'yes', ...headers },
      deliveryCount,
      receipt,
      receiveBeganMs: beganMs,
      visibilityTimeoutMs: undefined,
      isRenewed: false,
      crashesBefore: this.shadow.crashes,
    }
    this.shadow.delivered(delivered)
    this.passes(1)
    return receipt
  }

  peeked(id: string, deliveryCount: number, headers: Headers = {}): this {
    const { queue } = parseId(id)
    const message = { queue, id, body: bodyOf('token'), headers: { own: 'yes', ...headers }, deliveryCount }
    this.shadow.peeked(message, this.#nowMs)
    return this.passes(1)
  }

  acked(receipt: string): this {
    this.shadow.ackBegan(receipt)
    this.shadow.ackEnded(receipt, 'ok', '')
    return this.passes(1)
  }

  nacked(receipt: string): this {
    this.shadow.nackBegan(receipt)
    this.shadow.nackEnded(receipt, this.#nowMs, undefined, 'ok', '')
    return this.passes(1)
  }

  rejected(receipt: string, reason = 'no use'): this {
    this.shadow.deadLetterBegan(receipt, reason)
    this.shadow.deadLetterEnded(receipt, 'ok', '')
    return this.passes(1)
  }

  purged(queue: string): this {
    const purge = this.shadow.admin.purgeBegan(queue)
    this.passes(1).shadow.admin.purgeEnded(purge, 'ok')
    return this.passes(1)
  }

  redriven(to: string | null = null): this {
    this.shadow.admin.redriveBegan('work.dlq', to)
    return this.passes(1)
  }

  changed(queue: string, visibilityMs: number): this {
    const change = this.shadow.admin.changeBegan(queue, { visibilityTimeoutMs: visibilityMs })
    this.passes(1).shadow.admin.changeEnded(queue, change, 'ok')
    return this.passes(1)
  }

  /** Sent, and failed as often as it may. */
  failed(): this {
    this.sent()
    this.nacked(this.got(origin, 1))
    return this.nacked(this.got(origin, 2))
  }
}

function bodyOf(token: string): Uint8Array {
  return Buffer.from(`${token}|body`)
}

function letter(changed: Record<string, string> = {}): Headers {
  return {
    'mq-dead-letter-reason': 'max-deliveries',
    'mq-dead-letter-origin-queue': 'work',
    'mq-dead-letter-origin-id': origin,
    'mq-dead-letter-deliveries': '2',
    'mq-dead-letter-at': '2026-01-01T00:00:00.000Z',
    ...changed,
  }
}

const rejection = letter({
  'mq-dead-letter-reason': 'rejected',
  'mq-dead-letter-error': 'no use',
  'mq-dead-letter-deliveries': '1',
})
const dead = 'work.dlq/0/1-3'
const again = 'work/0/1-30'

t.test('what is right is accepted', async (t) => {
  const stories: Record<string, (story: Story) => unknown> = {
    'sent, delivered, acked': (s) => s.sent().acked(s.got(origin, 1)),
    'failed, dead, acked': (s) => s.failed().acked(s.got(dead, 1, letter())),
    'rejected, dead, acked': (s) => s.sent().rejected(s.got(origin, 1)) && s.acked(s.got(dead, 1, rejection)),
    'expired, dead, acked': (s) => {
      s.sent().nacked(s.got(origin, 1))
      s.got(origin, 2)
      s.passes(2 * visibilityTimeoutMs).acked(s.got(dead, 1, letter()))
    },
    'dead, redriven, acked': (s) => {
      s.failed().got(dead, 1, letter())
      s.passes(2 * visibilityTimeoutMs)
        .redriven()
        .acked(s.got(again, 1, letter()))
    },
    'dead, redriven to another queue by the name, acked': (s) =>
      s
        .failed()
        .redriven('other')
        .acked(s.got('other/0/1-1', 1, letter())),
    'dead, redriven, dead again, acked': (s) => {
      s.failed().redriven()
      s.nacked(s.got(again, 1, letter())).nacked(s.got(again, 2, letter()))
      s.acked(s.got('work.dlq/0/1-9', 1, letter({ 'mq-dead-letter-origin-id': again })))
    },
    'dead again, and nobody saw it in between': (s) => {
      s.failed().redriven()
      s.acked(s.got('work.dlq/0/1-9', 1, letter({ 'mq-dead-letter-origin-id': again })))
    },
    'its attributes are headers now': (s) =>
      s.failed().acked(s.got(dead, 1, { ...letter(), 'mq-delay': '5' })),
    'sent and purged': (s) => s.sent().purged('work'),
    'rejected and purged there': (s) => s.sent().rejected(s.got(origin, 1)).purged('work.dlq'),
    'peeked at, then acked': (s) => s.sent().peeked(origin, 0).acked(s.got(origin, 1)),
    'leased for less than it would have been before': (s) => {
      s.sent().changed('work', 10)
      s.got(origin, 1)
      s.passes(20).acked(s.got(origin, 2))
    },
  }
  for (const [name, tell] of Object.entries(stories)) {
    const story = new Story()
    t.doesNotThrow(() => {
      tell(story)
      story.shadow.finish()
    }, name)
  }
})

t.test('what is wrong is objected to', async (t) => {
  const stories: Record<string, readonly [rule: string, tell: (story: Story) => unknown]> = {
    'confirmed and lost': ['9', (s) => s.sent()],
    'dead-lettered twice': [
      '18',
      (s) => s.failed() && [s.got(dead, 1, letter()), s.got('work.dlq/0/1-4', 1, letter())],
    ],
    'redriven twice': [
      '18',
      (s) => s.failed().redriven() && [s.got(again, 1, letter()), s.got('work/0/1-31', 1, letter())],
    ],
    'redriven to two queues': [
      '18',
      (s) =>
        s.failed().redriven().redriven('other') && [
          s.got(again, 1, letter()),
          s.got('other/0/1-1', 1, letter()),
        ],
    ],
    'given up and lost': ['18', (s) => s.failed()],
    'rejected and lost': ['18', (s) => s.sent().rejected(s.got(origin, 1))],
    'dead and lost': ['9', (s) => s.failed().got(dead, 1, letter())],
    'acked and dead-lettered': [
      '18',
      (s) => {
        s.sent().nacked(s.got(origin, 1))
        s.acked(s.got(origin, 2)).got(dead, 1, letter())
      },
    ],
    'dead-lettered and acked': [
      '18',
      (s) => {
        s.sent().nacked(s.got(origin, 1))
        const receipt = s.got(origin, 2)
        s.passes(2 * visibilityTimeoutMs).got(dead, 1, letter())
        s.acked(receipt)
      },
    ],
    'acked, as a dead letter and redriven': [
      '18',
      (s) =>
        s
          .failed()
          .acked(s.got(dead, 1, letter()))
          .redriven()
          .got(again, 1, letter()),
    ],
    'leased again after it was rejected': [
      '18',
      (s) =>
        s
          .sent()
          .rejected(s.got(origin, 1))
          .passes(2 * visibilityTimeoutMs)
          .got(origin, 2),
    ],
    'leased again after its last failure': ['19', (s) => s.failed().got(origin, 2)],
    'leased again after it was seen dead': [
      '18',
      (s) => {
        s.sent().nacked(s.got(origin, 1))
        s.passes(10).got(dead, 1, letter())
        s.got(origin, 2)
      },
    ],
    'still to be seen in its queue after it was dead': [
      '18',
      (s) =>
        s
          .failed()
          .acked(s.got(dead, 1, letter()))
          .peeked(origin, 2),
    ],
    'of another message': [
      '18',
      (s) => {
        s.sent(origin).sent('work/0/1-6', 'second')
        s.got('work/0/1-6', 1, {}, 'second')
        s.got(dead, 1, letter({ 'mq-dead-letter-origin-id': 'work/0/1-6' }))
      },
    ],
    'of nothing that ever was': [
      '18',
      (s) => s.failed().got(dead, 1, letter({ 'mq-dead-letter-origin-id': 'work/0/1-77' })),
    ],
    'of another queue than its id says': [
      '18',
      (s) => s.failed().got(dead, 1, letter({ 'mq-dead-letter-origin-id': 'other/0/1-5' })),
    ],
    'redriven, and nobody had asked': ['18', (s) => s.failed().got(again, 1, letter())],
    'delivered beyond the limit': ['19', (s) => s.sent().got(origin, 3)],
    'given up too early': [
      '19',
      (s) => {
        s.sent().nacked(s.got(origin, 1))
        s.got(dead, 1, letter({ 'mq-dead-letter-deliveries': '1' }))
      },
    ],
    'given up during its last lease': [
      '19',
      (s) => {
        s.sent().nacked(s.got(origin, 1))
        s.got(origin, 2)
        s.got(dead, 1, letter())
      },
    ],
    'rejected, and nobody had': ['19', (s) => s.sent() && [s.got(origin, 1), s.got(dead, 1, rejection)]],
    'rejected for another reason': [
      '19',
      (s) => s.sent().rejected(s.got(origin, 1), 'useless').got(dead, 1, rejection),
    ],
    'its own headers have changed': ['22', (s) => s.failed().got(dead, 1, { ...letter(), own: 'no' })],
    'acked twice': [
      '18',
      (s) => {
        s.failed().redriven()
        s.acked(s.got(dead, 1, letter()))
        s.acked(s.got('work.dlq/0/1-9', 1, letter({ 'mq-dead-letter-origin-id': again })))
      },
    ],
    'delivered after a purge': ['16', (s) => s.sent().purged('work').got(origin, 1)],
    'to be seen after a purge': ['16', (s) => s.sent().purged('work').peeked(origin, 0)],
    'to be seen after its ack': ['16', (s) => s.sent().acked(s.got(origin, 1)).peeked(origin, 1)],
    'sent after the purge and lost': ['9', (s) => s.purged('work').sent()],
    'leased again too early, whatever the options were before': [
      '23',
      (s) => {
        s.changed('work', 10).changed('work', 500).passes(1).sent()
        s.got(origin, 1)
        s.passes(20).got(origin, 2)
      },
    ],
  }
  for (const [name, [rule, tell]] of Object.entries(stories)) {
    const story = new Story()
    try {
      tell(story)
      story.shadow.finish()
      t.fail(`${name}: accepted`)
    } catch (error) {
      t.equal((error as Violation).rule, rule, `${name}: ${String(error)}`)
    }
  }
})

/** Frames that are sound and say what cannot be meant: the request is refused, the connection goes on. */
import t, { type Test } from 'tap'
import { encodeFrame } from '../../src/wire/frame.ts'
import { op } from '../../src/wire/messages.ts'
import {
  assertCutOff,
  assertRefused,
  batchOf,
  realStage,
  receiveFields,
  rowsOf,
  sendFields,
  settleFields,
  subscribeFields,
  type Frame,
  type Peer,
  type Refusal,
} from './stage.ts'

const stage = await realStage(t)
const row = rowsOf(t, stage)
const hours12 = 12 * 3_600_000
const year = 365 * 24 * 3_600_000

/** Sends each frame on one connection: each is refused, and the connection still serves. */
async function assertEachRefused(t: Test, wrong: [Frame, Refusal][]): Promise<void> {
  const peer = await stage.peer()
  for (const [[nr, ...fields], refusal] of wrong) {
    assertRefused(t, await peer.ask(nr, ...fields), refusal, `${nr} ${refusal.code} ${refusal.field ?? ''}`)
  }
  await assertServed(t, peer)
}

async function assertServed(t: Test, peer: Peer): Promise<void> {
  t.equal((await peer.ask(op.lookup, 'witness'))[0], op.ok, 'the connection goes on')
}

const extendFields = (queueId: Buffer, extendMs: unknown, items: unknown = [1, 1, 1, 1]) => [
  queueId,
  0,
  extendMs,
  items,
]

void row('a name that no queue may have: INVALID_NAME', async (t) => {
  const names = {
    empty: '',
    NUL: 'a\0b',
    'a path': '../etc/passwd',
    'two dots': 'a..b',
    'a slash': 'a/b',
    'a colon': 'ns:a',
    'a line break': 'a\nb',
    'a control character': 'a\x1b[2Jb',
    'no ASCII': 'käse',
    'over 255 bytes': 'a'.repeat(256),
    'a dot first': '.a',
    __proto__: '__proto__',
  }
  const peer = await stage.peer()
  for (const [what, name] of Object.entries(names)) {
    const invalid = { code: 'INVALID_NAME', field: 'name' }
    assertRefused(t, await peer.ask(op.lookup, name), invalid, `LOOKUP ${what}`)
    assertRefused(t, await peer.ask(op.createQueue, name, {}), invalid, `CREATE_QUEUE ${what}`)
    assertRefused(t, await peer.ask(op.describeQueue, name), invalid, `DESCRIBE_QUEUE ${what}`)
    assertRefused(t, await peer.ask(op.deleteQueue, name, null), invalid, `DELETE_QUEUE ${what}`)
    const after = { code: 'INVALID_NAME', field: 'after' }
    assertRefused(t, await peer.ask(op.listQueues, name, 10), after, `LIST_QUEUES ${what}`)
  }
  await assertServed(t, peer)
})

void row('a name that is no UTF-8: INVALID_NAME', async (t) => {
  const peer = await stage.peer()
  const spoilt = [[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xe2, 0x82], [0xf4, 0x90, 0x80, 0x80]]
  for (const [i, bytes] of spoilt.entries()) {
    const frame = encodeFrame([op.lookup, 100 + i, 'a'.repeat(bytes.length)])
    frame.set(bytes, frame.length - bytes.length)
    peer.write(frame)
    assertRefused(t, await peer.answer(100 + i), { code: 'INVALID_NAME', field: 'name' })
  }
  await assertServed(t, peer)
})

void row('names of a prototype are names like others', async (t) => {
  for (const name of ['constructor', 'toString', 'hasOwnProperty', 'prototype']) {
    const peer = await stage.peer()
    assertRefused(t, await peer.ask(op.lookup, name), { code: 'QUEUE_NOT_FOUND' }, name)
    t.equal((await peer.ask(op.createQueue, name, {}))[0], op.ok)
    t.equal((await peer.ask(op.describeQueue, name))[2].name, name)
    t.equal((await peer.ask(op.deleteQueue, name, null))[0], op.ok)
  }
})

void row('__proto__ as a key: INVALID_FIELD, and no prototype is touched', async (t) => {
  const queue = await stage.queue()
  const proto = JSON.parse('{"__proto__": {"polluted": true}}')
  const invalid = (field: string) => ({ code: 'INVALID_FIELD', field })
  await assertEachRefused(t, [
    [[op.createQueue, 'polluted', proto], invalid('options')],
    [[op.createQueue, 'polluted', { a: [proto] }], invalid('options')],
    [[op.settle, ...settleFields(queue, { options: proto })], invalid('options')],
    [[op.settle, ...settleFields(queue, { outputs: [proto] })], invalid('outputs')],
  ])
  t.equal(({} as Record<string, unknown>).polluted, undefined)
})

void row('constructor and its like as queue options: INVALID_FIELD naming them', async (t) => {
  await assertEachRefused(
    t,
    ['constructor', 'prototype', 'toString', 'hasOwnProperty', 'valueOf'].map((field) => [
      [op.createQueue, 'options', { [field]: { prototype: { polluted: true } } }],
      { code: 'INVALID_FIELD', field },
    ]),
  )
})

void row(
  'an option of a queue that is unknown, or no number in its range: INVALID_FIELD naming it',
  async (t) => {
    const wrong: [string, unknown][] = [
      ['frobnicate', 1],
      ['partitions', 0],
      ['partitions', -1],
      ['partitions', 1025],
      ['partitions', 1.5],
      ['partitions', '2'],
      ['partitions', { valueOf: 2 }],
      ['visibilityTimeoutMs', 0],
      ['visibilityTimeoutMs', -1],
      ['visibilityTimeoutMs', hours12 + 1],
      ['maxMessageBytes', 0],
      ['maxMessageBytes', (16 << 20) + 1],
      ['confirm', 'maybe'],
      ['confirm', '__proto__'],
      ['delayMs', -1],
      ['delayMs', year + 1],
      ['backoff', 'fixed'],
    ]
    await assertEachRefused(
      t,
      wrong.map(([field, value]) => [
        [op.createQueue, 'options', { [field]: value }],
        { code: 'INVALID_FIELD', field },
      ]),
    )
  },
)

void row('options of more than 64 KiB: INVALID_FIELD', async (t) => {
  const options = { a: new Array(70_000).fill({}) }
  await assertEachRefused(t, [
    [[op.createQueue, 'options', options], { code: 'INVALID_FIELD', field: 'options' }],
  ])
})

void row('a number over 2^53, negative, NaN or none at all: INVALID_FIELD naming it', async (t) => {
  const queue = await stage.queue()
  const wrong: [Frame, Refusal][] = []
  for (const value of [2 ** 53, 2n ** 63n, -1, -(2n ** 63n), NaN, Infinity, 0.5, '1', true, null, [], {}]) {
    const invalid = (field: string): Refusal => ({ code: 'INVALID_FIELD', field })
    for (const field of ['partition', 'producerEpoch', 'sequence', 'opening', 'count', 'crc']) {
      wrong.push([[op.send, ...sendFields(queue, { [field]: value })], invalid(field)])
    }
    for (const field of ['max', 'maxBytes', 'waitMs', 'mode']) {
      wrong.push([[op.receive, ...receiveFields(queue, { [field]: value })], invalid(field)])
    }
    for (const field of ['partition', 'producerEpoch', 'sequence', 'opening', 'action']) {
      wrong.push([[op.settle, ...settleFields(queue, { [field]: value })], invalid(field)])
    }
    wrong.push([[op.settle, ...settleFields(queue, { items: [1, 1, value, 1] })], invalid('items')])
    wrong.push([[op.extend, ...extendFields(queue.id, value)], invalid('extendMs')])
    wrong.push([[op.listQueues, null, value], invalid('limit')])
  }
  await assertEachRefused(t, wrong)
})

void row('a message range whose end is beyond 2^53: INVALID_FIELD', async (t) => {
  const queue = await stage.queue()
  const items = [1, 1, 2 ** 53 - 1, 10_000]
  await assertEachRefused(t, [
    [[op.settle, ...settleFields(queue, { items })], { code: 'INVALID_FIELD', field: 'items' }],
    [[op.extend, ...extendFields(queue.id, 1000, items)], { code: 'INVALID_FIELD', field: 'items' }],
  ])
})

void row('a producer epoch of more than 32 bits: INVALID_FIELD naming it', async (t) => {
  const queue = await stage.queue()
  const refusal = { code: 'INVALID_FIELD', field: 'producerEpoch' }
  await assertEachRefused(t, [
    [[op.send, ...sendFields(queue, { producerEpoch: 2 ** 32 })], refusal],
    [[op.settle, ...settleFields(queue, { producerEpoch: 2 ** 32 })], refusal],
  ])
})

void row('a field that is missing, or one too many: INVALID_FIELD naming it', async (t) => {
  const queue = await stage.queue()
  const frames: [Frame, string[]][] = [
    [[op.lookup, 'witness'], ['name']],
    [
      [op.createQueue, 'new', {}],
      ['name', 'options'],
    ],
    [
      [op.listQueues, null, 10],
      ['after', 'limit'],
    ],
    [[op.describeQueue, 'witness'], ['name']],
    [
      [op.deleteQueue, 'witness', null],
      ['name', 'queueId'],
    ],
    [
      [op.updateQueue, 'witness', {}],
      ['name', 'options'],
    ],
    [
      [op.purgeQueue, 'witness', true],
      ['name', 'dryRun'],
    ],
    [
      [op.peek, 'witness', 1],
      ['name', 'max'],
    ],
    [
      [op.send, ...sendFields(queue)],
      'queueId partition producerId producerEpoch sequence opening count crc batch'.split(' '),
    ],
    [
      [op.receive, ...receiveFields(queue)],
      'queueId partition max maxBytes waitMs visibilityTimeoutMs mode'.split(' '),
    ],
    [
      [op.settle, ...settleFields(queue)],
      'queueId partition producerId producerEpoch sequence opening action items options outputs'.split(' '),
    ],
    [
      [op.extend, ...extendFields(queue.id, 1000)],
      ['queueId', 'partition', 'extendMs', 'items'],
    ],
  ]
  const wrong: [Frame, Refusal][] = []
  for (const [frame, names] of frames) {
    names.forEach((field, i) => wrong.push([frame.slice(0, 1 + i), { code: 'INVALID_FIELD', field }]))
    wrong.push([[...frame, null], { code: 'INVALID_FIELD', field: `field ${names.length + 1}` }])
  }
  await assertEachRefused(t, wrong)
})

void row('ids that are not 16 bytes, items that are no fours: INVALID_FIELD naming them', async (t) => {
  const queue = await stage.queue()
  const wrong: [Frame, Refusal][] = []
  for (const id of [Buffer.alloc(15), Buffer.alloc(17), Buffer.alloc(0), 'a'.repeat(16), null]) {
    for (const field of ['queueId', 'producerId']) {
      wrong.push([[op.send, ...sendFields(queue, { [field]: id })], { code: 'INVALID_FIELD', field }])
    }
  }
  for (const items of [[], [1, 1, 1], [1, 1, 1, 0], new Array(40_004).fill(1), 'items', null]) {
    wrong.push([[op.settle, ...settleFields(queue, { items })], { code: 'INVALID_FIELD', field: 'items' }])
  }
  await assertEachRefused(t, wrong)
})

void row('a visibility timeout of 0, negative, or over 12 h: INVALID_FIELD', async (t) => {
  const queue = await stage.queue()
  const wrong: [Frame, Refusal][] = []
  for (const ms of [0, -1, hours12 + 1]) {
    const field = 'visibilityTimeoutMs'
    wrong.push([[op.receive, ...receiveFields(queue, { [field]: ms })], { code: 'INVALID_FIELD', field }])
    wrong.push([[op.extend, ...extendFields(queue.id, ms)], { code: 'INVALID_FIELD', field: 'extendMs' }])
  }
  await assertEachRefused(t, wrong)
})

void row('a partition that the queue does not have: INVALID_FIELD', async (t) => {
  const queue = await stage.queue()
  const refusal = { code: 'INVALID_FIELD', field: 'partition' }
  await assertEachRefused(t, [
    [[op.send, ...sendFields(queue, { partition: 1 })], refusal],
    [[op.receive, ...receiveFields(queue, { partition: 1023 })], refusal],
    [[op.settle, ...settleFields(queue, { partition: 1 })], refusal],
    [[op.extend, queue.id, 1, 1000, [1, 1, 1, 1]], refusal],
  ])
})

void row(
  'an option of a settle that is unknown, wrong or out of place: INVALID_FIELD naming it',
  async (t) => {
    const queue = await stage.queue()
    const wrong: [number, Record<string, unknown>, string][] = [
      [1, { delayMs: -1 }, 'delayMs'],
      [1, { delayMs: year + 1 }, 'delayMs'],
      [1, { delayMs: 1.5 }, 'delayMs'],
      [1, { delayMs: '1s' }, 'delayMs'],
      [1, { reason: 'x'.repeat(1025) }, 'reason'],
      [1, { reason: 'ä'.repeat(513) }, 'reason'],
      [1, { reason: 1 }, 'reason'],
      [1, { cause: 'x' }, 'cause'],
      [0, { delayMs: 1 }, 'delayMs'],
      [2, { reason: 'x' }, 'reason'],
      [3, { delayMs: 1 }, 'delayMs'],
    ]
    await assertEachRefused(
      t,
      wrong.map(([action, options, field]) => [
        [op.settle, ...settleFields(queue, { action, options })],
        { code: 'INVALID_FIELD', field },
      ]),
    )
  },
)

void row('a delay of a message that is no delay: INVALID_FIELD naming its column', async (t) => {
  const queue = await stage.queue()
  const wrong: [string, unknown][] = [
    ['delay', -1],
    ['delay', year + 1],
    ['delay', '1s'],
    ['deliverAt', -1],
    ['deliverAt', 8.64e15 + 1],
    ['deliverAt', 0.5],
  ]
  await assertEachRefused(
    t,
    wrong.map(([column, value]) => {
      const batch = batchOf(['body'], { [column]: value })
      return [[op.send, ...sendFields(queue, { batch })], { code: 'INVALID_FIELD', field: column }]
    }),
  )
})

void row('what this version does not do: UNSUPPORTED', async (t) => {
  const queue = await stage.queue()
  const unsupported: Frame[] = [
    [op.cluster, 'anything'],
    [op.receive, ...receiveFields(queue, { mode: 1 })],
    [op.subscribe, ...subscribeFields(queue, { mode: 1 })],
    [op.settle, ...settleFields(queue, { outputs: [] })],
    [op.createQueue, 'later', { ttlMs: 5 }],
    [op.createQueue, 'later', { replicas: 3 }],
  ]
  await assertEachRefused(
    t,
    unsupported.map((frame) => [frame, { code: 'UNSUPPORTED' }]),
  )
})

void row('operations between nodes: FORBIDDEN', async (t) => {
  await assertEachRefused(
    t,
    [64, 100, 127].map((nr) => [[nr, 'anything'], { code: 'FORBIDDEN' }]),
  )
})

void row(
  'an operation between nodes that belongs to no request: FORBIDDEN, and the connection ends',
  async (t) => {
    const peer = await stage.peer()
    peer.send([64, 0, 'anything'])
    await assertCutOff(t, peer, { code: 'FORBIDDEN' })
  },
)

void row('CANCEL of what is not in flight, or cannot be given up, does nothing', async (t) => {
  const peer = await stage.peer()
  peer.send([op.cancel, 77], [op.cancel, 0xffff_ffff], [op.lookup, 9, 'witness'], [op.cancel, 9])
  t.equal((await peer.answer(9))[0], op.ok)
  await assertServed(t, peer)
  t.strictSame(peer.frames, [])
})

void row('CANCEL of a receive: CANCELLED, once', async (t) => {
  const queue = await stage.queue()
  const peer = await stage.peer()
  peer.send([op.receive, 9, ...receiveFields(queue, { waitMs: 20_000 })], [op.cancel, 9], [op.cancel, 9])
  assertRefused(t, await peer.answer(9), { code: 'CANCELLED' })
  await assertServed(t, peer)
  t.strictSame(peer.frames, [])
})

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { readConfigFile } from '../src/config-file.ts'
import { resolveStartOptions, startFlags, type Written } from '../src/config.ts'
import { MqError } from '../src/errors.ts'
import {
  formatAddress,
  formatBytes,
  formatDuration,
  isLoopback,
  parseAddress,
  parseBytes,
  parseCount,
  parseDurationMs,
} from '../src/units.ts'

function resolve({ flags = {}, environment = {}, file = {} }: Partial<Written> & { file?: object }) {
  const path = Object.keys(file).length > 0 ? { config: 'mq.yaml' } : {}
  return resolveStartOptions({
    flags: { ...path, ...flags },
    environment,
    readFile: () => new Map(Object.entries(file)),
  })
}

function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof MqError) return `${error.code}: ${error.message}`
    throw error
  }
  return 'not refused'
}

t.test('nothing written gives the defaults of the contract', async (t) => {
  t.strictSame(resolve({}), {
    dataDir: './data',
    listen: { host: '127.0.0.1', port: 7650 },
    http: { host: '127.0.0.1', port: 7651 },
    roles: ['frontend', 'broker', 'coordinator'],
    coordinator: 'embedded',
    shards: 1,
    allowPlaintext: false,
    maxConnections: 1000,
    maxUnreadBytes: 256 << 20,
    maxQueues: 10_000,
    maxPartitions: 20_000,
    segmentBytes: 64 << 20,
    heartbeatMs: 10_000,
    logLevel: 'info',
  })
})

t.test(
  'a flag wins over the environment, the environment over the file, the file over the default',
  async (t) => {
    const file = { heartbeat: '3s' }
    const environment = { MQ_HEARTBEAT: '2s' }
    const flags = { heartbeatMs: '1s' }
    t.equal(resolve({ flags, environment, file }).heartbeatMs, 1000)
    t.equal(resolve({ environment, file }).heartbeatMs, 2000)
    t.equal(resolve({ file }).heartbeatMs, 3000)
    t.equal(resolve({}).heartbeatMs, 10_000)
  },
)

t.test('every option can be set in all three places', async (t) => {
  const samples = {
    dataDir: ['/var/mq', '/var/mq'],
    listen: ['[::1]:7650', { host: '::1', port: 7650 }],
    http: ['localhost:0', { host: 'localhost', port: 0 }],
    config: ['other.yaml', 'other.yaml'],
    nodeId: ['007', '007'],
    rack: null,
    roles: ['coordinator, broker,frontend', ['coordinator', 'broker', 'frontend']],
    coordinator: ['embedded', 'embedded'],
    shards: ['1', 1],
    allowPlaintext: ['true', true],
    maxConnections: ['20', 20],
    maxUnreadBytes: ['48MiB', 48 << 20],
    maxQueues: ['30', 30],
    maxPartitions: ['40', 40],
    segmentBytes: ['32MiB', 32 << 20],
    heartbeatMs: ['500', 500],
    logLevel: ['debug', 'debug'],
  } as const
  for (const { name, flag, variable } of startFlags) {
    const sample = samples[name]
    if (sample === null) continue
    const [text, value] = sample
    t.strictSame(resolve({ flags: { [name]: text } })[name], value, `--${flag}`)
    t.strictSame(resolve({ environment: { [variable]: text } })[name], value, variable)
    if (name !== 'config')
      t.strictSame(resolve({ file: { [flag]: text } })[name], value, `${flag} in the file`)
  }
})

t.test('a list in the file may be written as one', async (t) => {
  t.strictSame(resolve({ file: { roles: ['broker', 'frontend', 'coordinator'] } }).roles, [
    'broker',
    'frontend',
    'coordinator',
  ])
})

t.test('what is empty counts as unset', async (t) => {
  const { listen, nodeId } = resolve({ environment: { MQ_LISTEN: '' }, file: { 'node-id': null } })
  t.strictSame(listen, { host: '127.0.0.1', port: 7650 })
  t.equal(nodeId, undefined)
})

t.test('variables that name no option are left alone', async (t) => {
  t.doesNotThrow(() => resolve({ environment: { MQ_SERVER: 'a:1', MQ_PORT: 'tcp://10.0.0.1:7650' } }))
})

t.test('a bad value is refused in a sentence that says where it stands', async (t) => {
  const cases: [Parameters<typeof resolve>[0], RegExp][] = [
    [{ flags: { heartbeatMs: '5x' } }, /^INVALID_OPTION: --heartbeat is '5x': a duration is/],
    [{ environment: { MQ_HEARTBEAT: '5x' } }, /^INVALID_OPTION: MQ_HEARTBEAT is '5x': a duration is/],
    [{ file: { heartbeat: '5x' } }, /^INVALID_OPTION: heartbeat in mq.yaml is '5x': a duration is/],
    [{ flags: { heartbeatMs: '1ms' } }, /--heartbeat is '1ms': it must be 100ms to 5m$/],
    [{ flags: { segmentBytes: '64MB' } }, /--segment-bytes is '64MB': a size is/],
    [{ flags: { segmentBytes: '1TiB' } }, /a size is/],
    [{ flags: { segmentBytes: '1' } }, /it must be 1MiB to 16GiB$/],
    [{ flags: { maxConnections: '0' } }, /it must be 1 to 100,000$/],
    [{ flags: { maxConnections: '1e3' } }, /a whole number is needed$/],
    [{ flags: { maxQueues: '-1' } }, /a whole number is needed$/],
    [{ flags: { listen: '7650' } }, /an address is HOST:PORT/],
    [{ flags: { http: 'http://localhost:7651' } }, /an address is HOST:PORT/],
    [{ flags: { logLevel: 'loud' } }, /it must be debug, info, warn, error or silent$/],
    [{ flags: { nodeId: '../x' } }, /it must be 1 to 64 of/],
    [{ flags: { roles: 'broker,cook' } }, /each role must be frontend, broker or coordinator$/],
    [{ flags: { dataDir: '' } }, /a value is needed$/],
    [{ environment: { MQ_ALLOW_PLAINTEXT: 'yes' } }, /it must be true or false$/],
    [{ file: { 'max-queues': ['1', '2'] } }, /max-queues in mq.yaml is '1,2': a whole number is needed$/],
    [{ file: { 'max-queues': new Map() } }, /max-queues in mq.yaml must be a plain value$/],
    [
      { file: { listn: '127.0.0.1:1' } },
      /mq.yaml holds 'listn', which is none of the options data-dir, listen/,
    ],
    [{ file: { config: 'other.yaml' } }, /mq.yaml holds 'config'/],
  ]
  for (const [written, expected] of cases) {
    t.match(
      refusal(() => resolve(written)),
      expected,
    )
  }
})

t.test('what needs a cluster is refused, not ignored', async (t) => {
  for (const flags of [{ rack: 'r1' }, { roles: 'broker' }, { coordinator: 'etcd://h:1' }, { shards: '2' }]) {
    t.match(
      refusal(() => resolve({ flags })),
      /^UNSUPPORTED: /,
      JSON.stringify(flags),
    )
  }
})

t.test('an address that others can reach needs --allow-plaintext', async (t) => {
  for (const name of ['listen', 'http'] as const) {
    for (const where of [
      '0.0.0.0:0',
      '[::]:0',
      '10.1.2.3:7650',
      'example.com:7650',
      '127.0.0.1.example.com:1',
    ]) {
      t.match(
        refusal(() => resolve({ flags: { [name]: where } })),
        /^INVALID_OPTION: .*add --allow-plaintext/,
      )
      t.doesNotThrow(() => resolve({ flags: { [name]: where, allowPlaintext: 'true' } }))
    }
    for (const where of ['127.0.0.1:0', '127.9.9.9:0', '[::1]:0', 'localhost:0', '[::ffff:127.0.0.1]:0']) {
      t.doesNotThrow(() => resolve({ flags: { [name]: where } }), where)
    }
  }
})

t.test('durations and sizes', async (t) => {
  for (const [text, ms] of [
    ['0', 0],
    ['250', 250],
    ['250ms', 250],
    ['30s', 30_000],
    ['5m', 300_000],
  ] as const) {
    t.equal(parseDurationMs(text), ms, text)
  }
  for (const [text, ms] of [
    ['12h', 43_200_000],
    ['7d', 604_800_000],
    ['1.5s', 1500],
    ['0.1s', 100],
  ] as const) {
    t.equal(parseDurationMs(text), ms, text)
  }
  for (const text of [
    '',
    ' ',
    '5x',
    '-1',
    '1e3',
    '0.5',
    '1.5ms',
    '5 s',
    '1h30m',
    'Infinity',
    '99999999999999d',
  ]) {
    t.equal(parseDurationMs(text), undefined, text)
  }
  for (const [text, bytes] of [
    ['0', 0],
    ['512', 512],
    ['1KiB', 1024],
    ['16mib', 1 << 24],
    ['1.5 GiB', 1.5 * 2 ** 30],
  ] as const) {
    t.equal(parseBytes(text), bytes, text)
  }
  for (const text of ['', '5x', '-1', '0.5', '1KB', '1M', '99999999999999GiB']) {
    t.equal(parseBytes(text), undefined, text)
  }
  for (const text of ['', '1.0', '-1', '+1', '0x10', '1e3', '9007199254740993', ' 1']) {
    t.equal(parseCount(text), undefined, text)
  }
})

t.test('durations, sizes and addresses that were written are read back', async () => {
  fc.assert(fc.property(fc.nat(), (ms) => parseDurationMs(formatDuration(ms)) === ms))
  fc.assert(fc.property(fc.nat(), (bytes) => parseBytes(formatBytes(bytes)) === bytes))
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()), fc.nat(65_535), (host, port) => {
      const address = parseAddress(formatAddress({ host, port }))
      return address?.host === host && address.port === port
    }),
  )
})

t.test('addresses', async (t) => {
  for (const text of [
    '',
    '7650',
    ':7650',
    'localhost',
    'localhost:',
    '::1:7650',
    'h:65536',
    'h:-1',
    'a b:1',
    '[]:1',
  ]) {
    t.equal(parseAddress(text), undefined, text)
  }
  t.notOk(isLoopback({ host: '::', port: 1 }))
  t.notOk(isLoopback({ host: '128.0.0.1', port: 1 }))
})

t.test('a configuration file', async (t) => {
  const directory = t.testdir({
    'full.yaml': 'node-id: 007 # kept as it stands\nlisten: "[::1]:0"\nroles: [broker, frontend]\nrack:\n',
    'comments.yaml': '# nothing yet\n',
    'empty.yaml': '',
    'list.yaml': '- listen\n',
    'text.yaml': 'listen\n',
    'twice.yaml': 'listen: a:1\nlisten: b:2\n',
    'broken.yaml': 'listen: [a\n',
    'alias.yaml': 'listen: *nowhere\n',
    'proto.yaml': '__proto__: { listen: "a:1" }\n',
  })
  const read = (name: string) => readConfigFile(join(directory, name))

  t.test('values come back as the text that stands there', async (t) => {
    const options = resolveStartOptions({
      flags: { config: join(directory, 'full.yaml'), roles: 'frontend,broker,coordinator' },
      environment: {},
      readFile: readConfigFile,
    })
    t.equal(options.nodeId, '007')
    t.strictSame(options.listen, { host: '::1', port: 0 })
  })

  t.test('may be empty', async (t) => {
    t.equal(read('empty.yaml').size, 0)
    t.equal(read('comments.yaml').size, 0)
  })

  t.test('that makes no sense is refused in one line that names it', async (t) => {
    for (const name of [
      'list.yaml',
      'text.yaml',
      'twice.yaml',
      'broken.yaml',
      'alias.yaml',
      'missing.yaml',
      '',
    ]) {
      t.match(
        refusal(() => read(name)),
        /^INVALID_OPTION: [^\n]*config[^\n]*$/,
        name,
      )
    }
    t.match(
      refusal(() => read('twice.yaml')),
      /unique at line 2/,
    )
    t.match(
      refusal(() => read('missing.yaml')),
      /cannot be read \(ENOENT\)/,
    )
  })

  t.test('holds no key that only looks like none', async (t) => {
    const readFile = () => read('proto.yaml')
    t.match(
      refusal(() => resolveStartOptions({ flags: { config: 'proto.yaml' }, environment: {}, readFile })),
      /holds '__proto__'/,
    )
  })

  t.test('is read up to a limit only', async (t) => {
    writeFileSync(join(directory, 'large.yaml'), '#'.repeat((1 << 20) + 1))
    t.match(
      refusal(() => read('large.yaml')),
      /larger than 1 MiB/,
    )
    t.match(
      refusal(() => readConfigFile('/dev/zero')),
      /larger than 1 MiB/,
    )
  })
})

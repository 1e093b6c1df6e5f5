/** What the command says, and exits with, when it is not used as it should be. No broker is needed for that. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { assertOneLine, run } from './process.ts'

t.test('--version prints the version alone', async (t) => {
  const { code, stdout, stderr } = await run(['--version'])
  t.equal(code, 0)
  t.match(stdout, /^\d+\.\d+\.\d+\n$/)
  t.equal(stderr, '')
})

t.test('--help lists what there is, with defaults, limits and variables', async (t) => {
  const program = await run(['--help'])
  t.equal(program.code, 0)
  for (const command of ['start', 'queue', 'send', 'receive']) t.match(program.stdout, `\n  ${command} `)
  const start = await run(['start', '--help'])
  t.equal(start.code, 0)
  // Wrapped or not.
  t.match(
    start.stdout.replaceAll(/\s+/g, ' '),
    /--segment-bytes <SIZE> .*default 64MiB; 1MiB to 16GiB; MQ_SEGMENT_BYTES/,
  )
  t.match((await run(['help', 'send'])).stdout, 'Usage: mq-broker send')
  t.match((await run(['help', 'queue', 'create'])).stdout, 'Usage: mq-broker queue create')
  const edit = (await run(['queue', 'edit', '--help'])).stdout
  t.match(edit, '--visibility-timeout')
  t.notMatch(edit, /--partitions|--ttl|not built yet;|default 30s/)
  t.match((await run(['send', '--help'])).stdout.replaceAll(/\s+/g, ' '), /--key <TEXT> .*\(not built yet\)/)
  t.match((await run(['queue', 'create', '--help'])).stdout, '--visibility-timeout <DURATION>')
})

const wrong: [args: string[], says: RegExp][] = [
  [['frobnicate'], /unknown command 'frobnicate'/],
  [['queue', 'frobnicate'], /unknown command 'frobnicate'/],
  [['queue', 'create'], /missing required argument 'NAME'/],
  [['start', '--frobnicate'], /unknown option '--frobnicate'/],
  [['start', 'extra'], /too many arguments/],
  [['start', '--listen'], /argument missing/],
  [['start', '--heartbeat', '5x'], /--heartbeat is '5x': a duration is/],
  [['start', '--segment-bytes', '64MB'], /--segment-bytes is '64MB': a size is/],
  [['start', '--max-connections', '0'], /it must be 1 to 100,000/],
  [['start', '--listen', 'nowhere'], /an address is HOST:PORT/],
  [['start', '--listen', '0.0.0.0:0'], /add --allow-plaintext/],
  [['start', '--config', '/nowhere/mq.yaml'], /\/nowhere\/mq.yaml cannot be read \(ENOENT\)/],
  [
    ['queue', 'create', 'orders', '--visibility-timeout', '5x'],
    /--visibility-timeout is '5x': a duration is/,
  ],
  [['queue', 'create', 'orders', '--partitions', 'two'], /--partitions is 'two': a whole number is needed/],
  [['queue', 'create', 'orders', '--backoff', 'fixed'], /--backoff needs --backoff-delay/],
  [['queue', 'edit', 'orders', '--unset', 'nothing'], /--unset is 'nothing': it must be one of partitions, /],
  [['queue', 'edit', 'orders', '--unset', 'delay', '--delay', '1s'], /--delay can't be set and unset/],
  [['send', 'orders'], /missing required argument 'BODY'/],
  [['send', 'orders', 'hello', '--header', 'novalue'], /--header is 'novalue'/],
  [['receive', 'orders', '--max', '-1'], /--max is '-1'/],
  [['queue', 'ls', '--server', 'a b'], /'host:port'/],
  [['queue', 'info'], /missing required argument 'NAME' \(see mq-broker queue info --help\)/],
  [['strat'], /unknown command 'strat': did you mean start\? \(see mq-broker --help\)/],
  [['help', 'bogus'], /unknown command 'bogus' \(see mq-broker --help\)/],
  [['receive', 'orders', '--max', '0'], /--max is '0': it must be 1 to 1,000/],
  [['receive', 'orders', '--wait', '30s'], /--wait is '30s': it must be 0ms to 20s/],
  [['receive', 'orders', '--visibility-timeout', '0'], /--visibility-timeout is '0': it must be 1ms to 12h/],
  [['peek', 'orders', '--max', '2000'], /--max is '2000': it must be 1 to 1,000/],
  [['send', 'orders', 'hello', '--delay', '400d'], /--delay is '400d': it must be 0ms to 365d/],
  [['nack', 'r', '--delay', '400d'], /--delay is '400d'/],
  [['nack', 'r', '--reason', 'x'.repeat(1025)], /--reason is 'x+…': it must have at most 1KiB/],
  [['extend', 'r', '--for', '13h'], /--for is '13h': it must be 1ms to 12h/],
  [['dlq', 'redrive', 'orders.dlq', '--max', '0'], /--max is '0': it must be from 1/],
  [['dlq', 'redrive', 'orders.dlq', '--rate', '0'], /--rate is '0': it must be 1 to 1,000,000/],
  [['dlq', 'redrive', 'orders.dlq', '--to', 'a b'], /--to is 'a b': a queue's name has/],
  [['queue', 'create', 'orders', '--partitions', '0'], /--partitions is '0': it must be 1 to 1,024/],
  [['queue', 'create', 'orders', '--visibility-timeout', '13h'], /it must be 1ms to 12h/],
  [['queue', 'create', 'a/b'], /NAME is 'a\/b': a queue's name has/],
  [['send', 'a/b', 'hello'], /QUEUE is 'a\/b': a queue's name has/],
]

t.test('wrong usage exits with 2 and says in one line what is wrong', async (t) => {
  t.jobs = 4
  for (const [args, says] of wrong) {
    t.test(args.join(' '), async (t) => {
      const { code, stdout, stderr } = await run(args)
      t.equal(code, 2)
      t.equal(stdout, '')
      assertOneLine(t, stderr, says)
    })
  }
})

t.test('no command at all is wrong usage, and shows the help', async (t) => {
  for (const args of [[], ['queue']]) {
    const { code, stdout, stderr } = await run(args)
    t.equal(code, 2)
    t.equal(stdout, '')
    t.match(stderr, /^Usage: mq-broker/)
  }
})

t.test('what is not built yet is refused with 1', async (t) => {
  const { code, stderr } = await run(['start', '--rack', 'r1'])
  t.equal(code, 1)
  assertOneLine(t, stderr, /--rack needs a cluster.*\(UNSUPPORTED\)/)
})

t.test('no broker at the address: 1, and the address is named', async (t) => {
  const { code, stderr } = await run(['queue', 'ls'], { environment: { MQ_SERVER: '127.0.0.1:1' } })
  t.equal(code, 1)
  assertOneLine(t, stderr, /127\.0\.0\.1:1.*Start one with `mq-broker start`, or name another with --server/)
})

t.test('a port that is none of a broker is said to be none', async (t) => {
  const server = createServer((_, response) => response.end()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const { code, stderr } = await run(['queue', 'ls', '--server', `127.0.0.1:${port}`])
  t.equal(code, 1)
  assertOneLine(t, stderr, new RegExp(`127\\.0\\.0\\.1:${port} is no mq-broker port`))
})

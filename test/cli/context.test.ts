/** Names for brokers, kept for the user, and the one that commands talk to. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { assertOneLine, run, startBroker } from './process.ts'

/** A user with a configuration folder of their own. */
function user(t: Test) {
  const folder = t.testdir()
  const environment = { XDG_CONFIG_HOME: folder }
  return {
    file: join(folder, 'mq-broker', 'contexts.json'),
    run: (...args: string[]) => run(args, { environment }),
  }
}

t.test('the first context is the current one, and has the star', async (t) => {
  const { run } = user(t)
  await run('context', 'add', 'here', '--server', '127.0.0.1:7650')
  await run('context', 'add', 'there', '--server', 'broker-1:7650, broker-2:7650')
  const { stdout } = await run('context', 'ls')
  t.match(stdout, /\n\* +here +127\.0\.0\.1:7650\n +there +broker-1:7650,broker-2:7650\n$/)
})

t.test('use makes another one current', async (t) => {
  const { run } = user(t)
  for (const name of ['a', 'b']) await run('context', 'add', name, '--server', `${name}:1`)
  await run('context', 'use', 'b')
  t.strictSame(JSON.parse((await run('context', 'ls', '--json')).stdout), [
    { name: 'a', server: 'a:1', current: false },
    { name: 'b', server: 'b:1', current: true },
  ])
})

t.test('rm of the current one leaves none current', async (t) => {
  const { run } = user(t)
  for (const name of ['a', 'b']) await run('context', 'add', name, '--server', `${name}:1`)
  await run('context', 'rm', 'a')
  t.strictSame(JSON.parse((await run('context', 'ls', '--json')).stdout), [
    { name: 'b', server: 'b:1', current: false },
  ])
})

t.test(
  'commands talk to the broker of the current context; MQ_SERVER and --server go before it',
  async (t) => {
    const folder = t.testdir()
    const broker = await startBroker(t, join(folder, 'data'))
    const environment = { XDG_CONFIG_HOME: folder }
    await run(['context', 'add', 'here', '--server', broker.listen], { environment })
    t.equal((await run(['queue', 'ls', '--json'], { environment })).stdout, '[]\n')
    const elsewhere = { ...environment, MQ_SERVER: '127.0.0.1:1' }
    t.match((await run(['queue', 'ls'], { environment: elsewhere })).stderr, /127\.0\.0\.1:1/)
    const args = ['queue', 'ls', '--json', '--server', broker.listen]
    t.equal((await run(args, { environment: elsewhere })).stdout, '[]\n')
  },
)

t.test('the file is its owner’s alone', async (t) => {
  const { run, file } = user(t)
  await run('context', 'add', 'a', '--server', 'a:1')
  t.equal(statSync(file).mode & 0o777, 0o600)
})

t.test('a file that holds something else is named, and left alone', async (t) => {
  const { run, file } = user(t)
  mkdirSync(join(file, '..'))
  for (const content of ['{', '[]', '{"current":1,"contexts":{}}', '{"current":"a","contexts":{"a":"x"}}']) {
    writeFileSync(file, content)
    const { code, stderr } = await run('context', 'add', 'a', '--server', 'a:1')
    t.equal(code, 2)
    assertOneLine(t, stderr, /contexts\.json does not hold contexts/)
    t.equal(readFileSync(file, 'utf8'), content)
  }
})

t.test('what cannot be meant is refused', async (t) => {
  const { run } = user(t)
  await run('context', 'add', 'a', '--server', 'a:1')
  for (const [args, says] of [
    [['use', 'b'], /no context 'b': there is a/],
    [['rm', '__proto__'], /no context/],
    [['add', '../x', '--server', 'a:1'], /no name of a context/],
    [['add', 'x', '--server', 'no address'], /host:port/],
    [['add', 'x'], /--server/],
  ] as const) {
    const { code, stderr } = await run('context', ...args)
    t.equal(code, 2, args.join(' '))
    assertOneLine(t, stderr, says)
  }
})

/** What the README tells a reader to type does what it says. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { startBroker } from './cli/process.ts'
import { commandDirectory, onlyCode, root, run, typeErrors } from './examples.ts'

const broker = (t: Test) => startBroker(t, join(t.testdir(), 'data'))

test('the client’s example prints what it sends', async (t) => {
  const { listen } = await broker(t)
  const example = onlyCode('README.md', 'In TypeScript', 'ts')
  const here = example.replace("'127.0.0.1:7650'", `'${listen}'`)
  t.not(here, example, 'it says where the broker is')
  // The package finds itself by name in its own folder; as printed, the example needs no compiler.
  const { code, stdout, stderr } = await run([process.execPath, '--input-type=module', '--eval', here])
  t.equal(stderr, '')
  t.equal(code, 0)
  t.match(
    stdout,
    /^on disk as invoices\/0\/\d+-\d+\n\{ customer: 7, cents: 1250 \} \{ source: 'web' \} delivery 1\n$/,
  )
})

test('the client’s example has the types that the package declares', async (t) => {
  t.equal(await typeErrors(t, { 'example.ts': onlyCode('README.md', 'In TypeScript', 'ts') }), '')
})

test('the first message: create, send, receive', async (t) => {
  const directory = t.testdir()
  const { listen } = await startBroker(t, join(directory, 'data'))
  const lines = onlyCode('README.md', 'A first message', 'sh')
  // npx would look the command up in the registry where the package is not installed.
  const script = lines.replaceAll('npx mq-broker', `"${commandDirectory(directory)}/mq-broker"`)
  t.not(script, lines)
  const { code, stdout, stderr } = await run(['sh', '-e', '-c', script], { MQ_SERVER: listen })
  t.equal(stderr, '')
  t.equal(code, 0)
  t.match(stdout, /\norders\/0\/\d+-\d+\nhello\n$/)
})

test('the commands and scripts that it names are there', async (t) => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const named = [...readme.matchAll(/npm (?:run )?([a-z:]+)/g)].map(([, name]) => name!)
  t.strictSame(
    named.filter((name) => name !== 'ci' && scripts[name] === undefined),
    [],
  )
})

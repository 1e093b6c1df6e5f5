/** What a user gets who installs the package: types for every kind of project, and no native code for tests. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { onlyCode, run, typeErrors } from '../examples.ts'

const example = onlyCode('docs/testing.md', '', 'ts')

/** What a command prints, which must succeed. */
async function output(...command: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command)
  if (code !== 0) throw new Error(`${command[0]} ended with ${code}: ${stdout}${stderr}`)
  return stdout
}

const evaluate = (program: string) => output(process.execPath, '--input-type=module', '--eval', program)

/** The package as it would be published. Its scripts would build anew, below the feet of other tests. */
async function packed(t: Test): Promise<string> {
  const directory = t.testdir()
  await output('npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', directory)
  return join(
    directory,
    readdirSync(directory).find((name) => name.endsWith('.tgz'))!,
  )
}

test('publint finds nothing to say about the package', async (t) => {
  const tarball = await packed(t)
  t.match(await output('node_modules/.bin/publint', tarball, '--strict'), /All good!/)
})

test('types are found by every kind of project that can import the package', async (t) => {
  const tarball = await packed(t)
  t.match(
    await output('node_modules/.bin/attw', tarball, '--profile', 'esm-only', '--no-emoji'),
    /OK \(ESM\)/,
  )
})

const loads = (options: string) =>
  evaluate(`
    import { startTestBroker } from 'mq-broker/testing'
    const broker = await startTestBroker(${options})
    await broker.close()
    console.log(process.report.getReport().sharedObjects.some((library) => /lmdb.*\\.node$/.test(library)))
  `)

test('a test broker in memory does not load lmdb', async (t) => {
  t.equal(await loads(`{ clock: 'manual' }`), 'false\n')
})

test('a test broker with a directory does', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  t.equal(await loads(JSON.stringify({ clock: 'manual', dataDir })), 'true\n')
})

test('the example of docs/testing.md runs as it is printed', async (t) => {
  // Types are all that has to go: this Node.js runs JavaScript.
  t.equal(await evaluate(example.replaceAll('!.', '.')), '')
})

test('the example of docs/testing.md has the types that the package declares', async (t) => {
  t.equal(await typeErrors(t, { 'example.ts': example }), '')
})

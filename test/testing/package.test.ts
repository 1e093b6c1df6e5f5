/** What a user gets who installs the package: types for every kind of project, and no native code for tests. */
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { test, type Test } from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const example = /```ts\n([^]*?)```/.exec(readFileSync(join(root, 'docs/testing.md'), 'utf8'))![1]!

/** Without what the test runner puts into the environment of a child. */
async function run(...command: string[]): Promise<string> {
  const variables = ['PATH', 'HOME'].map((name) => `${name}=${process.env[name] ?? ''}`)
  const { stdout } = await promisify(execFile)('env', ['-i', ...variables, ...command], { cwd: root })
  return stdout
}

const evaluate = (program: string) => run(process.execPath, '--input-type=module', '--eval', program)

/** The package as it would be published. Its scripts would build anew, below the feet of other tests. */
async function packed(t: Test): Promise<string> {
  const directory = t.testdir()
  await run('npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', directory)
  return join(
    directory,
    readdirSync(directory).find((name) => name.endsWith('.tgz'))!,
  )
}

test('publint finds nothing to say about the package', async (t) => {
  const tarball = await packed(t)
  t.match(await run('node_modules/.bin/publint', tarball, '--strict'), /All good!/)
})

test('types are found by every kind of project that can import the package', async (t) => {
  const tarball = await packed(t)
  // A problem is an exit code, and so a rejection.
  t.match(await run('node_modules/.bin/attw', tarball, '--profile', 'esm-only', '--no-emoji'), /OK \(ESM\)/)
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
  const directory = t.testdir()
  writeFileSync(join(directory, 'example.ts'), example)
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    strict: true,
    noUncheckedIndexedAccess: true,
    noEmit: true,
    types: ['node'],
  }
  writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['example.ts'] }))
  t.equal(await run('node_modules/.bin/tsc', '--project', directory), '')
})

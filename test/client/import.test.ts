/**
 * What a program gets that imports the client as it is built: no native addon and no code of the server. V8's own
 * list of the scripts that ran says so, and the operating system's of the libraries that are loaded.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { test, type Test } from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

interface Loaded {
  /** Modules of this package, as paths below dist. */
  readonly own: string[]
  /** Modules of others, as paths below node_modules. */
  readonly packages: string[]
  readonly addons: string[]
}

/** Runs a program in the package's folder, where its own name leads to what it exports. */
async function loadedBy(t: Test, program: string): Promise<Loaded> {
  const coverage = t.testdir()
  const report = 'console.log(JSON.stringify(process.report.getReport().sharedObjects))'
  // The test runner puts itself into every Node process that a test starts, by its environment: so it gets none.
  const child = spawn(
    'env',
    [
      '-i',
      `NODE_V8_COVERAGE=${coverage}`,
      process.execPath,
      '--input-type=module',
      '--eval',
      `${program}\n${report}`,
    ],
    { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  t.equal(code, 0, stderr)
  const libraries = JSON.parse(stdout) as string[]
  const urls = readdirSync(coverage).flatMap((name) => {
    const { result } = JSON.parse(readFileSync(join(coverage, name), 'utf8')) as { result: { url: string }[] }
    return result.map(({ url }) => url)
  })
  const paths = urls.filter((url) => url.startsWith('file:')).map((url) => fileURLToPath(url))
  const below = (folder: string) =>
    paths.filter((path) => path.startsWith(folder)).map((path) => path.slice(folder.length))
  return {
    own: below(join(root, 'dist/')).sort(),
    packages: below(join(root, 'node_modules/')).sort(),
    addons: libraries.filter((library) => library.endsWith('.node')),
  }
}

test('the client loads its own folder, the wire’s and the leaves that all share, and no native addon', async (t) => {
  const { own, packages, addons } = await loadedBy(
    t,
    `import { connect } from 'mq-broker'
    await connect({ servers: ['127.0.0.1:1'], offline: 'fail' }).catch(() => {})`,
  )
  t.strictSame(addons, [])
  // Not its `node-index.js`, which looks for the addon.
  t.strictSame(
    packages,
    ['index', 'iterators', 'pack', 'unpack'].map((name) => `msgpackr/${name}.js`),
  )
  t.strictSame(
    own.filter((path) => !/^(client|wire)\//.test(path)),
    ['buffers.js', 'errors.js', 'index.js', 'similar-names.js', 'system.js', 'types.js', 'units.js'],
  )
  t.ok(own.includes('client/client.js'), 'and the client is there')
})

test('a server is found out in the same way', async (t) => {
  const { own, packages, addons } = await loadedBy(
    t,
    `await import('./dist/broker/broker.js'); await import('./dist/storage/lmdb.js')`,
  )
  t.ok(own.includes('partition/leader.js'))
  t.ok(packages.some((path) => path.startsWith('lmdb/')))
  t.ok(addons.some((path) => path.includes('lmdb')))
})

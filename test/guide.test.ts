/** docs/guide.md does what it says: every example is compiled, run as it is printed, and gives what stands beside it. */
import { test } from 'tap'
import { startBroker } from './cli/process.ts'
import {
  assertClaims,
  assertConsole,
  chaptersOf,
  isInstalled,
  sourceOf,
  typeErrors,
  type Chapter,
} from './examples.ts'

const chapters = chaptersOf('docs/guide.md')
const has = (chapter: Chapter, language: string) =>
  chapter.blocks.some((block) => block.language === language)
const inTypeScript = chapters.filter((chapter) => has(chapter, 'ts'))
const atTheConsole = chapters.filter((chapter) => has(chapter, 'console'))

/** What a chapter takes for granted, unless it makes a client of its own. */
const isOwn = (chapter: Chapter) => chapter.blocks.some(({ code }) => code.includes('const mq ='))

const declared = (chapter: Chapter) =>
  `import type { MqClient as $Client } from 'mq-broker'; import type { TestBroker as $Broker } from 'mq-broker/testing'; ` +
  `declare const broker: $Broker; ${isOwn(chapter) ? '' : 'declare const mq: $Client; '}`

const started = (chapter: Chapter) =>
  `import { startTestBroker as $start } from 'mq-broker/testing'; const broker = await $start({ clock: 'manual' }); ` +
  (isOwn(chapter) ? '' : 'const mq = await broker.connect(); ')

test('it has code in two languages, all of which is looked at', async (t) => {
  const languages = new Set(chapters.flatMap(({ blocks }) => blocks.map(({ language }) => language)))
  t.strictSame([...languages].sort(), ['console', 'ts'])
})

test('its examples have the types that the package declares', async (t) => {
  const sources = inTypeScript.map((chapter, i) => [
    `chapter-${i}.ts`,
    sourceOf(chapter, 'ts', declared(chapter)),
  ])
  t.equal(await typeErrors(t, Object.fromEntries(sources)), '')
})

for (const chapter of inTypeScript) {
  test(`${chapter.title}: its examples give what they say`, async (t) => {
    const source = sourceOf(chapter, 'ts', started(chapter)).replace(`['127.0.0.1:7650']`, 'broker.servers')
    t.ok((await assertClaims(t, `${source}await mq.close(); await broker.close()\n`)) > 0)
  })
}

for (const chapter of atTheConsole) {
  test(`${chapter.title}: its commands print what they say`, async (t) => {
    const code = chapter.blocks.filter(({ language }) => language === 'console').map((block) => block.code)
    for (const tool of ['curl', 'jq']) {
      if (!code.join('').includes(`${tool} `) || (await isInstalled(tool))) continue
      if (process.env['CI'] !== undefined) return t.fail(`${tool} is not installed: install it`)
      return t.pass('', { skip: `${tool} is not installed` })
    }
    const cwd = t.testdir()
    const { listen, http } = await startBroker(t, `${cwd}/data`)
    for (const block of code) {
      const here = block.replaceAll('127.0.0.1:7650', listen).replaceAll('127.0.0.1:7651', http)
      await assertConsole(t, here, { MQ_SERVER: listen }, cwd)
    }
  })
}

test('an example that says what is not so is found out', async (t) => {
  const failures: string[] = []
  const witness = {
    testdir: () => t.testdir(),
    equal: () => true,
    fail: (message: string) => failures.push(message),
    match: (given: string, form: RegExp, message: string) => form.test(given) || failures.push(message),
  } as unknown as typeof t
  await assertClaims(
    witness,
    `const list = [1, 'two'] // a comment
list // → [ 1, 'two' ]
list[0] // → 2
list[1] // → '…'
JSON.parse('{') // → throws UNSUPPORTED
if (list.length > 9) {
  list // → []
}
`,
  )
  t.strictSame(failures, ['line 3: 2', 'line 5: throws UNSUPPORTED', 'line 7 was never reached'])
})

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { type Test, test } from 'tap'
import ts from 'typescript'
import type { Segment, Store } from '../../src/env.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { storeContract } from './store-contract.ts'

test('contract', async (t) => {
  await storeContract(t, (t) => {
    const directory = join(t.testdir(), 'data')
    return () => openLmdbStore(directory)
  })
})

test('like a sorted map, also after reopening', async (t) => {
  const root = t.testdir()
  const key = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 3, max: 3 }),
    fc.uint8Array({ minLength: 1, maxLength: 64 }),
  )
  const bound = fc.oneof(key, fc.constant(new Uint8Array(0)))
  const value = fc
    .tuple(fc.oneof(fc.nat(20), fc.nat(10_000), fc.nat(200_000)), fc.nat(255))
    .map(([length, byte]) => new Uint8Array(length).fill(byte))
  const step = fc.oneof(
    fc.record({
      do: fc.constant('commit' as const),
      puts: fc.array(fc.record({ key, value }), { maxLength: 20 }),
    }),
    fc.record({ do: fc.constant('get' as const), key: bound }),
    fc.record({ do: fc.constant('floor' as const), key: bound }),
    fc.record({ do: fc.constant('scan' as const), from: bound, to: bound }),
    fc.record({ do: fc.constant('reopen' as const) }),
  )
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const directory = join(root, `${run++}`)
      let store = openLmdbStore(directory)
      await store.lock()
      let segment = await store.open('a', { create: true })
      /** The naive version, by hexadecimal key: such text is ordered as its bytes are. */
      const model = new Map<string, Uint8Array>()
      const sorted = () => [...model].sort(([a], [b]) => (a < b ? -1 : 1))
      try {
        for (const step of [...steps, { do: 'reopen' as const }]) {
          switch (step.do) {
            case 'commit':
              await segment.commit(step.puts)
              for (const put of step.puts) model.set(hex(put.key), put.value)
              break
            case 'get':
              assertSame(segment.get(step.key), model.get(hex(step.key)))
              break
            case 'floor': {
              const expected = sorted().findLast(([key]) => key <= hex(step.key))
              const found = segment.floor(step.key)
              assertSame(found?.value, expected?.[1])
              if (found !== undefined && hex(found.key) !== expected?.[0]) throw new Error('another key')
              break
            }
            case 'scan': {
              const within = ([key]: [string, Uint8Array]) => hex(step.from) <= key && key < hex(step.to)
              compareScan(segment, step.from, step.to, sorted().filter(within))
              break
            }
            case 'reopen': {
              const { usedBytes } = segment
              await segment.close()
              await store.close()
              store = openLmdbStore(directory)
              await store.lock()
              segment = await store.open('a', { create: false })
              if (segment.usedBytes !== usedBytes) throw new Error('usedBytes changed by reopening')
              compareScan(segment, new Uint8Array(0), new Uint8Array(65).fill(255), sorted())
            }
          }
        }
      } finally {
        await segment.close()
        await store.close()
        rmSync(directory, { recursive: true })
      }
    }),
    { numRuns: 40 },
  )
  t.pass(`${run} runs`)
})

test('values longer than lmdb copies', async (t) => {
  const { segment } = await makeSegment(t)
  const value = new Uint8Array((16 << 20) + 12_345).fill(7)
  for (let i = 0; i < 5; i++) {
    await segment.commit([{ key: Uint8Array.of(i), value }])
    for (let k = 0; k <= i; k++) assertSame(segment.get(Uint8Array.of(k)), value)
    assertSame(segment.floor(Uint8Array.of(i, 0))?.value, value)
  }
  let visits = 0
  segment.scan(Uint8Array.of(0), Uint8Array.of(9), (_key, seen) => {
    assertSame(seen, value)
    return ++visits > 0
  })
  t.equal(visits, 5)
})

test('using it against its contract is a defect', async (t) => {
  const directory = join(t.testdir(), 'data')
  const store = openLmdbStore(directory)
  await t.rejects(store.list(), { name: 'InvariantError' }, 'not locked')
  await store.lock()
  await t.rejects(store.lock(), { name: 'InvariantError' }, 'locked twice')
  for (const name of ['', '.', '..', '../a', 'a/b', '.hidden', 'a b']) {
    await t.rejects(store.open(name, { create: true }), { name: 'InvariantError' }, `name '${name}'`)
  }
  const segment = await store.open('a', { create: true })
  await t.rejects(store.open('a', { create: false }), { name: 'InvariantError' }, 'open twice')
  await t.rejects(store.remove('a'), { name: 'InvariantError' }, 'removed while open')
  await t.rejects(store.close(), { name: 'InvariantError' }, 'closed before its segment')

  const value = new Uint8Array(1)
  const good = { key: Uint8Array.of(1), value }
  for (const key of [new Uint8Array(0), new Uint8Array(65)]) {
    await t.rejects(segment.commit([good, { key, value }]), { name: 'InvariantError' }, 'length of a key')
    t.equal(segment.get(good.key), undefined, 'and nothing of that commit is written')
  }
  const first = segment.commit([good])
  await t.rejects(segment.commit([good]), { name: 'InvariantError' }, 'two commits at a time')
  await first
  await segment.close()
  t.throws(() => segment.get(good.key), { name: 'InvariantError' }, 'read after close')
  await t.rejects(store.open('a', { create: true }), { code: 'STORAGE_FAILED' }, 'created twice')
  await t.rejects(store.remove('b'), { code: 'STORAGE_FAILED' }, 'removed, but never there')
  await store.close()
  await store.close()
})

test('files and directory are for the owner only', async (t) => {
  const { directory } = await makeSegment(t)
  t.equal(statSync(directory).mode & 0o777, 0o700)
  for (const file of readdirSync(directory)) {
    t.equal(statSync(join(directory, file)).mode & 0o077, 0, file)
  }
})

test('locking tidies up what a crash left, and nothing else', async (t) => {
  const directory = t.testdir({
    'a.mdb.new': '',
    'a.mdb.new-lock': '',
    'a.mdb.new.probe': '',
    'a.mdb.probe': '',
    'b.mdb-lock': 'without b.mdb',
    'c.mdb': '',
    'c.mdb-lock': '',
    'd.mdb.new.mdb': '',
    'e.mdb.removed': 'in part',
    'notes.txt': '',
  })
  const store = openLmdbStore(directory)
  await store.lock()
  t.same(readdirSync(directory).sort(), ['LOCK', 'c.mdb', 'c.mdb-lock', 'd.mdb.new.mdb', 'notes.txt'])
  t.same(await store.list(), ['c', 'd.mdb.new'])
  await store.close()
})

test('a large segment that is removed leaves nothing', async (t) => {
  const directory = join(t.testdir(), 'data')
  const store = openLmdbStore(directory)
  await store.lock()
  const segment = await store.open('a', { create: true })
  await segment.commit([{ key: Uint8Array.of(1), value: new Uint8Array(5 << 20) }])
  await segment.close()
  await store.remove('a')
  t.same(await store.list(), [])
  t.same(readdirSync(directory), ['LOCK'])
  await store.close()
})

test('a directory that cannot be written', async (t) => {
  const directory = t.testdir({ file: '', LOCK: {} })
  await t.rejects(openLmdbStore(join(directory, 'file')).lock(), { code: 'DATA_DIR_NOT_WRITABLE' })
  await t.rejects(openLmdbStore(join(directory, 'file', 'data')).lock(), { code: 'DATA_DIR_NOT_WRITABLE' })
  await t.rejects(openLmdbStore(directory).lock(), { code: 'DATA_DIR_NOT_WRITABLE' }, 'LOCK is a directory')
})

test('a page that makes no sense: every read that meets it says so, and nobody writes to the file', async (t) => {
  const directory = join(t.testdir(), 'data')
  const write = openLmdbStore(directory)
  await write.lock()
  const made = await write.open('a', { create: true })
  const key = Buffer.from('the-key-of-a-large-value')
  await made.commit([{ key, value: new Uint8Array(100_000) }])
  await made.close()
  await write.close()
  const path = join(directory, 'a.mdb')
  const bytes = readFileSync(path)
  const at = bytes.indexOf(key)
  // Behind the key of a value with pages of its own is the number of the first.
  bytes.writeBigUInt64LE(0x7fff_ffffn, at + key.length)
  writeFileSync(path, bytes)
  const store = openLmdbStore(directory, { leaveAsIs: true })
  await store.lock()
  const segment = await store.open('a', { create: false })
  for (let i = 0; i < 2; i++) {
    t.throws(() => segment.scan(Buffer.from('a'), Buffer.from('z'), () => true), { code: 'CORRUPT_LOG' })
    t.throws(() => segment.floor(key), { code: 'CORRUPT_LOG' })
    t.throws(() => segment.get(key), { code: 'CORRUPT_LOG' })
  }
  await segment.close()
  await store.close()
  await write.lock()
  await t.rejects(write.open('a', { create: false }), {
    code: 'CORRUPT_LOG',
    message: /page \d+: page number/,
  })
  await write.close()
})

test('a file that was cut short', async (t) => {
  const { directory, store, segment } = await makeSegment(t)
  for (let i = 0; i < 20; i++) {
    await segment.commit([{ key: Uint8Array.of(i), value: new Uint8Array(10_000).fill(i) }])
  }
  await segment.close()
  const path = join(directory, 'a.mdb')
  const whole = statSync(path).size
  const pageBytes = 4096
  for (const length of [
    0,
    1,
    100,
    pageBytes,
    pageBytes + 100,
    2 * pageBytes,
    whole >> 1,
    whole - pageBytes,
    whole - 1,
  ]) {
    copyFileSync(path, join(directory, 'cut.mdb'))
    truncateSync(join(directory, 'cut.mdb'), length)
    await t.rejects(store.open('cut', { create: false }), { code: 'CORRUPT_LOG' }, `${length} of ${whole}`)
  }
  copyFileSync(path, join(directory, 'cut.mdb'))
  const copy = await store.open('cut', { create: false })
  t.equal(copy.get(Uint8Array.of(19))?.[9999], 19, 'the whole file opens')
  await copy.close()
  truncateSync(path, whole + 1_000_000)
  const longer = await store.open('a', { create: false })
  t.equal(longer.get(Uint8Array.of(19))?.[9999], 19, 'a longer one too')
  await longer.close()
})

test("a file that is not ours, or of another LMDB's format", async (t) => {
  const { directory, store, segment } = await makeSegment(t)
  await segment.close()
  const newer = readFileSync(join(directory, 'a.mdb'))
  newer.writeUInt32LE(3, 28)
  const files = { text: 'hello\n'.repeat(10_000), zeros: new Uint8Array(1 << 20), newer }
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(directory, `${name}.mdb`), content)
    await t.rejects(store.open(name, { create: false }), { code: 'CORRUPT_LOG' }, name)
  }
  mkdirSync(join(directory, 'directory.mdb'))
  await t.rejects(store.open('directory', { create: false }), { code: 'STORAGE_FAILED' }, 'a directory')
})

test('lmdb forgets a segment that was closed', async (t) => {
  const { allDbs } = (await import('lmdb')) as unknown as { allDbs: Map<string, unknown> }
  const before = allDbs.size
  const { segment } = await makeSegment(t)
  t.equal(allDbs.size, before + 1)
  await segment.close()
  t.equal(allDbs.size, before)
})

test('the lock keeps other processes out, and ends with its holder', async (t) => {
  const run = makeChildren(t)
  const directory = join(t.testdir(), 'data')
  const holder = run(`
    await openLmdbStore(${JSON.stringify(directory)}).lock()
    print('locked')
    process.stdin.resume()`)
  t.equal(await holder.line(), 'locked')
  const store = openLmdbStore(directory)
  await t.rejects(store.lock(), { code: 'DATA_DIR_LOCKED', message: new RegExp(`process ${holder.pid}$`) })
  holder.kill('SIGKILL')
  await holder.ended
  await store.lock()
  t.equal(readFileSync(join(directory, 'LOCK'), 'utf8'), `${process.pid}\n`)

  const other = run(`
    const error = await openLmdbStore(${JSON.stringify(directory)}).lock().catch((error) => error)
    print(error.code, error.message)`)
  t.equal(await other.line(), `DATA_DIR_LOCKED ${directory} is in use by process ${process.pid}`)
  await other.ended
  await store.close()
  const next = run(`await openLmdbStore(${JSON.stringify(directory)}).lock(); print('locked')`)
  t.equal(await next.line(), 'locked', 'free after close')
  await next.ended
})

test('a child of the holder does not keep the lock', async (t) => {
  const run = makeChildren(t)
  const directory = join(t.testdir(), 'data')
  const holder = run(`
    const { spawn } = await import('node:child_process')
    await openLmdbStore(${JSON.stringify(directory)}).lock()
    const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    print(child.pid)
    process.stdin.resume()`)
  const pid = Number(await holder.line())
  // It lives on until its standard input ends, and that ends with the holder: so stop it first.
  process.kill(pid, 'SIGSTOP')
  t.teardown(() => process.kill(pid, 'SIGKILL'))
  holder.kill('SIGKILL')
  await holder.ended
  const store = openLmdbStore(directory)
  await store.lock()
  await store.close()
})

test('without the command flock, an error says what to install', async (t) => {
  const run = makeChildren(t)
  const directory = join(t.testdir(), 'data')
  const child = run(
    `const error = await openLmdbStore(${JSON.stringify(directory)}).lock().catch((error) => error)
     print(error.code, error.message)`,
    { env: { PATH: t.testdirName } },
  )
  t.match(await child.line(), /^STORAGE_FAILED .*'flock'.*util-linux/)
  await child.ended
})

test('kill -9 loses no commit that has resolved', async (t) => {
  const run = makeChildren(t)
  const directory = join(t.testdir(), 'data')
  const program = `
    const store = openLmdbStore(${JSON.stringify(directory)})
    await store.lock()
    const segment = await store.open('a', { create: (await store.list()).length === 0 })
    const count = Buffer.from(segment.floor(Uint8Array.of(255))?.key ?? [0, 0, 0, 0, 0]).readUInt32BE() + 1
    for (let i = count; ; i++) {
      const key = (part) => { const key = Buffer.alloc(5); key.writeUInt32BE(i); key[4] = part; return key }
      const parts = 1 + i % 5
      const value = Buffer.alloc([10, 3000, 50_000][i % 3], i)
      await segment.commit(Array.from({ length: parts }, (_, part) => ({ key: key(part), value })))
      print(i)
    }`
  let confirmed = 0
  for (let round = 0; round < 10; round++) {
    const child = run(program)
    const lines = 1 + Math.floor(Math.random() * 200)
    for (let i = 0; i < lines; i++) confirmed = Number(await child.line())
    child.kill('SIGKILL')
    // What it had printed when it died counts too.
    for (const line of await child.rest()) confirmed = Number(line)

    const store = openLmdbStore(directory)
    await store.lock()
    const segment = await store.open('a', { create: false })
    const partsOf = new Map<number, number>()
    segment.scan(new Uint8Array(0), Uint8Array.of(255), (key, value) => {
      const i = Buffer.from(key).readUInt32BE()
      const length = [10, 3000, 50_000][i % 3]!
      if (value.length !== length || !value.every((byte) => byte === (i & 0xff))) t.fail(`value of ${i}`)
      partsOf.set(i, (partsOf.get(i) ?? 0) + 1)
      return true
    })
    const found = [...partsOf.keys()]
    t.ok(found.length >= confirmed, `round ${round}: confirmed ${confirmed}, found ${found.length}`)
    t.ok(found.length <= confirmed + 1, 'and no more than the one in flight')
    t.ok(
      found.every((i, at) => i === at + 1),
      'without a gap',
    )
    t.ok(
      found.every((i) => partsOf.get(i) === 1 + (i % 5)),
      'each commit whole',
    )
    await segment.close()
    await store.close()
  }
})

test('a commit resolves after its fdatasync, and takes one transaction', async (t) => {
  const run = makeChildren(t)
  const directory = join(t.testdir(), 'data')
  const trace = join(t.testdirName, 'trace')
  const commits = 20
  const child = run(
    `const store = openLmdbStore(${JSON.stringify(directory)})
     await store.lock()
     print('locked')
     const segment = await store.open('a', { create: true })
     print('begin')
     for (let i = 0; i < ${commits}; i++) {
       const puts = []
       for (let k = 0; k <= i * 10; k++) puts.push({ key: Uint8Array.of(i, k), value: Buffer.alloc(i * 2000, k) })
       await segment.commit(puts)
       print('resolved')
     }`,
    { via: strace(trace, ['-y', '-e', 'trace=fdatasync,fsync,msync,rename,pwrite64,pwritev,write']) },
  )
  t.same(await child.rest(), ['locked', 'begin', ...Array<string>(commits).fill('resolved')])

  // A call that another thread interrupts is printed in two lines; the second says when it ended.
  const events: string[] = []
  for (const line of readFileSync(trace, 'utf8').split('\n')) {
    if (/ write\(1<.*"locked/.test(line)) events.length = 0
    else if (/ write\(1<.*"begin/.test(line)) events.push('begin')
    else if (/ write\(1<.*"resolved/.test(line)) events.push('resolved')
    else if (/ (fdatasync\(|<\.\.\. fdatasync resumed>).* = 0$/.test(line)) events.push('fdatasync')
    else if (/ fsync\(\d+<.*\/data\/a\.mdb\.new>/.test(line)) events.push('fsync file')
    else if (/ rename\(.*a\.mdb\.new".*a\.mdb"/.test(line)) events.push('rename')
    else if (/ fsync\(\d+<.*\/data>/.test(line)) events.push('fsync directory')
  }
  const [make, ...rest] = split(events, 'begin')
  t.same(make, ['fsync file', 'rename', 'fsync directory'], 'creating a segment')
  t.same(rest.length, 1)
  const perCommit = split(rest[0]!, 'resolved')
  t.same(perCommit.pop(), [], 'nothing after the last')
  t.same(perCommit, Array(commits).fill(['fdatasync']), 'one fdatasync for each commit, before it resolves')
})

test('names that a killed process may not have synced are synced before the directory is used', async (t) => {
  const { directory, store, segment } = await makeSegment(t)
  await segment.close()
  await store.close()
  const trace = join(t.testdirName, 'trace')
  const child = makeChildren(t)(
    `await openLmdbStore(${JSON.stringify(directory)}).lock()
     print('locked')`,
    { via: strace(trace, ['-y', '-e', 'trace=fsync,write']) },
  )
  t.same(await child.rest(), ['locked'])
  const lines = readFileSync(trace, 'utf8').split('\n')
  const locked = lines.findIndex((line) => / write\(1<.*"locked/.test(line))
  const synced = lines.findIndex((line) => line.includes(` fsync(`) && line.includes(`<${directory}>`))
  t.ok(synced >= 0 && synced < locked, `synced on line ${synced}, locked on line ${locked}`)
})

test('a commit that a killed process may not have synced is synced before anybody builds on it', async (t) => {
  const directory = join(t.testdir(), 'data')
  const store = openLmdbStore(directory)
  await store.lock()
  for (const name of ['old', 'last', 'current']) await (await store.open(name, { create: true })).close()
  await store.close()
  const trace = join(t.testdirName, 'trace')
  const child = makeChildren(t)(
    `const store = openLmdbStore(${JSON.stringify(directory)})
     await store.lock()
     print('begin')
     await store.open('old', { create: false, sealed: true })
     await store.open('last', { create: false, sealed: true, synced: true })
     print('opened last')
     await store.open('current', { create: false })
     print('opened current')`,
    { via: strace(trace, ['-y', '-e', 'trace=fsync,write']) },
  )
  t.same(await child.rest(), ['begin', 'opened last', 'opened current'])
  const events: string[] = []
  for (const line of readFileSync(trace, 'utf8').split('\n')) {
    const said = / write\(1<.*"(begin|opened \w+)/.exec(line)
    const synced = / fsync\(\d+<.*\/data\/(\w+)\.mdb>/.exec(line)
    if (said?.[1] === 'begin') events.length = 0
    else if (said !== null) events.push(said[1]!)
    else if (synced !== null) events.push(`synced ${synced[1]}`)
  }
  t.same(events, ['synced last', 'opened last', 'synced current', 'opened current'])
})

test('after a failed flush the commit is refused, and so is every later one', async (t) => {
  const run = makeChildren(t)
  const { directory, store, segment } = await makeSegment(t)
  await segment.commit([{ key: Uint8Array.of(1), value: Uint8Array.of(1) }])
  await segment.close()
  await store.close()
  const faults = {
    'fdatasync:error=EIO': 'the pages are not known to be on disk',
    'pwrite64:error=EIO': 'the meta page cannot be written',
    // LMDB goes on no more after that, so it is no case of DISK_FULL.
    'pwrite64:error=ENOSPC': 'there is no room for the meta page',
  }
  for (const [fault, what] of Object.entries(faults)) {
    const child = run(
      `const store = openLmdbStore(${JSON.stringify(directory)})
       await store.lock()
       const segment = await store.open('a', { create: false })
       for (let i = 0; i < 2; i++) {
         // Long enough for pwritev: then pwrite64 writes meta pages only.
         const error = await segment.commit([{ key: Uint8Array.of(2), value: new Uint8Array(20_000) }]).catch((error) => error)
         print(error?.code, error?.outcome, error?.cause?.message)
       }
       await segment.close()
       await store.close()
       print('closed')`,
      { via: strace('/dev/null', ['-e', 'trace=fdatasync,pwrite64', '-e', `inject=${fault}`]) },
    )
    const cause = fault.endsWith('EIO') ? 'Input/output error' : 'No space left on device'
    const refused = `STORAGE_FAILED unknown ${cause}`
    const lines = await child.rest()
    t.ok(lines[0]!.startsWith(refused), `${what}: ${lines[0]}`)
    t.ok(lines[1]!.startsWith(refused), 'the next commit')
    t.equal(lines[2], 'closed')
  }
  const again = openLmdbStore(directory)
  await again.lock()
  const reopened = await again.open('a', { create: false })
  t.same(reopened.get(Uint8Array.of(1)), Uint8Array.of(1), 'what was confirmed before is there')
  await reopened.close()
  await again.close()
})

test('a full disk refuses commits and harms nothing', async (t) => {
  const run = makeChildren(t)
  const mount = join(t.testdir({ disk: {} }), 'disk')
  const child = run(
    `import { readdirSync, rmSync, writeFileSync } from 'node:fs'
     const mount = ${JSON.stringify(mount)}
     writeFileSync(mount + '/reserve', Buffer.alloc(1 << 20))
     let store = openLmdbStore(mount + '/data')
     await store.lock()
     let segment = await store.open('a', { create: true })
     const key = (i) => { const key = Buffer.alloc(4); key.writeUInt32BE(i); return key }
     const confirmed = new Map()
     let next = 0
     const commit = async (count, length) => {
       const puts = Array.from({ length: count }, () => ({ key: key(next++), value: Buffer.alloc(length, next) }))
       try {
         await segment.commit(puts)
         for (const put of puts) confirmed.set(put.key.readUInt32BE(), put.value)
         return 'done'
       } catch (error) {
         return error.code + ' ' + error.outcome
       }
     }
     const check = () => {
       let entries = 0
       segment.scan(key(0), key(0xffffffff), (key, value) => {
         if (Buffer.compare(value, confirmed.get(Buffer.from(key).readUInt32BE()) ?? Buffer.alloc(0)) !== 0) throw new Error('value')
         return ++entries > 0
       })
       return entries === confirmed.size
     }
     const fillUp = async (count, length) => {
       for (;;) { const result = await commit(count, length); if (result !== 'done') return result }
     }

     print('large commits until full:', await fillUp(4, 100_000))
     print('again:', await commit(4, 100_000), await commit(40, 100_000), check())
     print('a small one still fits:', await commit(1, 10), check())
     try { writeFileSync(mount + '/filler', Buffer.alloc(8 << 20)) } catch (error) { print('filler', error.code) }
     print('small commits until full:', await fillUp(1, 3000))
     print('again:', await fillUp(1, 3000), await fillUp(3, 2000), check())
     print('create:', await store.open('b', { create: true }).catch((error) => error.code), (await store.list()).join())

     await segment.close()
     await store.close()
     store = openLmdbStore(mount + '/data')
     await store.lock()
     segment = await store.open('a', { create: false })
     print('reopened while full:', check())
     print('files:', readdirSync(mount + '/data').sort().join())
     await segment.close()
     rmSync(mount + '/data/a.mdb-lock')
     writeFileSync(mount + '/page', Buffer.alloc(4096))
     print('without its table of readers:', await store.open('a', { create: false }).catch((error) => error.code))
     rmSync(mount + '/reserve')
     segment = await store.open('a', { create: false })
     print('with room again:', await commit(1, 3000), check())
     await segment.close()
     const other = await store.open('b', { create: true })
     print('create:', other.name)`,
    { via: onSmallDisk(mount, 8) },
  )
  t.same(await child.rest(), [
    'large commits until full: DISK_FULL failed',
    'again: DISK_FULL failed DISK_FULL failed true',
    'a small one still fits: done true',
    'filler ENOSPC',
    'small commits until full: DISK_FULL failed',
    'again: DISK_FULL failed DISK_FULL failed true',
    'create: DISK_FULL a',
    'reopened while full: true',
    'files: LOCK,a.mdb,a.mdb-lock',
    'without its table of readers: DISK_FULL',
    'with room again: done true',
    'create: b',
  ])
  t.notMatch(child.stderr(), /\n +at /, 'no stack of what is expected')
})

// ---

/** A store with one new segment `a`; both are closed after the test if they are still open. */
async function makeSegment(t: Test): Promise<{ directory: string; store: Store; segment: Segment }> {
  const directory = join(t.testdir(), 'data')
  const store = openLmdbStore(directory)
  await store.lock()
  const segment = await store.open('a', { create: true })
  t.teardown(async () => {
    await segment.close()
    await store.close()
  })
  return { directory, store, segment }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function assertSame(found: Uint8Array | undefined, expected: Uint8Array | undefined): void {
  const isSame = found && expected ? Buffer.compare(found, expected) === 0 : found === expected
  if (!isSame) throw new Error(`found ${found?.length} bytes, expected ${expected?.length}`)
}

function compareScan(
  segment: Segment,
  from: Uint8Array,
  to: Uint8Array,
  expected: [string, Uint8Array][],
): void {
  let at = 0
  segment.scan(from, to, (key, value) => {
    if (hex(key) !== expected[at]?.[0])
      throw new Error(`entry ${at}: ${hex(key)}, expected ${expected[at]?.[0]}`)
    assertSame(value, expected[at]?.[1])
    at++
    return true
  })
  if (at !== expected.length) throw new Error(`${at} entries, expected ${expected.length}`)
}

function split(events: readonly string[], by: string): string[][] {
  const parts: string[][] = [[]]
  for (const event of events) {
    if (event === by) parts.push([])
    else parts.at(-1)!.push(event)
  }
  return parts
}

interface Child {
  /** What it has said there so far. */
  readonly stderr: () => string
  readonly pid: number | undefined
  /** The next line it prints. Rejects with its standard error when it ends before. */
  line(): Promise<string>
  /** All lines it prints until it ends. */
  rest(): Promise<string[]>
  readonly ended: Promise<unknown>
  kill: ChildProcess['kill']
}

interface ChildOptions {
  /** A command that runs the one given to it as further arguments. */
  readonly via?: readonly string[]
  readonly env?: Record<string, string>
}

/**
 * Compiles the adapter to plain JavaScript next to the test's own directory, and returns what runs a program that
 * has `openLmdbStore` and `print` in a process of its own. Children end with the test.
 */
function makeChildren(t: Test): (program: string, options?: ChildOptions) => Child {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
  const directory = `${t.testdirName}-program`
  rmSync(directory, { recursive: true, force: true })
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  for (const file of ['src/storage/lmdb.ts', 'src/storage/lmdb-pages.ts', 'src/env.ts', 'src/errors.ts']) {
    const { outputText } = ts.transpileModule(readFileSync(join(root, file), 'utf8'), {
      compilerOptions: {
        target: ts.ScriptTarget.ES2022,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
        rewriteRelativeImportExtensions: true,
      },
    })
    const compiled = join(directory, file.replace(/\.ts$/, '.js'))
    mkdirSync(dirname(compiled), { recursive: true })
    writeFileSync(compiled, outputText)
  }
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }')
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'))

  let programs = 0
  return (program, options = {}) => {
    const path = join(directory, `${programs++}.js`)
    writeFileSync(
      path,
      `import { writeSync } from 'node:fs'
       import { openLmdbStore } from './src/storage/lmdb.js'
       const print = (...words) => writeSync(1, words.join(' ') + '\\n')
       ${program}`,
    )
    const [command, ...args] = [...(options.via ?? []), process.execPath, path]
    const child = spawn(command, args, { env: { ...cleanEnv(), ...options.env }, stdio: 'pipe' })
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const ended = new Promise((resolve) => child.once('close', resolve))
    t.teardown(async () => {
      child.kill('SIGKILL')
      await ended
    })
    const next = async () => {
      const step = await lines.next()
      return step.done === true ? undefined : step.value
    }
    return {
      pid: child.pid,
      ended,
      stderr: () => errors,
      kill: child.kill.bind(child),
      line: async () => {
        const line = await next()
        if (line === undefined) throw new Error(`the child ended: ${errors}`)
        return line
      },
      rest: async () => {
        const rest: string[] = []
        for (let line = await next(); line !== undefined; line = await next()) rest.push(line)
        await ended
        if (child.exitCode !== 0 && child.signalCode !== 'SIGKILL')
          rest.push(`exit ${child.exitCode}: ${errors}`)
        return rest
      },
    }
  }
}

/** Without what tap puts there to load TypeScript and to measure coverage. */
function cleanEnv(): NodeJS.ProcessEnv {
  const isOurs = ([name]: [string, unknown]) => name === 'NODE_OPTIONS' || name.startsWith('TAP_')
  return Object.fromEntries(Object.entries(process.env).filter((entry) => !isOurs(entry)))
}

function strace(output: string, options: readonly string[]): string[] {
  if (spawnSync('strace', ['-V']).error !== undefined) {
    throw new Error('strace is missing: apt-get install strace')
  }
  return ['strace', '-f', '-qq', '-s', '64', '-o', output, ...options]
}

/**
 * Mounts a tmpfs at `path` for one process, in a mount namespace of its own: it goes away with the process. That
 * takes root, or sudo without a password, or a kernel that lets users have namespaces.
 */
function onSmallDisk(path: string, megabytes: number): string[] {
  const script = `mount -t tmpfs -o size=${megabytes}m tmpfs "$0" && exec "$@"`
  const unshare = ['unshare', '--mount']
  const ways = [unshare, ['sudo', '-n', ...unshare], [...unshare, '--map-root-user']]
  for (const way of ways) {
    const [command, ...args] = [...way, 'sh', '-c', script, path]
    if (spawnSync(command, [...args, 'true']).status === 0) return [command, ...args]
  }
  throw new Error('no way to mount a small tmpfs: run the tests as root, or with sudo without a password')
}

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type Test } from 'tap'
import { SeededRandom } from '../crash/random.ts'
import { Disk } from './disk.ts'
import { Operations } from './operations.ts'
import type { SystemCall } from './trace.ts'

const hex = (text: string): string =>
  `"${Buffer.from(text)
    .toString('hex')
    .replaceAll(/../g, (byte) => `\\x${byte}`)}"`

/** Of calls that follow each other, each one taking a line. */
function life(firstLine: number, calls: [name: string, text: string, result: number][]): SystemCall[] {
  return calls.map(([name, text, result], i) => {
    const began = firstLine + i
    return { name, thread: 1, text, began, ended: Number.isNaN(result) ? Infinity : began, result }
  })
}

/** What of the file a power cut leaves that takes all it may. */
function leftAfter(operations: Operations): string {
  const disk = new Disk()
  const moments = operations.disk.flatMap((call) => [
    { line: call.began, act: () => disk.begin(call) },
    ...(call.ended === Infinity ? [] : [{ line: call.ended, act: () => disk.end(call) }]),
  ])
  // Stable: of the same line, the beginning stands first.
  for (const { act } of moments.sort((a, b) => a.line - b.line)) act()
  const file = disk.image('nothing unsynced', new SeededRandom(1)).files.get('data')
  return file === undefined ? 'no file' : disk.bytesOf(file).toString()
}

/** A process is killed within the write through `flags`, which is in the file all the same; then another one comes. */
function killedInWrite(t: Test, flags: string, after: [string, string, number][], there = 'new'): string {
  const directory = t.testdir()
  const path = join(directory, 'data')
  const operations = new Operations(directory)
  const open = (more: string): [string, string, number] => [
    'openat',
    `AT_FDCWD, ${hex(path)}, O_RDWR${more}, 0600) = 5`,
    5,
  ]
  writeFileSync(path, there)
  operations.add(
    life(1, [
      ['openat', `AT_FDCWD, ${hex(directory)}, O_RDONLY) = 4`, 4],
      open(`|O_CREAT${flags}`),
      ['pwrite64', `5, ${hex('old')}, 3, 0) = 3`, 3],
      ['fsync', '5) = 0', 0],
      ['fsync', '4) = 0', 0],
      ['pwrite64', `5, ${hex('new')}, 3, 0`, NaN],
    ]),
    10,
  )
  operations.add(life(11, [open(''), ...after]), 20)
  return leftAfter(operations)
}

test('what a process was killed in is not on disk, and the next sync covers it', (t) => {
  for (const flags of ['', '|O_DSYNC']) {
    t.equal(killedInWrite(t, flags, []), 'old', `without a sync${flags}`)
    t.equal(killedInWrite(t, flags, [['fsync', '5) = 0', 0]]), 'new', `with one${flags}`)
    t.equal(killedInWrite(t, flags, [['fsync', '5', NaN]]), 'old', `with one that was not ended${flags}`)
    t.equal(killedInWrite(t, flags, [['fsync', '5) = 0', 0]], 'nld'), 'nld', `with a part of it${flags}`)
    t.equal(killedInWrite(t, flags, [['fsync', '5) = 0', 0]], 'old'), 'old', `with nothing of it${flags}`)
  }
  t.end()
})

test('a name that a process was killed in giving is covered by the next sync of the directory', (t) => {
  const directory = t.testdir()
  const data = join(directory, 'data')
  const left = (after: [string, string, number][]): string => {
    const operations = new Operations(directory)
    operations.add(
      life(1, [
        ['openat', `AT_FDCWD, ${hex(`${data}.new`)}, O_RDWR|O_CREAT, 0600) = 5`, 5],
        ['rename', `${hex(`${data}.new`)}, ${hex(data)}`, NaN],
      ]),
      10,
    )
    operations.add(life(11, [['openat', `AT_FDCWD, ${hex(directory)}, O_RDONLY) = 4`, 4], ...after]), 20)
    return leftAfter(operations)
  }
  mkdirSync(directory, { recursive: true })
  writeFileSync(data, '')
  t.equal(left([]), 'no file')
  t.equal(left([['fsync', '4) = 0', 0]]), '')
  t.end()
})

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { readTrace } from './trace.ts'

test('calls that returned, that failed, and in which the process was killed', (t) => {
  const file = join(t.testdir(), 'trace')
  const lines = [
    '7 fdatasync(5) = 0',
    '7 unlink("\\x61" <unfinished ...>',
    '7 read(6, 0x1, 1) = -1 EAGAIN (Resource temporarily unavailable)',
    '7 pwrite64(5, "\\x61", 1, 0) = ?',
    '7 pwrite64(5, "\\x62", 1, 1) = ? <unavailable>',
    '7 <... unlink resumed>) = ? <unavailable>',
    '7 write(5, "\\x63", 1 <unfinished ...>',
    '',
  ]
  writeFileSync(file, lines.join('\n'))
  const { calls, lines: count } = readTrace(file, 7, 1)
  t.equal(count, lines.length)
  t.same(
    calls.map(({ name, began, ended, result }) => [name, began, ended, String(result)]),
    [
      ['fdatasync', 1, 1, '0'],
      ['unlink', 2, Infinity, 'NaN'],
      ['read', 3, 3, '-1'],
      ['pwrite64', 4, Infinity, 'NaN'],
      ['pwrite64', 5, Infinity, 'NaN'],
      ['write', 7, Infinity, 'NaN'],
    ],
  )
  t.end()
})

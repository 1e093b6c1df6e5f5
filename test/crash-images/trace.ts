/** Reads what strace wrote of one process: its system calls with all their bytes, each with its place in the order. */
import { readFileSync } from 'node:fs'

/** Everything that can change a data directory, or that tells a client something. */
export const tracedCalls = [
  ...['open', 'openat', 'openat2', 'creat', 'close', 'dup', 'dup2', 'dup3', 'fcntl', 'lseek'],
  ...['write', 'pwrite64', 'writev', 'pwritev', 'pwritev2', 'truncate', 'ftruncate', 'fallocate'],
  ...['sendfile', 'copy_file_range', 'splice', 'io_uring_setup', 'io_uring_enter', 'io_submit'],
  ...['fsync', 'fdatasync', 'sync', 'syncfs', 'sync_file_range', 'mmap', 'msync'],
  ...['rename', 'renameat', 'renameat2', 'unlink', 'unlinkat', 'link', 'linkat', 'symlink', 'symlinkat'],
  ...['mkdir', 'mkdirat', 'rmdir', 'accept', 'accept4', 'read', 'readv', 'recvfrom', 'recvmsg'],
  ...['sendto', 'sendmsg', 'clone', 'clone3'],
]

export interface SystemCall {
  readonly name: string
  readonly thread: number
  /** Arguments as strace wrote them; of one that did not return, those that it had read. */
  readonly text: string
  /** Lines of the trace. Whatever it did, it did between the two; `ended` is Infinity of a call that never returned. */
  readonly began: number
  readonly ended: number
  /** Negative: it failed. NaN: it never returned. */
  readonly result: number
}

// 1234  write(23, "\x00…"..., 12) = 12
// 1234  fdatasync(19 <unfinished ...>
// 1234  <... fdatasync resumed>)          = 0
// 1234  <... unlink resumed>)             = ? <unavailable>
const beginning = /^(\d+) +(\w+)\(/
const resuming = /^(\d+) +<\.\.\. (\w+) resumed>/
const unfinishedMark = '<unfinished ...>'
/** A result stands at the end of the line, behind what may be megabytes. */
const resultChars = 200

/**
 * The calls of the process `pid`, in the order in which they began. Its children are left out.
 * @param firstLine number of the trace's first line: a second run continues the order of the first
 */
export function readTrace(
  file: string,
  pid: number,
  firstLine: number,
): { calls: SystemCall[]; lines: number } {
  const lines = readFileSync(file, 'latin1').split('\n')
  const all: { -readonly [K in keyof SystemCall]: SystemCall[K] }[] = []
  const unfinished = new Map<number, (typeof all)[number]>()
  lines.forEach((line, i) => {
    const at = firstLine + i
    const resumed = resuming.exec(line)
    if (resumed !== null) {
      const call = unfinished.get(Number(resumed[1]))
      if (call?.name !== resumed[2]) return
      unfinished.delete(call!.thread)
      if (neverReturned(line)) return
      call!.text += line.slice(resumed[0].length)
      call!.ended = at
      call!.result = resultOf(line)
      return
    }
    const begun = beginning.exec(line)
    if (begun === null) return
    const thread = Number(begun[1])
    const call = { name: begun[2]!, thread, text: '', began: at, ended: Infinity, result: NaN }
    all.push(call)
    if (line.endsWith(unfinishedMark)) {
      call.text = line.slice(begun[0].length, -unfinishedMark.length)
      unfinished.set(thread, call)
      return
    }
    call.text = line.slice(begun[0].length)
    if (neverReturned(line)) return
    call.ended = at
    call.result = resultOf(line)
  })
  const threads = new Set([pid])
  for (const { name, text, result } of all)
    if (name.startsWith('clone') && text.includes('CLONE_THREAD') && result > 0) threads.add(result)
  return { calls: all.filter(({ thread }) => threads.has(thread)), lines: lines.length }
}

/** The process was killed in it. */
function neverReturned(line: string): boolean {
  return /= \?(?: <unavailable>)?$/.test(line.slice(-resultChars))
}

function resultOf(line: string): number {
  const found = /= (-?\d+)(?: E[A-Z]+ \(.*\))?(?: \(.*\))?$/.exec(line.slice(-resultChars))
  // An address, of mmap; a call that was interrupted and began again.
  return Number(found?.[1] ?? (/= 0x[0-9a-f]+$/.test(line.slice(-resultChars)) ? 0 : -1))
}

/** The number that is argument `i`, of those before the first string; −1 for AT_FDCWD and the like. */
export function numberArgument(text: string, i: number): number {
  const n = Number.parseInt(text.split(/[,)]/, i + 1)[i] ?? '', 10)
  return Number.isNaN(n) ? -1 : n
}

/** All strings among the arguments. @throws Error one of them was cut short */
export function stringArguments(text: string): Buffer[] {
  const strings: Buffer[] = []
  for (let from = text.indexOf('"'); from >= 0; from = text.indexOf('"', from)) {
    const end = text.indexOf('"', from + 1)
    if (end < 0 || text.startsWith('...', end + 1)) throw new Error('strace cut the bytes of a call short')
    strings.push(Buffer.from(text.slice(from + 1, end).replaceAll('\\x', ''), 'hex'))
    from = end + 1
  }
  return strings
}

/** What follows the last string, or the arguments if there is none. */
export function afterStrings(text: string): string {
  return text.slice(text.lastIndexOf('"') + 1)
}

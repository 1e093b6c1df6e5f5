/** Reads what strace wrote about the broker: which system calls began and ended, in which order. */

export interface SystemCall {
  readonly name: string
  /** The descriptor it is about, or −1. */
  readonly fd: number
  /** What the descriptor is, as `strace -yy` says. */
  readonly about: string
  /** Lines of the trace: where it began, and where it ended. */
  readonly began: number
  readonly ended: number
  readonly text: string
  readonly result: number
}

// 1234  write(23<TCP:[127.0.0.1:7650->127.0.0.1:5000]>, "…"..., 12) = 12
// 1234  fdatasync(19</data/00000001.mdb> <unfinished ...>
// 1234  <... fdatasync resumed>)          = 0
const beginning = /^(\d+)\s+(\w+)\((?:(\d+)<(.*?)>(?=[,)\s]))?(.*)$/
const resuming = /^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$/
const ending = /=\s+(-?\d+)[^=]*$/

/** Calls that ended, in the order in which they did. */
export function parseTrace(trace: string): SystemCall[] {
  const calls: SystemCall[] = []
  const unfinished = new Map<string, Omit<SystemCall, 'ended' | 'result'>>()
  trace.split('\n').forEach((line, at) => {
    const resumed = resuming.exec(line)
    if (resumed !== null) {
      const [, thread, name, rest] = resumed
      const call = unfinished.get(thread!)
      if (call?.name !== name) return
      unfinished.delete(thread!)
      calls.push({ ...call!, text: call!.text + rest!, ended: at, result: resultOf(rest!) })
      return
    }
    const begun = beginning.exec(line)
    if (begun === null) return
    const [, thread, name, fd, about, rest] = begun
    const call = { name: name!, fd: Number(fd ?? -1), about: about ?? '', began: at, text: rest! }
    if (rest!.endsWith('<unfinished ...>')) unfinished.set(thread!, call)
    else calls.push({ ...call, ended: at, result: resultOf(rest!) })
  })
  return calls
}

function resultOf(rest: string): number {
  return Number(ending.exec(rest)?.[1] ?? NaN)
}

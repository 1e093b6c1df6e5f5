/** A server's processes together: PostgreSQL is a dozen of them, and RabbitMQ's shell script starts another. */
import { readdirSync, readFileSync } from 'node:fs'
import { peakMemoryBytesOf } from '../proc.ts'

interface Process {
  readonly pid: number
  readonly parent: number
  /** Its own time and that of the children it has waited for, in ticks. */
  readonly ticks: number
}

/** USER_HZ: the kernel's ABI fixes it at 100 on every architecture that Node runs on. */
const ticksPerSecond = 100

/**
 * User and system time of a process and all below it so far, in seconds. Those that ended count as well, for their
 * parents have waited for them.
 */
export function cpuSecondsOfTree(root: number): number {
  return treeOf(root).reduce((sum, { ticks }) => sum + ticks, 0) / ticksPerSecond
}

/** Memory of a process and all below it now, what they share counted once, in bytes. */
export function memoryBytesOfTree(root: number): number {
  return treeOf(root).reduce((sum, { pid }) => sum + proportionalBytesOf(pid), 0)
}

const lookMs = 1000

/** Keeps the most memory that a tree has had at once. Of one process the kernel keeps it; of several, a look each second does. */
export class PeakMemory {
  readonly #root: number
  #bytes = 0
  readonly #timer: NodeJS.Timeout

  constructor(root: number) {
    this.#root = root
    this.#timer = setInterval(() => this.#look(), lookMs)
  }

  #look(): void {
    if (treeOf(this.#root).length > 1) this.#bytes = Math.max(this.#bytes, memoryBytesOfTree(this.#root))
  }

  /** Idempotent. */
  stop(): void {
    clearInterval(this.#timer)
  }

  bytes(): number {
    this.#look()
    return treeOf(this.#root).length > 1 ? this.#bytes : peakMemoryBytesOf(this.#root)
  }
}

function treeOf(root: number): Process[] {
  const children = new Map<number, Process[]>()
  let found: Process | undefined
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const process = readProcess(Number(name))
    if (process === null) continue
    if (process.pid === root) found = process
    const siblings = children.get(process.parent)
    if (siblings === undefined) children.set(process.parent, [process])
    else siblings.push(process)
  }
  if (found === undefined) throw new Error(`process ${root} is gone`)
  const tree = [found]
  for (let i = 0; i < tree.length; i++) tree.push(...(children.get(tree[i]!.pid) ?? []))
  return tree
}

/** Null: it went meanwhile. */
function readProcess(pid: number): Process | null {
  const stat = readProc(pid, 'stat')
  if (stat === null) return null
  // The second field is the name in parentheses, and may hold anything: count from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0)
  return { pid, parent: Number(fields[1]), ticks }
}

/** Pages that n processes share count for 1/n in each. */
function proportionalBytesOf(pid: number): number {
  const match = /^Pss:\s+(\d+) kB/m.exec(readProc(pid, 'smaps_rollup') ?? '')
  return match === null ? 0 : Number(match[1]) * 1024
}

function readProc(pid: number, file: string): string | null {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return null
  }
}

/** What Linux tells about processes and the machine, from /proc. */
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { projectRoot } from './broker-process.ts'

/** USER_HZ: the kernel's ABI fixes it at 100 on every architecture that Node runs on. */
const ticksPerSecond = 100

/** User and system time that a process has used so far, in seconds, to 10 ms. */
export function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The second field is the name in parentheses, and may hold anything: count from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}

/** The most memory a process has had in use at once, in bytes. Pages of its memory-mapped files count. */
export function peakMemoryBytesOf(pid: number): number {
  return statusBytes(pid, 'VmHWM')
}

/** Memory in use now without the pages of mapped files, in bytes. */
export function anonymousBytesOf(pid: number): number {
  return statusBytes(pid, 'RssAnon')
}

/** Memory in use now, in bytes: all of it, and what of it is not pages of mapped files. */
export function memoryOf(pid: number): { residentBytes: number; beyondMapBytes: number } {
  const residentBytes = statusBytes(pid, 'VmRSS')
  return { residentBytes, beyondMapBytes: residentBytes - statusBytes(pid, 'RssFile') }
}

function statusBytes(pid: number, field: string): number {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return match === null ? NaN : Number(match[1]) * 1024
}

/** Time that all cores together were busy (steal included: it was not ours), in seconds. */
export function machineBusySeconds(): number {
  const [user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8')
    .split('\n', 1)[0]!
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user! + nice! + system! + irq! + softirq! + steal!) / ticksPerSecond
}

/** Memory that could be used without swapping, in bytes. */
export function availableMemoryBytes(): number {
  const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))
  return match === null ? 0 : Number(match[1]) * 1024
}

export interface Machine {
  readonly cores: number
  readonly cpu: string
  readonly memoryBytes: number
  readonly kernel: string
  readonly node: string
  readonly lmdb: string
}

export function describeMachine(): Machine {
  return {
    cores: cpus().length,
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    lmdb: lmdbVersion(),
  }
}

function lmdbVersion(): string {
  const manifest = readFileSync(join(projectRoot(), 'node_modules', 'lmdb', 'package.json'), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}

export function machineText({ cores, cpu, memoryBytes, kernel, node, lmdb }: Machine): string {
  return `${cores} × ${cpu}, ${Math.round(memoryBytes / 2 ** 30)} GiB, Linux ${kernel}, Node ${node}, lmdb ${lmdb}`
}

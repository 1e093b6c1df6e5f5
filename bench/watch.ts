/** Looks at a broker from outside while something goes on: conditions to wait for, the most memory it took. */
import { setTimeout } from 'node:timers/promises'
import { BrokerProcess, type BrokerProcessOptions } from './broker-process.ts'
import { cpuSecondsOf, memoryOf } from './proc.ts'

const pollMs = 50

/** @returns how long it took, in milliseconds; null: `timeoutMs` was not enough */
export async function waitFor(
  timeoutMs: number,
  isSo: () => boolean | Promise<boolean>,
): Promise<number | null> {
  const startMs = performance.now()
  for (;;) {
    if (await isSo()) return performance.now() - startMs
    if (performance.now() - startMs > timeoutMs) return null
    await setTimeout(pollMs)
  }
}

/** The most memory beyond the mapped files that a process has while `work` goes on, in bytes, to a look each 50 ms. */
export async function peakBeyondMap<T>(
  pid: number,
  work: () => Promise<T>,
): Promise<{ result: T; bytes: number }> {
  let bytes = memoryOf(pid).beyondMapBytes
  const timer = setInterval(() => (bytes = Math.max(bytes, memoryOf(pid).beyondMapBytes)), pollMs)
  try {
    return { result: await work(), bytes: Math.max(bytes, memoryOf(pid).beyondMapBytes) }
  } finally {
    clearInterval(timer)
  }
}

export interface Started {
  readonly broker: BrokerProcess
  /** From the start of the process to an answer of /readyz that says so. */
  readonly readyMs: number
  /** What it had used of the processor by then, all threads together: what the machine's noise does not change. */
  readonly cpuMs: number
}

export async function startTimed(options: BrokerProcessOptions): Promise<Started> {
  const startMs = performance.now()
  const broker = await BrokerProcess.start(options)
  try {
    const ready = await waitFor(10_000, async () => (await fetch(`http://${broker.http}/readyz`)).ok)
    if (ready === null) throw new Error('the broker serves and never says that it is ready')
    return { broker, readyMs: performance.now() - startMs, cpuMs: 1000 * cpuSecondsOf(broker.pid) }
  } catch (error) {
    await broker.kill()
    throw error
  }
}

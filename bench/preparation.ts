/** What is done before anything is measured: a place for data, and memory that the machine has touched. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { availableMemoryBytes } from './proc.ts'
import { Worker } from './steps.ts'
import type { WarmSteps } from './warm.ts'

const touchedBytesMax = 8 * 2 ** 30
const touchMs = 120_000

/** Gone with this process, however it ends in order. */
export function makeDataDir(parent: string): string {
  mkdirSync(parent, { recursive: true })
  const dir = mkdtempSync(join(parent, 'mq-bench-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  return dir
}

/** Half of what is free, at most 8 GiB. @returns how many bytes */
export async function touchMemory(): Promise<number> {
  const worker = new Worker<WarmSteps>('warm')
  try {
    const bytes = Math.min(touchedBytesMax, availableMemoryBytes() / 2)
    return await worker.call('touch', { bytes }, touchMs)
  } finally {
    await worker.stop()
  }
}

/** How long the load runs before it is measured: V8 compiles for some seconds, a server in C does not. */
export function warmUpMs(durationMs: number): number {
  return Math.min(3000, durationMs / 2)
}

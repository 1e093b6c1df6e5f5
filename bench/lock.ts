/** Takes turns with others on the same machine, as `flock FILE command` does. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { ownChild } from './broker-process.ts'

/** Runs `work` while nobody else has the lock; without a file at once. */
export async function withLock<T>(file: string | undefined, work: () => Promise<T>): Promise<T> {
  if (file === undefined) return work()
  // It has the lock while it runs, and it runs until its input ends: at the latest with this process.
  const holder = spawn('flock', [file, 'sh', '-c', 'echo held; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  ownChild(holder)
  const ended = once(holder, 'exit')
  await Promise.race([
    once(holder.stdout, 'data'),
    ended.then(() => Promise.reject(new Error(`--lock: ${file} cannot be locked`))),
  ])
  try {
    return await work()
  } finally {
    holder.stdin.end()
    await ended
  }
}

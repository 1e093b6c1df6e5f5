/** What is said of a disk that does not do as it is asked. */
import type { Clock, Timer } from '../env.ts'
import { MqError } from '../errors.ts'

/** Gives the disk up when `what` has not ended within `timeoutMs`: a system call hangs, and nobody can take it back. */
export function watchdog(
  clock: Clock,
  timeoutMs: number,
  what: string,
  failed: (error: MqError) => void,
): Timer {
  return clock.after(timeoutMs, () => {
    const details = { stuck: true }
    failed(new MqError('STORAGE_FAILED', `${what} took over ${timeoutMs} ms`, { details }))
  })
}

export function asStorageError(what: string, error: unknown): MqError {
  if (error instanceof MqError) return error
  return new MqError('STORAGE_FAILED', `${what} failed: ${String(error)}`, { cause: error })
}

/** Nothing was written, and the disk is good. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof MqError && error.code === 'DISK_FULL'
}

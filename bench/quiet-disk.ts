/**
 * Waits until the disk has done what the run before left to it.
 *
 * What that run wrote is deleted at its end, and a file system gives gigabytes back for seconds after: of 2 GiB on ext4
 * with `discard`, syncs of others took 20 to 100 ms, in bursts every two seconds, for eight seconds.
 */
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

/** A sync that takes longer is of a disk that is at something. */
const slowMs = 10
const quietMsMax = 2500
const patience = 5

/** Before a run of latencies, of `durationMs`; of one that is short, so is the wait. */
export async function quietDisk(dir: string, durationMs: number): Promise<void> {
  const path = join(dir, 'quiet')
  const file = await open(path, 'w')
  const block = Buffer.alloc(4096)
  try {
    const quietMs = Math.min(quietMsMax, durationMs / 2)
    const begunMs = performance.now()
    let slowAtMs = begunMs
    while (performance.now() - slowAtMs < quietMs && performance.now() - begunMs < patience * quietMs) {
      const atMs = performance.now()
      await file.write(block, 0, block.length, 0)
      await file.datasync()
      if (performance.now() - atMs > slowMs) slowAtMs = performance.now()
      await pause(1)
    }
  } finally {
    await file.close()
    await rm(path)
  }
}

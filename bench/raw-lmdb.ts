/**
 * What the store below the broker can do by itself, in a process of its own: the same lmdb, as durable as the broker
 * needs it, with nothing around it. Blobs as large as a client's batches; one file, which grows.
 */
import * as lmdb from 'lmdb'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { percentile } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface PutTask {
  readonly dir: string
  readonly valueBytes: number
  /** Puts not yet durable at most. */
  readonly inFlight: number
  readonly durationMs: number
  readonly bytesMax: number
}

export interface PutResult {
  readonly puts: number
  readonly elapsedMs: number
  readonly cpuSeconds: number
  readonly p50Ms: number
  readonly p99Ms: number
}

const steps = {
  async put({ dir, valueBytes, inFlight, durationMs, bytesMax }: PutTask): Promise<PutResult> {
    const db = lmdb.open<Uint8Array, Uint8Array>(join(dir, 'raw.mdb'), {
      noSubdir: true,
      encoding: 'binary',
      keyEncoding: 'binary',
      overlappingSync: false,
      commitDelay: 0,
      compression: false,
      cache: false,
      remapChunks: false,
      maxDbs: 1,
    })
    // Written again and again: a put reads the buffer later, so it must not change, and it never does.
    const value = randomBytes(valueBytes)
    const putsMax = Math.max(1, Math.floor(bytesMax / valueBytes))
    const latenciesMs = new Float64Array(Math.min(putsMax, 1 << 20))
    let next = 0
    let durable = 0
    const cpu = process.cpuUsage()
    const start = performance.now()
    const loop = async () => {
      while (next < putsMax) {
        const at = performance.now()
        if (at - start >= durationMs) return
        const key = Buffer.alloc(8)
        key.writeUInt32BE(next++, 4)
        await db.put(key, value)
        if (durable < latenciesMs.length) latenciesMs[durable] = performance.now() - at
        durable++
      }
    }
    await Promise.all(Array.from({ length: inFlight }, loop))
    const elapsedMs = performance.now() - start
    const { user, system } = process.cpuUsage(cpu)
    await db.close()
    const sorted = latenciesMs.slice(0, durable).sort()
    return {
      puts: durable,
      elapsedMs,
      cpuSeconds: (user + system) / 1e6,
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
    }
  },
}

export type RawSteps = typeof steps

serveSteps(steps)

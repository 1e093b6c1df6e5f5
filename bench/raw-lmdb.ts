/**
 * What the store below the broker can do by itself, in a process of its own: the same lmdb, as durable as the broker
 * needs it, with nothing around it. Blobs as large as a client's batches; one file, which grows, or whose blocks were
 * all written before.
 */
import * as lmdb from 'lmdb'
import { randomBytes } from 'node:crypto'
import { closeSync, fdatasyncSync, fstatSync, openSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { secondsSince } from './load.ts'
import { sendPaced, type PacedResult, type PacedTask } from './paced.ts'
import { percentile, type Latency } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface OpenTask {
  readonly dir: string
  readonly valueBytes: number
  /** Zeros that are written to the file and synced; null: it grows. */
  readonly zeroBytes: number | null
}

export interface PutTask {
  /** Puts not yet durable at most. */
  readonly inFlight: number
  readonly durationMs: number
  readonly bytesMax: number
}

export interface PutResult extends Latency {
  readonly puts: number
  readonly elapsedMs: number
  readonly cpuSeconds: number
}

const zerosAtOnceBytes = 4 << 20

let db: lmdb.Database<Uint8Array, Uint8Array>
let file = ''
/** Past it the file grows; infinite where it may. */
let fileBytesMax = Infinity
/** Written again and again: a put reads the buffer later, so it must not change, and it never does. */
let value: Buffer

const steps = {
  async open({ dir, valueBytes, zeroBytes }: OpenTask): Promise<void> {
    file = join(dir, 'raw.mdb')
    value = randomBytes(valueBytes)
    db = openFile()
    if (zeroBytes === null) return
    // LMDB's own first pages are on the disk once something was put.
    await db.put(Buffer.alloc(1), value)
    await db.close()
    fileBytesMax = writeZeros(file, zeroBytes)
    // Its map covers the file as it is when it is opened.
    db = openFile()
  },

  /** At a pace: what comes while a commit is under way is in the next. */
  async paced(task: PacedTask): Promise<PacedResult & { cpuSeconds: number }> {
    const cpu = process.cpuUsage()
    let next = 0
    const paced = await sendPaced(task, (body) => db.put(keyOf(next++), body))
    const cpuSeconds = secondsSince(cpu)
    await db.close()
    return { ...paced, cpuSeconds }
  },

  async put({ inFlight, durationMs, bytesMax }: PutTask): Promise<PutResult> {
    const putsMax = Math.max(1, Math.floor(bytesMax / value.length))
    const latenciesMs = new Float64Array(Math.min(putsMax, 1 << 20))
    let next = 0
    let durable = 0
    const cpu = process.cpuUsage()
    const start = performance.now()
    const loop = async () => {
      while (next < putsMax) {
        const at = performance.now()
        if (at - start >= durationMs) return
        await db.put(keyOf(next++), value)
        if (durable < latenciesMs.length) latenciesMs[durable] = performance.now() - at
        durable++
      }
    }
    await Promise.all(Array.from({ length: inFlight }, loop))
    const elapsedMs = performance.now() - start
    const cpuSeconds = secondsSince(cpu)
    await db.close()
    if (statSync(file).size > fileBytesMax)
      throw new Error('raw lmdb outgrew the blocks that were written before')
    const sorted = latenciesMs.slice(0, durable).sort()
    return {
      puts: durable,
      elapsedMs,
      cpuSeconds,
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
      p999Ms: percentile(sorted, 0.999),
    }
  },
}

function keyOf(n: number): Buffer {
  const key = Buffer.alloc(8)
  key.writeUInt32BE(n, 4)
  return key
}

function openFile(): lmdb.Database<Uint8Array, Uint8Array> {
  return lmdb.open<Uint8Array, Uint8Array>(file, {
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
}

/** Behind what the file has: LMDB's own pages stay as they are. @returns the file's size */
function writeZeros(path: string, bytes: number): number {
  const zeros = Buffer.alloc(zerosAtOnceBytes)
  const fd = openSync(path, 'r+')
  const first = fstatSync(fd).size
  let end = first
  while (end < first + bytes) end += writeSync(fd, zeros, 0, zeros.length, end)
  fdatasyncSync(fd)
  closeSync(fd)
  return end
}

export type RawSteps = typeof steps

serveSteps(steps)

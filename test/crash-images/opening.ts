/**
 * Puts an image into a directory and opens it as the broker does when it starts.
 *
 * Two things are done once for many images, since they cost more than all else and cannot come out otherwise: a file
 * whose bytes are those of the image before stays open, and the directory stays locked unless there is something in it
 * that taking the lock tidies up.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EmbeddedStore } from '../../src/coordinator/embedded.ts'
import type { OpenOptions, Segment, Store } from '../../src/env.ts'
import { logName } from '../../src/partition/entry.ts'
import { RangeMap, type Run } from '../../src/partition/range-map.ts'
import { checkStore } from '../../src/storage/check.ts'
import { openLmdbStore } from '../../src/storage/lmdb.ts'
import { logDefaults, SharedLog, type Recovered } from '../../src/storage/log.ts'
import { systemClock, systemRandom } from '../../src/system.ts'
import type { QueueId } from '../../src/types.ts'
import { logKey, originsOf, type LogKey } from './conversation.ts'
import { isMeaningless, type Disk, type Image } from './disk.ts'
import type { Found, FoundBatch, FoundLog } from './promises.ts'

/** What a file whose bytes mean nothing has in it. */
const rubbish = Buffer.alloc(8192, 'any bytes may stand here. ')

export class ImageDirectory {
  readonly #path: string
  /** By name: of which bytes the file is. */
  readonly #written = new Map<string, string>()
  readonly #store: KeptStore

  constructor() {
    // In memory, if there is such a place: what is tested is what comes after the disk.
    const parent = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
    this.#path = mkdtempSync(join(parent, 'mq-crash-image-'))
    this.#store = new KeptStore(openLmdbStore(this.#path))
    process.once('exit', this.#delete)
  }

  async remove(): Promise<void> {
    await this.#store.unlock()
    process.off('exit', this.#delete)
    this.#delete()
  }

  /** Memory that a file system holds outlives the process. */
  readonly #delete = (): void => rmSync(this.#path, { recursive: true, force: true })

  /** @param disk as it was when the image was made */
  async put(disk: Disk, image: Image): Promise<void> {
    const isUntidy = [...image.files.keys()].some((name) => isTidied(name, image))
    if (isUntidy) await this.#store.unlock()
    for (const name of new Set([...this.#written.keys(), ...image.files.keys()])) {
      if (this.#written.get(name) === image.files.get(name)?.key) continue
      this.#remove(name)
      // LMDB's table of readers is of the file that it was made for, and changes only when that is closed.
      const segment = /^(.+)\.mdb(?:-lock)?$/.exec(name)?.[1]
      if (segment === undefined) continue
      await this.#store.forget(segment)
      this.#remove(`${segment}.mdb-lock`)
    }
    for (const [name, file] of image.files) {
      if (this.#written.get(name) === file.key) continue
      writeFileSync(join(this.#path, name), isMeaningless(name) ? rubbish : disk.bytesOf(file))
      this.#written.set(name, file.key)
    }
  }

  /**
   * Everything in it, as a start would find it. What a start throws is a problem.
   * @param isServed the broker had served from it, so that nothing of it may be missing
   */
  async open(isServed: boolean): Promise<Found> {
    const problems: string[] = []
    let copies = 0
    const queues = new Map<string, QueueId>()
    const logs = new Map<LogKey, FoundLog>()
    const store = this.#store
    try {
      await store.lock()
      if (!isServed) await recover(store, isServed, queues, logs)
      const checked = await check(store)
      problems.push(...checked.told)
      copies = checked.copies
      if (isServed) await recover(store, isServed, queues, logs)
    } catch (error) {
      if (!(error instanceof Error)) throw error
      problems.push(`it does not open: ${error.stack ?? error.message}`)
    }
    if (!isServed || problems.length > 0) await this.#clear()
    return { problems, copies, queues, logs }
  }

  #remove(name: string): void {
    rmSync(join(this.#path, name), { force: true })
    this.#written.delete(name)
  }

  /** What a start has changed is in no other image. */
  async #clear(): Promise<void> {
    await this.#store.unlock()
    rmSync(this.#path, { recursive: true, force: true })
    mkdirSync(this.#path)
    this.#written.clear()
  }
}

/** Whether it is deleted by whoever takes the directory's lock. */
function isTidied(name: string, { files }: Image): boolean {
  if (name === 'LOCK' || name === 'RESERVE' || name === 'JOURNAL') return false
  if (name.endsWith('.mdb-lock')) return !files.has(name.slice(0, -'-lock'.length))
  return !name.endsWith('.mdb')
}

/** A store that is locked once, and whose segments stay open until they are forgotten. */
class KeptStore implements Store {
  readonly #store: Store
  /** By name, and whether they are sealed. */
  readonly #open = new Map<string, Segment>()
  #isLocked = false

  constructor(store: Store) {
    this.#store = store
  }

  async lock(): Promise<void> {
    if (this.#isLocked) return
    await this.#store.lock()
    this.#isLocked = true
  }

  async unlock(): Promise<void> {
    for (const [key, segment] of this.#open) {
      this.#open.delete(key)
      await segment.close()
    }
    await this.#store.close()
    this.#isLocked = false
  }

  async forget(name: string): Promise<void> {
    for (const sealed of [true, false]) {
      const key = keptKey(name, sealed)
      await this.#open.get(key)?.close()
      this.#open.delete(key)
    }
  }

  async open(name: string, options: OpenOptions): Promise<Segment> {
    const sealed = options.sealed === true
    let segment = this.#open.get(keptKey(name, sealed))
    if (segment === undefined) {
      // The store opens a segment once.
      await this.forget(name)
      segment = await this.#store.open(name, options)
      this.#open.set(keptKey(name, sealed), segment)
    }
    const kept = segment
    return {
      name,
      get usedBytes() {
        return kept.usedBytes
      },
      commit: (puts) => kept.commit(puts),
      get: (key) => kept.get(key),
      floor: (key) => kept.floor(key),
      scan: (from, to, visit, skip) => kept.scan(from, to, visit, skip),
      seal: () => kept.seal(),
      walk: (found) => kept.walk(found),
      pieces: (bytesMax) => kept.pieces(bytesMax),
      close: async () => undefined,
    }
  }

  list = () => this.#store.list()
  remove = (name: string) => this.#store.remove(name)
  reserve = (bytes: number) => this.#store.reserve(bytes)
  release = () => this.#store.release()
  journal = (initial: Uint8Array | null) => this.#store.journal(initial)
  close = async () => undefined
}

function keptKey(name: string, sealed: boolean): string {
  return sealed ? `${name} sealed` : name
}

/** What `mq-broker check` says. */
async function check(store: Store): Promise<{ told: string[]; copies: number }> {
  const { problems, segments } = await checkStore(store, { nowMs: systemClock.nowMs() })
  const told = problems.map(({ what, segment, queue, partition, offset }) => {
    const where = Object.entries({ segment, queue, partition, offset }).filter(
      ([, value]) => value !== undefined,
    )
    return `check: ${what} (${where.map(([key, value]) => `${key} ${value}`).join(', ')})`
  })
  return { told, copies: segments.reduce((sum, segment) => sum + segment.copies, 0) }
}

/** What a start does before it serves. */
async function recover(
  store: Store,
  isServed: boolean,
  queues: Map<string, QueueId>,
  logs: Map<LogKey, FoundLog>,
): Promise<void> {
  const failed = (error: Error): never => {
    throw error
  }
  const meta = await EmbeddedStore.open(store, systemClock, systemRandom, {
    nodeId: undefined,
    commitTimeoutMs: 60_000,
    failed,
    makeRoom: async () => false,
  })
  try {
    if (!isServed) await meta.drawEpoch()
    const options = { ...logDefaults, reserveBytes: 0, cacheBytes: 0 }
    const log = await SharedLog.open(store, systemClock, systemRandom, options, {
      failed,
      rolled: () => undefined,
      relieved: () => undefined,
      full: () => undefined,
    })
    try {
      for (const { name, id, options } of meta.queues.values()) {
        queues.set(name, id)
        for (let partition = 0; partition < (options.partitions ?? 1); partition++)
          logs.set(logKey(id, partition), foundIn(log.recover(logName(id, partition))))
      }
    } finally {
      await log.close()
    }
  } finally {
    await meta.close()
  }
}

function foundIn({ log, state: { live, outbox, logEnd } }: Recovered): FoundLog {
  const batches: FoundBatch[] = []
  const origins = new Map<string, number>()
  const all = new RangeMap()
  for (const map of [live, outbox.moving]) {
    const run: Run = { start: 0, end: 0, value: 0 }
    for (let at = 0; map.nextRun(at, run); at = run.end) all.set(run.start, run.end)
  }
  const run: Run = { start: 0, end: 0, value: 0 }
  for (let at = 0; all.nextRun(at, run);) {
    const entry = log.look(run.start)
    const { base, count, epoch, payloadCrc: crc, isForwarded } = entry
    batches.push({ base, count, epoch, crc, isForwarded })
    if (isForwarded) {
      originsOf(entry.payload).forEach((origin, i) => {
        if (origin !== null && live.has(base + i)) origins.set(origin, (origins.get(origin) ?? 0) + 1)
      })
    }
    at = base + count
  }
  return { live, moving: outbox.moving, logEnd, batches, origins }
}

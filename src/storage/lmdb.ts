// The real `Store`: one LMDB environment a segment, under one kernel lock.
//
//   <directory>/LOCK             who uses the directory; never deleted, since deleting a lock file is a race
//   <directory>/<name>.mdb       a segment
//   <directory>/<name>.mdb-lock  LMDB's own table of readers; worthless once nobody has the segment open
//   <directory>/<name>.mdb.new   a segment being made: it gets its name once it is whole on disk
//   <directory>/JOURNAL          what was committed lately in small groups (journal.ts)
//   <directory>/RESERVE          room that is kept for what must go on when the disk is full; its bytes mean nothing
//
// What had to be found out about lmdb 3.5.6, and what the code below rests on:
//
// - With `overlappingSync: false` a commit is: write the pages, fdatasync, write the meta page through an O_DSYNC
//   descriptor, resolve. Up to that last write nothing of the commit can be seen, before or after a crash.
// - `batch()` is what makes one transaction of many puts: the writer does not commit between the two marks it
//   sets. `eventTurnBatching` would do so too, but holds a second promise for every commit; when one fails, nobody
//   can catch that one, and an unhandled rejection ends the process.
// - A put copies the key at once and the value only when the writer thread comes to it.
// - A disk that fills up mostly answers with a short write, and LMDB calls that EIO. See `#failed`.
// - It writes through a memory map to one file only: the table of readers. On a full disk the first touch of a
//   page without a block kills the process with SIGBUS, so that file gets its blocks by a plain write before.
// - It maps the data file and believes all that stands there: how long the file is, which page is where. One number
//   that has rotted kills the process. So only the segment that is written to is open in LMDB, and only after its whole
//   structure was walked; all others are read by `lmdb-pages.ts`.
// - Values are read into one buffer that all environments of the process share. See `#keep`.
// - It remembers every environment ever opened in `allDbs`, with a write buffer of 64 KiB each.

import { spawnSync } from 'node:child_process'
import {
  accessSync,
  closeSync,
  constants as fsConstants,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  write,
  writeSync,
} from 'node:fs'
import { open as openFile, readdir, readFile, rename, rm, statfs, unlink } from 'node:fs/promises'
import { constants as osConstants } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import * as lmdb from 'lmdb'
import {
  type Damage,
  type JournalFile,
  keyBytesMax,
  type OpenOptions,
  type Piece,
  type Put,
  type Segment,
  type Store,
} from '../env.ts'
import { invariant, MqError } from '../errors.ts'
import { PageFile } from './lmdb-pages.ts'

const dataSuffix = '.mdb'
const readersSuffix = '-lock'
const newSuffix = '.new'
const probeSuffix = '.probe'
const removedSuffix = '.removed'
/** Ends of names that no whole segment's file has. */
const leftOverSuffixes = [
  dataSuffix + newSuffix,
  dataSuffix + newSuffix + readersSuffix,
  dataSuffix + newSuffix + probeSuffix,
  dataSuffix + probeSuffix,
  dataSuffix + removedSuffix,
]
const segmentName = /^[A-Za-z0-9][A-Za-z0-9._-]*$/

/** Room for LMDB's table of readers: 64 bytes each, behind a header smaller than this allows for. */
const readersBytes = 4096
const readersMax = 16
/** A value longer than this gets memory of its own when it is read, so that segments do not keep much. */
const keptBytesMax = 1 << 20
/** What a look for room writes at least: so much that no file system puts it among its own records. */
const probeBytesMin = 1 << 16
const reserveName = 'RESERVE'
const journalName = 'JOURNAL'
/** Of a disk, that is kept free at most. */
const reserveShareMax = 0.1
/** Not zeros, which a file system may keep for nothing. */
const reservePiece = new Uint8Array(1 << 20).fill(0x5a)

/** Of a file that is removed, what goes at once. */
const removedBytesMax = 2 << 20

const { EIO, ENOSPC, EDQUOT } = osConstants.errno

/** The part of lmdb's interface its declarations leave out. */
interface Environment {
  info(): { readonly lastPageNumber: number }
  /** Tells the status of the writer thread, and at the end of a transaction how that went. */
  startWriting(address: number, told: (status: number) => unknown): void
}
type Database = lmdb.RootDatabase<Uint8Array, Uint8Array> & { readonly env: Environment }
const { allDbs } = lmdb as unknown as { readonly allDbs: Map<string, unknown> }

/**
 * A data directory on the local disk. Nothing is touched before `lock()`, which makes the directory if it is
 * missing, and must have resolved before any other call.
 * @param options.leaveAsIs for whoever only reads: no directory is made, and nothing is tidied
 */
export function openLmdbStore(directory: string, options: { readonly leaveAsIs?: boolean } = {}): Store {
  return new LmdbStore(resolve(directory), options.leaveAsIs === true)
}

class LmdbStore implements Store {
  readonly #directory: string
  readonly #leaveAsIs: boolean
  /** Open exactly while the directory is ours. A plain number: a FileHandle would be closed by the collector. */
  #lock: number | undefined
  /** Names that are open, being opened or being removed: none of these may begin for them. */
  readonly #busy = new Set<string>()

  constructor(directory: string, leaveAsIs: boolean) {
    this.#directory = directory
    this.#leaveAsIs = leaveAsIs
  }

  async lock(): Promise<void> {
    invariant(this.#lock === undefined, 'a store is locked once')
    if (!this.#leaveAsIs) await makeDirectory(this.#directory)
    const fd = takeLock(this.#directory)
    this.#lock = fd
    try {
      if (!this.#leaveAsIs) {
        await this.#sweep()
        // Whoever was here before may have been killed between the rename of a new segment and the sync of its name. What
        // is confirmed from now on may be in that segment.
        await syncFile(this.#directory)
      }
    } catch (error) {
      this.#lock = undefined
      closeSync(fd)
      throw storageError(error, `cannot tidy the data directory ${this.#directory}`)
    }
  }

  async list(): Promise<string[]> {
    this.#assertLocked()
    try {
      const files = await readdir(this.#directory)
      return files
        .filter((file) => file.endsWith(dataSuffix))
        .map((file) => file.slice(0, -dataSuffix.length))
        .sort()
    } catch (error) {
      throw storageError(error, `cannot list the data directory ${this.#directory}`)
    }
  }

  async open(name: string, options: OpenOptions): Promise<Segment> {
    this.#begin(name)
    try {
      const path = this.#path(name)
      const closed = (): void => void this.#busy.delete(name)
      // Whoever was here before may have been killed within the last write of a commit: then it can be read, and a power
      // cut takes it. What is told and written from now on builds on it.
      if (!this.#leaveAsIs && (options.sealed !== true ? !options.create : options.synced === true))
        await syncFile(path)
      if (options.sealed === true || this.#leaveAsIs) return new LmdbSegment(name, path, null, closed)
      if (options.create) await this.#create(path)
      return new LmdbSegment(name, path, checkedPageBytes(path), closed)
    } catch (error) {
      this.#busy.delete(name)
      throw storageError(error, `cannot ${options.create ? 'create' : 'open'} segment ${name}`)
    }
  }

  async remove(name: string): Promise<void> {
    this.#begin(name)
    try {
      const path = this.#path(name)
      const removedPath = path + removedSuffix
      await rename(path, removedPath)
      await rm(path + readersSuffix, { force: true })
      await syncFile(this.#directory)
      // It is gone now: what is left under the other name is deleted by whoever locks the directory next.
      await removeInPieces(removedPath)
    } catch (error) {
      throw storageError(error, `cannot remove segment ${name}`)
    } finally {
      this.#busy.delete(name)
    }
  }

  async reserve(bytes: number): Promise<boolean> {
    this.#assertLocked()
    const path = join(this.#directory, reserveName)
    try {
      const { bsize, blocks } = await statfs(this.#directory)
      const wanted = Math.floor(Math.min(bytes, bsize * blocks * reserveShareMax))
      const file = await openFile(path, fsConstants.O_RDWR | fsConstants.O_CREAT, 0o600)
      try {
        const before = (await file.stat()).size
        let size = before
        while (size < wanted) {
          const { bytesWritten } = await file.write(
            reservePiece,
            0,
            Math.min(reservePiece.length, wanted - size),
            size,
          )
          size += bytesWritten
        }
        // A file system that gives out blocks late says only now that it has none.
        if (size > before) await file.sync()
      } finally {
        await file.close()
      }
      return true
    } catch (error) {
      if (!isFull(errnoOf(error))) throw storageError(error, `cannot write ${path}`)
      await this.release()
      return false
    }
  }

  async release(): Promise<void> {
    this.#assertLocked()
    const path = join(this.#directory, reserveName)
    try {
      await rm(path, { force: true })
      await syncFile(this.#directory)
    } catch (error) {
      throw storageError(error, `cannot remove ${path}`)
    }
  }

  async journal(initial: Uint8Array | null): Promise<JournalFile | null> {
    this.#assertLocked()
    invariant(!this.#busy.has(journalName), 'the journal is opened once')
    const path = join(this.#directory, journalName)
    try {
      const mode = this.#leaveAsIs ? fsConstants.O_RDONLY : fsConstants.O_RDWR | syncedWrites
      let fd = openIfThere(path, mode)
      if (fd === null) {
        if (initial === null || this.#leaveAsIs || syncedWrites === 0) return null
        if (!(await this.#createJournal(path, initial))) return null
        fd = openSync(path, mode)
      }
      this.#busy.add(journalName)
      const file = new PlainJournalFile(path, fd, () => void this.#busy.delete(journalName))
      // Whoever was here before may have been killed within a write: then it can be read, and a power cut takes it.
      if (!this.#leaveAsIs) await syncFile(path)
      return file
    } catch (error) {
      throw storageError(error, `cannot open ${path}`)
    }
  }

  /** @returns false: there is no room */
  async #createJournal(path: string, initial: Uint8Array): Promise<boolean> {
    const newPath = path + newSuffix
    try {
      const file = await openFile(newPath, 'w', 0o600)
      try {
        await file.writeFile(initial)
        await file.sync()
      } finally {
        await file.close()
      }
    } catch (error) {
      if (!isFull(errnoOf(error))) throw error
      await rm(newPath, { force: true })
      return false
    }
    await rename(newPath, path)
    await syncFile(this.#directory)
    return true
  }

  async close(): Promise<void> {
    if (this.#lock === undefined) return
    invariant(this.#busy.size === 0, 'segments are closed before their store')
    closeSync(this.#lock)
    this.#lock = undefined
  }

  /**
   * Makes an empty segment under another name, and gives it its own only once it is on disk: a power cut leaves a
   * whole segment or none, never a file that cannot be opened.
   */
  async #create(path: string): Promise<void> {
    if (existsSync(path)) throw new MqError('STORAGE_FAILED', `${path} exists already`)
    const newPath = path + newSuffix
    removeSegmentFiles(newPath)
    // lmdb uses freed memory when it cannot make a file, so it is not asked to on a disk that is full.
    if (!hasRoom(newPath, [new Uint8Array(probeBytesMin)])) {
      throw new MqError('DISK_FULL', `no room for ${path}`)
    }
    const db = openDatabase(newPath)
    await closeDatabase(db)
    await syncFile(newPath)
    await rename(newPath, path)
    await rm(newPath + readersSuffix, { force: true })
    await syncFile(this.#directory)
  }

  /** Deletes what a crash in `#create`, `remove` or `hasRoom` left behind. */
  async #sweep(): Promise<void> {
    const files = new Set(await readdir(this.#directory))
    for (const file of files) {
      const isOrphan =
        file.endsWith(dataSuffix + readersSuffix) && !files.has(file.slice(0, -readersSuffix.length))
      if (
        isOrphan ||
        file === journalName + newSuffix ||
        leftOverSuffixes.some((suffix) => file.endsWith(suffix))
      ) {
        await rm(join(this.#directory, file), { force: true })
      }
    }
  }

  #begin(name: string): void {
    this.#assertLocked()
    invariant(segmentName.test(name), `'${name}' is no name for a segment`)
    invariant(!this.#busy.has(name), `segment ${name} is in use`)
    this.#busy.add(name)
  }

  #assertLocked(): void {
    invariant(this.#lock !== undefined, 'a store is locked before it is used')
  }

  #path(name: string): string {
    return join(this.#directory, name + dataSuffix)
  }
}

/** Makes a write return once it is on the disk; 0 where there is nothing that does, or it may return before. */
const { O_DSYNC: dsync } = fsConstants as { readonly O_DSYNC?: number }
const syncedWrites = process.platform === 'linux' || process.platform === 'freebsd' ? (dsync ?? 0) : 0

function openIfThere(path: string, mode: number): number | null {
  try {
    return openSync(path, mode)
  } catch (error) {
    if (errnoOf(error) === osConstants.errno.ENOENT) return null
    throw error
  }
}

/** Opened so that a write returns once it is on the disk. */
class PlainJournalFile implements JournalFile {
  readonly #path: string
  readonly #fd: number
  readonly #closed: () => void
  #isOpen = true
  /** Settles with the write under way. */
  #writing: Promise<void> | undefined

  constructor(path: string, fd: number, closed: () => void) {
    this.#path = path
    this.#fd = fd
    this.#closed = closed
  }

  async read(): Promise<Uint8Array> {
    try {
      return await readFile(this.#path)
    } catch (error) {
      throw storageError(error, `cannot read ${this.#path}`)
    }
  }

  async write(at: number, bytes: Uint8Array): Promise<void> {
    invariant(this.#isOpen && this.#writing === undefined, 'one write at a time')
    this.#writing = this.#write(at, bytes)
    try {
      await this.#writing
    } catch (error) {
      throw storageError(error, `cannot write ${this.#path}`)
    } finally {
      this.#writing = undefined
    }
  }

  async #write(at: number, bytes: Uint8Array): Promise<void> {
    for (let written = 0; written < bytes.length;) {
      written += await writeSome(this.#fd, bytes, written, at + written)
    }
    if (syncedWrites === 0) await syncFile(this.#path)
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return
    this.#isOpen = false
    // The write's own caller hears how it went.
    await this.#writing?.catch(() => undefined)
    closeSync(this.#fd)
    this.#closed()
  }
}

/** One system call, by one of libuv's threads: a promise of Node's own `FileHandle` costs as much again. */
function writeSome(fd: number, bytes: Uint8Array, from: number, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, bytes, from, bytes.length - from, at, (error, written) => {
      if (error === null) resolve(written)
      else reject(error)
    })
  })
}

/** A bound that is not set. */
const noKey = undefined as Uint8Array | undefined

class LmdbSegment implements Segment {
  readonly name: string
  readonly #path: string
  readonly #closed: () => void
  readonly #pageBytes: number
  /** Until it is sealed, or closed. */
  #db: Database | undefined
  /** From its sealing until it is closed. */
  #pages: PageFile | undefined
  #usedBytes: number
  /** Settles with the commit under way. */
  #committing: Promise<void> | undefined
  /** Settles once LMDB has let go of the file. */
  #closing: Promise<void> | undefined
  /** Set by the first failure after which nobody knows what is on disk; every later commit is refused with it. */
  #failure: MqError | undefined
  /** Holds the value that was read last. Grows to the longest value seen, up to `keptBytesMax`. */
  #kept = new Uint8Array(0)
  // A new range costs as much as a search in the tree, so there are two, and each use changes its bounds. lmdb
  // looks at them when an iterator makes its first step, and `end` must be there: a reverse range without one
  // would leave out the key 00.
  readonly #floorQuery = { start: noKey, end: noKey, reverse: true, limit: 1, snapshot: true }
  #floorRange: lmdb.RangeIterable<{ key: Uint8Array; value: Uint8Array }> | undefined
  readonly #scanQuery = { start: noKey, end: noKey, snapshot: true }
  #scanRange: lmdb.RangeIterable<{ key: Uint8Array; value: Uint8Array }> | undefined

  /**
   * @param pageBytes how long its pages are; null: it is sealed
   * @throws whatever the file system or lmdb say
   */
  constructor(name: string, path: string, pageBytes: number | null, closed: () => void) {
    this.name = name
    this.#path = path
    this.#closed = closed
    if (pageBytes === null) {
      this.#pages = new PageFile(path)
      this.#pageBytes = 0
      this.#usedBytes = this.#pages.usedBytes
      return
    }
    this.#pageBytes = pageBytes
    const db = openDatabase(path)
    this.#db = db
    this.#usedBytes = this.#countUsedBytes(db)
    this.#floorRange = db.getRange(this.#floorQuery as lmdb.RangeOptions)
    this.#scanRange = db.getRange(this.#scanQuery as lmdb.RangeOptions)
  }

  /**
   * The length of the file up to the last page that was ever used, as of the last commit. It counts the few pages
   * that are free at the moment, so it never goes down.
   */
  get usedBytes(): number {
    return this.#usedBytes
  }

  async commit(puts: readonly Put[]): Promise<void> {
    const db = this.#opened()
    invariant(this.#committing === undefined, 'one commit at a time')
    // Before the first put is queued: what is queued is written, even when a later one cannot be.
    for (const { key } of puts) {
      invariant(key.length > 0 && key.length <= keyBytesMax, `a key has 1-${keyBytesMax} bytes`)
    }
    if (this.#failure !== undefined) throw this.#failure
    if (puts.length === 0) return
    this.#committing = this.#commit(db, puts)
    try {
      await this.#committing
    } finally {
      this.#committing = undefined
    }
  }

  async #commit(db: Database, puts: readonly Put[]): Promise<void> {
    try {
      await db.batch(() => {
        for (const { key, value } of puts) void db.put(key, value)
      })
    } catch (error) {
      throw await this.#failed(db, puts, error)
    }
    // Reads of one turn share a snapshot; the next must not be from before this commit.
    db.resetReadTxn()
    this.#usedBytes = this.#countUsedBytes(db)
  }

  get(key: Uint8Array): Uint8Array | undefined {
    const pages = this.#pages
    const db = pages === undefined ? this.#opened() : null
    if (key.length === 0) return undefined
    if (db === null) return this.#read(() => pages!.get(key))
    const value = this.#read(() => db.getBinaryFast(key))
    // lmdb sets the property `length` of its shared buffer: all other ways to ask give the buffer's capacity.
    return value && this.#keep(value.subarray(0, value.length))
  }

  floor(key: Uint8Array): Put | undefined {
    const pages = this.#pages
    if (pages !== undefined) return key.length === 0 ? undefined : this.#read(() => pages.floor(key))
    this.#opened()
    if (key.length === 0) return undefined
    this.#floorQuery.start = key
    const entries = this.#read(() => this.#floorRange![Symbol.iterator]())
    const step = this.#read(() => entries.next())
    entries.return?.()
    if (step.done === true) return undefined
    return { key: step.value.key, value: this.#keep(step.value.value) }
  }

  scan(
    from: Uint8Array,
    to: Uint8Array,
    visit: (key: Uint8Array, value: Uint8Array) => boolean,
    skip?: (damage: Damage) => void,
  ): void {
    if (this.#pages !== undefined) {
      // What the visitor throws stays as it is.
      this.#pages.scan(from, to, visit, skip)
      return
    }
    this.#opened()
    // To lmdb an end of length 0 is no end.
    if (to.length === 0) return
    this.#scanQuery.start = from.length === 0 ? undefined : from
    this.#scanQuery.end = to
    // After a page that made no sense lmdb refuses already here.
    const entries = this.#read(() => this.#scanRange![Symbol.iterator]())
    const next = () => entries.next()
    try {
      for (let step = this.#read(next); step.done !== true; step = this.#read(next)) {
        if (!visit(step.value.key, this.#keep(step.value.value))) return
      }
    } finally {
      entries.return?.()
    }
  }

  /** Reads go on meanwhile: the pages are there before the database goes. What LMDB wrote, a plain read sees at once. */
  async seal(): Promise<void> {
    if (this.#pages !== undefined) return
    const db = this.#opened()
    invariant(this.#committing === undefined, 'a segment is sealed between commits')
    this.#pages = this.#read(() => new PageFile(this.#path))
    this.#db = this.#floorRange = this.#scanRange = undefined
    this.#closing = closeDatabase(db)
    await this.#closing
  }

  walk(found: (damage: Damage) => void): void {
    invariant(this.#pages !== undefined, `segment ${this.name} is sealed before it is walked`)
    this.#pages.walk(found)
  }

  async *pieces(bytesMax: number): AsyncGenerator<Piece, void> {
    invariant(this.#pages !== undefined, `segment ${this.name} is sealed before it is read anew`)
    try {
      yield* this.#pages.pieces(bytesMax)
    } catch (error) {
      throw storageError(error, `cannot read segment ${this.name}`)
    }
  }

  async close(): Promise<void> {
    // The commit's own caller hears how it went.
    await this.#committing?.catch(() => undefined)
    const db = this.#db
    const pages = this.#pages
    if (db === undefined && pages === undefined) return
    this.#db = this.#pages = undefined
    pages?.close()
    if (db !== undefined) this.#closing = closeDatabase(db)
    await this.#closing
    this.#closed()
  }

  #opened(): Database {
    invariant(this.#db !== undefined, `segment ${this.name} is closed, or sealed`)
    return this.#db
  }

  #read<T>(read: () => T): T {
    try {
      return read()
    } catch (error) {
      throw storageError(error, `cannot read segment ${this.name}`)
    }
  }

  /**
   * Copies a value out of lmdb's buffer. That buffer belongs to all segments of the process: without this, a value
   * of one would turn into a value of another under its reader's hands. It costs a tenth of the read.
   */
  #keep(value: Uint8Array): Uint8Array {
    const { length } = value
    if (length > keptBytesMax) return Uint8Array.prototype.slice.call(value)
    if (length > this.#kept.length) this.#kept = new Uint8Array(2 ** Math.ceil(Math.log2(length)))
    this.#kept.set(value)
    return this.#kept.subarray(0, length)
  }

  #countUsedBytes(db: Database): number {
    return (db.env.info().lastPageNumber + 1) * this.#pageBytes
  }

  /**
   * Tells a full disk from a broken one. Nothing can be seen of a commit whose pages were not written, and LMDB can
   * go on: the next commit takes the same pages. Two things stand between that and the error's number:
   *
   * - When the disk takes only a part of a write, LMDB reports EIO, like a broken disk. So we try whether the same
   *   bytes can be written to another file. If that finds no room, the disk is full. Should the disk be full and
   *   broken: the commit was refused all the same, and nothing that was confirmed depends on it.
   * - When ENOSPC hits the meta page (it can, on a copy-on-write file system), LMDB refuses to go on, and its next
   *   asynchronous commit would never settle. An empty transaction finds out, since it fails at once.
   */
  async #failed(db: Database, puts: readonly Put[], error: unknown): Promise<MqError> {
    const cause = await causeOf(error)
    const code = (cause as { code?: unknown }).code
    const values = puts.map((put) => put.value)
    if (isFull(code) || (code === EIO && !hasRoom(this.#path, values))) {
      try {
        db.transactionSync(() => undefined, lmdbSynchronousCommit)
        return new MqError('DISK_FULL', `no room for a commit to segment ${this.name}`, {
          outcome: 'failed',
          cause,
        })
      } catch {
        // falls through: the segment is not good
      }
    }
    const message = `cannot commit to segment ${this.name}: ${messageOf(cause)}`
    this.#failure = new MqError('STORAGE_FAILED', message, { outcome: 'unknown', cause })
    return this.#failure
  }
}

/** `TransactionFlags.SYNCHRONOUS_COMMIT`, which lmdb declares but does not export. */
const lmdbSynchronousCommit = 2

/** lmdb rejects with an error that only points at another, which carries the number. */
async function causeOf(error: unknown): Promise<unknown> {
  try {
    await (error as { commitError?: Promise<unknown> }).commitError
    return error
  } catch (cause) {
    return cause
  }
}

/** Opens LMDB's files, and makes them if they are missing. Whoever calls has made sure that they can be opened. */
function openDatabase(path: string): Database {
  giveBlocks(path + readersSuffix, readersBytes)
  const options = {
    noSubdir: true,
    encoding: 'binary',
    keyEncoding: 'binary',
    // Values as they come. The view that `decode` returns is good until the next read; without a decoder, ranges
    // would copy each value to memory of its own.
    encoder: {
      encode: (value: Uint8Array) => value,
      decode: (bytes: Uint8Array, length: number) => bytes.subarray(0, length),
    },
    overlappingSync: false,
    eventTurnBatching: false,
    commitDelay: 0,
    compression: false,
    cache: false,
    remapChunks: false,
    maxDbs: 1,
    maxReaders: readersMax,
    permissionsMode: 0o600,
  } as const
  const db = lmdb.open<Uint8Array, Uint8Array>(path, options) as Database
  keepQuiet(db.env)
  return db
}

/**
 * lmdb prints a failed commit with its stack, besides rejecting it, and has no option for that. Its log would tell on
 * stderr what ours tells already, a line for each try. So nobody listens to `console.error` while lmdb hears of a
 * failure: that is one synchronous call in which none of our code runs, promises being settled later. What its native
 * code says, `Write error: …`, goes past Node and stays.
 */
function keepQuiet(env: Environment): void {
  const startWriting = env.startWriting.bind(env)
  const quietly: Environment['startWriting'] = (address, told) =>
    startWriting(address, (status) => {
      if (statusesOfProgress.has(status)) return told(status)
      /* eslint-disable no-console -- what lmdb prints with it */
      const { error } = console
      console.error = () => {}
      try {
        return told(status)
      } finally {
        console.error = error
      }
      /* eslint-enable no-console */
    })
  // The method that it covers is native, and cannot be assigned to.
  Object.defineProperty(env, 'startWriting', { value: quietly })
}

/** Committed, under way, to be called back: all others are failures. */
const statusesOfProgress: ReadonlySet<number> = new Set([0, 1, 2])

async function closeDatabase(db: Database): Promise<void> {
  await db.close()
  for (const [name, other] of allDbs) {
    if (other === db) allDbs.delete(name)
  }
}

/**
 * How long the pages of a file are that LMDB may open.
 * @throws MqError CORRUPT_LOG: something in its structure would kill LMDB, or let it write over what is there
 */
function checkedPageBytes(path: string): number {
  const pages = new PageFile(path)
  try {
    pages.walk(({ what }) => {
      throw new MqError('CORRUPT_LOG', what)
    })
    return pages.pageBytes
  } finally {
    pages.close()
  }
}

/** Makes sure that the first `bytes` of the file exist, and lie on disk rather than in a hole. */
function giveBlocks(path: string, bytes: number): void {
  const fd = openSync(path, fsConstants.O_RDWR | fsConstants.O_CREAT, 0o600)
  try {
    if (fstatSync(fd).size < bytes) writeWhole(fd, new Uint8Array(bytes))
  } finally {
    closeSync(fd)
  }
}

/** Tries whether the bytes, or more of the kind if they are few, could be written next to `path`. */
function hasRoom(path: string, values: readonly Uint8Array[]): boolean {
  const probePath = path + probeSuffix
  try {
    const fd = openSync(probePath, 'w', 0o600)
    try {
      let bytes = 0
      for (const value of values) {
        writeWhole(fd, value)
        bytes += value.length
      }
      // Not zeros, which a file system may keep for nothing.
      if (bytes < probeBytesMin) writeWhole(fd, new Uint8Array(probeBytesMin - bytes).fill(0x5a))
      return true
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    // Whatever else goes wrong says nothing about room.
    return !isFull(errnoOf(error))
  } finally {
    rmSync(probePath, { force: true })
  }
}

/** @throws the file system's error; ENOSPC too when a part went in */
function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length;) {
    written += writeSync(fd, bytes, written, bytes.length - written)
  }
}

function removeSegmentFiles(path: string): void {
  rmSync(path, { force: true })
  rmSync(path + readersSuffix, { force: true })
}

/**
 * While a file system takes a large file away, every sync of another waits: 64 MiB on ext4 that tells the disk of free
 * blocks (`discard`), 20 ms.
 */
async function removeInPieces(path: string): Promise<void> {
  const file = await openFile(path, 'r+')
  try {
    let { size } = await file.stat()
    while (size > removedBytesMax) await file.truncate((size -= removedBytesMax))
  } catch {
    // Some file systems need room to shorten a file. It goes as a whole then.
  } finally {
    await file.close()
  }
  await unlink(path)
}

/** Its bytes; a directory's are the names of its files: one is on the disk only once its directory is. */
async function syncFile(path: string): Promise<void> {
  const handle = await openFile(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function makeDirectory(directory: string): Promise<void> {
  try {
    // Level by level: where nothing can be made, as in /proc, Node's own recursive mkdir never comes to an end.
    const missing: string[] = []
    for (let at = directory; !existsSync(at); at = dirname(at)) missing.unshift(at)
    for (const at of missing) {
      mkdirSync(at, { mode: 0o700 })
      await syncFile(dirname(at))
    }
    if (!statSync(directory).isDirectory()) mkdirSync(directory)
    accessSync(directory, fsConstants.R_OK | fsConstants.W_OK | fsConstants.X_OK)
  } catch (error) {
    throw notWritable(directory, error)
  }
}

/** `O_EXLOCK`, on the systems that lock a file while they open it. It is the same lock as flock(2). */
const openWithLock = 0x20

/**
 * Takes the kernel's lock on LOCK and returns the descriptor that holds it. The lock belongs to the open file, so
 * it ends with the last descriptor: at `closeSync`, or when the process ends, in whatever way. Node closes its
 * descriptors in the processes it starts, so no child can keep it.
 *
 * Node cannot call flock(2). On Linux the command of that name can, for a descriptor that it shares with us: when
 * it has exited the open file is still there, and locked.
 * @throws MqError DATA_DIR_LOCKED, DATA_DIR_NOT_WRITABLE, STORAGE_FAILED, UNSUPPORTED
 */
function takeLock(directory: string): number {
  const path = join(directory, 'LOCK')
  const { O_RDWR, O_CREAT, O_NONBLOCK } = fsConstants
  const opensWithLock = process.platform === 'darwin' || process.platform === 'freebsd'
  if (!opensWithLock && process.platform !== 'linux') {
    throw new MqError('UNSUPPORTED', `cannot lock a data directory on ${process.platform}`)
  }
  let fd: number
  try {
    fd = openSync(path, O_RDWR | O_CREAT | (opensWithLock ? openWithLock | O_NONBLOCK : 0), 0o600)
  } catch (error) {
    if (opensWithLock && errnoOf(error) === osConstants.errno.EAGAIN) throw locked(directory, path)
    throw notWritable(directory, error)
  }
  try {
    if (!opensWithLock) {
      const { error, status } = spawnSync('flock', ['-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
      if (error !== undefined) {
        const help = errnoOf(error) === osConstants.errno.ENOENT ? ': install util-linux, which has it' : ''
        const message = `cannot lock ${directory}: the command 'flock' does not run${help}`
        throw new MqError('STORAGE_FAILED', message, { cause: error })
      }
      if (status === 1) throw locked(directory, path)
      if (status !== 0) {
        throw new MqError('STORAGE_FAILED', `cannot lock ${directory}: 'flock' ended with status ${status}`)
      }
    }
    notePid(fd)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** Says whose lock it is. Only for people, and a full disk must not keep the broker from starting. */
function notePid(fd: number): void {
  try {
    ftruncateSync(fd)
    writeSync(fd, `${process.pid}\n`, 0)
  } catch {
    // the lock holds without it
  }
}

function locked(directory: string, path: string): MqError {
  // Whoever took the lock a moment ago may not have written its pid yet.
  const pid = Number.parseInt(readFileSync(path, 'utf8'), 10)
  const who = Number.isNaN(pid) ? 'another process' : `process ${pid}`
  return new MqError('DATA_DIR_LOCKED', `${directory} is in use by ${who}`)
}

function notWritable(directory: string, error: unknown): MqError {
  if (isFull(errnoOf(error))) return storageError(error, `cannot use ${directory}`)
  const message = `cannot write to the data directory ${directory}: ${messageOf(error)}`
  return new MqError('DATA_DIR_NOT_WRITABLE', message, { cause: error })
}

/** Leaves an `MqError` as it is. */
function storageError(error: unknown, what: string): MqError {
  if (error instanceof MqError) return error
  const code = isFull(errnoOf(error)) ? 'DISK_FULL' : 'STORAGE_FAILED'
  return new MqError(code, `${what}: ${messageOf(error)}`, { cause: error })
}

function isFull(errno: unknown): boolean {
  return errno === ENOSPC || errno === EDQUOT
}

/** The positive error number: lmdb has it in `code`, Node has it negative in `errno`. */
function errnoOf(error: unknown): number | undefined {
  const { errno, code } = error as { errno?: unknown; code?: unknown }
  if (typeof errno === 'number') return Math.abs(errno)
  return typeof code === 'number' ? code : undefined
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/**
 * A file system as POSIX promises it, and no better. It keeps apart what must be there after a power cut and what may
 * be:
 *
 *   durable   the bytes of each file, and the names of the directory
 *   pending   writes and changes of names that no sync has covered: of these a power cut leaves any, also half a write
 *
 * A sync covers what had returned before it began, and has done so once it returned. A write through a descriptor that
 * syncs (O_DSYNC) covers itself. A name needs the directory's sync; a file's sync covers its bytes and its length.
 */
import { createHash } from 'node:crypto'
import type { SeededRandom } from '../crash/random.ts'

export type FileId = number

interface Spanned {
  readonly began: number
  /** Infinity: a sync that never returned. */
  readonly ended: number
  readonly text: string
}
export type DataChange = { readonly id: number; readonly file: FileId } & (
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: Buffer; readonly isSynced: boolean }
  | { readonly kind: 'truncate'; readonly length: number }
)
export type NameChange = { readonly id: number } & (
  | { readonly kind: 'create'; readonly name: string; readonly file: FileId }
  | { readonly kind: 'rename'; readonly from: string; readonly to: string }
  | { readonly kind: 'unlink'; readonly name: string }
)
/** `file` null: the directory. */
export type Sync = { readonly id: number; readonly kind: 'sync'; readonly file: FileId | null }
export type DiskCall = Spanned & (DataChange | NameChange | Sync)

/** What a wrong file system does. */
export interface Lies {
  /** From this line on; before, it is honest. */
  readonly from?: number
  /** fsync and fdatasync of a file return, and have done nothing. */
  readonly dataSyncs?: boolean
  /** So does the directory's. */
  readonly directorySyncs?: boolean
  /** A write through O_DSYNC returns before it is on the disk. */
  readonly syncedWrites?: boolean
}

interface File {
  bytes: Buffer
  length: number
  /** Rises whenever `bytes` or `length` change. */
  version: number
  pending: (DataChange & Spanned)[]
}

export type ImageKind = 'nothing unsynced' | 'all unsynced' | 'names only' | 'bytes only' | 'random'

/** What of a file's pending changes an image has. */
interface Part {
  readonly change: DataChange
  /** Sectors of a write that are there; null: all. */
  readonly sectors: readonly boolean[] | null
  /** The write is missing, but the file is as long as with it. */
  readonly isOnlyLength: boolean
}

export interface Image {
  readonly kind: ImageKind
  readonly files: ReadonlyMap<
    string,
    { readonly file: FileId; readonly parts: readonly Part[]; readonly key: string }
  >
  /** Equal for equal images. */
  readonly key: string
  /** It has a part of a write. */
  readonly isTorn: boolean
}

const sectorBytes = 512

export class Disk {
  readonly #lies: Lies
  readonly #files = new Map<FileId, File>()
  #names = new Map<string, FileId>()
  #pendingNames: (NameChange & Spanned)[] = []

  constructor(lies: Lies = {}) {
    this.#lies = lies
  }

  /** From now on it may be there. @returns whether that changes what a power cut may leave */
  begin(call: DiskCall): boolean {
    switch (call.kind) {
      case 'sync':
        return false
      case 'create':
        this.#files.set(call.file, { bytes: Buffer.alloc(0), length: 0, version: 0, pending: [] })
        this.#pendingNames.push(call)
        return true
      case 'rename':
      case 'unlink':
        this.#pendingNames.push(call)
        return true
      case 'write':
      case 'truncate':
        this.#file(call.file).pending.push(call)
        return true
    }
  }

  /** It returned. @returns as `begin` */
  end(call: DiskCall): boolean {
    switch (call.kind) {
      case 'sync':
        if (this.#lied(call.file === null ? 'directorySyncs' : 'dataSyncs', call)) return false
        return call.file === null
          ? this.#syncNames(call.began)
          : this.#syncFile(this.#file(call.file), call.began)
      case 'write': {
        if (!call.isSynced || this.#lied('syncedWrites', call)) return false
        const file = this.#file(call.file)
        // It covers its own bytes, and with them what older writes had put there.
        file.pending = file.pending.flatMap((other) => (other === call ? [] : without(other, call)))
        this.#apply(file, call)
        return true
      }
      case 'truncate':
      case 'create':
      case 'rename':
      case 'unlink':
        return false
    }
  }

  #lied(what: 'dataSyncs' | 'directorySyncs' | 'syncedWrites', { began }: Spanned): boolean {
    return this.#lies[what] === true && began >= (this.#lies.from ?? 0)
  }

  #syncNames(began: number): boolean {
    const covered = this.#pendingNames.filter(({ ended }) => ended < began)
    this.#pendingNames = this.#pendingNames.filter(({ ended }) => ended >= began)
    for (const change of covered) rename(this.#names, change)
    return covered.length > 0
  }

  #syncFile(file: File, began: number): boolean {
    const covered = file.pending.filter(({ ended }) => ended < began)
    file.pending = file.pending.filter((change) => !covered.includes(change))
    for (const change of covered) this.#apply(file, change)
    return covered.length > 0
  }

  #apply(file: File, change: DataChange): void {
    const length =
      change.kind === 'write' ? Math.max(file.length, change.offset + change.bytes.length) : change.length
    if (length > file.bytes.length) {
      const grown = Buffer.alloc(Math.max(length, 2 * file.bytes.length))
      file.bytes.copy(grown, 0, 0, file.length)
      file.bytes = grown
    }
    if (change.kind === 'write') file.bytes.set(change.bytes, change.offset)
    else file.bytes.fill(0, length)
    file.length = length
    file.version++
  }

  #file(id: FileId): File {
    const file = this.#files.get(id)
    if (file === undefined) throw new Error(`file ${id} was never created`)
    return file
  }

  /** What a power cut now may leave. `random` is for the kind of that name. */
  image(kind: ImageKind, random: SeededRandom): Image {
    const names = new Map(this.#names)
    for (const change of this.#pendingNames.filter(this.#chosenNames(kind, random))) rename(names, change)
    const files = new Map<string, { file: FileId; parts: Part[]; key: string }>()
    const share = random.chance(0.5) ? 0.5 : random.unit()
    const isTearing = random.chance(0.5)
    for (const [name, id] of [...names].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const file = this.#file(id)
      const parts: Part[] = []
      if (!isMeaningless(name)) {
        for (const change of file.pending) {
          const part = partOf(change, kind, random, share, isTearing)
          if (part !== null) parts.push(part)
        }
      }
      const key = `${id}.${file.version}:${parts.map(keyOf).join(',')}`
      files.set(name, { file: id, parts, key: isMeaningless(name) ? 'any' : key })
    }
    const key = createHash('sha1')
    for (const [name, file] of files) key.update(`${name}=${file.key};`)
    const isTorn = [...files.values()].some(({ parts }) => parts.some(({ sectors }) => sectors !== null))
    return { kind, files, key: key.digest('base64'), isTorn }
  }

  /** The bytes of a file of an image of now. */
  bytesOf({ file: id, parts }: { readonly file: FileId; readonly parts: readonly Part[] }): Buffer {
    const file = this.#file(id)
    const copy: File = { ...file, bytes: Buffer.from(file.bytes.subarray(0, file.length)), pending: [] }
    for (const { change, sectors, isOnlyLength } of parts) {
      if (change.kind === 'truncate') this.#apply(copy, change)
      else if (isOnlyLength) {
        const end = change.offset + change.bytes.length
        if (end > copy.length) this.#apply(copy, { ...change, offset: end, bytes: Buffer.alloc(0) })
      } else if (sectors === null) this.#apply(copy, change)
      else {
        for (const { from, to, i } of sectorsOf(change))
          if (sectors[i] === true)
            this.#apply(copy, {
              ...change,
              offset: change.offset + from,
              bytes: change.bytes.subarray(from, to),
            })
      }
    }
    return copy.bytes.subarray(0, copy.length)
  }

  #chosenNames(kind: ImageKind, random: SeededRandom): (change: NameChange, i: number) => boolean {
    if (kind === 'all unsynced' || kind === 'names only') return () => true
    if (kind !== 'random') return () => false
    // A journal keeps their order; without one any of them may be there.
    const prefix = random.integer(0, this.#pendingNames.length)
    return random.chance(0.5) ? (_change, i) => i < prefix : () => random.chance(0.5)
  }
}

/** Files whose bytes mean nothing, as the broker says; an image fills them with rubbish. */
export function isMeaningless(name: string): boolean {
  return name === 'LOCK' || name === 'RESERVE' || name.endsWith('-lock') || name.endsWith('.probe')
}

function partOf(
  change: DataChange,
  kind: ImageKind,
  random: SeededRandom,
  share: number,
  isTearing: boolean,
): Part | null {
  const whole = { change, sectors: null, isOnlyLength: false }
  if (kind === 'all unsynced' || kind === 'bytes only') return whole
  if (kind !== 'random') return null
  if (change.kind === 'write' && isTearing && random.chance(0.5)) {
    const sectors = sectorsOf(change).map(() => random.chance(share))
    return { change, sectors, isOnlyLength: false }
  }
  if (random.chance(share)) return whole
  return change.kind === 'write' && random.chance(0.3) ? { change, sectors: null, isOnlyLength: true } : null
}

/** A write's parts in the sectors of its file. */
function sectorsOf({
  offset,
  bytes,
}: DataChange & { kind: 'write' }): { from: number; to: number; i: number }[] {
  const sectors = []
  for (let from = 0; from < bytes.length;) {
    const to = Math.min(bytes.length, from + sectorBytes - ((offset + from) % sectorBytes))
    sectors.push({ from, to, i: sectors.length })
    from = to
  }
  return sectors
}

function keyOf({ change, sectors, isOnlyLength }: Part): string {
  // A change that was cut in two is known by where its parts begin.
  const id = change.kind === 'write' ? `${change.id}@${change.offset}` : String(change.id)
  if (isOnlyLength) return `${id}-`
  return sectors === null ? id : `${id}/${sectors.map(Number).join('')}`
}

/** What is left of an unsynced change once a write has gone to the disk over it. */
function without<T extends DataChange & Spanned>(
  change: T,
  over: DataChange & Spanned & { kind: 'write' },
): T[] {
  const [from, to] = [over.offset, over.offset + over.bytes.length]
  if (change.kind !== 'write')
    throw new Error(`not modelled: a synced write after ${change.text}, which is not synced`)
  const { offset, bytes } = change
  if (offset >= to || offset + bytes.length <= from) return [change]
  if (change.began > over.began)
    throw new Error(`not modelled: writes overlap, and do so in time: ${over.text}`)
  const before = { ...change, bytes: bytes.subarray(0, Math.max(0, from - offset)) }
  const after = { ...change, offset: Math.max(to, offset), bytes: bytes.subarray(Math.max(0, to - offset)) }
  return [before, after].filter((part) => part.bytes.length > 0)
}

/** Without what it rests on a change changes nothing. */
export function rename(names: Map<string, FileId>, change: NameChange): void {
  if (change.kind === 'create') names.set(change.name, change.file)
  else if (change.kind === 'unlink') names.delete(change.name)
  else {
    const file = names.get(change.from)
    if (file === undefined) return
    names.delete(change.from)
    names.set(change.to, file)
  }
}

/**
 * Reads a file of LMDB's by plain reads, so that nothing that stands in it, or does not, can hurt the process: LMDB
 * maps its files and believes every number in them, and a page number that has rotted, or an end that was cut off, is
 * a SIGBUS or SIGSEGV there.
 *
 *   newest meta page that makes sense → root → branch pages → leaf pages → values, inline or on overflow pages
 *
 * Pages have no checksums. But each says its own number, the transaction that wrote it, and what kind it is; its nodes
 * lie close together; its keys rise, and lie between those of the branch above. All of that is checked whenever a page
 * is read. What rots in a key or in a value is for the crc of what is stored.
 *
 * Only for files that nobody writes meanwhile.
 *
 * What the format rests on (LMDB's data format 2, in 64 bits, little-endian, as lmdb 3.5.6 writes it):
 *
 * - Each commit writes new pages for all that it changes, the root among them, then one of two meta pages in turn. So
 *   the transactions of both are neighbours, that of the root is that of its meta page, and while one commit is the
 *   newest the tree of the one before it is whole.
 * - A page number that stands in a list of free pages may be overwritten by the next commit: if a page of the tree
 *   stands there too, the next commit destroys it. That matters only to whoever goes on writing: see `walk`.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { type Damage, keyBytesMax, type Piece, type Put } from '../env.ts'
import { MqError } from '../errors.ts'

const pageHeaderBytes = 24
const flagsAt = 18
const lowerAt = 20
const upperAt = 22
const overflowCountAt = 20
const branchFlag = 1
const leafFlag = 2
const overflowFlag = 4
const metaFlag = 8

const nodeHeaderBytes = 8
/** Of a node whose value has pages of its own: in its place stand their first number, a transaction, how many. */
const bigFlag = 1
const bigBytes = 24

// A meta page: the page's header, then these. There are two, at the beginning of the file and one page further.
const metaBytes = 160
const magicAt = 24
const versionAt = 28
const pageBytesAt = 48
/** The free list's tree and that of the data, 48 bytes each. */
const freeTreeAt = 48
const treeAt = 96
const lastPageAt = 144
const transactionAt = 152
const magic = 0xbeefc0de
const dataFormat = 2
const pageBytesMin = 512
const pageBytesMax = 65_536
const noRoot = 0xffff_ffff_ffff_ffffn
/** LMDB's own limit. */
const depthMax = 32

/** Branch and leaf pages that are kept. */
const cachedPagesMax = 64
/** A value longer than this gets memory of its own, so that a file does not keep much. */
const keptBytesMax = 1 << 20
/** Unwanted pages that one read takes along, since it costs less than another read. */
const gapPagesMax = 16

const noBytes = Buffer.alloc(0)
/** Behind all keys. */
const endKey = Buffer.alloc(keyBytesMax + 1, 0xff)

interface Tree {
  /** 0: there is none. */
  readonly root: number
  readonly depth: number
  readonly branchPages: number
  readonly leafPages: number
  readonly overflowPages: number
  readonly entries: number
}

interface Meta {
  readonly index: number
  readonly pageBytes: number
  readonly lastPage: number
  readonly transaction: number
  readonly tree: Tree
  readonly freeTree: Tree
}

/** A part of the tree: a page, and between which keys all of its own must be. */
interface Part {
  readonly number: number
  readonly low: Buffer
  /** Exclusive. */
  readonly high: Buffer
}

/** A value with pages of its own. */
interface Big {
  readonly key: Buffer
  readonly number: number
  readonly pages: number
  readonly bytes: number
}

type Compare = (a: Buffer, b: Buffer) => number
const byteByByte: Compare = (a, b) => Buffer.compare(a, b)
/** Keys of the free list are transactions. */
const byNumber: Compare = (a, b) => Number(a.readBigUInt64LE() - b.readBigUInt64LE())

export class PageFile {
  readonly #path: string
  readonly #fd: number
  readonly #fileBytes: number
  /** Null: no tree can be found. */
  readonly #meta: Meta | null
  readonly #cache = new Map<number, Page>()
  #kept = Buffer.alloc(0)
  /**
   * What is wrong with all of it, if so: that the last commit may be missing, or that nothing can be found. Anything may
   * be missing then, wherever a reader looks.
   */
  readonly damage: Damage | null
  #isOpen = true

  /** @throws the file system's error */
  constructor(path: string) {
    this.#path = path
    this.#fd = openSync(path, 'r')
    try {
      this.#fileBytes = fstatSync(this.#fd).size
      const { meta, doubt } = this.#chooseMeta(this.#fd)
      this.#meta = meta
      this.damage = doubt === null ? null : { what: doubt, from: noBytes, to: endKey }
    } catch (error) {
      closeSync(this.#fd)
      throw error
    }
  }

  /** 0: it can't be told. */
  get pageBytes(): number {
    return this.#meta?.pageBytes ?? 0
  }

  /** Bytes up to the last page that was ever used. */
  get usedBytes(): number {
    return this.#meta === null ? this.#fileBytes : (this.#meta.lastPage + 1) * this.#meta.pageBytes
  }

  /** Idempotent. */
  close(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    closeSync(this.#fd)
  }

  /**
   * The value, valid until the next call.
   * @throws MqError CORRUPT_LOG: it can't be known; STORAGE_FAILED
   */
  get(key: Uint8Array): Buffer | undefined {
    const wanted = asBuffer(key)
    const leaf = this.#meta && this.#leafOf(wanted)
    if (leaf) {
      const i = leaf.find(wanted)
      if (i >= 0 && leaf.key(i).equals(wanted)) return this.#value(leaf, i)
    }
    this.#assertSound()
    return undefined
  }

  /** The entry with the greatest key that is ≤ `key`, valid until the next call. @throws as `get` */
  floor(key: Uint8Array): { key: Buffer; value: Buffer } | undefined {
    const wanted = asBuffer(key)
    const { depth, root } = this.#tree
    /** Where a lesser key is, when there is none in the leaf. */
    let before: { part: Part; level: number } | null = null
    let part: Part = { number: root, low: noBytes, high: endKey }
    for (let level = 1; root > 0 && level <= depth; level++) {
      const page = this.#page(part, level)
      const i = page.find(wanted)
      if (!page.isLeaf) {
        if (i > 0) before = { part: page.part(i - 1, part), level: level + 1 }
        part = page.part(i, part)
        continue
      }
      if (i >= 0) return { key: page.key(i), value: this.#value(page, i) }
      if (before === null) break
      // Every key there is less.
      part = before.part
      level = before.level - 1
      before = null
    }
    this.#assertSound()
    return undefined
  }

  /**
   * Visits entries with `from` ≤ key < `to`, ascending, until `visit` returns false. The bytes are valid within the
   * visit.
   * @param skip what is told of parts that can't be read, between which `visit` goes on
   * @throws MqError CORRUPT_LOG: without `skip`, at such a part; STORAGE_FAILED
   */
  scan(
    from: Uint8Array,
    to: Uint8Array,
    visit: (key: Buffer, value: Buffer) => boolean,
    skip?: (damage: Damage) => void,
  ): void {
    const bounds = { from: asBuffer(from), to: asBuffer(to) }
    if (Buffer.compare(bounds.from, bounds.to) >= 0) return
    const { root } = this.#tree
    const all: Part = { number: root, low: noBytes, high: endKey }
    if (root > 0 && !this.#scan(all, 1, bounds, visit, skip)) return
    if (this.damage === null) return
    if (skip === undefined) throw corrupt(this.damage.what)
    skip({ what: this.damage.what, ...bounds })
  }

  /**
   * Goes through the whole structure: what LMDB follows blindly, in the tree and, for whoever means to write, in its list
   * of free pages. Values with pages of their own are not read.
   * @throws MqError STORAGE_FAILED
   */
  walk(found: (damage: Damage) => void): void {
    if (this.damage !== null) found(this.damage)
    if (this.#meta === null) return
    const walk = new Walk(this.#meta)
    const { tree, freeTree, lastPage, pageBytes } = this.#meta
    let isWhole = (lastPage + 1) * pageBytes <= this.#fileBytes
    if (!isWhole) found({ what: this.#cutShort(this.#meta), from: noBytes, to: endKey })
    const tell = (damage: Damage): void => {
      isWhole = false
      found(damage)
    }
    this.#walk(walk, { number: tree.root, low: noBytes, high: endKey }, 1, tree, byteByByte, tell)
    if (!isWhole) return
    const all = { from: noBytes, to: endKey }
    const miscounted = walk.miscounted(tree)
    if (miscounted !== null) tell({ what: `${this.#path}: ${miscounted}`, ...all })
    this.#walk(walk, { number: freeTree.root, low: noBytes, high: noBytes }, 1, freeTree, byNumber, tell)
  }

  /**
   * Reads all of it anew, values too, past what is cached, a piece of about `bytesMax` at a time, in the order of the
   * file. A piece is valid until the next is asked for. The file may be closed and deleted meanwhile, so this has a
   * descriptor of its own: the number of one that was closed may be another file's by now.
   * @throws the file system's error
   */
  async *pieces(bytesMax: number): AsyncGenerator<Piece, void> {
    let file: FileHandle
    try {
      file = await open(this.#path, 'r')
    } catch (error) {
      // It was deleted before this had begun.
      if (!this.#isOpen && (error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw error
    }
    try {
      const { meta, doubt } = this.#chooseMeta(file.fd)
      if (doubt !== null) {
        yield { bytes: 0, entries: [], damages: [{ what: doubt, from: noBytes, to: endKey }] }
      }
      if (meta === null) return
      const bigs: Big[] = []
      let parts: Part[] = meta.tree.root > 0 ? [{ number: meta.tree.root, low: noBytes, high: endKey }] : []
      for (let level = 1; level <= meta.tree.depth; level++) {
        const next: Part[] = []
        for await (const group of readGroups(file, parts, meta.pageBytes, bytesMax)) {
          const entries: Put[] = []
          const damages: Damage[] = []
          for (const { job, bytes, failure } of group.read) {
            try {
              this.#assertRead(job, failure, meta)
              const page = this.#checkPage(bytes, job, level, meta)
              if (!page.isLeaf) for (let i = 0; i < page.count; i++) next.push(kept(page.part(i, job)))
              else this.#sortOut(page, meta, entries, bigs, damages)
            } catch (error) {
              damages.push(damageOf(error, job))
            }
          }
          yield { bytes: group.bytes, entries, damages }
        }
        parts = next
      }
      const jobs = bigs.map((big) => ({ ...big, low: big.key, high: after(big.key) }))
      for await (const group of readGroups(file, jobs, meta.pageBytes, bytesMax)) {
        const entries: Put[] = []
        const damages: Damage[] = []
        for (const { job, bytes, failure } of group.read) {
          try {
            this.#assertRead(job, failure, meta)
            this.#checkOverflow(bytes, job, meta)
            const value = bytes.subarray(pageHeaderBytes, pageHeaderBytes + job.bytes)
            entries.push({ key: job.key, value })
          } catch (error) {
            damages.push(damageOf(error, job))
          }
        }
        yield { bytes: group.bytes, entries, damages }
      }
    } finally {
      await file.close()
    }
  }

  #assertRead({ number }: Job, failure: Read<Job>['failure'], meta: Meta): void {
    if (failure === 'end') throw corrupt(this.#cutShort(meta))
    if (failure === 'disk') throw this.#badPage(number, 'the disk does not give it')
  }

  /** Of a leaf: what it holds, and what it says is elsewhere. */
  #sortOut(page: Page, meta: Meta, entries: Put[], bigs: Big[], damages: Damage[]): void {
    for (let i = 0; i < page.count; i++) {
      try {
        const big = page.big(i)
        if (big === null) entries.push({ key: page.key(i), value: page.inline(i) })
        else {
          this.#assertInFile(page.number, big.number, big.pages, meta)
          bigs.push({ ...big, key: Buffer.from(big.key) })
        }
      } catch (error) {
        damages.push(damageOf(error, { low: Buffer.from(page.key(i)), high: after(page.key(i)) }))
      }
    }
  }

  get #tree(): Tree {
    return this.#meta?.tree ?? noTree
  }

  #assertSound(): void {
    if (this.damage !== null) throw corrupt(this.damage.what)
  }

  #scan(
    part: Part,
    level: number,
    bounds: { readonly from: Buffer; readonly to: Buffer },
    visit: (key: Buffer, value: Buffer) => boolean,
    skip: ((damage: Damage) => void) | undefined,
  ): boolean {
    const attempt = <T>(read: () => T, what: { low: Buffer; high: Buffer }): T | null => {
      try {
        return read()
      } catch (error) {
        if (skip === undefined) throw error
        const damage = damageOf(error, what)
        const { from, to } = bounds
        skip({
          what: damage.what,
          from: Buffer.compare(damage.from, from) < 0 ? from : damage.from,
          to: Buffer.compare(damage.to, to) > 0 ? to : damage.to,
        })
        return null
      }
    }
    const page = attempt(() => this.#page(part, level), part)
    if (page === null) return true
    for (let i = Math.max(0, page.find(bounds.from)); i < page.count; i++) {
      if (page.isLeaf) {
        const key = page.key(i)
        if (Buffer.compare(key, bounds.from) < 0) continue
        if (Buffer.compare(key, bounds.to) >= 0) return true
        const value = attempt(() => this.#value(page, i), { low: key, high: after(key) })
        if (value !== null && !visit(key, value)) return false
      } else {
        const child = page.part(i, part)
        if (Buffer.compare(child.low, bounds.to) >= 0) return true
        if (!this.#scan(child, level + 1, bounds, visit, skip)) return false
      }
    }
    return true
  }

  #walk(
    walk: Walk,
    part: Part,
    level: number,
    tree: Tree,
    compare: Compare,
    found: (damage: Damage) => void,
  ): void {
    if (tree.root === 0) return
    let page: Page
    try {
      this.#assertInFile(part.number, part.number, 1, this.#meta!)
      if (!walk.claim(part.number, 1)) throw this.#badPage(part.number, 'it is in two places')
      page = this.#checkPage(this.#readPage(part.number), part, level, this.#meta!, tree, compare)
    } catch (error) {
      found(damageOf(error, part))
      return
    }
    if (page.isLeaf) walk.leafPages++
    else walk.branchPages++
    for (let i = 0; i < page.count; i++) {
      if (!page.isLeaf) {
        this.#walk(walk, page.part(i, part), level + 1, tree, compare, found)
        continue
      }
      walk.entries++
      try {
        const big = page.big(i)
        if (big !== null) {
          this.#assertInFile(page.number, big.number, big.pages, this.#meta!)
          if (!walk.claim(big.number, big.pages))
            throw this.#badPage(big.number, 'a value on it is in two places')
          walk.overflowPages += big.pages
        }
        if (compare !== byNumber) continue
        const isFree = walk.claimFree(big === null ? page.inline(i) : this.#bigValue(big))
        if (!isFree) throw this.#badPage(page.number, 'the list of free pages makes no sense')
      } catch (error) {
        found(damageOf(error, { low: Buffer.from(page.key(i)), high: after(page.key(i)) }))
      }
    }
  }

  /** The leaf where the key is, if it is there. */
  #leafOf(key: Buffer): Page | null {
    const { root, depth } = this.#tree
    if (root === 0) return null
    let part: Part = { number: root, low: noBytes, high: endKey }
    for (let level = 1; ; level++) {
      const page = this.#page(part, level)
      if (level === depth) return page
      part = page.part(page.find(key), part)
    }
  }

  #value(page: Page, i: number): Buffer {
    const big = page.big(i)
    return big === null ? page.inline(i) : this.#bigValue(big)
  }

  #bigValue(big: Big): Buffer {
    const { number, bytes } = big
    this.#assertInFile(number, number, big.pages, this.#meta!)
    const length = pageHeaderBytes + bytes
    let into = this.#kept
    if (length > keptBytesMax) into = Buffer.allocUnsafeSlow(length)
    else if (length > into.length)
      into = this.#kept = Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(length)))
    const read = into.subarray(0, length)
    this.#read(read, number)
    this.#checkOverflow(read, big, this.#meta!)
    return read.subarray(pageHeaderBytes)
  }

  #page(part: Part, level: number): Page {
    const cached = this.#cache.get(part.number)
    if (cached !== undefined) {
      this.#assertPlace(cached, part, level, this.#tree, byteByByte)
      return cached
    }
    this.#assertInFile(part.number, part.number, 1, this.#meta!)
    const page = this.#checkPage(this.#readPage(part.number), part, level, this.#meta!)
    if (this.#cache.size >= cachedPagesMax) this.#cache.clear()
    this.#cache.set(part.number, page)
    return page
  }

  #readPage(number: number): Buffer {
    const bytes = Buffer.allocUnsafeSlow(this.#meta!.pageBytes)
    this.#read(bytes, number)
    return bytes
  }

  #read(into: Buffer, number: number): void {
    const { pageBytes } = this.#meta!
    try {
      if (readWhole(this.#fd, into, number * pageBytes) < into.length)
        throw corrupt(this.#cutShort(this.#meta!))
    } catch (error) {
      if (error instanceof MqError) throw error
      if (isUnreadable(error)) throw this.#badPage(number, 'the disk does not give it')
      const { message } = error as Error
      throw new MqError('STORAGE_FAILED', `cannot read ${this.#path}: ${message}`, { cause: error })
    }
  }

  /** @throws MqError CORRUPT_LOG: it is not a page of the tree, at this place of it */
  #checkPage(
    bytes: Buffer,
    part: Part,
    level: number,
    meta: Meta,
    tree = meta.tree,
    compare = byteByByte,
  ): Page {
    const page = new Page(part.number, bytes)
    const what = this.#wrongWithHeader(bytes, part.number, meta) ?? page.whatIsWrong(compare)
    if (what !== null) throw this.#badPage(part.number, what)
    if (level === 1 && tree === meta.tree && page.transaction !== meta.transaction)
      throw this.#badPage(part.number, 'it is the root, and of another commit than its meta page')
    this.#assertPlace(page, part, level, tree, compare)
    return page
  }

  #assertPlace(page: Page, part: Part, level: number, tree: Tree, compare: Compare): void {
    if (page.isLeaf !== (level === tree.depth))
      throw this.#badPage(page.number, `it is ${page.isLeaf ? 'a leaf' : 'a branch'}, at level ${level}`)
    // The first key of a branch says nothing.
    const first = page.isLeaf ? 0 : 1
    if (compare !== byteByByte || first >= page.count) return
    if (compare(page.key(first), part.low) < 0 || compare(page.key(page.count - 1), part.high) >= 0)
      throw this.#badPage(page.number, 'its keys belong elsewhere')
  }

  #checkOverflow(bytes: Buffer, big: Big, meta: Meta): void {
    let what = this.#wrongWithHeader(bytes, big.number, meta)
    if (what === null && bytes.readUInt16LE(flagsAt) !== overflowFlag) what = 'it is no overflow page'
    if (what === null && bytes.readUInt32LE(overflowCountAt) !== big.pages)
      what = `it says that it is one of ${bytes.readUInt32LE(overflowCountAt)} pages, not of ${big.pages}`
    if (what !== null) throw this.#badPage(big.number, what)
  }

  #wrongWithHeader(bytes: Buffer, number: number, meta: Meta): string | null {
    const own = Number(bytes.readBigUInt64LE(0))
    if (own !== number) return `it says that it is page ${own}`
    const transaction = Number(bytes.readBigUInt64LE(8))
    return transaction > meta.transaction ? `it is of commit ${transaction}, which never was` : null
  }

  #assertInFile(where: number, number: number, pages: number, meta: Meta): void {
    if (number >= 2 && pages >= 1 && number + pages - 1 <= meta.lastPage) return
    throw this.#badPage(
      where,
      `page number ${number} (${pages} pages) is out of the file's ${meta.lastPage + 1}`,
    )
  }

  #badPage(number: number, what: string): MqError {
    return corrupt(`${this.#path}, page ${number}: ${what}`)
  }

  #cutShort({ lastPage, pageBytes }: Meta): string {
    return `${this.#path} was cut short: it has ${this.#fileBytes} of ${(lastPage + 1) * pageBytes} bytes`
  }

  /**
   * The newest meta page that makes sense, and whose root does; and why that may not be the newest that was written,
   * if so.
   */
  #chooseMeta(fd: number): { meta: Meta | null; doubt: string | null } {
    const read = [this.#readMeta(fd, 0, 0)]
    const { pageBytes } = read[0] as Partial<Meta>
    // Where the first says nothing, the second is where it says itself that it is.
    let size = pageBytes ?? pageBytesMin
    do read[1] = this.#readMeta(fd, 1, size)
    while (pageBytes === undefined && typeof read[1] === 'string' && (size *= 2) <= pageBytesMax)
    const metas = read.filter((each) => typeof each !== 'string')
    metas.sort((a, b) => b.transaction - a.transaction)
    let doubt = read.find((each) => typeof each === 'string') ?? null
    if (metas.length === 2 && metas[0]!.transaction - metas[1]!.transaction > 1)
      doubt = `the commits of the meta pages are ${metas[0]!.transaction} and ${metas[1]!.transaction}`
    for (const meta of metas) {
      const wrong = this.#wrongWithRoot(fd, meta)
      if (wrong === null) {
        if (doubt === null) return { meta, doubt }
        const { lastPage, pageBytes } = metas[0]!
        const isCut = (lastPage + 1) * pageBytes > this.#fileBytes
        const why = isCut ? this.#cutShort(metas[0]!) : `${this.#path}, ${doubt}`
        return { meta, doubt: `${why}: the last commit may be lost` }
      }
      doubt = wrong
    }
    const newest = metas[0]
    if (newest !== undefined && (newest.lastPage + 1) * newest.pageBytes > this.#fileBytes)
      return { meta: null, doubt: this.#cutShort(newest) }
    return { meta: null, doubt: `${this.#path} cannot be read, ${doubt}` }
  }

  #wrongWithRoot(fd: number, { tree, pageBytes, transaction }: Meta): string | null {
    if (tree.root === 0) return null
    const header = Buffer.alloc(pageHeaderBytes)
    try {
      if (readWhole(fd, header, tree.root * pageBytes) < pageHeaderBytes)
        return `page ${tree.root}: the root is behind the end of the file`
    } catch (error) {
      if (isUnreadable(error)) return `page ${tree.root}: the disk does not give the root`
      throw error
    }
    const isRoot =
      header.readBigUInt64LE(0) === BigInt(tree.root) &&
      header.readBigUInt64LE(8) === BigInt(transaction) &&
      header.readUInt16LE(flagsAt) === (tree.depth === 1 ? leafFlag : branchFlag)
    return isRoot ? null : `page ${tree.root}: it is not the root that its meta page says it is`
  }

  /** What is there, or why that makes no sense. */
  #readMeta(fd: number, index: number, at: number): Meta | string {
    const page = Buffer.alloc(metaBytes)
    try {
      if (readWhole(fd, page, at) < metaBytes) return `meta page ${index} is behind the end of the file`
    } catch (error) {
      if (isUnreadable(error)) return `the disk does not give meta page ${index}`
      throw error
    }
    if (page.readUInt32LE(magicAt) !== magic) return `LMDB's mark is missing at ${at}`
    const format = page.readUInt32LE(versionAt)
    if (format !== dataFormat) return `meta page ${index} has LMDB's data format ${format}, not ${dataFormat}`
    const pageBytes = page.readUInt32LE(pageBytesAt)
    const lastPage = Number(page.readBigUInt64LE(lastPageAt))
    const transaction = Number(page.readBigUInt64LE(transactionAt))
    const tree = readTree(page, treeAt, lastPage)
    const freeTree = readTree(page, freeTreeAt, lastPage)
    const isSound =
      page.readBigUInt64LE(0) === BigInt(index) &&
      page.readUInt16LE(flagsAt) === metaFlag &&
      (pageBytes & (pageBytes - 1)) === 0 &&
      pageBytes >= pageBytesMin &&
      pageBytes <= pageBytesMax &&
      (index === 0 || pageBytes === at) &&
      Number.isSafeInteger(lastPage * pageBytes) &&
      Number.isSafeInteger(transaction) &&
      // They take turns.
      (transaction === 0 || transaction % 2 === index)
    if (!isSound || tree === null || freeTree === null) return `meta page ${index} contradicts itself`
    return { index, pageBytes, lastPage, transaction, tree, freeTree }
  }
}

/** A branch or a leaf. Everything that its methods read was checked by `whatIsWrong`. */
class Page {
  readonly number: number
  readonly isLeaf: boolean
  readonly count: number
  readonly #bytes: Buffer

  constructor(number: number, bytes: Buffer) {
    this.number = number
    this.#bytes = bytes
    this.isLeaf = bytes.readUInt16LE(flagsAt) === leafFlag
    this.count = bytes.readUInt16LE(lowerAt) >> 1
  }

  get transaction(): number {
    return Number(this.#bytes.readBigUInt64LE(8))
  }

  whatIsWrong(compare: Compare): string | null {
    const bytes = this.#bytes
    const flags = bytes.readUInt16LE(flagsAt)
    if (flags !== leafFlag && flags !== branchFlag) return `it is neither a branch nor a leaf (${flags})`
    const room = bytes.length - pageHeaderBytes
    const lower = bytes.readUInt16LE(lowerAt)
    const upper = bytes.readUInt16LE(upperAt)
    if (lower % 2 !== 0 || lower === 0 || lower > upper || upper > room)
      return `its nodes are from ${upper} on, and their places up to ${lower}`
    /** A longer node has its value elsewhere. */
    const nodeBytesMax = ((room / 2) & ~1) - 2
    let used = 0
    let before: Buffer | null = null
    for (let i = 0; i < this.count; i++) {
      const place = bytes.readUInt16LE(pageHeaderBytes + 2 * i)
      if (place % 2 !== 0 || place < upper || place + nodeHeaderBytes > room)
        return `node ${i} is at ${place}`
      const at = pageHeaderBytes + place
      const keyBytes = bytes.readUInt16LE(at + 6)
      // The first key of a branch says nothing, and mostly is not there.
      if (keyBytes > keyBytesMax || (keyBytes === 0 && (this.isLeaf || i > 0)))
        return `node ${i} has a key of ${keyBytes} bytes`
      let nodeBytes = nodeHeaderBytes + keyBytes
      if (this.isLeaf) {
        const nodeFlags = bytes.readUInt16LE(at + 4)
        const isBig = nodeFlags === bigFlag
        // A short one may have pages, too: those of a longer one that it was written over.
        if (nodeFlags !== 0 && !isBig) return `node ${i} has the flags ${nodeFlags}`
        if (!isBig && nodeBytes + bytes.readUInt32LE(at) > nodeBytesMax)
          return `node ${i} has ${bytes.readUInt32LE(at)} bytes`
        nodeBytes += isBig ? bigBytes : bytes.readUInt32LE(at)
      }
      if (place + nodeBytes > room) return `node ${i} reaches over the end`
      used += nodeBytes + (nodeBytes % 2)
      const key = this.key(i)
      if (compare === byNumber && (this.isLeaf || i > 0) && keyBytes !== 8)
        return `node ${i} has a key of ${keyBytes} bytes`
      if (before !== null && compare(before, key) >= 0) return `the key of node ${i} is out of order`
      if (this.isLeaf || i > 0) before = key
    }
    // They lie close together: none over another, and nothing lost between them.
    return used === room - upper ? null : `its nodes take ${used} of ${room - upper} bytes`
  }

  /** The last node whose key is ≤ `key`; of a branch, the first one is so at least; of a leaf there may be none: -1. */
  find(key: Buffer): number {
    let low = this.isLeaf ? 0 : 1
    let high = this.count
    while (low < high) {
      const middle = (low + high) >> 1
      if (Buffer.compare(this.key(middle), key) <= 0) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  key(i: number): Buffer {
    const at = this.#at(i)
    const start = at + nodeHeaderBytes
    return this.#bytes.subarray(start, start + this.#bytes.readUInt16LE(at + 6))
  }

  /** Of a branch: the page below, and between which keys its own are. */
  part(i: number, { low, high }: Part): Part {
    const at = this.#at(i)
    const number = this.#bytes.readUInt32LE(at) + this.#bytes.readUInt16LE(at + 4) * 2 ** 32
    return { number, low: i === 0 ? low : this.key(i), high: i + 1 < this.count ? this.key(i + 1) : high }
  }

  inline(i: number): Buffer {
    const at = this.#at(i)
    const start = at + nodeHeaderBytes + this.#bytes.readUInt16LE(at + 6)
    return this.#bytes.subarray(start, start + this.#bytes.readUInt32LE(at))
  }

  /** Null: the value stands in the leaf. @throws MqError CORRUPT_LOG */
  big(i: number): Big | null {
    const at = this.#at(i)
    if (this.#bytes.readUInt16LE(at + 4) !== bigFlag) return null
    const key = this.key(i)
    const start = at + nodeHeaderBytes + key.length
    const number = Number(this.#bytes.readBigUInt64LE(start))
    const pages = Number(this.#bytes.readBigUInt64LE(start + 16))
    const bytes = this.#bytes.readUInt32LE(at)
    // A value that was written over a longer one may have more pages than it needs.
    if (pages < Math.ceil((pageHeaderBytes + bytes) / this.#bytes.length))
      throw corrupt(`page ${this.number}: node ${i} has ${bytes} bytes on ${pages} pages`)
    return { key, number, pages, bytes }
  }

  #at(i: number): number {
    return pageHeaderBytes + this.#bytes.readUInt16LE(pageHeaderBytes + 2 * i)
  }
}

/** What a walk has seen. */
class Walk {
  branchPages = 0
  leafPages = 0
  overflowPages = 0
  entries = 0
  readonly #claimed: Uint8Array

  constructor({ lastPage }: Meta) {
    this.#claimed = new Uint8Array(lastPage + 1)
  }

  /** @returns false: one of them is something else already */
  claim(number: number, pages: number): boolean {
    for (let at = number; at < number + pages; at++) if (this.#claimed[at]!++ > 0) return false
    return true
  }

  miscounted(tree: Tree): string | null {
    for (const what of ['branchPages', 'leafPages', 'overflowPages', 'entries'] as const) {
      if (this[what] !== tree[what])
        return `it has ${this[what]} ${what}, and its meta page says ${tree[what]}`
    }
    return null
  }

  /**
   * A record of the free list: how many numbers follow, of which 0 is nothing, and a negative one says how many pages
   * the next one means.
   */
  claimFree(list: Buffer): boolean {
    const length = list.length >= 8 ? Number(list.readBigUInt64LE(0)) : 0
    if (length > list.length / 8 - 1) return false
    for (let i = 1, pages = 1; i <= length; i++) {
      const number = Number(list.readBigInt64LE(8 * i))
      if (number < 0) {
        pages = -number
        continue
      }
      if (number !== 0) {
        if (number < 2 || number + pages > this.#claimed.length || !this.claim(number, pages)) return false
        pages = 1
      }
    }
    return true
  }
}

const noTree: Tree = { root: 0, depth: 0, branchPages: 0, leafPages: 0, overflowPages: 0, entries: 0 }

/** Null: it makes no sense. */
function readTree(page: Buffer, at: number, lastPage: number): Tree | null {
  const root = page.readBigUInt64LE(at + 40)
  const depth = page.readUInt16LE(at + 6)
  const entries = Number(page.readBigUInt64LE(at + 32))
  if (root === noRoot) return depth === 0 && entries === 0 ? noTree : null
  if (root < 2n || root > lastPage || depth === 0 || depth > depthMax) return null
  return {
    root: Number(root),
    depth,
    branchPages: Number(page.readBigUInt64LE(at + 8)),
    leafPages: Number(page.readBigUInt64LE(at + 16)),
    overflowPages: Number(page.readBigUInt64LE(at + 24)),
    entries,
  }
}

/** Something to read: `pages` of them, or one. */
interface Job {
  readonly number: number
  readonly pages?: number
}

interface Read<J extends Job> {
  readonly job: J
  readonly bytes: Buffer
  /** Why it could not be read: the file ends before it does, or the disk does not give it. */
  readonly failure: 'end' | 'disk' | null
}

/** Reads pages in the order of the file, neighbours at once, and goes on behind what the disk does not give. */
async function* readGroups<J extends Job>(
  file: FileHandle,
  jobs: readonly J[],
  pageBytes: number,
  bytesMax: number,
): AsyncGenerator<{ bytes: number; read: Read<J>[] }, void> {
  const sorted = jobs.toSorted((a, b) => a.number - b.number)
  const end = ({ number, pages = 1 }: J): number => number + pages
  for (let i = 0; i < sorted.length;) {
    const first = sorted[i]!.number
    let last = end(sorted[i]!)
    let n = 1
    for (; i + n < sorted.length; n++) {
      const job = sorted[i + n]!
      const reach = Math.max(last, end(job))
      if (job.number > last + gapPagesMax || (reach - first) * pageBytes > bytesMax) break
      last = reach
    }
    const group = sorted.slice(i, i + n)
    i += n
    const into = Buffer.allocUnsafeSlow((last - first) * pageBytes)
    let bytesRead: number
    try {
      bytesRead = await readWholeAsync(file, into, first * pageBytes)
    } catch (error) {
      if (!isUnreadable(error)) throw error
      if (group.length === 1) {
        yield { bytes: 0, read: [{ job: group[0]!, bytes: into, failure: 'disk' }] }
        continue
      }
      // One of them is bad, and the others may not be.
      for (const job of group) yield* readGroups(file, [job], pageBytes, bytesMax)
      continue
    }
    const read = group.map((job) => {
      const at = (job.number - first) * pageBytes
      const bytes = into.subarray(at, at + (job.pages ?? 1) * pageBytes)
      const isWhole = at + bytes.length <= bytesRead
      return { job, bytes, failure: isWhole ? null : 'end' } as const
    })
    yield { bytes: bytesRead, read }
  }
}

/** @returns how much there is; less than wanted only at the end of the file */
function readWhole(fd: number, into: Buffer, at: number): number {
  let bytesRead = 0
  while (bytesRead < into.length) {
    const n = readSync(fd, into, bytesRead, into.length - bytesRead, at + bytesRead)
    if (n === 0) break
    bytesRead += n
  }
  return bytesRead
}

async function readWholeAsync(file: FileHandle, into: Buffer, at: number): Promise<number> {
  let bytesRead = 0
  while (bytesRead < into.length) {
    const read = await file.read(into, bytesRead, into.length - bytesRead, at + bytesRead)
    if (read.bytesRead === 0) break
    bytesRead += read.bytesRead
  }
  return bytesRead
}

/** A sector that the disk has lost. It would be a SIGBUS through a map. */
function isUnreadable(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'EIO'
}

function corrupt(what: string): MqError {
  return new MqError('CORRUPT_LOG', what)
}

/** @throws what is no damage of the file */
function damageOf(error: unknown, { low, high }: { low: Buffer; high: Buffer }): Damage {
  if (!(error instanceof MqError && error.code === 'CORRUPT_LOG')) throw error
  return { what: error.message, from: Buffer.from(low), to: Buffer.from(high) }
}

/** The least key that is greater. */
function after(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)])
}

/** In memory that lasts. */
function kept({ number, low, high }: Part): Part {
  return { number, low: Buffer.from(low), high: Buffer.from(high) }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

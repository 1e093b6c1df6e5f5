/**
 * A simulated disk. It lies outside of any process: each process that is started on it sees it through an
 * `AttachedStore`, and a crash takes only what was not finished.
 *
 * It is stricter than LMDB, so that code which would corrupt data there fails here: changing bytes that a commit still
 * reads, or two commits at once, is an InvariantError; bytes kept beyond their time turn to garbage.
 */
import type { Damage, JournalFile, OpenOptions, Piece, Put, Segment, Store } from '../env.ts'
import { keyBytesMax } from '../env.ts'
import { invariant, InvariantError, MqError } from '../errors.ts'
import { displacedBytes, displacedCopy, hashBytes, mix, poison } from './bytes.ts'
import { SimEvent, type SimHost } from './events.ts'
import { noFaults } from './faults.ts'
import { SeededRandom } from './random.ts'

/** What an entry takes beside its key and value. */
const entryOverheadBytes = 16

export interface SimStoreOptions {
  /** Commits that would make the store larger than this reject with DISK_FULL. Default: no limit. */
  readonly capacityBytes?: number
  /** Keep what is removed beside it, for whoever checks a log from its first entry. Default: no. */
  readonly keepsRemoved?: boolean
}

/** What the next commit meets, whatever the chances are. */
export type CommitFate = 'good' | 'storage-failed' | 'disk-full' | 'stuck'

/**
 * Durable state. As a `Store` it serves code that needs no process: commits are done a promise callback later. In a
 * world, `world.process(name, store)` attaches it.
 */
export class SimStore implements Store {
  capacityBytes: number
  /** No room but what was reserved and given back: beyond it, commits and new segments reject with DISK_FULL. */
  full = false
  reservedBytes = 0
  /** Of a reserve that was given back while there was no room: what is left of it. */
  releasedBytes = 0
  /** The directory cannot be written: `lock` rejects. */
  readOnly = false
  /** Overrides the chances for one commit. */
  nextCommit: CommitFate | undefined
  /** Durable commits so far. */
  commits = 0

  readonly #segments = new Map<string, SegmentData>()
  readonly #removed: Map<string, SegmentData> | null
  readonly #journal = new JournalData()
  readonly #own: AttachedStore
  #holder: AttachedStore | undefined

  constructor(options: SimStoreOptions = {}) {
    this.capacityBytes = options.capacityBytes ?? Infinity
    this.#removed = options.keepsRemoved === true ? new Map() : null
    this.#own = this.attach()
  }

  /** The store as one process sees it; without one, as a user of its own who never crashes. */
  attach(host: SimHost = new Bystander()): AttachedStore {
    return new AttachedStore(host, {
      store: this,
      segments: this.#segments,
      removed: this.#removed,
      journal: this.#journal,
      holder: () => this.#holder,
      hold: (holder) => {
        this.#holder = holder
      },
    })
  }

  /** Bytes in use in all segments. */
  get usedBytes(): number {
    let bytes = 0
    for (const segment of this.#segments.values()) bytes += segment.usedBytes
    return bytes
  }

  /** Flips one bit of one stored value, as a failing disk does, and tells which. Undefined when nothing is stored. */
  rot(random: SeededRandom): { readonly segment: string; readonly key: Uint8Array } | undefined {
    const rotten = [...this.#segments].filter(([, data]) => data.values.some((value) => value.byteLength > 0))
    if (rotten.length === 0) return undefined
    const [segment, data] = random.pick(rotten)
    const places = data.values.flatMap((value, place) => (value.byteLength > 0 ? [place] : []))
    const place = random.pick(places)
    const value = data.values[place] as Uint8Array
    const at = random.int(value.byteLength)
    value[at] = (value[at] as number) ^ (1 << random.int(8))
    return { segment, key: Buffer.from(data.keys[place] as string, 'latin1') }
  }

  /**
   * The disk does not give what a segment has with `from` ≤ key < `to`, in latin1: as with a page that has rotted, reads
   * say CORRUPT_LOG there, and it can only be opened sealed.
   */
  damage(segment: string, from: string, to: string): void {
    const data = this.#segments.get(segment)
    invariant(data !== undefined, `there is no segment ${segment}`)
    data.damages.push({ from, to })
    data.damages.sort((a, b) => (a.from < b.from ? -1 : 1))
  }

  lock(): Promise<void> {
    return this.#own.lock()
  }

  list(): Promise<string[]> {
    return this.#own.list()
  }

  open(name: string, options: OpenOptions): Promise<Segment> {
    return this.#own.open(name, options)
  }

  remove(name: string): Promise<void> {
    return this.#own.remove(name)
  }

  reserve(bytes: number): Promise<boolean> {
    return this.#own.reserve(bytes)
  }

  release(): Promise<void> {
    return this.#own.release()
  }

  journal(initial: Uint8Array | null): Promise<JournalFile | null> {
    return this.#own.journal(initial)
  }

  close(): Promise<void> {
    return this.#own.close()
  }
}

/** What is on disk of one segment. Keys as latin1 text compare like their bytes. */
class SegmentData {
  readonly keys: string[] = []
  readonly values: Uint8Array[] = []
  /** Ranges of keys that the disk does not give, ascending. */
  readonly damages: { readonly from: string; readonly to: string }[] = []
  usedBytes = 0
  /** What can be read and a power cut takes back, and what was there before it. */
  #unsynced: { readonly key: string; readonly before: Uint8Array | undefined }[] = []

  /** Whether a key in [`first`, `last`] may be lost. */
  isDamaged(first: string, last: string): boolean {
    return this.damages.some(({ from, to }) => from <= last && first < to)
  }

  /** The place of the first key that is ≥ `key`. */
  place(key: string): number {
    const { keys } = this
    // Logs grow at the end.
    const last = keys.at(-1)
    if (last === undefined || last < key) return keys.length
    let low = 0
    let high = keys.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((keys[middle] as string) < key) low = middle + 1
      else high = middle
    }
    return low
  }

  /** @param isSynced false: until the next sync a power cut takes it back */
  put(key: string, value: Uint8Array, isSynced: boolean): void {
    const place = this.place(key)
    const old = this.keys[place] === key ? this.values[place] : undefined
    if (!isSynced) this.#unsynced.push({ key, before: old })
    if (old === undefined) {
      this.keys.splice(place, 0, key)
      this.values.splice(place, 0, value)
      this.usedBytes += key.length + value.byteLength + entryOverheadBytes
    } else {
      this.values[place] = value
      this.usedBytes += value.byteLength - old.byteLength
    }
  }

  sync(): void {
    this.#unsynced = []
  }

  powerCut(): void {
    for (const { key, before } of this.#unsynced.reverse()) {
      if (before !== undefined) this.put(key, before, true)
      else {
        const place = this.place(key)
        const [value] = this.values.splice(place, 1)
        this.keys.splice(place, 1)
        this.usedBytes -= key.length + value!.byteLength + entryOverheadBytes
      }
    }
    this.sync()
  }
}

/** What is on disk of the file beside the segments. */
class JournalData {
  /** Null: there is no such file. */
  bytes: Uint8Array | null = null
  /** What can be read and a power cut takes back: what was there before it. */
  #unsynced: { readonly at: number; readonly before: Uint8Array }[] = []

  /** @param isSynced false: until the next sync a power cut takes it back */
  write(at: number, bytes: Uint8Array, isSynced: boolean): void {
    invariant(this.bytes !== null && at + bytes.length <= this.bytes.length, 'the journal has a fixed length')
    if (!isSynced) this.#unsynced.push({ at, before: this.bytes.slice(at, at + bytes.length) })
    this.bytes.set(bytes, at)
  }

  sync(): void {
    this.#unsynced = []
  }

  powerCut(): void {
    for (const { at, before } of this.#unsynced.reverse()) this.bytes?.set(before, at)
    this.sync()
  }
}

interface StoreLinks {
  readonly store: SimStore
  readonly segments: Map<string, SegmentData>
  /** What was removed, if that is kept. */
  readonly removed: Map<string, SegmentData> | null
  readonly journal: JournalData
  holder(): AttachedStore | undefined
  hold(holder: AttachedStore | undefined): void
}

/** Something on its way to the disk. When a crash comes first, it is there or not; wholly, if it cannot be torn. */
interface Effect {
  /** @param isSynced false: it can be read, and is not on the disk yet */
  apply(isSynced: boolean): void
  /** Of what a crash may do in part. */
  tear?(isSynced: boolean): void
}

/** Of crashes: the machine's power is cut, and what was not synced is gone. */
const powerCutChance = 0.3

/** A `SimStore` as one process sees it. */
export class AttachedStore implements Store {
  readonly host: SimHost
  readonly links: StoreLinks
  readonly random: SeededRandom
  readonly journalRandom: SeededRandom
  readonly #powerRandom: SeededRandom
  /** Names of the segments that are open or being opened. */
  readonly #open = new Set<string>()
  readonly #effects = new Set<Effect>()

  constructor(host: SimHost, links: StoreLinks) {
    this.host = host
    this.links = links
    this.random = host.random.fork('disk')
    this.#powerRandom = host.random.fork('power')
    this.journalRandom = host.random.fork('journal')
  }

  async lock(): Promise<void> {
    if (!this.host.alive) return never()
    if (this.links.store.readOnly) {
      throw new MqError('DATA_DIR_NOT_WRITABLE', 'the simulated data directory cannot be written')
    }
    if (this.links.holder() !== undefined) {
      throw new MqError(
        'DATA_DIR_LOCKED',
        `the simulated data directory is used by ${this.links.holder()?.host.name}`,
      )
    }
    this.links.hold(this)
  }

  async list(): Promise<string[]> {
    if (!this.host.alive) return never()
    this.#mustHold()
    return [...this.links.segments.keys()].sort()
  }

  async open(name: string, options: OpenOptions): Promise<Segment> {
    if (!this.host.alive) return never()
    this.#mustHold()
    invariant(!this.#open.has(name), `segment ${name} is open already`)
    const { store, segments } = this.links
    if (!segments.has(name)) {
      if (!options.create) throw new MqError('STORAGE_FAILED', `there is no segment ${name}`)
      if (store.full && store.releasedBytes <= 0)
        throw new MqError('DISK_FULL', `no room for segment ${name}`)
      this.#open.add(name)
      await this.effect('disk', this.latencyMs(), { apply: () => segments.set(name, new SegmentData()) })
    }
    const data = segments.get(name) as SegmentData
    const isSealed = options.sealed === true
    if (!isSealed || options.synced === true) data.sync()
    if (!isSealed && data.damages.length > 0) throw damaged(name)
    this.#open.add(name)
    return new OpenSegment(name, data, this, isSealed)
  }

  async remove(name: string): Promise<void> {
    if (!this.host.alive) return never()
    this.#mustHold()
    invariant(!this.#open.has(name), `segment ${name} is open`)
    await this.effect('disk', this.latencyMs(), {
      apply: () => {
        const { segments, removed } = this.links
        const data = segments.get(name)
        if (data === undefined) return
        segments.delete(name)
        removed?.set(name, data)
      },
    })
  }

  async reserve(bytes: number): Promise<boolean> {
    if (!this.host.alive) return never()
    this.#mustHold()
    const { store } = this.links
    let isThere = true
    await this.effect('disk', this.latencyMs(), {
      apply: () => {
        isThere =
          store.reservedBytes >= bytes || (!store.full && store.usedBytes + bytes <= store.capacityBytes)
        if (!isThere) return
        store.reservedBytes = bytes
        store.releasedBytes = 0
      },
    })
    return isThere
  }

  async release(): Promise<void> {
    if (!this.host.alive) return never()
    this.#mustHold()
    const { store } = this.links
    await this.effect('disk', this.latencyMs(), {
      apply: () => {
        store.releasedBytes = store.reservedBytes
        store.reservedBytes = 0
      },
    })
  }

  async journal(initial: Uint8Array | null): Promise<JournalFile | null> {
    if (!this.host.alive) return never()
    this.#mustHold()
    invariant(!this.#open.has(journalName), 'the journal is open already')
    const { store, journal } = this.links
    if (journal.bytes === null) {
      if (initial === null || (store.full && store.releasedBytes <= 0)) return null
      this.#open.add(journalName)
      await this.effect('disk', this.journalLatencyMs(), {
        apply: () => (journal.bytes = new Uint8Array(initial)),
      })
    }
    journal.sync()
    this.#open.add(journalName)
    return new OpenJournal(journal, this)
  }

  async close(): Promise<void> {
    if (!this.host.alive) return never()
    invariant(this.#open.size === 0, 'segments are closed before their store')
    if (this.links.holder() === this) this.links.hold(undefined)
  }

  /**
   * The process is gone: the lock is free, and what was on its way is decided by chance. Some of that the next process
   * can read, and a later power cut takes it, unless it was synced by then.
   */
  crash(): void {
    const { links } = this
    if (links.holder() === this) links.hold(undefined)
    for (const effect of this.#effects) {
      if (effect.tear !== undefined) effect.tear(this.journalRandom.chance(0.5))
      else if (this.random.chance(0.5)) effect.apply(this.#powerRandom.chance(0.5))
    }
    this.#effects.clear()
    if (!this.#powerRandom.chance(powerCutChance)) return
    for (const data of links.segments.values()) data.powerCut()
    links.journal.powerCut()
  }

  /** Applies an effect once its time has come, and resolves then. */
  effect(kind: 'disk' | 'commit', latencyMs: number, effect: Effect): Promise<void> {
    this.#effects.add(effect)
    return new Promise((resolve) => {
      this.host.schedule(latencyMs, kind, () => {
        this.#effects.delete(effect)
        effect.apply(true)
        resolve()
      })
    })
  }

  latencyMs(): number {
    const { diskLatencyMs } = this.host.faults
    return this.random.between(diskLatencyMs[0], diskLatencyMs[1])
  }

  journalLatencyMs(): number {
    const { diskLatencyMs } = this.host.faults
    return this.journalRandom.between(diskLatencyMs[0], diskLatencyMs[1])
  }

  /** What a commit, or a write to the journal, meets. */
  drawFate(random: SeededRandom): CommitFate {
    const { store } = this.links
    const planned = store.nextCommit
    store.nextCommit = undefined
    if (planned !== undefined) return planned
    if (random.chance(this.host.faults.stuckCommitChance)) return 'stuck'
    return random.chance(this.host.faults.commitFailedChance) ? 'storage-failed' : 'good'
  }

  slowMs(random: SeededRandom): number {
    const { slowCommitChance, slowCommitMsMax } = this.host.faults
    return random.chance(slowCommitChance) ? random.between(0, slowCommitMsMax) : 0
  }

  closed(name: string): void {
    this.#open.delete(name)
  }

  #mustHold(): void {
    invariant(this.links.holder() === this, 'the store is locked before it is used')
  }
}

/** No segment's name. */
const journalName = ' journal'
const sectorBytes = 512

class OpenJournal implements JournalFile {
  readonly #data: JournalData
  readonly #attached: AttachedStore
  #open = true
  #writing: Promise<void> | undefined
  #failed = false

  constructor(data: JournalData, attached: AttachedStore) {
    this.#data = data
    this.#attached = attached
  }

  async read(): Promise<Uint8Array> {
    if (!this.#attached.host.alive) return never()
    invariant(this.#open && this.#data.bytes !== null, 'the journal is closed')
    return new Uint8Array(this.#data.bytes)
  }

  async write(at: number, bytes: Uint8Array): Promise<void> {
    if (!this.#attached.host.alive) return never()
    invariant(this.#open && this.#writing === undefined, 'the journal: one write at a time')
    this.#writing = this.#write(at, bytes)
    try {
      await this.#writing
    } finally {
      this.#writing = undefined
    }
  }

  async #write(at: number, bytes: Uint8Array): Promise<void> {
    const attached = this.#attached
    const { host, journalRandom: random, links } = attached
    const failure = (): MqError => new MqError('STORAGE_FAILED', 'a write to the journal failed')
    if (this.#failed) throw failure()
    const fate = attached.drawFate(random)
    const latencyMs = fate === 'stuck' ? Infinity : attached.journalLatencyMs() + attached.slowMs(random)
    const hash = hashBytes(bytes, at)
    const tear = (isSynced: boolean): void => {
      for (let from = 0; from < bytes.length; from += sectorBytes)
        if (random.chance(0.8)) this.#data.write(at + from, bytes.slice(from, from + sectorBytes), isSynced)
    }
    let full = fate === 'disk-full'
    await attached.effect('commit', latencyMs, {
      apply: () => {
        if (hashBytes(bytes, at) !== hash)
          throw new InvariantError(`${host.name} changed bytes that the journal was still writing`)
        // As on a file system that writes elsewhere what it writes anew.
        if (links.store.full && links.store.releasedBytes <= 0) full = true
        if (full || (fate === 'storage-failed' && random.chance(0.5))) return tear(true)
        this.#data.write(at, bytes, true)
        links.store.commits += 1
        host.note('durable', hash)
      },
      tear,
    })
    if (full) throw new MqError('DISK_FULL', 'no room in the journal')
    if (fate === 'storage-failed') {
      this.#failed = true
      throw failure()
    }
  }

  async close(): Promise<void> {
    if (!this.#attached.host.alive) return never()
    if (!this.#open) return
    this.#open = false
    await this.#writing?.catch(() => undefined)
    this.#attached.closed(journalName)
  }
}

class OpenSegment implements Segment {
  readonly name: string
  readonly #data: SegmentData
  readonly #attached: AttachedStore
  #open = true
  #visiting = false
  /** Settles with the commit on its way. */
  #committing: Promise<void> | undefined
  /** A commit has failed: nothing is known about the disk any more. */
  #failed = false
  #isSealed: boolean
  /** Bytes handed out that the next call makes invalid. */
  readonly #views: Uint8Array[] = []

  constructor(name: string, data: SegmentData, attached: AttachedStore, isSealed: boolean) {
    this.name = name
    this.#data = data
    this.#attached = attached
    this.#isSealed = isSealed
  }

  get usedBytes(): number {
    return this.#data.usedBytes
  }

  async commit(puts: readonly Put[]): Promise<void> {
    if (!this.#attached.host.alive) return never()
    this.#enter()
    invariant(!this.#isSealed, `segment ${this.name} is sealed`)
    invariant(this.#committing === undefined, `segment ${this.name}: one commit at a time`)
    for (const { key } of puts) {
      invariant(key.byteLength > 0 && key.byteLength <= keyBytesMax, `a key has 1-${keyBytesMax} bytes`)
    }
    const committing = this.#commit(puts)
    this.#committing = committing
    try {
      await committing
    } finally {
      this.#committing = undefined
    }
  }

  async #commit(puts: readonly Put[]): Promise<void> {
    if (this.#failed) throw this.#failure()
    const { host, random, links } = this.#attached
    const fate = this.#attached.drawFate(random)
    const slowMs = this.#attached.slowMs(random)
    const latencyMs = fate === 'stuck' ? Infinity : this.#attached.latencyMs() + slowMs
    const hash = hashPuts(puts)
    let durable = fate !== 'disk-full' && (fate !== 'storage-failed' || random.chance(0.5))
    let full = fate === 'disk-full'
    await this.#attached.effect('commit', latencyMs, {
      apply: (isSynced) => {
        // LMDB's writer thread reads the caller's own bytes, late: what changes meanwhile is stored changed.
        if (hashPuts(puts) !== hash) {
          throw new InvariantError(`${host.name} changed bytes that segment ${this.name} was still writing`)
        }
        const growthBytes = puts.reduce(
          (sum, { key, value }) => sum + key.byteLength + value.byteLength + entryOverheadBytes,
          0,
        )
        const { store } = links
        if (store.full && growthBytes <= store.releasedBytes) store.releasedBytes -= growthBytes
        else if (store.full || store.usedBytes + store.reservedBytes + growthBytes > store.capacityBytes) {
          full = true
        }
        if (full) durable = false
        if (!durable) return
        // A commit syncs what was written to its file before.
        if (isSynced) this.#data.sync()
        for (const { key, value } of puts) this.#data.put(text(key), new Uint8Array(value), isSynced)
        links.store.commits += 1
        host.note('durable', hash)
      },
    })
    if (full) throw new MqError('DISK_FULL', `no room in segment ${this.name}`)
    if (fate === 'storage-failed') {
      this.#failed = true
      throw this.#failure()
    }
  }

  get(key: Uint8Array): Uint8Array | undefined {
    this.#enter()
    const wanted = text(key)
    if (this.#data.isDamaged(wanted, wanted)) throw damaged(this.name)
    const place = this.#data.place(wanted)
    return this.#data.keys[place] === wanted ? this.#view(this.#data.values[place] as Uint8Array) : undefined
  }

  floor(key: Uint8Array): Put | undefined {
    this.#enter()
    const wanted = text(key)
    let place = this.#data.place(wanted)
    if (this.#data.keys[place] !== wanted) place -= 1
    const found = this.#data.keys[place]
    if (this.#data.isDamaged(found ?? '', wanted)) throw damaged(this.name)
    if (found === undefined) return undefined
    return { key: this.#keyView(found), value: this.#view(this.#data.values[place] as Uint8Array) }
  }

  scan(
    from: Uint8Array,
    to: Uint8Array,
    visit: (key: Uint8Array, value: Uint8Array) => boolean,
    skip?: (damage: Damage) => void,
  ): void {
    this.#enter()
    const end = text(to)
    const damages = this.#data.damages.filter((damage) => damage.from < end && text(from) < damage.to)
    const skipBelow = (key: string): void => {
      while (damages.length > 0 && damages[0]!.from <= key) {
        if (skip === undefined) throw damaged(this.name)
        skip(damageOf(this.name, damages.shift()!))
      }
    }
    this.#visiting = true
    try {
      for (let place = this.#data.place(text(from)); ; place++) {
        const key = this.#data.keys[place]
        skipBelow(key === undefined || key > end ? end : key)
        if (key === undefined || key >= end) return
        if (this.#data.isDamaged(key, key)) continue
        const goOn = visit(this.#keyView(key), this.#view(this.#data.values[place] as Uint8Array))
        this.#poisonViews()
        if (!goOn) return
      }
    } finally {
      this.#visiting = false
      this.#poisonViews()
    }
  }

  async seal(): Promise<void> {
    if (!this.#attached.host.alive) return never()
    this.#enter()
    invariant(this.#committing === undefined, `segment ${this.name} is sealed between commits`)
    this.#isSealed = true
  }

  walk(found: (damage: Damage) => void): void {
    this.#enter()
    invariant(this.#isSealed, `segment ${this.name} is sealed before it is walked`)
    for (const each of this.#data.damages) found(damageOf(this.name, each))
  }

  async *pieces(bytesMax: number): AsyncGenerator<Piece, void> {
    this.#enter()
    invariant(this.#isSealed, `segment ${this.name} is sealed before it is read anew`)
    const { keys, values, damages } = this.#data
    for (let place = 0; ;) {
      await this.#attached.effect('disk', this.#attached.latencyMs(), { apply: () => undefined })
      const entries: Put[] = []
      let bytes = 0
      for (; place < keys.length && (bytes === 0 || bytes < bytesMax); place++) {
        const key = keys[place] as string
        const value = values[place] as Uint8Array
        if (this.#data.isDamaged(key, key)) continue
        entries.push({ key: Buffer.from(key, 'latin1'), value: displacedCopy(value) })
        bytes += key.length + value.byteLength
      }
      const isLast = place >= keys.length
      yield { bytes, entries, damages: isLast ? damages.map((each) => damageOf(this.name, each)) : [] }
      for (const { value } of entries) poison(value)
      if (isLast) return
    }
  }

  async close(): Promise<void> {
    if (!this.#attached.host.alive) return never()
    if (!this.#open) return
    this.#enter()
    // The commit's own caller hears how it went.
    await this.#committing?.catch(() => undefined)
    this.#open = false
    this.#attached.closed(this.name)
  }

  #enter(): void {
    invariant(this.#open, `segment ${this.name} is closed`)
    invariant(!this.#visiting, `segment ${this.name} is used within a visit`)
    this.#poisonViews()
  }

  #view(bytes: Uint8Array): Uint8Array {
    const view = displacedCopy(bytes)
    this.#views.push(view)
    return view
  }

  #keyView(key: string): Uint8Array {
    const view = displacedBytes(key.length)
    Buffer.from(view.buffer, view.byteOffset, view.byteLength).write(key, 'latin1')
    this.#views.push(view)
    return view
  }

  #poisonViews(): void {
    for (const view of this.#views) poison(view)
    this.#views.length = 0
  }

  #failure(): MqError {
    return new MqError('STORAGE_FAILED', `a commit of segment ${this.name} failed`)
  }
}

function damaged(name: string): MqError {
  return new MqError('CORRUPT_LOG', damageText(name))
}

function damageOf(name: string, { from, to }: { readonly from: string; readonly to: string }): Damage {
  return { what: damageText(name), from: Buffer.from(from, 'latin1'), to: Buffer.from(to, 'latin1') }
}

function damageText(name: string): string {
  return `the simulated disk does not give a part of segment ${name}`
}

function hashPuts(puts: readonly Put[]): number {
  let hash = puts.length
  for (const { key, value } of puts) hash = hashBytes(value, hashBytes(key, hash))
  return mix(hash, puts.length)
}

function text(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('latin1')
}

/** Stands in for a process where there is no world: no faults, no latency, everything a promise callback later. */
class Bystander implements SimHost {
  readonly name = 'this process'
  readonly alive = true
  readonly faults = noFaults
  readonly random = new SeededRandom(0)

  schedule(delayMs: number, kind: 'disk' | 'commit', run: () => void): SimEvent {
    if (delayMs !== Infinity) queueMicrotask(run)
    return new SimEvent(0, 0, kind, undefined, undefined)
  }

  note(): void {}
}

/** What a dead process waits for. */
function never<T>(): Promise<T> {
  return new Promise<T>(() => undefined)
}

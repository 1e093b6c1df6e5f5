/**
 * A segment of the log, some of whose newest commits are in the journal and not in the segment yet. Whoever reads it sees
 * them as if they were.
 */
import { crc32 } from 'node:zlib'
import { keyBytesMax, type Damage, type Piece, type Put, type Segment } from '../env.ts'
import { invariant, MqError } from '../errors.ts'
import { readU64, writeU64 } from '../partition/entry.ts'
import type { Journal } from './journal.ts'
import { asBuffer, journalPrefix } from './partition-log.ts'

/**
 * Under which a segment says up to which number it has the journal's records: that u64 and its crc32, twice, since what it
 * says is about other messages than those that would rot with it.
 */
const markKey = Uint8Array.of(journalPrefix)
const markCopyBytes = 12

function encodeMark(number: number): Buffer {
  const copy = Buffer.alloc(markCopyBytes)
  writeU64(copy, number, 0)
  copy.writeUInt32BE(crc32(copy.subarray(0, 8)), 8)
  return Buffer.concat([copy, copy])
}

/** Null: it has rotted. */
export function decodeMark(mark: Buffer): number | null {
  for (const copy of [mark.subarray(0, markCopyBytes), mark.subarray(markCopyBytes)]) {
    if (copy.length === markCopyBytes && crc32(copy.subarray(0, 8)) === copy.readUInt32BE(8))
      return readU64(copy, 0)
  }
  return null
}

/** One that is in the journal only, as the record with that number. */
interface Pending extends Put {
  readonly number: number
}

export class JournaledSegment implements Segment {
  readonly name: string
  readonly #segment: Segment
  readonly #journal: Journal | null
  /** Ascending by key. */
  #pending: Pending[] = []
  #pendingBytes = 0
  /** Of the last record on disk. */
  #number: number
  /** Of the last that was begun: one that failed may be there all the same. */
  #begun: number
  /** Of the last that is in the segment. */
  #applied: number
  /** Resolves once what moves in the background has, or can't. */
  #moving: Promise<void> | null = null
  /**
   * Is given what moves in the background: how it ends nobody else hears. That of a full disk is no failure: what was to move
   * stays in the journal, and whoever needs the room tries again.
   */
  onMove: (move: Promise<void>) => void = () => undefined

  private constructor(segment: Segment, journal: Journal | null, applied: number) {
    this.name = segment.name
    this.#segment = segment
    this.#journal = journal
    this.#number = this.#begun = this.#applied = applied
  }

  /** One that was just made. */
  static fresh(segment: Segment, journal: Journal | null): JournaledSegment {
    journal?.clear()
    return new JournaledSegment(segment, journal, 0)
  }

  /**
   * One that was there before, with what the journal has for it.
   * @throws MqError CORRUPT_LOG, STORAGE_FAILED
   */
  static recover(segment: Segment, journal: Journal | null): JournaledSegment {
    const self = new JournaledSegment(segment, journal, appliedOf(segment))
    for (const { number, puts } of journal?.recover(segment.name, self.#number) ?? []) {
      self.#number = self.#begun = number
      for (const put of puts) self.#add(number, put)
    }
    return self
  }

  get usedBytes(): number {
    return this.#segment.usedBytes + this.#pendingBytes
  }

  /** The journal has nothing that is not in the segment. */
  get isWhole(): boolean {
    return this.#applied === this.#begun
  }

  /** What is in the journal only, ascending by key; valid until the next commit. */
  get pending(): readonly Put[] {
    return this.#pending
  }

  async commit(puts: readonly Put[]): Promise<void> {
    if (puts.length === 0) return
    for (const { key } of puts)
      invariant(key.length > 0 && key.length <= keyBytesMax, `a key has 1-${keyBytesMax} bytes`)
    const journal = this.#journal
    // What failed may be there all the same, as that number: so no other group takes its place.
    if (journal === null || !journal.takes(puts) || (this.#begun !== this.#number && !journal.hasRoom(puts)))
      return this.#moveAll(puts)
    if (!journal.hasRoom(puts)) await this.#turn(journal)
    const number = (this.#begun = this.#number + 1)
    const copies = await journal.append(this.name, number, puts)
    this.#number = number
    for (const put of copies) this.#add(number, put)
  }

  /**
   * Moves all that is in the journal to the segment.
   * @throws as `commit`
   */
  flush(): Promise<void> {
    return this.#moveAll([])
  }

  /** Half of the journal is full. What it has moves while the other half fills, if that one's has moved by now. */
  async #turn(journal: Journal): Promise<void> {
    await this.#moving
    if (this.#applied < journal.otherLast) return this.#moveAll([])
    journal.turn()
    const move = this.#move([])
    this.onMove(move)
    this.#moving = move.catch(() => undefined)
  }

  async #moveAll(more: readonly Put[]): Promise<void> {
    await this.#moving
    await this.#move(more)
    this.#journal?.clear()
  }

  async #move(more: readonly Put[]): Promise<void> {
    const last = this.#begun
    if (this.#applied === last) return this.#segment.commit(more)
    const mark = { key: markKey, value: encodeMark(last) }
    await this.#segment.commit([...this.#pending, mark, ...more])
    this.#applied = last
    // A record that failed is not there any more, whatever can be read of it.
    this.#number = Math.max(this.#number, last)
    this.#pending = this.#pending.filter(({ number }) => number > last)
    this.#pendingBytes = this.#pending.reduce((sum, { key, value }) => sum + key.length + value.length, 0)
  }

  get(key: Uint8Array): Uint8Array | undefined {
    const place = this.#place(key)
    const put = this.#pending[place]
    return put !== undefined && Buffer.compare(put.key, key) === 0 ? put.value : this.#segment.get(key)
  }

  floor(key: Uint8Array): Put | undefined {
    const below = this.#segment.floor(key)
    let place = this.#place(key)
    if (place === this.#pending.length || Buffer.compare(this.#pending[place]!.key, key) > 0) place--
    const put: Put | undefined = this.#pending[place]
    if (put === undefined || (below !== undefined && Buffer.compare(below.key, put.key) > 0)) return below
    return put
  }

  scan(
    from: Uint8Array,
    to: Uint8Array,
    visit: (key: Uint8Array, value: Uint8Array) => boolean,
    skip?: (damage: Damage) => void,
  ): void {
    let place = this.#place(from)
    const end = this.#place(to)
    if (place >= end) return this.#segment.scan(from, to, visit, skip)
    let goesOn = true
    const visitBoth = (key: Uint8Array, value: Uint8Array): boolean => {
      for (; goesOn && place < end; place++) {
        const put = this.#pending[place]!
        const order = Buffer.compare(put.key, key)
        if (order > 0) break
        goesOn = visit(put.key, put.value)
        if (order === 0) {
          place++
          return goesOn
        }
      }
      if (goesOn) goesOn = visit(key, value)
      return goesOn
    }
    this.#segment.scan(from, to, visitBoth, skip)
    for (; goesOn && place < end; place++)
      goesOn = visit(this.#pending[place]!.key, this.#pending[place]!.value)
  }

  async seal(): Promise<void> {
    invariant(this.isWhole, `what the journal has for segment ${this.name} is moved before it is sealed`)
    await this.#segment.seal()
  }

  walk(found: (damage: Damage) => void): void {
    this.#segment.walk(found)
  }

  /** Of the segment alone. */
  pieces(bytesMax: number): AsyncGenerator<Piece, void> {
    return this.#segment.pieces(bytesMax)
  }

  /** What the journal has stays there. */
  async close(): Promise<void> {
    await this.#moving
    await this.#segment.close()
  }

  #add(number: number, { key, value }: Put): void {
    this.#pendingBytes += key.length + value.length
    const place = this.#place(key)
    const same = this.#pending[place]
    const isSame = same !== undefined && Buffer.compare(same.key, key) === 0
    if (isSame) this.#pendingBytes -= same.key.length + same.value.length
    this.#pending.splice(place, isSame ? 1 : 0, { number, key, value })
  }

  /** The place of the first one in the journal that is ≥ `key`. */
  #place(key: Uint8Array): number {
    let low = 0
    let high = this.#pending.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (Buffer.compare(this.#pending[middle]!.key, key) < 0) low = middle + 1
      else high = middle
    }
    return low
  }
}

export const rottenMark = 'what it says of the journal has rotted'

/** One of its copies has, at least. */
export function isRottenMark(mark: Buffer): boolean {
  const number = decodeMark(mark)
  return number === null || !encodeMark(number).equals(mark)
}

export function hasRottenMark(segment: Segment): boolean {
  const mark = segment.get(markKey)
  return mark !== undefined && isRottenMark(asBuffer(mark))
}

/** @throws MqError CORRUPT_LOG: it can't be read */
function appliedOf(segment: Segment): number {
  const mark = segment.get(markKey)
  if (mark === undefined) return 0
  const number = decodeMark(asBuffer(mark))
  if (number === null) throw new MqError('CORRUPT_LOG', `segment ${segment.name}: ${rottenMark}`)
  return number
}

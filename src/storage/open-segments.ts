/** Opens the segments of a log, and the journal, as a start finds them. */
import type { Put, Random, Segment, Store } from '../env.ts'
import { MqError } from '../errors.ts'
import { Journal } from './journal.ts'
import { JournaledSegment } from './journaled-segment.ts'

export interface OpenedSegments {
  /** Those that nothing is written to any more, oldest first. */
  readonly closed: Segment[]
  readonly current: JournaledSegment
  /** Made ahead of time, and empty. */
  readonly next: Segment | null
  /** Null: there is none, and no room for one. */
  readonly journal: Journal | null
}

export interface OpenSegmentsOptions {
  readonly journalBytes: number
  readonly journaledBytesMax: number
  readonly random: Random
  /** The segment that was written to last is damaged, and only read from now on. */
  damaged(name: string, what: string): void
}

/** Of a locked store; makes the first segment where there is none. */
export async function openSegments(store: Store, options: OpenSegmentsOptions): Promise<OpenedSegments> {
  const opening = new Opening(store, options)
  try {
    return await opening.open()
  } catch (error) {
    await opening.close()
    throw error
  }
}

class Opening {
  readonly #store: Store
  readonly #options: OpenSegmentsOptions
  readonly #opened: { close(): Promise<void> }[] = []
  readonly #closed: Segment[] = []
  #journal: Journal | null = null

  constructor(store: Store, options: OpenSegmentsOptions) {
    this.#store = store
    this.#options = options
  }

  async open(): Promise<OpenedSegments> {
    this.#journal = await this.#openJournal()
    const names = (await this.#store.list()).filter((name) => segmentName.test(name))
    const last = names.pop()
    for (const [i, name] of names.entries())
      // The last one may have been made ahead of time, and whoever wrote to the one before it be killed within a commit.
      this.#closed.push(await this.#openSealed(name, i === names.length - 1))
    if (last === undefined) {
      // What it may have is of segments that somebody has removed.
      if (this.#journal !== null && this.#journal.segment !== null)
        await this.#journal.renew(journalId(this.#options.random))
      return this.#begin(await this.#make(nextName('0')))
    }
    if (!this.#isUnfinished(this.#closed.at(-1))) return this.#openCurrent(last, null)
    // So the last one was made ahead of time.
    const before = this.#closed.pop()!
    await before.close()
    const next = this.#keep(await this.#store.open(last, { create: false }))
    if (isEmpty(next)) return this.#openCurrent(before.name, next)
    return this.#goOn(before, next)
  }

  /** It is used already: then the one before it was found damaged, and what the journal had for that one was committed here. */
  async #goOn(damaged: Segment, current: Segment): Promise<OpenedSegments> {
    const again = await this.#openSealed(damaged.name, true)
    this.#closed.push(again)
    // In one transaction, so one key says all; its value may be a newer one by now.
    const isThere = ({ key }: Put): boolean => current.get(key) !== undefined
    if (!JournaledSegment.recover(again, this.#journal).pending.every(isThere)) {
      const what = `segment ${current.name} is in use, and segment ${damaged.name} has not all that the journal has for it`
      throw new MqError('CORRUPT_LOG', what)
    }
    return this.#recovered(current, null)
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#opened.map((each) => each.close()))
  }

  async #openJournal(): Promise<Journal | null> {
    const { journalBytes, journaledBytesMax } = this.#options
    const { random } = this.#options
    const file = await this.#store.journal(
      journalBytes > 0 ? Journal.initial(journalBytes, journalId(random)) : null,
    )
    return file === null ? null : Journal.open(this.#keep(file), journaledBytesMax)
  }

  /** Whether the journal has something that is not in this segment: then it was the current one. */
  #isUnfinished(segment: Segment | undefined): boolean {
    const journal = this.#journal
    if (segment === undefined || journal === null || journal.segment !== segment.name) return false
    return JournaledSegment.recover(segment, journal).pending.length > 0
  }

  async #openCurrent(name: string, next: Segment | null): Promise<OpenedSegments> {
    let segment: Segment
    try {
      segment = this.#keep(await this.#store.open(name, { create: false }))
    } catch (error) {
      if (!(error instanceof MqError && error.code === 'CORRUPT_LOG')) throw error
      return this.#leave(name, next, error.message)
    }
    return this.#recovered(segment, next)
  }

  #recovered(segment: Segment, next: Segment | null): OpenedSegments {
    const current = JournaledSegment.recover(segment, this.#journal)
    return { closed: this.#closed, current, next, journal: this.#journal }
  }

  /** The log goes on in another segment, with what the journal has for the damaged one. */
  async #leave(name: string, next: Segment | null, what: string): Promise<OpenedSegments> {
    this.#options.damaged(name, what)
    const damaged = await this.#openSealed(name, true)
    this.#closed.push(damaged)
    const segment = next ?? (await this.#make(nextName(name)))
    if (this.#journal?.segment === name)
      await segment.commit(JournaledSegment.recover(damaged, this.#journal).pending)
    return this.#begin(segment)
  }

  /** In a segment that was just made. */
  #begin(segment: Segment): OpenedSegments {
    const current = JournaledSegment.fresh(segment, this.#journal)
    return { closed: this.#closed, current, next: null, journal: this.#journal }
  }

  async #make(name: string): Promise<Segment> {
    return this.#keep(await this.#store.open(name, { create: true }))
  }

  async #openSealed(name: string, synced: boolean): Promise<Segment> {
    return this.#keep(await this.#store.open(name, { create: false, sealed: true, synced }))
  }

  #keep<T extends { close(): Promise<void> }>(opened: T): T {
    this.#opened.push(opened)
    return opened
  }
}

export function journalId(random: Random): Uint8Array {
  return random.bytes(8)
}

/** What can't be read counts as something. */
function isEmpty(segment: Segment): boolean {
  let empty = true
  const found = (): boolean => (empty = false)
  segment.scan(Uint8Array.of(0), Uint8Array.of(0xff), found, found)
  return empty
}

/** Of the log's segments, among all that a store has. */
export const segmentName = /^\d{8}$/

export function nextName(name: string): string {
  return String(Number(name) + 1).padStart(8, '0')
}

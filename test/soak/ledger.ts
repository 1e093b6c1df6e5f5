/**
 * An account of every message of a soak, by the number in its body, in memory that does not grow with what is done.
 * It asserts
 *
 *   lost      a confirmed message comes, and comes again until it was acked
 *   twice     nothing is leased after the lease whose ack was confirmed; one lease hands a message out once; it has the
 *             id that its send was confirmed with, until it has been a dead letter
 *   early     nothing comes before its delay is over
 *   invented  what comes was sent, byte for byte
 */
import { decodeReceipt } from '../../src/client/delivery-receipt.ts'
import { MqError } from '../../src/errors.ts'

export type Violation = 'lost' | 'twice' | 'early' | 'invented' | 'left behind'

interface Open {
  id: string | null
  confirmed: boolean
  /** A call ended without an answer: it may never come, or come no more. */
  mayBeGone: boolean
  readonly notBeforeMs: number
  /** Leases under which it came. */
  readonly leases: number[]
  nacks: number
}

export interface Delivered {
  readonly id: string
  readonly body: Uint8Array
  readonly receipt: string
}

/** A message under a lease, for whoever settles it. */
export interface Held {
  /** Nacks of it that were confirmed so far. */
  readonly nacks: number
  readonly acked: () => void
  readonly nacked: () => void
  readonly failed: (error: unknown) => void
}

const paddingBytesMax = 900
/** Settled messages whose lease is remembered: a delivery of one may still wait in a client. */
const settledKept = 200_000
const wordsMax = 20

export class Ledger {
  readonly words: string[] = []
  violations = 0
  /** Settles that were refused: the lease had ended. */
  refusedSettles = 0
  #next = 0
  readonly #open = new Map<number, Open>()
  /** By number, the lease whose ack was confirmed. Oldest first. */
  readonly #settled = new Map<number, number>()

  /** Messages that were begun and are not acked. */
  get open(): number {
    return this.#open.size
  }

  get begun(): number {
    return this.#next
  }

  /** @returns the number of a message that is about to be sent */
  begin(notBeforeMs = 0): number {
    const fresh = { id: null, confirmed: false, mayBeGone: false, notBeforeMs, leases: [], nacks: 0 }
    this.#open.set(this.#next, fresh)
    return this.#next++
  }

  confirmed(number: number, id: string | null): void {
    const message = this.#open.get(number)
    // It can have come and been acked before its sender heard.
    if (message === undefined) return
    message.confirmed = true
    this.#identify(message, number, id)
  }

  /** @throws what is no MqError: a defect */
  sendFailed(number: number, error: unknown): void {
    if (isUnknown(error)) {
      const message = this.#open.get(number)
      if (message !== undefined) message.mayBeGone = true
    } else this.#open.delete(number)
  }

  /**
   * @param hasMoved it may have been a dead letter, and have another id since
   * @returns null when it is nothing that could be settled
   */
  delivered(delivery: Delivered, hasMoved = false): Held | null {
    const number = Number.parseInt(Buffer.from(delivery.body).toString('latin1', 0, 12), 10)
    const lease = decodeReceipt(delivery.receipt)?.lease
    if (lease === undefined || !(number < this.#next) || !bodyOf(number).equals(delivery.body)) {
      this.violate('invented', `${delivery.id} holds what was never sent (number ${number})`)
      return null
    }
    const message = this.#open.get(number)
    if (message === undefined) {
      // Of an older lease: it came to the client before, and was looked at only now.
      const acked = this.#settled.get(number) ?? -1
      if (lease >= acked) this.#cameTwice(delivery.id, number, lease, acked)
      return null
    }
    if (!hasMoved) this.#identify(message, number, delivery.id)
    if (message.leases.includes(lease)) {
      this.violate('twice', `${delivery.id} (${number}) came twice under lease ${lease}`)
    }
    if (Date.now() < message.notBeforeMs) {
      this.violate('early', `${delivery.id} (${number}) came ${message.notBeforeMs - Date.now()} ms early`)
    }
    message.leases.push(lease)
    return {
      nacks: message.nacks,
      acked: () => this.#acked(number, lease, delivery.id),
      nacked: () => void message.nacks++,
      failed: (error) => {
        if (isUnknown(error)) message.mayBeGone = true
        else this.refusedSettles++
      },
    }
  }

  /** Of those that are not acked, those that must come again. */
  get owed(): number {
    let owed = 0
    for (const { confirmed, mayBeGone } of this.#open.values()) if (confirmed && !mayBeGone) owed++
    return owed
  }

  /** To be called when nothing comes any more. */
  checkDrained(): void {
    for (const [number, { id, confirmed, mayBeGone, leases }] of this.#open) {
      if (mayBeGone) continue
      if (!confirmed) this.violate('lost', `the send of message ${number} never ended`)
      else this.violate('lost', `message ${number} (${id}) came ${leases.length} times and was never acked`)
    }
  }

  violate(what: Violation, words: string): void {
    this.violations++
    if (this.words.length < wordsMax) this.words.push(`${what}: ${words}`)
  }

  #acked(number: number, lease: number, id: string): void {
    const message = this.#open.get(number)
    if (message === undefined) {
      this.violate('twice', `${id} (${number}) was acked under lease ${lease}, and before`)
      return
    }
    const later = message.leases.find((other) => other > lease)
    if (later !== undefined) this.#cameTwice(id, number, later, lease)
    this.#open.delete(number)
    this.#settled.set(number, lease)
    if (this.#settled.size > settledKept) {
      for (const [oldest] of this.#settled) {
        this.#settled.delete(oldest)
        break
      }
    }
  }

  #cameTwice(id: string, number: number, lease: number, acked: number): void {
    this.violate('twice', `${id} (${number}) was acked under lease ${acked}, and came under ${lease}`)
  }

  #identify(message: Open, number: number, id: string | null): void {
    if (id === null || (message.id !== null && message.id !== id)) {
      this.violate('twice', `message ${number} is ${message.id} and ${id}`)
    }
    message.id ??= id
  }
}

/** A message's whole body follows from its number. */
export function bodyOf(number: number): Buffer {
  return Buffer.from(`${number}:`.padEnd(16 + ((number * 7919) % paddingBytesMax), '.'))
}

/** @throws what is no MqError */
function isUnknown(error: unknown): boolean {
  if (!(error instanceof MqError)) throw error
  return error.outcome === 'unknown'
}

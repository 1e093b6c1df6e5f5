/**
 * What all connections together keep of answers that their peers have not read, within one bound.
 *
 * The nearer the sum comes to the bound, the less a connection may have unread and still be served: an eighth of what
 * is left, as in switches whose ports share one buffer (Choudhury and Hahne, dynamic thresholds). Who has most is held
 * first and keeps what it has, who reads goes on, and nobody is looked for: a write costs one addition.
 *
 *   within → (less than an eighth is left) pressed → within
 *
 * While it is pressed all connections are looked at once a second. Those that have not read in five seconds what waited
 * for them are cut off, the largest first, until the sum is within again.
 */
import type { Clock, Timer } from '../env.ts'
import { MqError } from '../errors.ts'

/** A connection's part in the sum. */
export interface Reader {
  /** Bytes that wait to be read by the peer. */
  readonly unreadBytes: number
  /** All that were ever sent. */
  readonly sentBytes: number
  /** It has been ended: what it keeps goes within seconds. */
  readonly isEnding: boolean
  /** Adds what has changed since it was last counted. */
  count(): void
  close(error: MqError): void
}

const roundMs = 1000
/** Rounds that a connection has to read what waited for it. */
const roundsMax = 5

/** What a connection had been sent when it was looked at, and how many rounds ago. */
interface Debt {
  sentBytes: number
  rounds: number
}

export class UnreadBytes {
  readonly #bytesMax: number
  readonly #readers: ReadonlySet<Reader>
  readonly #clock: Clock
  readonly #onRoom: () => void
  /** Never less than there is, but for heartbeats: what the system has taken meanwhile is found out by `count`. */
  #sum = 0
  /** There was no room: somebody may have to be told when there is. */
  #wasFull = false
  /** Only while it is pressed. */
  #timer: Timer | null = null
  readonly #debts = new Map<Reader, Debt>()

  /** @param onRoom there is room again after there was none */
  constructor(bytesMax: number, readers: ReadonlySet<Reader>, clock: Clock, onRoom: () => void) {
    this.#bytesMax = bytesMax
    this.#readers = readers
    this.#clock = clock
    this.#onRoom = onRoom
  }

  /** What is left of the bound; below 0 when a single large message, or what was under way, went beyond it. */
  get roomBytes(): number {
    return this.#bytesMax - this.#sum
  }

  /** A connection that has as much unread is not served. */
  get shareBytes(): number {
    return Math.max(0, this.roomBytes / 8)
  }

  get #isPressed(): boolean {
    return this.roomBytes < this.#bytesMax / 8
  }

  add(bytes: number): void {
    this.#sum += bytes
    if (this.#isPressed) {
      if (this.roomBytes <= 0) this.#wasFull = true
      this.#timer ??= this.#clock.after(roundMs, () => this.#round())
    } else if (this.#wasFull) this.#tellRoom()
  }

  /** A reader is gone, and its bytes have been taken off the sum. */
  gone(reader: Reader): void {
    this.#debts.delete(reader)
  }

  /** Nobody is cut off any more. */
  stop(): void {
    this.#timer?.cancel()
    this.#timer = null
  }

  #round(): void {
    this.#timer = null
    for (const reader of this.#readers) reader.count()
    if (!this.#isPressed) {
      this.#debts.clear()
      return
    }
    this.#cutOff(this.#late())
    this.#timer ??= this.#clock.after(roundMs, () => this.#round())
    if (this.#wasFull && this.roomBytes > 0) this.#tellRoom()
  }

  /** Those that did not read what waited for them in time, the largest first. */
  #late(): Reader[] {
    const late: Reader[] = []
    for (const reader of this.#readers) {
      const { sentBytes, unreadBytes } = reader
      const debt = this.#debts.get(reader)
      if (debt === undefined) this.#debts.set(reader, { sentBytes, rounds: 0 })
      else if (sentBytes - unreadBytes >= debt.sentBytes) {
        debt.sentBytes = sentBytes
        debt.rounds = 0
      } else if (++debt.rounds >= roundsMax && !reader.isEnding) late.push(reader)
    }
    return late.sort((a, b) => b.unreadBytes - a.unreadBytes)
  }

  #cutOff(late: readonly Reader[]): void {
    let leavingBytes = 0
    for (const { isEnding, unreadBytes } of this.#readers) if (isEnding) leavingBytes += unreadBytes
    for (const reader of late) {
      if (this.roomBytes + leavingBytes >= this.#bytesMax / 8) return
      leavingBytes += reader.unreadBytes
      const what = `${reader.unreadBytes} bytes of answers were not read in ${roundsMax} s`
      reader.close(
        new MqError('SLOW_CONSUMER', `${what}, while all connections have ${this.#sum} of ${this.#bytesMax}`),
      )
    }
  }

  #tellRoom(): void {
    this.#wasFull = false
    this.#onRoom()
  }
}

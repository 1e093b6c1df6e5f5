/**
 * What the clients of a crash loop know for sure, and what must therefore hold. It asserts
 *
 *   lost         a confirmed message arrives at last, and what has arrived stays until it was acked
 *   resurrected  nothing is leased after the lease whose ack was confirmed
 *   refused      what was definitely refused never arrives
 *   invented     what arrives was sent, byte for byte
 *   twice        one message has one id, and one id one message, however often its send was tried again
 *   lease        one lease hands a message out once, and a crash is no failed delivery
 *
 * It does not assert order, nor that a send of unknown outcome arrives or does not.
 */
import { MqError } from '../../src/errors.ts'
import { decodeReceipt } from '../../src/client/delivery-receipt.ts'

export type Violation = 'lost' | 'resurrected' | 'refused' | 'invented' | 'twice' | 'lease'

interface Lease {
  readonly epoch: number
  readonly number: number
}

interface Sent {
  state: 'pending' | 'confirmed' | 'refused' | 'unknown'
  /** From its receipt or from its first delivery. */
  id: string | null
  readonly leases: Lease[]
  /** The lease through which an ack was confirmed. */
  acked: Lease | null
  ackMayBeDone: boolean
}

export interface DeliveredMessage {
  readonly id: string
  readonly body: Uint8Array
  readonly receipt: string
  readonly deliveryCount: number
}

const paddingBytesMax = 600
/** Violations that are kept in words; all are counted. */
const wordsMax = 20

export class History {
  readonly counts = {
    confirmedSends: 0,
    refusedSends: 0,
    unknownSends: 0,
    confirmedAcks: 0,
    refusedAcks: 0,
    unknownAcks: 0,
    deliveries: 0,
    redeliveries: 0,
  }
  readonly violations: Record<Violation, number> = {
    lost: 0,
    resurrected: 0,
    refused: 0,
    invented: 0,
    twice: 0,
    lease: 0,
  }
  readonly words: string[] = []
  /** Called after each confirm of a send or an ack. */
  onConfirm: () => void = () => undefined
  /** By the number in the body. */
  readonly #sent: Sent[] = []
  readonly #byId = new Map<string, number>()

  get violated(): boolean {
    return Object.values(this.violations).some((count) => count > 0)
  }

  /** @returns the number of a message that is about to be sent */
  begin(): number {
    this.#sent.push({ state: 'pending', id: null, leases: [], acked: null, ackMayBeDone: false })
    return this.#sent.length - 1
  }

  confirmed(number: number, id: string | null): void {
    const sent = this.#sent[number]!
    sent.state = 'confirmed'
    this.counts.confirmedSends++
    if (id === null) this.#violate('twice', `message ${number} was confirmed without an id`)
    else this.#identify(sent, number, id)
    this.onConfirm()
  }

  /** @throws what is no MqError: a defect */
  sendFailed(number: number, error: unknown): void {
    const sent = this.#sent[number]!
    if (isUnknown(error)) {
      sent.state = 'unknown'
      this.counts.unknownSends++
      return
    }
    sent.state = 'refused'
    this.counts.refusedSends++
    if (sent.leases.length > 0)
      this.#violate('refused', `message ${number} came, and then its send was refused`)
  }

  /** @returns a function for each outcome of its ack; null when it is nobody's message */
  delivered(message: DeliveredMessage): { acked: () => void; ackFailed: (error: unknown) => void } | null {
    this.counts.deliveries++
    const number = Number.parseInt(Buffer.from(message.body).toString('latin1', 0, 12), 10)
    const sent = this.#sent[number]
    if (sent === undefined || !bodyOf(number).equals(message.body)) {
      this.#violate('invented', `${message.id} holds what was never sent (number ${number})`)
      return null
    }
    const receipt = decodeReceipt(message.receipt)
    if (receipt === null) {
      this.#violate('lease', `${message.id} has the receipt '${message.receipt}'`)
      return null
    }
    const lease: Lease = { epoch: receipt.leaseEpoch, number: receipt.lease }
    this.#identify(sent, number, message.id)
    if (sent.state === 'refused') this.#violate('refused', `${message.id} (${number}) was refused, and came`)
    if (sent.leases.some((other) => compare(other, lease) === 0)) {
      this.#violate(
        'lease',
        `${message.id} (${number}) came twice under lease ${lease.epoch}/${lease.number}`,
      )
    }
    if (message.deliveryCount !== 1) {
      this.#violate(
        'lease',
        `${message.id} (${number}) has delivery count ${message.deliveryCount} after a crash`,
      )
    }
    if (sent.leases.length > 0) this.counts.redeliveries++
    sent.leases.push(lease)
    if (sent.acked !== null && compare(lease, sent.acked) > 0) this.#resurrected(number, sent, lease)
    return {
      acked: () => {
        this.counts.confirmedAcks++
        if (sent.acked !== null)
          this.#violate('lease', `${message.id} (${number}) was acked under two leases`)
        sent.acked = lease
        for (const other of sent.leases) if (compare(other, lease) > 0) this.#resurrected(number, sent, other)
        this.onConfirm()
      },
      ackFailed: (error) => {
        if (isUnknown(error)) {
          sent.ackMayBeDone = true
          this.counts.unknownAcks++
        } else this.counts.refusedAcks++
      },
    }
  }

  /** To be asked once the queue is empty: is anything gone that should not be? */
  checkDrained(): void {
    this.#sent.forEach((sent, number) => {
      const name = `message ${number} (${sent.id ?? 'no id'})`
      if (sent.state === 'pending') this.#violate('lost', `${name}: its send never ended`)
      else if (sent.state === 'confirmed' && sent.leases.length === 0) {
        this.#violate('lost', `${name} was confirmed and never came`)
      } else if (sent.leases.length > 0 && sent.acked === null && !sent.ackMayBeDone) {
        this.#violate('lost', `${name} came, was never acked, and is gone`)
      }
    })
  }

  #identify(sent: Sent, number: number, id: string): void {
    if (sent.id !== null && sent.id !== id) {
      this.#violate('twice', `message ${number} is ${sent.id} and ${id}`)
    }
    const other = this.#byId.get(id)
    if (other !== undefined && other !== number)
      this.#violate('twice', `${id} is message ${other} and ${number}`)
    sent.id ??= id
    this.#byId.set(id, number)
  }

  #resurrected(number: number, sent: Sent, lease: Lease): void {
    const { epoch, number: acked } = sent.acked!
    this.#violate(
      'resurrected',
      `message ${number} (${sent.id}) was acked under lease ${epoch}/${acked}, and came under ${lease.epoch}/${lease.number}`,
    )
  }

  #violate(what: Violation, words: string): void {
    this.violations[what]++
    if (this.words.length < wordsMax) this.words.push(`${what}: ${words}`)
  }
}

/** A message's whole body follows from its number. */
export function bodyOf(number: number): Buffer {
  return Buffer.from(`${number}:`.padEnd(8 + ((number * 7919) % paddingBytesMax), '.'))
}

function isUnknown(error: unknown): boolean {
  if (!(error instanceof MqError)) throw error
  return error.outcome === 'unknown'
}

/** Leases of one partition, in the order they were granted. */
function compare(a: Lease, b: Lease): number {
  return a.epoch - b.epoch || a.number - b.number
}

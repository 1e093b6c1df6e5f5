/**
 * What every client saw, in the order in which it happened: each operation with its begin, its end and its outcome.
 * The world runs one step at a time, so the place in this list is an order in time that everybody agrees on.
 */
import { hashBytes } from '../../src/sim/bytes.ts'
import { MqError } from '../../src/errors.ts'

/** failed: it definitely did nothing. unknown: it may have done it, or may yet do it. */
export type OperationOutcome = 'pending' | 'ok' | 'failed' | 'unknown'

export interface Operation {
  readonly number: number
  readonly client: string
  readonly what: string
  readonly beginMs: number
  endMs: number
  outcome: OperationOutcome
}

const tailLines = 80

export class History {
  readonly #nowMs: () => number
  /** Told every line; for `--verbose`. */
  log: ((line: string) => void) | undefined
  #count = 0
  #low = 0x2545f491
  #high = 0x6c8e9cf5
  #tail: string[] = []
  readonly #pending = new Set<Operation>()
  readonly counts = new Map<string, number>()

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs
  }

  get operations(): number {
    return this.#count
  }

  /** Stands for all that clients saw. */
  get hash(): string {
    const hex = (lane: number): string => (lane >>> 0).toString(16).padStart(8, '0')
    return hex(this.#high) + hex(this.#low)
  }

  /** The last lines, for the report of a violation. */
  get tail(): readonly string[] {
    return this.#tail.slice(-tailLines)
  }

  /** Operations without an end whose client still lives. */
  get pending(): ReadonlySet<Operation> {
    return this.#pending
  }

  begin(client: string, what: string): Operation {
    const operation: Operation = {
      number: ++this.#count,
      client,
      what,
      beginMs: this.#nowMs(),
      endMs: NaN,
      outcome: 'pending',
    }
    this.#pending.add(operation)
    this.note(`${client} #${operation.number} ${what} …`)
    return operation
  }

  /** @param code of the error, or '' */
  end(operation: Operation, outcome: 'ok' | 'failed' | 'unknown', code: string, saw: string): void {
    operation.endMs = this.#nowMs()
    operation.outcome = outcome
    this.#pending.delete(operation)
    const kind = operation.what.slice(0, operation.what.indexOf(' '))
    const name = code === '' ? `${kind} ${outcome}` : `${kind} ${outcome} ${code}`
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    this.note(`${operation.client} #${operation.number} ${kind} ${outcome} ${code} ${saw}`)
  }

  /** The process of a client is gone: what it was doing has no end, and may yet be done. */
  clientCrashed(client: string): void {
    for (const operation of this.#pending) {
      if (operation.client !== client) continue
      operation.outcome = 'unknown'
      this.#pending.delete(operation)
    }
    this.note(`${client} crashed`)
  }

  /** Anything else that belongs into the story. */
  note(line: string): void {
    const text = `${this.#nowMs()} ${line}`
    const bytes = Buffer.from(text, 'latin1')
    this.#low = hashBytes(bytes, this.#low)
    this.#high = hashBytes(bytes, this.#high)
    this.log?.(text)
    this.#tail.push(text)
    if (this.#tail.length > 4 * tailLines) this.#tail = this.#tail.slice(-tailLines)
  }
}

/** What an error says of the operation that ended with it. */
export function outcomeOf(error: unknown): { outcome: 'failed' | 'unknown'; code: string } {
  if (!(error instanceof MqError)) throw error
  return { outcome: error.outcome === 'failed' ? 'failed' : 'unknown', code: error.code }
}

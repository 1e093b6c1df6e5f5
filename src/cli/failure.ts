/** What a command that did not succeed says, and the code it exits with. */
import { constants } from 'node:os'
import { CommanderError } from 'commander'
import { errorTable, MqError, type MqErrorCode } from '../errors.ts'
import { ReaderGone, StreamFailed } from './output.ts'

/** What failed and what to do about it, in one line. */
export function failureLine(error: unknown): string {
  if (error instanceof StreamFailed || error instanceof Interrupted) return `mq-broker: ${error.message}`
  if (!(error instanceof MqError)) {
    return `mq-broker: unexpected failure: ${error instanceof Error ? error.message : String(error)}`
  }
  const what = /[.!?]$/.test(error.message) ? error.message : `${error.message}.`
  return `mq-broker: ${what} ${adviceOf(error)}(${error.code})`
}

/** A sentence and a space, or nothing. */
function adviceOf({ code, outcome }: MqError): string {
  const isUnanswered = code === 'TIMEOUT' || code === 'ABORTED' || code === 'DISCONNECTED'
  if (isUnanswered && outcome === 'unknown') return 'The broker may have done it. '
  // The general advice for a time-out is for programmers.
  if (code === 'TIMEOUT' || code === 'ABORTED') return outcome === 'failed' ? 'Nothing was done. ' : ''
  return `${ownAdvice[code] ?? errorTable[code].advice} `
}

/** Where the general advice is none for somebody with a command line. */
const ownAdvice: Partial<Record<MqErrorCode, string>> = {
  DISCONNECTED:
    'Is a broker running there? Start one with `mq-broker start`, or name another with --server or a context.',
  BAD_MAGIC: 'Name the address of a broker: what it says of --listen, not --http.',
}

/** Ended by a signal, with something to say about it. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted'
  readonly exitCode: number

  constructor(signal: 'SIGINT' | 'SIGTERM', message: string) {
    super(message)
    this.exitCode = 128 + constants.signals[signal]
  }
}

export function exitCodeOf(error: unknown): number {
  // Wrong usage; asking for help or the version is none.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof ReaderGone) return 0
  if (error instanceof Interrupted) return error.exitCode
  // A value that cannot be meant is wrong usage wherever it was written: flag, environment or file.
  if (error instanceof MqError && error.code === 'INVALID_OPTION') return 2
  return 1
}

/** What a command that did not succeed says, and the code it exits with. */
import { CommanderError } from 'commander'
import { errorTable, MqError } from '../errors.ts'
import { ReaderGone } from './output.ts'

/** What failed and what to do about it, in one line. */
export function failureLine(error: unknown): string {
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
  return `${errorTable[code].advice} `
}

export function exitCodeOf(error: unknown): number {
  // Wrong usage; asking for help or the version is none.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof ReaderGone) return 0
  // A value that cannot be meant is wrong usage wherever it was written: flag, environment or file.
  if (error instanceof MqError && error.code === 'INVALID_OPTION') return 2
  return 1
}

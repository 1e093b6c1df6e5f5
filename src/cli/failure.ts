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
  // The general advice for a time-out is for programmers.
  const timedOut = error.code === 'TIMEOUT' || error.code === 'ABORTED'
  const advice = timedOut
    ? error.outcome === 'unknown'
      ? doneOrNot
      : 'Nothing was done.'
    : errorTable[error.code].advice
  return `mq-broker: ${what} ${advice} (${error.code})`
}

const doneOrNot = 'The broker may have done it.'

export function exitCodeOf(error: unknown): number {
  // Wrong usage; asking for help or the version is none.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof ReaderGone) return 0
  // A value that cannot be meant is wrong usage wherever it was written: flag, environment or file.
  if (error instanceof MqError && error.code === 'INVALID_OPTION') return 2
  return 1
}

/** Ways in which a call ends without its answer. `mayBeDone`: it was given to a broker, so nobody can say. */
import { MqError, type MqErrorCode, type Outcome } from '../errors.ts'

const outcomeOf = (mayBeDone: boolean): Outcome => (mayBeDone ? 'unknown' : 'failed')

export function timedOut(what: string, mayBeDone: boolean): MqError {
  const why = mayBeDone
    ? 'no broker has answered within its time'
    : 'it could not be given to a broker within its time'
  return new MqError('TIMEOUT', `${what}: ${why}`, { outcome: outcomeOf(mayBeDone) })
}

export function aborted(what: string, signal: AbortSignal | undefined, mayBeDone: boolean): MqError {
  return new MqError('ABORTED', `${what} was aborted`, {
    outcome: outcomeOf(mayBeDone),
    cause: signal?.reason,
  })
}

/** Why a client lets go of everything at once: it was closed, or it is offline and was told to fail then. */
export type Abandonment = 'CLOSED' | 'DISCONNECTED'

export function abandoned(what: string, why: Abandonment, mayBeDone: boolean): MqError {
  const message = why === 'CLOSED' ? `${what}: the client was closed` : `${what}: no broker is connected`
  return new MqError(why, message, { outcome: outcomeOf(mayBeDone) })
}

/** The connection has ended before the answer came, and the request is not one to be sent twice. */
export function answerLost(what: string): MqError {
  const message = `${what}: the connection was lost before the answer came`
  return new MqError('DISCONNECTED', message, { outcome: 'unknown' })
}

/** Whether a refusal with this code may come after the broker has begun to do what was asked. */
export function mayHaveBegun(code: MqErrorCode): boolean {
  return code === 'INTERNAL' || code === 'STORAGE_FAILED'
}

/** The same refusal, said of something that was not asked for yet. */
export function failedBefore(error: MqError): MqError {
  const { code, message, details, cause } = error
  return new MqError(code, message, { outcome: 'failed', details, cause })
}

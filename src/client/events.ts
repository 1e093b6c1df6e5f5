import type { MqError } from '../errors.ts'

/** The events of a client, with what their listeners are given. */
export interface ClientEvents {
  /** The connection has ended, by an error or in order. What is unanswered waits for the next one. */
  disconnect: [error: MqError | undefined]
  /** The next attempt follows in `delayMs`. `attempt` counts from 1 since a connection last worked. */
  reconnecting: [next: { attempt: number; delayMs: number }]
  /** There is a connection again, and what was unanswered has been sent again. */
  reconnect: []
  /**
   * Something went wrong that no call reports: the broker refused the connection, or a delivery's bytes were damaged
   * (CORRUPT_BATCH; it is delivered again once its lease has ended).
   */
  error: [error: MqError]
  /** The broker cut the connection because its answers were not read in time. */
  slowConsumer: [error: MqError]
  /** The client was closed. */
  close: []
}

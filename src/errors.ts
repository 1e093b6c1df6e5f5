/**
 * Every way to be refused. `retryable`: the same call may succeed later, unchanged. `closes`: the connection can't
 * be trusted any more and ends after the error was sent. `advice` is the sentence documentation and logs use.
 */
export const errorTable = {
  // The stream itself
  BAD_MAGIC: {
    retryable: false,
    closes: true,
    advice: 'Connect with an mq-broker client; TLS and HTTP are not spoken on this port.',
  },
  BAD_FRAME: {
    retryable: false,
    closes: true,
    advice: 'Send one msgpack array in each frame, with nothing behind it.',
  },
  FRAME_TOO_LARGE: {
    retryable: false,
    closes: true,
    advice: 'Stay below the frame limit told in the handshake.',
  },
  FRAME_TIMEOUT: { retryable: true, closes: true, advice: 'Send the rest of a frame within 10 seconds.' },
  HANDSHAKE_TIMEOUT: { retryable: true, closes: true, advice: 'Finish the handshake within 10 seconds.' },
  DECODE_LIMIT: {
    retryable: false,
    closes: true,
    advice: 'Nest at most 16 deep and declare no more items than follow.',
  },
  UNSUPPORTED_TYPE: {
    retryable: false,
    closes: true,
    advice: 'Use only msgpack nil, booleans, numbers, strings, bin, arrays and maps.',
  },
  UNSUPPORTED_VERSION: {
    retryable: false,
    closes: true,
    advice: 'Use a client and a broker that share a protocol version.',
  },
  WRONG_CLUSTER: { retryable: false, closes: true, advice: 'This address belongs to another cluster.' },
  SESSION_REPLACED: {
    retryable: false,
    closes: true,
    advice: 'The same client has connected again; this connection is the older one.',
  },
  // Who and whether
  UNAUTHENTICATED: { retryable: false, closes: true, advice: 'Finish the handshake first.' },
  AUTH_FAILED: { retryable: false, closes: true, advice: 'Check user and password.' },
  FORBIDDEN: { retryable: false, closes: false, advice: 'Ask the operator for the permission.' },
  TOO_MANY_CONNECTIONS: {
    retryable: true,
    closes: true,
    advice: 'Close connections that are not used, or raise --max-connections.',
  },
  QUOTA_EXCEEDED: {
    retryable: false,
    closes: false,
    advice: 'Delete what is not used, or ask the operator for more.',
  },
  // The request
  UNSUPPORTED: {
    retryable: false,
    closes: false,
    advice: 'This version of the broker does not do that yet.',
  },
  INVALID_FIELD: { retryable: false, closes: false, advice: 'Correct the field that the message names.' },
  INVALID_NAME: {
    retryable: false,
    closes: false,
    advice: "Use 1-255 of A-Z a-z 0-9 . _ -, a letter or digit first, no '..'.",
  },
  DUPLICATE_REQUEST_ID: {
    retryable: false,
    closes: true,
    advice: 'Give each request in flight an id of its own.',
  },
  CORRUPT_BATCH: {
    retryable: true,
    closes: false,
    advice: 'The bytes changed on their way: send them again.',
  },
  MESSAGE_TOO_LARGE: {
    retryable: false,
    closes: false,
    advice: "Send a smaller message, or raise the queue's maxMessageBytes.",
  },
  CANCELLED: { retryable: true, closes: false, advice: 'The caller gave the request up.' },
  // Queues
  QUEUE_NOT_FOUND: { retryable: false, closes: false, advice: 'Create the queue first, or check its name.' },
  QUEUE_EXISTS: {
    retryable: false,
    closes: false,
    advice: 'Use the options the queue has, or another name.',
  },
  NO_DEAD_LETTER_QUEUE: {
    retryable: false,
    closes: false,
    advice: "Give the queue a 'deadLetterQueue' first.",
  },
  QUEUE_DELETED: { retryable: false, closes: false, advice: 'The queue was deleted; look it up again.' },
  // Producers and leases
  OUT_OF_ORDER_SEQUENCE: {
    retryable: false,
    closes: false,
    advice: 'Give each batch of a producer a higher sequence than the one before.',
  },
  PRODUCER_FENCED: {
    retryable: false,
    closes: false,
    advice: 'A newer instance of this producer has taken over.',
  },
  DUPLICATE_MISMATCH: {
    retryable: false,
    closes: false,
    advice: 'A sequence was used again for other bytes.',
  },
  UNKNOWN_PRODUCER: {
    retryable: false,
    closes: false,
    advice: 'The broker has forgotten this producer: it cannot tell whether the batch is new. Open another.',
  },
  REFUSED_BEFORE: {
    retryable: true,
    closes: false,
    advice: 'The broker refused this request when it first came; nothing was done.',
  },
  LEASE_LOST: {
    retryable: false,
    closes: false,
    advice: 'The lease has ended: the message may be delivered to somebody else.',
  },
  // The cluster
  NOT_LEADER: { retryable: true, closes: false, advice: 'Look the queue up again and ask its leader.' },
  STALE_EPOCH: { retryable: true, closes: false, advice: 'Look the queue up again.' },
  NOT_ENOUGH_REPLICAS: { retryable: true, closes: false, advice: 'Wait until more replicas are in sync.' },
  NODE_ID_IN_USE: { retryable: false, closes: true, advice: 'Give each node an id of its own.' },
  STOPPING: {
    retryable: true,
    closes: false,
    advice: 'The broker is stopping: ask again, there or elsewhere.',
  },
  // Room
  THROTTLED: { retryable: true, closes: false, advice: 'Slow down: wait for answers before sending more.' },
  SLOW_CONSUMER: { retryable: true, closes: true, advice: 'Read what was asked for.' },
  DISK_FULL: {
    retryable: true,
    closes: false,
    advice: 'Free space on the data volume; nothing that was confirmed is lost.',
  },
  STORAGE_FAILED: {
    retryable: false,
    closes: false,
    advice: 'The disk failed; the broker stops so that it cannot lie.',
  },
  CORRUPT_LOG: {
    retryable: false,
    closes: false,
    advice: 'What is stored cannot be read any more; the message says what.',
  },
  // The client's own
  TIMEOUT: {
    retryable: true,
    closes: false,
    advice: "See 'outcome': 'unknown' means the broker may have done it.",
  },
  ABORTED: { retryable: false, closes: false, advice: "The caller's signal ended the call; see 'outcome'." },
  DISCONNECTED: { retryable: true, closes: false, advice: 'No broker answers at the given addresses.' },
  CLOSED: { retryable: false, closes: false, advice: 'The client was closed.' },
  // The command and the start
  ADDRESS_IN_USE: {
    retryable: false,
    closes: false,
    advice: 'Another process listens there: stop it, or choose another port.',
  },
  ADDRESS_NOT_AVAILABLE: { retryable: false, closes: false, advice: 'This machine has no such address.' },
  DATA_DIR_LOCKED: { retryable: false, closes: false, advice: 'Another broker uses this data directory.' },
  DATA_DIR_NOT_WRITABLE: {
    retryable: false,
    closes: false,
    advice: 'Make the data directory writable, or choose another.',
  },
  NEWER_DATA_FORMAT: {
    retryable: false,
    closes: false,
    advice: 'The data was written by a newer version: run that.',
  },
  INVALID_OPTION: { retryable: false, closes: false, advice: 'See --help for options and limits.' },
  INTERNAL: {
    retryable: false,
    closes: true,
    advice: 'A defect of the broker: please report it with its log.',
  },
} as const satisfies Record<string, { retryable: boolean; closes: boolean; advice: string }>

/** The closed list of codes. */
export type MqErrorCode = keyof typeof errorTable

/** What is known of a call that did not succeed: nothing was done, or nobody can say. */
export type Outcome = 'failed' | 'unknown'

export interface MqErrorOptions {
  outcome?: Outcome | undefined
  details?: Readonly<Record<string, unknown>> | undefined
  cause?: unknown
}

/** The one error type. A broken invariant is not an `MqError`: it ends the process. */
export class MqError extends Error {
  override readonly name = 'MqError'
  readonly code: MqErrorCode
  /** The same call may succeed later, unchanged. */
  readonly retryable: boolean
  readonly outcome?: Outcome | undefined
  readonly details?: Readonly<Record<string, unknown>> | undefined

  constructor(code: MqErrorCode, message: string, options: MqErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.retryable = errorTable[code].retryable
    if (options.outcome !== undefined) this.outcome = options.outcome
    if (options.details !== undefined) this.details = options.details
  }
}

export function isErrorCode(code: string): code is MqErrorCode {
  return Object.hasOwn(errorTable, code)
}

/** A broken invariant: this is our defect, and going on could lose data, so it is never caught. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError'
}

export function invariant(holds: boolean, what: string): asserts holds {
  if (!holds) throw new InvariantError(what)
}

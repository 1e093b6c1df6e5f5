/** Queue options: declared once, with limits and defaults. What is not built yet is refused, never ignored. */
import { z } from 'zod'
import { errorTable, MqError } from '../errors.ts'
import {
  limits,
  type Backoff,
  type EffectiveBackoff,
  type EffectiveQueueOptions,
  type QueueOptions,
} from '../types.ts'
import { isQueueName } from '../wire/codec.ts'

/** Each kind says in one sentence what it takes, whatever is wrong. */
const integer = (min: number, max: number): z.ZodNumber => {
  const range = `must be an integer from ${min.toLocaleString('en')} to ${max.toLocaleString('en')}`
  return z.number(range).int(range).min(min, range).max(max, range)
}
const oneOf = <const T extends string>(...values: T[]) =>
  z.enum(values, `must be ${values.slice(0, -1).join(', ')} or ${values.at(-1)}`)
const queueName = 'must be the name of a queue'
const jitter = 'must be a number from 0 to 1'

/** Those this version carries out, and their limits. */
const schema = z.strictObject({
  partitions: integer(1, limits.partitionsMax).optional(),
  replicas: integer(1, 7).optional(),
  minInSync: integer(1, 7).optional(),
  confirm: oneOf('replicas', 'leader', 'none').optional(),
  storage: oneOf('disk', 'memory').optional(),
  visibilityTimeoutMs: integer(1, limits.visibilityTimeoutMsMax).optional(),
  maxMessageBytes: integer(1, limits.messageBytesMax).optional(),
  delayMs: integer(0, limits.delayMsMax).optional(),
  maxDeliveries: integer(1, limits.maxDeliveriesMax).optional(),
  deadLetterQueue: z
    .string(queueName)
    .refine(isQueueName, { error: `${queueName}: ${errorTable.INVALID_NAME.advice}` })
    .optional(),
  backoff: z
    .strictObject(
      {
        type: oneOf('fixed', 'exponential'),
        delayMs: integer(1, limits.delayMsMax),
        maxMs: integer(1, limits.delayMsMax).optional(),
        jitter: z.number(jitter).min(0, jitter).max(1, jitter).optional(),
      },
      {
        error: ({ code }) =>
          code === 'invalid_type' ? 'must be an object { type, delayMs, maxMs, jitter }' : undefined,
      },
    )
    .refine(({ delayMs, maxMs = delayMs }) => maxMs >= delayMs, {
      path: ['maxMs'],
      error: 'must not be below delayMs',
    })
    .optional(),
})

/** Known to the contract, not yet to this version. */
const later = new Set([
  'ttlMs',
  'dedupeWindowMs',
  'retainAckedMs',
  'maxMessages',
  'maxBytes',
  'overflow',
  'fairness',
  'singleActiveConsumer',
  'orderedBatch',
])

/**
 * Checks what a client asks for queue `name`; nil values count as absent.
 * @throws MqError INVALID_FIELD naming the option, UNSUPPORTED
 */
export function parseQueueOptions(name: string, given: Record<string, unknown>): QueueOptions {
  const set = withoutNil(given)
  const { backoff } = set
  if (typeof backoff === 'object' && !Array.isArray(backoff)) set['backoff'] = withoutNil(backoff as object)
  for (const option of Object.keys(set)) {
    if (later.has(option)) throw new MqError('UNSUPPORTED', `the queue option ${option} is not built yet`)
  }
  const parsed = schema.safeParse(set)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const isUnknown = issue.code === 'unrecognized_keys'
    const field = [...issue.path, ...(isUnknown ? issue.keys.slice(0, 1) : [])].join('.')
    const why = isUnknown ? 'there is no such option' : issue.message
    throw new MqError('INVALID_FIELD', `queue option ${field}: ${why}`, { details: { field } })
  }
  const options = parsed.data
  if (options.confirm === 'none') throw new MqError('UNSUPPORTED', "confirm 'none' is not built yet")
  if (options.storage === 'memory') throw new MqError('UNSUPPORTED', "storage 'memory' is not built yet")
  if ((options.replicas ?? 1) > 1 || (options.minInSync ?? 1) > 1) {
    throw new MqError('UNSUPPORTED', 'this broker is a single node: replicas and minInSync can only be 1')
  }
  return withDeadLetterQueue(name, options)
}

/** A limit of deliveries implies a queue for what exceeds it. */
function withDeadLetterQueue(name: string, options: QueueOptions): QueueOptions {
  const { maxDeliveries, deadLetterQueue } = options
  const invalid = (why: string): MqError =>
    new MqError('INVALID_FIELD', `queue option deadLetterQueue: ${why}`, {
      details: { field: 'deadLetterQueue' },
    })
  if (deadLetterQueue === name) throw invalid('must be another queue')
  if (maxDeliveries === undefined || deadLetterQueue !== undefined) return options
  const implied = `${name}.dlq`
  if (!isQueueName(implied)) throw invalid(`must be set, since '${implied}' is no name for a queue`)
  return { ...options, deadLetterQueue: implied }
}

function withoutNil(map: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(map).filter(([, value]) => value !== null && value !== undefined))
}

export function effectiveOptions(options: QueueOptions): EffectiveQueueOptions {
  return {
    partitions: options.partitions ?? 1,
    replicas: options.replicas ?? 1,
    minInSync: options.minInSync ?? 1,
    confirm: options.confirm ?? 'replicas',
    storage: options.storage ?? 'disk',
    visibilityTimeoutMs: options.visibilityTimeoutMs ?? 30_000,
    maxMessageBytes: options.maxMessageBytes ?? 1 << 20,
    delayMs: options.delayMs ?? 0,
    backoff: options.backoff === undefined ? null : effectiveBackoff(options.backoff),
    maxDeliveries: options.maxDeliveries ?? null,
    deadLetterQueue: options.deadLetterQueue ?? null,
  }
}

function effectiveBackoff({ type, delayMs, maxMs, jitter }: Backoff): EffectiveBackoff {
  return { type, delayMs, maxMs: maxMs ?? limits.delayMsMax, jitter: jitter ?? 0 }
}

/** Equal in effect: setting a default is as leaving it out. */
export function sameOptions(a: QueueOptions, b: QueueOptions): boolean {
  const [x, y] = [effectiveOptions(a), effectiveOptions(b)]
  return (Object.keys(x) as (keyof EffectiveQueueOptions)[]).every((key) => equal(x[key], y[key]))
}

function equal(a: EffectiveQueueOptions[keyof EffectiveQueueOptions], b: typeof a): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return a === b
  return a.type === b.type && a.delayMs === b.delayMs && a.maxMs === b.maxMs && a.jitter === b.jitter
}

/** What makes a queue what it is: its messages were placed and confirmed by it. */
const fixed = ['partitions', 'replicas', 'minInSync', 'storage'] as const

/**
 * The options of a queue after a change; nil brings a default back.
 * @throws MqError INVALID_FIELD naming the option; UNSUPPORTED: not built yet, or not to be changed
 */
export function changeQueueOptions(
  name: string,
  before: QueueOptions,
  change: Record<string, unknown>,
): QueueOptions {
  const options = parseQueueOptions(name, { ...before, ...change })
  const [old, now] = [effectiveOptions(before), effectiveOptions(options)]
  for (const option of fixed) {
    if (old[option] === now[option]) continue
    throw new MqError(
      'UNSUPPORTED',
      `${option} is ${old[option]} and cannot be changed: create another queue`,
      { details: { field: option } },
    )
  }
  return options
}

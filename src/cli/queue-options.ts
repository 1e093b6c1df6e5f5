/** The options of a queue as flags of `queue create`: what they are called, how they are written, what they mean. */
import { Option } from 'commander'
import { MqError } from '../errors.ts'
import type { QueueOptions, QueueOptionsChange } from '../types.ts'
import { count, duration, flagOption, fraction, name, oneOf, type Reader, size } from './options.ts'

interface QueueFlag {
  /** The option it sets; `backoff` is put together from several flags. */
  readonly sets: Exclude<keyof QueueOptions, 'backoff'>
  /** Absent for a switch. */
  readonly reader?: Reader<unknown>
  readonly help: string
}

/** Limits are told here and checked by the broker. */
const flags: Readonly<Record<`--${string}`, QueueFlag>> = {
  '--partitions': { sets: 'partitions', reader: count, help: 'partitions (default 1; 1 to 1,024)' },
  '--replicas': { sets: 'replicas', reader: count, help: 'copies of each partition (default 1; 1 to 7)' },
  '--min-in-sync': {
    sets: 'minInSync',
    reader: count,
    help: 'copies that must be up to date for a send (default: the majority)',
  },
  '--confirm': {
    sets: 'confirm',
    reader: oneOf('replicas', 'leader', 'none'),
    help: 'who has a message on disk before its send is confirmed (default replicas)',
  },
  '--storage': {
    sets: 'storage',
    reader: oneOf('disk', 'memory'),
    help: 'where messages are (default disk)',
  },
  '--visibility-timeout': {
    sets: 'visibilityTimeoutMs',
    reader: duration,
    help: 'how long a delivery is leased (default 30s; up to 12h)',
  },
  '--max-deliveries': {
    sets: 'maxDeliveries',
    reader: count,
    help: 'failed deliveries until a message goes to the dead-letter queue (default: no limit; 1 to 10,000)',
  },
  '--dead-letter-queue': {
    sets: 'deadLetterQueue',
    reader: name,
    help: 'where such messages go (default NAME.dlq)',
  },
  '--max-message-bytes': {
    sets: 'maxMessageBytes',
    reader: size,
    help: 'largest message, body, key and headers together (default 1MiB; up to 16MiB)',
  },
  '--ttl': {
    sets: 'ttlMs',
    reader: duration,
    help: 'age at which messages are dropped (default: none; up to 365d)',
  },
  '--delay': { sets: 'delayMs', reader: duration, help: 'time until a message can be received (up to 365d)' },
  '--dedupe-window': {
    sets: 'dedupeWindowMs',
    reader: duration,
    help: 'how long dedupe ids are remembered (default 5m; up to 7d)',
  },
  '--retain-acked': {
    sets: 'retainAckedMs',
    reader: duration,
    help: 'how long acked messages are kept (default 0; up to 365d)',
  },
  '--max-messages': {
    sets: 'maxMessages',
    reader: count,
    help: 'messages that the queue holds (default: no limit)',
  },
  '--max-bytes': { sets: 'maxBytes', reader: size, help: 'bytes that the queue holds (default: no limit)' },
  '--overflow': {
    sets: 'overflow',
    reader: oneOf('reject', 'dropOldest'),
    help: 'what a full queue does (default reject)',
  },
  '--fairness': { sets: 'fairness', help: 'take turns between keys' },
  '--single-active-consumer': { sets: 'singleActiveConsumer', help: 'one consumer at a time' },
  '--ordered-batch': { sets: 'orderedBatch', help: 'keep the order within batches of a key' },
}

const entries = Object.entries(flags) as [`--${string}`, QueueFlag][]

export function queueFlagOptions(): Option[] {
  return [
    ...entries.map(([flag, { reader, help }]) =>
      reader === undefined ? new Option(flag, help) : flagOption(flag, reader, help),
    ),
    flagOption(
      '--backoff',
      oneOf('fixed', 'exponential'),
      'how the pause after a failed delivery grows (default: no pause)',
    ),
    flagOption('--backoff-delay', duration, 'the first pause; needed by --backoff'),
    flagOption('--backoff-max', duration, 'the longest pause'),
    flagOption('--backoff-jitter', fraction, 'share of the pause that is left to chance, 0 to 1'),
  ]
}

/** The queue options among the values of `queue create`'s flags. Only what was given is set. */
export function queueOptionsOf(given: Readonly<Record<string, unknown>>): QueueOptions {
  const options: Record<string, unknown> = {}
  for (const [flag, { sets }] of entries) {
    const value = given[attribute(flag)]
    if (value !== undefined) options[sets] = value
  }
  const { backoff, backoffDelay, backoffMax, backoffJitter } = given
  if (backoff !== undefined) {
    if (backoffDelay === undefined)
      throw new MqError('INVALID_OPTION', '--backoff needs --backoff-delay as well')
    options.backoff = {
      type: backoff,
      delayMs: backoffDelay,
      ...(backoffMax === undefined ? {} : { maxMs: backoffMax }),
      ...(backoffJitter === undefined ? {} : { jitter: backoffJitter }),
    }
  } else if (backoffDelay !== undefined || backoffMax !== undefined || backoffJitter !== undefined) {
    throw new MqError(
      'INVALID_OPTION',
      'the other --backoff options need --backoff fixed or --backoff exponential',
    )
  }
  return options
}

/** `--unset OPTION` of `queue edit`, any number of times. */
export function unsetOption(): Option {
  const collect = (text: string, before: readonly string[] = []) => {
    if (optionOf(text) !== undefined) return [...before, text]
    const known = [...entries.map(([flag]) => flag.slice(2)), 'backoff'].join(', ')
    throw new MqError('INVALID_OPTION', `--unset is '${text}': it must be one of ${known}`)
  }
  const help = 'bring the default of an option back, as in --unset max-deliveries; may be repeated'
  return new Option('--unset <OPTION>', help).argParser(collect)
}

/** What `queue edit`'s flags change. */
export function queueChangeOf(given: Readonly<Record<string, unknown>>): QueueOptionsChange {
  const change: Record<string, unknown> = { ...queueOptionsOf(given) }
  for (const text of (given['unset'] ?? []) as readonly string[]) {
    const option = optionOf(text)!
    if (option in change) throw new MqError('INVALID_OPTION', `--${text} can't be set and unset at once`)
    change[option] = null
  }
  return change
}

/** The queue option that a flag, without its dashes, stands for. */
function optionOf(text: string): keyof QueueOptions | undefined {
  return text === 'backoff' ? text : entries.find(([flag]) => flag === `--${text}`)?.[1].sets
}

/** The name under which commander keeps a flag's value. */
function attribute(flag: string): string {
  return flag.slice(2).replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

/** The options of a queue as flags of `queue create`: what they are called, how they are written, what they mean. */
import { Option } from 'commander'
import { MqError } from '../errors.ts'
import { limits, type QueueOptions, type QueueOptionsChange } from '../types.ts'
import {
  count,
  duration,
  flagOption,
  fraction,
  notBuilt,
  oneOf,
  queueName,
  type Reader,
  size,
} from './options.ts'

interface QueueFlag {
  /** The option it sets; `backoff` is put together from several flags. */
  readonly sets: Exclude<keyof QueueOptions, 'backoff'>
  /** Absent for a switch. */
  readonly reader?: Reader<unknown>
  readonly help: string
  /** As `queue create` tells it. */
  readonly default?: string
  /** Nothing that `queue edit` can change. */
  readonly isFixed?: true
  /** What of it the broker refuses with UNSUPPORTED. */
  readonly notBuilt?: string
}

const year = limits.delayMsMax

const flags: Readonly<Record<`--${string}`, QueueFlag>> = {
  '--partitions': {
    sets: 'partitions',
    reader: count(1, limits.partitionsMax),
    help: 'partitions',
    default: '1',
    isFixed: true,
  },
  '--replicas': {
    sets: 'replicas',
    reader: count(1, 7),
    help: 'copies of each partition',
    default: '1',
    isFixed: true,
    notBuilt: `above 1 ${notBuilt}`,
  },
  '--min-in-sync': {
    sets: 'minInSync',
    reader: count(1, 7),
    help: 'copies that must be up to date for a send',
    default: 'the majority',
    isFixed: true,
    notBuilt: `above 1 ${notBuilt}`,
  },
  '--confirm': {
    sets: 'confirm',
    reader: oneOf('replicas', 'leader', 'none'),
    help: 'who has a message on disk before its send is confirmed',
    default: 'replicas',
    notBuilt: `none ${notBuilt}`,
  },
  '--storage': {
    sets: 'storage',
    reader: oneOf('disk', 'memory'),
    help: 'where messages are',
    default: 'disk',
    isFixed: true,
    notBuilt: `memory ${notBuilt}`,
  },
  '--visibility-timeout': {
    sets: 'visibilityTimeoutMs',
    reader: duration(1, limits.visibilityTimeoutMsMax),
    help: 'how long a delivery is leased',
    default: '30s',
  },
  '--max-deliveries': {
    sets: 'maxDeliveries',
    reader: count(1, limits.maxDeliveriesMax),
    help: 'failed deliveries until a message goes to the dead-letter queue',
    default: 'no limit',
  },
  '--dead-letter-queue': {
    sets: 'deadLetterQueue',
    reader: queueName,
    help: 'where such messages go',
    default: 'NAME.dlq',
  },
  '--max-message-bytes': {
    sets: 'maxMessageBytes',
    reader: size(1, limits.messageBytesMax),
    help: 'largest message, body, key and headers together',
    default: '1MiB',
  },
  '--delay': {
    sets: 'delayMs',
    reader: duration(0, year),
    help: 'time until a message can be received',
    default: 'none',
  },
  '--ttl': {
    sets: 'ttlMs',
    reader: duration(1, year),
    help: 'age at which messages are dropped',
    notBuilt,
  },
  '--dedupe-window': {
    sets: 'dedupeWindowMs',
    reader: duration(0, 7 * 24 * 3_600_000),
    help: 'how long dedupe ids are remembered',
    notBuilt,
  },
  '--retain-acked': {
    sets: 'retainAckedMs',
    reader: duration(0, year),
    help: 'how long acked messages are kept',
    notBuilt,
  },
  '--max-messages': {
    sets: 'maxMessages',
    reader: count(1, Infinity),
    help: 'messages that the queue holds',
    notBuilt,
  },
  '--max-bytes': {
    sets: 'maxBytes',
    reader: size(1, Infinity),
    help: 'bytes that the queue holds',
    notBuilt,
  },
  '--overflow': {
    sets: 'overflow',
    reader: oneOf('reject', 'dropOldest'),
    help: 'what a full queue does',
    notBuilt,
  },
  '--fairness': { sets: 'fairness', help: 'take turns between keys', notBuilt },
  '--single-active-consumer': { sets: 'singleActiveConsumer', help: 'one consumer at a time', notBuilt },
  '--ordered-batch': { sets: 'orderedBatch', help: 'keep the order within batches of a key', notBuilt },
}

const entries = Object.entries(flags) as [`--${string}`, QueueFlag][]

/** Flags of `queue create`. */
export function creationFlags(): Option[] {
  return [
    ...entries.map(([flag, entry]) =>
      queueFlag(flag, entry, entry.default === undefined ? [] : [`default ${entry.default}`]),
    ),
    ...backoffFlags('default: no pause'),
  ]
}

/** Flags of `queue edit`: only those are shown that it can change; the broker says why it refuses the others. */
export function changeFlags(): Option[] {
  return [
    ...entries.map(([flag, entry]) =>
      queueFlag(flag, entry, []).hideHelp(entry.isFixed === true || entry.notBuilt === notBuilt),
    ),
    ...backoffFlags(),
  ]
}

function queueFlag(flag: `--${string}`, entry: QueueFlag, facts: string[]): Option {
  const { reader, help } = entry
  const all = entry.notBuilt === undefined ? facts : [entry.notBuilt, ...facts]
  return reader === undefined
    ? new Option(flag, `${help} (${all.join('; ')})`)
    : flagOption(flag, reader, help, ...all)
}

function backoffFlags(...facts: string[]): Option[] {
  return [
    flagOption(
      '--backoff',
      oneOf('fixed', 'exponential'),
      'how the pause after a failed delivery grows',
      ...facts,
    ),
    flagOption('--backoff-delay', duration(1, year), 'the first pause; needed by --backoff'),
    flagOption('--backoff-max', duration(1, year), 'the longest pause'),
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

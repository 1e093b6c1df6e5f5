/** Names of the field's things. The brands keep an epoch out of an offset's place; arithmetic stays plain. */
type Brand<T, Name extends string> = T & { readonly __brand?: Name }

/** A position in a partition's log. A batch of n messages takes n consecutive offsets, any other entry one. */
export type Offset = Brand<number, 'offset'>
/** Which leader appended. Drawn from one durable counter; compared only within a queue id. */
export type Epoch = Brand<number, 'epoch'>
/** Index of a partition within its queue, from 0. */
export type PartitionId = Brand<number, 'partition'>
/** A queue's random id, drawn at its creation: 16 bytes as 32 hexadecimal digits. */
export type QueueId = Brand<string, 'queue'>
/** Numbers leases within a leader's epoch, from 1. */
export type LeaseId = Brand<number, 'lease'>
/** A producer's random id: 16 bytes as a latin1 string, which is what a Map wants for a key. */
export type ProducerId = Brand<string, 'producer'>

/** Where an output stands in the log of its source, a partition's outbox. Epochs rise with offsets. */
export interface OutputPosition {
  readonly epoch: Epoch
  readonly offset: Offset
  /** Among the outputs of that entry, from 0. */
  readonly index: number
}

/** What held a message when its send was confirmed. */
export type Confirm = 'replicas' | 'leader' | 'none'
export type Storage = 'disk' | 'memory'

/** The pause after a failed delivery, by expiry or by a nack that names no delay of its own. */
export interface Backoff {
  /** `fixed`: `delayMs` each time. `exponential`: `delayMs`, then twice that, and so on. */
  type: 'fixed' | 'exponential'
  /** In milliseconds, 1 to a year. */
  delayMs: number
  /** Longest pause, in milliseconds. Default: a year; not below `delayMs`. */
  maxMs?: number | undefined
  /** Share of each pause that is left to chance, 0 (default) to 1: the pause is shorter by up to this much. */
  jitter?: number | undefined
}

/** A queue's options. Absent means the default; those that this version does not carry out are UNSUPPORTED. */
export interface QueueOptions {
  /** Number of partitions, 1 (default) to 1,024. */
  partitions?: number | undefined
  replicas?: number | undefined
  minInSync?: number | undefined
  /** What has a message on disk before its send is confirmed. Default `replicas`: every in-sync replica. */
  confirm?: Confirm | undefined
  storage?: Storage | undefined
  /** How long a delivery is leased, in milliseconds. Default 30,000; 1 to 12 hours. */
  visibilityTimeoutMs?: number | undefined
  /**
   * When delivery number `maxDeliveries` of a message fails, it goes to the dead-letter queue. Default: no limit;
   * 1 to 10,000. Set alone, it implies a `deadLetterQueue` of `<name>.dlq`.
   */
  maxDeliveries?: number | undefined
  /** Where messages go that are given up; made with default options where it is missing. Default: nowhere. */
  deadLetterQueue?: string | undefined
  /** How long a message rests after a delivery that failed. Default: not at all. */
  backoff?: Backoff | undefined
  /** Largest message, body and headers together, in bytes. Default 1 MiB; 1 to 16 MiB. */
  maxMessageBytes?: number | undefined
  ttlMs?: number | undefined
  /** How long a message can't be received after it was sent, in milliseconds. Default 0; up to a year. */
  delayMs?: number | undefined
  dedupeWindowMs?: number | undefined
  retainAckedMs?: number | undefined
  maxMessages?: number | undefined
  maxBytes?: number | undefined
  overflow?: 'reject' | 'dropOldest' | undefined
  fairness?: unknown
  singleActiveConsumer?: boolean | undefined
  orderedBatch?: boolean | undefined
}

/** What is to change of a queue's options: absent, it stays; null brings its default back. */
export type QueueOptionsChange = { [Name in keyof QueueOptions]: QueueOptions[Name] | null }

/** A `Backoff` with its defaults. */
export interface EffectiveBackoff extends Backoff {
  maxMs: number
  jitter: number
}

/** The options in force: what was set and the defaults. */
export interface EffectiveQueueOptions {
  partitions: number
  replicas: number
  minInSync: number
  confirm: Confirm
  storage: Storage
  visibilityTimeoutMs: number
  maxMessageBytes: number
  delayMs: number
  /** null: none. */
  backoff: EffectiveBackoff | null
  /** null: no limit. */
  maxDeliveries: number | null
  /** null: none. */
  deadLetterQueue: string | null
}

export interface QueueSummary {
  name: string
  options: EffectiveQueueOptions
  /** Messages not settled: ready, leased and delayed together. */
  messages: number
}

export interface PartitionDescription {
  id: PartitionId
  leader: string
  epoch: Epoch
  inSync: string[]
  replicas: string[]
  /** First offset that still matters: the lowest unsettled message's, or the log's end. */
  logStart: Offset
  /** The offset the next entry will take. */
  logEnd: Offset
  /** Everything below it is on every in-sync replica's disk. */
  highWatermark: Offset
}

export interface QueueDescription {
  name: string
  options: EffectiveQueueOptions
  messages: { ready: number; leased: number; delayed: number }
  partitions: PartitionDescription[]
}

export const limits = {
  queueNameBytesMax: 255,
  partitionsMax: 1024,
  /** A batch's bytes: bodies, lengths and attributes together, unless it holds a single message. */
  batchBytesMax: 1 << 20,
  batchMessagesMax: 10_000,
  messageBytesMax: 16 << 20,
  visibilityTimeoutMsMax: 12 * 3_600_000,
  maxDeliveriesMax: 10_000,
  /** A year: delays of messages, of queues and of failed deliveries. */
  delayMsMax: 365 * 24 * 3_600_000,
  /** What a nack gives as its reason, in UTF-8. */
  reasonBytesMax: 1024,
  receiveMessagesMax: 1000,
  /** What one REDRIVE looks at. */
  redriveMessagesMax: 1000,
  receiveBytesMax: 16 << 20,
  receiveWaitMsMax: 20_000,
  /** What a subscription may be pushed beyond what it has given back: messages, and bytes of batches. */
  creditMessagesMax: 65_536,
  creditBytesMax: 64 << 20,
  /** Batches and settles of one producer on one partition that a client leaves unanswered at most. */
  unansweredMax: 64,
  /** A frame: the largest message with its headers, and room for the envelope. */
  frameBytesMax: (16 << 20) + (64 << 10),
  /** A frame before the handshake is done. */
  handshakeBytesMax: 4096,
} as const

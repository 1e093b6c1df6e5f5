/** What the frames of PROTOCOL.md say, once decoded and checked. `codec.ts` turns bytes into these and back. */
import type { MqErrorCode } from '../errors.ts'
import type { Epoch, LeaseId, Offset, PartitionId, ProducerId, QueueId } from '../types.ts'

export const protocolVersion = { min: 1, max: 1 } as const
/** What a client sends before its first frame: "MQB1". */
export const preface = Uint8Array.of(0x4d, 0x51, 0x42, 0x31)

export const op = {
  hello: 1,
  helloOk: 2,
  heartbeat: 3,
  cancel: 4,
  credit: 5,
  goAway: 6,
  lookup: 10,
  createQueue: 11,
  listQueues: 12,
  describeQueue: 13,
  deleteQueue: 14,
  updateQueue: 15,
  purgeQueue: 16,
  peek: 17,
  redrive: 18,
  cluster: 19,
  send: 20,
  receive: 21,
  settle: 22,
  extend: 23,
  subscribe: 24,
  unsubscribe: 25,
  ok: 40,
  error: 41,
  sent: 42,
  delivered: 43,
  settled: 44,
  push: 45,
} as const

export type RequestId = number

/** Messages under one lease, numbered by the leader of `leaseEpoch` that granted it. */
export interface LeasedRange {
  leaseEpoch: Epoch
  lease: LeaseId
  offset: Offset
  count: number
}

export interface WireLimits {
  frameBytesMax: number
  batchBytesMax: number
  batchMessagesMax: number
  receiveMessagesMax: number
  receiveBytesMax: number
  unansweredMax: number
  heartbeatMs: number
}

export interface Hello {
  op: 'hello'
  minVersion: number
  maxVersion: number
  /** 16 bytes. */
  clientId: ProducerId
  session: number
  name: string
  credentials: Record<string, unknown> | null
  features: Record<string, unknown> | null
}

/** Who sends, and which of its requests this is. */
export interface Sequenced {
  producerId: ProducerId
  producerEpoch: number
  sequence: number
  opening: Offset
}

export interface SendRequest extends Sequenced {
  op: 'send'
  id: RequestId
  queueId: QueueId
  partition: PartitionId
  count: number
  crc: number
  /** A view into the frame. */
  batch: Uint8Array
}

export interface ReceiveRequest {
  op: 'receive'
  id: RequestId
  queueId: QueueId
  /** null: any partition that the node leads. */
  partition: PartitionId | null
  max: number
  maxBytes: number
  waitMs: number
  visibilityTimeoutMs: number | null
  mode: number
}

export const settleAction = { ack: 0, nack: 1, release: 2, deadLetter: 3 } as const

/** What goes with a nack, or with the end in a dead-letter queue. */
export interface SettleOptions {
  /** How long the messages rest; null: as the queue's backoff says. */
  delayMs: number | null
  /** Why: up to 1 KiB of UTF-8. */
  reason: string | null
}

export interface SettleRequest extends Sequenced {
  op: 'settle'
  id: RequestId
  queueId: QueueId
  partition: PartitionId
  action: number
  items: LeasedRange[]
  options: SettleOptions | null
  outputs: unknown[] | null
}

export interface ExtendRequest {
  op: 'extend'
  id: RequestId
  queueId: QueueId
  partition: PartitionId
  extendMs: number
  items: LeasedRange[]
}

/** One step of a redrive: messages of `name`, which are looked at in log order. */
export interface RedriveRequest {
  op: 'redrive'
  id: RequestId
  name: string
  /** The queue they go to; null: each to the one it came from. */
  to: string | null
  /** Messages to look at, at most. */
  max: number
  /** Only count. */
  dryRun: boolean
  /** What the step before answered; null: this is the first. */
  cursor: number[] | null
}

/** The answer to REDRIVE. */
export interface RedriveResult {
  /** Messages that are in their queues now; with `dryRun`, that would be. */
  messages: number
  /** Messages that stay: they do not say where they came from, or that queue is not there, or takes no such size. */
  skipped: number
  /** Queue's name → its share of `messages`. */
  targets: Record<string, number>
  /** For the next step; null: all has been looked at that was there when the first step began. */
  cursor: number[] | null
}

/** A standing receive, which the id names until it is answered. */
export interface SubscribeRequest {
  op: 'subscribe'
  id: RequestId
  queueId: QueueId
  /** null: any partition that the node leads. */
  partition: PartitionId | null
  /** Credit: messages and bytes of batches that may be pushed. */
  messages: number
  bytes: number
  visibilityTimeoutMs: number | null
  mode: number
}

/** More credit for a subscription; it has no answer. */
export interface Credit {
  op: 'credit'
  /** The subscription's. */
  id: RequestId
  messages: number
  bytes: number
}

/** Everything a client may send. */
export type ClientFrame =
  | Hello
  | { op: 'heartbeat' }
  | { op: 'cancel'; id: RequestId }
  | Credit
  | { op: 'lookup'; id: RequestId; name: string }
  | { op: 'createQueue'; id: RequestId; name: string; options: Record<string, unknown> }
  | { op: 'listQueues'; id: RequestId; after: string | null; limit: number }
  | { op: 'describeQueue'; id: RequestId; name: string }
  | { op: 'deleteQueue'; id: RequestId; name: string; queueId: QueueId | null }
  /** nil stands for the default. */
  | { op: 'updateQueue'; id: RequestId; name: string; options: Record<string, unknown> }
  | { op: 'purgeQueue'; id: RequestId; name: string; dryRun: boolean }
  | { op: 'peek'; id: RequestId; name: string; max: number }
  | RedriveRequest
  | SendRequest
  | ReceiveRequest
  | SettleRequest
  | ExtendRequest
  | SubscribeRequest
  | { op: 'unsubscribe'; id: RequestId; subscription: RequestId }
  /** Known to the protocol, not yet to this version; answered UNSUPPORTED. `nr` is the operation's number. */
  | { op: 'unsupported'; id: RequestId; nr: number }
  /** Between nodes only; answered FORBIDDEN. */
  | { op: 'forbidden'; id: RequestId; nr: number }

export interface Delivery {
  partition: PartitionId
  leaseEpoch: Epoch
  lease: LeaseId
  /** What is left of the lease when the frame is sent. */
  leaseMs: number
  epoch: Epoch
  base: Offset
  sentAtMs: number
  /** For all messages, or one for each. */
  deliveryCount: number | number[]
  crc: number
  batch: Uint8Array
}

/** What PEEK shows of a batch: messages that follow each other and are in one state. */
export interface Peeked {
  partition: PartitionId
  epoch: Epoch
  base: Offset
  sentAtMs: number
  /** How often each was delivered. */
  deliveries: number
  state: 'ready' | 'delayed' | 'leased'
  crc: number
  batch: Uint8Array
}

export interface LookupResult {
  queueId: QueueId
  name: string
  options: Record<string, unknown>
  partitions: { partition: PartitionId; address: string | null; epoch: Epoch; logEnd: Offset }[]
}

/** Everything a server may send. */
export type ServerFrame =
  | {
      op: 'helloOk'
      version: number
      clusterId: string
      nodeId: string
      limits: WireLimits
      features: Record<string, unknown>
    }
  | { op: 'heartbeat' }
  | { op: 'goAway'; reason: string }
  | { op: 'ok'; id: RequestId; result: unknown }
  | {
      op: 'error'
      id: RequestId
      code: MqErrorCode
      message: string
      retryable: boolean
      details: Record<string, unknown> | null
    }
  | {
      op: 'sent'
      id: RequestId
      epoch: Epoch
      base: Offset
      duplicate: boolean
      confirm: number
      storage: number
    }
  | { op: 'delivered'; id: RequestId; deliveries: Delivery[] }
  /** To a subscription, which goes on: no answer. */
  | { op: 'push'; id: RequestId; deliveries: Delivery[] }
  /** Flat `offset, count` pairs of what was refused. */
  | { op: 'settled'; id: RequestId; refused: number[] | null }

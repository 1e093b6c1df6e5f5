/**
 * What a peer is to the bench: a server that the bench starts, and an adapter that the producer's and the consumer's
 * processes load by the peer's name. Each peer is one file beside this one that says both.
 */

/** `adapter` is mq-broker through its adapter here: a check that the adapters cost nothing, and what W3 runs. */
export const peerNames = [
  'redis',
  'rabbitmq',
  'bullmq',
  'bullmq-pg',
  'jetstream',
  'pg-boss',
  'beanstalkd',
  'adapter',
] as const
export type PeerName = (typeof peerNames)[number]

/** F: each message synced to disk before it is confirmed. D: as the system comes. */
export const classes = ['F', 'D'] as const
export type DurabilityClass = (typeof classes)[number]

/** Where a started server is found, in plain values: it crosses to other processes. */
export type Endpoint = Readonly<Record<string, string | number>>

export interface Peer {
  readonly name: PeerName
  /** For the tables. */
  readonly title: string
  /** npm packages, the one that matters first. */
  readonly clients: readonly string[]
  /** Durability as it is set up, for each class. */
  readonly durability: Readonly<Record<DurabilityClass, string>>
  /** How messages may be sent in W1 and W2, all tried: so many in one `sendBatch`; null: each by `send`. */
  readonly batches: readonly (number | null)[]
  /** The server on this machine. */
  readonly find: () => Found
  /** Starts it with data below `dir`, which is empty. */
  start(dir: string, durability: DurabilityClass): Promise<RunningServer>
  readonly adapter: Adapter
}

export type Found = { readonly version: string } | { readonly absent: string }

export interface RunningServer extends AsyncDisposable {
  readonly pid: number
  readonly endpoint: Endpoint
  /** What it said last, for an error. */
  log(): string
}

export interface Adapter {
  /** Connects and makes sure that the queue is there. */
  openSender(endpoint: Endpoint, queue: string): Promise<Sender>
  openReceiver(endpoint: Endpoint, queue: string): Promise<Receiver>
}

export interface Sender {
  /** Resolves once the server has confirmed it. Until then the body stays as it is. */
  send(body: Buffer): Promise<unknown>
  /** The same of several, by the client's own way of batching. */
  sendBatch(bodies: readonly Buffer[]): Promise<unknown>
  close(): Promise<unknown>
}

export interface Receiver {
  /** Receives until `stop`, acking each message. Rejects when it cannot go on. */
  run(sink: Sink): Promise<void>
  /** Ends `run`, once what is under way is done. */
  stop(): Promise<unknown>
  close(): Promise<unknown>
}

/** What a receiver does with what comes. */
export interface Sink {
  received(body: Uint8Array): void
  /** So many of them are acked: confirmed by the server, where it confirms acks. */
  acked(count: number): void
  failed(error: unknown): void
}

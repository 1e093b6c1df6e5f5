/** What is measured: the workloads of the project's performance page, and the limits they are compared with. */
import { streams, type BenchArgs } from './args.ts'

/** By `receive`, or pushed: each acked in its turn of the loop, or in batches with one promise. */
export type ConsumeMode = 'receive' | 'consume' | 'consumeBatches'

/** What a rate is compared with: lmdb in a file that grows, in one whose blocks were written before, a socket pair. */
export const limitKinds = ['raw', 'preallocated', 'sockets'] as const
export type LimitKind = (typeof limitKinds)[number]
/** Names of their cases. */
export type Limits = Readonly<Partial<Record<LimitKind, string>>>

export interface Case {
  readonly name: string
  readonly kind:
    | 'raw'
    | 'rawOneByOne'
    | 'rawPaced'
    | 'sockets'
    | 'answers'
    | 'generate'
    | 'w1'
    | 'w2'
    | 'w3'
    | 'w4'
    | 'crowd'
  readonly bodyBytes: number
  /** Messages of one `sendBatch`, of one raw blob or of one frame; null: each by itself. */
  readonly batch: number | null
  /** How the consumer of w2 gets its messages; receive when left out. */
  readonly consume?: ConsumeMode | undefined
  /** Messages not yet confirmed at most: what is tried. */
  readonly windows: readonly number[]
  /** Of raw lmdb: the blocks of its file are written before. */
  readonly preallocated?: boolean | undefined
  /** Of w3: half as many messages a second as W2 comes to, instead of 1,000. */
  readonly atHalf?: boolean | undefined
  readonly against: Limits
}

/** Blobs in flight in raw lmdb. */
const rawInFlight = 16
/** What a socket of the pair holds that the kernel has not taken. */
export const socketBufferBytes = 1 << 20
/** Clients of `crowd` at once, each with one message at a time: what w4, which is one, is compared with. */
export const crowdClients = 200

/** About 50 to 100 KiB: what a client's own batching comes to, and what raw lmdb is measured with. */
export function batchOf(bodyBytes: number): number {
  return Math.max(1, Math.min(500, Math.round(102_400 / bodyBytes)))
}

export function chooseCases(args: BenchArgs): Case[] {
  const workloads = streams.filter((stream) => args.workloads.includes(stream))
  return args.sizesBytes.flatMap((bodyBytes, i) => [
    ...(workloads.includes('w1') || workloads.includes('w2') ? limitsOf(bodyBytes) : []),
    ...(workloads.includes('w1') ? sending(bodyBytes, args) : []),
    ...(workloads.includes('w2') ? sendingAndReceiving(bodyBytes, args) : []),
    // These are about time, not bytes: one size tells it.
    ...(workloads.includes('w3') && i === 0 ? paced(bodyBytes) : []),
    ...(workloads.includes('w4') && i === 0 ? oneAtATime(bodyBytes) : []),
  ])
}

function limitNames(bodyBytes: number): Required<Limits> {
  const blobs = `${batchOf(bodyBytes)} × ${sizeName(bodyBytes)}`
  const raw = `raw lmdb ${blobs}`
  return { raw, preallocated: `${raw}, preallocated`, sockets: `socket pair ${blobs}` }
}

function limitsOf(bodyBytes: number): Case[] {
  const size = sizeName(bodyBytes)
  const batch = batchOf(bodyBytes)
  const { raw, preallocated, sockets } = limitNames(bodyBytes)
  const puts = { kind: 'raw', bodyBytes, batch, windows: [rawInFlight * batch] } as const
  const frames = { kind: 'sockets', bodyBytes, windows: [Math.floor(socketBufferBytes / bodyBytes)] } as const
  return [
    { ...puts, name: raw, against: {} },
    { ...puts, name: preallocated, preallocated: true, against: { raw } },
    { ...frames, name: sockets, batch, against: { raw } },
    { ...frames, name: `socket pair ${size}`, batch: null, against: { raw } },
    {
      name: `generator ${size}`,
      kind: 'generate',
      bodyBytes,
      batch: null,
      windows: [1000],
      against: { raw },
    },
  ]
}

function sending(bodyBytes: number, args: BenchArgs): Case[] {
  const w1 = { kind: 'w1', bodyBytes, against: limitNames(bodyBytes) } as const
  const name = `W1 ${sizeName(bodyBytes)}`
  return [
    { ...w1, name: `${name} send`, batch: null, windows: args.windows },
    { ...w1, name: `${name} sendBatch`, ...inBatches(bodyBytes, args) },
  ]
}

function sendingAndReceiving(bodyBytes: number, args: BenchArgs): Case[] {
  return ([undefined, 'consume', 'consumeBatches'] as const).flatMap((consume): Case[] => {
    const w2 = { kind: 'w2', bodyBytes, consume, against: limitNames(bodyBytes) } as const
    const name = `W2 ${sizeName(bodyBytes)}`
    const how = consume === undefined ? '' : `, ${consume}`
    return [
      { ...w2, name: `${name} send${how}`, batch: null, windows: args.windows },
      { ...w2, name: `${name} sendBatch${how}`, ...inBatches(bodyBytes, args) },
    ]
  })
}

/** Batches in flight, not messages, are what a window of batches bounds: few, and thrice as many. */
function inBatches(bodyBytes: number, { quick }: BenchArgs): Pick<Case, 'batch' | 'windows'> {
  const batch = batchOf(bodyBytes)
  const few = rawInFlight * batch
  return { batch, windows: quick ? [few] : [few, 3 * few] }
}

function paced(bodyBytes: number): Case[] {
  const size = sizeName(bodyBytes)
  const name = `W3 ${size}`
  const one = { bodyBytes, batch: null, windows: [1], against: {} } as const
  const w3 = { ...one, kind: 'w3' } as const
  return [
    // Its latencies are the limit: what a message waits for the disk, and for the messages before it.
    { ...one, kind: 'rawPaced', name: `raw lmdb ${size} at 1,000/s` },
    { ...w3, name: `${name} at 1,000/s` },
    { ...w3, name: `${name} at half of W2's rate`, atHalf: true },
  ]
}

function oneAtATime(bodyBytes: number): Case[] {
  const size = sizeName(bodyBytes)
  const raw = `raw lmdb one put at a time ${size}`
  const preallocated = `${raw}, preallocated`
  const puts = { kind: 'rawOneByOne', bodyBytes, batch: null, windows: [1] } as const
  const w4 = { kind: 'w4', bodyBytes, batch: null, against: { raw, preallocated } } as const
  // Where many are answered, the path to them is the limit: nothing is stored, looked at or kept.
  const sockets = `${size} answered, ${crowdClients} sockets`
  const crowd = { bodyBytes, batch: null, windows: [crowdClients] } as const
  return [
    { ...puts, name: raw, against: {} },
    { ...puts, name: preallocated, preallocated: true, against: { raw } },
    { ...w4, name: `W4 ${size}`, windows: [1] },
    { ...crowd, name: sockets, kind: 'answers', against: { raw } },
    { ...crowd, name: crowdName(bodyBytes), kind: 'crowd', against: { raw, preallocated, sockets } },
  ]
}

export function crowdName(bodyBytes: number): string {
  return `W4 ${sizeName(bodyBytes)}, ${crowdClients} clients`
}

/** What W3's half is half of: the same way of sending and receiving, without the pace. */
export function unpacedName(bodyBytes: number): string {
  return `W2 ${sizeName(bodyBytes)} send, consume`
}

export function sizeName(bytes: number): string {
  if (bytes % 2 ** 20 === 0) return `${bytes / 2 ** 20} MiB`
  return bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} B`
}

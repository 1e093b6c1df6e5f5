/** What is measured: the workloads of the project's performance page, and the limits they are compared with. */
import { streams, type BenchArgs, type Stream } from './args.ts'

/** By `receive`, or pushed: each acked in its turn of the loop, or in batches with one promise. */
export type ConsumeMode = 'receive' | 'consume' | 'consumeBatches'

export interface Case {
  readonly name: string
  readonly kind: 'raw' | 'rawOneByOne' | 'generate' | 'w1' | 'w2' | 'w4'
  readonly bodyBytes: number
  /** Messages of one `sendBatch`, or of one raw blob; null: each by itself. */
  readonly batch: number | null
  /** How the consumer of w2 gets its messages; receive when left out. */
  readonly consume?: ConsumeMode | undefined
  /** Messages not yet confirmed at most: what is tried. */
  readonly windows: readonly number[]
  /** Name of the case that its rate is compared with. */
  readonly against: string | null
}

/** Blobs in flight in raw lmdb. */
const rawInFlight = 16

/** About 50 to 100 KiB: what a client's own batching comes to, and what raw lmdb is measured with. */
export function batchOf(bodyBytes: number): number {
  return Math.max(1, Math.min(500, Math.round(102_400 / bodyBytes)))
}

export function chooseCases({ workloads: chosen, sizesBytes, windows }: BenchArgs): Case[] {
  const cases: Case[] = []
  const workloads = streams.filter((stream) => chosen.includes(stream))
  for (const bodyBytes of sizesBytes) {
    const size = sizeName(bodyBytes)
    const batch = batchOf(bodyBytes)
    const raw = `raw lmdb ${batch} × ${size}`
    const kinds = workloads.filter((workload): workload is Exclude<Stream, 'w4'> => workload !== 'w4')
    if (kinds.length > 0) {
      cases.push(
        { name: raw, kind: 'raw', bodyBytes, batch, windows: [rawInFlight * batch], against: null },
        {
          name: `generator ${size}`,
          kind: 'generate',
          bodyBytes,
          batch: null,
          windows: [1000],
          against: raw,
        },
      )
    }
    for (const kind of kinds) {
      const name = `${kind.toUpperCase()} ${size}`
      // Batches in flight, not messages, are what a window of batches bounds: few, and twice as many.
      const batchWindows = [rawInFlight * batch, 3 * rawInFlight * batch]
      cases.push(
        { name: `${name} send`, kind, bodyBytes, batch: null, windows, against: raw },
        { name: `${name} sendBatch`, kind, bodyBytes, batch, windows: batchWindows, against: raw },
      )
      if (kind !== 'w2') continue
      for (const consume of ['consume', 'consumeBatches'] as const) {
        cases.push({
          name: `${name} send, ${consume}`,
          kind,
          bodyBytes,
          batch: null,
          windows,
          consume,
          against: raw,
        })
      }
    }
    if (workloads.includes('w4') && bodyBytes === sizesBytes[0]) {
      const raw = `raw lmdb one put at a time ${size}`
      cases.push(
        { name: raw, kind: 'rawOneByOne', bodyBytes, batch: null, windows: [1], against: null },
        { name: `W4 ${size}`, kind: 'w4', bodyBytes, batch: null, windows: [1], against: raw },
      )
    }
  }
  return cases
}

export function sizeName(bytes: number): string {
  return bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} B`
}

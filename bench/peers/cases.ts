/** What is measured side by side: each workload and size by this broker, by each peer, and by what limits both. */
import { batchOf, sizeName, type Case } from '../cases.ts'
import type { PeersArgs, PeerWorkload } from './args.ts'
import type { PeerName } from './peer.ts'

/** Who is measured: this broker's two ways of sending, the store below it, the load generator alone, the peers. */
export type System = 'send' | 'sendBatch' | 'raw' | 'generator' | PeerName

/** One bench of one size; in W3 and W4 there is one size. */
export interface Heat {
  readonly workload: PeerWorkload
  readonly bodyBytes: number
}

/** One system in one heat. */
export interface Entry extends Heat {
  readonly system: System
  /** How ../measure.ts measures it; null: the producer and consumer of this folder do. */
  readonly own: Case | null
}

/** W3 and W4 are about time, not bytes: one size tells it. */
const latencyBytes = 1024
/** Blobs in flight in raw lmdb. */
const rawInFlight = 16

export function chooseHeats({ workloads, sizesBytes }: PeersArgs): Heat[] {
  return workloads.flatMap((workload): Heat[] =>
    workload === 'w1' || workload === 'w2'
      ? sizesBytes.map((bodyBytes) => ({ workload, bodyBytes }))
      : [{ workload, bodyBytes: latencyBytes }],
  )
}

export function heatName({ workload, bodyBytes }: Heat): string {
  return `${workload.toUpperCase()} ${sizeName(bodyBytes)}`
}

/** Ours first, then the limits, then those peers. */
export function entriesOf(heat: Heat, { windows, quick }: PeersArgs, present: readonly PeerName[]): Entry[] {
  return [
    ...ownEntries(heat, windows, quick),
    ...present.map((system): Entry => ({ ...heat, system, own: null })),
  ]
}

function ownEntries(heat: Heat, windows: readonly number[], quick: boolean): Entry[] {
  const { workload, bodyBytes } = heat
  const of = (system: System, rest: Pick<Case, 'kind' | 'batch' | 'windows' | 'consume'>): Entry => ({
    ...heat,
    system,
    own: { name: `${heatName(heat)} ${system}`, bodyBytes, against: {}, ...rest },
  })
  const batch = batchOf(bodyBytes)
  switch (workload) {
    case 'w1':
    case 'w2': {
      const consume = workload === 'w2' ? 'consume' : undefined
      const batchWindows = quick ? [rawInFlight * batch] : [rawInFlight * batch, 3 * rawInFlight * batch]
      return [
        of('send', { kind: workload, batch: null, windows, consume }),
        of('sendBatch', { kind: workload, batch, windows: batchWindows, consume }),
        of('raw', { kind: 'raw', batch, windows: [rawInFlight * batch] }),
        of('generator', { kind: 'generate', batch: null, windows: [1000] }),
      ]
    }
    case 'w3':
      return [{ ...heat, system: 'send', own: null }]
    case 'w4':
      return [
        of('send', { kind: 'w4', batch: null, windows: [1] }),
        of('raw', { kind: 'rawOneByOne', batch: null, windows: [1] }),
      ]
  }
}

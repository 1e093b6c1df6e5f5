/** What this broker has to reach beside the limits of its machine: the project's page on performance says why. */
import { batchOf, crowdClients, crowdName, sizeName } from './cases.ts'
import { meets, type TargetRow } from './figures.ts'
import type { Row } from './report.ts'

/** Shares of what raw lmdb does in a file that grows. */
export const ofRaw = { w1Send: 0.45, w1SendBatch: 0.6, w4: 0.7 } as const

const kibibyte = 1024

interface Wanted {
  readonly of: string
  readonly against: string
  readonly atLeast: number
}

const size = sizeName(kibibyte)
const blobs = `raw lmdb ${batchOf(kibibyte)} × ${size}`

const wanted: readonly Wanted[] = [
  { of: `W1 ${size} send`, against: blobs, atLeast: ofRaw.w1Send },
  { of: `W1 ${size} sendBatch`, against: blobs, atLeast: ofRaw.w1SendBatch },
  { of: 'W2 100 B sendBatch, consumeBatches', against: 'W2 100 B sendBatch, consume', atLeast: 1.5 },
  { of: `W4 ${size}`, against: `raw lmdb one put at a time ${size}`, atLeast: ofRaw.w4 },
  { of: crowdName(kibibyte), against: `W4 ${size}`, atLeast: crowdClients / 10 },
]

/** Those whose cases were measured, by the medians of this run. */
export function judgeRows(rows: readonly Pick<Row, 'case' | 'perSecond'>[]): TargetRow[] {
  const rateOf = (name: string) => rows.find((row) => row.case === name)?.perSecond.median
  return wanted.flatMap(({ of, against, atLeast }) => {
    const [own, other] = [rateOf(of), rateOf(against)]
    if (own === undefined || other === undefined) return []
    const target = { atLeast }
    const value = own / other
    return [{ what: `${of} × ${against}`, target, value, isMet: meets(value, target) }]
  })
}

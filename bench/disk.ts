/** What a data directory takes of the disk. */
import { readdirSync, statSync, type Stats } from 'node:fs'
import { join } from 'node:path'

export interface DiskUse {
  /** Blocks that the files have, but for RESERVE. */
  readonly bytes: number
  /** Blocks of RESERVE: room that is kept for a full disk, whatever is stored. */
  readonly reservedBytes: number
  readonly segments: number
}

const blockBytes = 512
const segmentFile = /^\d{8}\.mdb$/

export function diskUseOf(dataDir: string): DiskUse {
  let bytes = 0
  let reservedBytes = 0
  let segments = 0
  for (const name of readdirSync(dataDir)) {
    const stat = statOf(join(dataDir, name))
    if (stat === null) continue
    const used = stat.blocks * blockBytes
    if (name === 'RESERVE') reservedBytes += used
    else bytes += used
    if (segmentFile.test(name)) segments++
  }
  return { bytes, reservedBytes, segments }
}

/** Null: it went meanwhile. */
function statOf(path: string): Stats | null {
  return statSync(path, { throwIfNoEntry: false }) ?? null
}

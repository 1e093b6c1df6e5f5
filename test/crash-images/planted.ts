/**
 * Do the crash images find what is wrong? File systems that lie, for the replay of an honest recording, and brokers with
 * a bug, each recorded by itself. What is not found says that the checks are blind there.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Lies } from './disk.ts'
import type { Change } from '../patched.ts'
import { plantedBugs } from '../sim/planted.ts'
import { copyPackage, inAHurry } from './package-copy.ts'
import { record, type Recorded } from './recording.ts'
import { replay, type ReplayResult } from './replay.ts'

/** With what must be said of it. Each is honest until the first client has connected. */
export const lyingDisks: readonly { readonly name: string; readonly lies: Lies; readonly told: RegExp }[] = [
  { name: 'a sync of a file that keeps nothing', lies: { dataSyncs: true }, told: /does not open|lost: / },
  {
    name: 'a sync of the directory that keeps nothing',
    lies: { directorySyncs: true },
    told: /lost: /,
  },
  {
    name: 'a write through O_DSYNC that returns before it is on the disk',
    lies: { syncedWrites: true },
    told: /lost: /,
  },
  {
    name: 'a disk that keeps nothing of what it says it has',
    lies: { dataSyncs: true, syncedWrites: true, directorySyncs: true },
    told: /lost: /,
  },
]

interface WrongBroker {
  readonly name: string
  readonly changes: readonly Change[]
}

export const wrongBrokers: readonly WrongBroker[] = [
  bugOfSimulation('a send is confirmed before its entry is on the disk'),
  bugOfSimulation('an ack is confirmed before its entry is on the disk'),
  {
    name: 'LMDB does not sync',
    changes: [
      {
        file: 'src/storage/lmdb.ts',
        find: `    overlappingSync: false,`,
        replace: `    overlappingSync: false,
    noSync: true,`,
      },
    ],
  },
  {
    name: 'LMDB overlaps commits with syncs',
    changes: [
      {
        file: 'src/storage/lmdb.ts',
        find: `    overlappingSync: false,`,
        replace: `    overlappingSync: true,`,
      },
    ],
  },
  {
    name: 'a new segment gets its name before its bytes are on the disk',
    changes: [
      {
        file: 'src/storage/lmdb.ts',
        find: `    await syncFile(newPath)
`,
        replace: ``,
      },
    ],
  },
  {
    name: 'the name of a new segment is not synced',
    changes: [
      {
        file: 'src/storage/lmdb.ts',
        find: `    await rm(newPath + readersSuffix, { force: true })
    await syncFile(this.#directory)`,
        replace: `    await rm(newPath + readersSuffix, { force: true })`,
      },
    ],
  },
  {
    name: 'a start does not sync the names that a killed process had given',
    changes: [
      {
        file: 'src/storage/lmdb.ts',
        find: `        await this.#sweep()
`,
        replace: `        await this.#sweep()
        if (Date.now() > 0) return
`,
      },
      // So that it is killed just then more often than not.
      {
        file: 'src/storage/lmdb.ts',
        find: `    await rm(newPath + readersSuffix, { force: true })
`,
        replace: `    await rm(newPath + readersSuffix, { force: true })
    await new Promise((resolve) => setTimeout(resolve, 250))
`,
      },
    ],
  },
  {
    name: 'a segment is removed with the newest checkpoint in it',
    changes: [
      {
        file: 'src/storage/partition-log.ts',
        find: `    if (checkpointed.segment === name) return 'start'
`,
        replace: ``,
      },
    ],
  },
  {
    name: 'a segment is removed with copies in it',
    changes: [
      {
        file: 'src/storage/partition-log.ts',
        find: `    const c = this.copies.findIndex(({ segment }) => segment.name === name)
    if (c >= 0) {`,
        replace: `    const c = this.copies.findIndex(({ segment }) => segment.name === name)
    if (c >= 1e9) {`,
      },
    ],
  },
]

/** What the simulation finds too: something is told too early. Commits take their time, as on a disk that is slow. */
function bugOfSimulation(name: string): WrongBroker {
  const slow = {
    file: 'src/storage/log.ts',
    find: `        await (puts === null ? this.#current.flush() : this.#current.commit(puts))
`,
    replace: `        await new Promise((resolve) => setTimeout(resolve, 20))
        await (puts === null ? this.#current.flush() : this.#current.commit(puts))
`,
  }
  return { name, changes: [...plantedBugs.filter((bug) => bug.name === name), slow] }
}

export interface Hunt {
  readonly seed: number
  readonly imagesMax: number
}

export function huntLie(
  recorded: Recorded,
  { lies, told }: (typeof lyingDisks)[number],
  { seed, imagesMax }: Hunt,
): Promise<ReplayResult> {
  return replay(recorded, {
    seed,
    imagesMax,
    lies: { ...lies, from: recorded.servedFrom },
    until: told,
  })
}

/** @param folder for the copy of the package and what it writes; there is none yet */
export async function huntBug(
  root: string,
  folder: string,
  changes: readonly Change[],
  { seed, imagesMax, confirms }: Hunt & { readonly confirms: number },
): Promise<ReplayResult> {
  mkdirSync(folder)
  copyPackage(root, join(folder, 'package'), [...inAHurry, ...changes])
  const recorded = await record({ root: join(folder, 'package'), folder, seed, confirms })
  return replay(recorded, { seed, imagesMax, until: /./ })
}

/** All of them. @returns how many were missed */
export async function huntAll(
  root: string,
  folder: string,
  honest: string,
  options: Hunt & { readonly confirms: number },
  say: (line: string) => void,
): Promise<number> {
  let missed = 0
  const tell = (name: string, { opened, isFound, words }: ReplayResult): void => {
    if (!isFound) missed++
    say(`${isFound ? 'found' : 'MISSED'} after ${opened} images: ${name}`)
    if (isFound) say(`    ${words[0]!.split('\n')[0]!.slice(0, 200)}`)
  }
  const recorded = await record({ root: honest, folder, seed: options.seed, confirms: options.confirms })
  for (const lying of lyingDisks) tell(lying.name, await huntLie(recorded, lying, options))
  for (const [i, { name, changes }] of wrongBrokers.entries())
    tell(name, await huntBug(root, join(folder, String(i)), changes, options))
  return missed
}

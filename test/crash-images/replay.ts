/**
 * Every prefix of a recording, and of each prefix what a power cut may have left of it.
 *
 * A prefix is named by the line of the trace at which it ends: everything on that line and before it has happened,
 * nothing after it. Prefixes between which the disk does not change leave the same images; the answers told until the
 * next change all count for them.
 */
import { SeededRandom } from '../crash/random.ts'
import type { Conversation } from './conversation.ts'
import { Disk, type DiskCall, type Image, type ImageKind, type Lies } from './disk.ts'
import { ImageDirectory } from './opening.ts'
import { Promises, type Found } from './promises.ts'

export interface Recording {
  readonly disk: readonly DiskCall[]
  readonly conversation: Conversation
  /** Line at which the first client connected. */
  readonly servedFrom: number
}

export interface ReplayOptions {
  readonly seed: number
  /** Distinct images that are opened, spread over all. Infinity: all. */
  readonly imagesMax: number
  readonly lies?: Lies
  /** Ends at the first image of which this is said. */
  readonly until?: RegExp
  readonly say?: (line: string) => void
}

export interface ReplayResult {
  /** Prefixes after which the disk was another. */
  readonly prefixes: number
  /** Images that were made, equal ones counted once. */
  readonly images: number
  readonly opened: number
  /** Images that were held against what had been promised: equal ones once for each prefix. */
  readonly judged: number
  readonly tornOpened: number
  /** Most messages that an image had to have. */
  readonly owedMax: number
  /** Most batches that an image had as copies. */
  readonly copiesMax: number
  readonly violations: number
  /** It ended by `until`. */
  readonly isFound: boolean
  /** Of the first violations; of the one at which it ended. */
  readonly words: readonly string[]
}

/** Images of chance at each prefix. */
const randomImages = 3
const wordsMax = 20
const progressEvery = 5000

export async function replay(recording: Recording, options: ReplayOptions): Promise<ReplayResult> {
  const { all, chosen } = chooseImages(recording, options)
  const promises = new Promises(recording.conversation)
  const directory = new ImageDirectory()
  const cached = new Map<string, Found>()
  let words: string[] = []
  let isFound = false
  let [prefixes, opened, judged, tornOpened, owedMax, copiesMax, violations] = [0, 0, 0, 0, 0, 0, 0]
  try {
    search: for (const prefix of prefixesOf(recording, options)) {
      prefixes++
      promises.advance(prefix.line, prefix.nextLine)
      owedMax = Math.max(owedMax, promises.owedCount)
      for (const image of prefix.images()) {
        const lastPrefix = chosen.get(image.key)
        if (lastPrefix === undefined) continue
        const broken: string[] = []
        let found = cached.get(image.key)
        if (found === undefined) {
          await directory.put(prefix.disk, image)
          found = await directory.open(prefix.line > recording.servedFrom)
          broken.push(...promises.judgeOrigin(found, prefix.line))
          cached.set(image.key, found)
          opened++
          if (image.isTorn) tornOpened++
          copiesMax = Math.max(copiesMax, found.copies)
          if (opened % progressEvery === 0) options.say?.(`${opened} of ${chosen.size} images opened`)
        }
        judged++
        broken.push(...promises.judge(found))
        if (broken.length > 0) {
          violations++
          const told = `${image.kind}, line ${prefix.line}, ${prefix.text}: ${broken.slice(0, 10).join('; ')}`
          if (options.until?.test(told) === true) {
            isFound = true
            words = [told]
            break search
          }
          if (words.length < wordsMax) words.push(told)
        }
        if (lastPrefix === prefix.number) cached.delete(image.key)
      }
    }
  } finally {
    await directory.remove()
  }
  return { prefixes, images: all, opened, judged, tornOpened, owedMax, copiesMax, violations, isFound, words }
}

interface Prefix {
  /** From 0. */
  readonly number: number
  readonly line: number
  /** Where the disk changes next. */
  readonly nextLine: number
  /** The call that ends it. */
  readonly text: string
  readonly disk: Disk
  images(): Image[]
}

function* prefixesOf({ disk: calls }: Recording, { seed, lies }: ReplayOptions): Generator<Prefix> {
  const disk = new Disk(lies)
  const moments = calls.flatMap((call) => [
    { line: call.began, call, isEnd: false },
    ...(call.ended === Infinity ? [] : [{ line: call.ended, call, isEnd: true }]),
  ])
  moments.sort((a, b) => a.line - b.line || a.call.id - b.call.id || Number(a.isEnd) - Number(b.isEnd))
  let number = 0
  const images = (): Image[] => {
    const random = new SeededRandom(Math.imul(seed, 0x9e3779b1) + number)
    const kinds: ImageKind[] = ['nothing unsynced', 'all unsynced', 'names only', 'bytes only']
    for (let i = 0; i < randomImages; i++) kinds.push('random')
    const distinct = new Map<string, Image>()
    for (const kind of kinds) {
      const image = disk.image(kind, random)
      if (!distinct.has(image.key)) distinct.set(image.key, image)
    }
    return [...distinct.values()]
  }
  for (const [i, { line, call, isEnd }] of moments.entries()) {
    const isChanged = isEnd ? disk.end(call) : disk.begin(call)
    if (!isChanged) continue
    const nextLine = moments[i + 1]?.line ?? Infinity
    yield { number: number++, line, nextLine, text: call.text, disk, images }
  }
}

/** Of all images those that are to be opened, each with the number of the last prefix that may leave it. */
function chooseImages(
  recording: Recording,
  options: ReplayOptions,
): { all: number; chosen: ReadonlyMap<string, number> } {
  const last = new Map<string, number>()
  for (const prefix of prefixesOf(recording, options))
    for (const { key } of prefix.images()) last.set(key, prefix.number)
  if (last.size <= options.imagesMax) return { all: last.size, chosen: last }
  const random = new SeededRandom(options.seed)
  const keys = [...last.keys()]
  for (let i = 0; i < options.imagesMax; i++) {
    const j = random.integer(i, keys.length - 1)
    ;[keys[i], keys[j]] = [keys[j]!, keys[i]!]
  }
  const chosen = new Map(keys.slice(0, options.imagesMax).map((key) => [key, last.get(key)!]))
  return { all: last.size, chosen }
}

export function describeReplay(result: ReplayResult): string {
  const { prefixes, images, opened, tornOpened, judged, owedMax, copiesMax, violations, words } = result
  return [
    `${prefixes} prefixes leave ${images} images; opened ${opened}, of these ${tornOpened} with torn writes`,
    `held ${judged} times against what was promised, up to ${owedMax} messages and ${copiesMax} copies; violations ${violations}`,
    ...words,
  ].join('\n')
}

import type { Random } from '../env.ts'
import { invariant } from '../errors.ts'

/**
 * Chance that can be repeated: sfc32 by Chris Doty-Humphrey (from PractRand), seeded through the finaliser of
 * MurmurHash3. Good enough for simulation, worthless for secrets.
 */
export class SeededRandom implements Random {
  readonly #path: string
  #a: number
  #b: number
  #c: number
  #counter = 1

  constructor(seed: number | string) {
    this.#path = String(seed)
    this.#a = hashText(this.#path, 0x9e3779b9)
    this.#b = hashText(this.#path, 0x243f6a88)
    this.#c = hashText(this.#path, 0xb7e15162)
    // The first numbers still look like the seed.
    for (let round = 0; round < 15; round++) this.#uint32()
  }

  /**
   * An independent stream, named. It depends on this stream's seed and the label only, not on how much was drawn, so
   * that one more draw somewhere does not change every other part of a run. The same label gives the same stream.
   */
  fork(label: string): SeededRandom {
    return new SeededRandom(`${this.#path}/${label}`)
  }

  /** In [0, 1), in steps of 2^-32. */
  unit(): number {
    return this.#uint32() / 2 ** 32
  }

  /** A whole number in [0, `count`); `count` is at most 2^32. */
  int(count: number): number {
    invariant(count >= 1 && count <= 2 ** 32, 'int needs a count from 1 to 2^32')
    return Math.floor(this.unit() * count)
  }

  /** In [`least`, `most`). Draws nothing when they are equal. */
  between(least: number, most: number): number {
    return most > least ? least + this.unit() * (most - least) : least
  }

  /** True with this probability. Draws nothing for 0 and for 1, so a fault that is off leaves no mark. */
  chance(probability: number): boolean {
    if (probability <= 0) return false
    return probability >= 1 || this.unit() < probability
  }

  pick<T>(items: readonly T[]): T {
    invariant(items.length > 0, 'pick needs something to pick from')
    return items[this.int(items.length)] as T
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (let at = 0; at < length; at += 4) {
      const word = this.#uint32()
      for (let part = 0; part < 4 && at + part < length; part++) bytes[at + part] = word >>> (8 * part)
    }
    return bytes
  }

  #uint32(): number {
    const result = (this.#a + this.#b + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0
    return result >>> 0
  }
}

function hashText(text: string, salt: number): number {
  let hash = salt | 0
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return hash ^ (hash >>> 16)
}

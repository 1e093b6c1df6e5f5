/** Random numbers from a seed (mulberry32): the same seed makes the same choices. */
export class SeededRandom {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** From 0, below 1. */
  unit(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let x = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }

  /** Both bounds inclusive. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.unit() * (max - min + 1))
  }

  chance(share: number): boolean {
    return this.unit() < share
  }
}

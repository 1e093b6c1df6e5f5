/** What the simulated network and disk do to bytes so that a misuse of them shows. */

/** A 32-bit hash, four bytes at a time, in the manner of MurmurHash3. Finds changes; withstands nobody. */
export function hashBytes(bytes: Uint8Array, seed = 0): number {
  const length = bytes.byteLength
  const whole = length & ~3
  let hash = seed | 0
  let at = 0
  for (; at < whole; at += 4) {
    const word =
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24)
    hash = mix(hash, word)
  }
  for (; at < length; at++) hash = mix(hash, bytes[at] as number)
  return mix(hash, length)
}

/** One round of MurmurHash3: takes `word` into `hash`. */
export function mix(hash: number, word: number): number {
  let scrambled = Math.imul(word, 0xcc9e2d51)
  scrambled = Math.imul((scrambled << 15) | (scrambled >>> 17), 0x1b873593)
  const turned = hash ^ scrambled
  return (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe6546b64) | 0
}

const displacement = 5

/** Small ones share a buffer, since making one takes longer than all that is done with it. Never used again. */
const slabBytes = 64 << 10
let slab = new ArrayBuffer(0)
let slabUsed = 0

/**
 * Room for `length` bytes that do not begin where their buffer begins, nor where a larger number may stand, as it is
 * with bytes from a real socket or database: code that takes `bytes.buffer` for the bytes fails at once.
 */
export function displacedBytes(length: number): Uint8Array<ArrayBuffer> {
  const size = (displacement + length + 7) & ~7
  if (size > slabBytes / 8) return new Uint8Array(new ArrayBuffer(size), displacement, length)
  if (slabUsed + size > slab.byteLength) {
    slab = new ArrayBuffer(slabBytes)
    slabUsed = 0
  }
  const bytes = new Uint8Array(slab, slabUsed + displacement, length)
  slabUsed += size
  return bytes
}

export function displacedCopy(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const copy = displacedBytes(bytes.byteLength)
  copy.set(bytes)
  return copy
}

/** Makes sure that bytes kept beyond their time are not mistaken for good ones. */
export function poison(bytes: Uint8Array): void {
  bytes.fill(0xdb)
}

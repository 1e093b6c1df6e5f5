/**
 * The chain of a log: what stands in an entry is made of its predecessor's, so equal chain means equal history (LOG.md).
 *
 * It is the first 8 bytes of SHA-256 over 28, which is always one block, after FIPS 180-4, section 6.2.2. Node's `hash` gives
 * the same and takes three to eight times as long for so little, most of it for the call and the Buffer that it returns;
 * and each entry needs one, of however few messages.
 */
import type { Epoch, Offset } from '../types.ts'

export const chainStart: Uint8Array = new Uint8Array(8)

/** The first 32 bits of the fractions of the roots of the first primes; a double has 50 of them. */
function fractions(root: (prime: number) => number, count: number): Int32Array {
  const primes: number[] = []
  for (let n = 2; primes.length < count; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n)
  return Int32Array.from(primes, (prime) => (root(prime) % 1) * 2 ** 32)
}

const initial = fractions(Math.sqrt, 8)
const constants = fractions(Math.cbrt, 64)
const schedule = new Int32Array(64)
const inputBits = 28 * 8

/** The chain of the entry with that epoch, base and crc, after `previous`: of them in this order, big-endian, 8, 8, 8 and 4 bytes. */
export function nextChain(previous: Uint8Array, epoch: Epoch, base: Offset, crc: number): Uint8Array {
  schedule[0] = readI32(previous, 0)
  schedule[1] = readI32(previous, 4)
  schedule[2] = Math.floor(epoch / 0x1_0000_0000)
  schedule[3] = epoch
  schedule[4] = Math.floor(base / 0x1_0000_0000)
  schedule[5] = base
  schedule[6] = crc
  schedule[7] = 0x8000_0000
  schedule.fill(0, 8, 15)
  schedule[15] = inputBits
  const chain = new Uint8Array(8)
  compress(chain)
  return chain
}

/** The first 8 bytes of the digest of the block that `schedule` begins with. */
function compress(into: Uint8Array): void {
  const w = schedule
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15]!
    const y = w[i - 2]!
    const sigma0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)
    const sigma1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10)
    w[i] = w[i - 16]! + sigma0 + w[i - 7]! + sigma1
  }
  let a = initial[0]!
  let b = initial[1]!
  let c = initial[2]!
  let d = initial[3]!
  let e = initial[4]!
  let f = initial[5]!
  let g = initial[6]!
  let h = initial[7]!
  for (let i = 0; i < 64; i++) {
    const sum1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
    const choice = (e & f) ^ (~e & g)
    const t1 = (h + sum1 + choice + constants[i]! + w[i]!) | 0
    const sum0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
    const majority = (a & b) ^ (a & c) ^ (b & c)
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + sum0 + majority) | 0
  }
  writeI32(into, 0, a + initial[0]!)
  writeI32(into, 4, b + initial[1]!)
}

function readI32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!
}

function writeI32(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 24
  into[at + 1] = value >>> 16
  into[at + 2] = value >>> 8
  into[at + 3] = value
}

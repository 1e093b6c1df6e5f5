/**
 * Spoils frames where it hurts: heads of values, lengths, counts and the places between values rather than any byte.
 * One seed decides everything, so that a failure can be had again.
 */

export interface FuzzOptions {
  readonly seed: number
  readonly runs: number
}

/**
 * How much to do: MQ_FUZZ_RUNS and MQ_FUZZ_SEED, else a share that takes seconds, with a seed that is the same each
 * time. `MQ_FUZZ_SEED=fresh` draws one.
 */
export function fuzzOptions(runs: number): FuzzOptions {
  const { MQ_FUZZ_SEED: seed, MQ_FUZZ_RUNS: wanted } = process.env
  return {
    seed: seed === 'fresh' ? Math.floor(Math.random() * 2 ** 32) : Number(seed ?? 20_251_124) >>> 0,
    runs: Number(wanted ?? runs),
  }
}

/** What a failure says, so that it can be had again. */
export function replay({ seed }: FuzzOptions, run: number): string {
  return `run ${run} of MQ_FUZZ_SEED=${seed}`
}

/** A small generator of its own: fast-check draws the frames, this spoils them. */
export function generator(seed: number) {
  let state = seed >>> 0
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/** Heads that claim much, types that are refused, and numbers at their edges. */
const splices = [
  [0xc1],
  [0xdd, 0xff, 0xff, 0xff, 0xff],
  [0xdf, 0x7f, 0xff, 0xff, 0xff],
  [0xc6, 0, 0xff, 0xff, 0xff],
  [0xdb, 0, 0, 0xff, 0xff],
  [0xcf, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xd3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
  [0xcb, 0x43, 0x40, 0, 0, 0, 0, 0, 0],
  [0xd4, 0x72, 0x40],
  [0xa9, ...Buffer.from('__proto__')],
  [0xa2, 0xff, 0xfe],
  [0xa1, 0],
  [0xc0],
  [0x80],
  [0x90],
  new Array<number>(20).fill(0x91),
]

/** Where values begin, as far as the frame is sound: where a change is most likely to mean something. */
function headsOf(value: Uint8Array): number[] {
  const heads: number[] = []
  for (let at = 0; at < value.length;) {
    heads.push(at)
    const token = value[at]!
    if (token >= 0xa0 && token < 0xc0) at += 1 + (token & 0x1f)
    else if (token === 0xc4 || token === 0xd9) at += 2 + (value[at + 1] ?? 0)
    else if (token === 0xc5 || token === 0xda) at += 3 + ((value[at + 1] ?? 0) << 8) + (value[at + 2] ?? 0)
    else
      at += [0xcc, 0xd0].includes(token) ? 2 : [0xcd, 0xdc, 0xde].includes(token) ? 3 : token === 0xce ? 5 : 1
  }
  return heads
}

export function spoil(value: Uint8Array, below: (n: number) => number): Uint8Array {
  let bytes = Uint8Array.from(value)
  for (let times = 1 + below(3); times > 0 && bytes.length > 0; times--) {
    const heads = headsOf(bytes)
    const at = below(4) === 0 ? below(bytes.length) : heads[below(heads.length)]!
    const splice = splices[below(splices.length)]!
    const other = heads[below(heads.length)]!
    switch (below(7)) {
      case 0:
        bytes[at] = below(256)
        break
      case 1:
        bytes[at] = bytes[at]! ^ (1 << below(8))
        break
      case 2:
        bytes = bytes.subarray(0, at)
        break
      case 3:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...splice, ...bytes.subarray(at)])
        break
      case 4:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...splice, ...bytes.subarray(at + splice.length)])
        break
      case 5:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.max(at, other))])
        break
      default:
        bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(Math.min(at, other))])
    }
  }
  return bytes
}

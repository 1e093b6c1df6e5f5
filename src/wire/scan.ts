/**
 * The gate before any decoder. A hostile value can be small and yet decode to something huge, or deep, or to a
 * class nobody asked for; this walk finds that out without allocating a byte, so that whatever decodes afterwards
 * may trust structure, counts, UTF-8 and keys.
 */
import { MqError, type MqErrorCode } from '../errors.ts'

/** Containers inside containers, the outermost counted. */
export const nestingMax = 16

/** Items still to come in each container around the current one; a map's entry is two items. */
const itemsLeft = new Int32Array(nestingMax + 1)
const isMap = new Uint8Array(nestingMax + 1)

/** Payload bytes of the tokens 0xCA … 0xD3: floats, unsigned and signed integers. */
const numberBytes = Uint8Array.of(4, 8, 1, 2, 4, 8, 1, 2, 4, 8)

/**
 * Walks the one msgpack value that begins at `from`; nothing at or behind `end` is looked at.
 * @returns the position behind the value
 * @throws MqError BAD_FRAME: the value goes on past `end`; DECODE_LIMIT: nested deeper than 16, or a count or length
 *   that exceeds what remains; UNSUPPORTED_TYPE: extensions, 0xC1, map keys that are no strings; INVALID_FIELD:
 *   integers beyond ±(2^53-1), NaN, infinities, invalid UTF-8, the key `__proto__`
 */
export function scanValue(bytes: Uint8Array, from: number, end: number): number {
  let at = from
  let depth = 0
  let left = 1
  let inMap = 0
  for (;;) {
    while (left === 0) {
      if (depth === 0) return at
      depth--
      left = itemsLeft[depth]!
      inMap = isMap[depth]!
    }
    if (at >= end) throw refuse('BAD_FRAME', 'the value is not complete', at)
    const token = bytes[at++]!
    const isKey = inMap === 1 && (left & 1) === 0
    left--
    if (isKey && !((token >= 0xa0 && token < 0xc0) || (token >= 0xd9 && token <= 0xdb))) {
      throw refuse('UNSUPPORTED_TYPE', 'a map key is not a string', at - 1)
    }
    if (token < 0x80 || token >= 0xe0) continue

    // Whatever has a length or a count leaves the switch with it; the rest goes on to the next item.
    let count: number
    let kind: 'str' | 'bin' | 'array' | 'map'
    if (token < 0xc0) {
      kind = token < 0x90 ? 'map' : token < 0xa0 ? 'array' : 'str'
      count = token < 0xa0 ? token & 0x0f : token & 0x1f
    } else {
      switch (token) {
        case 0xc0:
        case 0xc2:
        case 0xc3:
          continue
        case 0xc4:
        case 0xd9:
          if (at + 1 > end) throw refuse('BAD_FRAME', 'a length is not complete', at)
          count = bytes[at]!
          at += 1
          kind = token === 0xc4 ? 'bin' : 'str'
          break
        case 0xc5:
        case 0xda:
        case 0xdc:
        case 0xde:
          if (at + 2 > end) throw refuse('BAD_FRAME', 'a length is not complete', at)
          count = (bytes[at]! << 8) | bytes[at + 1]!
          at += 2
          kind = token === 0xc5 ? 'bin' : token === 0xda ? 'str' : token === 0xdc ? 'array' : 'map'
          break
        case 0xc6:
        case 0xdb:
        case 0xdd:
        case 0xdf:
          if (at + 4 > end) throw refuse('BAD_FRAME', 'a length is not complete', at)
          count = uint32At(bytes, at)
          at += 4
          kind = token === 0xc6 ? 'bin' : token === 0xdb ? 'str' : token === 0xdd ? 'array' : 'map'
          break
        case 0xca:
        case 0xcb:
        case 0xcc:
        case 0xcd:
        case 0xce:
        case 0xcf:
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3: {
          const size = numberBytes[token - 0xca]!
          if (at + size > end) throw refuse('BAD_FRAME', 'a number is not complete', at)
          checkNumber(bytes, token, at)
          at += size
          continue
        }
        case 0xc1:
          throw refuse('UNSUPPORTED_TYPE', 'the byte C1 is no value', at - 1)
        default:
          throw refuse('UNSUPPORTED_TYPE', 'extension types are not used', at - 1)
      }
    }

    if (kind === 'bin' || kind === 'str') {
      if (count > end - at) throw refuse('DECODE_LIMIT', 'a length exceeds what remains', at)
      if (kind === 'str') checkText(bytes, at, at + count, isKey)
      at += count
      continue
    }
    const items = kind === 'map' ? count * 2 : count
    if (items > end - at) throw refuse('DECODE_LIMIT', 'a count exceeds what remains', at)
    if (depth === nestingMax) throw refuse('DECODE_LIMIT', `nested deeper than ${nestingMax}`, at)
    itemsLeft[depth] = left
    isMap[depth] = inMap
    depth++
    left = items
    inMap = kind === 'map' ? 1 : 0
  }
}

/** The big-endian u32 at `at`. */
export function uint32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

function checkNumber(bytes: Uint8Array, token: number, at: number): void {
  if (token === 0xcf) {
    // 2^53 - 1 has 21 bits in its upper word.
    if (uint32At(bytes, at) > 0x1fffff) throw refuse('INVALID_FIELD', 'an integer exceeds 2^53-1', at)
  } else if (token === 0xd3) {
    const value = (uint32At(bytes, at) | 0) * 0x1_0000_0000 + uint32At(bytes, at + 4)
    if (!Number.isSafeInteger(value)) throw refuse('INVALID_FIELD', 'an integer exceeds 2^53-1', at)
  } else if (token === 0xcb || token === 0xca) {
    // All bits of the exponent set: NaN or an infinity.
    const second = token === 0xcb ? 0xf0 : 0x80
    if ((bytes[at]! & 0x7f) === 0x7f && (bytes[at + 1]! & second) === second) {
      throw refuse('INVALID_FIELD', 'a number is NaN or infinite', at)
    }
  }
}

/** "__proto__" */
const protoKey = Uint8Array.of(0x5f, 0x5f, 0x70, 0x72, 0x6f, 0x74, 0x6f, 0x5f, 0x5f)

function checkText(bytes: Uint8Array, from: number, end: number, isKey: boolean): void {
  if (!isUtf8(bytes, from, end)) throw refuse('INVALID_FIELD', 'a string is not valid UTF-8', from)
  if (!isKey || end - from !== protoKey.length) return
  for (let i = 0; i < protoKey.length; i++) if (bytes[from + i] !== protoKey[i]) return
  throw refuse('INVALID_FIELD', "'__proto__' is no key", from)
}

/** Whether the bytes are UTF-8 as Unicode defines it: no surrogates, no overlong forms, nothing over U+10FFFF. */
function isUtf8(bytes: Uint8Array, from: number, end: number): boolean {
  let at = from
  while (at < end) {
    const first = bytes[at++]!
    if (first < 0x80) continue
    // The second byte's range carries the exclusions; see Unicode 15, table 3-7.
    let low = 0x80
    let high = 0xbf
    let more: number
    if (first < 0xc2) return false
    if (first < 0xe0) more = 1
    else if (first < 0xf0) {
      more = 2
      if (first === 0xe0) low = 0xa0
      else if (first === 0xed) high = 0x9f
    } else if (first < 0xf5) {
      more = 3
      if (first === 0xf0) low = 0x90
      else if (first === 0xf4) high = 0x8f
    } else return false
    if (end - at < more) return false
    const second = bytes[at++]!
    if (second < low || second > high) return false
    for (; more > 1; more--) if ((bytes[at++]! & 0xc0) !== 0x80) return false
  }
  return true
}

function refuse(code: MqErrorCode, what: string, at: number): MqError {
  return new MqError(code, `${what} (byte ${at})`)
}

/**
 * Reading and writing msgpack item by item, for what is too hot, or too particular, for a general decoder. A
 * `Cursor` reads bytes that `scanValue` has passed: structure is not checked again, meaning is.
 */
import { invariant, MqError } from '../errors.ts'
import { uint32At } from './scan.ts'

/** Node's native readers; they take any Uint8Array as `this`, which spares wrapping each frame in a Buffer. */
const native = Buffer.prototype as unknown as {
  latin1Slice(this: Uint8Array, from: number, to: number): string
  utf8Slice(this: Uint8Array, from: number, to: number): string
  hexSlice(this: Uint8Array, from: number, to: number): string
}

export function latin1Of(bytes: Uint8Array, from: number, end: number): string {
  return native.latin1Slice.call(bytes, from, end)
}

export function hexOf(bytes: Uint8Array, from: number, end: number): string {
  return native.hexSlice.call(bytes, from, end)
}

/** The text of bytes that are known to be UTF-8. */
export function utf8Of(bytes: Uint8Array, from: number, end: number): string {
  return native.utf8Slice.call(bytes, from, end)
}

/** INVALID_FIELD, naming the field. */
export function invalidField(field: string, why: string): MqError {
  return new MqError('INVALID_FIELD', `'${field}' ${why}`, { details: { field } })
}

const floatBytes = new Uint8Array(8)
const float = new DataView(floatBytes.buffer)

/** Reads scanned values one after the other. Each method but `peek` moves behind what it read. */
export class Cursor {
  readonly bytes: Uint8Array
  at: number

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes
    this.at = at
  }

  /** The next value's first byte. */
  peek(): number {
    return this.bytes[this.at]!
  }

  /** Passes a nil and says so; stays before anything else. */
  nil(): boolean {
    if (this.bytes[this.at] !== 0xc0) return false
    this.at++
    return true
  }

  /**
   * An integer from `min` to `max`, both included, in whatever form it was written.
   * @throws MqError INVALID_FIELD
   */
  integer(field: string, min: number, max: number): number {
    const token = this.bytes[this.at]!
    let value: number
    if (token < 0x80) {
      this.at++
      value = token
    } else value = this.#number(token)
    // NaN, which stands for all that is no number, fails the comparison too.
    if (value >= min && value <= max && Number.isInteger(value)) return value
    throw invalidField(field, `must be an integer from ${min} to ${max}`)
  }

  #number(token: number): number {
    const { bytes } = this
    const at = this.at + 1
    switch (token) {
      case 0xcc:
        this.at += 2
        return bytes[at]!
      case 0xcd:
        this.at += 3
        return (bytes[at]! << 8) | bytes[at + 1]!
      case 0xce:
        this.at += 5
        return uint32At(bytes, at)
      case 0xcf:
        this.at += 9
        return uint32At(bytes, at) * 0x1_0000_0000 + uint32At(bytes, at + 4)
      case 0xd0:
        this.at += 2
        return (bytes[at]! << 24) >> 24
      case 0xd1:
        this.at += 3
        return ((bytes[at]! << 24) | (bytes[at + 1]! << 16)) >> 16
      case 0xd2:
        this.at += 5
        return uint32At(bytes, at) | 0
      case 0xd3:
        this.at += 9
        return (uint32At(bytes, at) | 0) * 0x1_0000_0000 + uint32At(bytes, at + 4)
      case 0xca:
        this.at += 5
        for (let i = 0; i < 4; i++) floatBytes[i] = bytes[at + i]!
        return float.getFloat32(0)
      case 0xcb:
        this.at += 9
        for (let i = 0; i < 8; i++) floatBytes[i] = bytes[at + i]!
        return float.getFloat64(0)
      default:
        if (token < 0xe0) return NaN
        this.at += 1
        return token - 0x100
    }
  }

  /** @throws MqError INVALID_FIELD */
  boolean(field: string): boolean {
    const token = this.bytes[this.at]!
    if (token !== 0xc2 && token !== 0xc3) throw invalidField(field, 'must be true or false')
    this.at++
    return token === 0xc3
  }

  /**
   * Passes the head of a string and returns its length in bytes, or -1 when the next value is no string.
   * The text stands at `at`; the caller moves on.
   */
  stringHead(): number {
    const token = this.bytes[this.at]!
    if (token >= 0xa0 && token < 0xc0) {
      this.at++
      return token & 0x1f
    }
    if (token === 0xd9) return this.#length(1)
    if (token === 0xda) return this.#length(2)
    if (token === 0xdb) return this.#length(4)
    return -1
  }

  /**
   * A string of at most `bytesMax` bytes.
   * @throws MqError INVALID_FIELD
   */
  text(field: string, bytesMax: number): string {
    const length = this.stringHead()
    if (length < 0) throw invalidField(field, 'must be a string')
    if (length > bytesMax) throw invalidField(field, `must be at most ${bytesMax} bytes`)
    this.at += length
    return utf8Of(this.bytes, this.at - length, this.at)
  }

  /**
   * A string of at most `bytesMax` bytes, without NUL: what names something.
   * @throws MqError INVALID_FIELD
   */
  name(field: string, bytesMax: number): string {
    const text = this.text(field, bytesMax)
    if (text.includes('\0')) throw invalidField(field, 'must not contain NUL')
    return text
  }

  /**
   * Passes the head of a bin and returns its length. The bytes stand at `at`; the caller moves on.
   * @throws MqError INVALID_FIELD
   */
  binHead(field: string): number {
    const token = this.bytes[this.at]!
    if (token === 0xc4) return this.#length(1)
    if (token === 0xc5) return this.#length(2)
    if (token === 0xc6) return this.#length(4)
    throw invalidField(field, 'must be bin')
  }

  /**
   * A bin, as a view.
   * @throws MqError INVALID_FIELD
   */
  bin(field: string): Uint8Array {
    const length = this.binHead(field)
    const from = this.at
    this.at += length
    return this.bytes.subarray(from, this.at)
  }

  /**
   * Where a bin of exactly 16 bytes begins.
   * @throws MqError INVALID_FIELD
   */
  bin16(field: string): number {
    if (this.binHead(field) !== 16) throw invalidField(field, 'must be bin of 16 bytes')
    const from = this.at
    this.at += 16
    return from
  }

  /** Passes the head of an array and returns its length, or -1 when the next value is no array. */
  arrayHead(): number {
    const token = this.bytes[this.at]!
    if (token >= 0x90 && token < 0xa0) {
      this.at++
      return token & 0x0f
    }
    if (token === 0xdc) return this.#length(2)
    if (token === 0xdd) return this.#length(4)
    return -1
  }

  /** Passes the head of a map and returns its number of entries, or -1 when the next value is no map. */
  mapHead(): number {
    const token = this.bytes[this.at]!
    if (token >= 0x80 && token < 0x90) {
      this.at++
      return token & 0x0f
    }
    if (token === 0xde) return this.#length(2)
    if (token === 0xdf) return this.#length(4)
    return -1
  }

  #length(size: 1 | 2 | 4): number {
    const { bytes } = this
    const at = this.at + 1
    this.at = at + size
    if (size === 1) return bytes[at]!
    return size === 2 ? (bytes[at]! << 8) | bytes[at + 1]! : uint32At(bytes, at)
  }
}

const slabBytes = 64 << 10

/**
 * Writes values one after the other. Space is cut from slabs that are never written again once handed out, so a
 * small frame costs no allocation but its view.
 */
export class Writer {
  bytes: Uint8Array
  at: number

  /** Over memory of the caller's, or over slabs of its own. */
  constructor(bytes: Uint8Array = Buffer.allocUnsafeSlow(slabBytes), at = 0) {
    this.bytes = bytes
    this.at = at
  }

  /** Makes room for `bytesMax` more and returns where they begin. */
  begin(bytesMax: number): number {
    if (this.bytes.length - this.at < bytesMax) {
      this.bytes = Buffer.allocUnsafeSlow(Math.max(slabBytes, bytesMax))
      this.at = 0
    }
    return this.at
  }

  /** What was written since `from`. */
  since(from: number): Uint8Array {
    return this.bytes.subarray(from, this.at)
  }

  u32At(at: number, value: number): void {
    const { bytes } = this
    bytes[at] = value >>> 24
    bytes[at + 1] = value >>> 16
    bytes[at + 2] = value >>> 8
    bytes[at + 3] = value
  }

  u32(value: number): void {
    this.u32At(this.at, value)
    this.at += 4
  }

  byte(value: number): void {
    this.bytes[this.at++] = value
  }

  nil(): void {
    this.byte(0xc0)
  }

  boolean(value: boolean): void {
    this.byte(value ? 0xc3 : 0xc2)
  }

  /** At most 9 bytes. Anything but a safe integer ≥ 0 is a defect of the caller. */
  integer(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) invariant(false, `${value} is written as an integer`)
    if (value < 0x80) this.byte(value)
    else if (value < 0x1_0000_0000) {
      if (value < 0x100) {
        this.byte(0xcc)
        this.byte(value)
      } else if (value < 0x1_0000) {
        this.byte(0xcd)
        this.byte(value >>> 8)
        this.byte(value)
      } else {
        this.byte(0xce)
        this.u32(value)
      }
    } else {
      this.byte(0xcf)
      this.u32(Math.floor(value / 0x1_0000_0000))
      this.u32(value >>> 0)
    }
  }

  integerOrNil(value: number | null): void {
    if (value === null) this.nil()
    else this.integer(value)
  }

  /** 5 bytes at most, for any `length`. */
  arrayHead(length: number): void {
    if (length < 16) this.byte(0x90 | length)
    else this.#head(length < 0x1_0000 ? 0xdc : 0xdd, length, length < 0x1_0000 ? 2 : 4)
  }

  /** 5 bytes at most. */
  binHead(length: number): void {
    if (length < 0x100) this.#head(0xc4, length, 1)
    else if (length < 0x1_0000) this.#head(0xc5, length, 2)
    else this.#head(0xc6, length, 4)
  }

  #head(token: number, length: number, size: 1 | 2 | 4): void {
    this.byte(token)
    if (size === 4) return this.u32(length)
    if (size === 2) this.byte(length >>> 8)
    this.byte(length)
  }

  /** Bytes as they are. */
  raw(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.at)
    this.at += bytes.length
  }

  /** A bin of 16 bytes (18 in all) from 32 hexadecimal digits. */
  hex16(hex: string): void {
    invariant(hex.length === 32, 'a queue id has 32 digits')
    this.byte(0xc4)
    this.byte(16)
    for (let i = 0; i < 32; i += 2) {
      this.byte((hexDigit(hex.charCodeAt(i)) << 4) | hexDigit(hex.charCodeAt(i + 1)))
    }
  }

  /** A bin of 16 bytes (18 in all) from as many latin1 characters. */
  latin16(text: string): void {
    invariant(text.length === 16, 'a producer id has 16 characters')
    this.byte(0xc4)
    this.byte(16)
    for (let i = 0; i < 16; i++) this.byte(text.charCodeAt(i))
  }
}

function hexDigit(code: number): number {
  // '0' … '9' are 0x30 … 0x39; 'a' … 'f' and 'A' … 'F' end in 1 … 6.
  return code <= 0x39 ? code - 0x30 : (code & 0x0f) + 9
}

import { Packr } from 'msgpackr/pack'
import { Unpackr } from 'msgpackr/unpack'
import { MqError } from '../errors.ts'
import { scanBody } from './value-scan.ts'

/** How values that are neither strings nor bytes become bodies. */
export interface Serializer {
  /**
   * Goes with every batch, so that a receiver knows how to decode: 1 to 255 bytes, not `text` (strings). A client
   * decodes with its own serializer what carries its name, else with msgpack what carries `msgpack`.
   */
  readonly name: string
  /** The bytes, not changed any more by the serializer. What it throws, `send` rejects with, as INVALID_FIELD. */
  encode(value: unknown): Uint8Array
  /** `bytes` come from a peer, and are valid only within the call unless they are copied. */
  decode(bytes: Uint8Array): unknown
}

/** The serializer's name of strings: UTF-8. */
export const textSerializer = 'text'

// Typed arrays need `moreTypes`: without it they are packed as other bytes of this process's memory.
const packr = new Packr({
  useRecords: false,
  variableMapSize: true,
  moreTypes: true,
  // Else it would arrive as undefined.
  writeFunction() {
    throw new TypeError('a function is no value')
  },
})
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, moreTypes: true })

/**
 * The default: plain data, dates, `undefined`, bigints of 64 bits, bytes and typed arrays come back as they were;
 * a Map as an object. What would not (sets, errors, regular expressions, functions, cycles) is refused when it is sent.
 */
export const msgpackSerializer: Serializer = {
  name: 'msgpack',
  encode(value) {
    const bytes = packr.pack(value)
    const why = scanBody(bytes)
    if (why !== null) throw new TypeError(`the value ${why}`)
    return bytes
  },
  decode(bytes) {
    const why = scanBody(bytes)
    if (why !== null) throw new TypeError(`the body ${why}`)
    return unpackr.unpack(bytes) as unknown
  },
}

/** @throws MqError INVALID_OPTION */
export function checkSerializer(serializer: Serializer): Serializer {
  const { name } = serializer
  const named = typeof name === 'string' && Buffer.byteLength(name) >= 1 && Buffer.byteLength(name) <= 255
  if (!named || name === textSerializer || name.includes('\0')) {
    throw new MqError(
      'INVALID_OPTION',
      `'serializer' needs a name of 1 to 255 bytes that is not '${textSerializer}'`,
    )
  }
  if (typeof serializer.encode !== 'function' || typeof serializer.decode !== 'function') {
    throw new MqError('INVALID_OPTION', "'serializer' needs the functions encode and decode")
  }
  return serializer
}

/** @throws MqError INVALID_FIELD, outcome failed */
export function encodeValue(serializer: Serializer, value: unknown): Uint8Array {
  let bytes: unknown
  try {
    bytes = serializer.encode(value)
  } catch (cause) {
    throw new MqError('INVALID_FIELD', `the body cannot be encoded: ${messageOf(cause)}`, {
      outcome: 'failed',
      cause,
    })
  }
  if (bytes instanceof Uint8Array) return bytes
  throw new MqError('INVALID_FIELD', `the serializer '${serializer.name}' made no bytes`, {
    outcome: 'failed',
  })
}

/**
 * The value of a body that says it was made by the serializer `name`; bytes are their own value.
 * @throws MqError UNSUPPORTED: this client has no such serializer; INVALID_FIELD: the body is not what it says
 */
export function decodeValue(own: Serializer, name: string | null, body: Uint8Array): unknown {
  if (name === null) return body
  if (name === textSerializer) return textOf(body)
  const serializer = name === own.name ? own : name === msgpackSerializer.name ? msgpackSerializer : null
  if (serializer === null) {
    const message = `the body was made by the serializer '${name}': connect with it, or read the bytes of 'body'`
    throw new MqError('UNSUPPORTED', message, { details: { serializer: name } })
  }
  try {
    return serializer.decode(body)
  } catch (cause) {
    const message = `the body is not what its serializer '${name}' makes: ${messageOf(cause)}`
    throw new MqError('INVALID_FIELD', message, { details: { serializer: name }, cause })
  }
}

/** UTF-8; bytes that are not become U+FFFD. A leading byte order mark stays. */
export function textOf(body: Uint8Array): string {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}

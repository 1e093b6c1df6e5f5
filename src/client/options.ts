import type { Address } from '../env.ts'
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import { isQueueName } from '../wire/codec.ts'
import type { SettleOptions } from '../wire/messages.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import { checkSerializer, msgpackSerializer, type Serializer } from './serializer.ts'

/** What every call takes. */
export interface CallOptions {
  /** Ends the call: it rejects with ABORTED, and `outcome` says whether a broker may have done it. */
  signal?: AbortSignal | undefined
  /** How long the call may take, in milliseconds; default 30,000. Past it the call rejects with TIMEOUT. */
  timeoutMs?: number | undefined
}

/** What a call is given that is given none. */
export const noOptions = Object.freeze({})

/** Of calls that take nothing else. */
export const callOptionNames = optionNames<CallOptions>({ signal: true, timeoutMs: true })

export interface ConnectOptions {
  /** Brokers as `host:port` or `mq://host:port`; the port is 7650 when left out. Default `['127.0.0.1:7650']`. */
  servers?: readonly string[] | string | undefined
  /** What the broker's logs call this client: up to 255 bytes. Default ''. */
  name?: string | undefined
  /** How long the first connection may take, in milliseconds; default 5,000. */
  timeoutMs?: number | undefined
  /** Ends connecting, not the client that came of it. */
  signal?: AbortSignal | undefined
  /** For bodies that are neither strings nor bytes. Default msgpack. */
  serializer?: Serializer | undefined
  /** While no broker can be reached, calls `wait` within their time (default), or `fail` at once: DISCONNECTED. */
  offline?: 'wait' | 'fail' | undefined
  /** Bytes of sends that are not confirmed; past it `send` waits. Default 64 MiB, at least 1. */
  maxPendingBytes?: number | undefined
  /** Not built yet: UNSUPPORTED. */
  tls?: unknown
}

const connectOptionNames = optionNames<ConnectOptions>({
  servers: true,
  name: true,
  timeoutMs: true,
  signal: true,
  serializer: true,
  offline: true,
  maxPendingBytes: true,
  tls: true,
})

export const defaults = {
  port: 7650,
  connectTimeoutMs: 5_000,
  timeoutMs: 30_000,
  /** How long `close` gives what is under way, while a broker answers. */
  closeTimeoutMs: 5_000,
  maxPendingBytes: 64 << 20,
} as const

/** As many as timers can count. */
const timeoutMsMax = 2 ** 31 - 1

/** `ConnectOptions`, checked and complete. */
export interface ClientSettings {
  servers: Address[]
  name: string
  timeoutMs: number
  signal: AbortSignal | undefined
  serializer: Serializer
  failsOffline: boolean
  maxPendingBytes: number
}

/** @throws MqError INVALID_OPTION, UNSUPPORTED */
export function checkConnectOptions(options: ConnectOptions): ClientSettings {
  checkOptionNames(options, connectOptionNames)
  const { servers = `127.0.0.1:${defaults.port}`, name = '', offline = 'wait' } = options
  if (options.tls !== undefined) throw unsupported('tls')
  const list = typeof servers === 'string' ? [servers] : servers
  if (!Array.isArray(list) || list.length === 0) {
    throw new MqError('INVALID_OPTION', "'servers' must be a list of at least one 'host:port'")
  }
  if (typeof name !== 'string' || Buffer.byteLength(name) > 255) {
    throw new MqError('INVALID_OPTION', "'name' must be a text of at most 255 bytes")
  }
  if (offline !== 'wait' && offline !== 'fail') {
    throw new MqError('INVALID_OPTION', "'offline' must be 'wait' or 'fail'")
  }
  const { maxPendingBytes = defaults.maxPendingBytes } = options
  if (!Number.isSafeInteger(maxPendingBytes) || maxPendingBytes < 1) {
    throw new MqError('INVALID_OPTION', "'maxPendingBytes' must be an integer from 1")
  }
  return {
    servers: (list as readonly string[]).map(parseServer),
    name,
    timeoutMs: checkTimeout(options.timeoutMs, defaults.connectTimeoutMs),
    signal: checkSignal(options.signal),
    serializer: options.serializer === undefined ? msgpackSerializer : checkSerializer(options.serializer),
    failsOffline: offline === 'fail',
    maxPendingBytes,
  }
}

/** host, [IPv6 address] or either with :port */
const hostAndPort = /^(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/[\]@]+))(?::(\d{1,5}))?$/

/** @throws MqError INVALID_OPTION, UNSUPPORTED: credentials or TLS */
export function parseServer(text: string): Address {
  const wrong = () =>
    new MqError('INVALID_OPTION', "each of 'servers' must be 'host:port' or 'mq://host:port'")
  if (typeof text !== 'string') throw wrong()
  if (text.startsWith('mqs://')) throw unsupported("TLS ('mqs://')")
  const rest = text.startsWith('mq://') ? text.slice('mq://'.length).replace(/\/$/, '') : text
  // The text may hold a secret, so no message repeats it.
  if (rest.includes('@')) throw unsupported('a user and a secret')
  const parts = hostAndPort.exec(rest)
  const host = parts?.[1] ?? parts?.[2]
  const port = Number(parts?.[3] ?? defaults.port)
  if (host === undefined || port < 1 || port > 0xffff) throw wrong()
  return { host, port }
}

/** @throws MqError INVALID_OPTION */
export function checkTimeout(
  timeoutMs: number | undefined,
  byDefaultMs: number = defaults.timeoutMs,
): number {
  if (timeoutMs === undefined) return byDefaultMs
  if (typeof timeoutMs !== 'number' || !(timeoutMs >= 0)) {
    throw new MqError('INVALID_OPTION', "'timeoutMs' must be a number of milliseconds from 0", {
      outcome: 'failed',
    })
  }
  return Math.min(Math.ceil(timeoutMs), timeoutMsMax)
}

/** @throws MqError INVALID_OPTION; ABORTED, outcome failed, when it has been aborted already */
export function checkSignal(signal: AbortSignal | undefined): AbortSignal | undefined {
  if (signal === undefined) return undefined
  if (!(signal instanceof AbortSignal)) {
    throw new MqError('INVALID_OPTION', "'signal' must be an AbortSignal", { outcome: 'failed' })
  }
  if (signal.aborted) {
    throw new MqError('ABORTED', 'the call was aborted before it began', {
      outcome: 'failed',
      cause: signal.reason,
    })
  }
  return signal
}

/** @throws MqError INVALID_NAME */
export function checkQueueName(name: string): void {
  if (typeof name === 'string' && isQueueName(name)) return
  const message = `a queue's name has 1 to ${limits.queueNameBytesMax} of A-Z a-z 0-9 . _ -, a letter or digit first, no '..'`
  throw new MqError('INVALID_NAME', message, { outcome: 'failed' })
}

/** @throws MqError INVALID_FIELD */
export function checkInteger(field: string, value: unknown, min: number, max: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max)
    return value as number
  throw new MqError('INVALID_FIELD', `'${field}' must be an integer from ${min} to ${max}`, {
    outcome: 'failed',
    details: { field },
  })
}

/** How long messages are leased, in milliseconds; null: as the queue says. @throws MqError INVALID_FIELD */
export function checkVisibilityTimeout(ms: number | undefined): number | null {
  return ms === undefined ? null : checkInteger('visibilityTimeoutMs', ms, 1, limits.visibilityTimeoutMsMax)
}

/** @throws MqError INVALID_FIELD */
export function checkArray(field: string, value: unknown): void {
  if (Array.isArray(value)) return
  throw new MqError('INVALID_FIELD', `'${field}' must be an array`, { outcome: 'failed', details: { field } })
}

/** How a nack is meant. */
export interface NackOptions extends CallOptions {
  /** How long the message rests, in milliseconds, up to a year. Default: as the queue's `backoff` says. */
  delayMs?: number | undefined
  /** Why it failed: up to 1 KiB of UTF-8, kept with the failure. */
  reason?: string | undefined
}

const nackOptionNames = optionNames<NackOptions>({
  signal: true,
  timeoutMs: true,
  delayMs: true,
  reason: true,
})

/** @throws MqError INVALID_FIELD, INVALID_OPTION */
export function checkNackOptions(options: NackOptions): SettleOptions | null {
  checkOptionNames(options, nackOptionNames)
  const { delayMs, reason } = options
  if (delayMs === undefined && reason === undefined) return null
  return {
    delayMs: delayMs === undefined ? null : checkInteger('delayMs', delayMs, 0, limits.delayMsMax),
    reason: checkReason(reason),
  }
}

/** Why a message failed or is given up; null: nobody says. @throws MqError INVALID_FIELD */
export function checkReason(reason: string | undefined): string | null {
  if (reason === undefined) return null
  if (typeof reason === 'string' && Buffer.byteLength(reason) <= limits.reasonBytesMax) return reason
  throw new MqError('INVALID_FIELD', `'reason' must be a text of at most ${limits.reasonBytesMax} bytes`, {
    outcome: 'failed',
    details: { field: 'reason' },
  })
}

/** The one refusal of what the contract names and this version does not do. */
export function unsupported(what: string): MqError {
  return new MqError('UNSUPPORTED', `${what} is not supported by this version`, { outcome: 'failed' })
}

/**
 * How people write durations, sizes and addresses in options, and how they are written back. Nothing here knows an
 * option: limits are checked where the option is declared. Free of packages, so that the client's commands start
 * without loading the server's.
 */
import type { Address } from './env.ts'

const durationUnits = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
const sizeUnits = { kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3 } as const

/** What a duration looks like: the second half of a sentence that names a bad one. */
export const durationForm =
  'a duration is a number of milliseconds, or has a unit as in 250ms, 30s, 5m, 12h, 7d'
export const sizeForm = 'a size is a number of bytes, or has a unit as in 64KiB, 16MiB, 1GiB'
export const addressForm = 'an address is HOST:PORT, as in 127.0.0.1:7650, localhost:0 or [::1]:7650'

/** Milliseconds, or undefined if `text` is no duration, or not a whole number of milliseconds. */
export function parseDurationMs(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text)
  if (match === null) return undefined
  return whole(Number(match[1]) * durationUnits[(match[2] ?? 'ms') as keyof typeof durationUnits])
}

/** Bytes, or undefined if `text` is no size, or not a whole number of bytes. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?) ?([kmg]ib)?$/i.exec(text)
  if (match === null) return undefined
  const unit = match[2]?.toLowerCase() as keyof typeof sizeUnits | undefined
  return whole(Number(match[1]) * (unit === undefined ? 1 : sizeUnits[unit]))
}

/** A count, or undefined: digits only, so that `1e3`, `0x10` and `-1` are refused rather than guessed at. */
export function parseCount(text: string): number | undefined {
  return /^\d+$/.test(text) ? whole(Number(text)) : undefined
}

/** An address to listen at or to connect to; port 0 is allowed, a missing host or port is not. */
export function parseAddress(text: string): Address | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]{2,45}(?:%[A-Za-z0-9]+)?)\]|([A-Za-z0-9._-]{1,253})):(\d{1,5})$/.exec(
    text,
  )
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || port > 65_535) return undefined
  return { host, port }
}

export function formatAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** Whether only this machine can reach the address. A name other than localhost may lead anywhere. */
export function isLoopback({ host }: Address): boolean {
  return host === 'localhost' || host === '::1' || /^(::ffff:)?127(\.\d{1,3}){3}$/i.test(host)
}

/** The shortest exact form: `30s`, `12h`, `250ms`. */
export function formatDuration(ms: number): string {
  const unit =
    ms === 0 ? 'ms' : (['d', 'h', 'm', 's'] as const).find((unit) => ms % durationUnits[unit] === 0)
  return unit === undefined ? `${ms}ms` : `${ms / durationUnits[unit]}${unit}`
}

/** The shortest exact form: `64MiB`, `1000` (bytes). */
export function formatBytes(bytes: number): string {
  if (bytes === 0) return '0'
  if (bytes % sizeUnits.gib === 0) return `${bytes / sizeUnits.gib}GiB`
  if (bytes % sizeUnits.mib === 0) return `${bytes / sizeUnits.mib}MiB`
  if (bytes % sizeUnits.kib === 0) return `${bytes / sizeUnits.kib}KiB`
  return String(bytes)
}

function whole(value: number): number | undefined {
  // 0.1s is 100.00000000000001 ms or so: what matters is that the writer meant a whole number.
  const rounded = Math.round(value)
  return Number.isSafeInteger(rounded) && Math.abs(value - rounded) < 1e-6 ? rounded : undefined
}

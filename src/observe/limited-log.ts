import type { Clock } from '../env.ts'

/** Lines of one kind in each period; what is more is counted. */
const linesMax = 20
const periodMs = 10_000
/** Text that a client may have chosen is cut to this length. */
const textCharsMax = 300

type Level = 'debug' | 'info' | 'warn'
type Logger = Record<Level, (fields: object, message: string) => void>

/**
 * A log for what clients bring about: whatever they do, a kind of line is written only so often, and the next one
 * says how many were left out. So nobody fills a disk with lines, and one noisy kind does not hide the others.
 */
export class LimitedLog {
  readonly #logger: Logger
  readonly #clock: Clock
  /** By kind. Kinds are messages and error codes, both closed lists. */
  readonly #kinds = new Map<string, { sinceMs: number; lines: number; leftOut: number }>()

  constructor(logger: Logger, clock: Clock) {
    this.#logger = logger
    this.#clock = clock
  }

  write(level: Level, message: string, fields: Readonly<Record<string, unknown>>): void {
    const code = fields['code']
    const kind = typeof code === 'string' ? `${message} ${code}` : message
    const nowMs = this.#clock.monotonicMs()
    let limit = this.#kinds.get(kind)
    if (limit === undefined) this.#kinds.set(kind, (limit = { sinceMs: nowMs, lines: 0, leftOut: 0 }))
    if (nowMs - limit.sinceMs >= periodMs) {
      limit.sinceMs = nowMs
      limit.lines = 0
    }
    if (limit.lines >= linesMax) {
      limit.leftOut++
      return
    }
    limit.lines++
    const { leftOut } = limit
    limit.leftOut = 0
    this.#logger[level]({ ...cut(fields), ...(leftOut > 0 ? { leftOut } : {}) }, message)
  }

  /** Says what was left out and would else never be told: at the end. */
  close(): void {
    for (const [kind, limit] of this.#kinds) {
      if (limit.leftOut > 0) this.#logger.info({ kind, leftOut: limit.leftOut }, 'lines were left out')
      limit.leftOut = 0
    }
  }
}

function cut(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      typeof value === 'string' && value.length > textCharsMax ? `${value.slice(0, textCharsMax)}…` : value,
    ]),
  )
}

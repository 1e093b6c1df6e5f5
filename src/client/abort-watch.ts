import { invariant } from '../errors.ts'

/**
 * Who wants to hear of which signal's abort. One signal is often shared by all calls of a program, and Node warns of a
 * leak when a signal has more than ten listeners: so each has one, whoever waits.
 */
export class AbortWatch {
  /** Only signals that somebody waits for. */
  readonly #bySignal = new Map<
    AbortSignal,
    { readonly runs: Set<() => void>; readonly listener: () => void }
  >()

  /** Calls `run` once the signal aborts, unless it is removed before. */
  add(signal: AbortSignal, run: () => void): void {
    invariant(!signal.aborted, 'a signal that has fired is never heard of again')
    let watched = this.#bySignal.get(signal)
    if (watched === undefined) {
      const runs = new Set<() => void>()
      const listener = (): void => {
        this.#bySignal.delete(signal)
        for (const each of runs) each()
      }
      watched = { runs, listener }
      this.#bySignal.set(signal, watched)
      signal.addEventListener('abort', listener, { once: true })
    }
    watched.runs.add(run)
  }

  /** Idempotent. */
  remove(signal: AbortSignal, run: () => void): void {
    const watched = this.#bySignal.get(signal)
    if (watched === undefined || !watched.runs.delete(run) || watched.runs.size > 0) return
    this.#bySignal.delete(signal)
    signal.removeEventListener('abort', watched.listener)
  }
}

/** Of whatever event: the map's names say which arguments it takes. */
type Listener = (...args: never[]) => void

/** Events by name. `Events` maps each name to the arguments of its listeners. */
export class Emitter<Events extends Record<keyof Events, unknown[]>> {
  readonly #listeners = new Map<keyof Events, Listener[]>()

  /** Calls `listener` at each `name` from now on. A listener that was added twice is called twice. */
  on<Name extends keyof Events>(name: Name, listener: (...args: Events[Name]) => void): void {
    const listeners = this.#listeners.get(name)
    // Copied rather than changed: an emit under way goes on with the list it began with.
    const added = listener as unknown as Listener
    this.#listeners.set(name, listeners === undefined ? [added] : [...listeners, added])
  }

  /** Takes one registration of `listener` back; does nothing when there is none. */
  off<Name extends keyof Events>(name: Name, listener: (...args: Events[Name]) => void): void {
    const listeners = this.#listeners.get(name)
    const at = listeners?.lastIndexOf(listener as unknown as Listener) ?? -1
    if (listeners === undefined || at < 0) return
    if (listeners.length === 1) this.#listeners.delete(name)
    else this.#listeners.set(name, listeners.toSpliced(at, 1))
  }

  /**
   * Calls the listeners of `name`. What one throws is its owner's defect and reaches the process as such, but on a
   * turn of its own: the caller is in the middle of a connection's bookkeeping.
   */
  emit<Name extends keyof Events>(name: Name, ...args: Events[Name]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        ;(listener as unknown as (...args: Events[Name]) => void)(...args)
      } catch (error) {
        queueMicrotask(() => {
          throw error
        })
      }
    }
  }
}

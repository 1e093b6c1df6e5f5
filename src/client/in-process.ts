import type { ClientEnv } from '../env.ts'
import type { ConnectOptions } from './options.ts'

/**
 * Brokers of `mq-broker/testing` that run in this process on a clock of their own. `connect` finds them by their
 * address, so that an application under test connects as it always does. Empty in every other program.
 */
class InProcess {
  readonly #envs = new Map<string, () => ClientEnv>()

  /** @param env makes the world of one more client, as it looks from beside the broker */
  add(server: string, env: () => ClientEnv): void {
    this.#envs.set(server, env)
  }

  remove(server: string): void {
    this.#envs.delete(server)
  }

  /** The world in which these servers are, if the first of them is one of those. */
  envOf(servers: ConnectOptions['servers']): ClientEnv | undefined {
    if (this.#envs.size === 0) return undefined
    const first: unknown = typeof servers === 'string' ? servers : servers?.[0]
    return typeof first === 'string' ? this.#envs.get(first.replace(/^mq:\/\//, ''))?.() : undefined
  }
}

export const inProcess = new InProcess()

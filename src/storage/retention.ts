/**
 * Gives back what nothing needs: a closed segment goes, as a whole, once no partition has a message in it that is not
 * settled, nor its newest checkpoint, nor entries that a start would have to read. What is not needed never is again,
 * so looking may take its time, and others are served in between.
 *
 * A partition that has been idle for long has its checkpoint where nothing else is needed any more. It writes another,
 * and the segment goes the next time.
 */
import type { Clock, Timer } from '../env.ts'
import type { PartitionLog, SharedLog } from './log.ts'

/** Partitions that are looked at in one turn. */
const partitionsPerTurn = 500
/** Checkpoints that are asked for in one round: each is written to the log. */
const checkpointsPerRoundMax = 1000

export class Retention {
  readonly #log: SharedLog
  readonly #clock: Clock
  readonly #everyMs: number
  #timer: Timer | null = null
  #isOpen = true
  /** What had been appended when it was last looked: since then nothing can have been settled. */
  #looked = -1

  /** @param everyMs time between two rounds, in milliseconds */
  constructor(log: SharedLog, clock: Clock, everyMs: number) {
    this.#log = log
    this.#clock = clock
    this.#everyMs = everyMs
    this.#arm()
  }

  close(): void {
    this.#isOpen = false
    this.#timer?.cancel()
  }

  #arm(): void {
    if (!this.#isOpen) return
    this.#timer = this.#clock.after(this.#everyMs, () => {
      this.#timer = null
      void this.#round().then(() => this.#arm())
    })
  }

  async #round(): Promise<void> {
    const { appended, segments } = this.#log
    if (segments.length < 2 || appended === this.#looked) return
    this.#looked = appended
    let checkpoints = checkpointsPerRoundMax
    // The last one is written to.
    for (const { name } of segments.slice(0, -1)) {
      const pinning = await this.#pinning(name)
      if (!this.#isOpen) return
      if (pinning === null) continue
      if (pinning.length === 0) await this.#log.remove(name)
      else {
        for (const log of pinning.slice(0, checkpoints)) log.askCheckpoint()
        checkpoints -= Math.min(checkpoints, pinning.length)
      }
      if (!this.#isOpen) return
    }
  }

  /** The partitions that need the segment only to start from; null when one has messages there. */
  async #pinning(name: string): Promise<PartitionLog[] | null> {
    const pinning: PartitionLog[] = []
    let inTurn = 0
    for (const log of this.#log.partitions) {
      if (++inTurn > partitionsPerTurn) {
        inTurn = 0
        await new Promise<void>((resolve) => this.#clock.soon(resolve))
        if (!this.#isOpen) return null
      }
      const need = log.needs(name)
      if (need === 'messages') return null
      if (need === 'start') pinning.push(log)
    }
    return pinning
  }
}

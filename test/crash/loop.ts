/**
 * kill -9 of the real broker under load, again and again on one data directory.
 *
 *   start → clients send, receive, ack → after a random number of confirms: kill -9 → start at the same address → …
 *   → sends end → receives end → kill -9 once more, which ends every lease → drain → what must hold is checked
 *   → planned stop → start → nothing comes back
 *
 * A crash is due after a number of confirms, never after a time, so a slow machine crashes at the same moments.
 */
import { BrokerProcess, within } from '../../bench/broker-process.ts'
import { History } from './history.ts'
import { Load } from './load.ts'
import { SeededRandom } from './random.ts'

export interface CrashOptions {
  readonly dataDir: string
  readonly kills: number
  readonly seed: number
  readonly say: (line: string) => void
}

export interface CrashResult {
  readonly history: History
  readonly kills: number
  readonly replacedClients: number
  readonly failures: ReadonlyMap<string, number>
  /** From the start of a killed broker's successor until it serves, in milliseconds. */
  readonly restartsMs: readonly number[]
}

const confirmsMax = 2500
const progressMs = 60_000
const drainMs = 120_000
/** An empty receive of this length is the end. */
const emptyAfterMs = 1000

export async function crashLoop({ dataDir, kills, seed, say }: CrashOptions): Promise<CrashResult> {
  const random = new SeededRandom(seed)
  const history = new History()
  const restartsMs: number[] = []
  let broker = await BrokerProcess.start({ dataDir })
  const { listen } = broker
  const load = await Load.start(listen, history, random)
  const live = <T>(timeoutMs: number, what: string, promise: Promise<T>) =>
    within(timeoutMs, what, Promise.race([promise, load.broken]))
  const restart = async () => {
    const atMs = performance.now()
    broker = await BrokerProcess.start({ dataDir, listen })
    restartsMs.push(performance.now() - atMs)
  }
  try {
    for (let kill = 1; kill <= kills; kill++) {
      // Now and then at once: while clients come back and what was unanswered is sent again.
      const confirms = random.chance(0.15) ? random.integer(0, 20) : random.integer(1, confirmsMax)
      await live(progressMs, `${confirms} confirms before kill ${kill}`, confirmed(history, confirms))
      await broker.kill()
      const replacing = random.chance(0.2) ? load.replaceOne() : Promise.resolve()
      await restart()
      await live(progressMs, 'a client to be replaced', replacing)
      if (kill % 10 === 0) {
        const { confirmedSends, confirmedAcks } = history.counts
        say(`${kill} kills, ${confirmedSends} confirmed sends, ${confirmedAcks} confirmed acks`)
      }
    }
    await live(progressMs, 'all sends to end', load.stopSending())
    await live(progressMs, 'all receives to end', load.stopReceiving())
    await broker.kill()
    await restart()
    await live(drainMs, 'the queue to be drained', load.drain(emptyAfterMs))
    history.checkDrained()
    const left = await live(progressMs, 'a description', load.messagesLeft())
    if (left > 0) throw new Error(`the drained queue says that it has ${left} messages`)
    await broker.stop()
    await restart()
    await live(drainMs, 'nothing to come', load.drain(emptyAfterMs))
  } finally {
    await broker.kill()
    await within(progressMs, 'clients to close', load.close())
  }
  return { history, kills: kills + 1, replacedClients: load.replaced, failures: load.failures, restartsMs }
}

/** Resolves with the confirm that is the `count`th from now. */
function confirmed(history: History, count: number): Promise<void> {
  if (count === 0) return Promise.resolve()
  return new Promise((resolve) => {
    let left = count
    history.onConfirm = () => {
      if (--left > 0) return
      history.onConfirm = () => undefined
      resolve()
    }
  })
}

export function describeResult({
  history,
  kills,
  replacedClients,
  failures,
  restartsMs,
}: CrashResult): string {
  const { counts, violations } = history
  const sorted = [...restartsMs].sort((a, b) => a - b)
  const list = (entries: Iterable<[string, number]>) =>
    [...entries].map(([what, n]) => `${what} ${n}`).join(', ')
  return [
    `kills ${kills}, clients replaced ${replacedClients}, ready again after ${Math.round(sorted[sorted.length >> 1]!)} ms` +
      ` (at most ${Math.round(sorted.at(-1)!)})`,
    `sends: confirmed ${counts.confirmedSends}, refused ${counts.refusedSends}, unknown ${counts.unknownSends}`,
    `acks: confirmed ${counts.confirmedAcks}, refused ${counts.refusedAcks}, unknown ${counts.unknownAcks}`,
    `deliveries ${counts.deliveries}, of these redeliveries ${counts.redeliveries}`,
    `failed calls: ${list(failures) || 'none'}`,
    `violations: ${list(Object.entries(violations))}`,
    ...history.words,
  ].join('\n')
}

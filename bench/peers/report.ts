/** What a run of the side-by-side bench found, and its runs put together. */
import { spreadOf, type Latency, type Spread } from '../statistics.ts'
import type { Machine } from '../proc.ts'
import type { Heat, System } from './cases.ts'
import type { DurabilityClass } from './peer.ts'

/** How messages are sent: so many in one call (null: each by itself), so many unconfirmed at most. */
export interface Way {
  readonly batch: number | null
  readonly window: number
}

/** What came of the messages that were confirmed. */
export interface AccountOfRun {
  readonly lost: number
  readonly duplicated: number
  readonly damaged: number
  /** Still there when the time to receive was over. */
  readonly notLookedAt: number
}

/** One run of one system in one heat. */
export interface PeerRun extends Heat {
  readonly system: System
  readonly way: Way
  readonly messages: number
  readonly elapsedMs: number
  readonly perSecond: number
  /** CPU seconds of all the server's processes for a million messages; null where there is no server. */
  readonly serverCpu: number | null
  readonly serverPeakBytes: number | null
  /** From the send to the confirm. */
  readonly confirm: Latency | null
  /** From the send to the consumer. */
  readonly received: Latency | null
  /** Null: nothing was sent to anybody. */
  readonly account: AccountOfRun | null
  readonly othersShare: number
}

/** All runs of one system in one heat. */
export interface PeerRow extends Heat {
  readonly system: System
  readonly way: Way
  readonly runs: number
  readonly perSecond: Spread
  readonly serverCpu: Spread | null
  readonly serverPeakBytes: number | null
  readonly confirm: Latency | null
  readonly received: Latency | null
  readonly account: AccountOfRun | null
  readonly othersShare: number
}

/** A run that came to nothing. */
export interface Failure extends Heat {
  readonly system: System
  readonly error: string
}

/** One who takes part, or would if it were here. */
export interface Participant {
  readonly system: System
  readonly title: string
  /** The server's; null: it is absent, and `note` says why. */
  readonly version: string | null
  /** `name version` of npm clients. */
  readonly clients: readonly string[]
  /** How durable it was, or why it is absent. */
  readonly note: string
}

export interface PeersReport {
  readonly machine: Machine
  readonly startedAt: string
  readonly durability: DurabilityClass
  readonly settings: Readonly<Record<string, string>>
  readonly participants: readonly Participant[]
  readonly heats: readonly Heat[]
  readonly rows: readonly PeerRow[]
  readonly failures: readonly Failure[]
  readonly runs: readonly PeerRun[]
}

export function isOfHeat(heat: Heat): (one: Heat) => boolean {
  return ({ workload, bodyBytes }) => workload === heat.workload && bodyBytes === heat.bodyBytes
}

/** Rows in the order of the participants, heat by heat. */
export function summarizeRuns(
  heats: readonly Heat[],
  systems: readonly System[],
  runs: readonly PeerRun[],
): PeerRow[] {
  return heats.flatMap((heat) =>
    systems.flatMap((system) => {
      const own = runs.filter(isOfHeat(heat)).filter((run) => run.system === system)
      return own.length === 0 ? [] : [rowOf(heat, system, own)]
    }),
  )
}

function rowOf({ workload, bodyBytes }: Heat, system: System, runs: readonly PeerRun[]): PeerRow {
  const all = <T>(of: (run: PeerRun) => T | null): T[] => runs.map(of).filter((value) => value !== null)
  const median = (values: readonly number[]) => (values.length === 0 ? null : spreadOf(values).median)
  const cpu = all((run) => run.serverCpu)
  const latency = (of: (run: PeerRun) => Latency | null): Latency | null => {
    const latencies = all(of)
    if (latencies.length === 0) return null
    const p999Ms = latencies.map((one) => one.p999Ms).filter((value) => value !== null)
    return {
      p50Ms: spreadOf(latencies.map((one) => one.p50Ms)).median,
      p99Ms: spreadOf(latencies.map((one) => one.p99Ms)).median,
      p999Ms: median(p999Ms),
    }
  }
  const accounts = all((run) => run.account)
  const sum = (of: (account: AccountOfRun) => number) =>
    accounts.reduce((total, account) => total + of(account), 0)
  return {
    workload,
    bodyBytes,
    system,
    way: runs[0]!.way,
    runs: runs.length,
    perSecond: spreadOf(runs.map((run) => run.perSecond)),
    serverCpu: cpu.length === 0 ? null : spreadOf(cpu),
    serverPeakBytes: median(all((run) => run.serverPeakBytes)),
    confirm: latency((run) => run.confirm),
    received: latency((run) => run.received),
    account:
      accounts.length === 0
        ? null
        : {
            lost: sum((account) => account.lost),
            duplicated: sum((account) => account.duplicated),
            damaged: sum((account) => account.damaged),
            notLookedAt: sum((account) => account.notLookedAt),
          },
    othersShare: spreadOf(runs.map((run) => run.othersShare)).median,
  }
}

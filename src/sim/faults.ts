/**
 * What goes wrong by chance, and how long things take. Chances are in [0, 1]; a pair of milliseconds is a range from
 * which each case draws evenly. What a driver does on purpose (crash, pause, partition, full disk) has methods.
 */
export interface FaultOptions {
  /** How long bytes travel, one way. */
  readonly networkLatencyMs: readonly [least: number, most: number]
  /** Of each connect: refused, though somebody listens. */
  readonly connectRefusedChance: number
  /**
   * What is written in one turn leaves at its end; as soon as so many bytes wait, at once. Default the real socket's; the
   * less, the less is found of writers that change what they wrote.
   */
  readonly enoughBytes: number
  /** Of each arriving chunk: only a part comes now, the rest as a chunk of its own. */
  readonly splitChance: number
  /** Of each arriving chunk: the connection breaks. Bytes on their way are lost, each end hears of it by itself. */
  readonly cutChance: number
  /** Of each arriving chunk: from it on, all bytes of that direction vanish, and nobody is told. */
  readonly blackHoleChance: number
  /** Of each packet: it takes up to `delayMsMax` longer. Those behind it wait. */
  readonly delayChance: number
  readonly delayMsMax: number
  /** How long a commit, or making or deleting a segment, takes. */
  readonly diskLatencyMs: readonly [least: number, most: number]
  /** Of each commit: rejects with STORAGE_FAILED, and is durable or not. */
  readonly commitFailedChance: number
  /** Of each commit: it takes up to `slowCommitMsMax` longer. */
  readonly slowCommitChance: number
  readonly slowCommitMsMax: number
  /** Of each commit: it never settles. */
  readonly stuckCommitChance: number
  /** Of each turn of a process's event loop: what it does soon takes up to `busyTurnMsMax` to come, others' events first. */
  readonly busyTurnChance: number
  readonly busyTurnMsMax: number
}

/** A world without faults or delays. */
export const noFaults: FaultOptions = {
  networkLatencyMs: [0, 0],
  connectRefusedChance: 0,
  enoughBytes: 64 << 10,
  splitChance: 0,
  cutChance: 0,
  blackHoleChance: 0,
  delayChance: 0,
  delayMsMax: 5_000,
  diskLatencyMs: [0, 0],
  commitFailedChance: 0,
  slowCommitChance: 0,
  slowCommitMsMax: 5_000,
  stuckCommitChance: 0,
  busyTurnChance: 0,
  busyTurnMsMax: 10,
}

/**
 * One clock for several processes of this machine, in milliseconds. `nowMs()` of statistics.ts takes the wall
 * clock at each process's start and counts on from there, so two processes differ by what the wall clock was set or
 * slewed between their starts; this is the kernel's monotonic clock, the same for all of them.
 */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

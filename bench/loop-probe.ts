/**
 * Loaded into a broker (`--import`): whoever has its channel hears how long its event loop has stopped at most since
 * the last question. By the clock, where others of the machine have their share in it, and by the CPU time that the
 * loop's own thread spent on it.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface Stops {
  readonly longestMs: number
  readonly longestCpuMs: number
}

const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()

/** The first number: nanoseconds that the main thread has run. */
const stat = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r')
const text = Buffer.alloc(80)
process.once('exit', () => closeSync(stat))

function ranNs(): number {
  return parseInt(text.toString('latin1', 0, readSync(stat, text, 0, text.length, 0)))
}

let before = ranNs()
let longestNs = 0
setInterval(() => {
  const now = ranNs()
  longestNs = Math.max(longestNs, now - before)
  before = now
}, 1).unref()

process.on('message', () => {
  process.send!({ longestMs: delay.max / 1e6, longestCpuMs: longestNs / 1e6 } satisfies Stops)
  delay.reset()
  longestNs = 0
})
// The broker's life does not depend on who listens.
process.channel?.unref()

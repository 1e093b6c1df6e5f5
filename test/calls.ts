/** Counts the calls of the product's functions, by V8's precise coverage: what work costs, whatever the machine does. */
import { Session } from 'node:inspector/promises'

const inspector = new Session()
inspector.connect()
// Never stopped: that would end the coverage of whoever else counts.
await inspector.post('Profiler.enable')
await inspector.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })

/** Calls of each function while `work` runs, by file, name and place; of the simulated world none. */
export async function callsOf(work: () => Promise<void>): Promise<Map<string, number>> {
  await inspector.post('Profiler.takePreciseCoverage')
  await work()
  const { result } = await inspector.post('Profiler.takePreciseCoverage')
  const calls = new Map<string, number>()
  for (const { url, functions } of result) {
    const file = /\/src\/((?!sim\/).*)$/.exec(url)?.[1]
    if (file === undefined) continue
    for (const { functionName, ranges } of functions) {
      const name = `${file} ${functionName} ${ranges[0]!.startOffset}`
      const count = ranges[0]!.count
      if (count > 0) calls.set(name, (calls.get(name) ?? 0) + count)
    }
  }
  return calls
}

/** Nothing is counted any more: else the process goes on. */
export function endCounting(): void {
  inspector.disconnect()
}

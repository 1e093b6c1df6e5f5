/** Reads the CPU profiles of a run: which functions cost most by themselves. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number }
  }[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
}

const topFunctions = 18

/** A line for each of the functions that cost most, for each process's profile under `dir`. */
export function topOfProfiles(dir: string): string[] {
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((file) =>
    file.endsWith('.cpuprofile'),
  )
  return files.sort().flatMap((file) => ['', `${file}:`, ...topOf(join(dir, file))])
}

function topOf(file: string): string[] {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, 'utf8')) as CpuProfile
  const names = new Map(nodes.map(({ id, callFrame }) => [id, nameOf(callFrame)]))
  const selfMicros = new Map<string, number>()
  samples.forEach((id, i) => {
    const name = names.get(id)!
    selfMicros.set(name, (selfMicros.get(name) ?? 0) + timeDeltas[i]!)
  })
  const idle = selfMicros.get('(idle)') ?? 0
  selfMicros.delete('(idle)')
  const busy = [...selfMicros.values()].reduce((sum, micros) => sum + micros, 0)
  const top = [...selfMicros].sort(([, a], [, b]) => b - a).slice(0, topFunctions)
  return [
    `  busy ${(busy / 1e6).toFixed(1)} s, idle ${(idle / 1e6).toFixed(1)} s; of the busy time:`,
    ...top.map(([name, micros]) => `  ${((micros / busy) * 100).toFixed(1).padStart(5)}%  ${name}`),
  ]
}

function nameOf({ functionName, url, lineNumber }: CpuProfile['nodes'][number]['callFrame']): string {
  const place = url === '' ? '' : ` ${url.split('/').slice(-2).join('/')}:${lineNumber + 1}`
  return `${functionName === '' ? '(anonymous)' : functionName}${place}`
}

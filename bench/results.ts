/** Where what was measured is kept: the figures, the table, the picture, side by side. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { projectRoot } from './broker-process.ts'

export interface Result {
  readonly report: unknown
  readonly text: string
  /** Null: there is nothing to draw. */
  readonly picture: string | null
}

/** Those of `tmp` are not committed. */
export function resultsDir(...below: string[]): string {
  return join(projectRoot(), 'bench', 'results', ...below)
}

/** Name of a run that nobody named: when it began. */
export function nameOf(startedAt: string): string {
  return startedAt.replaceAll(':', '-')
}

/** `name.json`, `name.txt` and `name.svg` in `dir`. */
export function writeResult(dir: string, name: string, { report, text, picture }: Result): void {
  const path = join(dir, name)
  mkdirSync(dir, { recursive: true })
  writeFileSync(`${path}.json`, jsonOf(report))
  writeFileSync(`${path}.txt`, `${text}\n`)
  if (picture !== null) writeFileSync(`${path}.svg`, picture)
}

export function jsonOf(report: unknown): string {
  return `${JSON.stringify(report, null, 2)}\n`
}

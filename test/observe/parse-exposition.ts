/** A strict reader of Prometheus's text format 0.0.4: what it does not understand, it throws at. */

export interface Family {
  readonly type: string
  readonly help: string
  /** By name and labels, as `name{label="value",…}` with the labels sorted. */
  readonly samples: Map<string, number>
}

const sampleForm = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/
const labelForm = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/

export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line has no end')
  const families = new Map<string, Family>()
  let current: { name: string; family: Family } | null = null
  let help: [name: string, text: string] | null = null
  for (const line of text.slice(0, -1).split('\n')) {
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line)
    if (comment?.[1] === 'HELP') help = [comment[2]!, comment[3]!]
    else if (comment?.[1] === 'TYPE') {
      const name = comment[2]!
      if (help?.[0] !== name || families.has(name)) throw new Error(`out of order: ${line}`)
      current = { name, family: { type: comment[3]!, help: help[1], samples: new Map() } }
      families.set(name, current.family)
    } else {
      const sample = sampleForm.exec(line)
      if (sample === null || current === null) throw new Error(`not a sample: ${line}`)
      const [, name, labels = '', value] = sample
      if (!belongs(name!, current.name, current.family.type)) throw new Error(`a stray sample: ${line}`)
      const key = `${name}${labelsOf(labels)}`
      if (current.family.samples.has(key)) throw new Error(`twice: ${key}`)
      current.family.samples.set(key, numberOf(value!))
    }
  }
  return families
}

function belongs(sample: string, family: string, type: string): boolean {
  if (sample === family) return type !== 'histogram'
  const suffix = sample.startsWith(family) ? sample.slice(family.length) : ''
  if (type === 'histogram') return ['_bucket', '_sum', '_count'].includes(suffix)
  return type === 'summary' && ['_sum', '_count'].includes(suffix)
}

function labelsOf(text: string): string {
  const labels: string[] = []
  for (let rest = text; rest !== '';) {
    const label = labelForm.exec(rest)
    if (label === null) throw new Error(`not labels: ${rest}`)
    const value = label[2]!.replace(/\\(.)/g, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped))
    labels.push(`${label[1]}=${JSON.stringify(value)}`)
    rest = rest.slice(label[0].length)
  }
  return labels.length === 0 ? '' : `{${labels.sort().join(',')}}`
}

function numberOf(text: string): number {
  if (text === '+Inf') return Infinity
  if (!/^-?\d+(\.\d+)?(e[+-]?\d+)?$/.test(text)) throw new Error(`not a number: ${text}`)
  return Number(text)
}

/** Pictures of the bench as SVG documents: what their panels are drawn with, and what is around them. No fonts, no scripts. */
import { thousands } from './report.ts'

export const width = 960
export const margin = 28
/** Headings of panels begin here, and bars. */
export const barX = 216
const headHeight = 86

export const colors = {
  ground: '#ffffff',
  ink: '#1f2937',
  quiet: '#6b7280',
  rule: '#e5e7eb',
  send: '#3b82f6',
  sendBatch: '#1d4ed8',
  peer: '#a8b3c2',
  limit: '#dc2626',
} as const

/** Lines of SVG, drawn from y 0 down. */
export interface Panel {
  readonly lines: readonly string[]
  readonly height: number
}

export interface Picture {
  readonly title: string
  readonly subtitle: string
  readonly panels: readonly Panel[]
  readonly footer: readonly string[]
}

/** An SVG document. */
export function drawPicture({ title, subtitle, panels, footer }: Picture): string {
  const drawn: string[] = []
  let y = headHeight
  for (const panel of panels) {
    drawn.push(`<g transform="translate(0 ${y})">`, ...panel.lines, '</g>')
    y += panel.height
  }
  const height = y + 24 + footer.length * 18 + 10
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escape(title)}" font-family="system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif" font-size="13">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="10" fill="${colors.ground}"/>`,
    text(margin, 40, title, { size: 21, weight: 650 }),
    text(margin, 63, subtitle, { fill: colors.quiet }),
    ...drawn,
    `<line x1="${margin}" x2="${width - margin}" y1="${y + 6}" y2="${y + 6}" stroke="${colors.rule}"/>`,
    ...footer.map((line, i) => text(margin, y + 30 + i * 18, line, { fill: colors.quiet, size: 12 })),
    '</svg>',
    '',
  ].join('\n')
}

/** A rule across, and what the panel shows below it. */
export function panelHead(tag: string, what: string): string[] {
  return [
    `<line x1="${margin}" x2="${width - margin}" y1="0" y2="0" stroke="${colors.rule}"/>`,
    text(margin, 27, tag, { size: 14, weight: 650, fill: colors.quiet }),
    text(barX, 27, what, { size: 14, weight: 650 }),
  ]
}

const footerCharsMax = 135

/** Lines of at most so many characters, broken between words. */
export function wrap(sentence: string): string[] {
  const lines: string[] = ['']
  for (const word of sentence.split(' ')) {
    const line = lines.at(-1)!
    if (line.length + word.length + 1 > footerCharsMax) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}

export function msText(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : thousands(ms)
}

export interface TextStyle {
  readonly size?: number
  readonly weight?: number
  readonly fill?: string
  readonly anchor?: 'start' | 'middle' | 'end'
  readonly style?: 'italic'
}

export function text(x: number, y: number, what: string, style: TextStyle = {}): string {
  const { size, weight, fill = colors.ink, anchor, style: slant } = style
  const attributes = [
    ['x', x.toFixed(1).replace(/\.0$/, '')],
    ['y', y],
    ['fill', fill],
    ['font-size', size],
    ['font-weight', weight],
    ['text-anchor', anchor],
    ['font-style', slant],
  ].flatMap(([key, value]) => (value === undefined ? [] : [`${key}="${value}"`]))
  return `<text ${attributes.join(' ')}>${escape(what)}</text>`
}

export function escape(what: string): string {
  return what.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/** What the bars of a picture stand for. */
export function runsText(runs: number): string {
  return runs === 1 ? 'one run each' : `medians of ${runs} runs, whiskers from the slowest to the fastest`
}

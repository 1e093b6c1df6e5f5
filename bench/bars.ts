/** Panels of bars on a linear scale from zero. Limits are lines; one that is far beyond the rest is cut, and says so. */
import { thousands } from './report.ts'
import type { Spread } from './statistics.ts'
import { barX, colors, escape, margin, msText, panelHead, text, width, type Panel } from './svg.ts'

/** To the right of the longest bar: its number. */
const labelWidth = 170
const barWidthMax = width - margin - labelWidth - barX
const rowHeight = 26
const barHeight = 16
const panelHeadHeight = 58
/** Labels of several lines that are limits stand above each other. */
const limitLabelHeight = 15

interface Row {
  readonly title: string
  /** Set in bold: the one that the picture is about. */
  readonly isOurs: boolean
  readonly fill: string
}

/** Not measured: a word says why. */
interface EmptyRow {
  readonly title: string
  readonly word: string
}

export interface RateRow extends Row {
  readonly perSecond: Spread
  /** After its number. */
  readonly more: string
  /** It may be far beyond the others and is cut then: with it to scale they would be a stroke. */
  readonly isApart?: boolean | undefined
}

export interface LatencyRow extends Row {
  readonly p50Ms: number
  readonly p99Ms: number
}

/** What nothing measured here can pass. */
export interface LimitLine {
  readonly name: string
  readonly perSecond: number
}

interface Head {
  readonly tag: string
  readonly what: string
}

/** Messages a second. */
export function ratePanel(
  { tag, what }: Head,
  rows: readonly (RateRow | EmptyRow)[],
  limits: readonly LimitLine[],
): Panel {
  const most = Math.max(
    ...limits.map(({ perSecond }) => perSecond),
    ...rows.map((row) => ('word' in row || row.isApart === true ? 0 : row.perSecond.max)),
  )
  const x = (perSecond: number) => barX + Math.min(1, perSecond / most) * barWidthMax
  const top = panelHeadHeight + limitLabelHeight * Math.max(0, limits.length - 1)
  const lines = rows.flatMap((row, i) => {
    const y = top + i * rowHeight
    if ('word' in row) return emptyRow(row, y)
    const { median, min, max } = row.perSecond
    return [
      name(row.title, y, row.isOurs),
      bar(y, x(median), row.fill),
      ...(median > most ? [cut(y, x(most))] : []),
      ...whisker(y, x(min), x(max)),
      ...value(y, Math.max(x(median), x(max)), thousands(median), row.more, row.isOurs),
    ]
  })
  const bottom = top + rows.length * rowHeight
  return {
    lines: [
      ...panelHead(tag, what),
      axis(top, bottom),
      ...lines,
      ...limits.flatMap(({ name, perSecond }, i) =>
        limitLine(x(perSecond), top - i * limitLabelHeight, bottom, `${name}: ${thousands(perSecond)}`),
      ),
    ],
    height: bottom + 20,
  }
}

/** Null: none was measured. */
export function latencyPanel({ tag, what }: Head, rows: readonly (LatencyRow | EmptyRow)[]): Panel | null {
  const times = rows.flatMap((row) => ('word' in row ? [] : [row.p99Ms]))
  if (times.length === 0) return null
  // One that is far behind would make all others a stroke: its bar is cut.
  const sorted = times.toSorted((a, b) => a - b)
  const most = Math.min(sorted.at(-1)!, 4 * sorted[Math.floor((sorted.length - 1) / 2)]!)
  const x = (ms: number) => barX + (Math.min(ms, most) / most) * barWidthMax
  const lines = rows.flatMap((row, i) => {
    const y = panelHeadHeight + i * rowHeight
    if ('word' in row) return emptyRow(row, y)
    const { title, isOurs, fill, p50Ms, p99Ms } = row
    return [
      name(title, y, isOurs),
      bar(y, x(p99Ms), fill, 0.45),
      bar(y, x(p50Ms), fill),
      ...(p99Ms > most ? [cut(y, x(most))] : []),
      ...value(y, x(p99Ms), `${msText(p50Ms)} / ${msText(p99Ms)} ms`, '', isOurs),
    ]
  })
  const bottom = panelHeadHeight + rows.length * rowHeight
  const note = text(barX, 44, 'p50 dark, p99 light; shorter is better', { fill: colors.quiet, size: 12 })
  return {
    lines: [...panelHead(tag, what), note, axis(panelHeadHeight, bottom), ...lines],
    height: bottom + 20,
  }
}

function name(title: string, y: number, isOurs: boolean): string {
  return text(barX - 10, y + 13, title, { anchor: 'end', ...(isOurs ? { weight: 650 } : {}) })
}

function bar(y: number, toX: number, fill: string, opacity = 1): string {
  const shade = opacity === 1 ? '' : ` fill-opacity="${opacity}"`
  return `<rect x="${barX}" y="${y}" width="${Math.max(1.5, toX - barX).toFixed(1)}" height="${barHeight}" rx="2" fill="${fill}"${shade}/>`
}

/** From the slowest to the fastest run. */
function whisker(y: number, fromX: number, toX: number): string[] {
  if (toX - fromX < 2) return []
  const middle = y + barHeight / 2
  return [
    `<path d="M${fromX.toFixed(1)} ${middle}H${toX.toFixed(1)}M${fromX.toFixed(1)} ${middle - 3}v6M${toX.toFixed(1)} ${middle - 3}v6" stroke="${colors.ink}" stroke-opacity="0.55" fill="none"/>`,
  ]
}

/** Two strokes through a bar that goes on. */
function cut(y: number, atX: number): string {
  const stroke = (x: number) => `M${x.toFixed(1)} ${y + barHeight + 2}l5 ${-barHeight - 4}`
  return `<path d="${stroke(atX - 16)}${stroke(atX - 11)}" stroke="${colors.ground}" stroke-width="2.5" fill="none"/>`
}

function value(y: number, x: number, main: string, more: string, isOurs: boolean): string[] {
  const weight = isOurs ? ' font-weight="650"' : ''
  const rest =
    more === '' ? '' : `<tspan dx="8" fill="${colors.quiet}" font-size="12">${escape(more)}</tspan>`
  // Its own ground: the line of the limit may pass behind it.
  return [
    `<text x="${(x + 8).toFixed(1)}" y="${y + 13}" fill="${colors.ink}" stroke="${colors.ground}" stroke-width="4" paint-order="stroke" stroke-linejoin="round"${weight}>${escape(main)}${rest}</text>`,
  ]
}

function emptyRow({ title, word }: EmptyRow, y: number): string[] {
  return [
    text(barX - 10, y + 13, title, { anchor: 'end', fill: colors.quiet }),
    text(barX + 8, y + 13, word, { fill: colors.quiet, style: 'italic' }),
  ]
}

function axis(top: number, bottom: number): string {
  return `<line x1="${barX - 0.5}" x2="${barX - 0.5}" y1="${top - 6}" y2="${bottom - 4}" stroke="${colors.quiet}"/>`
}

function limitLine(x: number, top: number, bottom: number, label: string): string[] {
  return [
    `<line x1="${x.toFixed(1)}" x2="${x.toFixed(1)}" y1="${top - 8}" y2="${bottom - 2}" stroke="${colors.limit}" stroke-dasharray="4 3"/>`,
    text(x, top - 13, label, {
      anchor: x > barX + 100 ? 'end' : 'start',
      fill: colors.limit,
      size: 12,
    }),
  ]
}

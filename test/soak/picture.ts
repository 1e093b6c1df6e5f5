/** A soak's samples as an SVG: a small panel for each measure, all over the same time. No fonts, no scripts. */
export interface Series {
  readonly name: string
  readonly values: readonly number[]
}

export interface Panel {
  readonly title: string
  /** Of the vertical axis. */
  readonly unit: string
  readonly series: readonly Series[]
}

export interface Picture {
  readonly title: string
  readonly subtitle: string
  /** Of all series, in seconds, ascending. */
  readonly seconds: readonly number[]
  /** Up to here the panels are shaded: it does not count. In seconds. */
  readonly warmUpSeconds: number
  readonly panels: readonly Panel[]
}

const columns = 2
const width = 960
const headHeight = 64
const panelHeight = 190
/** Around the area in which lines are drawn. */
const margin = { left: 64, right: 16, top: 34, bottom: 30 }
/** Points of a line at most: each column of pixels once with its lowest and its highest value. */
const columnsMax = 200
const colors = ['#1f6f8b', '#c8553d', '#5b8c3a']
const ticksWanted = 4

export function drawPicture(picture: Picture): string {
  const { title, subtitle, panels } = picture
  const rows = Math.ceil(panels.length / columns)
  const height = headHeight + rows * panelHeight
  const drawn = panels.map((panel, i) => {
    const x = (i % columns) * (width / columns)
    const y = headHeight + Math.floor(i / columns) * panelHeight
    return `<g transform="translate(${x} ${y})">\n${drawPanel(picture, panel)}\n</g>`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="11" fill="#333">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(16, 26, title, 'font-size="16" font-weight="bold"'),
    text(16, 46, subtitle, 'fill="#666"'),
    ...drawn,
    '</svg>',
    '',
  ].join('\n')
}

function drawPanel({ seconds, warmUpSeconds }: Picture, { title, unit, series }: Panel): string {
  const plot = {
    width: width / columns - margin.left - margin.right,
    height: panelHeight - margin.top - margin.bottom,
  }
  const end = seconds.at(-1) ?? 1
  const highest = Math.max(...series.flatMap(({ values }) => maxOf(values)))
  const ticks = ticksUpTo(highest > 0 ? highest : 1)
  const top = ticks.at(-1)!
  const inMinutes = end >= 180
  const xOf = (second: number) => margin.left + (second / end) * plot.width
  const yOf = (value: number) => margin.top + plot.height * (1 - value / top)
  const bottom = yOf(0)
  const right = margin.left + plot.width
  const parts = [
    text(margin.left, 16, title, 'font-size="12" font-weight="bold"'),
    text(margin.left - 8, margin.top - 8, unit, 'text-anchor="end" fill="#666"'),
    `<rect x="${margin.left}" y="${margin.top}" width="${round(xOf(warmUpSeconds) - margin.left)}" height="${plot.height}" fill="#f0f0f0"/>`,
  ]
  for (const tick of ticks) {
    const y = round(yOf(tick))
    parts.push(
      `<path d="M${margin.left} ${y}H${right}" stroke="#ddd"/>`,
      text(margin.left - 8, y + 4, label(tick), 'text-anchor="end"'),
    )
  }
  const timeTicks = ticksUpTo(inMinutes ? end / 60 : end).filter(
    (tick) => tick <= (inMinutes ? end / 60 : end),
  )
  for (const [i, tick] of timeTicks.entries()) {
    const x = round(xOf(inMinutes ? tick * 60 : tick))
    const isLast = i === timeTicks.length - 1
    parts.push(
      `<path d="M${x} ${bottom}v4" stroke="#888"/>`,
      text(
        x,
        bottom + 16,
        `${label(tick)}${isLast ? (inMinutes ? ' min' : ' s') : ''}`,
        'text-anchor="middle"',
      ),
    )
  }
  parts.push(`<path d="M${margin.left} ${margin.top}V${bottom}H${right}" stroke="#888" fill="none"/>`)
  for (const [i, { values }] of series.entries()) {
    const color = colors[i % colors.length]!
    parts.push(
      `<path d="${pathOf(seconds, values, xOf, yOf)}" fill="none" stroke="${color}" stroke-width="1.2" stroke-linejoin="round"/>`,
    )
  }
  if (series.length > 1) parts.push(...drawLegend(series, right))
  return parts.join('\n')
}

/** Right-aligned beside the title. */
function drawLegend(series: readonly Series[], right: number): string[] {
  const entryWidth = (name: string) => 30 + 6 * name.length
  let x = right - series.reduce((sum, { name }) => sum + entryWidth(name), 0)
  return series.flatMap(({ name }, i) => {
    const at = x
    x += entryWidth(name)
    return [
      `<path d="M${at} 12h14" stroke="${colors[i % colors.length]!}" stroke-width="2"/>`,
      text(at + 18, 16, name),
    ]
  })
}

function pathOf(
  seconds: readonly number[],
  values: readonly number[],
  xOf: (second: number) => number,
  yOf: (value: number) => number,
): string {
  const each = Math.ceil(values.length / columnsMax)
  const points: string[] = []
  for (let at = 0; at < values.length; at += each) {
    const part = values.slice(at, at + each)
    let low = 0
    let high = 0
    for (const [i, value] of part.entries()) {
      if (value < part[low]!) low = i
      if (value > part[high]!) high = i
    }
    // In their order, so that the line does not go back.
    for (const i of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) {
      points.push(`${round(xOf(seconds[at + i]!))} ${round(yOf(part[i]!))}`)
    }
  }
  return `M${points.join('L')}`
}

/** 0, and round steps up to at or above `max`. */
function ticksUpTo(max: number): number[] {
  const rough = max / ticksWanted
  const magnitude = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * magnitude).find((each) => each >= rough)!
  return Array.from({ length: Math.ceil(max / step - 1e-9) + 1 }, (_, i) => i * step)
}

function label(value: number): string {
  return Number(value.toPrecision(6)).toLocaleString('en-US')
}

function maxOf(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, value), 0)
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}

function text(x: number, y: number, content: string, attributes = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${round(x)}" y="${round(y)}"${attributes === '' ? '' : ` ${attributes}`}>${escaped}</text>`
}

/** Growth as curves: for each line a small chart of the rate and one of the latency, from zero, a point a step. */
import { groupBy } from './figures.ts'
import { atText, bytesPerSecond, curveTitles, type GrowthRow } from './growth-report.ts'
import { thousands } from './report.ts'
import { colors, margin, msText, panelHead, text, width, type Panel } from './svg.ts'

const headHeight = 52
const plotHeight = 110
/** Below the plot: what the steps are. */
const footHeight = 44
const gap = 40
const chartWidth = (width - 2 * margin - gap) / 2
/** Left and right of the first and last point: half of their labels. */
const inset = 34
/** Above a point: its label. */
const labelHeight = 18

interface Line {
  readonly values: readonly number[]
  readonly color: string
  readonly labels: readonly string[]
}

interface Chart {
  readonly title: string
  /** The first is the one that is judged. */
  readonly lines: readonly Line[]
  readonly steps: readonly string[]
  /** Steps at which it falls off. */
  readonly cliffs: readonly boolean[]
}

export function growthPanels(rows: readonly GrowthRow[]): Panel[] {
  return [...groupBy(rows, ({ curve }) => curve).values()].map((own) => {
    const steps = own.map(atText)
    const charts = [rateChart(own, steps), latencyChart(own, steps)].filter((chart) => chart !== null)
    const lines = charts.flatMap((chart, i) => drawChart(chart, margin + i * (chartWidth + gap)))
    return {
      lines: [...panelHead('Growth', curveTitles[own[0]!.curve]), ...lines],
      height: headHeight + plotHeight + footHeight,
    }
  })
}

function rateChart(rows: readonly GrowthRow[], steps: readonly string[]): Chart {
  // Of bodies that grow, messages a second tell nothing.
  const inBytes = rows[0]!.curve === 'sizes'
  const values = rows.map((row) => (inBytes ? bytesPerSecond(row) / 2 ** 20 : row.perSecond.median))
  return {
    title: inBytes ? 'MiB a second' : 'messages a second',
    lines: [
      {
        values,
        color: colors.send,
        labels: values.map((value) => (value < 10 ? value.toFixed(1) : thousands(value))),
      },
    ],
    steps,
    cliffs: rows.map(({ cliff }) => (cliff?.rateLost ?? null) !== null),
  }
}

/** Null: none was measured. */
function latencyChart(rows: readonly GrowthRow[], steps: readonly string[]): Chart | null {
  const line = (of: (row: GrowthRow) => number | null, color: string): Line => {
    const values = rows.map((row) => of(row) ?? NaN)
    return { values, color, labels: values.map(msText) }
  }
  if (rows.some(({ receivedP50Ms }) => receivedP50Ms === null)) return null
  return {
    title: 'send to receipt at a fixed pace, ms: p50 dark, p99 light',
    lines: [
      line(({ receivedP50Ms }) => receivedP50Ms, colors.sendBatch),
      line(({ receivedP99Ms }) => receivedP99Ms, colors.peer),
    ],
    steps,
    cliffs: rows.map(({ cliff }) => (cliff?.latencyTimes ?? null) !== null),
  }
}

function drawChart({ title, lines, steps, cliffs }: Chart, left: number): string[] {
  const bottom = headHeight + plotHeight
  const most = Math.max(...lines.flatMap(({ values }) => values), Number.MIN_VALUE)
  const spacing = (chartWidth - 2 * inset) / Math.max(1, steps.length - 1)
  const x = (i: number) => left + inset + i * spacing
  const y = (value: number) => bottom - (value / most) * (plotHeight - labelHeight)
  // Where points are too close for two labels the upper one has it: the table tells both.
  const isCovered = (line: Line, i: number) =>
    lines.some(({ values }) => {
      const above = y(line.values[i]!) - y(values[i]!)
      return above > 0 && above < labelHeight
    })
  const draw = (line: Line, isJudged: boolean): string[] => {
    const points = line.values.map((value, i) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`)
    return [
      `<path d="M${points.join('L')}" fill="none" stroke="${line.color}" stroke-width="2" stroke-linejoin="round"/>`,
      ...line.values.flatMap((value, i) => {
        const isCliff = isJudged && cliffs[i] === true
        const fill = isCliff ? colors.limit : line.color
        const ink = isCliff ? colors.limit : colors.ink
        return [
          `<circle cx="${x(i).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3.5" fill="${fill}"/>`,
          ...(isCovered(line, i)
            ? []
            : [text(x(i), y(value) - 7, line.labels[i]!, { anchor: 'middle', size: 11, fill: ink })]),
        ]
      }),
    ]
  }
  return [
    text(left, 46, title, { fill: colors.quiet, size: 12 }),
    `<line x1="${left}" x2="${left + chartWidth}" y1="${bottom}" y2="${bottom}" stroke="${colors.quiet}"/>`,
    ...steps.map((step, i) =>
      text(x(i), bottom + 17, step, { anchor: 'middle', fill: colors.quiet, size: 12 }),
    ),
    ...lines.flatMap((line, nr) => draw(line, nr === 0)),
  ]
}

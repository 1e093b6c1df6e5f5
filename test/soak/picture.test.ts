import { test } from 'tap'
import { drawPicture, type Picture } from './picture.ts'

function pictureOf(seconds: number, values: number[], more: Partial<Picture> = {}): Picture {
  return {
    title: 'a & b <c>',
    subtitle: 'sub',
    seconds: values.map((_, i) => (i * seconds) / (values.length - 1)),
    warmUpSeconds: seconds / 3,
    panels: [
      { title: 'one line', unit: 'MiB', series: [{ name: 'only', values }] },
      {
        title: 'two',
        unit: 'a second',
        series: [
          { name: 'sent', values },
          { name: 'acked', values: values.map((value) => value / 2) },
        ],
      },
    ],
    ...more,
  }
}

/** What people read in it. */
function textsOf(svg: string): string[] {
  return [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text!)
}

test('a panel has its title, unit and round ticks on both axes', async (t) => {
  const texts = textsOf(drawPicture(pictureOf(60, [0, 30, 95])))
  t.strictSame(texts.slice(0, 4), ['a &amp; b &lt;c>', 'sub', 'one line', 'MiB'])
  t.strictSame(texts.slice(4, 9), ['0', '25', '50', '75', '100'])
  t.strictSame(texts.slice(9, 13), ['0', '20', '40', '60 s'])
})

test('a long run is told in minutes', async (t) => {
  const texts = textsOf(drawPicture(pictureOf(900, [1, 2, 3])))
  t.ok(texts.includes('15 min'))
})

test('only a panel with several lines has a legend', async (t) => {
  const texts = textsOf(drawPicture(pictureOf(60, [1, 2, 3])))
  t.notOk(texts.includes('only'))
  t.ok(texts.includes('sent') && texts.includes('acked'))
})

test('of many samples each part shows its lowest and its highest', async (t) => {
  const values = Array.from({ length: 36_000 }, (_, i) => 50 + (i % 7))
  values[20_000] = 100
  values[30_000] = 0
  const svg = drawPicture(pictureOf(36_000, values))
  t.ok(svg.length < 60_000, `${svg.length} characters`)
  const line = /<path d="M([^"]*)" fill="none" stroke="#1f6f8b"/.exec(svg)![1]!
  const heights = line.split('L').map((point) => Number(point.split(' ')[1]))
  // The panel's area is from 34 to 160; the axis goes to 100.
  t.equal(Math.min(...heights), 34)
  t.equal(Math.max(...heights), 160)
})

test('a line never goes back in time', async (t) => {
  const values = Array.from({ length: 1000 }, (_, i) => Math.sin(i))
  const svg = drawPicture(
    pictureOf(
      1000,
      values.map((value) => value + 1),
    ),
  )
  const line = /<path d="M([^"]*)" fill="none" stroke="#1f6f8b"/.exec(svg)![1]!
  const places = line.split('L').map((point) => Number(point.split(' ')[0]))
  t.strictSame(
    places,
    places.toSorted((a, b) => a - b),
  )
})

test('what is always zero is a line at the bottom', async (t) => {
  const svg = drawPicture(pictureOf(60, [0, 0, 0]))
  t.notMatch(svg, /NaN|Infinity/)
})

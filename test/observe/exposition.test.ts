import { test } from 'tap'
import { Exposition } from '../../src/observe/exposition.ts'
import { Histogram } from '../../src/observe/histogram.ts'
import { parseExposition } from './parse-exposition.ts'

test('label values are escaped: quotes, backslashes and newlines', (t) => {
  const out = new Exposition()
  out.family('up', 'gauge', 'Up.')
  out.sample('up', { name: 'a"b\\c\nd' }, 1)
  t.match(String(out), 'up{name="a\\"b\\\\c\\nd"} 1\n')
  const samples = parseExposition(String(out)).get('up')!.samples
  t.strictSame([...samples], [[`up{name=${JSON.stringify('a"b\\c\nd')}}`, 1]])
  t.end()
})

test('a help text stays on its line', (t) => {
  const out = new Exposition()
  out.single('up', 'gauge', 'One\nline \\ only.', 1)
  t.equal(String(out), '# HELP up One\\nline \\\\ only.\n# TYPE up gauge\nup 1\n')
  t.end()
})

test('a histogram tells how many were at most as long as each bound, and all of them', (t) => {
  const histogram = new Histogram([0.001, 0.01])
  for (const ms of [1, 5, 10, 11, -3]) histogram.observeMs(ms)
  const out = new Exposition()
  out.histogram('took_seconds', 'How long it took.', histogram)
  const { samples } = parseExposition(String(out)).get('took_seconds')!
  t.strictSame(Object.fromEntries(samples), {
    'took_seconds_bucket{le="0.001"}': 2,
    'took_seconds_bucket{le="0.01"}': 4,
    'took_seconds_bucket{le="+Inf"}': 5,
    took_seconds_sum: 0.027,
    took_seconds_count: 5,
  })
  t.end()
})

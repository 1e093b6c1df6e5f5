import t from 'tap'
import { similarNames } from '../../src/similar-names.ts'

const queues = ['orders', 'invoices', 'mail', 'mails', 'a', 'payments.eu', 'payments.us']

void t.test('a mistyped name', async (t) => {
  const cases: [string, string[], string][] = [
    ['order', ['orders'], 'a letter left out'],
    ['orderss', ['orders'], 'a letter too many'],
    ['orbers', ['orders'], 'a wrong letter'],
    ['odrers', ['orders'], 'two letters swapped'],
    ['ORDERS', ['orders'], 'capitals'],
    ['payments-eu', ['payments.eu', 'payments.us'], 'the nearest first'],
    ['mai', ['mail'], 'a short name, one letter off'],
    ['b', ['a'], 'a name of one letter'],
  ]
  for (const [typed, wanted, what] of cases) t.strictSame(similarNames(typed, queues), wanted, what)
})

void t.test('a name that is like none', async (t) => {
  t.strictSame(similarNames('customers', queues), [])
  t.strictSame(similarNames('orders', []), [])
})

void t.test('at most three are named, of equals the first in the alphabet', async (t) => {
  t.strictSame(similarNames('job-0', ['job-4', 'job-3', 'job-2', 'job-1']), ['job-1', 'job-2', 'job-3'])
})

void t.test('a long name may be three letters off, and no more', async (t) => {
  t.strictSame(similarNames('abcdefghijklXXX', ['abcdefghijklmno']), ['abcdefghijklmno'])
  t.strictSame(similarNames('abcdefghijkXXXX', ['abcdefghijklmno']), [])
})

import fc from 'fast-check'
import { test } from 'tap'
import { SortedNames } from '../../src/broker/sorted-names.ts'

test('pages are those of a list that is sorted each time', (t) => {
  const name = fc.stringMatching(/^[a-z]{1,2}$/)
  const command = fc.oneof(
    fc.record({ add: name }),
    fc.record({ remove: name }),
    fc.record({ after: fc.option(name), limit: fc.integer({ min: 1, max: 5 }) }),
    fc.record({ addMany: fc.uniqueArray(name, { minLength: 40, maxLength: 60 }) }),
  )
  fc.assert(
    fc.property(fc.array(command), (commands) => {
      const names = new SortedNames()
      const model = new Set<string>()
      const add = (each: string) => {
        if (!model.has(each)) names.add(each)
        model.add(each)
      }
      for (const each of commands) {
        if ('add' in each) add(each.add)
        else if ('addMany' in each) each.addMany.forEach(add)
        else if ('remove' in each) {
          names.delete(each.remove)
          model.delete(each.remove)
        } else {
          const expected = [...model].sort().filter((one) => each.after === null || one > each.after)
          t.strictSame(names.after(each.after, each.limit), expected.slice(0, each.limit))
        }
      }
    }),
  )
  t.end()
})

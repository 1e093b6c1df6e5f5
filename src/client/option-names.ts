/**
 * An option that is misspelt must not be ignored: `nack({ delay: 1000 })` would deliver again at once. Each kind of
 * call has a set of the names that it takes.
 */
import { MqError } from '../errors.ts'
import { similarNames } from '../similar-names.ts'

/** Written out, since types leave nothing behind; the compiler sees to it that none is missing. */
export function optionNames<T>(names: Readonly<Record<keyof T, true>>): ReadonlySet<string> {
  return new Set(Object.keys(names))
}

/** @throws MqError INVALID_OPTION naming the first one that is not known, and the one that may be meant */
export function checkOptionNames(options: object, known: ReadonlySet<string>): void {
  if (typeof options !== 'object') throw notOptions(options, known)
  // Without a list of the keys: it runs for each message, mostly on none.
  for (const name in options) {
    if (!known.has(name) && Object.hasOwn(options, name)) throw unknownOption(name, known)
  }
}

function notOptions(options: unknown, known: ReadonlySet<string>): MqError {
  const message = `options are an object, such as { ${[...known][0]}: … }, not a ${typeof options}`
  return new MqError('INVALID_OPTION', message, { outcome: 'failed' })
}

function unknownOption(name: string, known: ReadonlySet<string>): MqError {
  const near = [...known].find((each) => each.startsWith(name)) ?? similarNames(name, known)[0]
  const hint = near === undefined ? `there is ${[...known].join(', ')}` : `did you mean '${near}'?`
  return new MqError('INVALID_OPTION', `there is no option '${name}': ${hint}`, {
    outcome: 'failed',
    details: { option: name },
  })
}

/** Flags that several commands share, and how their text becomes values. */
import { Argument, type Command, Option } from 'commander'
import { MqError } from '../errors.ts'
import { limits } from '../types.ts'
import {
  durationForm,
  formatBytes,
  formatDuration,
  parseBytes,
  parseCount,
  parseDurationMs,
  sizeForm,
} from '../units.ts'
import { isQueueName } from '../wire/codec.ts'

/** How the text of a flag becomes its value. */
export interface Reader<T> {
  readonly placeholder: string
  readonly limits?: { readonly told: string; allow(value: T): boolean }
  readonly read: (text: string) => T | undefined
  /** The second half of a sentence that names a text which `read` does not understand. */
  readonly form: string
}

const writtenDuration = { placeholder: 'DURATION', read: parseDurationMs, form: durationForm }
const writtenSize = { placeholder: 'SIZE', read: parseBytes, form: sizeForm }
const writtenCount = { placeholder: 'N', read: parseCount, form: 'a whole number is needed' }

/** The limits are inclusive; `Infinity`: none is told. */
export const duration = (minMs: number, maxMs: number): Reader<number> =>
  within(writtenDuration, minMs, maxMs, formatDuration)
export const size = (minBytes: number, maxBytes: number): Reader<number> =>
  within(writtenSize, minBytes, maxBytes, formatBytes)
export const count = (min: number, max: number): Reader<number> =>
  within(writtenCount, min, max, (value) => value.toLocaleString('en'))

function within(
  reader: Reader<number>,
  min: number,
  max: number,
  format: (value: number) => string,
): Reader<number> {
  const told = max === Infinity ? `from ${format(min)}` : `${format(min)} to ${format(max)}`
  return {
    ...reader,
    limits: { told, allow: (value) => value >= min && value <= max },
  }
}

export const fraction: Reader<number> = {
  placeholder: 'FRACTION',
  read: (text) => (/^(0|1|0?\.\d+|1\.0+)$/.test(text) ? Number(text) : undefined),
  form: 'a number from 0 to 1 is needed',
}
export const queueName: Reader<string> = {
  placeholder: 'NAME',
  read: (text) => (isQueueName(text) ? text : undefined),
  form: `a queue's name has 1 to ${limits.queueNameBytesMax} of A-Z a-z 0-9 . _ -, a letter or digit first, no '..'`,
}
export const text: Reader<string> = { placeholder: 'TEXT', read: (text) => text, form: '' }
export const reason: Reader<string> = {
  placeholder: 'TEXT',
  read: (text) => (Buffer.byteLength(text) <= limits.reasonBytesMax ? text : undefined),
  form: `it must have at most ${formatBytes(limits.reasonBytesMax)}`,
}

export function oneOf(...values: string[]): Reader<string> {
  return {
    placeholder: values.join('|'),
    read: (text) => (values.includes(text) ? text : undefined),
    form: `it must be ${values.join(' or ')}`,
  }
}

/**
 * An option with a value, as in `flagOption('--wait', duration(0, 20_000), '…')`. Its help ends with the limits,
 * behind what else is to be told in the same brackets.
 */
export function flagOption<T>(
  flag: `--${string}`,
  reader: Reader<T>,
  help: string,
  ...facts: string[]
): Option {
  const { placeholder, limits } = reader
  const told = limits === undefined ? facts : [...facts, limits.told]
  const description = told.length === 0 ? help : `${help} (${told.join('; ')})`
  return new Option(`${flag} <${placeholder}>`, description).argParser((text) => read(flag, reader, text))
}

/** An argument that names a queue. */
export function queueArgument(name: 'NAME' | 'QUEUE', description = ''): Argument {
  return new Argument(`<${name}>`, description).argParser((text) => read(`${name}`, queueName, text))
}

/** Text of the command line is wrong usage when it cannot be meant: nobody is asked. @throws MqError INVALID_OPTION */
function read<T>(what: string, reader: Reader<T>, text: string): T {
  const invalid = (why: string) => {
    const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text
    return new MqError('INVALID_OPTION', `${what} is '${shown}': ${why}`)
  }
  const value = reader.read(text)
  if (value === undefined) throw invalid(reader.form)
  if (reader.limits?.allow(value) === false) throw invalid(`it must be ${reader.limits.told}`)
  return value
}

/** Told of what the broker answers with UNSUPPORTED. */
export const notBuilt = 'not built yet'

/** `--header k=v`, any number of times. */
export function headerOption(): Option {
  const collect = (text: string, before: Record<string, string> | undefined) => {
    const at = text.indexOf('=')
    if (at < 1) throw new MqError('INVALID_OPTION', `--header is '${text}': a header is NAME=VALUE`)
    return { ...before, [text.slice(0, at)]: text.slice(at + 1) }
  }
  return new Option('--header <NAME=VALUE>', 'a header of the message; may be repeated').argParser(collect)
}

export interface OutputOptions {
  readonly json?: true
}

export function withJson(command: Command): Command {
  return command.option('--json', 'print one JSON document')
}

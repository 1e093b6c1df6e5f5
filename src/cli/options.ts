/** Flags that several commands share, and how their text becomes values. */
import { type Command, Option } from 'commander'
import { MqError } from '../errors.ts'
import { durationForm, parseBytes, parseCount, parseDurationMs, sizeForm } from '../units.ts'

/**
 * How the text of a flag becomes its value. Limits are not checked here: the broker is the one to know them, and
 * its answer names them.
 */
export interface Reader<T> {
  readonly placeholder: string
  readonly read: (text: string) => T | undefined
  /** The second half of a sentence that names a text which `read` does not understand. */
  readonly form: string
}

export const duration: Reader<number> = { placeholder: 'DURATION', read: parseDurationMs, form: durationForm }
export const size: Reader<number> = { placeholder: 'SIZE', read: parseBytes, form: sizeForm }
export const count: Reader<number> = { placeholder: 'N', read: parseCount, form: 'a whole number is needed' }
export const fraction: Reader<number> = {
  placeholder: 'FRACTION',
  read: (text) => (/^(0|1|0?\.\d+|1\.0+)$/.test(text) ? Number(text) : undefined),
  form: 'a number from 0 to 1 is needed',
}
export const name: Reader<string> = { placeholder: 'NAME', read: (text) => text, form: '' }
export const text: Reader<string> = { placeholder: 'TEXT', read: (text) => text, form: '' }

export function oneOf(...values: string[]): Reader<string> {
  return {
    placeholder: values.join('|'),
    read: (text) => (values.includes(text) ? text : undefined),
    form: `it must be ${values.join(' or ')}`,
  }
}

/** An option with a value: `flagOption('--wait', duration, '…')`. */
export function flagOption<T>(flag: `--${string}`, reader: Reader<T>, help: string): Option {
  return new Option(`${flag} <${reader.placeholder}>`, help).argParser((text) => readFlag(flag, reader, text))
}

function readFlag<T>(flag: string, { read, form }: Reader<T>, text: string): T {
  const value = read(text)
  if (value === undefined) throw new MqError('INVALID_OPTION', `${flag} is '${text}': ${form}`)
  return value
}

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

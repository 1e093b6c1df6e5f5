/**
 * The options of `mq-broker start`, each declared once: how it is written, its limits, its default and its help.
 * From the declaration follow the flag (`--segment-bytes`), the variable (`MQ_SEGMENT_BYTES`), the key in the
 * configuration file (`segment-bytes`) and the line in `--help`. All three are text and go through one parser.
 *
 * Precedence: flag, environment, file, default. Variables that start with `MQ_` but name no option are left alone:
 * some belong to the client's commands, and others are put there by container platforms.
 */
import { z } from 'zod'
import type { Address } from './env.ts'
import { MqError } from './errors.ts'
import {
  addressForm,
  durationForm,
  formatBytes,
  formatDuration,
  isLoopback,
  parseAddress,
  parseBytes,
  parseCount,
  parseDurationMs,
  sizeForm,
} from './units.ts'

/** How an option is written. */
interface Kind<T> {
  /** From the text to the value; its issues are the second half of a sentence that names the bad text. */
  readonly schema: z.ZodType<T, string>
  /** What stands for the value in the help; absent for a switch. */
  readonly placeholder?: string
  /** For people; the schema is what checks. */
  readonly limits?: string
}

interface Declaration<T> extends Kind<T> {
  readonly help: string
  /** As a user would write it; absent: the option is unset. */
  readonly default?: string
}

const text = (placeholder: string): Kind<string> => ({
  schema: z.string().min(1, 'a value is needed'),
  placeholder,
})

/** A number written as text that `parse` understands, within limits that `format` writes for people. */
function number(
  placeholder: string,
  [min, max]: readonly [min: number, max: number],
  form: string,
  parse: (text: string) => number | undefined,
  format: (value: number) => string,
): Kind<number> {
  const limits = `${format(min)} to ${format(max)}`
  const range = `it must be ${limits}`
  return { schema: parsed(parse, form).pipe(z.number().min(min, range).max(max, range)), placeholder, limits }
}

const count = (min: number, max: number) =>
  number('N', [min, max], 'a whole number is needed', parseCount, (value) => value.toLocaleString('en'))

const duration = (minMs: number, maxMs: number) =>
  number('DURATION', [minMs, maxMs], durationForm, parseDurationMs, formatDuration)

const size = (minBytes: number, maxBytes: number) =>
  number('SIZE', [minBytes, maxBytes], sizeForm, parseBytes, formatBytes)

const address: Kind<Address> = { schema: parsed(parseAddress, addressForm), placeholder: 'HOST:PORT' }

const oneOf = <const T extends string>(...values: T[]): Kind<T> => ({
  schema: z.string().pipe(z.enum(values, `it must be ${listed(values)}`)),
  placeholder: values.join('|'),
})

const toggle: Kind<boolean> = {
  schema: z
    .string()
    .pipe(z.enum(['true', 'false', '1', '0'], 'it must be true or false'))
    .transform((value) => value === 'true' || value === '1'),
}

const roleNames = ['frontend', 'broker', 'coordinator'] as const

const roles: Kind<string[]> = {
  schema: z
    .string()
    .transform((list) => [...new Set(list.split(',').map((role) => role.trim()))])
    .pipe(z.array(z.enum(roleNames, `each role must be ${listed(roleNames)}`))),
  placeholder: 'LIST',
}

const nodeId: Kind<string> = {
  schema: z
    .string()
    .regex(
      /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
      'it must be 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first',
    ),
  placeholder: 'ID',
}

const declarations = {
  dataDir: option(
    text('DIR'),
    './data',
    'where messages and queues are kept; relative to the working directory',
  ),
  listen: option(address, '127.0.0.1:7650', 'where clients connect; port 0 takes a free one'),
  http: option(
    address,
    '127.0.0.1:7651',
    'where /healthz, /readyz and /metrics answer; port 0 takes a free one',
  ),
  config: optional(text('FILE'), 'YAML file of options, named like the flags without --'),
  nodeId: optional(
    nodeId,
    "the node's name; else the one that the data directory remembers, or a random one",
  ),
  rack: optional(text('NAME'), 'failure domain of this node'),
  roles: option(roles, roleNames.join(','), 'what this node does'),
  coordinator: option(text('WHERE'), 'embedded', 'embedded, HOST:PORT, or etcd://HOST:PORT,…'),
  shards: option(count(1, 64), '1', 'broker processes on this host'),
  allowPlaintext: option(toggle, 'false', 'listen without TLS on addresses that other machines can reach'),
  maxConnections: option(count(1, 100_000), '1000', 'connections at a time'),
  maxUnreadBytes: option(
    size(16 << 20, 2 ** 40),
    '256MiB',
    'answers that wait to be read, on all connections together',
  ),
  maxQueues: option(count(1, 1_000_000), '10000', 'queues on this node'),
  maxPartitions: option(count(1, 1_000_000), '20000', 'partitions of all queues together'),
  segmentBytes: option(size(1 << 20, 2 ** 34), '64MiB', 'size at which the log goes on in a new file'),
  heartbeatMs: option(duration(100, 300_000), '10s', 'sent on connections that are silent for so long'),
  logLevel: option(oneOf('debug', 'info', 'warn', 'error', 'silent'), 'info', 'least severe lines to log'),
}

type Declarations = typeof declarations
type Value<D> = D extends Declaration<infer T> ? T : never

/** What `start` runs with, checked. Sizes and durations end in their unit. */
export type StartOptions = { readonly [Name in keyof Declarations]: Value<Declarations[Name]> }

/** What a command line parser needs to know of an option. */
export interface StartFlag {
  readonly name: keyof StartOptions
  /** Without dashes: also the key in the configuration file. */
  readonly flag: string
  readonly variable: string
  readonly placeholder: string | undefined
  /** With default, limits and variable. */
  readonly help: string
}

const entries = Object.entries(declarations) as [keyof StartOptions, Declaration<unknown>][]

export const startFlags: readonly StartFlag[] = entries.map(
  ([name, { placeholder, limits, help, ...rest }]) => {
    const flag = kebab(name)
    const variable = `MQ_${flag.toUpperCase().replaceAll('-', '_')}`
    const facts = [
      rest.default === undefined || placeholder === undefined ? undefined : `default ${rest.default}`,
      limits,
      variable,
    ]
    const known = facts.filter((fact) => fact !== undefined)
    return { name, flag, variable, placeholder, help: `${help} (${known.join('; ')})` }
  },
)

export interface Written {
  /** By option name; a switch that was given is `'true'`. */
  readonly flags: Partial<Record<keyof StartOptions, string>>
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly readFile: (path: string) => ReadonlyMap<unknown, unknown>
}

/**
 * Puts the options together, and refuses what cannot be meant or is not built yet.
 * @throws MqError INVALID_OPTION, UNSUPPORTED
 */
export function resolveStartOptions({ flags, environment, readFile }: Written): StartOptions {
  // An empty variable counts as unset: that is how compose files and service managers write "no value".
  const written = ({ name, flag, variable }: StartFlag): { text: string; where: string } | undefined => {
    const given = flags[name]
    if (given !== undefined) return { text: given, where: `--${flag}` }
    const set = environment[variable]
    return set === undefined || set === '' ? undefined : { text: set, where: variable }
  }
  const path = written(startFlags.find(({ name }) => name === 'config') as StartFlag)?.text
  const file = path === undefined ? new Map<string, string>() : fileTexts(path, readFile(path))

  const options: Partial<Record<keyof StartOptions, unknown>> = {}
  for (const entry of startFlags) {
    const { name, flag } = entry
    const { schema, default: fallback } = declarations[name] as Declaration<unknown>
    const fromFile = file.get(flag)
    const chosen =
      written(entry) ??
      (fromFile === undefined ? undefined : { text: fromFile, where: `${flag} in ${path}` }) ??
      (fallback === undefined ? undefined : { text: fallback, where: `the default of --${flag}` })
    if (chosen === undefined) continue
    const outcome = schema.safeParse(chosen.text)
    if (!outcome.success) {
      const why = outcome.error.issues[0]?.message ?? 'it is not valid'
      throw new MqError('INVALID_OPTION', `${chosen.where} is '${chosen.text}': ${why}`)
    }
    options[name] = outcome.data
  }
  const checked = options as StartOptions
  refuseUnbuilt(checked)
  refusePlaintext(checked)
  return checked
}

/** The file's options as text, by flag. A list may be written as YAML writes lists. */
function fileTexts(path: string, file: ReadonlyMap<unknown, unknown>): Map<string, string> {
  const known = startFlags.map(({ flag }) => flag).filter((flag) => flag !== 'config')
  const texts = new Map<string, string>()
  for (const [key, value] of file) {
    if (typeof key !== 'string' || !known.includes(key)) {
      const what = typeof key === 'string' ? `'${key}'` : 'a key that is no text'
      throw new MqError(
        'INVALID_OPTION',
        `${path} holds ${what}, which is none of the options ${known.join(', ')}`,
      )
    }
    // A key without a value is unset, as an empty variable is.
    if (value === null || value === '') continue
    const items: unknown[] = Array.isArray(value) ? value : [value]
    if (!items.every((item) => typeof item === 'string')) {
      throw new MqError('INVALID_OPTION', `${key} in ${path} must be a plain value`)
    }
    texts.set(key, items.join(','))
  }
  return texts
}

/** An option that means something the broker does not do yet is refused, never ignored. */
function refuseUnbuilt({ rack, roles, coordinator, shards }: StartOptions): void {
  const refuse = (what: string) => {
    throw new MqError('UNSUPPORTED', `${what} needs a cluster, which is not built yet`)
  }
  if (rack !== undefined) refuse('--rack')
  if (roles.length < roleNames.length) refuse('a node with some of the roles only')
  if (coordinator !== 'embedded') refuse('a coordinator other than embedded')
  if (shards !== 1) refuse('--shards above 1')
}

function refusePlaintext({ listen, http, allowPlaintext }: StartOptions): void {
  if (allowPlaintext) return
  for (const [flag, address] of Object.entries({ listen, http })) {
    if (isLoopback(address)) continue
    throw new MqError(
      'INVALID_OPTION',
      `--${flag} ${address.host} can be reached from other machines, and everything would travel unencrypted: ` +
        'add --allow-plaintext if that network can be trusted',
    )
  }
}

function option<T>(kind: Kind<T>, fallback: string, help: string): Declaration<T> {
  return { ...kind, default: fallback, help }
}

function optional<T>(kind: Kind<T>, help: string): Declaration<T | undefined> {
  return { ...kind, help }
}

function parsed<T>(parse: (text: string) => T | undefined, form: string) {
  return z.string().transform((text, context) => {
    const value = parse(text)
    if (value !== undefined) return value
    context.addIssue({ code: 'custom', message: form })
    return z.NEVER
  })
}

/** `segmentBytes` → `segment-bytes`; milliseconds go unnamed, because a flag's duration may have any unit. */
function kebab(name: string): string {
  return name.replace(/Ms$/, '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

function listed(values: readonly string[]): string {
  return `${values.slice(0, -1).join(', ')} or ${values.at(-1)}`
}

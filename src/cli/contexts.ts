/**
 * Contexts: names for brokers, kept in the user's configuration folder, one of which is current. A file that cannot
 * be read as contexts is said to be so and never overwritten.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { MqError } from '../errors.ts'

export interface Contexts {
  readonly current: string | null
  readonly contexts: Readonly<Record<string, { readonly server: string }>>
}

/** Names that a shell leaves alone. */
const nameForm = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/** The file: in `$XDG_CONFIG_HOME`, on Windows `%APPDATA%`, else `~/.config`. */
export function contextsPath(environment: NodeJS.ProcessEnv = process.env): string {
  const { XDG_CONFIG_HOME, APPDATA } = environment
  // An empty variable counts as unset.
  const folder = XDG_CONFIG_HOME || (process.platform === 'win32' && APPDATA) || join(homedir(), '.config')
  return join(folder, 'mq-broker', 'contexts.json')
}

/** @throws MqError INVALID_OPTION: the file is there and holds something else */
export function readContexts(path: string = contextsPath()): Contexts {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return { current: null, contexts: {} }
    throw new MqError('INVALID_OPTION', `the contexts in ${path} cannot be read (${code})`, { cause: error })
  }
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch {
    content = undefined
  }
  if (isContexts(content)) return content
  throw new MqError('INVALID_OPTION', `${path} does not hold contexts: correct it, or remove it`)
}

function isContexts(content: unknown): content is Contexts {
  if (typeof content !== 'object' || content === null) return false
  const { current, contexts } = content as Partial<Record<keyof Contexts, unknown>>
  if (current !== null && typeof current !== 'string') return false
  if (typeof contexts !== 'object' || contexts === null) return false
  return Object.values(contexts).every(
    (each: unknown) =>
      typeof each === 'object' && each !== null && 'server' in each && typeof each.server === 'string',
  )
}

/** Replaces the file as a whole, for its owner alone: an address may come to hold a secret. */
export function writeContexts(contexts: Contexts, path: string = contextsPath()): void {
  const written = `${path}.${process.pid}`
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    writeFileSync(written, `${JSON.stringify(contexts, null, 2)}\n`, { mode: 0o600 })
    renameSync(written, path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new MqError('INVALID_OPTION', `the contexts in ${path} cannot be written (${code})`, {
      cause: error,
    })
  }
}

/** Where the current context's broker is, if there is one. */
export function currentServer(): string | undefined {
  const { current, contexts } = readContexts()
  return current === null || !Object.hasOwn(contexts, current) ? undefined : contexts[current]!.server
}

/** @throws MqError INVALID_OPTION */
export function checkContextName(name: string): void {
  if (nameForm.test(name)) return
  throw new MqError(
    'INVALID_OPTION',
    `'${name}' is no name of a context: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first`,
  )
}

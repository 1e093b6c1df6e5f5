/** `mq-broker context ls|use|add|rm` */
import type { Command } from 'commander'
import { parseServer } from '../client/options.ts'
import { MqError } from '../errors.ts'
import { checkContextName, readContexts, writeContexts, type Contexts } from './contexts.ts'
import { type OutputOptions, withJson } from './options.ts'
import { print, printJson, printTable } from './output.ts'

export function define(context: Command): void {
  const subcommand = (usage: string, description: string) =>
    withJson(context.command(usage).description(description))
  subcommand('ls', 'list the contexts; the current one has a star').action(list)
  subcommand('use <NAME>', 'make a context the current one').action(use)
  subcommand('add <NAME>', 'add a context, or change its address; the first one becomes current')
    .requiredOption('--server <ADDRESS>', 'where the broker listens, several addresses with commas')
    .action(add)
  subcommand('rm <NAME>', 'remove a context').action(remove)
}

async function list({ json }: OutputOptions): Promise<void> {
  const { current, contexts } = readContexts()
  const names = Object.keys(contexts).sort()
  if (json) {
    return printJson(names.map((name) => ({ name, ...contexts[name], current: name === current })))
  }
  const rows = names.map((name) => [name === current ? '*' : '', name, contexts[name]!.server])
  await printTable(['', 'NAME', 'SERVER'], rows)
}

async function use(name: string, options: OutputOptions): Promise<void> {
  const contexts = readContexts()
  checkIsThere(contexts, name)
  writeContexts({ ...contexts, current: name })
  await report(options, name, 'is current')
}

async function add(name: string, options: OutputOptions & { readonly server: string }): Promise<void> {
  checkContextName(name)
  const server = options.server
    .split(',')
    .map((each) => each.trim())
    .join(',')
  for (const each of server.split(',')) parseServer(each)
  const { current, contexts } = readContexts()
  writeContexts({ current: current ?? name, contexts: { ...contexts, [name]: { server } } })
  await report(options, name, 'is added')
}

async function remove(name: string, options: OutputOptions): Promise<void> {
  const contexts = readContexts()
  checkIsThere(contexts, name)
  const { [name]: _, ...others } = contexts.contexts
  writeContexts({ current: contexts.current === name ? null : contexts.current, contexts: others })
  await report(options, name, 'is removed')
}

function checkIsThere({ contexts }: Contexts, name: string): void {
  if (Object.hasOwn(contexts, name)) return
  const names = Object.keys(contexts).sort().join(', ')
  const hint = names === '' ? 'none was added yet' : `there is ${names}`
  throw new MqError('INVALID_OPTION', `there is no context '${name}': ${hint}`)
}

/** What became of a context, with all that there is now for programs. */
async function report({ json }: OutputOptions, name: string, what: string): Promise<void> {
  if (!json) return print(`context ${name} ${what}\n`)
  const { current, contexts } = readContexts()
  await printJson({ name, current, contexts })
}

/**
 * The `mq-broker` command. Exit codes: 0 done; 1 refused or failed, with one line on stderr that says what to do;
 * 2 wrong usage.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { exitCodeOf, failureLine } from './failure.ts'
import { flush, note, ReaderGone } from './output.ts'

/** What a command group adds to its entry in the program: its options and what it does. */
export type Define = (command: Command) => void

interface Group {
  readonly description: string
  readonly load: () => Promise<{ define: Define }>
}

const groups: Readonly<Record<string, Group>> = {
  start: { description: 'run a broker in this terminal', load: () => import('./start.ts') },
  queue: {
    description: 'list, create, describe, edit, purge and remove queues',
    load: () => import('./queue.ts'),
  },
  dlq: { description: 'list dead-letter queues, and redrive their messages', load: () => import('./dlq.ts') },
  peek: { description: 'look at messages without taking them', load: () => import('./peek.ts') },
  send: { description: 'send one message, or each line of stdin', load: () => import('./send.ts') },
  receive: { description: 'receive messages and print them', load: () => import('./receive.ts') },
  ack: {
    description: 'settle deliveries for good, by their receipts',
    load: async () => ({ define: (await import('./settle.ts')).defineAck }),
  },
  nack: {
    description: 'give deliveries back as failed, by their receipts',
    load: async () => ({ define: (await import('./settle.ts')).defineNack }),
  },
  extend: {
    description: 'lengthen the leases of deliveries, by their receipts',
    load: async () => ({ define: (await import('./settle.ts')).defineExtend }),
  },
  check: {
    description: 'verify a data directory, or print its log, while no broker runs on it',
    load: () => import('./check.ts'),
  },
  bench: { description: 'measure how fast a running broker is', load: () => import('./bench.ts') },
  context: { description: 'name brokers, and choose one', load: () => import('./context.ts') },
  completion: { description: 'print completions for a shell', load: () => import('./completion.ts') },
}

/** Runs the command that `argv` (as in `process.argv`) asks for, and sets the process's exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  // Both streams may lose their reader at any time. Whoever prints learns of it from its own write.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  try {
    const program = await createProgram(argv)
    await program.parseAsync(argv)
    await flush()
  } catch (error) {
    process.exitCode = exitCodeOf(error)
    // Commander has printed already, be it the help or what is wrong.
    if (!(error instanceof CommanderError || error instanceof ReaderGone)) note(failureLine(error))
  }
}

/** Only the group that is asked for is loaded: `send` has no use for the broker, and no time for it. */
async function createProgram(argv: readonly string[]): Promise<Command> {
  const program = new Command('mq-broker')
  program
    .description('A durable message broker: start it, and talk to it.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .exitOverride()
    .showSuggestionAfterError()
    .helpCommand(false)
  for (const [name, { description, load }] of Object.entries(groups)) {
    const command = program.command(name).description(description)
    // Completions are made of all of them.
    if (!argv.includes(name) && argv[2] !== 'completion') continue
    const { define } = await load()
    define(command)
  }
  program
    .command('help')
    .description('print the help of a command')
    .argument('[COMMAND...]')
    .action((names: string[]) => commandAt(program, names).outputHelp())
  tellWhereHelpIs(program, 'mq-broker')
  return program
}

/** @throws CommanderError there is no such command, which has been said then */
function commandAt(program: Command, names: readonly string[]): Command {
  let found = program
  for (const name of names) {
    const next = found.commands.find((each) => each.name() === name)
    found = next ?? found.error(`error: unknown command '${name}'`)
  }
  return found
}

/** What is wrong with the use of a command points at the help of that command. */
function tellWhereHelpIs(command: Command, path: string): void {
  command.configureOutput({ outputError: (text) => note(usageLine(text, path)) })
  for (const each of command.commands) tellWhereHelpIs(each, `${path} ${each.name()}`)
}

/** Commander's message, which may have lines, in one line that says where to look. */
function usageLine(text: string, path: string): string {
  const what = text
    .trim()
    .replace(/^error: /, '')
    .replace(/\s*\n\(Did you mean (.*\?)\)$/, ': did you mean $1')
    .replaceAll(/\s*\n\s*/g, ' ')
  return `mq-broker: ${what} (see ${path} --help)`
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

/** `mq-broker dlq ls|redrive` */
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import type { Redriven } from '../index.ts'
import { systemClock } from '../system.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { count, flagOption, queueArgument, queueName, type OutputOptions, withJson } from './options.ts'
import { Interrupted } from './failure.ts'
import { manyMessages, note, print, printJson, printTable } from './output.ts'

type Options = ConnectionOptions & OutputOptions

interface RedriveFlags extends Options {
  readonly to?: string
  readonly max?: number
  readonly rate?: number
  readonly dryRun?: true
}

export function define(dlq: Command): void {
  const subcommand = (usage: string, description: string) =>
    withJson(withServer(dlq.command(usage).description(description)))

  subcommand('ls', 'list the dead-letter queues, and the queues whose messages go there').action(
    (options: Options) => list(options),
  )
  subcommand('redrive', 'send the messages of a dead-letter queue back to where they came from')
    .addArgument(queueArgument('NAME'))
    .addOption(
      flagOption('--to', queueName, 'send all to this queue', 'default: each to the one it came from'),
    )
    .addOption(
      flagOption('--max', count(1, Infinity), 'messages to redrive at most', 'default: all that are ready'),
    )
    .addOption(
      flagOption(
        '--rate',
        count(1, 1_000_000),
        'messages to redrive in a second at most',
        'default: no limit',
      ),
    )
    .option('--dry-run', 'redrive nothing, and say how many messages it would be')
    .addHelpText(
      'after',
      '\nAn interrupt ends it once the step under way is done, a second one at once; what was redriven by then stays so.\n' +
        'Messages that come meanwhile stay.',
    )
    .action((name: string, options: RedriveFlags) => redrive(name, options))
}

async function list(options: Options): Promise<void> {
  const queues = await withClient(options, (client) => client.listQueues())
  const sources = new Map<string, string[]>()
  for (const { name, options } of queues) {
    const { deadLetterQueue } = options
    if (deadLetterQueue !== null)
      sources.set(deadLetterQueue, [...(sources.get(deadLetterQueue) ?? []), name])
  }
  // By their name they were meant for dead letters, though no queue leads there any more.
  for (const { name } of queues) if (name.endsWith('.dlq') && !sources.has(name)) sources.set(name, [])
  const messages = new Map(queues.map((queue) => [queue.name, queue.messages]))
  const found = [...sources.keys()].sort().map((name) => ({
    name,
    // One that was removed is made again when it is needed.
    messages: messages.get(name) ?? 0,
    sources: sources.get(name)!,
  }))
  if (options.json) return printJson(found)
  await printTable(
    ['NAME', 'MESSAGES', 'SOURCES'],
    found.map(({ name, messages, sources }) => [name, messages, sources.join(', ') || 'none']),
  )
}

const progressMs = 1000
const signals = ['SIGINT', 'SIGTERM'] as const

async function redrive(name: string, options: RedriveFlags): Promise<void> {
  const { to, max, rate, dryRun = false } = options
  // The first lets the step under way end, so that it is known what was done.
  const stop = new AbortController()
  const abort = new AbortController()
  let firstSignal: (typeof signals)[number] | undefined
  const interrupt = (signal: (typeof signals)[number]): void => {
    if (firstSignal !== undefined) abort.abort()
    firstSignal ??= signal
    stop.abort()
  }
  for (const signal of signals) process.on(signal, interrupt)
  let toldMs = systemClock.monotonicMs()
  const onProgress = ({ messages }: Redriven): void => {
    const nowMs = systemClock.monotonicMs()
    if (nowMs - toldMs < progressMs) return
    toldMs = nowMs
    note(`${manyMessages(messages)} ${dryRun ? 'counted' : 'redriven'}`)
  }
  try {
    const redriven = await withClient(options, (client) =>
      client.redrive(name, {
        to,
        max,
        ratePerSecond: rate,
        dryRun,
        signal: abort.signal,
        stop: stop.signal,
        onProgress,
      }),
    )
    if (options.json) await printJson({ name, ...redriven, dryRun })
    else await print(summary(name, redriven, dryRun))
  } catch (error) {
    if (!(error instanceof MqError)) throw error
    if (firstSignal === undefined || error.code !== 'ABORTED' || error.outcome !== 'failed')
      throw withCount(error, dryRun)
    const done = `${manyMessages(Number(error.details?.['messages'] ?? 0))} ${dryRun ? 'counted' : 'redriven'}`
    throw new Interrupted(firstSignal, `interrupted, with ${done} from ${name}; what is left stays there`)
  } finally {
    for (const signal of signals) process.off(signal, interrupt)
  }
}

function summary(name: string, { messages, skipped, targets }: Redriven, dryRun: boolean): string {
  const done = dryRun ? 'would be redriven' : 'redriven'
  const lines = Object.keys(targets)
    .sort()
    .map((target) => `${manyMessages(targets[target]!)} ${done} to ${target}`)
  if (messages === 0) lines.push(`${manyMessages(0)} of queue ${name} ${done}`)
  if (skipped > 0) {
    const why =
      messages === 0
        ? 'they name no queue that is there and takes them; --to names one'
        : 'the queue they came from is not known or not there, or takes none of their size'
    lines.push(`${manyMessages(skipped)} ${dryRun ? 'would stay' : 'stayed'} in ${name}: ${why}`)
  }
  return `${lines.join('\n')}\n`
}

/** What was done before the step that failed is done. */
function withCount(error: MqError, dryRun: boolean): MqError {
  const { code, message, outcome, details, cause } = error
  const before = details?.['messages']
  if (dryRun || typeof before !== 'number' || before === 0) return error
  return new MqError(code, `${message}, after ${manyMessages(before)} redriven`, {
    // Of all that was asked for, nobody can say that nothing was done.
    outcome: outcome === 'failed' ? undefined : outcome,
    details,
    cause,
  })
}

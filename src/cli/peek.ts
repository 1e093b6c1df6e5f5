/** `mq-broker peek QUEUE` */
import type { Command } from 'commander'
import type { PeekedMessage } from '../index.ts'
import { limits } from '../types.ts'
import { deadLetterHeader } from '../wire/dead-letter.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { count, flagOption, queueArgument, type OutputOptions, withJson } from './options.ts'
import { bodyFields, bodyText, print, printable, printJson } from './output.ts'

interface Options extends ConnectionOptions, OutputOptions {
  readonly max: number
}

export function define(peek: Command): void {
  withJson(withServer(peek))
    .addArgument(queueArgument('QUEUE'))
    .addOption(flagOption('--max', count(1, limits.receiveMessagesMax), 'messages at most').default(10))
    .addHelpText(
      'after',
      '\nPrints a line for each message, oldest first: its state (ready, delayed or leased), how often it was delivered, its id,\n' +
        'why it is a dead letter (else -) and its body, with tabs between and control characters escaped; --json has all of\n' +
        'it. Nothing is leased or counted.',
    )
    .action((queue: string, options: Options) => run(queue, options))
}

async function run(queue: string, options: Options): Promise<void> {
  const messages = await withClient(options, (client) => client.peek(queue, { max: options.max }))
  if (options.json) return printJson(messages.map(jsonMessage))
  const lines = messages.flatMap(({ state, deliveryCount, id, headers, body }) => [
    Buffer.from(`${state}\t${deliveryCount}\t${id}\t${deathOf(headers)}\t`),
    Buffer.from(`${bodyText(body)}\n`),
  ])
  await print(Buffer.concat(lines))
}

/** Of a dead letter, or of one that was redriven, why it was given up and where; else `-`. */
function deathOf(headers: Readonly<Record<string, string>>): string {
  const reason = headers[deadLetterHeader.reason]
  if (reason === undefined) return '-'
  const error = headers[deadLetterHeader.error]
  const why = `${reason} in ${headers[deadLetterHeader.originQueue]}${error === undefined ? '' : `: ${error}`}`
  return printable(why.replaceAll('\t', ' '))
}

function jsonMessage(message: PeekedMessage): object {
  const { id, queue, state, body, headers, key, priority, deliveryCount, sentAtMs } = message
  return { id, queue, state, ...bodyFields(body), headers, key, priority, deliveryCount, sentAtMs }
}

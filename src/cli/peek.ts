/** `mq-broker peek QUEUE` */
import type { Command } from 'commander'
import type { PeekedMessage } from '../index.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { count, flagOption, type OutputOptions, withJson } from './options.ts'
import { bodyFields, bodyLine, print, printJson } from './output.ts'

interface Options extends ConnectionOptions, OutputOptions {
  readonly max: number
}

export function define(peek: Command): void {
  withJson(withServer(peek))
    .argument('<QUEUE>')
    .addOption(flagOption('--max', count, 'messages at most, 1 to 1,000').default(10))
    .addHelpText(
      'after',
      '\nPrints a line for each message, oldest first: its state (ready, delayed or leased), how often it was delivered, its id\n' +
        'and its body, with tabs between. Nothing is leased or counted.',
    )
    .action((queue: string, options: Options) => run(queue, options))
}

async function run(queue: string, options: Options): Promise<void> {
  const messages = await withClient(options, (client) => client.peek(queue, { max: options.max }))
  if (options.json) return printJson(messages.map(jsonMessage))
  const lines = messages.flatMap(({ state, deliveryCount, id, body }) => [
    Buffer.from(`${state}\t${deliveryCount}\t${id}\t`),
    bodyLine(body),
    Buffer.from('\n'),
  ])
  await print(Buffer.concat(lines))
}

function jsonMessage(message: PeekedMessage): object {
  const { id, queue, state, body, headers, key, priority, deliveryCount, sentAtMs } = message
  return { id, queue, state, ...bodyFields(body), headers, key, priority, deliveryCount, sentAtMs }
}

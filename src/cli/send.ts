/** `mq-broker send QUEUE BODY` and `… | mq-broker send QUEUE -` */
import { fstatSync } from 'node:fs'
import type { Command } from 'commander'
import type { SendOptions } from '../index.ts'
import { systemClock } from '../system.ts'
import { limits } from '../types.ts'
import { type ConnectionOptions, noteConnection, withClient, withServer } from './connection.ts'
import {
  count,
  duration,
  flagOption,
  headerOption,
  notBuilt,
  queueArgument,
  type OutputOptions,
  text,
  withJson,
} from './options.ts'
import * as output from './output.ts'
import { receiptLine, sendLines } from './send-lines.ts'

interface Options extends ConnectionOptions, OutputOptions {
  readonly header?: Record<string, string>
  readonly key?: string
  readonly priority?: number
  readonly delay?: number
  readonly ttl?: number
  readonly dedupeId?: string
}

export function define(send: Command): void {
  withJson(withServer(send))
    .addArgument(queueArgument('QUEUE'))
    .argument('<BODY>', 'the message, or - to send each line of stdin as one')
    .addOption(headerOption())
    .addOption(
      flagOption('--delay', duration(0, limits.delayMsMax), 'time until the message can be received'),
    )
    .addOption(flagOption('--key', text, 'messages of one key are delivered in order', notBuilt))
    .addOption(flagOption('--priority', count(0, 9), '9 goes first', notBuilt, 'default 0'))
    .addOption(
      flagOption('--ttl', duration(1, limits.delayMsMax), 'age at which the message is dropped', notBuilt),
    )
    .addOption(
      flagOption('--dedupe-id', text, 'sent again within the window, it is the same message', notBuilt),
    )
    .addHelpText(
      'after',
      '\nPrints the id of each message once it is confirmed, in the order of the lines; - under --confirm none.\n' +
        'A line is sent without its newline, and an empty one is an empty message.',
    )
    .action((queue: string, body: string, options: Options) => run(queue, body, options))
}

async function run(queue: string, body: string, options: Options): Promise<void> {
  const sendOptions = sendOptionsOf(options)
  const { json = false } = options
  await withClient(options, async (client) => {
    if (body === '-') {
      // Which Node takes for one that has ended.
      if (fstatSync(0).isDirectory())
        throw new output.StreamFailed('cannot read the input: it is a directory')
      // Before anything is read: nobody should type lines for a queue that is not there.
      await client.describeQueue(queue)
      noteConnection(client)
      const send = (line: Uint8Array) => client.send(queue, line, sendOptions)
      return sendLines({ send, input: process.stdin, clock: systemClock, output, json })
    }
    const receipt = await client.send(queue, body, sendOptions)
    if (json) await output.printJson(receipt)
    else await output.print(receiptLine(receipt))
  })
}

function sendOptionsOf({ header, key, priority, delay, ttl, dedupeId }: Options): SendOptions {
  return { headers: header, key, priority, delayMs: delay, ttlMs: ttl, dedupeId }
}

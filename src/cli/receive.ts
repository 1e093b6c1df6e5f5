/** `mq-broker receive QUEUE` */
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import type { Message } from '../index.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { count, duration, flagOption, type OutputOptions, withJson } from './options.ts'
import { bodyFields, bodyLine, print, printJson } from './output.ts'

interface Options extends ConnectionOptions, OutputOptions {
  readonly max: number
  readonly wait: number
  readonly ack?: true
  readonly visibilityTimeout?: number
}

export function define(receive: Command): void {
  withJson(withServer(receive))
    .argument('<QUEUE>')
    .addOption(flagOption('--max', count, 'messages at most, 1 to 1,000').default(1))
    .addOption(flagOption('--wait', duration, 'how long to wait for the first, up to 20s').default(0))
    .option('--ack', 'ack what was printed; else it stays leased, and its receipt is printed')
    .addOption(flagOption('--visibility-timeout', duration, "length of the lease (default: the queue's)"))
    .addHelpText(
      'after',
      '\nPrints a line for each message: its body and, without --ack, a tab and its receipt. Bodies that hold\n' +
        'tabs or newlines are told apart with --json. When there is nothing, it prints nothing and exits with 0.',
    )
    .action((queue: string, options: Options) => receiveAndPrint(queue, options))
}

async function receiveAndPrint(queue: string, options: Options): Promise<void> {
  const { max, wait, ack = false, visibilityTimeout, json = false } = options
  await withClient(options, async (client) => {
    const messages = await client.receive(queue, {
      max,
      waitMs: wait,
      visibilityTimeoutMs: visibilityTimeout,
      // The wait is asked for: it does not count against the time that an answer may take.
      timeoutMs: wait + answerMs,
    })
    try {
      if (json) await printJson(messages.map((message) => jsonMessage(message, !ack)))
      else await print(textMessages(messages, !ack))
    } catch (error) {
      // Nobody has read them: the next consumer need not wait for the lease to expire.
      await Promise.allSettled(messages.map((message) => message.release()))
      throw error
    }
    // Only what was printed: what nobody has read must not be gone.
    if (ack) await ackAll(messages)
  })
}

async function ackAll(messages: readonly Message[]): Promise<void> {
  const outcomes = await Promise.allSettled(messages.map((message) => message.ack()))
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  const error: unknown = failed[0]?.reason
  if (error === undefined) return
  if (!(error instanceof MqError))
    throw error instanceof Error ? error : new Error('an ack failed', { cause: error })
  throw new MqError(error.code, `${failed.length} of ${messages.length} acks failed: ${error.message}`, error)
}

const answerMs = 30_000

function jsonMessage(message: Message, withReceipt: boolean): object {
  const { id, queue, body, headers, key, priority, deliveryCount, sentAtMs, receipt } = message
  return {
    id,
    queue,
    ...bodyFields(body),
    headers,
    key,
    priority,
    deliveryCount,
    sentAtMs,
    ...(withReceipt ? { receipt } : {}),
  }
}

function textMessages(messages: readonly Message[], withReceipt: boolean): Uint8Array {
  const pieces = messages.map(({ body, receipt }) => [
    bodyLine(body),
    Buffer.from(withReceipt ? `\t${receipt}\n` : '\n'),
  ])
  return Buffer.concat(pieces.flat())
}

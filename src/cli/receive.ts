/** `mq-broker receive QUEUE` */
import { Option, type Command } from 'commander'
import { MqError } from '../errors.ts'
import type { Message } from '../index.ts'
import { limits } from '../types.ts'
import { type ConnectionOptions, noteConnection, withClient, withServer } from './connection.ts'
import { count, duration, flagOption, queueArgument, type OutputOptions, withJson } from './options.ts'
import { bodyFields, bodyLine, note, print, printJson } from './output.ts'

interface Options extends ConnectionOptions, OutputOptions {
  readonly max: number
  readonly wait: number
  readonly ack?: true
  readonly visibilityTimeout?: number
  readonly follow?: true
}

export function define(receive: Command): void {
  withJson(withServer(receive))
    .addArgument(queueArgument('QUEUE'))
    .addOption(flagOption('--max', count(1, limits.receiveMessagesMax), 'messages at most').default(1))
    .addOption(
      flagOption('--wait', duration(0, limits.receiveWaitMsMax), 'how long to wait for the first').default(0),
    )
    .option('--ack', 'ack what was printed; else it stays leased, and its receipt is printed')
    .addOption(
      flagOption(
        '--visibility-timeout',
        duration(1, limits.visibilityTimeoutMsMax),
        'length of the lease',
        "default: the queue's",
      ),
    )
    .addOption(
      new Option(
        '--follow',
        'go on with what comes, until interrupted; --max then ends it after so many',
      ).conflicts('wait'),
    )
    .addHelpText(
      'after',
      '\nPrints a line for each message: its body and, without --ack, a tab and its receipt. Bodies that hold\n' +
        'tabs or newlines are told apart with --json. When there is nothing, it prints nothing and exits with 0.\n' +
        'With --follow and --json, each message is a line with an object of its own. What was fetched and not printed\n' +
        'when it ends is released.',
    )
    .action((queue: string, options: Options, command: Command) => {
      if (options.follow !== true) return receiveAndPrint(queue, options)
      const isLimited = command.getOptionValueSource('max') !== 'default'
      return follow(queue, options, isLimited ? options.max : Infinity)
    })
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

/** Messages that are printed at once. */
const followedMax = 100

async function follow(queue: string, options: Options, max: number): Promise<void> {
  const { ack = false, visibilityTimeout, json = false } = options
  await withClient(options, async (client) => {
    noteConnection(client)
    const loop = client.consumeBatches(queue, {
      max: Math.min(followedMax, max),
      visibilityTimeoutMs: visibilityTimeout,
      // Without --ack somebody else settles them, or lets their leases end: that must not wait for this command.
      renew: ack,
    })
    const stop = (): void => void loop.return()
    const signals = ['SIGINT', 'SIGTERM'] as const
    for (const signal of signals) process.on(signal, stop)
    try {
      let left = max
      for await (const { messages } of loop) {
        const printed = messages.slice(0, left)
        left -= printed.length
        try {
          if (json)
            await print(printed.map((message) => `${JSON.stringify(jsonMessage(message, !ack))}\n`).join(''))
          else await print(textMessages(printed, !ack))
        } catch (error) {
          await Promise.allSettled(messages.map((message) => message.release()))
          throw error
        }
        if (ack) await ackAll(printed).catch(noteIfLost)
        if (left > 0) continue
        await Promise.allSettled(messages.slice(printed.length).map((message) => message.release()))
        break
      }
    } finally {
      for (const signal of signals) process.off(signal, stop)
    }
  })
}

/** A lost lease is no reason to stop following: the message is delivered again. */
function noteIfLost(error: unknown): void {
  if (!(error instanceof MqError) || error.code !== 'LEASE_LOST') throw error
  note(`mq-broker: ${error.message} (${error.code})`)
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

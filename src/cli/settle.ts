/** `mq-broker ack|nack|extend RECEIPT…`: a receipt, as `receive` prints it, says which queue it is of. */
import type { Command } from 'commander'
import { decodeReceipt } from '../client/delivery-receipt.ts'
import { MqError } from '../errors.ts'
import type { MqClient } from '../index.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { limits } from '../types.ts'
import { duration, flagOption, type OutputOptions, reason, withJson } from './options.ts'
import { print, printJson } from './output.ts'

type Options = ConnectionOptions & OutputOptions

interface NackFlags extends Options {
  readonly delay?: number
  readonly reason?: string
}

interface ExtendFlags extends Options {
  readonly for: number
}

/** What is asked of the broker about the receipts of one queue. */
type Ask = (client: MqClient, queue: string, receipts: readonly string[]) => Promise<(MqError | null)[]>

export function defineAck(ack: Command): void {
  withReceipts(ack).action((receipts: string[], options: Options) =>
    settle(receipts, options, 'acked', (client, queue, some) => client.ack(queue, some)),
  )
}

export function defineNack(nack: Command): void {
  withReceipts(nack)
    .addOption(
      flagOption(
        '--delay',
        duration(0, limits.delayMsMax),
        'time until the next delivery',
        "default: the queue's backoff",
      ),
    )
    .addOption(flagOption('--reason', reason, 'why it failed, up to 1 KiB'))
    .action((receipts: string[], options: NackFlags) => {
      const { delay: delayMs, reason } = options
      return settle(receipts, options, 'nacked', (client, queue, some) =>
        client.nack(queue, some, { delayMs, reason }),
      )
    })
}

export function defineExtend(extend: Command): void {
  withReceipts(extend)
    .addOption(
      flagOption(
        '--for',
        duration(1, limits.visibilityTimeoutMsMax),
        'the leases end this long from now',
      ).makeOptionMandatory(),
    )
    .action((receipts: string[], options: ExtendFlags) =>
      settle(receipts, options, 'extended', (client, queue, some) =>
        client.extend(queue, some, { ms: options.for }),
      ),
    )
}

function withReceipts(command: Command): Command {
  return withJson(withServer(command))
    .argument('<RECEIPT...>', 'receipts, as receive prints them')
    .addHelpText('after', '\nWhen some are refused, the others are done all the same; the exit code is 1.')
}

async function settle(receipts: readonly string[], options: Options, done: string, ask: Ask): Promise<void> {
  const errors = new Array<MqError | null>(receipts.length).fill(null)
  await withClient(options, async (client) => {
    await Promise.all(
      [...byQueue(receipts)].map(async ([queue, places]) => {
        const some = places.map((place) => receipts[place]!)
        // One queue that is gone must not hide what became of the others.
        const results = await ask(client, queue, some).catch((error: unknown) => {
          if (error instanceof MqError) return some.map(() => error)
          throw error
        })
        places.forEach((place, i) => (errors[place] = results[i] ?? null))
      }),
    )
  })
  const failed = errors.filter((error) => error !== null)
  const succeeded = receipts.length - failed.length
  if (options.json) {
    await printJson(
      receipts.map((receipt, i) => {
        const error = errors[i] ?? null
        return { receipt, error: error && { code: error.code, message: error.message } }
      }),
    )
  } else if (succeeded > 0) await print(`${succeeded} ${done}\n`)
  const [first] = failed
  if (first === undefined) return
  const { code, message, outcome, details } = first
  throw new MqError(code, `${failed.length} of ${receipts.length} not ${done}: ${message}`, {
    outcome,
    details,
  })
}

/** Where the receipts of each queue stand. @throws MqError INVALID_OPTION */
function byQueue(receipts: readonly string[]): Map<string, number[]> {
  const queues = new Map<string, number[]>()
  receipts.forEach((receipt, place) => {
    const queue = decodeReceipt(receipt)?.queue
    if (queue === undefined) {
      throw new MqError('INVALID_OPTION', `'${receipt.slice(0, 80)}' is no receipt: receive prints them`)
    }
    const places = queues.get(queue)
    if (places === undefined) queues.set(queue, [place])
    else places.push(place)
  })
  return queues
}

/** `mq-broker queue ls|create|info|edit|purge|rm` */
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import type { MqClient } from '../index.ts'
import type { EffectiveQueueOptions, QueueOptionsChange } from '../types.ts'
import { formatBytes, formatDuration } from '../units.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { type OutputOptions, queueArgument, withJson } from './options.ts'
import { type Cell, manyMessages, print, printJson, printTable } from './output.ts'
import { changeFlags, creationFlags, queueChangeOf, queueOptionsOf, unsetOption } from './queue-options.ts'

type Options = ConnectionOptions & OutputOptions

export function define(queue: Command): void {
  const subcommand = (usage: string, description: string) =>
    withJson(withServer(queue.command(usage).description(description)))
  const named = (usage: string, description: string) =>
    subcommand(usage, description).addArgument(queueArgument('NAME'))

  subcommand('ls', 'list the queues').action((options: Options) => list(options))

  const creation = named('create', 'create a queue; one that exists with these options will do')
  for (const option of creationFlags()) creation.addOption(option)
  creation.action((name: string, options: Options & Record<string, unknown>) => create(name, options))

  named('info', 'print options, counts and partitions of a queue').action((name: string, options: Options) =>
    info(name, options),
  )
  const editing = named('edit', 'change options of a queue; those that are not given stay')
  for (const option of [...changeFlags(), unsetOption()]) editing.addOption(option)
  editing.action((name: string, options: Options & Record<string, unknown>) => edit(name, options))

  named('purge', 'remove all messages of a queue, also those that consumers have now')
    .option('--dry-run', 'remove nothing, and say how many messages it would be')
    .action((name: string, options: Options & { dryRun?: true }) => purge(name, options))

  named('rm', 'remove a queue and its messages')
    .option('--dry-run', 'remove nothing, and say how many messages it has')
    .action((name: string, options: Options & { dryRun?: true }) => remove(name, options))
}

async function list(options: Options): Promise<void> {
  const queues = await withClient(options, (client) => client.listQueues())
  if (options.json) return printJson(queues)
  const rows = queues.map(({ name, messages, options: { partitions, confirm, storage } }) => [
    name,
    messages,
    partitions,
    confirm,
    storage,
  ])
  await printTable(['NAME', 'MESSAGES', 'PARTITIONS', 'CONFIRM', 'STORAGE'], rows)
}

async function create(name: string, options: Options & Record<string, unknown>): Promise<void> {
  const queueOptions = queueOptionsOf(options)
  const [inForce, made] = await withClient(options, (client) =>
    withDeadLetterQueue(client, name, queueOptions, async () => {
      await client.createQueue(name, queueOptions)
      return (await client.describeQueue(name)).options
    }),
  )
  if (options.json) return printJson({ name, options: inForce })
  await print(`queue ${name} is ready\n${made}`)
}

async function info(name: string, options: Options): Promise<void> {
  const queue = await withClient(options, (client) => client.describeQueue(name))
  if (options.json) return printJson(queue)
  const { ready, leased, delayed } = queue.messages
  await printTable(
    ['OPTION', 'VALUE'],
    [
      ['name', queue.name],
      ['ready', ready],
      ['leased', leased],
      ['delayed', delayed],
      ...optionRows(queue.options),
    ],
  )
  await print('\n')
  await printTable(
    ['PARTITION', 'LEADER', 'EPOCH', 'IN SYNC', 'LOG START', 'LOG END', 'HIGH WATERMARK'],
    queue.partitions.map(({ id, leader, epoch, inSync, replicas, logStart, logEnd, highWatermark }) => [
      id,
      leader,
      epoch,
      `${inSync.length} of ${replicas.length}`,
      logStart,
      logEnd,
      highWatermark,
    ]),
  )
}

async function edit(name: string, options: Options & Record<string, unknown>): Promise<void> {
  const change = queueChangeOf(options)
  if (Object.keys(change).length === 0) {
    throw new MqError('INVALID_OPTION', 'queue edit needs at least one option to change')
  }
  const [inForce, made] = await withClient(options, (client) =>
    withDeadLetterQueue(client, name, change, () => client.updateQueue(name, change)),
  )
  if (options.json) return printJson({ name, options: inForce })
  await printTable(['OPTION', 'VALUE'], [['name', name], ...optionRows(inForce)])
  await print(made)
}

/** Does `change`, and says too whether that has made the queue's dead-letter queue. */
async function withDeadLetterQueue(
  client: MqClient,
  name: string,
  given: QueueOptionsChange,
  change: () => Promise<EffectiveQueueOptions>,
): Promise<[inForce: EffectiveQueueOptions, made: string]> {
  const deadLetterQueue =
    given.deadLetterQueue ?? (typeof given.maxDeliveries === 'number' ? `${name}.dlq` : null)
  const isMissing = deadLetterQueue !== null && !(await isThere(client, deadLetterQueue))
  const inForce = await change()
  const isMade = isMissing && inForce.deadLetterQueue === deadLetterQueue
  return [inForce, isMade ? `queue ${deadLetterQueue} is ready for its dead letters\n` : '']
}

async function isThere(client: MqClient, name: string): Promise<boolean> {
  try {
    await client.describeQueue(name)
    return true
  } catch (error) {
    if (error instanceof MqError && (error.code === 'QUEUE_NOT_FOUND' || error.code === 'INVALID_NAME'))
      return false
    throw error
  }
}

async function purge(name: string, options: Options & { dryRun?: true }): Promise<void> {
  const { dryRun = false } = options
  const { messages } = await withClient(options, (client) => client.purgeQueue(name, { dryRun }))
  if (options.json) return printJson({ name, messages, dryRun })
  await print(`${manyMessages(messages)} of queue ${name} ${dryRun ? 'would be removed' : 'removed'}\n`)
}

async function remove(name: string, options: Options & { dryRun?: true }): Promise<void> {
  const { dryRun = false } = options
  if (dryRun) {
    const { messages } = await withClient(options, (client) => client.purgeQueue(name, { dryRun }))
    if (options.json) return printJson({ name, removed: false, messages })
    return print(`queue ${name} would be removed, with ${manyMessages(messages)}\n`)
  }
  await withClient(options, (client) => client.deleteQueue(name))
  if (options.json) return printJson({ name, removed: true })
  await print(`queue ${name} is removed\n`)
}

/** Options named as the flags that set them, values with their units. */
function optionRows(options: EffectiveQueueOptions): [string, Cell][] {
  return Object.entries(options as unknown as Record<string, unknown>).map(([name, value]) => {
    const flag = name.replace(/Ms$/, '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
    if (value === null) return [flag, 'none']
    if (typeof value !== 'number') return [flag, typeof value === 'string' ? value : JSON.stringify(value)]
    if (name.endsWith('Ms')) return [flag, formatDuration(value)]
    return [flag, name.endsWith('Bytes') ? formatBytes(value) : value]
  })
}

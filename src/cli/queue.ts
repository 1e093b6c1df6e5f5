/** `mq-broker queue ls|create|info|edit|purge|rm` */
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import type { EffectiveQueueOptions } from '../types.ts'
import { formatBytes, formatDuration } from '../units.ts'
import { type ConnectionOptions, withClient, withServer } from './connection.ts'
import { type OutputOptions, withJson } from './options.ts'
import { type Cell, manyMessages, print, printJson, printTable } from './output.ts'
import { queueChangeOf, queueFlagOptions, queueOptionsOf, unsetOption } from './queue-options.ts'

type Options = ConnectionOptions & OutputOptions

export function define(queue: Command): void {
  const subcommand = (usage: string, description: string) =>
    withJson(withServer(queue.command(usage).description(description)))

  subcommand('ls', 'list the queues').action((options: Options) => list(options))

  const creation = subcommand('create <NAME>', 'create a queue; one that exists with these options will do')
  for (const option of queueFlagOptions()) creation.addOption(option)
  creation.action((name: string, options: Options & Record<string, unknown>) => create(name, options))

  subcommand('info <NAME>', 'print options, counts and partitions of a queue').action(
    (name: string, options: Options) => info(name, options),
  )
  const editing = subcommand('edit <NAME>', 'change options of a queue; those that are not given stay')
  for (const option of [...queueFlagOptions(), unsetOption()]) editing.addOption(option)
  editing.action((name: string, options: Options & Record<string, unknown>) => edit(name, options))

  subcommand('purge <NAME>', 'remove all messages of a queue, also those that consumers have now')
    .option('--dry-run', 'remove nothing, and say how many messages it would be')
    .action((name: string, options: Options & { dryRun?: true }) => purge(name, options))

  subcommand('rm <NAME>', 'remove a queue and its messages')
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
  await withClient(options, (client) => client.createQueue(name, queueOptions))
  if (options.json) return printJson({ name, options: queueOptions })
  await print(`queue ${name} is ready\n`)
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
  const inForce = await withClient(options, (client) => client.updateQueue(name, change))
  if (options.json) return printJson({ name, options: inForce })
  await printTable(['OPTION', 'VALUE'], [['name', name], ...optionRows(inForce)])
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

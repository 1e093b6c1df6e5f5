/** `mq-broker check DATA_DIR`: what is wrong on the disk, and with `--dump` what stands there. No broker is needed. */
import { readdirSync } from 'node:fs'
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import { type CheckProgress, type CheckReport, checkStore } from '../storage/check.ts'
import type { Problem } from '../storage/data-directory.ts'
import { openLmdbStore } from '../storage/lmdb.ts'
import { systemClock } from '../system.ts'
import { dump, type DumpFlags } from './check-dump.ts'
import { count, flagOption, type OutputOptions, text, withJson } from './options.ts'
import { note, print, printable, printJson, printTable } from './output.ts'

interface Options extends OutputOptions, DumpFlags {
  readonly dump?: string
}

export function define(check: Command): void {
  withJson(check)
    .argument('<DATA_DIR>')
    .addOption(flagOption('--dump', text, "print a partition's log instead: QUEUE or QUEUE/PARTITION"))
    .addOption(
      flagOption('--from', count(0, Number.MAX_SAFE_INTEGER), 'with --dump: the offset to begin at').default(
        0,
      ),
    )
    .addOption(
      flagOption('--max', count(1, Number.MAX_SAFE_INTEGER), 'with --dump: entries at most (default: all)'),
    )
    .option('--bodies', 'with --dump: print the first bytes of the messages')
    .addHelpText(
      'after',
      '\nThe broker must not be running: it has the lock of the directory. Nothing of the data is written. Prints a table of\n' +
        'the queues and a line for each thing that is wrong, and exits with 1 if there is one. --dump prints a line for each\n' +
        'entry, in the order of the log; with --json an object for each. A queue may be named by its id, too.',
    )
    .action((directory: string, options: Options) => run(directory, options))
}

async function run(directory: string, options: Options): Promise<void> {
  assertDataDirectory(directory)
  const store = openLmdbStore(directory, { leaveAsIs: true })
  await store.lock()
  try {
    if (options.dump !== undefined) await dump(store, options.dump, options, options.json === true)
    else await report(directory, await checkStore(store, checkOptions()), options.json === true)
  } finally {
    await store.close()
  }
}

/** Else a lock would be left in a directory that is none of ours. */
function assertDataDirectory(directory: string): void {
  let files: string[]
  try {
    files = readdirSync(directory)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new MqError('INVALID_OPTION', `${directory} cannot be read (${code})`, { cause: error })
  }
  if (files.some((file) => /^(meta|\d{8})\.mdb$/.test(file))) return
  throw new MqError('INVALID_OPTION', `${directory} is no data directory: there is no meta.mdb in it`)
}

const progressMs = 1000

function checkOptions() {
  const nowMs = systemClock.nowMs()
  if (!process.stderr.isTTY) return { nowMs }
  let toldMs = systemClock.monotonicMs()
  const onProgress = ({ logs, logsDone, bytesRead }: CheckProgress): void => {
    const now = systemClock.monotonicMs()
    if (now - toldMs < progressMs) return
    toldMs = now
    note(`${logsDone} of ${logs} partitions, ${(bytesRead / 2 ** 20).toFixed(0)} MiB read`)
  }
  return { nowMs, onProgress }
}

async function report(directory: string, found: CheckReport, json: boolean): Promise<void> {
  if (json) await printJson(found)
  else {
    await printTable(
      ['QUEUE', 'PARTITIONS', 'MESSAGES', 'DELAYED', 'MOVING', 'QUARANTINED', 'BYTES'],
      found.queues.map(({ name, partitions, messages, delayed, moving, quarantined, bytes }) => {
        return [name, partitions, messages, delayed, moving, quarantined, bytes]
      }),
    )
    const { queues, bytes } = found.deleted
    if (queues > 0) await print(`${bytes} bytes of ${queues} deleted queue${queues === 1 ? '' : 's'}\n`)
    for (const problem of found.problems) await print(`${printable(lineOf(problem))}\n`)
    const more = found.problemCount - found.problems.length
    if (more > 0) await print(`… and ${more} more\n`)
  }
  if (found.ok) return
  process.exitCode = 1
  const things = found.problemCount === 1 ? '1 thing is' : `${found.problemCount} things are`
  note(
    `mq-broker: ${things} wrong in ${directory}. Keep a copy of it before anything else is done, and see ` +
      `'When something is wrong with the disk' in the guide. (CORRUPT_LOG)`,
  )
}

/** `segment 00000001, partition 0 of queue orders, offset 7: what is wrong`; of what lies in none of them, what is wrong alone */
function lineOf({ what, segment, queue, partition, offset }: Problem): string {
  const where: string[] = []
  if (segment !== undefined) where.push(segment === 'meta' ? 'meta' : `segment ${segment}`)
  if (queue !== undefined) where.push(`partition ${partition} of queue ${queue}`)
  if (offset !== undefined) where.push(`offset ${offset}`)
  return where.length === 0 ? what : `${where.join(', ')}: ${what}`
}

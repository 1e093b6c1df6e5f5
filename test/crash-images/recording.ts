/**
 * Records some lives of a real broker under strace: load, kill -9 in its midst, a start on what that left, load, a
 * planned stop, a start, load, kill -9. Segments are small, and closed ones are looked at often, so that the log rolls
 * on, checkpoints, copies and removes within seconds.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BrokerProcess, within } from '../../bench/broker-process.ts'
import { SeededRandom } from '../crash/random.ts'
import { readConversation } from './conversation.ts'
import { Disk, isMeaningless } from './disk.ts'
import { Operations } from './operations.ts'
import type { Recording } from './replay.ts'
import { readTrace, tracedCalls } from './trace.ts'
import { Workload } from './workload.ts'

export interface RecordOptions {
  /** The package whose broker runs. */
  readonly root: string
  /** For the data and the traces; empty. */
  readonly folder: string
  readonly seed: number
  /** Confirmed calls in each life. */
  readonly confirms: number
}

export interface Recorded extends Recording {
  /** Confirmed and failed calls of the clients, by what they were. */
  readonly counts: ReadonlyMap<string, number>
  /** Segments of the log. */
  readonly segments: { readonly made: number; readonly removed: number }
}

const bytesMax = 64 << 20
const patientMs = 60_000

/** Null: it can. Else what is to be done about it. */
export function whyNotTraced(): string | null {
  const { error, status, stderr } = spawnSync('strace', ['-f', '-o', '/dev/null', 'true'], {
    encoding: 'utf8',
  })
  if (error !== undefined) return 'this needs strace: apt-get install strace'
  if (status !== 0)
    return `strace may not trace here (allow ptrace, --cap-add=SYS_PTRACE in a container): ${stderr.trim()}`
  return null
}

export async function record({ root, folder, seed, confirms }: RecordOptions): Promise<Recorded> {
  const dataDir = join(folder, 'data')
  mkdirSync(dataDir)
  const random = new SeededRandom(seed)
  const operations = new Operations(dataDir)
  const lives = ['kill', 'stop', 'kill'] as const
  let firstLine = 1
  let listen: string | undefined
  let workload: Workload | undefined
  try {
    for (const [i, end] of lives.entries()) {
      const trace = join(folder, `trace-${i}`)
      const broker = await start(root, dataDir, trace, listen)
      listen = broker.listen
      try {
        workload ??= await Workload.start(listen, random)
        const here = random.integer(Math.ceil(confirms / 2), confirms)
        await within(patientMs, 'confirms', Promise.race([confirmed(workload, here), workload.broken]))
        if (end === 'stop') await broker.stop()
      } finally {
        await broker.kill()
      }
      const { calls, lines } = readTrace(trace, broker.pid, firstLine)
      operations.add(calls, firstLine + lines - 1)
      assertAsRecorded(operations, dataDir)
      firstLine += lines
    }
  } finally {
    await within(patientMs, 'the clients to end', workload?.close() ?? Promise.resolve())
  }
  const { disk, sockets, firstAccept } = operations
  const isSegment = (name: string) => /^\d{8}\.mdb$/.test(name)
  return {
    disk,
    conversation: readConversation(sockets),
    servedFrom: firstAccept,
    counts: workload!.counts,
    segments: {
      made: disk.filter((call) => call.kind === 'rename' && isSegment(call.to)).length,
      removed: disk.filter((call) => call.kind === 'rename' && isSegment(call.from)).length,
    },
  }
}

function start(
  root: string,
  dataDir: string,
  trace: string,
  listen: string | undefined,
): Promise<BrokerProcess> {
  const wrapper = ['strace', '-f', '--seccomp-bpf', '-qq', '-xx', '-s', String(bytesMax), '-o', trace]
  wrapper.push('-e', `trace=${tracedCalls.map((name) => `?${name}`).join(',')}`, '-e', 'signal=none')
  for (const set of ['MQ_SEGMENT_BYTES=1MiB', 'UV_USE_IO_URING=0']) wrapper.push('-E', set)
  return BrokerProcess.start({ root, dataDir, listen, wrapper })
}

/** Resolves with the confirm that is the `count`th from now. */
function confirmed(workload: Workload, count: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count
    workload.onConfirm = () => {
      if (--left === 0) resolve()
    }
  })
}

/** What was recorded, all of it, must come to the directory as it is: else something was missed. */
function assertAsRecorded({ disk: calls, names }: Operations, dataDir: string): void {
  const disk = new Disk()
  for (const call of calls) disk.begin(call)
  const image = disk.image('all unsynced', new SeededRandom(0))
  const there = readdirSync(dataDir).sort()
  const recorded = [...image.files.keys()]
  if (there.join() !== recorded.join() || there.length !== names.size)
    throw new Error(
      `the recording comes to the files ${recorded.join(', ')}, and there are ${there.join(', ')}`,
    )
  for (const [name, file] of image.files) {
    if (isMeaningless(name)) continue
    const bytes = readFileSync(join(dataDir, name))
    if (!disk.bytesOf(file).equals(bytes))
      throw new Error(`the recording comes to another ${name} than there is`)
  }
}

export function describeRecorded({ disk, counts, segments, conversation }: Recorded): string {
  const list = [...counts].map(([what, n]) => `${what} ${n}`).join(', ')
  return [
    `recorded ${disk.length} calls that change or sync; segments made ${segments.made}, removed ${segments.removed}`,
    `clients: ${list}`,
    `the broker was asked for ${conversation.sends.length} sends and ${conversation.settles.length} settles`,
  ].join('\n')
}

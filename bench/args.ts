/** What a run of the bench is asked to do. */
import { parseArgs } from 'node:util'

/** Rates of a steady stream: what is measured unless something else is asked for. */
export const streams = ['w1', 'w2', 'w4'] as const
/** What a state costs and how soon a broker with it is back: each takes its time. */
export const states = ['w5', 'idle', 'queues', 'delayed', 'unacked'] as const
export const workloads = [...streams, ...states] as const
export type Stream = (typeof streams)[number]
export type State = (typeof states)[number]
export type Workload = (typeof workloads)[number]

/** Names for several. */
const scale: readonly Workload[] = ['idle', 'queues', 'delayed', 'unacked']

export interface BenchArgs {
  readonly workloads: readonly Workload[]
  readonly sizesBytes: readonly number[]
  readonly durationMs: number
  readonly repeat: number
  readonly windows: readonly number[]
  /** Where the result is written besides bench/results/tmp. */
  readonly jsonFile: string | undefined
  /** Directory for CPU profiles of broker and clients; then their top functions are printed too. */
  readonly profileDir: string | undefined
  /** Directory for data: on the disk that is to be measured. */
  readonly dir: string | undefined
  /** Another checkout, built: its streams are measured in turn with ours. */
  readonly against: string | undefined
  readonly quick: boolean
  /** Messages of W5, of `delayed` and of `unacked`. */
  readonly backlog: number
}

export const usage = `Usage: npm run bench -- [options]
  --workload LIST   w1 (send only), w2 (send and receive), w4 (one at a time); default these three. Besides:
                    w5        a backlog of 100 B messages: memory, disk, kill -9, start, drain
                    idle      1,000 queues that nobody uses: memory, CPU
                    queues    10,000 queues: creation, start
                    delayed   --backlog messages that rest: memory, start; 100,000 that come when it is time
                    unacked   one message that nobody acks amid --backlog acked ones: disk
                    scale     the last four
  --size LIST       body sizes in bytes; default 1024,100
  --seconds N       length of one run; default 10
  --backlog N       messages of w5, delayed and unacked, rounded up to 500; default 1,000,000
  --repeat N        runs of each case, interleaved; default 3
  --window LIST     unconfirmed messages at most; the best of a short trial counts; default 256,1000,5000
  --dir DIR         where data goes; default the system's temporary directory
  --profile DIR     write CPU profiles there and print the functions that cost most
  --against DIR     another checkout, after \`npm run build:all\` in it: its runs of the streams alternate with
                    these, and a second table says what came of the difference
  --json FILE       write the result there as well
  --quick           a smoke of less than 40 s: one short run of each case at 1 KiB`

/** @throws Error with a sentence for whoever typed it */
export function parseBenchArgs(argv: readonly string[]): BenchArgs | 'help' {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      workload: { type: 'string' },
      size: { type: 'string' },
      seconds: { type: 'string' },
      repeat: { type: 'string' },
      backlog: { type: 'string' },
      window: { type: 'string' },
      dir: { type: 'string' },
      profile: { type: 'string' },
      json: { type: 'string' },
      against: { type: 'string' },
      quick: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help === true) return 'help'
  const quick = values.quick === true
  return {
    workloads: chosenWorkloads(values.workload ?? streams.join()),
    sizesBytes: numbers('size', values.size ?? (quick ? '1024' : '1024,100'), 16, 512 << 10),
    durationMs: 1000 * one('seconds', values.seconds ?? (quick ? '1' : '10'), 0.1, 600),
    repeat: one('repeat', values.repeat ?? (quick ? '1' : '3'), 1, 100),
    windows: numbers('window', values.window ?? (quick ? '1000' : '256,1000,5000'), 1, 100_000),
    jsonFile: values.json,
    profileDir: values.profile,
    dir: values.dir,
    against: values.against,
    quick,
    backlog: Math.ceil(one('backlog', values.backlog ?? '1000000', 1000, 50_000_000) / 500) * 500,
  }
}

function chosenWorkloads(text: string): Workload[] {
  const chosen = oneOfEach('workload', text, [...workloads, 'scale'])
  return [...new Set(chosen.flatMap((name) => (name === 'scale' ? scale : [name])))]
}

function oneOfEach<T extends string>(flag: string, text: string, known: readonly T[]): T[] {
  const isKnown = (part: string): part is T => (known as readonly string[]).includes(part)
  return text.split(',').map((part) => {
    if (!isKnown(part)) throw new Error(`--${flag}: '${part}' is none of ${known.join(', ')}`)
    return part
  })
}

function numbers(flag: string, text: string, min: number, max: number): number[] {
  return text.split(',').map((part) => one(flag, part, min, max))
}

function one(flag: string, text: string, min: number, max: number): number {
  const value = Number(text)
  if (text.trim() === '' || !(value >= min && value <= max)) {
    throw new Error(`--${flag}: '${text}' is not a number from ${min} to ${max}`)
  }
  return value
}

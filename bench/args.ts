/** What a run of the bench is asked to do. */
import { parseArgs } from 'node:util'
import { bodyBytesMin } from './bodies.ts'
import { fileName, number, oneOfEach, whole, wholes } from './flags.ts'

/** Rates and latencies of a steady stream: what is measured unless something else is asked for. */
export const streams = ['w1', 'w2', 'w3', 'w4'] as const
/** What a state costs and how soon a broker with it is back: each takes its time. */
export const states = ['w5', 'idle', 'queues', 'delayed', 'unacked'] as const
export const workloads = [...streams, ...states, 'growth'] as const
export type Stream = (typeof streams)[number]
export type State = (typeof states)[number]
export type Workload = (typeof workloads)[number]

/** Names for several. */
const scale: readonly Workload[] = ['idle', 'queues', 'delayed', 'unacked']

/** What grows in `growth`, one at a time. */
export const dimensions = ['queues', 'connections', 'partitions', 'sizes', 'backlog'] as const
export type Dimension = (typeof dimensions)[number]

export interface BenchArgs {
  readonly workloads: readonly Workload[]
  readonly sizesBytes: readonly number[]
  readonly durationMs: number
  /** Of one run of W3. */
  readonly pacedMs: number
  /** Of each half of a step of `growth`. */
  readonly stepMs: number
  readonly repeat: number
  readonly windows: readonly number[]
  readonly dimensions: readonly Dimension[]
  /** Where results go; default bench/results/tmp. */
  readonly out: string | undefined
  /** Name below bench/results under which the result is kept. */
  readonly save: string | undefined
  /** Where the result is written as well. */
  readonly jsonFile: string | undefined
  /** Directory for CPU profiles of broker and clients; then their top functions are printed too. */
  readonly profileDir: string | undefined
  /** Directory for data: on the disk that is to be measured. */
  readonly dir: string | undefined
  /** Another checkout, built: its streams are measured in turn with ours. */
  readonly against: string | undefined
  /** A file that is locked during each run; see `usage`. */
  readonly lockFile: string | undefined
  readonly quick: boolean
  /** Messages of W5, of `delayed`, of `unacked`, and the most that wait in `growth`. */
  readonly backlog: number
}

export const usage = `Usage: npm run bench -- [options]
  --workload LIST   w1 (send only), w2 (send and receive), w3 (latency at 1,000 messages/s, and at half of w2's rate),
                    w4 (one at a time, by one client and by 200); default these four. Besides:
                    w5        a backlog of 100 B messages: memory, disk, kill -9, start, drain
                    idle      1,000 queues that nobody uses: memory, CPU
                    queues    10,000 queues: creation, start
                    delayed   --backlog messages that rest: memory, start; 100,000 that come when it is time
                    unacked   one message that nobody acks amid --backlog acked ones: disk
                    scale     the last four
                    growth    rate and latency of one load while something grows: see --grow
  --size LIST       body sizes in bytes; default 1024,100; w3 and w4 take the first
  --seconds N       length of one run; default 10, of w3 15, of growth 3
  --backlog N       messages of w5, delayed and unacked, rounded up to 500, and the most that wait in growth;
                    default 1,000,000
  --grow LIST       ${dimensions.join(', ')}; default all
  --repeat N        runs of each case, interleaved; default 3
  --window LIST     unconfirmed messages at most; the best of a short trial counts; default 256,1000,5000
  --dir DIR         where data goes; default the system's temporary directory
  --profile DIR     write CPU profiles there and print the functions that cost most
  --against DIR     another checkout, after \`npm run build:all\` in it: its runs of the streams alternate with
                    these, and a second table says what came of the difference
  --lock FILE       hold a lock on FILE (flock) during each run: benches that share a machine take turns
  --out DIR         where the result goes, as JSON, text and picture; default bench/results/tmp
  --save NAME       write bench/results/NAME.json, .txt and .svg as well
  --json FILE       write the JSON there as well
  --quick           a smoke of a minute: one short run of each case at 1 KiB, one window; the first steps of growth`

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
      grow: { type: 'string' },
      window: { type: 'string' },
      dir: { type: 'string' },
      profile: { type: 'string' },
      out: { type: 'string' },
      save: { type: 'string' },
      json: { type: 'string' },
      against: { type: 'string' },
      lock: { type: 'string' },
      quick: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help === true) return 'help'
  const quick = values.quick === true
  const secondsMs = (byDefault: string) =>
    1000 * number('seconds', values.seconds ?? (quick ? '1' : byDefault), 0.1, 600)
  return {
    workloads: chosenWorkloads(values.workload ?? streams.join()),
    sizesBytes: wholes('size', values.size ?? (quick ? '1024' : '1024,100'), bodyBytesMin, 512 << 10),
    durationMs: secondsMs('10'),
    pacedMs: secondsMs('15'),
    stepMs: secondsMs('3'),
    repeat: whole('repeat', values.repeat ?? (quick ? '1' : '3'), 1, 100),
    windows: wholes('window', values.window ?? (quick ? '1000' : '256,1000,5000'), 1, 100_000),
    dimensions: oneOfEach('grow', values.grow ?? dimensions.join(), dimensions),
    out: values.out,
    save: values.save === undefined ? undefined : fileName('save', values.save),
    jsonFile: values.json,
    profileDir: values.profile,
    dir: values.dir,
    against: values.against,
    lockFile: values.lock,
    quick,
    backlog: Math.ceil(number('backlog', values.backlog ?? '1000000', 1000, 50_000_000) / 500) * 500,
  }
}

function chosenWorkloads(text: string): Workload[] {
  const chosen = oneOfEach('workload', text, [...workloads, 'scale'])
  return [...new Set(chosen.flatMap((name) => (name === 'scale' ? scale : [name])))]
}

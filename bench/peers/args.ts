/** What a run of the side-by-side bench is asked to do. */
import { parseArgs } from 'node:util'
import { bodyBytesMin } from '../bodies.ts'
import { fileName, number, oneOf, oneOfEach, whole, wholes } from '../flags.ts'
import { classes, peerNames, type DurabilityClass, type PeerName } from './peer.ts'

export const peerWorkloads = ['w1', 'w2', 'w3', 'w4'] as const
export type PeerWorkload = (typeof peerWorkloads)[number]

export interface PeersArgs {
  readonly peers: readonly PeerName[]
  readonly workloads: readonly PeerWorkload[]
  readonly sizesBytes: readonly number[]
  readonly durationMs: number
  readonly repeat: number
  readonly windows: readonly number[]
  readonly durability: DurabilityClass
  /** Directory for data: on the disk that is to be measured. */
  readonly dir: string | undefined
  /** Name below bench/results under which the result is kept. */
  readonly save: string | undefined
  /** A file that is locked during each run; see `usage`. */
  readonly lockFile: string | undefined
  readonly quick: boolean
}

export const usage = `Usage: npm run bench:peers -- [options]
  --peers LIST      ${peerNames.join(', ')};
                    default all but the last, which is this broker once more, by the adapter that the peers go
                    through; a peer whose server is not on this machine is named as absent
  --workload LIST   w1 (send only), w2 (send and receive), w3 (1,000 messages/s: latency), w4 (one at a time);
                    default all
  --size LIST       body sizes in bytes, for w1 and w2; default 1024,100
  --seconds N       length of one run; default 5
  --repeat N        runs of each case, interleaved; default 3
  --window LIST     unconfirmed messages at most; the best of a short trial counts; default 256,1000,5000
  --class F|D       F: each message synced to disk before it is confirmed; D: as each peer comes; default F
  --dir DIR         where data goes; default the system's temporary directory
  --save NAME       write bench/results/NAME.json, .txt and .svg as well
  --lock FILE       hold a lock on FILE (flock) during each run: benches that share a machine take turns
  --quick           a smoke: one run of a second of each case at 1 KiB, one window`

/** @throws Error with a sentence for whoever typed it */
export function parsePeersArgs(argv: readonly string[]): PeersArgs | 'help' {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      peers: { type: 'string' },
      workload: { type: 'string' },
      size: { type: 'string' },
      seconds: { type: 'string' },
      repeat: { type: 'string' },
      window: { type: 'string' },
      class: { type: 'string' },
      dir: { type: 'string' },
      save: { type: 'string' },
      lock: { type: 'string' },
      quick: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help === true) return 'help'
  const quick = values.quick === true
  return {
    peers: oneOfEach(
      'peers',
      values.peers ?? peerNames.filter((name) => name !== 'adapter').join(),
      peerNames,
    ),
    workloads: oneOfEach('workload', values.workload ?? peerWorkloads.join(), peerWorkloads),
    sizesBytes: wholes('size', values.size ?? (quick ? '1024' : '1024,100'), bodyBytesMin, 32 << 10),
    durationMs: 1000 * number('seconds', values.seconds ?? (quick ? '1' : '5'), 0.1, 600),
    repeat: whole('repeat', values.repeat ?? (quick ? '1' : '3'), 1, 100),
    windows: wholes('window', values.window ?? (quick ? '1000' : '256,1000,5000'), 1, 100_000),
    durability: oneOf('class', values.class ?? 'F', classes),
    dir: values.dir,
    save: values.save === undefined ? undefined : fileName('save', values.save),
    lockFile: values.lock,
    quick,
  }
}

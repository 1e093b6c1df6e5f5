/**
 * What one seed chooses, swarm-style: each run has only some of the faults and some of the operations, so that none
 * drowns the others and rare combinations come up.
 */
import type { FaultOptions } from '../../src/sim/faults.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import type { LogOptions } from '../../src/storage/log.ts'
import type { QueueOptions } from '../../src/types.ts'
import type { LinkFaults } from './link.ts'

/** What the driver does to processes, network and disk, beside the chances in `FaultOptions`. */
export const chaosActions = [
  'crashBroker',
  'stopBroker',
  'failCommit',
  'stickCommit',
  'fillDisk',
  'pauseBroker',
  'jumpClock',
  'crashClient',
  'pauseClient',
  'cut',
  'blackHole',
  'partition',
] as const
export type ChaosAction = (typeof chaosActions)[number]

export const operationKinds = [
  'createQueue',
  'send',
  'sendBatch',
  'receive',
  'ack',
  'ackMany',
  'doubleAck',
  'ackOld',
  'extend',
  'nack',
  'nackMany',
  'release',
  'letExpire',
  'reconnect',
  'consume',
  'consumeBatches',
  'work',
  'purge',
  'peek',
  'updateQueue',
  'deadLetter',
  'redrive',
  'deleteQueue',
] as const
export type OperationKind = (typeof operationKinds)[number]

export interface QueueConfig {
  readonly name: string
  readonly options: QueueOptions
}

export interface SimConfig {
  /** Those that messages are sent to. */
  readonly queues: readonly QueueConfig[]
  readonly deadLetterQueues: readonly QueueConfig[]
  /** Those of both that clients create; the others come into being when they are needed. */
  readonly created: readonly QueueConfig[]
  readonly clients: number
  /** Sequences of operations that each client runs at the same time. */
  readonly fibers: number
  /** Operations of all clients together, after which faults stop and the rest is drained. */
  readonly operations: number
  readonly segmentBytes: number
  readonly heartbeatMs: number
  readonly logOptions: Partial<LogOptions>
  readonly faults: Partial<FaultOptions>
  /** Between partitions. */
  readonly link: LinkFaults
  /** Mean time between two chaos actions; Infinity: none. */
  readonly chaosEveryMs: number
  readonly chaos: Readonly<Record<ChaosAction, number>>
  readonly weights: Readonly<Record<OperationKind, number>>
  /** Mean pause of a fiber between two operations. */
  readonly pauseMs: number
  readonly bodyBytesMax: number
  readonly batchMax: number
  readonly receiveMax: number
  readonly prefetchMax: number
  readonly waitMsMax: number
  readonly visibilityTimeoutMsMax: number
  /** Of each operation: it has a short time-out, so that unknown outcomes come up. */
  readonly shortTimeoutChance: number
  /** Of each operation: its signal aborts it. */
  readonly abortChance: number
  /** Of each message, and of each nack: it has a delay of its own. */
  readonly delayChance: number
  /** Of messages, nacks and backoffs. */
  readonly delayMsMax: number
}

/** `operations` overrides what the seed would choose. */
export function chooseConfig(seed: number, operations?: number): SimConfig {
  const random = new SeededRandom(seed).fork('config')
  const maybe = <T>(chance: number, yes: () => T, no: T): T => (random.chance(chance) ? yes() : no)
  const whole = (least: number, most: number): number => least + random.int(most - least + 1)

  const visibilityTimeoutMsMax = random.pick([200, 1000, 5000, 20_000])
  const delayMsMax = random.pick([20, 300, 5000])
  const plain = Array.from({ length: random.pick([1, 1, 2, 3]) }, (_, i) => ({
    name: `q${i}`,
    options: {
      partitions: random.pick([1, 1, 2, 3, 5]),
      visibilityTimeoutMs: whole(50, visibilityTimeoutMsMax),
      ...maybe<QueueOptions>(0.15, () => ({ delayMs: whole(1, delayMsMax) }), {}),
      ...maybe<QueueOptions>(
        0.4,
        () => ({
          backoff: {
            type: random.pick(['fixed', 'exponential']),
            delayMs: whole(1, Math.max(1, delayMsMax / 4)),
            maxMs: delayMsMax,
            jitter: random.pick([0, 0.5, 1]),
          },
        }),
        {},
      ),
      ...maybe<QueueOptions>(0.3, () => ({ maxMessageBytes: random.pick([200, 2000]) }), {}),
    },
  }))
  const weights = {} as Record<OperationKind, number>
  for (const kind of operationKinds.slice(0, operationKinds.indexOf('consume')))
    weights[kind] = maybe(0.8, () => random.between(0.2, 1), 0)
  weights.send = Math.max(weights.send, 0.3) * 3
  weights.sendBatch *= 1.5
  weights.receive = Math.max(weights.receive, 0.3) * 4
  weights.ack *= 3
  weights.ackMany *= 2
  weights.createQueue *= 0.1
  weights.reconnect *= 0.1
  weights.letExpire *= 0.3
  // From a stream of their own: what else a seed chooses does not depend on them.
  const consumers = new SeededRandom(seed).fork('consumers')
  const consume = consumers.chance(0.7)
  for (const kind of ['consume', 'consumeBatches', 'work'] as const) {
    weights[kind] = consume && consumers.chance(0.7) ? consumers.between(0.1, 1) : 0
  }
  const turns = new SeededRandom(seed).fork('turns')
  const admin = new SeededRandom(seed).fork('admin')
  weights.peek = admin.chance(0.5) ? admin.between(0.05, 0.5) : 0
  weights.purge = admin.chance(0.3) ? admin.between(0.02, 0.2) : 0
  weights.updateQueue = admin.chance(0.4) ? admin.between(0.02, 0.2) : 0
  const deletion = new SeededRandom(seed).fork('deletion')
  weights.deleteQueue = deletion.chance(0.25) ? deletion.between(0.01, 0.1) : 0
  const dying = chooseDeadLetters(new SeededRandom(seed).fork('dead letters'), plain)
  weights.deadLetter = dying.deadLetterWeight
  weights.redrive = dying.redriveWeight
  const chaos = {} as Record<ChaosAction, number>
  for (const action of chaosActions) chaos[action] = maybe(0.45, () => random.between(0.1, 1), 0)

  const journal = new SeededRandom(seed).fork('journal')
  const writes = new SeededRandom(seed).fork('writes')
  return {
    queues: dying.queues,
    deadLetterQueues: dying.deadLetterQueues,
    created: [...dying.queues, ...dying.deadLetterQueues.filter(({ options }) => options.partitions)],
    link: dying.link,
    clients: whole(1, 4),
    fibers: whole(1, 4),
    operations: operations ?? whole(200, 1000),
    segmentBytes: random.pick([2_000, 10_000, 50_000, 1_000_000]),
    heartbeatMs: random.pick([500, 2000, 10_000]),
    logOptions: {
      commitBytesMax: random.pick([500, 5_000, 100_000, 2 << 20]),
      queuedBytesMax: random.pick([20_000, 1_000_000, 32 << 20]),
      journalBytes: journal.pick([0, 8192, 32_768, 32_768, 262_144]),
      journaledBytesMax: journal.pick([300, 2000, 64 << 10]),
      moveAfterMs: journal.pick([1, 50, 1000, 1000]),
      fullRetryMs: random.pick([50, 500]),
      commitTimeoutMs: random.pick([3000, 10_000]),
      reserveBytes: random.pick([0, 3000, 100_000]),
      retentionMs: random.pick([20, 200, 1000]),
      copyAfterMs: random.pick([0, 100, 30_000]),
      checkpointBytesPerTurn: new SeededRandom(seed).fork('checkpoints').pick([1, 1, 10_000, 512 << 10]),
    },
    faults: {
      networkLatencyMs: [0.05, random.pick([0.1, 1, 20, 100])],
      diskLatencyMs: [0.1, random.pick([0.3, 3, 30, 200])],
      enoughBytes: writes.chance(0.5) ? 64 << 10 : writes.pick([1, 100, 2000]),
      splitChance: maybe(0.4, () => random.unit() * 0.5, 0),
      cutChance: maybe(0.4, () => random.unit() * 0.01, 0),
      blackHoleChance: maybe(0.25, () => random.unit() * 0.003, 0),
      connectRefusedChance: maybe(0.3, () => random.unit() * 0.5, 0),
      delayChance: maybe(0.4, () => random.unit() * 0.03, 0),
      delayMsMax: random.pick([50, 500, 4000]),
      commitFailedChance: maybe(0.2, () => random.unit() * 0.003, 0),
      slowCommitChance: maybe(0.3, () => random.unit() * 0.05, 0),
      slowCommitMsMax: random.pick([100, 1000]),
      stuckCommitChance: maybe(0.1, () => random.unit() * 0.001, 0),
      busyTurnChance: turns.chance(0.5) ? turns.between(0, 0.5) : 0,
      busyTurnMsMax: turns.pick([0.1, 1, 20]),
    },
    chaosEveryMs: maybe(0.85, () => random.pick([100, 400, 1500, 5000]), Infinity),
    chaos,
    weights,
    pauseMs: random.pick([0, 0, 1, 10, 50]),
    bodyBytesMax: random.pick([40, 40, 300, 3000]),
    batchMax: random.pick([3, 20, 100]),
    receiveMax: random.pick([1, 5, 50]),
    prefetchMax: consumers.pick([1, 10, 300]),
    waitMsMax: random.pick([0, 100, 2000]),
    visibilityTimeoutMsMax,
    shortTimeoutChance: maybe(0.4, () => random.unit() * 0.2, 0),
    abortChance: maybe(0.3, () => random.unit() * 0.1, 0),
    delayChance: maybe(0.5, () => random.unit() * 0.5, 0),
    delayMsMax,
  }
}

interface Dying extends Pick<SimConfig, 'queues' | 'deadLetterQueues' | 'link'> {
  deadLetterWeight: number
  redriveWeight: number
}

/** What a seed chooses of the end of messages: most have some, since much can go wrong there. */
function chooseDeadLetters(random: SeededRandom, plain: readonly QueueConfig[]): Dying {
  const link: LinkFaults = {
    latencyMs: [0.01, random.pick([0.02, 5, 200])],
    dropChance: random.chance(0.5) ? random.unit() * 0.5 : 0,
    repeatChance: random.chance(0.5) ? random.unit() * 0.5 : 0,
    delayChance: random.chance(0.5) ? random.unit() * 0.5 : 0,
    delayMsMax: random.pick([50, 2000, 20_000]),
  }
  if (random.chance(0.3)) {
    return { queues: plain, deadLetterQueues: [], link, deadLetterWeight: 0, redriveWeight: 0 }
  }
  const deadLetterQueues = new Map<string, QueueConfig>()
  const queues = plain.map(({ name, options }, i): QueueConfig => {
    if (i > 0 && random.chance(0.2)) return { name, options }
    // Its own by implication, or one that it shares with another queue.
    const implied = random.chance(0.6)
    const deadLetterQueue = implied ? `${name}.dlq` : 'q0.dlq'
    if (!deadLetterQueues.has(deadLetterQueue)) {
      const partitions = random.pick([undefined, 1, 2, 3])
      const own = partitions === undefined ? {} : { partitions, visibilityTimeoutMs: 200 + random.int(5000) }
      deadLetterQueues.set(deadLetterQueue, { name: deadLetterQueue, options: own })
    }
    const maxDeliveries = 1 + random.int(4)
    if (implied) return { name, options: { ...options, maxDeliveries } }
    // Without a limit a consumer alone decides.
    return {
      name,
      options: { ...options, deadLetterQueue, ...(random.chance(0.7) ? { maxDeliveries } : {}) },
    }
  })
  return {
    queues,
    deadLetterQueues: [...deadLetterQueues.values()],
    link,
    deadLetterWeight: random.chance(0.7) ? random.between(0.2, 1.5) : 0,
    redriveWeight: random.chance(0.7) ? random.between(0.05, 0.3) : 0,
  }
}

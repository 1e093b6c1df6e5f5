/**
 * What must hold inside a broker, looked at between steps: each message in exactly one state (23), watermarks and
 * epochs that never go back (2, 6), and the log itself, read again from the disk: it folds without a gap and with
 * rising sequences (13), to what the newest checkpoint and its tail give and to what the leader has in memory (21).
 */
import type { Broker } from '../../src/broker/broker.ts'
import type { Partition } from '../../src/broker/partition.ts'
import { encodeCheckpoint } from '../../src/partition/checkpoint.ts'
import { decodeEntry, entryLength, logName, type LogName } from '../../src/partition/entry.ts'
import { PartitionState } from '../../src/partition/fold.ts'
import { decodeBody } from '../../src/partition/payload.ts'
import type { SimStore } from '../../src/sim/store.ts'
import { Journal, type JournalRecord } from '../../src/storage/journal.ts'
import { decodeMark } from '../../src/storage/journaled-segment.ts'
import { Violation } from './violation.ts'

interface Known {
  highWatermark: number
  epoch: number
}

export class Invariants {
  /** queue id/partition → what it was when last looked at, by whichever broker process. */
  readonly #known = new Map<string, Known>()
  /** Whole logs folded. */
  folds = 0

  /** After a step. Costs as much as the state is large. */
  check(broker: Broker): void {
    for (const queue of broker.internals.queues.values()) {
      for (const partition of queue.partitions) this.#checkPartition(queue.id, partition)
    }
  }

  /** Folds every log from its first entry. Costs as much as the disk is full. */
  checkLogs(broker: Broker, store: SimStore): void {
    for (const queue of broker.internals.queues.values()) {
      for (const partition of queue.partitions) this.#checkLog(queue.id, partition, broker, store)
    }
  }

  #checkPartition(queueId: string, partition: Partition): void {
    const { leader, halted, id } = partition
    const where = `${queueId}/${id}`
    if (halted !== null) throw new Violation('21', `${where} is halted on a good disk: ${halted.message}`)
    leader.checkInvariants()
    const { highWatermark, state } = leader
    let known = this.#known.get(where)
    if (known === undefined) this.#known.set(where, (known = { highWatermark, epoch: state.epoch }))
    if (highWatermark < known.highWatermark) {
      throw new Violation(
        '6',
        `the watermark of ${where} went back from ${known.highWatermark} to ${highWatermark}`,
      )
    }
    if (state.epoch < known.epoch) {
      throw new Violation('2', `the epoch of ${where} went back from ${known.epoch} to ${state.epoch}`)
    }
    if (!state.live.isEmpty && state.live.firstStart() < state.logStart) {
      throw new Violation(
        '20',
        `the log of ${where} starts at ${state.logStart}, and an older message is unsettled`,
      )
    }
    if (!state.quarantined.isEmpty)
      throw new Violation('22', `messages of ${where} are quarantined, and nothing has rotted`)
    known.highWatermark = highWatermark
    known.epoch = state.epoch
  }

  #checkLog(queueId: string, partition: Partition, broker: Broker, store: SimStore): void {
    const name = logName(queueId, partition.id)
    const where = `${queueId}/${partition.id}`
    let whole = foldWhole(name, store, journaled(store))
    const { state: recovered } = broker.internals.log.recover(name)
    this.folds++
    // What a failed write left, or one that its writer has not heard of yet, only the next start will know.
    if (!sameState(whole, recovered)) whole = foldWhole(name, store, journaled(store).slice(0, -1))
    if (!sameState(whole, recovered)) {
      throw new Violation(
        '21',
        `${where}: the whole log folds to ${describe(whole)}, checkpoint and tail to ${describe(recovered)}`,
      )
    }
    const { state, highWatermark } = partition.leader
    if (whole.logEnd < highWatermark) {
      throw new Violation(
        '6',
        `the log of ${where} ends at ${whole.logEnd}, and its watermark is ${highWatermark}`,
      )
    }
    // What is not on the disk yet can't be compared.
    if (whole.logEnd === state.logEnd && !sameState(whole, state)) {
      throw new Violation(
        '21',
        `${where}: the log folds to ${describe(whole)}, the leader has ${describe(state)}`,
      )
    }
  }
}

/** The fold of every entry there is, oldest first, checkpoints unread. @param records those of the journal */
function foldWhole(name: LogName, store: SimStore, records: readonly JournalRecord[]): PartitionState {
  const state = new PartitionState()
  const prefix = Buffer.concat([Uint8Array.of(0x4c), name.bytes]).toString('latin1')
  const { segments, removed } = store.attach().links
  const fold = (record: Buffer): void => {
    for (let at = 0; at < record.length; at += entryLength(record, at)) {
      const entry = decodeEntry(name, record, at)
      state.apply(entry, decodeBody(entry), Uint8Array.from(entry.chain))
    }
  }
  for (const [, data] of [...segments, ...removed!].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (let place = data.place(prefix); data.keys[place]?.startsWith(prefix) === true; place++) {
      fold(Buffer.from(data.values[place]!))
    }
  }
  for (const { key, value } of records.flatMap(({ puts }) => puts))
    if (Buffer.from(key).toString('latin1').startsWith(prefix)) fold(Buffer.from(value))
  return state
}

/** What is in the journal only, in order: it follows all that is in the segments. */
function journaled(store: SimStore): JournalRecord[] {
  const { segments, journal: file } = store.attach().links
  if (file.bytes === null) return []
  const journal = Journal.of(file.bytes)
  const data = segments.get(journal.segment ?? '')
  if (data === undefined) return []
  const mark = data.values[data.keys.indexOf('J')]
  const applied = mark === undefined ? 0 : decodeMark(Buffer.from(mark))!
  return journal.recover(journal.segment!, applied)
}

function sameState(a: PartitionState, b: PartitionState): boolean {
  return Buffer.compare(encodeCheckpoint(a, ''), encodeCheckpoint(b, '')) === 0
}

function describe(state: PartitionState): string {
  const { logEnd, epoch, chain, timeMs, live, delayed, floor, producers, handedOver } = state
  const chainHex = Buffer.from(chain).toString('hex')
  const outcomes = [...producers.values()].map((p) => `${p.outcomes.length}≤${p.outcomes.at(-1)?.sequence}`)
  return `{ end ${logEnd}, epoch ${epoch}, chain ${chainHex}, time ${timeMs}, live [${live.toArray().join()}], delayed [${delayed.toArray().join()}], floor ${floor}, producers ${outcomes.join()}, handed over ${JSON.stringify(handedOver)} }`
}

/**
 * Forwards what a partition's outbox holds (`partition/outbox.ts`), target by target, in order, one request at a time:
 *
 *   outputs that are committed → FORWARD → the target has them on its disk → FORWARDED, an entry of this log
 *
 * A request or an answer may be lost, late or come twice: the same is sent again, and the target knows by the position
 * what it has. After a crash between the target's commit and the entry here it is sent once more, to the same end.
 * What is refused stays here and is tried again; a target that is gone is replaced, or what was meant for it comes back.
 */
import type { Clock, Timer } from '../env.ts'
import { MqError } from '../errors.ts'
import type { LimitedLog } from '../observe/limited-log.ts'
import {
  comparePositions,
  movedBecause,
  nowhere,
  sameTarget,
  startOf,
  type Outputs,
  type Target,
} from '../partition/outbox.ts'
import { limits, type OutputPosition, type PartitionId, type QueueId } from '../types.ts'
import { type BatchBuilder, crcOf, messageBody } from '../wire/batch.ts'
import { messageId } from '../wire/message-id.ts'
import { decodeForwardAnswer, encodeForward, type ForwardAnswer } from '../wire/peer.ts'
import { BatchReader, readBytesMax } from './batch-reader.ts'
import { attributesOnward } from './dead-letter.ts'
import type { Partition } from './partition.ts'

/** Carries a FORWARD to the node that leads the target, and brings its answer. It may reject, or never resolve. */
export type PeerLink = (frame: Uint8Array) => Promise<Uint8Array>

/** What the forwarders of a broker share. */
export interface ForwarderContext {
  readonly clock: Clock
  readonly limitedLog: LimitedLog
  readonly link: PeerLink
  /** Batches are built one after the other. */
  readonly builder: BatchBuilder
  /**
   * Where dead letters of this queue's partition go; the queue is made if it is missing. null: it has none any more.
   * @throws MqError it could not be made
   */
  deadLetterTarget(queueName: string, partition: PartitionId): Promise<Target | null>
  /** Something happened that must not. */
  failed(error: unknown): void
}

/** After this time without an answer a request is sent again, in milliseconds. */
const answerTimeoutMs = 5000
const pauseMinMs = 50
const pauseMaxMs = 30_000

interface Waiting {
  readonly target: Target
  readonly position: OutputPosition
  resolve(arrived: boolean): void
  reject(error: MqError): void
}

interface Built {
  readonly batch: Uint8Array
  readonly count: number
  /** Of the last output in it. */
  readonly position: OutputPosition
}

export class Forwarder {
  readonly #partition: Partition
  readonly #queueName: string
  readonly #context: ForwarderContext
  readonly #source: { sourceQueueId: QueueId; sourcePartition: PartitionId }
  /** Keys of targets that are being served, or never will be by this leader. */
  readonly #busy = new Set<string>()
  readonly #timers = new Set<Timer>()
  #waiting: Waiting[] = []
  #isDue = false
  #isOpen = true
  #requests = 0

  constructor(partition: Partition, queueName: string, context: ForwarderContext) {
    this.#partition = partition
    this.#queueName = queueName
    this.#context = context
    this.#source = { sourceQueueId: partition.queueId, sourcePartition: partition.id }
  }

  /** There may be something to forward. */
  wake(): void {
    if (this.#isDue || !this.#isOpen) return
    this.#isDue = true
    this.#context.clock.soon(() => {
      this.#isDue = false
      for (const [key, { target, pending }] of this.#partition.leader.state.outbox.destinations) {
        if (pending.length === 0 || this.#busy.has(key) || !this.#isOpen) continue
        this.#busy.add(key)
        this.#serve(key, target).catch((error: unknown) => {
          if (this.#isOpen) this.#context.failed(error)
        })
      }
    })
  }

  /**
   * Resolves once no output to `target` up to `position` waits any more: with true when they are there, or have rotted;
   * with false when the target is gone and they have come back.
   */
  forwarded(target: Target, position: OutputPosition): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ target, position, resolve, reject })
      this.#tellWaiting()
    })
  }

  /**
   * Forwards nothing any more; what is on its way may still arrive.
   * @param error for those who wait for arrivals. Without one they hear no more: the broker ends.
   */
  close(error?: MqError): void {
    this.#isOpen = false
    for (const timer of this.#timers) timer.cancel()
    this.#timers.clear()
    const waiting = this.#waiting
    this.#waiting = []
    if (error !== undefined) for (const each of waiting) each.reject(error)
  }

  async #serve(key: string, target: Target): Promise<void> {
    let failures = 0
    for (;;) {
      const next = this.#partition.leader.nextOutputs(target)
      if (next === undefined || !this.#isOpen) break
      const result = sameTarget(target, nowhere)
        ? 'gone'
        : await this.#forward(target, next.previous, next.outputs)
      if (!this.#isOpen) return
      // Its key stays busy: a restart looks at it anew.
      if (result === 'halted') return
      const isDone = result === 'done' || (result === 'gone' && (await this.#redirect(target)))
      if (!this.#isOpen) return
      this.#tellWaiting()
      if (isDone) failures = 0
      else await this.#pause(failures++)
    }
    // What is committed from now on wakes it again.
    this.#busy.delete(key)
  }

  async #forward(
    target: Target,
    previous: OutputPosition,
    outputs: readonly Outputs[],
  ): Promise<'done' | 'again' | 'gone' | 'halted'> {
    const { leader } = this.#partition
    const built = this.#build(outputs)
    // All of it has rotted and is out of the way.
    if (built === null) return 'done'
    const { batch, count, position } = built
    const id = (this.#requests = (this.#requests % 0xffff_ffff) + 1)
    const request = {
      id,
      ...target,
      ...this.#source,
      previous,
      position,
      count,
      crc: crcOf(batch),
      batch,
    }
    const answer = await this.#ask(encodeForward(request))
    if (answer === null || !this.#isOpen) return 'again'
    if ('error' in answer) {
      const { code, message } = answer.error
      if (code === 'QUEUE_DELETED' || code === 'QUEUE_NOT_FOUND') return 'gone'
      // It is starting, or stopping: soon it will be otherwise.
      if (code === 'STOPPING') return 'again'
      this.#note('messages of the outbox were refused, and stay', { code, reason: message, messages: count })
      return 'again'
    }
    if (leader.forwarded(target, answer.position, this.#partition.now())) {
      // It may have had them from an earlier copy; then what is not there yet is what comes next.
      return comparePositions(answer.position, previous) > 0 ? 'done' : 'again'
    }
    this.#note('the outbox is halted: the target does not know what it had confirmed', {
      code: 'CORRUPT_LOG',
      target: `${target.queueId}/${target.partition}`,
      known: answer.position,
      previous,
    })
    return 'halted'
  }

  /** The batch of the next outputs, as many as one may hold; null when none of them can be read. */
  #build(outputs: readonly Outputs[]): Built | null {
    const { builder } = this.#context
    let position: OutputPosition | null = null
    const reader = new BatchReader(this.#partition)
    try {
      for (const each of outputs) {
        const { epoch, offset, ranges } = each
        for (let i = 0; i < ranges.length; i += 4) {
          const added = this.#add(reader, each, ranges[i]!, ranges[i + 1]!, ranges[i + 2]!)
          if (added > 0) position = { epoch, offset, index: ranges[i + 3]! + added - 1 }
          if (added < ranges[i + 1]!) return finished(builder, position)
        }
      }
      return finished(builder, position)
    } catch (error) {
      if (builder.count > 0) builder.finish()
      throw error
    }
  }

  /** Adds messages from `start` on. @returns how many: fewer than `count` when the batch is full, or the next one has rotted */
  #add(reader: BatchReader, outputs: Outputs, start: number, count: number, deliveries: number): number {
    const { builder } = this.#context
    const partition = this.#partition
    const end = start + count
    for (let offset = start; offset < end;) {
      if (builder.count > 0 && reader.bytes > readBytesMax) return offset - start
      const { entry, view, end: entryEnd } = reader.at(offset)
      if (entry === null) {
        this.#note('messages of the outbox quarantined: their stored bytes do not verify', {
          offset,
          entryEnd,
        })
        // What is in the batch goes first: it would be there no more when the batch is confirmed.
        if (builder.count === 0) partition.leader.quarantineOutputs(offset, entryEnd, partition.now())
        return offset - start
      }
      const { serializer } = view
      for (; offset < Math.min(end, entryEnd); offset++) {
        const i = offset - entry.base
        const id = messageId(this.#queueName, partition.id, entry.epoch, offset)
        const origin = { queue: this.#queueName, id, deliveries }
        const attributes = attributesOnward(view, i, outputs, origin)
        const name = serializer === null || typeof serializer === 'string' ? serializer : serializer[i]!
        const body = messageBody(view, i)
        const isFull =
          builder.count >= limits.batchMessagesMax ||
          builder.wouldExceed(limits.batchBytesMax, body.length, name, attributes)
        if (builder.count > 0 && isFull) return offset - start
        builder.add(body, name, attributes)
      }
    }
    return count
  }

  /** The answer; null when it was lost, or takes too long. */
  #ask(frame: Uint8Array): Promise<ForwardAnswer | null> {
    return new Promise((resolve) => {
      const timer = this.#after(answerTimeoutMs, () => resolve(null))
      const over = (answer: ForwardAnswer | null): void => {
        this.#timers.delete(timer)
        timer.cancel()
        resolve(answer)
      }
      this.#context
        .link(frame)
        .then((answer) => over(decodeForwardAnswer(answer)))
        .catch(() => over(null))
    })
  }

  /** The target is not there: what waits for it goes to the queue that dead letters go to now, or comes back. */
  async #redirect(target: Target): Promise<boolean> {
    const { leader } = this.#partition
    const destination = leader.state.outbox.destination(target)
    let to: Target | null = null
    if (destination?.pending.some(({ why }) => why !== movedBecause.redriven) === true) {
      try {
        to = await this.#context.deadLetterTarget(this.#queueName, this.#partition.id)
      } catch (error) {
        if (!(error instanceof MqError)) throw error
        const { code, message } = error
        this.#note('the dead-letter queue could not be made', { code, reason: message })
        return false
      }
      if (!this.#isOpen || (to !== null && sameTarget(to, target))) return false
    }
    this.#note('outputs are redirected: their queue is gone', { to: to?.queueId ?? null })
    leader.redirect(target, to, this.#partition.now())
    return true
  }

  #tellWaiting(): void {
    const { outbox } = this.#partition.leader.state
    const isOver = ({ target, position }: Waiting): boolean => {
      const next = outbox.destination(target)?.pending[0]
      return next === undefined || comparePositions(startOf(next), position) > 0
    }
    const over = this.#waiting.filter(isOver)
    if (over.length === 0) return
    this.#waiting = this.#waiting.filter((each) => !isOver(each))
    for (const each of over) each.resolve(outbox.destination(each.target) !== undefined)
  }

  #pause(failures: number): Promise<void> {
    const ms = Math.min(pauseMaxMs, pauseMinMs * 2 ** failures)
    return new Promise((resolve) => void this.#after(ms, resolve))
  }

  #after(ms: number, run: () => void): Timer {
    const timer = this.#context.clock.after(ms, () => {
      this.#timers.delete(timer)
      run()
    })
    this.#timers.add(timer)
    return timer
  }

  #note(what: string, fields: Readonly<Record<string, unknown>>): void {
    const { id } = this.#partition
    this.#context.limitedLog.write('warn', what, { queue: this.#queueName, partition: id, ...fields })
  }
}

function finished(builder: BatchBuilder, position: OutputPosition | null): Built | null {
  if (position === null) return null
  const { count } = builder
  return { batch: builder.finish(), count, position }
}

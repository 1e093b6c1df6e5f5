/**
 * What an image must hold, given what had been asked and told before the power cut:
 *
 *   lost        a confirmed message is there, unless a request that may have settled it had come; its offset is taken
 *   resurrected what was settled or purged, and confirmed as that, is not
 *   invented    what is there was sent, byte for byte, and stands under the id that its sender was told
 *   moved       a message on its way to the dead-letter queue is here, on its way or there, and not here and there
 *   queue       a queue confirmed as created is there, one confirmed as deleted is not
 *
 * What was asked counts from the moment at which the broker had read it, what was told from the moment at which it
 * began to write it to the socket. Nothing is asserted of what was neither.
 */
import { RangeMap, type Run } from '../../src/partition/range-map.ts'
import type { Offset, QueueId } from '../../src/types.ts'
import { messageId } from '../../src/wire/message-id.ts'
import { settleAction } from '../../src/wire/messages.ts'
import type { Command, Conversation, LogKey, Send, Settle } from './conversation.ts'

/** What an image holds, as the broker reads it. */
export interface Found {
  /** What is wrong with it by itself. */
  readonly problems: readonly string[]
  /** Batches that were copied to a later segment. */
  readonly copies: number
  readonly queues: ReadonlyMap<string, QueueId>
  readonly logs: ReadonlyMap<LogKey, FoundLog>
}

export interface FoundLog {
  readonly live: RangeMap
  /** On their way to another queue. */
  readonly moving: RangeMap
  readonly logEnd: Offset
  /** Those with live messages. */
  readonly batches: readonly FoundBatch[]
  /** Ids that its live dead letters had in their queue → how often. */
  readonly origins: ReadonlyMap<string, number>
}

export interface FoundBatch {
  readonly base: Offset
  readonly count: number
  readonly epoch: number
  readonly crc: number
  readonly isForwarded: boolean
}

interface Owed {
  /** Must be live. */
  readonly live: RangeMap
  /** Must not be live. */
  readonly gone: RangeMap
  /** A request that may have settled them has come. */
  readonly mayBeGone: RangeMap
  /** A request that may have moved them has come. */
  readonly mayHaveMoved: RangeMap
  /** Behind the last message that was confirmed: no offset before it may be given again. */
  end: Offset
  /** Its queue may be deleted: nothing is owed any more. */
  isDeleted: boolean
}

/** Where a message was that must be somewhere. */
interface Movable {
  readonly log: LogKey
  readonly offset: Offset
}

export class Promises {
  readonly #asked: (Settle | Command)[]
  readonly #told: (Send | Settle | Command)[]
  readonly #conversation: Conversation
  readonly #owed = new Map<LogKey, Owed>()
  readonly #movable = new Map<string, Movable>()
  /** Dead letters that were acked in their new queue. */
  readonly #buried = new Set<string>()
  readonly #queues = new Map<string, 'there' | 'gone' | 'either'>()
  readonly #names = new Map<QueueId, string>()
  /** By log and base. */
  readonly #sentAt = new Map<string, Send>()
  /** By log, count and crc: where the first such was asked. */
  readonly #sentAs = new Map<string, number>()
  /** By log and offset. */
  readonly #epochs = new Map<LogKey, RangeMap>()

  constructor(conversation: Conversation) {
    const { sends, settles, commands, ids } = conversation
    this.#conversation = conversation
    this.#asked = [...settles, ...commands].sort((a, b) => b.asked - a.asked)
    this.#told = [...sends, ...settles, ...commands]
      .filter(({ told }) => told !== Infinity)
      .sort((a, b) => b.told - a.told)
    for (const [name, all] of ids) for (const id of all) this.#names.set(id, name)
    for (const send of sends) {
      const as = `${send.log}:${send.count}:${send.crc}`
      this.#sentAs.set(as, Math.min(send.asked, this.#sentAs.get(as) ?? Infinity))
      if (send.told === Infinity) continue
      this.#sentAt.set(`${send.log}:${send.base}`, send)
      let epochs = this.#epochs.get(send.log)
      if (epochs === undefined) this.#epochs.set(send.log, (epochs = new RangeMap()))
      epochs.set(send.base, send.base + send.count, send.epoch)
    }
  }

  /** @param asked line up to which requests have come (inclusive), @param told and answers (exclusive) */
  advance(asked: number, told: number): void {
    for (;;) {
      const request = this.#asked.at(-1)
      const answer = this.#told.at(-1)
      const isAsked = request !== undefined && request.asked <= asked
      const isTold = answer !== undefined && answer.told < told
      // In the order of their lines: what was confirmed before a purge was asked for is not owed after it.
      if (isAsked && !(isTold && answer.told < request.asked)) this.#ask(this.#asked.pop()!)
      else if (isTold) this.#tell(this.#told.pop()!)
      else return
    }
  }

  /** Messages that must be there now, somewhere. */
  get owedCount(): number {
    let count = this.#movable.size
    for (const { live } of this.#owed.values()) count += live.size
    return count
  }

  #ask(request: Settle | Command): void {
    if ('what' in request) {
      if (request.what !== 'purge') {
        this.#queues.set(request.queue, 'either')
        if (request.what === 'create') return
      }
      for (const log of this.#logsOf(request.queue)) {
        const owed = this.#of(log)
        owed.live.clear()
        if (request.what === 'delete') {
          owed.gone.clear()
          owed.isDeleted = true
        }
        for (const [id, movable] of this.#movable) if (movable.log === log) this.#movable.delete(id)
      }
      return
    }
    const { log, action } = request
    const owed = this.#of(log)
    eachRange(request.ranges, (start, end) => {
      if (action === settleAction.ack) this.#maySettle(log, start, end)
      else if (action === settleAction.nack || action === settleAction.deadLetter) {
        owed.live.forEachIn(start, end, (from, to) => this.#addMovable(log, from, to))
        owed.live.delete(start, end)
        owed.mayHaveMoved.set(start, end)
      }
    })
  }

  #tell(answer: Send | Settle | Command): void {
    if ('what' in answer) {
      if (answer.what === 'create') this.#queues.set(answer.queue, 'there')
      else if (answer.what === 'delete') this.#queues.set(answer.queue, 'gone')
      else this.#purged(answer)
      return
    }
    if ('base' in answer) this.#sent(answer)
    else this.#settled(answer)
  }

  #sent(send: Send): void {
    const { log } = send
    const owed = this.#of(log)
    if (owed.isDeleted) return
    owed.end = Math.max(owed.end, send.base + send.count)
    // A purge settles what it finds, and that may be this one or not.
    const name = this.#names.get(log.split('/')[0]!)
    const isPurged = this.#conversation.commands.some(
      ({ what, queue, asked, told }) =>
        what === 'purge' && queue === name && send.asked < told && send.told > asked,
    )
    if (isPurged) return
    const end = send.base + send.count
    const left = new RangeMap()
    left.set(send.base, end)
    for (const map of [owed.mayBeGone, owed.gone])
      map.forEachIn(send.base, end, (from, to) => left.delete(from, to))
    owed.mayHaveMoved.forEachIn(send.base, end, (from, to) => {
      left.forEachIn(from, to, (a, b) => this.#addMovable(log, a, b))
      left.delete(from, to)
    })
    left.forEachIn(send.base, end, (from, to) => owed.live.set(from, to))
  }

  #settled({ log, action, ranges, refused }: Settle): void {
    if (action !== settleAction.ack && action !== settleAction.deadLetter) return
    const settled = new RangeMap()
    eachRange(ranges, (start, end) => settled.set(start, end))
    eachRange(refused, (start, end) => settled.delete(start, end))
    const owed = this.#of(log)
    for (const run of runsOf(settled)) {
      if (!owed.isDeleted) owed.gone.set(run.start, run.end)
      if (action === settleAction.ack) this.#maySettle(log, run.start, run.end)
      for (let at = run.start; action === settleAction.ack && at < run.end; at++) {
        const origin = this.#conversation.origins.get(`${log}:${at}`)
        if (origin !== undefined) this.#buried.add(origin)
      }
    }
  }

  #purged({ queue, asked }: Command): void {
    const logs = new Set(this.#logsOf(queue))
    for (const send of this.#conversation.sends)
      if (logs.has(send.log) && send.told < asked)
        this.#of(send.log).gone.set(send.base, send.base + send.count)
  }

  #maySettle(log: LogKey, start: Offset, end: Offset): void {
    const owed = this.#of(log)
    owed.live.delete(start, end)
    owed.mayBeGone.set(start, end)
    for (let at = start; at < end; at++) {
      this.#movable.delete(this.#idOf(log, at))
      const origin = this.#conversation.origins.get(`${log}:${at}`)
      if (origin !== undefined) this.#movable.delete(origin)
    }
  }

  #addMovable(log: LogKey, from: Offset, to: Offset): void {
    for (let offset = from; offset < to; offset++) this.#movable.set(this.#idOf(log, offset), { log, offset })
  }

  /** What is wrong, if this is what a power cut left. */
  judge(found: Found): string[] {
    const words = [...found.problems]
    for (const [log, owed] of this.#owed) {
      const there = found.logs.get(log)?.live ?? none
      const logEnd = found.logs.get(log)?.logEnd ?? 0
      if (!owed.isDeleted && logEnd < owed.end)
        words.push(`lost: the log of ${this.#idOf(log, logEnd)} ends there, and not at ${owed.end}`)
      for (const { start, end } of runsOf(owed.live)) {
        const missing = end - start - there.countIn(start, end)
        if (missing > 0) words.push(`lost: ${missing} of ${this.#idOf(log, start)} to ${end - 1}`)
      }
      for (const { start, end } of runsOf(owed.gone)) {
        const back = there.countIn(start, end)
        if (back > 0) words.push(`resurrected: ${back} of ${this.#idOf(log, start)} to ${end - 1}`)
      }
    }
    this.#judgeMoved(found, words)
    for (const [name, state] of this.#queues) {
      if (state === 'there' && !found.queues.has(name))
        words.push(`queue: ${name} was created and is not there`)
      if (state === 'gone' && found.queues.has(name)) words.push(`queue: ${name} was deleted and is there`)
    }
    return words
  }

  #judgeMoved(found: Found, words: string[]): void {
    const arrived = new Map<string, number>()
    for (const { origins } of found.logs.values())
      for (const [id, times] of origins) arrived.set(id, (arrived.get(id) ?? 0) + times)
    for (const [id, { log, offset }] of this.#movable) {
      const here = found.logs.get(log)
      const isLive = here?.live.has(offset) === true
      const times = arrived.get(id) ?? 0
      if (!isLive && times === 0 && here?.moving.has(offset) !== true)
        words.push(`lost: ${id}, a dead letter`)
      if (isLive && times > 0) words.push(`moved: ${id} is a dead letter, and is in its queue`)
    }
    for (const [id, times] of arrived) {
      if (times > 1) words.push(`moved: ${id} is a dead letter ${times} times`)
      if (this.#buried.has(id)) words.push(`resurrected: the dead letter ${id}`)
    }
  }

  /** @param asked line up to which requests had come when the image could be first */
  judgeOrigin(found: Found, asked: number): string[] {
    const words: string[] = []
    for (const [log, { batches }] of found.logs) {
      for (const { base, count, epoch, crc, isForwarded } of batches) {
        if (isForwarded) continue
        const told = this.#sentAt.get(`${log}:${base}`)
        if (told !== undefined && (told.count !== count || told.crc !== crc || told.epoch !== epoch))
          words.push(`invented: ${log} holds at ${base} what is not what was confirmed there`)
        if (!((this.#sentAs.get(`${log}:${count}:${crc}`) ?? Infinity) <= asked))
          words.push(`invented: ${log} holds at ${base} what nobody had sent`)
      }
    }
    return words
  }

  #logsOf(queue: string): LogKey[] {
    const ids = this.#conversation.ids.get(queue) ?? new Set()
    const logs = new Set(this.#conversation.sends.map(({ log }) => log))
    for (const log of this.#owed.keys()) logs.add(log)
    return [...logs].filter((log) => ids.has(log.split('/')[0]!))
  }

  #idOf(log: LogKey, offset: Offset): string {
    const [queueId, partition] = log.split('/') as [string, string]
    const epoch = this.#epochs.get(log)?.get(offset) ?? 0
    return messageId(this.#names.get(queueId) ?? queueId, Number(partition), epoch, offset)
  }

  #of(log: LogKey): Owed {
    let owed = this.#owed.get(log)
    if (owed === undefined) {
      owed = {
        live: new RangeMap(),
        gone: new RangeMap(),
        mayBeGone: new RangeMap(),
        mayHaveMoved: new RangeMap(),
        end: 0,
        isDeleted: false,
      }
      this.#owed.set(log, owed)
    }
    return owed
  }
}

const none = new RangeMap()

function eachRange(ranges: readonly number[], visit: (start: Offset, end: Offset) => void): void {
  for (let i = 0; i < ranges.length; i += 2) visit(ranges[i]!, ranges[i]! + ranges[i + 1]!)
}

function* runsOf(map: RangeMap): Generator<Run> {
  const run: Run = { start: 0, end: 0, value: 0 }
  for (let at = 0; map.nextRun(at, run); at = run.end) yield { ...run }
}

/** What clients asked of a broker and what it told them, from the bytes on its sockets. */
import { deadLetterHeader } from '../../src/wire/dead-letter.ts'
import { attributes, readBatch } from '../../src/wire/batch.ts'
import { decodeClientFrame, decodeServerFrame, lookupOfResult } from '../../src/wire/codec.ts'
import { FrameReader } from '../../src/wire/frame.ts'
import type { ClientFrame, SendRequest, ServerFrame, SettleRequest } from '../../src/wire/messages.ts'
import type { Epoch, Offset, PartitionId, QueueId } from '../../src/types.ts'
import type { SocketBytes } from './operations.ts'

/** A partition's log: `queueId/partition`. */
export type LogKey = string

export function logKey(queueId: QueueId, partition: PartitionId): LogKey {
  return `${queueId}/${partition}`
}

export interface Send {
  readonly log: LogKey
  readonly count: number
  readonly crc: number
  /** Line at which the broker had read it. */
  readonly asked: number
  /** Of its first answer. Infinity: none. */
  told: number
  base: Offset
  epoch: Epoch
}

export interface Settle {
  readonly log: LogKey
  readonly action: number
  /** Flat: offset, count, … */
  readonly ranges: readonly number[]
  readonly asked: number
  told: number
  refused: readonly number[]
}

export interface Command {
  readonly what: 'create' | 'delete' | 'purge'
  readonly queue: string
  readonly asked: number
  told: number
}

export interface Conversation {
  readonly sends: readonly Send[]
  readonly settles: readonly Settle[]
  readonly commands: readonly Command[]
  /** By queue name: the ids that a queue of this name has had. */
  readonly ids: ReadonlyMap<string, ReadonlySet<QueueId>>
  /** By `log:offset`, of dead letters that were delivered: the id of the message that each was. */
  readonly origins: ReadonlyMap<string, string>
}

const frameBytesMax = 64 << 20

export function readConversation(sockets: readonly SocketBytes[]): Conversation {
  const sends: Send[] = []
  const settles: Settle[] = []
  const commands: Command[] = []
  const ids = new Map<string, Set<QueueId>>()
  const origins = new Map<string, string>()

  const talk = (): {
    in: (bytes: Buffer, line: number) => void
    out: (bytes: Buffer, line: number) => void
  } => {
    let line = 0
    const waiting = new Map<number, (frame: ServerFrame) => void>()
    // What else may be asked for need not last.
    const ask = (frame: ClientFrame): void => {
      if (frame.op === 'send') waiting.set(frame.id, answerOf(frame))
      else if (frame.op === 'settle') waiting.set(frame.id, answerOfSettle(frame))
      else if (frame.op === 'createQueue') command(frame.id, 'create', frame.name)
      else if (frame.op === 'deleteQueue') command(frame.id, 'delete', frame.name)
      else if (frame.op === 'purgeQueue') command(frame.id, 'purge', frame.name)
      else if (frame.op === 'receive') {
        const { queueId } = frame
        waiting.set(frame.id, (answer) => {
          if (answer.op === 'delivered') for (const each of answer.deliveries) keepOrigins(queueId, each)
        })
      } else if (frame.op === 'lookup') {
        waiting.set(frame.id, (answer) => {
          if (answer.op !== 'ok') return
          const { name, queueId } = lookupOfResult(answer.result)
          ids.set(name, (ids.get(name) ?? new Set()).add(queueId))
        })
      }
    }
    const command = (id: number, what: Command['what'], queue: string): void => {
      const asked: Command = { what, queue, asked: line, told: Infinity }
      commands.push(asked)
      waiting.set(id, (answer) => {
        if (answer.op === 'ok') asked.told = line
      })
    }
    const answerOf = ({ queueId, partition, count, crc }: SendRequest) => {
      const send: Send = {
        log: logKey(queueId, partition),
        count,
        crc,
        asked: line,
        told: Infinity,
        base: 0,
        epoch: 0,
      }
      sends.push(send)
      return (answer: ServerFrame): void => {
        if (answer.op === 'sent') Object.assign(send, { told: line, base: answer.base, epoch: answer.epoch })
      }
    }
    const answerOfSettle = ({ queueId, partition, action, items }: SettleRequest) => {
      const ranges = items.flatMap(({ offset, count }) => [offset, count])
      const settle: Settle = {
        log: logKey(queueId, partition),
        action,
        ranges,
        asked: line,
        told: Infinity,
        refused: [],
      }
      settles.push(settle)
      return (answer: ServerFrame): void => {
        if (answer.op === 'settled') Object.assign(settle, { told: line, refused: answer.refused ?? [] })
      }
    }
    const keepOrigins = (queueId: QueueId, { partition, base, batch }: Delivered): void => {
      for (const [i, origin] of originsOf(batch).entries()) {
        if (origin !== null) origins.set(`${logKey(queueId, partition)}:${base + i}`, origin)
      }
    }
    const asked = new FrameReader({ frameBytesMax, headroom: 0, preface: true }, (bytes) =>
      ask(decodeClientFrame(bytes)),
    )
    const told = new FrameReader({ frameBytesMax, headroom: 0 }, (bytes) => {
      const frame = decodeServerFrame(bytes)
      if (!('id' in frame) || frame.op === 'push') return
      waiting.get(frame.id)?.(frame)
      waiting.delete(frame.id)
    })
    const feed = (reader: FrameReader) => (bytes: Buffer, at: number) => {
      line = at
      reader.push(Buffer.from(bytes))
    }
    return { in: feed(asked), out: feed(told) }
  }

  const talks = new Map<number, ReturnType<typeof talk>>()
  for (const { connection, direction, bytes, line } of [...sockets].sort((a, b) => a.line - b.line)) {
    let here = talks.get(connection)
    if (here === undefined) talks.set(connection, (here = talk()))
    here[direction](bytes, line)
  }
  return { sends, settles, commands, ids, origins }
}

interface Delivered {
  readonly partition: PartitionId
  readonly base: Offset
  readonly batch: Uint8Array
}

/** Of each message of a batch: the id that it had before it became a dead letter; null: it never did. */
export function originsOf(batch: Uint8Array): (string | null)[] {
  const view = readBatch(batch)
  const headers = attributes(view)?.['headers'] as (Record<string, string> | null)[] | undefined
  return Array.from({ length: view.count }, (_, i) => headers?.[i]?.[deadLetterHeader.originId] ?? null)
}

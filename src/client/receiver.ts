/** RECEIVE, and settling by receipts. */
import { MqError } from '../errors.ts'
import { limits, type Offset, type PartitionId } from '../types.ts'
import { crcOf, forEachMessage, readBatch } from '../wire/batch.ts'
import { encodeClientFrame } from '../wire/codec.ts'
import type { Delivery, LeasedRange } from '../wire/messages.ts'
import { leaseLost, type Settling } from './acker.ts'
import { runCall } from './call.ts'
import { checkOnline, type Core } from './core.ts'
import { decodeReceipt } from './delivery-receipt.ts'
import { extendItems } from './extend.ts'
import { contains } from './leased-ranges.ts'
import { Message, type DeliveryContext, type LeaseKeeper } from './message.ts'
import { checkOptionNames, optionNames } from './option-names.ts'
import {
  checkArray,
  checkInteger,
  checkSignal,
  checkTimeout,
  checkVisibilityTimeout,
  type CallOptions,
} from './options.ts'
import { isGone, unexpected, type Queue, type Queues } from './queues.ts'
import type { Serializer } from './serializer.ts'

export interface ReceiveOptions extends CallOptions {
  /** Messages at most, 1 (default) to 1,000. */
  max?: number | undefined
  /** How long to wait for the first one, in milliseconds, 0 (default) to 20,000. */
  waitMs?: number | undefined
  /** How long they are leased, in milliseconds. Default: the queue's; 1 to 12 hours. */
  visibilityTimeoutMs?: number | undefined
}

const receiveOptionNames = optionNames<ReceiveOptions>({
  max: true,
  waitMs: true,
  visibilityTimeoutMs: true,
  signal: true,
  timeoutMs: true,
})

export class Receiver {
  readonly #core: Core
  readonly #queues: Queues
  readonly #serializer: Serializer

  constructor(core: Core, queues: Queues, serializer: Serializer) {
    this.#core = core
    this.#queues = queues
    this.#serializer = serializer
  }

  async receive(name: string, options: ReceiveOptions): Promise<Message[]> {
    checkOptionNames(options, receiveOptionNames)
    const max = checkInteger('max', options.max ?? 1, 1, limits.receiveMessagesMax)
    const waitMs = checkInteger('waitMs', options.waitMs ?? 0, 0, limits.receiveWaitMsMax)
    const visibilityTimeoutMs = checkVisibilityTimeout(options.visibilityTimeoutMs)
    const { queue, timeoutMs, signal } = await this.#find(name, options)
    const untilMs = this.#core.clock.monotonicMs() + waitMs
    try {
      return await runCall(this.#core, {
        what: `receiving from '${name}'`,
        timeoutMs,
        signal,
        cancellable: true,
        endsOnClose: true,
        encode: (id) =>
          encodeClientFrame({
            op: 'receive',
            id,
            queueId: queue.queueId,
            partition: null,
            max,
            maxBytes: limits.receiveBytesMax,
            // On a second connection only what is left of the wait.
            waitMs: Math.min(waitMs, Math.max(0, Math.ceil(untilMs - this.#core.clock.monotonicMs()))),
            visibilityTimeoutMs,
            mode: 0,
          }),
        read: (answer) => {
          if (answer.op !== 'delivered') throw unexpected('RECEIVE', answer.op)
          return this.#messages(queue, answer.deliveries)
        },
      })
    } catch (error) {
      if (error instanceof MqError && isGone(error)) queue.isGone()
      throw error
    }
  }

  #messages(queue: Queue, deliveries: readonly Delivery[]): Message[] {
    const messages: Message[] = []
    for (const delivery of deliveries) {
      const context = readDelivery(this.#core, this.#serializer, queue, delivery, null)
      if (context === null) continue
      const { bytes } = context.view
      forEachMessage(context.view, (i, at, length) => {
        messages.push(new Message(context, i, bytes.subarray(at, at + length)))
      })
    }
    return messages
  }

  /** Acks or nacks by receipts: null or the error of each, in order. */
  async settle(
    name: string,
    how: Settling,
    receipts: readonly string[],
    options: CallOptions,
  ): Promise<(MqError | null)[]> {
    checkArray('receipts', receipts)
    const { queue, timeoutMs, signal } = await this.#find(name, options)
    const dueMs = this.#core.turn.nowMs + timeoutMs
    return Promise.all(
      receipts.map(async (text): Promise<MqError | null> => {
        const receipt = ownReceipt(queue, text)
        if (receipt === null) return leaseLost()
        return new Promise<MqError | null>((resolve) => {
          const target = { settled: () => resolve(null), failed: resolve, dueMs, signal }
          const { partition, leaseEpoch, lease, offset } = receipt
          queue.ackers[partition]!.settle(how, leaseEpoch, lease, offset, target)
        })
      }),
    )
  }

  /** Extends by receipts: null or the error of each, in order. */
  async extend(
    name: string,
    receipts: readonly string[],
    extendMs: number,
    options: CallOptions,
  ): Promise<(MqError | null)[]> {
    checkArray('receipts', receipts)
    const { queue, timeoutMs, signal } = await this.#find(name, options)
    const results: (MqError | null)[] = receipts.map(() => null)
    const requests: Extension[] = []
    receipts.forEach((text, i) => {
      const receipt = ownReceipt(queue, text)
      if (receipt === null) {
        results[i] = leaseLost()
        return
      }
      const { partition, leaseEpoch, lease, offset } = receipt
      // The answer names what it refuses by offset alone, so each offset stands once in a request.
      let request = requests.find((each) => each.partition === partition && each.takes(offset))
      if (request === undefined) requests.push((request = new Extension(partition)))
      request.add({ leaseEpoch, lease, offset, count: 1 }, i)
    })
    await Promise.all(
      requests.map(async ({ partition, items, places }) => {
        try {
          const refused = await extendItems(this.#core, queue, partition, extendMs, items, {
            timeoutMs,
            signal,
          })
          if (refused === null) return
          items.forEach(({ offset }, k) => {
            if (contains(refused, offset)) results[places[k]!] = leaseLost()
          })
        } catch (error) {
          if (!(error instanceof MqError)) throw error
          for (const place of places) results[place] = error
        }
      }),
    )
    return results
  }

  /** The queue, and what is left of the call's time once it is known. @throws MqError */
  async #find(
    name: string,
    options: CallOptions,
  ): Promise<{ queue: Queue; timeoutMs: number; signal: AbortSignal | undefined }> {
    const timeoutMs = checkTimeout(options.timeoutMs)
    const signal = checkSignal(options.signal)
    const { turn } = this.#core
    const begunMs = turn.nowMs
    const queue = await this.#queues.get(name, timeoutMs, signal)
    this.#core.checkOpen()
    checkOnline(this.#core)
    return { queue, timeoutMs: Math.max(0, timeoutMs - (turn.nowMs - begunMs)), signal: checkSignal(signal) }
  }
}

/**
 * What the messages of a delivery share.
 * @returns null when it is damaged, of which listeners of `error` hear: it is delivered again once its lease has ended
 */
export function readDelivery(
  core: Core,
  serializer: Serializer,
  queue: Queue,
  delivery: Delivery,
  keeper: LeaseKeeper | null,
): DeliveryContext | null {
  const { partition, leaseEpoch, lease, epoch, base, sentAtMs, deliveryCount, batch, crc } = delivery
  if (partition >= queue.channels.length || crcOf(batch) !== crc) {
    core.events.emit('error', new MqError('CORRUPT_BATCH', `a delivery of '${queue.name}' was damaged`))
    return null
  }
  const view = readBatch(batch)
  return {
    core,
    serializer,
    queue,
    partition,
    leaseEpoch,
    lease,
    epoch,
    base,
    sentAtMs,
    deliveryCount,
    view,
    keeper,
  }
}

/** Items of one EXTEND: fewer than a frame may have, since an answer goes through them for each. */
const extendItemsMax = 1024

class Extension {
  readonly partition: PartitionId
  readonly items: LeasedRange[] = []
  /** Where each item's receipt stands in the call. */
  readonly places: number[] = []
  readonly #offsets = new Set<Offset>()

  constructor(partition: PartitionId) {
    this.partition = partition
  }

  takes(offset: Offset): boolean {
    return this.items.length < extendItemsMax && !this.#offsets.has(offset)
  }

  add(item: LeasedRange, place: number): void {
    this.items.push(item)
    this.places.push(place)
    this.#offsets.add(item.offset)
  }
}

/** What a receipt of this queue says; null for any other text. */
function ownReceipt(queue: Queue, text: string): ReturnType<typeof decodeReceipt> {
  const receipt = decodeReceipt(text)
  return receipt?.queueId === queue.queueId && receipt.partition < queue.channels.length ? receipt : null
}

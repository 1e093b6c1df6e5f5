/**
 * `mq-broker bench`: how fast a running broker is, with nothing but the client that everybody has. Every message
 * carries a number, so that what is lost or comes twice is seen.
 */
import { createHistogram } from 'node:perf_hooks'
import type { Command } from 'commander'
import { MqError } from '../errors.ts'
import type { Message, MqClient } from '../index.ts'
import { systemClock as clock, systemRandom } from '../system.ts'
import { limits } from '../types.ts'
import { type ConnectionOptions, openClient, withClient, withServer } from './connection.ts'
import { count, flagOption, type OutputOptions, size, withJson } from './options.ts'
import { print, printJson, printTable } from './output.ts'

/** What is asked of the broker. */
interface Load {
  readonly seconds: number
  readonly size: number
  readonly producers: number
  readonly consumers: number
  readonly batch: number
  readonly unconfirmed: number
}

type Options = ConnectionOptions & OutputOptions & Load

export function define(bench: Command): void {
  withJson(withServer(bench))
    .addOption(flagOption('--seconds', count(1, 3600), 'how long to send').default(5))
    .addOption(
      flagOption('--size', size(numberBytes, limits.messageBytesMax), 'bytes of each body').default(100),
    )
    .addOption(flagOption('--producers', count(1, 64), 'connections that send').default(1))
    .addOption(flagOption('--consumers', count(1, 64), 'connections that receive and ack').default(1))
    .addOption(
      flagOption('--batch', count(1, limits.batchMessagesMax), 'messages that are sent together').default(1),
    )
    .addOption(
      flagOption(
        '--unconfirmed',
        count(1, 100_000),
        'messages that a producer sends ahead of their confirms',
      ).default(1000),
    )
    .addHelpText(
      'after',
      '\nMakes a queue bench-…, sends into it and receives from it at once, and removes it. An interrupt ends the\n' +
        'sending early, a second one all. Prints what was confirmed and what was received in a second, and how long\n' +
        'confirms took; with --unconfirmed 1 that is the time of one send by itself. Exits with 1 when a message was lost,\n' +
        'or sent once and there twice; that one is delivered again, after a crash of the broker for example, is no fault.\n' +
        'All clients run in one process, on one core: a broker may be faster than that.',
    )
    .action((options: Options) => run(options))
}

async function run(options: Options): Promise<void> {
  const load = checkLoad(options)
  const queue = `bench-${Buffer.from(systemRandom.bytes(6)).toString('hex')}`
  const bench = new Bench(load)
  const interrupt = (): void => bench.interrupt()
  const signals = ['SIGINT', 'SIGTERM'] as const
  for (const signal of signals) process.on(signal, interrupt)
  try {
    await report(bench, load, queue, options)
  } finally {
    for (const signal of signals) process.off(signal, interrupt)
  }
}

/** Whoever interrupts once too often still gets the figures: signals are heard until these are out. */
async function report(bench: Bench, load: Load, queue: string, options: Options): Promise<void> {
  let failure: unknown
  await withClient(options, async (client) => {
    await client.createQueue(queue, { maxMessageBytes: Math.max(load.size, 1 << 20) })
    try {
      await bench.run(queue, () => openClient(options))
    } catch (error) {
      failure = error
    }
    await client.deleteQueue(queue, { timeoutMs: removalMs }).catch((error: unknown) => {
      failure = withQueueLeft(failure ?? error, queue)
    })
  })
  const isWhole = failure === undefined
  const result = bench.result(isWhole)
  if (options.json) await printJson({ ...load, ...result })
  else await printResult(result)
  if (!isWhole) throw failure
  const { lost, duplicates } = result
  if (lost === 0 && duplicates === 0) return
  throw new MqError('INTERNAL', `${lost} messages were lost, ${duplicates} were there twice`)
}

const removalMs = 2000

/** The queue could not be removed either: that too in the one line. */
function withQueueLeft(failure: unknown, queue: string): unknown {
  if (!(failure instanceof MqError)) return failure
  const { code, message, details, cause } = failure
  return new MqError(code, `${message}; queue ${queue} stays`, { details, cause })
}

/** What a producer has under way at most, beside one batch. */
const unconfirmedBytesMax = 64 << 20

/** @throws MqError INVALID_OPTION */
function checkLoad({ seconds, size, producers, consumers, batch, unconfirmed }: Options): Load {
  if (batch * size > unconfirmedBytesMax) {
    const max = Math.floor(unconfirmedBytesMax / size).toLocaleString('en')
    throw new MqError('INVALID_OPTION', `--batch is ${batch}: with this --size it must be 1 to ${max}`)
  }
  const fits = Math.max(batch, Math.min(unconfirmed, Math.floor(unconfirmedBytesMax / size)))
  return { seconds, size, producers, consumers, batch, unconfirmed: fits }
}

interface Flow {
  readonly messages: number
  readonly perSecond: number
}

interface Result {
  /** How long it was sent. */
  readonly seconds: number
  readonly sent: Flow
  readonly received: Flow
  /** Milliseconds from a send to its confirm. */
  readonly confirmMs: { readonly p50: number; readonly p99: number }
  /** null: it ended too early to know. */
  readonly lost: number | null
  /** Messages that were sent once and are there twice, under two ids. */
  readonly duplicates: number
  /** Deliveries of a message that had come before. */
  readonly redelivered: number
}

async function printResult(result: Result): Promise<void> {
  const { sent, received, confirmMs, lost, duplicates, redelivered } = result
  const rows = Object.entries({ sent, received }).map(([name, { messages, perSecond }]) => [
    name,
    messages,
    perSecond,
  ])
  await printTable(['', 'MESSAGES', 'PER SECOND'], rows)
  await print(
    `confirmed within ${confirmMs.p50} ms (p50), ${confirmMs.p99} ms (p99)\n` +
      `lost ${lost ?? 'unknown'}, duplicates ${duplicates}, redelivered ${redelivered}\n`,
  )
}

/** Of each body, for its number. */
const numberBytes = 8
/** Nothing has come for so long: what is missing then is lost. */
const quietMs = 10_000
/** A broker that is away for so long is not waited for. */
const awayMs = 30_000

class Bench {
  readonly #load: Load
  readonly #confirmUs = createHistogram()
  readonly #seen = new Numbers()
  #isSending = true
  /** Of the next message. */
  #number = 0
  #confirmed = 0
  #duplicates = 0
  #redelivered = 0
  /** Batches that were received and are not known to be acked: what is in one may come again. */
  readonly #unacked = new Set<readonly Message[]>()
  /** Ids by number, of those whose lease was lost before the ack. */
  readonly #unackedIds = new Map<number, string>()
  /** Clients without a connection, and since when the last of these changes. */
  #away = 0
  #awaySinceMs = 0
  /** Monotonic times: the beginning, the end of the sending, the last confirm, the last message. */
  #begunMs = 0
  #endedMs = 0
  #confirmedMs = 0
  #receivedMs = 0
  /** Ends the whole before its time. */
  readonly #failed: Promise<never>
  #fail: (error: unknown) => void = () => {}

  constructor(load: Load) {
    this.#load = load
    this.#failed = new Promise((_, reject) => (this.#fail = reject))
    // It may come before anybody waits for it.
    this.#failed.catch(() => {})
  }

  /** Ends the sending; a second time, all. */
  interrupt(): void {
    if (!this.#isSending) this.#fail(new MqError('ABORTED', 'the bench was interrupted'))
    this.#endSending()
  }

  #endSending(): void {
    if (this.#isSending && this.#begunMs > 0) this.#endedMs = clock.monotonicMs()
    this.#isSending = false
  }

  #connections(change: 1 | -1): void {
    this.#away -= change
    this.#awaySinceMs = clock.monotonicMs()
  }

  async run(queue: string, open: () => Promise<MqClient>): Promise<void> {
    const { seconds, producers, consumers } = this.#load
    const clients: MqClient[] = []
    try {
      while (clients.length < producers + consumers) {
        const client = await open()
        client.on('disconnect', () => this.#connections(-1)).on('reconnect', () => this.#connections(1))
        clients.push(client)
      }
      for (const client of clients.slice(producers)) {
        this.#consume(client, queue).catch((error: unknown) => this.#fail(error))
      }
      this.#begunMs = this.#confirmedMs = this.#receivedMs = clock.monotonicMs()
      const timer = clock.after(seconds * 1000, () => this.#endSending())
      const sending = Promise.all(clients.slice(0, producers).map((client) => this.#produce(client, queue)))
      await Promise.race([sending.finally(() => timer.cancel()), this.#failed])
      await Promise.race([this.#allReceived(), this.#failed])
    } catch (error) {
      throw this.#away > 0 && error instanceof MqError ? brokerAway(error) : error
    } finally {
      this.#endSending()
      await Promise.all(clients.map((client) => client.close()))
    }
  }

  /** @param isWhole what was sent had its time to come */
  result(isWhole: boolean): Result {
    const flow = (messages: number, untilMs: number): Flow => ({
      messages,
      perSecond: messages === 0 ? 0 : Math.round((messages * 1000) / (untilMs - this.#begunMs)),
    })
    const ms = (percentile: number): number => this.#confirmUs.percentile(percentile) / 1000
    return {
      seconds: Math.round(this.#endedMs - this.#begunMs) / 1000,
      sent: flow(this.#confirmed, this.#confirmedMs),
      received: flow(this.#seen.count, this.#receivedMs),
      confirmMs: { p50: ms(50), p99: ms(99) },
      // What was received may be more: a send may be done whose confirm was not waited for.
      lost: isWhole ? Math.max(0, this.#confirmed - this.#seen.count) : null,
      duplicates: this.#duplicates,
      redelivered: this.#redelivered,
    }
  }

  async #produce(client: MqClient, queue: string): Promise<void> {
    const { batch, unconfirmed } = this.#load
    const send = async (): Promise<void> => {
      while (this.#isSending) {
        const begunMs = clock.monotonicMs()
        if (batch === 1) await client.send(queue, this.#nextBody())
        else
          await sendAll(
            client,
            queue,
            Array.from({ length: batch }, () => this.#nextBody()),
          )
        this.#confirmedMs = clock.monotonicMs()
        this.#confirmUs.record(Math.max(1, Math.round((this.#confirmedMs - begunMs) * 1000)))
        this.#confirmed += batch
      }
    }
    await Promise.all(Array.from({ length: Math.floor(unconfirmed / batch) }, send))
  }

  #nextBody(): Uint8Array {
    const body = Buffer.alloc(this.#load.size)
    body.writeDoubleBE(this.#number++)
    return body
  }

  async #consume(client: MqClient, queue: string): Promise<void> {
    for await (const batch of client.consumeBatches(queue, { max: 1000 })) {
      this.#receivedMs = clock.monotonicMs()
      for (const message of batch.messages) {
        const number = numberOf(message)
        if (this.#seen.add(number)) continue
        if (this.#isUnacked(number, message.id)) this.#redelivered++
        else this.#duplicates++
      }
      this.#unacked.add(batch.messages)
      await batch.ack().catch((error: unknown) => {
        if (!(error instanceof MqError) || error.code !== 'LEASE_LOST') throw error
        // Delivered again, then.
        for (const message of batch.messages) this.#unackedIds.set(numberOf(message), message.id)
      })
      this.#unacked.delete(batch.messages)
    }
  }

  /** Whether this message came before and was not acked: else, what was sent once is there twice. */
  #isUnacked(number: number, id: string): boolean {
    if (this.#unackedIds.get(number) === id) return true
    // It may come again before the lost lease is told.
    for (const messages of this.#unacked) {
      for (const message of messages) if (numberOf(message) === number && message.id === id) return true
    }
    return false
  }

  /** Resolves once everything is there, or nothing comes any more. */
  async #allReceived(): Promise<void> {
    while (this.#seen.count < this.#confirmed) {
      const nowMs = clock.monotonicMs()
      const idleMs = nowMs - Math.max(this.#receivedMs, this.#confirmedMs, this.#awaySinceMs)
      if (this.#away === 0 && idleMs >= quietMs) return
      if (this.#away > 0 && nowMs - this.#awaySinceMs >= awayMs) {
        throw new MqError('DISCONNECTED', `no broker has answered for ${awayMs / 1000} s`)
      }
      await new Promise<void>((resolve) => clock.after(checkMs, resolve))
    }
  }
}

/** It failed because the broker is away, whatever failed first. */
function brokerAway(error: MqError): MqError {
  const message = `the broker is away, so the bench ended early (${error.message})`
  return new MqError('DISCONNECTED', message, { cause: error })
}

function numberOf({ body }: Message): number {
  return Buffer.from(body.buffer, body.byteOffset, body.length).readDoubleBE()
}

const checkMs = 20

/** @throws MqError the first refusal */
async function sendAll(client: MqClient, queue: string, bodies: readonly Uint8Array[]): Promise<void> {
  const results = await client.sendBatch(
    queue,
    bodies.map((body) => ({ body })),
  )
  for (const result of results) if (result instanceof MqError) throw result
}

/** Which numbers were seen: a bit for each, so that an hour's messages fit. */
class Numbers {
  count = 0
  #bits = new Uint8Array(1 << 16)

  /** @returns whether it is new */
  add(number: number): boolean {
    const at = Math.floor(number / 8)
    const bit = 1 << (number % 8)
    if (at >= this.#bits.length) {
      const bits = new Uint8Array(2 * at)
      bits.set(this.#bits)
      this.#bits = bits
    }
    if ((this.#bits[at]! & bit) !== 0) return false
    this.#bits[at]! |= bit
    this.count++
    return true
  }
}

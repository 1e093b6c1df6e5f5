/**
 * Sends each line of a stream as a message, however long the stream is.
 *
 * Two loops share a bounded list of what is on its way. One reads lines and sends them, and waits while the list is
 * full; the other takes the receipts in order and prints their ids, and waits for the broker and for stdout. So a
 * slow broker, or a slow reader of the ids, stops the reading, and an endless pipe takes no more memory than a short
 * one.
 *
 * The first refusal ends the reading, even while the input is silent. What is on its way by then has its end: the ids
 * of all lines that were sent are printed, and the error tells which were not and where to go on, so that nothing need
 * be sent twice. It ends in the same way, without further ids, when nobody reads them any more.
 */
import type { Readable } from 'node:stream'
import type { Clock } from '../env.ts'
import { MqError } from '../errors.ts'
import type { SendReceipt } from '../index.ts'
import { limits } from '../types.ts'
import { lines } from './lines.ts'
import { manyMessages, ReaderGone, StreamFailed } from './output.ts'
import type * as outputs from './output.ts'

/** Lines sent and not yet confirmed: enough to keep the broker busy, few enough for any memory. */
const unconfirmedLinesMax = 10_000
const unconfirmedBytesMax = 16 << 20
const progressMs = 5000

/** Written as JSON as it is. */
type Receipt = Pick<SendReceipt, 'id'>

export interface LineSending {
  readonly send: (line: Uint8Array) => Promise<Receipt>
  readonly input: Readable
  readonly clock: Clock
  readonly output: Pick<typeof outputs, 'flush' | 'note' | 'print' | 'printSoon'>
  readonly json: boolean
}

interface Unconfirmed {
  readonly line: number
  readonly bytes: number
  readonly receipt: Promise<Receipt>
}

/**
 * Rejects with the first refusal or what ended the input or the output: its message tells which lines were not sent.
 */
export async function sendLines({ send, input, clock, output, json }: LineSending): Promise<void> {
  const { flush, note, print, printSoon } = output
  /** In the order of the lines, which is that of the output. */
  const unconfirmed: Unconfirmed[] = []
  let unconfirmedBytes = 0
  let linesRead = 0
  let confirmed = 0
  const refused: Refused[] = []
  /** The reading loop has ended, for whatever reason. */
  let readEnded = false
  /** Something failed, so nothing more is read. */
  let stopped = false
  /** Runs when the list or one of the flags changes. Only one loop waits at a time: full is not empty. */
  let wake = () => {}
  const change = () => new Promise<void>((resolve) => (wake = resolve))
  const isFull = () => unconfirmed.length >= unconfirmedLinesMax || unconfirmedBytes >= unconfirmedBytesMax

  const stop = () => {
    if (stopped) return
    stopped = true
    // One that has ended may have been read to its end.
    if (!readEnded) input.destroy()
    wake()
  }

  const readAll = async () => {
    try {
      for await (const line of lines(input, limits.messageBytesMax)) {
        if (stopped) return
        const receipt = send(line)
        // A refusal is looked at when its turn comes.
        receipt.catch(() => {})
        unconfirmed.push({ line: ++linesRead, bytes: line.length, receipt })
        unconfirmedBytes += line.length
        wake()
        while (isFull() && !stopped) await change()
        if (stopped) return
      }
      isWhole = true
    } catch (error) {
      // That the input was destroyed is no news then.
      if (!stopped) throw error
    } finally {
      readEnded = true
      wake()
    }
  }
  let isWhole = false

  /** Why no ids are printed any more. */
  let outputError: Error | undefined
  const printing = async (printed: () => Promise<void> | undefined) => {
    if (outputError !== undefined) return
    try {
      await printed()
    } catch (error) {
      outputError = error instanceof Error ? error : new Error(String(error))
      stop()
    }
  }

  const printAll = async () => {
    for (;;) {
      const next = unconfirmed[0]
      if (next !== undefined) {
        const receipt = await next.receipt.catch((error: unknown) => {
          // A defect.
          if (!(error instanceof MqError)) throw error
          return error
        })
        unconfirmed.shift()
        unconfirmedBytes -= next.bytes
        if (receipt instanceof MqError) {
          refused.push({ line: next.line, error: receipt })
          stop()
          continue
        }
        const text = json
          ? `${confirmed === 0 ? '[' : ',\n'}${JSON.stringify(receipt)}`
          : receiptLine(receipt)
        confirmed++
        wake()
        await printing(() => printSoon(text))
      } else if (readEnded) {
        break
      } else {
        await printing(flush)
        // Something may have come meanwhile, and its wake-up call gone unheard.
        if (unconfirmed.length === 0 && !readEnded) await change()
      }
    }
    // After a refusal too: the ids of what was sent, and as one document.
    await printing(() => (json ? print(confirmed === 0 ? '[]\n' : ']\n') : flush()))
  }

  const progress = every(clock, progressMs, () => note(`${manyMessages(confirmed)} sent`))
  const [read, printed] = await Promise.allSettled([readAll(), printAll().finally(stop)])
  progress.cancel()
  if (printed.status === 'rejected') throw printed.reason
  const sent = `${confirmed.toLocaleString('en')} ${confirmed === 1 ? 'line was' : 'lines were'} sent`
  const onFrom = isWhole ? '' : `; go on from line ${linesRead + 1}`
  if (refused.length > 0) throw notSent(refused, `${sent}${onFrom}`)
  if (outputError !== undefined) {
    // All is done, and whoever read the ids has seen enough of them.
    if (outputError instanceof ReaderGone) {
      if (isWhole) return
      throw new StreamFailed(`nobody reads the ids any more: ${sent}${onFrom}`)
    }
    throw new StreamFailed(`${outputError.message}: ${sent}${onFrom}`)
  }
  if (read.status === 'fulfilled') return
  const error: unknown = read.reason
  if (error instanceof MqError) throw new MqError(error.code, `${error.message}: ${sent}${onFrom}`)
  const why = error instanceof Error ? error.message : String(error)
  throw new StreamFailed(`cannot read the input: ${why}: ${sent}${onFrom}`)
}

interface Refused {
  readonly line: number
  readonly error: MqError
}

/** The first refusal, with all lines that it is true of, or may be. */
function notSent(refused: readonly Refused[], rest: string): MqError {
  const first = refused[0]!.error
  const isOpen = ({ error }: Refused) => error.outcome === 'unknown'
  const failed = refused.filter((each) => !isOpen(each))
  const open = refused.filter(isOpen)
  const told = [
    failed.length === 0 ? [] : `${linesText(failed)} not sent`,
    open.length === 0 ? [] : `${linesText(open)} perhaps sent`,
    rest,
  ].flat()
  const { code, message, details } = first
  // What is known of each line has been said.
  return new MqError(code, `${told.join(', ')}: ${message}`, { details })
}

/** `line 2 was`, `lines 2, 5-9 were` */
function linesText(refused: readonly Refused[]): string {
  const ranges: [from: number, to: number][] = []
  for (const { line } of refused) {
    const last = ranges.at(-1)
    if (last?.[1] === line - 1) last[1] = line
    else ranges.push([line, line])
  }
  const text = ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ')
  return refused.length === 1 ? `line ${text} was` : `lines ${text} were`
}

/** What is printed for a message that was sent: its id, or `-` where confirm none gives it none. */
export function receiptLine({ id }: Receipt): string {
  return `${id ?? '-'}\n`
}

function every(clock: Clock, periodMs: number, run: () => void): { cancel(): void } {
  const tick = () => {
    timer = clock.after(periodMs, tick)
    run()
  }
  let timer = clock.after(periodMs, tick)
  return { cancel: () => timer.cancel() }
}

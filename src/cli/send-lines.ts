/**
 * Sends each line of a stream as a message, however long the stream is.
 *
 * Two loops share a bounded list of what is on its way. One reads lines and sends them, and waits while the list is
 * full; the other takes the receipts in order and prints their ids, and waits for the broker and for stdout. So a
 * slow broker, or a slow reader of the ids, stops the reading, and an endless pipe takes no more memory than a short
 * one. The first refusal ends both loops, even while the input is silent.
 */
import type { Readable } from 'node:stream'
import type { Clock } from '../env.ts'
import { MqError } from '../errors.ts'
import type { SendReceipt } from '../index.ts'
import { limits } from '../types.ts'
import { lines } from './lines.ts'
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
  readonly bytes: number
  readonly receipt: Promise<Receipt>
}

/** Rejects with the first refusal, which then names its line, or with what ended the input. */
export async function sendLines({ send, input, clock, output, json }: LineSending): Promise<void> {
  const { flush, note, print, printSoon } = output
  /** In the order of the lines, which is that of the output. */
  const unconfirmed: Unconfirmed[] = []
  let unconfirmedBytes = 0
  let confirmed = 0
  /** The reading loop has ended, for whatever reason. */
  let readEnded = false
  /** So has the printing loop: what is read now could not be accounted for. */
  let printEnded = false
  /** Runs when the list or one of the flags changes. Only one loop waits at a time: full is not empty. */
  let wake = () => {}
  const change = () => new Promise<void>((resolve) => (wake = resolve))
  const isFull = () => unconfirmed.length >= unconfirmedLinesMax || unconfirmedBytes >= unconfirmedBytesMax

  const readAll = async () => {
    try {
      for await (const line of lines(input, limits.messageBytesMax)) {
        const receipt = send(line)
        // A refusal is looked at when its turn comes.
        receipt.catch(() => {})
        unconfirmed.push({ bytes: line.length, receipt })
        unconfirmedBytes += line.length
        wake()
        while (isFull() && !printEnded) await change()
        if (printEnded) return
      }
    } catch (error) {
      // That the input was destroyed is no news then.
      if (!printEnded) throw error
    } finally {
      readEnded = true
      wake()
    }
  }

  const printAll = async () => {
    try {
      for (;;) {
        const next = unconfirmed[0]
        if (next !== undefined) {
          const receipt = await next.receipt
          const text = json
            ? `${confirmed === 0 ? '[' : ',\n'}${JSON.stringify(receipt)}`
            : receiptLine(receipt)
          unconfirmed.shift()
          unconfirmedBytes -= next.bytes
          confirmed++
          wake()
          await printSoon(text)
        } else if (readEnded) {
          break
        } else {
          await flush()
          // Something may have come meanwhile, and its wake-up call gone unheard.
          if (unconfirmed.length === 0 && !readEnded) await change()
        }
      }
    } finally {
      printEnded = true
      input.destroy()
      wake()
      // After a refusal too: the ids of what was sent, and as one document.
      await (json ? print(confirmed === 0 ? '[]\n' : ']\n') : flush())
    }
  }

  const progress = every(clock, progressMs, () => note(`${confirmed.toLocaleString('en')} messages sent`))
  const [read, printed] = await Promise.allSettled([readAll(), printAll()])
  progress.cancel()
  if (printed.status === 'rejected') {
    const error: unknown = printed.reason
    if (!(error instanceof MqError)) throw error
    const others = await Promise.allSettled(unconfirmed.map(({ receipt }) => receipt))
    const sent = confirmed + others.filter(({ status }) => status === 'fulfilled').length
    const { outcome, details, message } = error
    throw new MqError(error.code, `line ${confirmed + 1} (${sent} others were sent): ${message}`, {
      outcome,
      details,
    })
  }
  if (read.status === 'rejected') throw read.reason
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

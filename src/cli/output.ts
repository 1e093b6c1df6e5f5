/** What the commands print: results on stdout, everything else on stderr. */
import Table from 'cli-table3'
import { bold } from 'yoctocolors'

/** Text that waits for stdout before a writer has to wait too. */
const bufferedCharsMax = 64 << 10

let buffered: (string | Uint8Array)[] = []
let bufferedLength = 0

/** Prints what a command has to say, all at once and in order. Rejects with ReaderGone when nobody reads it. */
export async function print(text: string | Uint8Array): Promise<void> {
  buffered.push(text)
  bufferedLength += text.length
  await flush()
}

/**
 * Prints one of very many pieces: gathered, so that a million ids are not a million writes. Returns a promise only
 * when the writer has to wait; `flush` prints the rest.
 */
export function printSoon(text: string): Promise<void> | undefined {
  buffered.push(text)
  bufferedLength += text.length
  return bufferedLength < bufferedCharsMax ? undefined : flush()
}

/** Resolves once everything printed so far has been handed to the operating system. */
export function flush(): Promise<void> {
  const pieces = buffered
  buffered = []
  bufferedLength = 0
  const bytes = Buffer.concat(pieces.map((piece) => (typeof piece === 'string' ? Buffer.from(piece) : piece)))
  if (bytes.length === 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const failed = (error: unknown) => {
      const { code, message } = error as NodeJS.ErrnoException
      const isGone = code === 'EPIPE' || code === 'ERR_STREAM_DESTROYED'
      reject(isGone ? new ReaderGone() : new StreamFailed(`cannot write the output: ${message}`))
    }
    try {
      process.stdout.write(bytes, (error) => (error ? failed(error) : resolve()))
    } catch (error) {
      // A file is written at once.
      failed(error)
    }
  })
}

/** The output cannot be written, since a disk is full for example, or the input not be read. */
export class StreamFailed extends Error {
  override readonly name = 'StreamFailed'
}

/** Whoever read stdout has seen enough, as in `… | head -n 1`: no failure, and nothing more to print. */
export class ReaderGone extends Error {
  override readonly name = 'ReaderGone'
}

export function printJson(value: unknown): Promise<void> {
  return print(`${JSON.stringify(value)}\n`)
}

export type Cell = string | number

/** A table: framed at a terminal, plain columns when something else reads it. */
export function printTable(head: readonly string[], rows: readonly (readonly Cell[])[]): Promise<void> {
  const framed = process.stdout.isTTY
  const table = new Table({
    head: head.map((name) => (framed ? bold(name) : name)),
    // cli-table3 would paint in red and grey by itself.
    style: framed
      ? { head: [], border: [] }
      : { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    ...(framed ? {} : { chars: plainChars }),
  })
  const isNumeric = head.map(
    (_, column) => rows.length > 0 && rows.every((row) => typeof row[column] === 'number'),
  )
  for (const row of rows) {
    table.push(
      row.map((cell, column) => ({
        content: printable(String(cell)),
        hAlign: isNumeric[column] === true ? 'right' : 'left',
      })),
    )
  }
  const lines = table.toString().split('\n')
  return print(`${lines.map((line) => line.trimEnd()).join('\n')}\n`)
}

const plainChars = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

/** `1 message`, `2,500 messages`. */
export function manyMessages(messages: number): string {
  return messages === 1 ? '1 message' : `${messages.toLocaleString('en')} messages`
}

/** A line for people on stderr: how far it is, what is wrong. */
export function note(line: string): void {
  process.stderr.write(`${printable(line)}\n`)
}

/** `body` if the bytes are valid UTF-8, else `bodyBase64`: so that any body survives JSON. */
export function bodyFields(body: Uint8Array): { body: string } | { bodyBase64: string } {
  const text = utf8(body)
  return text === undefined ? { bodyBase64: Buffer.from(body).toString('base64') } : { body: text }
}

/** A body for a line of text: as it is when a program reads it, harmless when a terminal shows it. */
export function bodyLine(body: Uint8Array): Uint8Array {
  if (!process.stdout.isTTY) return body
  return Buffer.from(bodyText(body))
}

/** A body as text that does no harm anywhere. */
export function bodyText(body: Uint8Array): string {
  const text = utf8(body)
  return text === undefined ? `base64:${Buffer.from(body).toString('base64')}` : printable(text)
}

/** Keeps others' text from moving the cursor, ringing the bell or making lines of its own. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u2028\u2029]/g, (character) =>
    character === '\n' ? '\\n' : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function utf8(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

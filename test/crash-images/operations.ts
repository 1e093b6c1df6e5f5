/**
 * What the system calls of a broker mean: changes of its data directory, and bytes to and from its clients. Whatever may
 * change the directory in a way that is not understood here is an error, never ignored.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isMeaningless, rename, type DiskCall, type FileId } from './disk.ts'
import { afterStrings, numberArgument, stringArguments, type SystemCall } from './trace.ts'

/** Bytes of one connection. Those that were read are known from `line` on, those written may be known from then on. */
export interface SocketBytes {
  readonly connection: number
  readonly direction: 'in' | 'out'
  readonly line: number
  readonly bytes: Buffer
}

type Open =
  | { kind: 'file'; file: FileId; name: string; isSynced: boolean; position: number }
  | { kind: 'directory' }
  | { kind: 'socket'; connection: number }

export class Operations {
  /** In the order in which they began. */
  readonly disk: DiskCall[] = []
  readonly sockets: SocketBytes[] = []
  /** Where the first client connected. */
  firstAccept = Infinity
  readonly #directory: string
  /** As a process sees it. */
  readonly #names = new Map<string, FileId>()
  #files = 0
  #connections = 0

  constructor(directory: string) {
    this.#directory = directory
  }

  get names(): ReadonlyMap<string, FileId> {
    return this.#names
  }

  /**
   * The calls of one life of the broker, and what it left.
   * @param lastLine of that life: then all that had begun has happened, or never will
   */
  add(calls: readonly SystemCall[], lastLine: number): void {
    const opened = new Map<number, Open>()
    // What a call does to descriptors and names shows when it ends, but for close and the changes of names.
    const moments = calls.flatMap((call) => [
      { line: call.began, call, isEnd: false },
      { line: call.ended, call, isEnd: true },
    ])
    moments.sort((a, b) => a.line - b.line || Number(a.isEnd) - Number(b.isEnd))
    for (const { call, isEnd } of moments) {
      if (call.result < 0) continue
      if (Number.isNaN(call.result) && !this.#happened(call)) continue
      if (isEnd) this.#ended(call, opened)
      else this.#began(call, opened, lastLine)
    }
  }

  #began(call: SystemCall, opened: Map<number, Open>, lastLine: number): void {
    const { name, text, began, result } = call
    // A sync in which the process was killed has synced nothing. Of a change in which it was, a later sync covers what there
    // is of it, as the process that comes next finds it.
    const isKilled = Number.isNaN(result)
    const isSync = name === 'fsync' || name === 'fdatasync'
    const ended = isKilled && !isSync ? lastLine : call.ended
    const spanned = { id: this.disk.length, began, ended, text: shown(call) }
    const fd = numberArgument(text, 0)
    const about = opened.get(fd)
    switch (name) {
      case 'close':
        opened.delete(fd)
        return
      case 'open':
      case 'openat': {
        const entry = this.#entryOf(stringArguments(text)[0]!)
        if (entry === null || entry === '' || !text.includes('O_CREAT') || this.#names.has(entry)) return
        const change = { ...spanned, kind: 'create', name: entry, file: ++this.#files } as const
        rename(this.#names, change)
        this.disk.push(change)
        return
      }
      case 'rename': {
        const [from, to] = stringArguments(text).map((path) => this.#entryOf(path))
        if (from === null && to === null) return
        if (typeof from !== 'string' || typeof to !== 'string') throw notModelled(call)
        const change = { ...spanned, kind: 'rename', from, to } as const
        rename(this.#names, change)
        this.disk.push(change)
        return
      }
      case 'unlink': {
        const entry = this.#entryOf(stringArguments(text)[0]!)
        if (entry === null) return
        const change = { ...spanned, kind: 'unlink', name: entry } as const
        rename(this.#names, change)
        this.disk.push(change)
        return
      }
      case 'write':
      case 'writev':
      case 'pwrite64':
      case 'pwritev':
      case 'sendto':
      case 'sendmsg': {
        if (about === undefined || about.kind === 'directory') return
        const given = Buffer.concat(stringArguments(text))
        if (about.kind === 'socket') {
          const bytes = isKilled ? given : given.subarray(0, result)
          this.sockets.push({ connection: about.connection, direction: 'out', line: began, bytes })
          return
        }
        const offset = name.startsWith('p') ? offsetOf(call) : about.position
        const bytes = given.subarray(0, isKilled ? this.#writtenOf(given, about.name, offset) : result)
        if (bytes.length === 0) return
        if (!name.startsWith('p')) about.position += bytes.length
        const { file, isSynced } = about
        this.disk.push({ ...spanned, kind: 'write', file, offset, bytes, isSynced: isSynced && !isKilled })
        return
      }
      case 'ftruncate':
        if (about?.kind === 'file') {
          const length = numberArgument(text, 1)
          this.disk.push({ ...spanned, kind: 'truncate', file: about.file, length })
        }
        return
      case 'fsync':
      case 'fdatasync':
        if (about?.kind === 'file') this.disk.push({ ...spanned, kind: 'sync', file: about.file })
        else if (about?.kind === 'directory') this.disk.push({ ...spanned, kind: 'sync', file: null })
        return
      case 'mmap':
        if (!/PROT_WRITE/.test(text) || !/MAP_SHARED/.test(text)) return
        {
          const mapped = opened.get(numberArgument(text, 4))
          // What is written through memory would be seen by nobody here.
          if (mapped?.kind === 'file' && !isMeaningless(mapped.name)) throw notModelled(call)
        }
        return
      default:
        this.#assertHarmless(call, opened)
    }
  }

  #ended(call: SystemCall, opened: Map<number, Open>): void {
    const { name, text, result, ended } = call
    const about = opened.get(numberArgument(text, 0))
    switch (name) {
      case 'open':
      case 'openat': {
        const entry = this.#entryOf(stringArguments(text)[0]!)
        if (entry === null) return
        if (entry === '') {
          opened.set(result, { kind: 'directory' })
          return
        }
        const file = this.#names.get(entry)
        if (file === undefined || text.includes('O_APPEND')) throw notModelled(call)
        const isSynced = /O_D?SYNC/.test(text)
        opened.set(result, { kind: 'file', file, name: entry, isSynced, position: 0 })
        if (text.includes('O_TRUNC')) {
          const { began } = call
          this.disk.push({
            id: this.disk.length,
            began,
            ended,
            text: shown(call),
            kind: 'truncate',
            file,
            length: 0,
          })
        }
        return
      }
      case 'accept':
      case 'accept4':
        opened.set(result, { kind: 'socket', connection: ++this.#connections })
        this.firstAccept = Math.min(this.firstAccept, ended)
        return
      case 'lseek':
        if (about?.kind === 'file') about.position = result
        return
      case 'read':
      case 'recvfrom':
        if (about?.kind === 'socket' && result > 0) {
          const bytes = stringArguments(text)[0]!
          if (bytes.length !== result) throw new Error(`a read of ${result} bytes has ${bytes.length}`)
          this.sockets.push({ connection: about.connection, direction: 'in', line: ended, bytes })
        } else if (about?.kind === 'file') about.position += result
        return
    }
  }

  #assertHarmless(call: SystemCall, opened: Map<number, Open>): void {
    switch (call.name) {
      case 'accept':
      case 'accept4':
      case 'lseek':
      case 'read':
      case 'recvfrom':
      case 'clone':
      case 'clone3':
        return
      case 'fcntl':
        if (!call.text.includes('F_DUPFD')) return
    }
    const strings = call.text.includes('"') ? stringArguments(call.text) : []
    const isOfDirectory =
      opened.has(numberArgument(call.text, 0)) || strings.some((path) => this.#entryOf(path) !== null)
    if (isOfDirectory || call.name.startsWith('io_')) throw notModelled(call)
  }

  /** Of a call during which the process was killed: the directory tells. */
  #happened(call: SystemCall): boolean {
    const there = (path: Buffer) => existsSync(path.toString())
    switch (call.name) {
      case 'rename':
        return !there(stringArguments(call.text)[0]!)
      case 'unlink':
        return !there(stringArguments(call.text)[0]!)
      case 'openat':
        return there(stringArguments(call.text)[0]!)
      default:
        return true
    }
  }

  /** How much of a write in which the process was killed is in the file: the signal ends it between two pages. */
  #writtenOf(bytes: Buffer, name: string, offset: number): number {
    const path = join(this.#directory, name)
    if (!existsSync(path)) return 0
    const there = readFileSync(path).subarray(offset)
    const other = bytes.findIndex((byte, i) => there[i] !== byte)
    return other < 0 ? bytes.length : other
  }

  /** The name in the data directory; '' for itself, null for what lies elsewhere. */
  #entryOf(path: Buffer): string | null {
    const text = path.toString()
    if (text === this.#directory) return ''
    if (!text.startsWith(`${this.#directory}/`)) return null
    const entry = text.slice(this.#directory.length + 1)
    if (entry.includes('/')) throw new Error(`${text} is deeper than the data directory is known to be`)
    return entry
  }
}

/** The last argument of a pwrite. */
function offsetOf({ text }: SystemCall): number {
  const rest = afterStrings(text)
  const end = rest.lastIndexOf(')')
  const found = /, (\d+) *$/.exec(end < 0 ? rest : rest.slice(0, end))
  if (found === null) throw new Error(`no offset in ${text.slice(-100)}`)
  return Number(found[1])
}

function notModelled(call: SystemCall): Error {
  return new Error(`this is not modelled, and may change the data directory: ${shown(call)}`)
}

/** For people. */
function shown({ name, text }: SystemCall): string {
  const readable = text.slice(0, 1000).replace(/"((?:\\x[0-9a-f]{2})*)"?/g, (_, hex: string) => {
    const bytes = Buffer.from(hex.replaceAll('\\x', ''), 'hex').toString('latin1')
    return /^[\x20-\x7e]*$/.test(bytes) ? `"${bytes}"` : '…'
  })
  return `${name}(${readable.replace(/ +/g, ' ').slice(0, 150)}`
}

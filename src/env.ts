/**
 * The only door to the real world. Product code reaches time, chance, the network and the disk through these
 * interfaces alone, so that the simulator can stand behind them and replay any run from one seed. Each has one
 * real adapter (`system.ts`, `wire/sockets.ts`, `storage/lmdb.ts`) and one simulated, in `sim/`.
 */

/** A pending timer. `cancel` is idempotent and may be called after the timer ran. */
export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Wall-clock time in milliseconds since 1970. May jump. For what people read and what entries record. */
  nowMs(): number
  /** Milliseconds since some fixed moment; never decreases. For time-outs and leases. */
  monotonicMs(): number
  /** Runs `run` once, no sooner than `delayMs` from now. */
  after(delayMs: number, run: () => void): Timer
  /** Runs `run` once the events that are already waiting have been handled: the end of this turn. */
  soon(run: () => void): void
}

export interface Random {
  /** `length` bytes nobody can guess (in the simulator: drawn from the seed). */
  bytes(length: number): Uint8Array
  /** A number in [0, 1), for jitter. Not for secrets. */
  unit(): number
}

export interface Address {
  readonly host: string
  readonly port: number
}

/**
 * One byte stream. The owner sets the handlers before it returns to the event loop; nothing is delivered before.
 * Order: any number of `onData`, then exactly one `onClose`. After `destroy()` no handler but `onClose` is called.
 */
export interface Socket {
  /** The peer's address as text, for logs. */
  readonly remote: string
  /** Bytes accepted by `write` that the operating system has not taken yet. `write` itself refuses nothing. */
  readonly bufferedBytes: number
  /** The bytes are lent until the owner returns: what it keeps, it copies. */
  onData: (bytes: Uint8Array) => void
  /** `bufferedBytes` has come back to 0. */
  onDrain: () => void
  /** The stream is over; `error` is absent after an orderly end. */
  onClose: (error?: Error) => void
  /**
   * Queues bytes. What is written in one turn leaves together at its end; of a lot, parts may leave before. The caller
   * must not change the bytes afterwards.
   */
  write(bytes: Uint8Array): void
  /** Stops reading, so that the peer feels it. Idempotent, like `resume`. */
  pause(): void
  resume(): void
  /** Sends what is buffered, then ends the stream. */
  end(): void
  /** Ends the stream now; buffered bytes are lost. */
  destroy(): void
}

export interface Listener {
  /** Where it really listens: a port of 0 is resolved. */
  readonly address: Address
  /** Accepts no more; sockets already accepted live on. */
  close(): Promise<void>
}

export interface Network {
  /** @throws MqError ADDRESS_IN_USE or ADDRESS_NOT_AVAILABLE */
  listen(address: Address, onSocket: (socket: Socket) => void): Promise<Listener>
  /** @throws MqError DISCONNECTED when nobody answers there or `timeoutMs` has passed */
  connect(
    address: Address,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Socket>
}

export interface Put {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** Keys have 1 to this many bytes, in every adapter. */
export const keyBytesMax = 64

/** A part of a segment that makes no sense, or that the disk does not give: which one, and what may be missing with it. */
export interface Damage {
  /** The file, the page, and what is wrong, as a sentence for people. */
  readonly what: string
  /** The least key that may be missing, and the end (exclusive) of such keys. */
  readonly from: Uint8Array
  readonly to: Uint8Array
}

/** A part of a segment, as it stands on the disk. */
export interface Piece {
  /** What was read of the disk for it. */
  readonly bytes: number
  readonly entries: readonly Put[]
  /** What can't be read, instead of it. */
  readonly damages: readonly Damage[]
}

/**
 * One ordered file of keys and values, compared byte by byte. Reads see every commit that has resolved and may see
 * one in flight; they throw MqError STORAGE_FAILED when the file can't be read, and CORRUPT_LOG where a sealed one has
 * a part that makes no sense: all others can be read on.
 */
export interface Segment {
  readonly name: string
  /** Bytes in use: what decides when the log rolls on to the next segment. */
  readonly usedBytes: number
  /**
   * Writes all of `puts` or none, and resolves once they are on disk. One call at a time for each segment. Keys,
   * values and the array must not change until it has resolved.
   * @throws MqError DISK_FULL: nothing was written, the segment is good. Anything else: nothing is known about what
   *   is on disk, and the process must stop.
   */
  commit(puts: readonly Put[]): Promise<void>
  /** The value, valid until the next call of any method of this segment. */
  get(key: Uint8Array): Uint8Array | undefined
  /** The entry with the greatest key that is ≤ `key`, valid until the next call. */
  floor(key: Uint8Array): Put | undefined
  /**
   * Visits entries with `from` ≤ key < `to`, ascending, until `visit` returns false. The bytes are valid within
   * the visit. `visit` calls no method of this segment, nor does `skip`.
   * @param skip hears of parts that can't be read, within those bounds, and the visit goes on behind them; without it the
   *   first one throws
   */
  scan(
    from: Uint8Array,
    to: Uint8Array,
    visit: (key: Uint8Array, value: Uint8Array) => boolean,
    skip?: (damage: Damage) => void,
  ): void
  /**
   * Nothing is committed any more: from now on whatever the disk does to the file can fail a read, but never hurts the
   * process. No commit is under way. Idempotent.
   * @throws MqError STORAGE_FAILED
   */
  seal(): Promise<void>
  /**
   * Tells what is wrong with the structure of a sealed segment; its values are not looked at. What is wrong with one
   * part may be told of others, too, in the same words.
   */
  walk(found: (damage: Damage) => void): void
  /**
   * Reads all of a sealed segment anew from the disk, values too, about `bytesMax` at a time, in any order. A piece is
   * valid until the next is asked for. The segment may be closed, and removed, meanwhile: the pieces go on.
   * @throws MqError STORAGE_FAILED
   */
  pieces(bytesMax: number): AsyncGenerator<Piece, void>
  /** Idempotent. Waits for a commit under way, however long that takes. */
  close(): Promise<void>
}

export type OpenOptions =
  | { readonly create: boolean; readonly sealed?: false }
  | {
      readonly create: false
      readonly sealed: true
      /** What can be read of it is on the disk once it is open: a process may have been killed between the two. */
      readonly synced?: boolean
    }

/**
 * A file of fixed length beside the segments. Its blocks are there, so that a write to it takes no room, wherever the file
 * system writes in place.
 */
export interface JournalFile {
  /** All of it, in memory of the caller's. */
  read(): Promise<Uint8Array>
  /**
   * Writes within its length, and resolves once that is on disk; a crash before may leave any part of it. One call at a
   * time. The bytes must not change until it has resolved.
   * @throws MqError DISK_FULL: any part may be written. Anything else: the process must stop.
   */
  write(at: number, bytes: Uint8Array): Promise<void>
  /** Idempotent. Waits for a write under way. */
  close(): Promise<void>
}

/** A data directory: a few named segments under one lock. */
export interface Store {
  /**
   * Takes the directory for this process until `close`, or until the process ends in whatever way.
   * @throws MqError DATA_DIR_LOCKED, DATA_DIR_NOT_WRITABLE; DISK_FULL, STORAGE_FAILED; UNSUPPORTED where the system has
   *   no such lock
   */
  lock(): Promise<void>
  /**
   * Names of the segments there are, ascending.
   * @throws MqError STORAGE_FAILED
   */
  list(): Promise<string[]>
  /**
   * Opens a segment; with `create`, makes it, durably: after a crash it is there, and empty; with `sealed`, as `seal`
   * leaves it. Of one that is to be written to, all that can be read of it is on the disk once it is open.
   * @throws MqError CORRUPT_LOG: it is to be written to, and its structure is damaged; STORAGE_FAILED, DISK_FULL
   */
  open(name: string, options: OpenOptions): Promise<Segment>
  /**
   * Deletes a segment that is not open, durably.
   * @throws MqError STORAGE_FAILED
   */
  remove(name: string): Promise<void>
  /**
   * Keeps room on the disk beside the segments, about `bytes` of it, less on a small disk. Idempotent.
   * @returns false: there is none
   * @throws MqError STORAGE_FAILED
   */
  reserve(bytes: number): Promise<boolean>
  /**
   * Gives what was reserved to whoever writes next.
   * @throws MqError STORAGE_FAILED
   */
  release(): Promise<void>
  /**
   * Opens the file beside the segments; makes it where there is none, durably: after a crash it is there as a whole or not
   * at all. All that can be read of it is on the disk once it is open.
   * @param initial what it has when it is made; null: none is made
   * @returns null: there is none, as asked or for lack of room
   * @throws MqError STORAGE_FAILED
   */
  journal(initial: Uint8Array | null): Promise<JournalFile | null>
  /** Gives the lock back. Segments, and the journal, are closed before. */
  close(): Promise<void>
}

/** What a client needs of the world. */
export interface ClientEnv {
  readonly clock: Clock
  readonly random: Random
  readonly network: Network
}

/** What a broker needs of the world. */
export interface Env extends ClientEnv {
  readonly store: Store
}

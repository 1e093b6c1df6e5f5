/**
 * Cutting a byte stream into frames (length, value), and making frames.
 *
 * Chunks are lent: what was read lies in memory that the next read overwrites. A frame that lies within one chunk is
 * lent on as a view, or copied, as the reader's owner wants. One that spans chunks is assembled in memory of its own,
 * filled as bytes come. A length is only a claim: memory grows with the bytes that have really come, so that four bytes
 * cannot make the broker allocate 16 MiB, unless the peer has sent as much before.
 */
import { RESERVE_START_SPACE, Packr } from 'msgpackr/pack'
import { buffers } from '../buffers.ts'
import { MqError } from '../errors.ts'
import { preface } from './messages.ts'
import { uint32At } from './scan.ts'

/** A frame's length stands before it, in 4 bytes. */
export const lengthBytes = 4

const firstAllocationBytes = 128 << 10

export interface FrameReaderOptions {
  /** Largest length accepted, in bytes, without the 4 that hold it. */
  frameBytesMax: number
  /** Bytes kept free before a frame that had to be assembled. */
  headroom: number
  /** Whether the stream opens with the preface: the server's side. Default false. */
  preface?: boolean
  /** Whether frames without headroom are lent: for an owner that keeps nothing of them. Default false. */
  lends?: boolean
}

/**
 * @param bytes one frame's value: the callee's from then on, unless it is lent; then it is valid until the callee returns
 * @param headroom bytes right before `bytes`, in the same ArrayBuffer, that are the callee's to overwrite
 */
export type OnFrame = (bytes: Uint8Array, headroom: number) => void

export class FrameReader {
  /** Applies from the next length on. */
  frameBytesMax: number
  /** Frames handed out so far. */
  frames = 0
  readonly #headroom: number
  readonly #lends: boolean
  readonly #onFrame: OnFrame
  /** Bytes of the preface still to come. */
  #prefaceLeft: number
  /** Bytes of the length that have come, 0 … 3, and their value so far. */
  #lengthBytesRead = 0
  #length = 0
  /** The frame being assembled: `#filled` of `#length` bytes stand behind the headroom. */
  #assembly: Uint8Array | null = null
  #filled = 0
  /** What frames lately took, so that the next one need not be moved: a peer has shown that it sends as much. */
  #expectedBytes = firstAllocationBytes
  #stopped = false
  #paused = false
  /** What came and was not looked at, because of a pause. */
  #held: Uint8Array[] = []

  constructor(options: FrameReaderOptions, onFrame: OnFrame) {
    this.frameBytesMax = options.frameBytesMax
    this.#headroom = options.headroom
    this.#lends = options.lends === true
    this.#prefaceLeft = options.preface === true ? preface.length : 0
    this.#onFrame = onFrame
  }

  /** Bytes wait for `resume`. */
  get holds(): boolean {
    return this.#held.length > 0
  }

  /** Whether a frame has begun and is not complete. */
  get hasPartial(): boolean {
    return this.#assembly !== null || this.#lengthBytesRead > 0
  }

  /** Nothing is handed out any more, not even the rest of a chunk that is being read. */
  stop(): void {
    this.#stopped = true
    this.#assembly = null
    this.#lengthBytesRead = 0
    this.#held = []
  }

  /** Hands nothing out until `resume`, not even the rest of a chunk that is being read: it is kept. */
  pause(): void {
    this.#paused = true
  }

  /**
   * Goes on with what was kept. Not to be called from within `onFrame`.
   * @throws as `push`
   */
  resume(): void {
    this.#paused = false
    this.#guard(() => {
      while (this.#held.length > 0 && !this.#paused && !this.#stopped) {
        const rest = this.#push(this.#held.shift()!)
        if (rest !== null) this.#held.unshift(rest)
      }
    })
  }

  /**
   * Takes the next bytes of the stream, which are lent until it returns. Whatever is thrown, here or by `onFrame`, ends
   * the reader.
   * @throws MqError BAD_MAGIC, BAD_FRAME (length 0), FRAME_TOO_LARGE
   */
  push(chunk: Uint8Array): void {
    // What is kept comes first.
    if (this.#paused || this.#held.length > 0) this.#held.push(Uint8Array.from(chunk))
    else {
      const rest = this.#guard(() => this.#push(chunk))
      if (rest !== null) this.#held.push(Uint8Array.from(rest))
    }
  }

  #guard<T>(read: () => T): T {
    let done = false
    try {
      const result = read()
      done = true
      return result
    } finally {
      if (!done) this.stop()
    }
  }

  /** @returns what was not looked at, because of a pause */
  #push(chunk: Uint8Array): Uint8Array | null {
    let at = 0
    while (this.#prefaceLeft > 0 && at < chunk.length && !this.#stopped) {
      if (chunk[at] !== preface[preface.length - this.#prefaceLeft]) {
        throw new MqError('BAD_MAGIC', 'the connection does not begin with MQB1')
      }
      this.#prefaceLeft--
      at++
    }
    while (at < chunk.length && !this.#stopped && !this.#paused) {
      at = this.#assembly === null ? this.#begin(chunk, at) : this.#fill(chunk, at)
    }
    return at < chunk.length && !this.#stopped ? chunk.subarray(at) : null
  }

  /** Reads what there is of a length, and the frame with it if all of it is there. Returns where to go on. */
  #begin(chunk: Uint8Array, from: number): number {
    let at = from
    if (this.#lengthBytesRead === 0 && chunk.length - at >= lengthBytes) {
      this.#length = uint32At(chunk, at)
      at += lengthBytes
    } else {
      if (this.#lengthBytesRead === 0) this.#length = 0
      while (this.#lengthBytesRead < lengthBytes) {
        if (at === chunk.length) return at
        this.#length = this.#length * 0x100 + chunk[at++]!
        this.#lengthBytesRead++
      }
      this.#lengthBytesRead = 0
    }
    const length = this.#length
    if (length === 0) throw new MqError('BAD_FRAME', 'a frame of length 0')
    if (length > this.frameBytesMax) {
      throw new MqError('FRAME_TOO_LARGE', `a frame of ${length} bytes; the limit is ${this.frameBytesMax}`, {
        details: { bytes: length, frameBytesMax: this.frameBytesMax },
      })
    }
    const there = chunk.length - at
    if (there < length) {
      this.#filled = 0
      this.#assembly = this.#allocate(Math.min(length, Math.max(this.#expectedBytes, 4 * there)))
      return at
    }
    this.frames++
    const frame = chunk.subarray(at, at + length)
    // In memory of its own: users keep messages, and may transfer what holds them.
    this.#onFrame(this.#lends ? frame : Uint8Array.prototype.slice.call(frame), 0)
    return at + length
  }

  #fill(chunk: Uint8Array, at: number): number {
    const headroom = this.#headroom
    const taken = Math.min(this.#length - this.#filled, chunk.length - at)
    const filled = this.#filled + taken
    let assembly = this.#assembly!
    if (assembly.length - headroom < filled) {
      const larger = this.#allocate(Math.min(this.#length, 4 * filled))
      larger.set(assembly.subarray(headroom, headroom + this.#filled), headroom)
      buffers.giveBack(assembly)
      assembly = larger
    }
    assembly.set(
      at === 0 && taken === chunk.length ? chunk : chunk.subarray(at, at + taken),
      headroom + this.#filled,
    )
    if (filled < this.#length) {
      this.#assembly = assembly
      this.#filled = filled
    } else {
      this.#assembly = null
      this.frames++
      // Rises at once, falls slowly.
      const expected = this.#expectedBytes
      this.#expectedBytes = Math.max(this.#length, firstAllocationBytes, expected - (expected >> 4))
      this.#onFrame(assembly.subarray(headroom, headroom + this.#length), headroom)
    }
    return at + taken
  }

  /**
   * Memory of its own, behind the headroom, not zeroed: every byte that is handed out has been written. A user keeps a
   * client's for as long as a message.
   */
  #allocate(bytes: number): Uint8Array {
    const length = this.#headroom + bytes
    return this.#lends ? buffers.take(length) : Buffer.allocUnsafeSlow(length)
  }
}

const packr = new Packr({
  useRecords: false,
  variableMapSize: true,
  encodeUndefinedAsNil: true,
  // Not in msgpackr's declarations: an option that is undefined was not set, so it isn't sent.
  ...({ skipValues: [undefined] } as object),
})

/** A whole frame. Values are what msgpack knows; properties that are undefined are left out. */
export function encodeFrame(value: unknown[]): Uint8Array {
  const frame = packr.pack(value, RESERVE_START_SPACE | lengthBytes)
  frame.writeUInt32BE(frame.length - lengthBytes, 0)
  return frame
}

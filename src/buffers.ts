/**
 * Memory for bytes that come and go by the thousand a second. To V8 each ArrayBuffer is an allocation of its own that it
 * must track, and collects late: garbage of tens of megabytes, and holes between what stays. So what is small comes of
 * Node's pool, and what is large is used again by whoever gives it back; what nobody gives back is collected as ever.
 */
import { invariant } from './errors.ts'

export interface BufferPoolOptions {
  /** Below this size, memory is Node's to share among several. */
  smallBytes: number
  /** Above this size, memory is not used again. */
  largeBytes: number
  /** Kept for later at most. */
  freeBytesMax: number
}

export class BufferPool {
  readonly options: BufferPoolOptions
  /** Overwrites what is given back, so that whoever still reads it is found out. For tests. */
  wipes = false
  /** By size. */
  readonly #free = new Map<number, ArrayBuffer[]>()
  #freeBytes = 0
  /** Taken, and not given back. */
  readonly #taken = new WeakSet<ArrayBufferLike>()

  constructor(options: BufferPoolOptions) {
    this.options = options
  }

  /** Memory that is kept for later, in bytes. */
  get freeBytes(): number {
    return this.#freeBytes
  }

  /** `length` bytes of any content, to be given back if somebody knows when nobody reads them any more. */
  take(length: number): Buffer {
    const { smallBytes, largeBytes } = this.options
    if (length < smallBytes) return Buffer.allocUnsafe(length)
    if (length > largeBytes) return Buffer.allocUnsafeSlow(length)
    const size = sizeFor(length)
    let memory = this.#free.get(size)?.pop()
    // Unlike a new ArrayBuffer, not zeroed.
    if (memory === undefined) memory = Buffer.allocUnsafeSlow(size).buffer
    else this.#freeBytes -= size
    this.#taken.add(memory)
    return Buffer.from(memory, 0, length)
  }

  /** Nobody reads these bytes, or any that were taken with them, any more. What did not come from here is left alone. */
  giveBack({ buffer }: Uint8Array): void {
    if (!this.#taken.delete(buffer)) return
    invariant(buffer instanceof ArrayBuffer, 'what was taken is an ArrayBuffer')
    if (this.wipes) new Uint8Array(buffer).fill(0xdd)
    const size = buffer.byteLength
    while (this.#freeBytes + size > this.options.freeBytesMax) if (!this.#dropOther(size)) return
    const free = this.#free.get(size) ?? []
    // Those that are taken again and again are empty now and then, and come to stand behind those that are not.
    if (free.length === 0) {
      this.#free.delete(size)
      this.#free.set(size, free)
    }
    free.push(buffer)
    this.#freeBytes += size
  }

  /** Sizes that are no longer asked for must not keep the others out. */
  #dropOther(size: number): boolean {
    for (const [other, free] of this.#free) {
      if (other === size || free.pop() === undefined) continue
      this.#freeBytes -= other
      return true
    }
    return false
  }
}

/** Four sizes to each power of two: at most a quarter is wasted. */
function sizeFor(length: number): number {
  const step = 1 << Math.max(0, 29 - Math.clz32(length - 1))
  return Math.ceil(length / step) * step
}

/** Of this process. */
export const buffers = new BufferPool({ smallBytes: 4096, largeBytes: 2 << 20, freeBytesMax: 8 << 20 })

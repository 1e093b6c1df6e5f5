import type { FaultOptions } from './faults.ts'
import type { SeededRandom } from './random.ts'

/** Everything that can happen, with the number that stands for it in the trace hash. */
export const eventKinds = {
  timer: 1,
  soon: 2,
  resume: 3,
  connect: 4,
  refuse: 5,
  accept: 6,
  flush: 7,
  arrive: 8,
  read: 9,
  window: 10,
  close: 11,
  disk: 12,
  commit: 13,
  // Not events of their own, but part of the trace.
  chunk: 14,
  durable: 15,
  crash: 16,
} as const

export type EventKind = keyof typeof eventKinds

/** What the simulated network and disk see of the process they work for. */
export interface SimHost {
  readonly name: string
  /** False after a crash: whatever the old code still calls has no effect. */
  readonly alive: boolean
  readonly faults: FaultOptions
  readonly random: SeededRandom
  /**
   * Runs `run` in a step of its own, `delayMs` from now: later while the process is paused, never once it has
   * crashed. An infinite delay means never.
   */
  schedule(delayMs: number, kind: EventKind, run: () => void): SimEvent
  /** Takes something that happened into the trace. */
  note(kind: EventKind, value: number): void
}

/** The world as the network sees it. */
export interface SimKernel {
  /** Virtual time in fractions of milliseconds. */
  exactMs(): number
  faults(): FaultOptions
  /** Like SimHost's, for what no process does. */
  schedule(delayMs: number, kind: EventKind, run: () => void): SimEvent
}

export class SimEvent {
  /** Changes only while the event is out of the queue, held back by a paused process. */
  atMs: number
  /** Rises with each event, so that those of one moment run in the order in which they were asked for. */
  sequence: number
  readonly kind: EventKind
  /** Whose code it runs; undefined: the world's own. */
  readonly host: SimHost | undefined
  /** Absent once it ran or was cancelled. */
  run: (() => void) | undefined

  constructor(
    atMs: number,
    sequence: number,
    kind: EventKind,
    host: SimHost | undefined,
    run: (() => void) | undefined,
  ) {
    this.atMs = atMs
    this.sequence = sequence
    this.kind = kind
    this.host = host
    this.run = run
  }

  /** Idempotent, also after it ran. */
  cancel(): void {
    this.run = undefined
  }

  /** It was cancelled, or its process has crashed. */
  get void(): boolean {
    return this.run === undefined || this.host?.alive === false
  }
}

function before(left: SimEvent, right: SimEvent): boolean {
  return left.atMs < right.atMs || (left.atMs === right.atMs && left.sequence < right.sequence)
}

/** A binary heap of what is to come. Void events stay in it until they come up or outnumber the others. */
export class EventQueue {
  #heap: SimEvent[] = []
  /** Above this size it is worth looking for void events. */
  #sweepAt = 1024

  push(event: SimEvent): void {
    if (this.#heap.length >= this.#sweepAt) this.#sweep()
    this.#heap.push(event)
    this.#rise(this.#heap.length - 1)
  }

  /** The next event that is not void. */
  peek(): SimEvent | undefined {
    for (;;) {
      const first = this.#heap[0]
      if (first === undefined || !first.void) return first
      this.#removeFirst()
    }
  }

  pop(): SimEvent | undefined {
    const first = this.peek()
    if (first !== undefined) this.#removeFirst()
    return first
  }

  #removeFirst(): void {
    const last = this.#heap.pop() as SimEvent
    if (this.#heap.length === 0) return
    this.#heap[0] = last
    this.#sink(0)
  }

  /** Request time-outs are mostly cancelled long before they are due: without this they would pile up. */
  #sweep(): void {
    this.#heap = this.#heap.filter((event) => !event.void)
    for (let at = (this.#heap.length >> 1) - 1; at >= 0; at--) this.#sink(at)
    this.#sweepAt = Math.max(1024, 2 * this.#heap.length)
  }

  #rise(from: number): void {
    const heap = this.#heap
    const event = heap[from] as SimEvent
    let at = from
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = heap[parent] as SimEvent
      if (!before(event, above)) break
      heap[at] = above
      at = parent
    }
    heap[at] = event
  }

  #sink(from: number): void {
    const heap = this.#heap
    const event = heap[from] as SimEvent
    let at = from
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1] as SimEvent, heap[child] as SimEvent)) child += 1
      const below = heap[child] as SimEvent
      if (!before(below, event)) break
      heap[at] = below
      at = child
    }
    heap[at] = event
  }
}

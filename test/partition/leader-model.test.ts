/**
 * A leader beside a model that keeps each message by itself: whatever happens, both answer and deliver the same, and
 * what must always hold does (the numbers are those of the design's list of invariants).
 */
import fc from 'fast-check'
import t from 'tap'
import { crc32 } from 'node:zlib'
import type { Entry } from '../../src/partition/entry.ts'
import type { LeasedItem } from '../../src/partition/leader.ts'
import { BatchBuilder, messageBody, readBatch } from '../../src/wire/batch.ts'
import { Bench, producer, visibilityTimeoutMs, type Delivered } from './leader-bench.ts'

type Op =
  | { kind: 'start'; next: number; epoch: number }
  | {
      kind: 'send'
      next: number
      base: number
      producer: string
      sequence: number
      text: string
      /** When each message is ready, by the wall clock. */
      readyMs: number[]
    }
  | {
      kind: 'settle'
      next: number
      producer: string
      sequence: number
      text: string
      offsets: number[]
      told: string
      action: number
      /** Of each of them after a nack. */
      readyMs: number[]
    }
  | { kind: 'fail'; next: number; offsets: number[]; readyMs: number[] }
  | { kind: 'handOver'; next: number; leases: Map<number, NaiveLease> }

interface NaiveLease {
  id: number
  epoch: number
  expiresMs: number
}

interface NaiveMessage {
  /** The number of its next delivery. */
  delivery: number
  settled: boolean
  /** By the wall clock; it may have passed. */
  readyMs: number
  /** End of the entry that last made it available. */
  after: number
}

interface NaiveOutcome {
  sequence: number
  next: number
  text: string
  told: string
}

class Model {
  ops: Op[] = []
  messages = new Map<number, NaiveMessage>()
  outcomes = new Map<string, NaiveOutcome[]>()
  leases = new Map<number, NaiveLease>()
  pending: { after: number; answer: string | null }[] = []
  answers: string[] = []
  logEnd = 0
  highWatermark = 0
  epoch = 0
  epochStart = 0
  /** When the clock was last looked at: what was delayed until later has not become ready. */
  lookedMs = 0

  get leading(): boolean {
    return this.highWatermark > this.epochStart && this.ops.at(-1)?.kind !== 'handOver'
  }

  /** Offsets that the next receive may take, lowest first. */
  get ready(): number[] {
    if (!this.leading) return []
    return [...this.messages]
      .filter(([n, m]) => !m.settled && !this.leases.has(n) && m.after <= this.highWatermark)
      .filter(([, m]) => m.readyMs <= this.lookedMs)
      .map(([n]) => n)
  }

  append(op: Op): void {
    const handedOver = this.ops.at(-1)?.kind === 'handOver'
    this.ops.push(op)
    switch (op.kind) {
      case 'start':
        if (!handedOver) this.leases.clear()
        this.epoch = op.epoch
        this.epochStart = op.next - 1
        for (const [n, m] of this.messages) if (!this.leases.has(n)) m.after = op.next
        break
      case 'send':
        for (let n = op.base; n < op.next; n++)
          this.messages.set(n, {
            delivery: 1,
            settled: false,
            readyMs: op.readyMs[n - op.base]!,
            after: op.next,
          })
        this.#remember(op, `sent ${this.epoch}-${op.base}`)
        break
      case 'settle':
        if (op.action === 0) for (const n of op.offsets) this.messages.get(n)!.settled = true
        else if (op.action === 1) this.#failed(op)
        else for (const n of op.offsets) Object.assign(this.messages.get(n)!, { after: op.next, readyMs: 0 })
        this.#remember(op, op.told)
        break
      case 'fail':
        this.#failed(op)
        break
      case 'handOver':
        this.leases = new Map([...op.leases].map(([n, lease]) => [n, { ...lease }]))
        break
    }
    this.logEnd = op.next
  }

  #failed({ offsets, readyMs, next }: { offsets: number[]; readyMs: number[]; next: number }): void {
    offsets.forEach((n, i) => {
      const message = this.messages.get(n)!
      message.delivery++
      message.readyMs = readyMs[i]!
      message.after = next
    })
  }

  #remember(op: Extract<Op, { sequence: number }>, told: string): void {
    const { sequence, next, text } = op
    const outcomes = [...(this.outcomes.get(op.producer) ?? []), { sequence, next, text, told }]
    this.outcomes.set(op.producer, outcomes.slice(-64))
  }

  /** The answer to a request that is not new, or null. */
  #known(ref: string, who: string, sequence: number, text: string): boolean {
    const outcomes = this.outcomes.get(who) ?? []
    if (outcomes.length === 0 || sequence > outcomes.at(-1)!.sequence) {
      return this.leading ? false : this.#answer(ref, 'STOPPING')
    }
    const outcome = outcomes.find((o) => o.sequence === sequence)
    if (outcome !== undefined) {
      if (outcome.text !== text) return this.#answer(ref, 'DUPLICATE_MISMATCH')
      const told = outcome.told.startsWith('sent') ? `${outcome.told} before` : outcome.told
      this.#wait(Math.max(outcome.next, this.pending.at(-1)?.after ?? 0), `${ref} ${told}`)
      return true
    }
    const below = outcomes.length === 64 && sequence < outcomes[0]!.sequence
    return this.#answer(ref, below ? 'OUT_OF_ORDER_SEQUENCE' : 'REFUSED_BEFORE')
  }

  #answer(ref: string, told: string): true {
    this.answers.push(`${ref} ${told}`)
    return true
  }

  #wait(after: number, answer: string | null): void {
    if (after <= this.highWatermark && this.pending.length === 0) this.answers.push(answer!)
    else this.pending.push({ after, answer })
  }

  send(ref: string, who: string, sequence: number, text: string, count: number, readyMs: number[]): void {
    if (this.#known(ref, who, sequence, text)) return
    const base = this.logEnd
    this.append({ kind: 'send', next: base + count, base, producer: who, sequence, text, readyMs })
    this.#wait(this.logEnd, `${ref} sent ${this.epoch}-${base}`)
  }

  settle(
    ref: string,
    who: string,
    sequence: number,
    text: string,
    items: LeasedItem[],
    nowMs: number,
    action: number,
    delayMs: number | null,
  ): void {
    if (this.#known(ref, who, sequence, text)) return
    const { held, told } = this.#split(items, nowMs)
    if (held.length === 0) {
      this.#answer(ref, told)
      return
    }
    for (const n of held) this.leases.delete(n)
    const readyMs = held.map((n) => readyIn(delayMs ?? backoffMs(this.messages.get(n)!.delivery), nowMs))
    this.append({
      kind: 'settle',
      next: this.logEnd + 1,
      producer: who,
      sequence,
      text,
      offsets: held,
      told,
      action,
      readyMs,
    })
    this.#wait(this.logEnd, `${ref} ${told}`)
  }

  extend(ref: string, items: LeasedItem[], nowMs: number, extendMs: number): void {
    if (!this.leading) {
      this.#answer(ref, 'STOPPING')
      return
    }
    const { told, held } = this.#split(items, nowMs, false)
    for (const n of held) this.leases.get(n)!.expiresMs = nowMs + extendMs
    this.#answer(ref, told)
  }

  /** The messages of `items` that their leases hold, and what is said of the others. */
  #split(items: LeasedItem[], nowMs: number, once = true): { held: number[]; told: string } {
    const held: number[] = []
    const refused: [number, number][] = []
    for (const { lease, leaseEpoch, offset, count } of items) {
      for (let n = offset; n < offset + count; n++) {
        const one = this.leases.get(n)
        const holds = one?.id === lease && one.epoch === leaseEpoch && one.expiresMs > nowMs
        if (holds && !(once && held.includes(n))) held.push(n)
        else if (refused.length > 0 && refused.at(-1)![0] + refused.at(-1)![1] === n) refused.at(-1)![1]++
        else refused.push([n, 1])
      }
    }
    const told =
      refused.length === 0 ? 'settled' : `settled but ${refused.map(([n, c]) => `${n}+${c}`).join(' ')}`
    return { held, told }
  }

  tick(nowMs: number): void {
    if (this.ops.at(-1)?.kind === 'handOver') return
    this.lookedMs = wallMs(nowMs)
    const offsets = [...this.leases].filter(([, { expiresMs }]) => expiresMs <= nowMs).map(([n]) => n)
    if (offsets.length === 0) return
    for (const n of offsets) this.leases.delete(n)
    const readyMs = offsets.map((n) => readyIn(backoffMs(this.messages.get(n)!.delivery), nowMs))
    this.append({ kind: 'fail', next: this.logEnd + 1, offsets, readyMs })
    this.#wait(this.logEnd, null)
  }

  commit(highWatermark: number): void {
    this.highWatermark = highWatermark
    while (this.pending.length > 0 && this.pending[0]!.after <= highWatermark) {
      const { answer } = this.pending.shift()!
      if (answer !== null) this.answers.push(answer)
    }
  }

  handOver(nowMs: number): void {
    if (this.ops.at(-1)?.kind === 'handOver') return
    this.tick(nowMs)
    this.append({
      kind: 'handOver',
      next: this.logEnd + 1,
      leases: new Map([...this.leases].map(([n, lease]) => [n, { ...lease }])),
    })
  }

  /** What is left when only the log below `durableEnd` is, and a leader of `epoch` has started on it. */
  restarted(durableEnd: number, epoch: number, nowMs: number): Model {
    const next = new Model()
    next.lookedMs = wallMs(nowMs)
    for (const op of this.ops) if (op.next <= durableEnd) next.append(op)
    if (next.ops.at(-1)?.kind !== 'handOver') next.leases.clear()
    next.highWatermark = next.logEnd
    next.append({ kind: 'start', next: next.logEnd + 1, epoch })
    next.#wait(next.logEnd, null)
    return next
  }
}

/** That of the bench. */
const wallMs = (ms: number): number => 1_800_000_000_000 + ms
/** 0: at once. */
const readyIn = (delayMs: number, nowMs: number): number => (delayMs === 0 ? 0 : wallMs(nowMs) + delayMs)
const backoffMs = (failures: number): number => Math.min(40, 5 * 2 ** (failures - 1))
const queueDelayMs = 10

type Action =
  | { do: 'send'; who: number; count: number; skip: number; delays: (number | null)[] | null }
  | { do: 'again'; which: number; changed: boolean }
  | { do: 'older'; who: number; back: number }
  | { do: 'commit'; share: number }
  | { do: 'receive'; max: number; timeoutMs: number }
  | {
      do: 'settle'
      who: number
      which: number[]
      from: number
      count: number
      action: number
      delayMs: number | null
    }
  | { do: 'settleAgain'; which: number }
  | { do: 'extend'; which: number[]; extendMs: number }
  | { do: 'advance'; ms: number; ticks: boolean }
  | { do: 'crash'; share: number }
  | { do: 'stop'; restart: boolean; downMs: number }

const some = fc.nat(1000)
const which = fc.array(some, { minLength: 1, maxLength: 3 })
const who = fc.nat(2)
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('send' as const),
      who,
      count: fc.integer({ min: 1, max: 5 }),
      skip: fc.constantFrom(1, 1, 1, 3),
      delays: fc.option(fc.array(fc.option(fc.constantFrom(0, 5, 10, 200)), { minLength: 5, maxLength: 5 }), {
        freq: 2,
      }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('again' as const),
      which: some,
      changed: fc.constantFrom(false, false, true),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('older' as const), who, back: fc.nat(70) }) },
  {
    weight: 7,
    arbitrary: fc.record({ do: fc.constant('commit' as const), share: fc.constantFrom(1, 1, 1, 0.5, 0) }),
  },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('receive' as const),
      max: fc.integer({ min: 1, max: 8 }),
      timeoutMs: fc.constantFrom(100, visibilityTimeoutMs),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('settle' as const),
      who,
      which,
      from: fc.nat(3),
      count: fc.integer({ min: 1, max: 6 }),
      action: fc.constantFrom(0, 0, 1, 1, 2),
      delayMs: fc.constantFrom(null, null, 0, 5, 150),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('settleAgain' as const), which: some }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('extend' as const),
      which,
      extendMs: fc.constantFrom(10, 100, 60_000),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('advance' as const),
      ms: fc.constantFrom(1, 10, 99, 100, visibilityTimeoutMs),
      ticks: fc.constantFrom(true, true, false),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('crash' as const), share: fc.constantFrom(0, 0.5, 1) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('stop' as const),
      restart: fc.constantFrom(true, true, false),
      downMs: fc.constantFrom(0, 50, 200),
    }),
  },
)

interface Sent {
  who: string
  sequence: number
  text: string
  count: number
  /** Of each message its own; null: none has. */
  delays: (number | null)[] | null
}

interface Settled {
  who: string
  sequence: number
  items: LeasedItem[]
  action: number
  delayMs: number | null
}

/** Its first message says which batch it is. */
function batchOf(text: string, count: number, delays: (number | null)[] | null): Uint8Array {
  const builder = new BatchBuilder()
  for (let i = 0; i < count; i++) {
    const delay = delays?.[i]
    builder.add(i === 0 ? text : '', null, typeof delay === 'number' ? { delay } : null)
  }
  return builder.finish()
}

function textOf({ kind, payload }: Entry): string {
  return kind === 'batch' ? Buffer.from(messageBody(readBatch(payload), 0)).toString() : kind
}

/** Carries actions out on both, and looks at both after each. */
class Comparison {
  readonly bench: Bench
  model = new Model().restarted(0, 1, 0)
  readonly sent: Sent[] = []
  readonly settled: Settled[] = []
  readonly delivered: Delivered[] = []
  #requests = 0
  #answersSeen = 0
  readonly #sequences = new Map<string, number>()
  /** Text of a batch → it was refused for good. */
  readonly #refused = new Set<string>()
  /** Message id → the batch it is of. */
  readonly #ids = new Map<string, string>()
  /** Ids whose ack was confirmed. */
  readonly #acked = new Set<string>()
  /** Id → the highest delivery count seen. */
  readonly #counts = new Map<string, number>()
  /** Settle requests by ref. */
  readonly #settles = new Map<string, LeasedItem[]>()
  readonly #queueDelayMs: number
  readonly #sends = new Map<string, string>()

  constructor(delayed: boolean) {
    this.#queueDelayMs = delayed ? queueDelayMs : 0
    this.bench = new Bench({ delayMs: this.#queueDelayMs, backoffMs })
    this.model.commit(1)
  }

  run(action: Action): void {
    const { bench, model } = this
    switch (action.do) {
      case 'send': {
        const name = `p${action.who}`
        const sequence = (this.#sequences.get(name) ?? 0) + action.skip
        this.#sequences.set(name, sequence)
        const { count } = action
        const delays = action.delays?.slice(0, count) ?? null
        this.#send({ who: name, sequence, text: `${name} ${sequence} ×${count}`, count, delays })
        break
      }
      case 'again': {
        const before = this.sent[action.which % (this.sent.length || 1)]
        if (before !== undefined)
          this.#send(action.changed ? { ...before, text: `${before.text} changed` } : before)
        break
      }
      case 'older': {
        const name = `p${action.who}`
        const sequence = Math.max(1, (this.#sequences.get(name) ?? 1) - action.back)
        this.#send({ who: name, sequence, text: `${name} ${sequence} late`, count: 1, delays: null })
        break
      }
      case 'commit': {
        const from = bench.leader.highWatermark
        const to = from + Math.floor((bench.leader.state.logEnd - from) * action.share)
        bench.commit(to)
        model.commit(to)
        break
      }
      case 'receive':
        this.#receive(action.max, action.timeoutMs)
        break
      case 'settle': {
        const name = `p${action.who}`
        const items = this.#items(action.which).map((item) => {
          const from = Math.min(action.from, item.count - 1)
          return { ...item, offset: item.offset + from, count: Math.min(item.count - from, action.count) }
        })
        const sequence = (this.#sequences.get(name) ?? 0) + 1
        this.#sequences.set(name, sequence)
        const { action: settling, delayMs } = action
        if (items.length > 0) {
          this.#settle({
            who: name,
            sequence,
            items,
            action: settling,
            delayMs: settling === 1 ? delayMs : null,
          })
        }
        break
      }
      case 'settleAgain': {
        const before = this.settled[action.which % (this.settled.length || 1)]
        if (before !== undefined) this.#settle(before)
        break
      }
      case 'extend': {
        const items = this.#items(action.which)
        const ref = `r${++this.#requests}`
        bench.extend(ref, items, action.extendMs)
        model.extend(ref, items, bench.ms, action.extendMs)
        break
      }
      case 'advance':
        bench.ms += action.ms
        if (action.ticks) this.#tick()
        break
      case 'crash': {
        const from = bench.leader.highWatermark
        const wanted = from + (bench.leader.state.logEnd - from) * action.share
        this.#restart(
          Math.max(from, ...bench.appended.map(({ next }) => next).filter((next) => next <= wanted)),
        )
        break
      }
      case 'stop':
        bench.leader.handOver(bench.now)
        model.handOver(bench.ms)
        if (!action.restart) break
        bench.commit()
        model.commit(model.logEnd)
        bench.ms += action.downMs
        this.#look()
        this.#restart(model.logEnd)
        break
    }
    this.#look()
  }

  #tick(): void {
    this.bench.leader.tick(this.bench.now)
    this.model.tick(this.bench.ms)
  }

  #restart(durableEnd: number): void {
    const { bench } = this
    bench.crash(durableEnd)
    this.model = this.model.restarted(durableEnd, bench.epoch, bench.ms)
    // A lease that ran out while nobody led runs out now.
    for (const lease of this.model.leases.values()) lease.expiresMs = Math.max(lease.expiresMs, bench.ms)
    bench.answers = []
    this.#answersSeen = 0
  }

  #send(request: Sent): void {
    // What was refused for good nobody sends again under its sequence.
    if (this.#refused.has(request.text)) return
    const ref = `r${++this.#requests}`
    const { who, sequence, text, count, delays } = request
    this.sent.push(request)
    this.#sends.set(ref, text)
    const batch = batchOf(text, count, delays)
    this.bench.send(ref, {
      producerId: producer(who),
      sequence,
      opening: 0,
      count,
      batch,
      crc: crc32(batch),
      ownDelays: delays !== null,
    })
    const readyMs = Array.from({ length: count }, (_, i) =>
      readyIn(delays?.[i] ?? this.#queueDelayMs, this.bench.ms),
    )
    this.model.send(ref, who, sequence, text, count, readyMs)
  }

  #settle(request: Settled): void {
    const ref = `r${++this.#requests}`
    const { who, sequence, items, action, delayMs } = request
    this.settled.push(request)
    if (action === 0) this.#settles.set(ref, items)
    this.bench.settle(ref, items, { producerId: producer(who), sequence, opening: 0, action, delayMs })
    const text = JSON.stringify([items, action, delayMs])
    this.model.settle(ref, who, sequence, text, items, this.bench.ms, action, delayMs)
  }

  #items(which: number[]): LeasedItem[] {
    if (this.delivered.length === 0) return []
    // Mostly what was delivered last: the others are mostly lost.
    const recent = this.delivered.slice(-6)
    return which.map((n) => {
      const { leaseEpoch, lease, offset, count } =
        n % 5 === 0 ? this.delivered[n % this.delivered.length]! : recent[n % recent.length]!
      return { leaseEpoch, lease, offset, count }
    })
  }

  #receive(max: number, timeoutMs: number): void {
    const { bench, model } = this
    const wanted = model.ready.slice(0, max)
    const found = bench.receive(max, timeoutMs)
    this.delivered.push(...found)
    const offsets = found.flatMap(({ offset, count }) => Array.from({ length: count }, (_, i) => offset + i))
    if (offsets.join() !== wanted.join()) throw new Error(`delivered ${offsets.join()}, not ${wanted.join()}`)
    const entries = bench.entries
    for (const { offset, count, deliveryCount, lease } of found) {
      for (let n = offset; n < offset + count; n++) {
        const entry = entries.find((e) => e.base <= n && n < e.base + e.count)!
        const id = `${entry.epoch}-${n}`
        const text = textOf(entry)
        const before = this.#ids.get(id) ?? text
        this.#ids.set(id, text)
        if (entry.kind !== 'batch') throw new Error(`10: ${n} is a ${entry.kind}`)
        if (!this.sent.some((s) => s.text === text)) throw new Error(`10: '${text}' was never sent`)
        if (this.#refused.has(text)) throw new Error(`11: '${text}' was refused`)
        if (before !== text) throw new Error(`12: ${id} was '${before}', is '${text}'`)
        if (model.leases.has(n)) throw new Error(`15: ${n} is leased`)
        if (this.#acked.has(id)) throw new Error(`16: ${id} was acked`)
        if (deliveryCount !== model.messages.get(n)!.delivery)
          throw new Error(`delivery ${deliveryCount} of ${n}`)
        if (deliveryCount < (this.#counts.get(id) ?? 1))
          throw new Error(`19: delivery ${deliveryCount} of ${id}`)
        this.#counts.set(id, deliveryCount)
        model.leases.set(n, { id: lease, epoch: bench.epoch, expiresMs: bench.ms + timeoutMs })
      }
    }
  }

  /** Everything that can be seen, and everything that must hold. */
  #look(): void {
    const { bench, model } = this
    const { leader } = bench
    if (bench.answers.join('\n') !== model.answers.join('\n')) {
      throw new Error(`answers\n${bench.answers.join('\n')}\nwanted\n${model.answers.join('\n')}`)
    }
    for (const answer of bench.answers.slice(this.#answersSeen)) this.#answered(answer)
    this.#answersSeen = bench.answers.length
    leader.checkInvariants()
    if (leader.leading !== model.leading) throw new Error(`leading ${leader.leading}`)
    if (leader.leasedCount !== model.leases.size) throw new Error(`${leader.leasedCount} leased`)
    const ready: number[] = []
    for (const run of bench.readyRuns.split(' ').filter((r) => r !== '')) {
      const [start, count] = run.split(/[+×]/).map(Number) as [number, number]
      for (let n = start; n < start + count; n++) ready.push(n)
    }
    if (ready.join() !== model.ready.join())
      throw new Error(`ready ${ready.join()}, not ${model.ready.join()}`)
    const [lowest = model.logEnd] = [...model.messages].filter(([, m]) => !m.settled).map(([n]) => n)
    if (leader.state.logStart > lowest) throw new Error(`20: the log starts at ${leader.state.logStart}`)
    const delayed = [...model.messages.values()].filter(
      (m) => !m.settled && m.after <= model.highWatermark && m.readyMs > model.lookedMs,
    )
    if (leader.delayedCount > delayed.length) throw new Error(`${leader.delayedCount} delayed`)
    const dueMs = Math.min(
      Infinity,
      ...[...model.leases.values()].map((l) => l.expiresMs),
      ...delayed.map((m) => m.readyMs - wallMs(0)),
    )
    if (model.ops.at(-1)?.kind !== 'handOver' && leader.nextDueMs > dueMs)
      throw new Error(`due at ${leader.nextDueMs}`)
  }

  #answered(answer: string): void {
    const [ref, told, ...rest] = answer.split(' ') as [string, string, ...string[]]
    if (told === 'REFUSED_BEFORE' || told === 'DUPLICATE_MISMATCH') {
      const text = this.#sends.get(ref)
      if (text !== undefined && !this.#accepted(text)) this.#refused.add(text)
    }
    if (told !== 'settled') return
    const items = this.#settles.get(ref)
    if (items === undefined) return
    const refused = new Set<number>()
    for (const range of rest.slice(1)) {
      const [start, count] = range.split('+').map(Number) as [number, number]
      for (let n = start; n < start + count; n++) refused.add(n)
    }
    for (const { offset, count } of items) {
      for (let n = offset; n < offset + count; n++) {
        if (refused.has(n)) continue
        const entry = this.bench.entries.find((e) => e.base <= n && n < e.base + e.count)!
        this.#acked.add(`${entry.epoch}-${n}`)
      }
    }
  }

  /** A copy of this batch is in the log: then a refusal speaks of another copy. */
  #accepted(text: string): boolean {
    return this.bench.entries.some((entry) => textOf(entry) === text)
  }

  /** What is looked at once, for it reads the whole log. */
  finish(): void {
    const { leader } = this.bench
    const folded = this.bench.fold()
    const show = (state: typeof folded) =>
      JSON.stringify([
        state.logEnd,
        state.epoch,
        state.timeMs,
        Buffer.from(state.chain).toString('hex'),
        state.live.toArray(),
        state.delayed.toArray(),
        [...state.producers],
        state.handedOver,
      ])
    if (show(folded) !== show(leader.state))
      throw new Error(`21: ${show(folded)}\nis not ${show(leader.state)}`)
    const last = new Map<string, number>()
    for (const { producerId, sequence, kind } of this.bench.entries) {
      if (kind !== 'batch' && kind !== 'settle') continue
      if (sequence <= (last.get(producerId) ?? 0)) throw new Error(`13: ${sequence} of ${producerId}`)
      last.set(producerId, sequence)
    }
  }

  /** Once nothing more goes wrong, all that is left is delivered and settled. */
  drain(): void {
    this.run({ do: 'crash', share: 1 })
    this.run({ do: 'commit', share: 1 })
    for (let round = 0; this.bench.leader.state.live.size > 0; round++) {
      if (round === 1000) throw new Error('24: it does not drain')
      this.bench.ms += visibilityTimeoutMs * 3
      this.#tick()
      this.run({ do: 'commit', share: 1 })
      const from = this.delivered.length
      this.#receive(50, visibilityTimeoutMs)
      const items = this.delivered.slice(from)
      this.#sequences.set('drain', round + 1)
      if (items.length > 0)
        this.#settle({ who: 'drain', sequence: round + 1, items, action: 0, delayMs: null })
      this.run({ do: 'commit', share: 1 })
    }
  }
}

void t.test('agrees with message by message, whatever happens', async (t) => {
  const seen = { delivered: 0, settled: 0 }
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(action, { minLength: 20, maxLength: 150, size: 'max' }),
        (delayed, actions) => {
          const comparison = new Comparison(delayed)
          for (const each of actions) comparison.run(each)
          comparison.finish()
          comparison.drain()
          comparison.finish()
          seen.delivered += comparison.delivered.length
          seen.settled += comparison.settled.length
        },
      ),
      { numRuns: 200 },
    ),
  )
  t.ok(seen.delivered > 1000 && seen.settled > 500, `${seen.delivered} deliveries, ${seen.settled} settles`)
})

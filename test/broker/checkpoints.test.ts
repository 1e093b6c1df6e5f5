/** How checkpoints take turns: counted in pieces and turns, on a clock whose turns the test ends. */
import t from 'tap'
import { Checkpoints, type Checkpointed } from '../../src/broker/checkpoints.ts'
import type { Clock } from '../../src/env.ts'
import { logName } from '../../src/partition/entry.ts'
import { CheckpointWriter } from '../../src/storage/checkpoint-writer.ts'

const pieceBytes = 1000

class Bench {
  readonly events: string[] = []
  readonly failures: unknown[] = []
  readonly checkpoints: Checkpoints
  #soon: (() => void)[] = []

  constructor(bytesPerTurn = 1) {
    const clock: Clock = {
      nowMs: () => 0,
      monotonicMs: () => 0,
      after: () => ({ cancel: () => undefined }),
      soon: (run) => void this.#soon.push(run),
    }
    this.checkpoints = new Checkpoints(clock, bytesPerTurn, (error) => this.failures.push(error))
  }

  /** @param pieces null: there is nothing to write */
  partition(name: string, pieces: number | null): Checkpointed {
    return {
      beginCheckpoint: () => {
        this.events.push(`${name} captured`)
        if (pieces === null) return null
        return new CheckpointWriter(logName('0'.repeat(32), 0), this.#pieces(name, pieces), (bytes) => {
          this.events.push(`${name} queued, ${bytes.length} bytes`)
        })
      },
    }
  }

  *#pieces(name: string, pieces: number): Generator<Uint8Array, void> {
    for (let i = 1; i <= pieces; i++) {
      this.events.push(`${name} piece ${i}`)
      yield Buffer.alloc(pieceBytes)
    }
  }

  /** @returns false when nothing was to be done */
  turn(): boolean {
    const due = this.#soon
    this.#soon = []
    for (const run of due) run()
    this.events.push('|')
    return due.length > 0
  }

  turns(): string[] {
    while (this.turn());
    return this.events
  }
}

void t.test('a checkpoint', async (t) => {
  await t.test('does a piece in each turn, and is queued once', async (t) => {
    const bench = new Bench()
    bench.checkpoints.want(bench.partition('a', 3))
    t.strictSame(bench.events, [], 'nothing is done at once')
    const events = bench.turns()
    t.equal(events.filter((event) => event.endsWith('bytes')).join(), `a queued, ${3 * pieceBytes + 4} bytes`)
    for (const turn of events.join().split('|')) t.ok((turn.match(/piece/g) ?? []).length <= 1, turn)
  })
  await t.test('does as much in a turn as there is room for', async (t) => {
    const bench = new Bench(1 << 20)
    bench.checkpoints.want(bench.partition('a', 3))
    t.ok(bench.turn())
    t.equal(bench.events.at(-2), `a queued, ${3 * pieceBytes + 4} bytes`)
  })
  await t.test('is ended before the next is begun', async (t) => {
    const bench = new Bench()
    const a = bench.partition('a', 2)
    bench.checkpoints.want(a)
    bench.checkpoints.want(bench.partition('b', 1))
    bench.turn()
    bench.checkpoints.want(a)
    const order = bench.turns().filter((event) => /captured|queued/.test(event))
    t.strictSame(
      order.map((event) => event.split(',')[0]),
      ['a captured', 'a queued', 'b captured', 'b queued', 'a captured', 'a queued'],
    )
  })
  await t.test('that is asked for twice before it is captured is one', async (t) => {
    const bench = new Bench()
    const a = bench.partition('a', 1)
    bench.checkpoints.want(a)
    bench.checkpoints.want(a)
    t.equal(bench.turns().filter((event) => event === 'a captured').length, 1)
  })
  await t.test('of a partition that is closed meanwhile is not queued', async (t) => {
    const bench = new Bench()
    const a = bench.partition('a', 3)
    bench.checkpoints.want(a)
    bench.turn()
    bench.checkpoints.forget(a)
    t.notMatch(bench.turns().join(), 'queued')
  })
})

void t.test('partitions that have not changed', async (t) => {
  const bench = new Bench(1 << 12)
  for (let i = 0; i < 1000; i++) bench.checkpoints.want(bench.partition(`p${i}`, null))
  const events = bench.turns().join()
  for (const turn of events.split('|')) t.ok((turn.match(/captured/g) ?? []).length <= 16)
  t.equal(events.match(/captured/g)!.length, 1000)
})

void t.test('whoever waits for all of them', async (t) => {
  await t.test('hears at once when there is none', async () => {
    await new Bench().checkpoints.idle()
  })
  await t.test('hears when the last is queued', async (t) => {
    const bench = new Bench()
    bench.checkpoints.want(bench.partition('a', 2))
    const idle = bench.checkpoints.idle().then(() => bench.events.push('idle'))
    bench.turns()
    await idle
    t.ok(bench.events.indexOf('idle') > bench.events.findIndex((event) => event.includes('queued')))
  })
  await t.test('hears when a partition that was being written is closed', async () => {
    const bench = new Bench()
    const a = bench.partition('a', 2)
    bench.checkpoints.want(a)
    bench.turn()
    const idle = bench.checkpoints.idle()
    bench.checkpoints.forget(a)
    bench.turns()
    await idle
  })
  await t.test('hears when the broker closes', async (t) => {
    const bench = new Bench()
    bench.checkpoints.want(bench.partition('a', 2))
    bench.turn()
    const idle = bench.checkpoints.idle()
    bench.checkpoints.close()
    await idle
    t.notMatch(bench.turns().join(), 'queued')
  })
})

void t.test('a defect is told, and nothing more is done', async (t) => {
  const bench = new Bench()
  const defect = new Error('no capture')
  bench.checkpoints.want({
    beginCheckpoint() {
      throw defect
    },
  })
  bench.turns()
  t.strictSame(bench.failures, [defect])
})

import { test } from 'tap'
import type { Env } from '../../src/env.ts'
import type { FaultOptions } from '../../src/sim/faults.ts'
import { SeededRandom } from '../../src/sim/random.ts'
import { SimWorld } from '../../src/sim/world.ts'

const rough: Partial<FaultOptions> = {
  networkLatencyMs: [0.1, 5],
  diskLatencyMs: [0.2, 2],
  splitChance: 0.3,
  delayChance: 0.01,
  delayMsMax: 500,
  slowCommitChance: 0.02,
}

test('events run in the order of their time, then in the order they were asked for', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  const ran: string[] = []
  clock.after(2, () => ran.push('2 ms'))
  clock.after(1, () => ran.push('1 ms, first'))
  clock.after(1, () => ran.push('1 ms, second'))
  clock.soon(() => ran.push('soon'))
  t.equal(await world.run(), 'idle')
  t.strictSame(ran, ['soon', '1 ms, first', '1 ms, second', '2 ms'])
})

test('a step ends when all its promises and ticks have run', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  const ran: string[] = []
  clock.after(1, () => {
    void (async () => {
      for (let hop = 0; hop < 20; hop++) await Promise.resolve()
      await new Promise<void>((resolve) => process.nextTick(resolve))
      ran.push('after promises')
    })()
  })
  clock.after(1, () => ran.push('next event'))
  t.equal(await world.step(), true)
  t.strictSame(ran, ['after promises'])
  t.equal(await world.step(), true)
  t.strictSame(ran, ['after promises', 'next event'])
  t.equal(await world.step(), false)
})

test('time stands still but for events and advance', async (t) => {
  const world = new SimWorld({ seed: 1, startMs: 1_000_000 })
  const { clock } = world.process('a').env
  const startMs = clock.monotonicMs()
  const ran: number[] = []
  for (const delayMs of [10, 20, 30]) clock.after(delayMs, () => ran.push(clock.nowMs()))
  await world.advance(20)
  t.strictSame(ran, [1_000_010, 1_000_020])
  t.equal(world.nowMs, 1_000_020)
  await world.advance(5)
  t.equal(clock.nowMs(), 1_000_025)
  t.equal(clock.monotonicMs() - startMs, 25)
  await world.run({ untilMs: 1_000_500 })
  t.equal(world.nowMs, 1_000_500)
  t.equal(ran.length, 3)
})

test('a timer is never early, whatever its delay', async (t) => {
  const world = new SimWorld({ seed: 7 })
  const { clock, random } = world.process('a').env
  let early = 0
  for (let round = 0; round < 1000; round++) {
    const delayMs = random.unit() * 10 ** (round % 7)
    const dueMs = clock.monotonicMs() + delayMs
    clock.after(delayMs, () => {
      if (clock.monotonicMs() < dueMs) early += 1
    })
  }
  await world.run()
  t.equal(early, 0)
})

test('a timer without a delay still lets time move on', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  let runs = 0
  const again = () => {
    runs += 1
    clock.after(0, again)
  }
  again()
  await world.advance(1)
  t.ok(runs > 1)
})

test('cancelled timers do not run, however many there are', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  const ran: number[] = []
  for (let round = 0; round < 5000; round++) {
    const timer = clock.after(1 + ((round * 7919) % 5000), () => ran.push(round))
    if (round % 10 !== 0) timer.cancel()
  }
  await world.run()
  t.equal(ran.length, 500)
  t.equal(world.steps, 500)
})

test('two processes have clocks of their own', async (t) => {
  const world = new SimWorld({ seed: 1, startMs: 5000 })
  const a = world.process('a')
  const b = world.process('b')
  b.skewMs = -3000
  t.equal(a.env.clock.nowMs(), 5000)
  t.equal(b.env.clock.nowMs(), 2000)
  const before = b.env.clock.monotonicMs()
  b.skewMs = 60_000
  t.equal(b.env.clock.monotonicMs(), before, 'a jump of the wall clock is none of the monotonic one')
  t.not(a.env.clock.monotonicMs(), b.env.clock.monotonicMs())
})

test('a crashed process never hears of its timers, and its late calls do nothing', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const process = world.process('a')
  const { clock, network, store } = process.env
  const ran: string[] = []
  clock.after(1, () => ran.push('timer'))
  process.crash()
  process.crash()
  t.equal(process.alive, false)
  clock.soon(() => ran.push('soon'))
  clock.after(1, () => ran.push('late timer')).cancel()
  void store.lock().finally(() => ran.push('lock'))
  void network.connect({ host: 'b', port: 1 }, { timeoutMs: 10 }).finally(() => ran.push('connect'))
  void network.listen({ host: 'a', port: 1 }, () => undefined).finally(() => ran.push('listen'))
  await world.advance(1000)
  t.strictSame(ran, [])
  t.equal(world.steps, 0)
})

test('a name is free again once its process has crashed', (t) => {
  const world = new SimWorld({ seed: 1 })
  const first = world.process('a')
  t.throws(() => world.process('a'), { name: 'InvariantError' })
  first.crash()
  const second = world.process('a', first.store)
  t.equal(second.alive, true)
  t.notSame(second.env.random.bytes(8), first.env.random.bytes(8), 'a restart draws other numbers')
  t.end()
})

test('a paused process catches up in order; its clock went on', async (t) => {
  const world = new SimWorld({ seed: 1, startMs: 0 })
  const process = world.process('a')
  const { clock } = process.env
  const ran: string[] = []
  const cancelled = clock.after(3, () => ran.push('cancelled'))
  clock.after(5, () => ran.push(`5 at ${clock.nowMs()}`))
  clock.after(1, () => {
    ran.push(`1 at ${clock.nowMs()}`)
    cancelled.cancel()
  })
  clock.after(60, () => ran.push(`60 at ${clock.nowMs()}`))
  process.pause(50)
  process.pause(10)
  t.equal(process.paused, true)
  await world.advance(49)
  t.strictSame(ran, [])
  await world.run()
  t.strictSame(ran, ['1 at 50', '5 at 50', '60 at 60'])
  process.pause(100)
  clock.soon(() => ran.push('resumed'))
  await world.advance(1)
  process.resume()
  await world.advance(0)
  t.equal(ran.at(-1), 'resumed')
})

test('run ends when its condition holds, and refuses to go on for ever', async (t) => {
  const world = new SimWorld({ seed: 42 })
  const { clock } = world.process('a').env
  let runs = 0
  const again = () => {
    runs += 1
    clock.after(1, again)
  }
  again()
  t.equal(await world.run({ until: () => runs === 5 }), 'until')
  t.equal(runs, 5)
  await t.rejects(world.run({ maxSteps: 100 }), { message: 'no end after 100 steps (seed 42)' })
})

test('what an event throws stops the run', async (t) => {
  const world = new SimWorld({ seed: 1 })
  world.process('a').env.clock.after(1, () => {
    throw new Error('a defect')
  })
  await t.rejects(world.run(), { message: 'a defect' })
  t.equal(await world.run(), 'idle')
})

test('the hook runs after each step and can stop the run', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  let count = 0
  for (let at = 1; at <= 10; at++) clock.after(at, () => void Promise.resolve().then(() => (count += 1)))
  const seen: number[] = []
  world.afterEachStep = () => {
    seen.push(count)
    if (count === 4) throw new Error('invariant 4')
  }
  await t.rejects(world.run(), { message: 'invariant 4' })
  t.strictSame(seen, [1, 2, 3, 4])
})

test('complete gives the value of a promise, or says that it cannot come any more', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const { clock } = world.process('a').env
  const value = new Promise<string>((resolve) => {
    clock.after(1000, () => resolve('done'))
  })
  t.equal(await world.complete(value), 'done')
  await t.rejects(world.complete(Promise.reject(new Error('no'))), { message: 'no' })
  await t.rejects(world.complete(new Promise(() => undefined)), /can no longer settle/)
})

test('one driver at a time', async (t) => {
  const world = new SimWorld({ seed: 1 })
  const first = world.advance(10)
  await t.rejects(world.advance(10), { name: 'InvariantError' })
  await first
})

test('random streams: repeatable, apart from each other, even', (t) => {
  t.strictSame(new SeededRandom(1).bytes(100), new SeededRandom(1).bytes(100))
  t.notSame(new SeededRandom(1).bytes(100), new SeededRandom(2).bytes(100))
  const parent = new SeededRandom(1)
  const fork = parent.fork('x').bytes(16)
  parent.unit()
  t.strictSame(parent.fork('x').bytes(16), fork)
  t.notSame(parent.fork('y').bytes(16), fork)
  const counts = new Array<number>(10).fill(0)
  const random = new SeededRandom(3)
  for (let draw = 0; draw < 10_000; draw++) counts[random.int(10)]! += 1
  t.ok(counts.every((count) => count > 850 && count < 1150))
  t.equal(random.chance(0), false)
  t.equal(random.chance(1), true)
  t.equal(random.between(4, 4), 4)
  t.equal(random.pick(['only']), 'only')
  t.throws(() => random.pick([]))
  t.throws(() => random.int(0))
  t.end()
})

/** Serves: writes down what it is told, durably, then sends it back. */
async function pong({ network, store }: Env): Promise<void> {
  await store.lock()
  const segment = await store.open('log', { create: true })
  let count = 0
  let busy = Promise.resolve()
  await network.listen({ host: 'pong', port: 1 }, (socket) => {
    socket.onData = (lent) => {
      const bytes = Uint8Array.from(lent)
      busy = busy.then(async () => {
        count += 1
        await segment.commit([{ key: Uint8Array.of(count >> 8, count), value: bytes }])
        socket.write(bytes)
      })
    }
  })
}

/** Sends words of random bytes, each after a random pause once the last has come back. */
async function ping({ clock, random, network }: Env, rounds: number): Promise<void> {
  const socket = await network.connect({ host: 'pong', port: 1 }, { timeoutMs: 60_000 })
  for (let round = 0; round < rounds; round++) {
    const word = random.bytes(1 + Math.floor(random.unit() * 200))
    await new Promise<void>((resolve) => {
      let rest = word.byteLength
      socket.onData = (bytes) => {
        rest -= bytes.byteLength
        if (rest === 0) resolve()
      }
      clock.after(random.unit() * 10, () => socket.write(word))
    })
  }
  socket.end()
}

async function pingPong(seed: number) {
  const world = new SimWorld({ seed, faults: rough })
  const lines: string[] = []
  world.log = (line) => lines.push(line)
  await world.complete(pong(world.process('pong').env))
  await world.complete(Promise.all(['a', 'b'].map((name) => ping(world.process(name).env, 50))))
  await world.run()
  return { hash: world.traceHash, steps: world.steps, lines }
}

test('one seed, one run; another seed, another run', async (t) => {
  const first = await pingPong(11)
  const second = await pingPong(11)
  const other = await pingPong(12)
  t.strictSame(second.lines, first.lines)
  t.equal(second.hash, first.hash)
  t.equal(second.steps, first.steps)
  t.not(other.hash, first.hash)
  t.match(first.hash, /^[0-9a-f]{16}$/)
  t.ok(first.steps > 500)
})

test('the trace hash knows the bytes, not only their number', async (t) => {
  const hashOf = async (byte: number) => {
    const world = new SimWorld({ seed: 1 })
    await world.process('b').env.network.listen({ host: 'b', port: 1 }, (socket) => {
      socket.onData = () => undefined
    })
    const { network } = world.process('a').env
    const socket = await world.complete(network.connect({ host: 'b', port: 1 }, { timeoutMs: 1000 }))
    socket.write(Uint8Array.of(byte))
    await world.run()
    return world.traceHash
  }
  t.equal(await hashOf(1), await hashOf(1))
  t.not(await hashOf(1), await hashOf(2))
})

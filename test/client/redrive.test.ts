/** Redriving: which steps are asked for, at what pace, and what is known when one fails. */
import { test, type Test } from 'tap'
import type { MqError } from '../../src/errors.ts'
import type { RedriveOptions } from '../../src/client/redrive.ts'
import type { ConnectOptions } from '../../src/client/options.ts'
import type { RedriveResult } from '../../src/wire/messages.ts'
import { stage, verdict, watch, type Frame, type Line } from './scripted-server.ts'

type Step = Frame<'redrive'>

/** A client, and a server with a dead-letter queue `q.dlq` whose messages all come from `q`. */
async function withDeadLetters(count: number, connect: ConnectOptions = {}) {
  const staged = await stage({}, connect)
  const { server, mq } = staged
  let looked = 0
  /** When each step came, and how many messages it wanted to look at. */
  const steps: string[] = []
  const answer = ({ id, max, cursor }: Step, line: Line, skipped = 0): void => {
    looked = cursor === null ? 0 : cursor[1]!
    const here = Math.min(max, count - looked)
    looked += here
    const messages = here - Math.min(skipped, here)
    const result: RedriveResult = {
      messages,
      skipped: here - messages,
      targets: messages === 0 ? {} : { q: messages },
      cursor: looked === count ? null : [0, looked, count],
    }
    line.send({ op: 'ok', id, result })
  }
  const { clock } = server.process.env
  const beganMs = clock.monotonicMs()
  server.on.redrive = (frame, line) => {
    steps.push(`${Math.round(clock.monotonicMs() - beganMs)} ms: ${frame.max}`)
    answer(frame, line)
  }
  const redrive = (options: RedriveOptions = {}) => watch(mq.redrive('q.dlq', options))
  const asked = () => server.all('redrive').map(({ max }) => max)
  return { ...staged, answer, steps, redrive, asked }
}

const detailsOf = ({ error }: { error?: unknown }) => (error as MqError).details

test('steps of a thousand until the cursor is nil, which each answer hands on', async (t) => {
  const { redrive, server, settle } = await withDeadLetters(2500)
  const redriven = redrive()
  await settle()
  t.strictSame(redriven.value, { messages: 2500, skipped: 0, targets: { q: 2500 } })
  t.strictSame(
    server.all('redrive').map(({ id: _, ...step }) => step),
    [null, [0, 1000, 2500], [0, 2000, 2500]].map((cursor) => ({
      op: 'redrive',
      name: 'q.dlq',
      to: null,
      max: 1000,
      dryRun: false,
      cursor,
    })),
  )
})

test('`to` and `dryRun` go into each step', async (t) => {
  const { redrive, server, settle } = await withDeadLetters(1500)
  const counted = redrive({ to: 'other', dryRun: true })
  await settle()
  t.equal(counted.value!.messages, 1500)
  t.strictSame(
    server.all('redrive').map(({ to, dryRun }) => ({ to, dryRun })),
    [
      { to: 'other', dryRun: true },
      { to: 'other', dryRun: true },
    ],
  )
})

test('an empty queue is one step', async (t) => {
  const { mq, world, server } = await stage()
  t.strictSame(await world.complete(mq.redrive('q.dlq')), { messages: 0, skipped: 0, targets: {} })
  t.equal(server.all('redrive').length, 1)
})

test('the counts of all steps are added, by queue', async (t) => {
  const { mq, world, server } = await stage()
  const results: RedriveResult[] = [
    { messages: 3, skipped: 1, targets: { a: 1, constructor: 2 }, cursor: [0, 4, 9] },
    { messages: 0, skipped: 0, targets: {}, cursor: [0, 5, 9] },
    { messages: 4, skipped: 2, targets: { b: 1, constructor: 3 }, cursor: null },
  ]
  server.on.redrive = ({ id }, line) => line.send({ op: 'ok', id, result: results.shift() })
  t.strictSame(await world.complete(mq.redrive('q.dlq')), {
    messages: 7,
    skipped: 3,
    targets: { a: 1, constructor: 5, b: 1 },
  })
})

test('`max` counts what was redriven, not what was skipped', async (t) => {
  const { redrive, asked, server, settle, answer } = await withDeadLetters(5000)
  server.on.redrive = (frame, line) => answer(frame, line, frame.cursor === null ? 400 : 0)
  const redriven = redrive({ max: 1500 })
  await settle()
  t.strictSame(asked(), [1000, 900])
  t.strictSame(redriven.value, { messages: 1500, skipped: 400, targets: { q: 1500 } })
})

test('`max` ends it with messages left over', async (t) => {
  const { redrive, asked, settle } = await withDeadLetters(5000)
  const redriven = redrive({ max: 1200 })
  await settle()
  t.strictSame(asked(), [1000, 200])
  t.strictSame(redriven.value, { messages: 1200, skipped: 0, targets: { q: 1200 } })
})

test('a pace: tenths of a second, each from the beginning of the step before', async (t) => {
  const { redrive, steps, world } = await withDeadLetters(35)
  const redriven = redrive({ ratePerSecond: 100 })
  await world.advance(2000)
  t.strictSame(steps.map(startOf(steps)), ['+0 ms: 10', '+100 ms: 10', '+200 ms: 10', '+300 ms: 10'])
  t.equal(redriven.value!.messages, 35)
})

test('a slow pace: message by message', async (t) => {
  const { redrive, steps, world } = await withDeadLetters(3)
  redrive({ ratePerSecond: 2 })
  await world.advance(2000)
  t.strictSame(steps.map(startOf(steps)), ['+0 ms: 1', '+500 ms: 1', '+1000 ms: 1'])
})

test('a pace that no step can keep up with: steps of a thousand, one after the other', async (t) => {
  const { redrive, asked, settle } = await withDeadLetters(3000)
  redrive({ ratePerSecond: 1_000_000 })
  await settle()
  t.strictSame(asked(), [1000, 1000, 1000])
})

test('what was slow is not made up for by a rush', async (t) => {
  const { redrive, steps, world, server, answer } = await withDeadLetters(40)
  const atOnce = server.on.redrive!
  let kept: [Step, Line] | null = null
  server.on.redrive = (frame, line) => {
    if (frame.cursor === null) kept = [frame, line]
    else atOnce(frame, line)
  }
  redrive({ ratePerSecond: 100 })
  await world.advance(5000)
  answer(...kept!)
  await world.advance(1000)
  t.strictSame(steps.map(startOf(steps)), ['+0 ms: 10', '+100 ms: 10', '+200 ms: 10'])
})

test('what is skipped, and what is only counted, costs no time', async (t) => {
  const skipping = await withDeadLetters(50)
  skipping.server.on.redrive = (frame, line) => skipping.answer(frame, line, 10)
  const skipped = skipping.redrive({ ratePerSecond: 100 })
  await skipping.settle()
  t.match(skipped.value, { messages: 0, skipped: 50 })
  const counting = await withDeadLetters(2000)
  const counted = counting.redrive({ ratePerSecond: 1, dryRun: true })
  await counting.settle()
  t.equal(counted.value!.messages, 2000)
})

/** Steps with their times counted from the first. */
function startOf(steps: readonly string[]): (step: string) => string {
  const firstMs = Number.parseInt(steps[0]!, 10)
  return (step) => step.replace(/^\d+/, (ms) => `+${Number(ms) - firstMs}`)
}

test('an error after some steps says what was done', async (t) => {
  const { redrive, server, settle, answer } = await withDeadLetters(3000)
  server.on.redrive = (frame, line) => {
    if (frame.cursor?.[1] === 2000) line.refuse(frame.id, 'QUEUE_DELETED', { why: 'by hand' })
    else answer(frame, line, 1)
  }
  const redriven = redrive()
  await settle()
  t.equal(verdict(redriven), 'QUEUE_DELETED failed')
  t.strictSame(detailsOf(redriven), { why: 'by hand', messages: 1998, skipped: 2 })
})

test('time is for each step', async (t) => {
  const { redrive, server, world, answer } = await withDeadLetters(3000)
  server.on.redrive = (frame, line) => {
    if (frame.cursor?.[1] !== 2000) server.process.env.clock.after(800, () => answer(frame, line))
  }
  const redriven = redrive({ timeoutMs: 1000 })
  await world.advance(2500)
  t.equal(redriven.state, 'pending')
  await world.advance(500)
  t.equal(verdict(redriven), 'TIMEOUT unknown')
  t.match(detailsOf(redriven), { messages: 2000 })
})

test('a signal ends a step that is under way: it may be done', async (t) => {
  const { redrive, server, settle } = await withDeadLetters(10)
  server.on.redrive = () => undefined
  const controller = new AbortController()
  const redriven = redrive({ signal: controller.signal })
  await settle()
  controller.abort(new Error('enough'))
  await settle()
  t.equal(verdict(redriven), 'ABORTED unknown')
  t.match(redriven.error, { details: { messages: 0, skipped: 0 }, cause: { message: 'enough' } })
})

test('a signal ends the pause between two steps: nothing beyond what was counted is done', async (t) => {
  const { redrive, settle, asked } = await withDeadLetters(10)
  const controller = new AbortController()
  const redriven = redrive({ ratePerSecond: 1, signal: controller.signal })
  await settle()
  controller.abort()
  await settle()
  t.equal(verdict(redriven), 'ABORTED failed')
  t.strictSame(detailsOf(redriven), { messages: 1, skipped: 0 })
  t.strictSame(asked(), [1])
})

/** Loses the connection while the second step is at the broker. */
async function cutInSecondStep(options: RedriveOptions) {
  const staged = await withDeadLetters(3000)
  const { server, world, answer, redrive, settle } = staged
  server.on.redrive = (frame, line) => {
    if (line.number > 1 || frame.cursor === null) answer(frame, line)
  }
  const redriven = redrive(options)
  await settle()
  world.cut('client', 'broker')
  await settle()
  return { ...staged, redriven }
}

const cursors = (t: Test, steps: readonly Step[], expected: (number | null)[]) =>
  t.strictSame(
    steps.map(({ cursor }) => cursor?.[1] ?? null),
    expected,
  )

test('without `max` a step whose answer was lost is asked for again', async (t) => {
  const { redriven, server } = await cutInSecondStep({})
  cursors(t, server.all('redrive'), [null, 1000, 1000, 2000])
  t.equal(redriven.state, 'resolved')
})

test('with `max` a step whose answer was lost ends it: to ask again could redrive too many', async (t) => {
  const { redriven, server, mq, world } = await cutInSecondStep({ max: 2500 })
  cursors(t, server.all('redrive'), [null, 1000])
  t.equal(verdict(redriven), 'DISCONNECTED unknown')
  t.strictSame(detailsOf(redriven), { messages: 1000, skipped: 0 })
  await world.complete(mq.close())
})

test('with `max` a dry run is asked for again all the same', async (t) => {
  const { redriven, server } = await cutInSecondStep({ max: 2500, dryRun: true })
  cursors(t, server.all('redrive'), [null, 1000, 1000, 2000])
  t.equal(redriven.value!.messages, 2500)
})

test('with `max` a step that has not left waits for a connection', async (t) => {
  const { redrive, server, world, settle } = await withDeadLetters(10)
  server.on.hello = () => undefined
  world.cut('client', 'broker')
  await settle()
  const redriven = redrive({ max: 10 })
  await settle()
  server.line.welcome()
  await settle()
  t.equal(redriven.value!.messages, 10)
  t.equal(server.all('redrive').length, 1)
})

test('a step that the broker had no room for is asked for again, with `max` too', async (t) => {
  const { redrive, server, world, answer, asked } = await withDeadLetters(10)
  server.on.redrive = (frame, line) => {
    if (asked().length > 1) answer(frame, line)
    else line.refuse(frame.id, 'THROTTLED', { retryAfterMs: 1000 })
  }
  const redriven = redrive({ max: 10 })
  await world.advance(2000)
  t.equal(redriven.value!.messages, 10)
  t.strictSame(asked(), [10, 10])
})

test('close gives it its time, then lets go of it, in a step and between two', async (t) => {
  for (const between of [true, false]) {
    const { redrive, server, mq, world, settle } = await withDeadLetters(10)
    if (!between) server.on.redrive = () => undefined
    const redriven = redrive({ ratePerSecond: 1 })
    await settle()
    const closed = watch(mq.close({ timeoutMs: 2000 }))
    await world.advance(1000)
    t.equal(redriven.state, 'pending')
    await world.advance(2000)
    t.equal(closed.state, 'resolved')
    t.equal(verdict(redriven), `CLOSED ${between ? 'failed' : 'unknown'}`)
  }
})

test('drain waits for all of its steps', async (t) => {
  const { redrive, mq, world, settle } = await withDeadLetters(3)
  const redriven = redrive({ ratePerSecond: 1 })
  await settle()
  const drained = watch(mq.drain())
  await world.advance(1000)
  t.equal(drained.state, 'pending')
  await world.advance(2000)
  t.equal(drained.state, 'resolved')
  t.equal(redriven.value!.messages, 3)
  await t.rejects(mq.redrive('q.dlq'), { code: 'CLOSED' })
})

test('a client that fails offline ends it when the connection is lost', async (t) => {
  const { redrive, world, settle } = await withDeadLetters(10, { offline: 'fail' })
  const redriven = redrive({ ratePerSecond: 1 })
  await settle()
  world.cut('client', 'broker')
  await settle()
  t.equal(verdict(redriven), 'DISCONNECTED failed')
  t.match(detailsOf(redriven), { messages: 1 })
})

test('an answer that cannot be read: nobody knows what was done', async (t) => {
  const { redrive, server, settle } = await withDeadLetters(10)
  server.on.redrive = ({ id }, line) => line.send({ op: 'ok', id, result: { messages: -1 } })
  const redriven = redrive()
  await settle()
  t.equal(redriven.state, 'rejected')
})

test('what cannot be meant is refused before anything is asked', async (t) => {
  const { mq, server } = await stage()
  const wrong: [RedriveOptions, string][] = [
    [{ max: 0 }, 'max'],
    [{ max: 1.5 }, 'max'],
    [{ max: Number.MAX_SAFE_INTEGER + 1 }, 'max'],
    [{ ratePerSecond: 0 }, 'ratePerSecond'],
    [{ ratePerSecond: 1_000_001 }, 'ratePerSecond'],
  ]
  for (const [options, field] of wrong) {
    await t.rejects(mq.redrive('q.dlq', options), { code: 'INVALID_FIELD', details: { field } })
  }
  await t.rejects(mq.redrive('no such name!'), { code: 'INVALID_NAME' })
  await t.rejects(mq.redrive('q.dlq', { to: '' }), { code: 'INVALID_NAME' })
  await t.rejects(mq.redrive('q.dlq', { dryRun: 'yes' as never }), { code: 'INVALID_OPTION' })
  await t.rejects(mq.redrive('q.dlq', { timeoutMs: -1 }), { code: 'INVALID_OPTION' })
  await t.rejects(mq.redrive('q.dlq', { signal: AbortSignal.abort() }), { code: 'ABORTED' })
  t.strictSame(server.all('redrive'), [])
})

/** The two loops behind `… | mq-broker send QUEUE -`, with a broker that answers when the test says so. */
import { PassThrough, Readable } from 'node:stream'
import t from 'tap'
import { sendLines } from '../../src/cli/send-lines.ts'
import type { Clock } from '../../src/env.ts'
import { ReaderGone } from '../../src/cli/output.ts'
import { MqError, type Outcome } from '../../src/errors.ts'

/** A clock that stands still; `tick` runs what is due next. */
function stillClock() {
  let next: (() => void) | undefined
  const clock: Clock = {
    nowMs: () => 0,
    monotonicMs: () => 0,
    after(_delayMs, run) {
      next = run
      return { cancel: () => (next = undefined) }
    },
    soon: queueMicrotask,
  }
  return { clock, tick: () => next?.() }
}

/** Keeps what is printed. */
function captured() {
  let stdout = ''
  let stderr = ''
  const print = async (text: string | Uint8Array) => {
    stdout += String(Buffer.from(text as Uint8Array))
  }
  const printSoon = (text: string) => {
    stdout += text
    return undefined
  }
  const note = (line: string) => void (stderr += `${line}\n`)
  const output = { print, printSoon, flush: async () => {}, note }
  return { output, stdout: () => stdout, stderr: () => stderr }
}

/** Whose reader goes after the first id. */
function readOnce() {
  let pieces = 0
  const gone = async () => {
    if (pieces > 0) throw new ReaderGone()
  }
  const printSoon = () => (pieces++ === 0 ? undefined : gone())
  return { output: { print: gone, printSoon, flush: async () => {}, note: () => {} } }
}

const receipt = (id: string) => ({ id, toJSON: () => ({ id }) })
const turn = () => new Promise((resolve) => setImmediate(resolve))

t.test('ids are printed in the order of the lines, whatever the order of the confirms', async (t) => {
  const { output, stdout } = captured()
  const confirms: (() => void)[] = []
  const send = (line: Uint8Array) =>
    new Promise<{ id: string }>((resolve) => {
      confirms.push(() => resolve(receipt(`id-${Buffer.from(line).toString()}`)))
      if (confirms.length === 3) for (const confirm of confirms.toReversed()) confirm()
    })
  await sendLines({
    send,
    input: Readable.from([Buffer.from('a\nb\nc\n')]),
    clock: stillClock().clock,
    output,
    json: false,
  })
  t.equal(stdout(), 'id-a\nid-b\nid-c\n')
})

t.test('--json is one document, also with nothing in it', async (t) => {
  const { output, stdout } = captured()
  const send = async (line: Uint8Array) => receipt(Buffer.from(line).toString())
  const { clock } = stillClock()
  await sendLines({ send, input: Readable.from([Buffer.from('a\nb')]), clock, output, json: true })
  t.strictSame(JSON.parse(stdout()), [{ id: 'a' }, { id: 'b' }])
  const empty = captured()
  await sendLines({ send, input: Readable.from([]), clock, output: empty.output, json: true })
  t.equal(empty.stdout(), '[]\n')
})

t.test('an endless input is not read further than the unconfirmed lines allow', async (t) => {
  const { output } = captured()
  const { clock } = stillClock()
  let sent = 0
  let confirmAll = () => {}
  const confirmed = new Promise<void>((resolve) => (confirmAll = resolve))
  const send = async () => {
    sent++
    await confirmed
    return receipt('x')
  }
  let chunks = 0
  const input = Readable.from(
    (function* () {
      while (chunks++ < 100) yield Buffer.from('line\n'.repeat(1000))
    })(),
  )
  const done = sendLines({ send, input, clock, output, json: false })
  let before = -1
  while (sent !== before) {
    before = sent
    for (let i = 0; i < 100; i++) await turn()
  }
  t.equal(sent, 10_000)
  confirmAll()
  await done
  t.equal(sent, 100_000)
})

t.test('a refusal ends it while the input is silent, and names the line', async (t) => {
  const { output, stdout } = captured()
  const input = new PassThrough()
  input.write('good\nbad\nlater\n')
  const send = async (line: Uint8Array) => {
    if (String(Buffer.from(line)) === 'bad') throw new MqError('MESSAGE_TOO_LARGE', 'it is too large')
    return receipt('id')
  }
  await t.rejects(sendLines({ send, input, clock: stillClock().clock, output, json: true }), {
    code: 'MESSAGE_TOO_LARGE',
    message: 'line 2 was not sent, 2 lines were sent; go on from line 4: it is too large',
  })
  t.ok(input.destroyed)
  t.strictSame(JSON.parse(stdout()), [{ id: 'id' }, { id: 'id' }], 'all that were sent, as one document')
})

t.test('of all lines it is told whether they were sent, and where to go on', async (t) => {
  const { output, stdout } = captured()
  const input = new PassThrough()
  input.write('1\n2 failed\n3 failed\n4\n5 failed\n6 unknown\n7 unknown\n8\n')
  let answer = () => {}
  const allSent = new Promise<void>((resolve) => (answer = resolve))
  const send = async (line: Uint8Array) => {
    const [number, outcome] = String(Buffer.from(line)).split(' ')
    if (number === '8') answer()
    await allSent
    if (outcome !== undefined) throw new MqError('TIMEOUT', 'no broker', { outcome: outcome as Outcome })
    return receipt(number!)
  }
  await t.rejects(sendLines({ send, input, clock: stillClock().clock, output, json: false }), {
    message:
      'lines 2-3, 5 were not sent, lines 6-7 were perhaps sent, 3 lines were sent; go on from line 9: no broker',
    outcome: undefined,
  })
  t.equal(stdout(), '1\n4\n8\n')
})

t.test('when nobody reads the ids any more, it ends and says so', async (t) => {
  const { clock } = stillClock()
  const input = new PassThrough()
  input.write('a\nb\nc\n')
  const send = async () => receipt('id')
  await t.rejects(sendLines({ send, input, clock, output: readOnce().output, json: false }), {
    message: 'nobody reads the ids any more: 3 lines were sent; go on from line 4',
  })
  t.ok(input.destroyed)
})

t.test('unless all has been sent: then whoever read the ids has seen enough of them', async (t) => {
  const { clock } = stillClock()
  const input = Readable.from([Buffer.from('a\nb\nc\n')])
  let confirm = () => {}
  const whole = new Promise<void>((resolve) => (confirm = resolve))
  input.on('end', () => confirm())
  const send = () => whole.then(() => receipt('id'))
  await sendLines({ send, input, clock, output: readOnce().output, json: false })
  t.pass('no failure')
})

t.test('an input that fails is told once what was read has been sent', async (t) => {
  const { output, stdout } = captured()
  const input = Readable.from(
    (function* () {
      yield Buffer.from('a\n')
      throw new Error('EIO')
    })(),
  )
  const send = async () => receipt('id')
  await t.rejects(sendLines({ send, input, clock: stillClock().clock, output, json: false }), {
    message: 'cannot read the input: EIO: 1 line was sent; go on from line 2',
  })
  t.equal(stdout(), 'id\n')
})

t.test('long work says on stderr how far it is', async (t) => {
  const { output, stdout, stderr } = captured()
  const { clock, tick } = stillClock()
  const input = new PassThrough()
  const done = sendLines({ send: async () => receipt('id'), input, clock, output, json: false })
  input.write('x\n'.repeat(1234))
  while (stdout().length < 1234 * 3) await turn()
  tick()
  t.equal(stderr(), '1,234 messages sent\n')
  tick()
  input.end()
  await done
  tick()
  t.equal(stderr(), '1,234 messages sent\n'.repeat(2))
})

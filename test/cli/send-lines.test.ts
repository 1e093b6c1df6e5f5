/** The two loops behind `… | mq-broker send QUEUE -`, with a broker that answers when the test says so. */
import { PassThrough, Readable } from 'node:stream'
import t from 'tap'
import { sendLines } from '../../src/cli/send-lines.ts'
import type { Clock } from '../../src/env.ts'
import { MqError } from '../../src/errors.ts'

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
    message: 'line 2 (2 others were sent): it is too large',
  })
  t.ok(input.destroyed)
  t.strictSame(JSON.parse(stdout()), [{ id: 'id' }], 'and what was printed is still a document')
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
    message: 'EIO',
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

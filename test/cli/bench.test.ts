/** The bench does what it says, and leaves nothing behind. */
import { once } from 'node:events'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { assertOneLine, run, runOn, type RunningBroker, startBroker } from './process.ts'

const broker = (t: Test) => startBroker(t, join(t.testdir(), 'data'))

t.test('a short run: all that was sent is received once, and the queue is gone', async (t) => {
  const there = await broker(t)
  for (const more of [[], ['--batch', '10', '--producers', '2', '--consumers', '2', '--size', '8']]) {
    const { code, stdout, stderr } = await there.run(['bench', '--seconds', '1', '--json', ...more])
    t.equal(stderr, '')
    t.equal(code, 0)
    const { seconds, sent, received, confirmMs, lost, duplicates, redelivered } = JSON.parse(stdout)
    t.ok(seconds >= 0.9 && seconds < 30)
    t.ok(sent.messages > 0 && sent.perSecond > 0)
    t.equal(received.messages, sent.messages)
    t.ok(confirmMs.p50 > 0 && confirmMs.p99 >= confirmMs.p50)
    t.strictSame({ lost, duplicates, redelivered }, { lost: 0, duplicates: 0, redelivered: 0 })
  }
  t.equal((await there.run(['queue', 'ls', '--json'])).stdout, '[]\n')
})

t.test('an interrupt ends it early, with its figures, and the queue is gone', async (t) => {
  const there = await broker(t)
  const child = runOn(t, ['bench', '--seconds', '3600', '--server', there.listen])
  const stdout = text(child.stdout)
  const ended = once(child, 'close')
  const queues = async () => (await there.run(['queue', 'ls'])).stdout
  while (!/^bench-[0-9a-f]{12} /m.test(await queues()));
  child.kill('SIGINT')
  t.strictSame(await ended, [0, null])
  t.match(
    await stdout,
    /^ +MESSAGES +PER SECOND\nsent .*\nreceived .*\nconfirmed within .*\nlost 0, duplicates 0, redelivered 0\n$/,
  )
  t.notMatch(await queues(), 'bench-')
})

t.test(
  'a broker that is killed and comes back: nothing is lost, and what is delivered again is no duplicate',
  async (t) => {
    const dataDir = join(t.testdir(), 'data')
    const before = await startBroker(t, dataDir)
    const child = runOn(t, ['bench', '--seconds', '3600', '--json', '--server', before.listen])
    const stdout = text(child.stdout)
    const ended = once(child, 'close')
    await confirmedSends(before)
    await before.end('SIGKILL')
    const after = await startBroker(t, dataDir, ['--listen', before.listen])
    await confirmedSends(after)
    child.kill('SIGINT')
    t.strictSame(await ended, [0, null])
    const { seconds, sent, received, lost, duplicates } = JSON.parse(await stdout)
    t.ok(seconds < 3600, 'what was really measured')
    t.ok(sent.messages > 0 && received.messages >= sent.messages)
    t.strictSame({ lost, duplicates }, { lost: 0, duplicates: 0 })
  },
)

t.test(
  'a broker that stays away: the figures so far, and one line that says which queue stays',
  async (t) => {
    const there = await broker(t)
    const child = runOn(t, ['bench', '--seconds', '3600', '--json', '--server', there.listen])
    const stdout = text(child.stdout)
    const stderr = text(child.stderr)
    const ended = once(child, 'close')
    await confirmedSends(there)
    const connections = await connectionsTo(there.listen, child.pid!)
    t.not(connections.size, 0)
    await there.end('SIGKILL')
    // Else it could hear of the interrupts before it knows that the broker is away.
    while ([...(await socketsOf(child.pid!))].some((inode) => connections.has(inode)));
    // The first ends the sending, the second the waiting for the confirms: two that wait at once would be one.
    child.kill('SIGINT')
    while (await isInterruptPending(child.pid!));
    child.kill('SIGINT')
    t.strictSame(await ended, [1, null])
    const { sent, lost } = JSON.parse(await stdout)
    t.ok(sent.messages > 0)
    t.equal(lost, null, 'nobody can say')
    assertOneLine(t, await stderr, /the broker is away.*; queue bench-[0-9a-f]{12} stays.*\(DISCONNECTED\)/)
  },
)

/** Inodes of the sockets that a process has open. */
async function socketsOf(pid: number): Promise<Set<string>> {
  const directory = `/proc/${pid}/fd`
  // One may be closed in between.
  const links = await Promise.all(
    (await readdir(directory)).map((fd) => readlink(join(directory, fd)).catch(() => '')),
  )
  return new Set(links.flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []))
}

/** Of those, the connections to `address`: see proc(5), net/tcp. */
async function connectionsTo(address: string, pid: number): Promise<Set<string>> {
  const port = Number(address.split(':')[1]).toString(16).toUpperCase().padStart(4, '0')
  const lines = (await readFile(`/proc/${pid}/net/tcp`, 'utf8')).trim().split('\n').slice(1)
  const fields = lines.map((line) => line.trim().split(/\s+/))
  const inodes = fields.filter(([, , remote]) => remote!.endsWith(`:${port}`)).map((line) => line[9]!)
  const open = await socketsOf(pid)
  return new Set(inodes.filter((inode) => open.has(inode)))
}

/** Whether a process has an interrupt before it that it has not taken: see proc(5). */
async function isInterruptPending(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const pending = /^ShdPnd:\s*([0-9a-f]+)$/m.exec(status)![1]!
  return (BigInt(`0x${pending}`) & (1n << BigInt(constants.signals.SIGINT - 1))) !== 0n
}

/** Resolves once the broker has messages of a bench. */
async function confirmedSends(there: RunningBroker): Promise<void> {
  const metrics = async () => (await fetch(`http://${there.http}/metrics`)).text()
  while (!/^mq_acked_messages_total\{queue="bench-[0-9a-f]{12}"\} [1-9]/m.test(await metrics()));
}

t.test('what cannot be meant is wrong usage', async (t) => {
  for (const [flag, value, says] of [
    ['--seconds', '0', /--seconds is '0': it must be 1 to 3,600/],
    ['--size', '7', /--size is '7': it must be 8 to 16MiB/],
    ['--batch', '10001', /--batch is '10001': it must be 1 to 10,000/],
    ['--producers', '65', /--producers is '65': it must be 1 to 64/],
  ] as const) {
    const { code, stderr } = await run(['bench', flag, value])
    t.equal(code, 2)
    assertOneLine(t, stderr, says)
  }
})

t.test('without a broker it fails, and says where it looked', async (t) => {
  const { code, stderr } = await run(['bench', '--seconds', '1', '--server', '127.0.0.1:1'])
  t.equal(code, 1)
  assertOneLine(t, stderr, /127\.0\.0\.1:1/)
})

/**
 * Does the simulation find bugs? Each of these is put into a copy of the compiled source, one at a time, and seeds are
 * run until one fails. A bug that is not found says that the checks are blind there.
 *
 *   npm run planted -- [--seeds N] [--from SEED] [--only NAME]
 *
 * The patches name the text that they replace, exactly, so that a change of that text is noticed here.
 */
import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { compilePatched, type Change } from '../patched.ts'

export interface PlantedBug extends Change {
  readonly name: string
  /** The seed with which the tests begin; default 1. Those before it do not find it, or take long to. */
  readonly from?: number
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: 'a send is confirmed before its entry is on the disk',
    file: 'src/partition/leader.ts',
    find: `    this.#onceCommitted(ref, { kind: 'sent', epoch: this.state.epoch, base, duplicate: false }, [
      base,
      event.count,
    ])`,
    replace: `    this.#sink.reply(ref, { kind: 'sent', epoch: this.state.epoch, base, duplicate: false })
    this.#onceCommitted(undefined, undefined, [base, event.count])`,
  },
  {
    name: 'an ack is confirmed before its entry is on the disk',
    from: 5,
    file: 'src/partition/leader.ts',
    find: `    this.#onceCommitted(ref, answer, action === settledBy.ack ? undefined : again.ranges)`,
    replace: `    this.#sink.reply(ref, answer)
    if (action !== settledBy.ack) this.#onceCommitted(undefined, undefined, again.ranges)`,
  },
  {
    name: 'a retry is answered before the entry that it repeats is on the disk',
    from: 24,
    file: 'src/partition/leader.ts',
    find: `      this.#again(ref, known.base + known.count, reply)`,
    replace: `      this.#sink.reply(ref, reply)`,
  },
  {
    name: 'a settle forgets the last of several ranges, and the message comes back after a restart',
    file: 'src/partition/fold.ts',
    find: `  #leave(ranges: Ranges): void {
    for (let i = 0; i < ranges.length; i += 2) {`,
    replace: `  #leave(ranges: Ranges): void {
    for (let i = 0; i === 0 || i + 2 < ranges.length; i += 2) {`,
  },
  {
    name: 'a start builds on what its predecessor was killed at, unsynced, in the last segment but one',
    from: 16,
    file: 'src/storage/open-segments.ts',
    find: `this.#openSealed(name, i === names.length - 1)`,
    replace: `this.#openSealed(name, i >= names.length)`,
  },
  {
    name: 'a group is confirmed before the journal has it on the disk',
    file: 'src/storage/journal.ts',
    find: `    await this.#file!.write(this.#at, this.#memory.subarray(this.#at, next))`,
    replace: `    void this.#file!.write(this.#at, Buffer.from(this.#memory.subarray(this.#at, next)))`,
  },
  {
    name: 'half of the journal is used again before what it has is in the segment',
    from: 8,
    file: 'src/storage/journaled-segment.ts',
    find: `    await this.#moving
    if (this.#applied < journal.otherLast) return this.#moveAll([])
    journal.turn()
    const move = this.#move([])
    this.onMove(move)
    this.#moving = move.catch(() => undefined)`,
    replace: `    journal.turn()`,
  },
  {
    name: 'a start does not look for what is in the journal only',
    file: 'src/storage/journaled-segment.ts',
    find: `journal?.recover(segment.name, self.#number) ?? []`,
    replace: `(journal?.recover(segment.name, self.#number) ?? []).slice(1)`,
  },
  {
    name: 'a restart does not read the segment after the one of its checkpoint: offsets are given twice',
    file: 'src/storage/log.ts',
    find: `      if (segment.name < firstSegment) continue`,
    replace: `      if (segment.name < firstSegment || (firstSegment !== '' && segment.name > firstSegment)) continue`,
  },
  {
    name: 'a lease is not fenced: a receipt of an earlier epoch settles',
    from: 14,
    file: 'src/partition/leases.ts',
    find: `lease?.epoch === epoch`,
    replace: `(lease?.epoch ?? Infinity) >= epoch`,
  },
  {
    name: 'a client sends again as if it were something new',
    file: 'src/client/channel.ts',
    find: `    return this.#work.encode(id, this.as)`,
    replace: `    if (!this.#doubtful) return this.#work.encode(id, this.as)
    const producerId = this.as.producerId.slice(0, 15) + String.fromCharCode(id & 0xff)
    return this.#work.encode(id, { ...this.as, producerId })`,
  },
  {
    name: 'a loop that is left settles what it never handed out',
    file: 'src/client/subscription.ts',
    find: `acker.settle(releasing, leaseEpoch, lease, offset, target)`,
    replace: `acker.settle({ action: 0, options: null }, leaseEpoch, lease, offset, target)`,
  },
  {
    name: 'a push is sent twice',
    file: 'src/broker/subscription.ts',
    find: `    this.#session.push(this.#id, deliveries)`,
    replace: `    this.#session.push(this.#id, deliveries)
    this.#session.push(this.#id, deliveries)`,
  },
  {
    name: 'an expired message is delivered again before its failure is on the disk',
    from: 5,
    file: 'src/partition/leader.ts',
    find: `      this.#onceCommitted(undefined, undefined, ranges)
    }
    this.#wake`,
    replace: `      for (let j = 0; j < ranges.length; j += 2) this.#ready.set(ranges[j]!, ranges[j]! + ranges[j + 1]!)
      this.#sink.ready()
    }
    this.#wake`,
  },
  {
    name: 'a checkpoint overtakes the entries that it speaks of',
    from: 60,
    file: 'src/storage/log.ts',
    find: `    this.#queue.push(queued)
`,
    replace: `    if (queued.end < 0) this.#queue.unshift(queued)
    else this.#queue.push(queued)
`,
  },
  {
    name: 'a failed commit is taken for done',
    file: 'src/storage/log.ts',
    find: `          this.#fail(asStorageError('a commit', error))
          return false
        }
      }
      // Nothing was written.`,
    replace: `          return true
        }
      }
      // Nothing was written.`,
  },
  {
    name: 'a planned stop forgets a lease',
    from: 38,
    file: 'src/partition/leases.ts',
    find: `    return [...this.#leases.values()].map(`,
    replace: `    return [...this.#leases.values()].slice(1).map(`,
  },
  {
    name: 'a release counts as a failed delivery',
    file: 'src/partition/fold.ts',
    find: `        else if (body.action === settledBy.release) this.#undelay(body.settled)`,
    replace: `        else if (body.action === settledBy.release) this.#fail(body.settled, null, header.timeMs)`,
  },
  {
    name: 'a checkpoint forgets what is delayed',
    file: 'src/partition/checkpoint.ts',
    find: `    state.delayed = readRuns(fields)`,
    replace: `    readRuns(fields)`,
  },
  {
    name: 'the retry of a nack counts twice',
    from: 39,
    file: 'src/partition/leader.ts',
    find: `      this.#again(ref, known.base + 1, { kind: 'settled', refused: known.refused })`,
    replace: `      if (event.action === settledBy.nack) {
        const ranges: Ranges = []
        for (const { offset, count } of event.items) {
          this.#ready.forEachIn(offset, offset + count, (from, to) => ranges.push(from, to - from))
        }
        for (let i = 0; i < ranges.length; i += 2) this.#ready.delete(ranges[i]!, ranges[i]! + ranges[i + 1]!)
        this.#append({ kind: 'fail', cause: 0, ranges, notBefore: null, moved: null }, now, this.state.epoch)
        this.#onceCommitted(undefined, undefined, ranges)
      }
      this.#again(ref, known.base + 1, { kind: 'settled', refused: known.refused })`,
  },
  {
    name: 'a delay of a nack is not held',
    file: 'src/partition/leader.ts',
    find: `fill(timeMs + delayMs)`,
    replace: `fill(timeMs + (delayMs >> 1))`,
  },
  {
    name: 'a segment is removed though only settles that a crash may take back free it',
    from: 71,
    file: 'src/storage/partition-log.ts',
    find: `(checkpointed.from <= name || checkpointed.holds.includes(name))`,
    replace: `checkpointed.from <= name`,
  },
  {
    name: 'a segment is removed with the newest checkpoint in it',
    file: 'src/storage/partition-log.ts',
    find: `    if (checkpointed.segment === name) return 'start'
`,
    replace: ``,
  },
  {
    name: 'a checkpoint counts for retention before it is on the disk',
    from: 5,
    file: 'src/storage/partition-log.ts',
    find: `      const checkpoint = { segment: '', from, holds, bytes: bytes.length }
`,
    replace: `      const checkpoint = { segment: from, from, holds, bytes: bytes.length }
      this.checkpointed = checkpoint
`,
  },
  {
    name: 'a checkpoint under way has what came after it was begun',
    from: 100013,
    file: 'src/partition/range-map.ts',
    find: `    if (chunk.generation === this.#generation) return chunk
`,
    replace: `    if (chunk.generation <= this.#generation) return chunk
`,
  },
  {
    name: 'an entry shares its record with those before it that a checkpoint has',
    from: 49,
    file: 'src/storage/log.ts',
    find: `      if (!beginsRecord && bytes.length`,
    replace: `      if (bytes.length`,
  },
  {
    name: 'copies are not found again after a restart',
    file: 'src/storage/log.ts',
    find: `      if (this.#withCopies.has(segment)) log.findCopies(segment)
`,
    replace: ``,
  },
  {
    name: 'memory of an entry that is kept in the cache is given back',
    file: 'src/storage/entry-cache.ts',
    find: `    if (kept?.buffer !== bytes.buffer) buffers.giveBack(bytes)`,
    replace: `    buffers.giveBack(bytes)`,
  },
  {
    name: 'a client keeps a frame that was lent to it',
    file: 'src/wire/frame.ts',
    find: `    this.#onFrame(this.#lends ? frame : Uint8Array.prototype.slice.call(frame), 0)`,
    replace: `    this.#onFrame(frame, 0)`,
  },
  {
    name: 'a segment is removed with copies in it',
    file: 'src/storage/partition-log.ts',
    find: `    const c = this.copies.findIndex(({ segment }) => segment.name === name)
    if (c >= 0) {`,
    replace: `    const c = this.copies.findIndex(({ segment }) => segment.name === name)
    if (c >= 1e9) {`,
  },
  {
    name: 'a send that was given to a broker and timed out is called failed',
    from: 4,
    file: 'src/client/ending.ts',
    find: `  return new MqError('TIMEOUT', \`\${what}: \${why}\`, { outcome: outcomeOf(mayBeDone) })`,
    replace: `  return new MqError('TIMEOUT', \`\${what}: \${why}\`, { outcome: 'failed' })`,
  },
  {
    name: 'a target takes outputs again that it has',
    file: 'src/partition/leader.ts',
    find: `    if (comparePositions(last, previous) !== 0) {`,
    replace: `    if (comparePositions(last, previous) < 0) {`,
  },
  {
    name: 'a checkpoint forgets the outbox',
    file: 'src/partition/checkpoint.ts',
    find: `    state.outbox = Outbox.decode(fields.next() as StoredDestination[])`,
    replace: `    fields.next()`,
  },
  {
    name: 'a checkpoint forgets what it has of other outboxes',
    file: 'src/partition/checkpoint.ts',
    find: `      state.sources.set(Buffer.from(id).toString('latin1'), positionOf(position))`,
    replace: `        void [id, position]`,
  },
  {
    name: 'a forward without an answer is taken for done',
    from: 42,
    file: 'src/broker/forwarder.ts',
    find: `    if (answer === null || !this.#isOpen) return 'again'`,
    replace: `    if (answer === null && this.#isOpen) {
      leader.forwarded(target, position, this.#partition.now())
      return 'done'
    }
    if (answer === null || !this.#isOpen) return 'again'`,
  },
  {
    name: 'a message is given up one delivery too late',
    file: 'src/partition/leader.ts',
    find: `pushRange(delivery >= maxDeliveries ? givenUp : rest, from, to)`,
    replace: `pushRange(delivery > maxDeliveries ? givenUp : rest, from, to)`,
  },
  {
    name: 'an expiry gives nothing up',
    file: 'src/partition/leader.ts',
    find: `this.#failing(failed, null, 'the lease expired', timeMs)`,
    replace: `{ ...this.#resting(failed, null, timeMs), moved: null }`,
  },
  {
    name: 'a dead letter names the first of its batch as its origin',
    file: 'src/broker/forwarder.ts',
    find: `messageId(this.#queueName, partition.id, entry.epoch, offset)`,
    replace: `messageId(this.#queueName, partition.id, entry.epoch, entry.base)`,
  },
  {
    name: 'a change of options is not told to the leaders',
    from: 7,
    file: 'src/broker/queue.ts',
    find: `  update(options: QueueOptions): void {
    this.optionsSet = options
    this.options = effectiveOptions(options)
    this.#tellLeaders()`,
    replace: `  update(options: QueueOptions): void {
    this.optionsSet = options
    this.options = effectiveOptions(options)`,
  },
  {
    name: 'a purge leaves what is leased',
    from: 6,
    file: 'src/partition/leader.ts',
    find: `    this.#leases.takeBelow(end, left, (start, stop) => pushRange(ranges, start, stop))`,
    replace: `    void left`,
  },
  {
    name: 'a queue is deleted, and outboxes do not hear what it had taken from them',
    from: 132,
    file: 'src/broker/commands.ts',
    find: `      await tellSources(this.#broker, queue)`,
    replace: `      void tellSources`,
  },
]

/**
 * A copy of the compiled tree, with one bug in it.
 * @param root of the source
 * @param built where it has been compiled to
 */
export function plant(bug: PlantedBug, root: string, built: string): string {
  const outputText = compilePatched(root, bug.file, [bug])
  const copy = mkdtempSync(join(tmpdir(), 'mq-broker-planted-'))
  for (const part of ['src', 'test/sim']) {
    cpSync(join(built, part), join(copy, 'build', part), { recursive: true })
  }
  cpSync(join(root, 'package.json'), join(copy, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  writeFileSync(join(copy, 'build', bug.file.replace(/\.ts$/, '.js')), outputText)
  return copy
}

export interface Seeds {
  /** Seeds that were run. */
  readonly seeds: number
  /** Those that failed. */
  readonly found: readonly { readonly seed: number; readonly error: string }[]
}

/** Runs compiled seeds in a process of its own, until `failures` have failed, or `minutes` are over. */
export async function runSeeds(
  built: string,
  from: number,
  seeds: number,
  failures: number,
  minutes = Infinity,
): Promise<Seeds> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [
      // Broken connections are errors by the thousand, whose stacks nobody reads here (`npm run sim -- --seed N` has them),
      // and the collector is mostly at what a step leaves: a sixth of the time.
      ...['--stack-trace-limit=0', '--max-semi-space-size=64'],
      join(built, 'test/sim/main.js'),
      ...['--json', '--from', String(from), '--seeds', String(seeds), '--failures', String(failures)],
      ...['--minutes', String(minutes)],
    ],
    { env: { PATH: process.env['PATH'] }, maxBuffer: 1 << 24 },
  )
  return JSON.parse(stdout) as Seeds
}

/** Runs seeds with a bug until one fails. */
export async function hunt(
  bug: PlantedBug,
  root: string,
  built: string,
  from: number,
  seeds: number,
): Promise<Seeds> {
  const copy = plant(bug, root, built)
  try {
    return await runSeeds(join(copy, 'build'), from, seeds, 1)
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

async function main(): Promise<void> {
  const { parseArgs } = await import('node:util')
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '500' },
      from: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
      only: { type: 'string', default: '' },
    },
  })
  const root = resolve(import.meta.dirname, '../../..')
  const from = Number(values.from)
  let missed = 0
  console.log(`seeds from ${from}`)
  const left = plantedBugs.filter(({ name }) => name.includes(values.only))
  const huntOn = async (): Promise<void> => {
    for (let bug = left.shift(); bug !== undefined; bug = left.shift()) {
      const startedMs = performance.now()
      const { seeds, found } = await hunt(bug, root, join(root, 'build'), from, Number(values.seeds))
      if (found.length === 0) missed++
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1)
      console.log(
        `${found.length === 0 ? 'MISSED' : 'found'} in ${seeds} seeds, ${seconds} s: ${bug.name}` +
          found.map(({ seed, error }) => `\n    seed ${seed}: ${error.split('\n')[0]}`).join(''),
      )
    }
  }
  // As many at a time as the least machine has cores.
  await Promise.all([huntOn(), huntOn()])
  process.exit(missed === 0 ? 0 : 1)
}

if (process.argv[1] === import.meta.filename) await main()

/** What `mq-broker check DATA_DIR --dump` prints: an entry a line. */
import type { Store } from '../env.ts'
import { MqError } from '../errors.ts'
import { logName, noProducer, type Entry } from '../partition/entry.ts'
import { movedBecause, nowhere, type Moved, type Target } from '../partition/outbox.ts'
import { settledBy, type EntryBody } from '../partition/payload.ts'
import { DataDirectory } from '../storage/data-directory.ts'
import { type Dumped, type DumpedEntry, dumpLog } from '../storage/dump.ts'
import { attributes, type BatchView, messageBody, readBatch } from '../wire/batch.ts'
import { bodyFields, flush, printable, printSoon } from './output.ts'

export interface DumpFlags {
  readonly from: number
  readonly max?: number
  readonly bodies?: true
}

/** Of a locked store. */
export async function dump(store: Store, which: string, flags: DumpFlags, json: boolean): Promise<void> {
  // What is wrong is shown where it stands; the check says the rest.
  const directory = await DataDirectory.open(store, () => undefined)
  try {
    const name = logOf(directory, which)
    const nameOf = (target: Target): string => {
      if (target.queueId === nowhere.queueId) return '(no dead-letter queue)'
      const queue = directory.nameOf(target.queueId)
      return target.partition === 0 ? queue : `${queue}/${target.partition}`
    }
    let left = flags.max ?? Infinity
    for (const dumped of dumpLog(directory, name, flags.from)) {
      if (left-- <= 0) break
      const line = json ? JSON.stringify(objectOf(dumped, flags)) : printable(lineOf(dumped, flags, nameOf))
      await printSoon(`${line}\n`)
    }
    await flush()
  } finally {
    await directory.close()
  }
}

/** @throws MqError QUEUE_NOT_FOUND, INVALID_OPTION */
function logOf(directory: DataDirectory, which: string) {
  const [, queue = which, digits] = /^([^/]+)(?:\/(\d+))?$/.exec(which) ?? []
  const record = directory.find(queue)
  // Without meta the ids are all there is.
  const id = record?.id ?? (/^[0-9a-f]{32}$/.test(queue) ? queue : undefined)
  if (id === undefined) throw new MqError('QUEUE_NOT_FOUND', `the data has no queue ${queue}`)
  const partitions = record?.options.partitions ?? 1
  if (digits === undefined && partitions > 1) {
    throw new MqError(
      'INVALID_OPTION',
      `queue ${queue} has ${partitions} partitions: say which, as in --dump ${queue}/0`,
    )
  }
  return logName(id, Number(digits ?? 0))
}

function lineOf(dumped: Dumped, flags: DumpFlags, nameOf: (target: Target) => string): string {
  if (!('entry' in dumped)) {
    const { offset, end, rot } = dumped
    if (rot !== null) return `${offset}\t!! ROT: ${rot}`
    return `${offset}\t… up to ${end! - 1} is not there: settled and given back, or lost`
  }
  const { entry, body, rot, isCopy } = dumped
  const producer =
    entry.producerId === noProducer ? '-' : `${producerOf(entry).slice(0, 8)}/${entry.sequence}`
  const says = entry.kind === 'batch' ? batchText(dumped, flags) : body === null ? '' : bodyText(body, nameOf)
  const time = new Date(entry.timeMs).toISOString()
  const fields = [entry.base, entry.epoch, time, entry.kind, producer, entry.count, says]
  if (isCopy) fields.push('(a copy)')
  if (rot !== null) fields.push(`!! ROT: ${rot}`)
  return fields.join('\t')
}

function producerOf({ producerId }: Entry): string {
  return Buffer.from(producerId, 'latin1').toString('hex')
}

/** Of a batch, at most so much is shown. */
const shownMessagesMax = 10
const shownBytesMax = 40

function viewOf({ entry, rot }: DumpedEntry): BatchView | null {
  if (rot !== null) return null
  try {
    return readBatch(entry.payload)
  } catch {
    return null
  }
}

function headersOf(view: BatchView): number {
  let headers = 0
  try {
    for (const each of attributes(view)?.['headers'] ?? []) headers += Object.keys(each ?? {}).length
  } catch {
    // Columns that do not fit: they are counted as none.
  }
  return headers
}

function firstBodies(view: BatchView): Uint8Array[] {
  const shown = Math.min(view.count, shownMessagesMax)
  return Array.from({ length: shown }, (_, i) => messageBody(view, i).subarray(0, shownBytesMax))
}

function batchText(dumped: DumpedEntry, flags: DumpFlags): string {
  const { entry } = dumped
  const view = viewOf(dumped)
  const parts = [`${entry.count} message${entry.count === 1 ? '' : 's'}`, `${entry.payload.length} bytes`]
  if (view !== null) parts.push(`${headersOf(view)} headers`)
  if (entry.isForwarded) {
    parts.push(`forwarded, up to its source's ${entry.opening}-${entry.sequence}.${entry.producerEpoch}`)
  }
  if (entry.notBeforeMs > 0) parts.push(`not before ${timeText(entry.notBeforeMs)}`)
  if (entry.ownDelays) parts.push('delays of their own')
  if (flags.bodies && view !== null) {
    const bodies = firstBodies(view).map((body) => JSON.stringify(Buffer.from(body).toString('utf8')))
    parts.push(bodies.join(' ') + (view.count > shownMessagesMax ? ' …' : ''))
  }
  return parts.join(', ')
}

const actions = new Map<number, string>(Object.entries(settledBy).map(([name, number]) => [number, name]))
const reasons = new Map<number, string>(Object.entries(movedBecause).map(([name, number]) => [number, name]))

function bodyText(body: EntryBody, nameOf: (target: Target) => string): string {
  switch (body.kind) {
    case 'batch':
      return ''
    case 'settle': {
      const parts = [`${actions.get(body.action) ?? body.action} ${rangesText(body.settled, body.notBefore)}`]
      if (body.refused !== null) parts.push(`refused ${rangesText(body.refused)}`)
      if (body.reason !== null) parts.push(`reason ${JSON.stringify(body.reason)}`)
      if (body.moved !== null) parts.push(movedText(body.moved, nameOf))
      return parts.join(', ')
    }
    case 'fail': {
      const failed = `expired ${rangesText(body.ranges, body.notBefore)}`
      return body.moved === null ? failed : `${failed}, ${movedText(body.moved, nameOf)}`
    }
    case 'epochStart':
      return `after epoch ${body.previous}`
    case 'leases': {
      const held = body.leases.map(
        ({ lease, epoch, ranges }) => `${lease} of epoch ${epoch} ${leaseText(ranges)}`,
      )
      return `handed over: next is ${body.nextLease}; ${held.length === 0 ? 'none' : held.join('; ')}`
    }
    case 'evict':
      return `${body.producers.length} producers forgotten, floor ${body.floor}`
    case 'quarantine':
    case 'purge':
      return rangesText(body.ranges)
    case 'move':
      return movedText(body.moved, nameOf)
    case 'forwarded': {
      const { epoch, offset, index } = body.position
      return `outputs to ${nameOf(body.target)} are done up to ${epoch}-${offset}.${index}`
    }
    case 'redirect':
      return `what waits for ${nameOf(body.from)} ${body.to === null ? 'comes back' : `goes to ${nameOf(body.to)}`}`
    case 'forget':
      return `${body.sources.length} sources forgotten`
  }
}

function movedText({ why, target, error, ranges }: Moved, nameOf: (target: Target) => string): string {
  const because = error === null ? '' : ` ${JSON.stringify(error)}`
  return `moved ${rangesText(ranges)} to ${nameOf(target)} (${reasons.get(why) ?? why}${because})`
}

/** `5-7 9 (not before …)`, ends inclusive. */
function rangesText(ranges: readonly number[], notBefore: readonly number[] | null = null): string {
  const texts: string[] = []
  for (let i = 0; i < ranges.length; i += 2) {
    const until = notBefore?.[i >> 1] ?? 0
    texts.push(rangeText(ranges[i]!, ranges[i + 1]!) + (until > 0 ? ` (not before ${timeText(until)})` : ''))
  }
  return texts.length === 0 ? 'none' : texts.join(' ')
}

function leaseText(triples: readonly number[]): string {
  const texts: string[] = []
  for (let i = 0; i < triples.length; i += 3)
    texts.push(`${rangeText(triples[i]!, triples[i + 1]!)} until ${timeText(triples[i + 2]!)}`)
  return texts.join(' ')
}

function rangeText(start: number, count: number): string {
  return count === 1 ? String(start) : `${start}-${start + count - 1}`
}

function timeText(ms: number): string {
  // What rot made of a time may be none.
  return ms <= 8.64e15 ? new Date(ms).toISOString() : String(ms)
}

function objectOf(dumped: Dumped, flags: DumpFlags): object {
  if (!('entry' in dumped)) {
    const { offset, end, rot, segment } = dumped
    return rot === null ? { offset, missingUpTo: end } : { offset, segment, rot }
  }
  const { entry, body, rot, segment, isCopy } = dumped
  const { base, epoch, timeMs, kind, sequence, count, payload } = entry
  const isAnonymous = entry.producerId === noProducer
  const view = kind === 'batch' ? viewOf(dumped) : null
  return {
    offset: base,
    epoch,
    timeMs,
    kind,
    producer: isAnonymous ? null : producerOf(entry),
    sequence: isAnonymous ? null : sequence,
    count,
    bytes: payload.length,
    segment,
    ...(isCopy ? { isCopy } : {}),
    ...(kind === 'batch' ? { notBeforeMs: entry.notBeforeMs, isForwarded: entry.isForwarded } : {}),
    ...(view === null ? {} : { headers: headersOf(view) }),
    ...(view !== null && flags.bodies ? { bodies: firstBodies(view).map(bodyFields) } : {}),
    ...(body === null || body.kind === 'batch' ? {} : { says: saidBy(body) }),
    ...(rot === null ? {} : { rot }),
  }
}

/** As it is decoded, with ids as text that JSON can carry. */
function saidBy(body: EntryBody): object {
  const { kind: _, ...fields } = body
  const hex = (ids: readonly string[]) => ids.map((id) => Buffer.from(id, 'latin1').toString('hex'))
  if (body.kind === 'evict') return { ...fields, producers: hex(body.producers) }
  if (body.kind === 'forget') return { ...fields, sources: hex(body.sources) }
  return fields
}

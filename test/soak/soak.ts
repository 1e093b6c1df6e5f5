/**
 * A soak: the real broker with small segments, a steady mix of all that clients do, and a look at it each second.
 *
 *   start → load and samples → load ends → what is left is taken → what must hold is checked → planned stop
 */
import { setTimeout as delay } from 'node:timers/promises'
import { BrokerProcess, within } from '../../bench/broker-process.ts'
import { Killed } from './killed.ts'
import { Load, type Kind } from './load.ts'
import type { Panel, Picture } from './picture.ts'
import { Sampler, type Measure, type Sample } from './sample.ts'

export interface SoakOptions {
  readonly dataDir: string
  readonly loadMs: number
  readonly seed: number
  /** Messages that producers send a second. */
  readonly perSecond: number
  /** Between one client that is killed and the next, in milliseconds. */
  readonly killedEveryMs: number
  /** Called after each sample. */
  readonly onSample?: ((sample: Sample) => void) | undefined
}

export interface SoakResult {
  readonly samples: readonly Sample[]
  readonly done: Readonly<Record<Kind | 'killed', number>>
  readonly messages: number
  readonly refusedSettles: number
  readonly violations: number
  /** The first violations in words. */
  readonly words: readonly string[]
  /** Warnings and worse that the broker logged last. */
  readonly log: string
}

const sampleMs = 1000
const finishMs = 120_000
/** Small, so that many come and go. */
const segmentBytes = 4 << 20

/** @throws Error when a call failed that must not */
export async function soak(options: SoakOptions): Promise<SoakResult> {
  const { dataDir, loadMs, seed, perSecond, killedEveryMs, onSample } = options
  const environment = { MQ_SEGMENT_BYTES: String(segmentBytes) }
  const broker = await BrokerProcess.start({ dataDir, environment })
  let load: Load | null = null
  let killed: Killed | null = null
  try {
    load = await Load.start(broker.listen, { seed, perSecond })
    let fail: (error: unknown) => void = () => undefined
    const clientFailed = new Promise<never>((_, reject) => (fail = reject))
    const broken = Promise.race([load.broken, clientFailed])
    broken.catch(() => undefined)
    killed = new Killed(broker.listen, killedEveryMs, (error) => fail(error))
    const sampler = new Sampler(broker, dataDir)
    const samples: Sample[] = []
    const startMs = performance.now()
    while (performance.now() - startMs < loadMs) {
      const sample = await Promise.race([sampler.take(), broken])
      if (sample !== null) {
        samples.push(sample)
        onSample?.(sample)
      }
      // Not to a beat: after an answer that came late, the next one soon would make rates out of next to no time.
      await Promise.race([delay(sampleMs), broken])
    }
    await killed.stop()
    await within(finishMs, 'the queues to be drained', Promise.race([load.finish(), broken]))
    await load.close()
    await broker.stop()
    const { ledger, done } = load
    return {
      samples,
      done: { ...done, killed: killed.count },
      messages: ledger.begun,
      refusedSettles: ledger.refusedSettles,
      violations: ledger.violations,
      words: ledger.words,
      log: broker.log,
    }
  } finally {
    await killed?.stop()
    await load?.close()
    await broker.kill()
  }
}

/** The first part of a run, which is not judged. */
export const warmUpShare = 1 / 3

export function pictureOf(samples: readonly Sample[], title: string, subtitle: string): Picture {
  const all = (measure: Measure, scale = 1) => samples.map((sample) => sample[measure] * scale)
  const seconds = all('seconds')
  const panel = (title: string, unit: string, ...series: [string, number[]][]): Panel => {
    return { title, unit, series: series.map(([name, values]) => ({ name, values })) }
  }
  const mebi = 1 / 2 ** 20
  return {
    title,
    subtitle,
    seconds,
    warmUpSeconds: (seconds.at(-1) ?? 0) * warmUpShare,
    panels: [
      panel(
        'Memory of the broker',
        'MiB',
        ['resident', all('residentBytes', mebi)],
        ['beyond the map', all('beyondMapBytes', mebi)],
      ),
      panel('JavaScript heap in use', 'MiB', ['heap', all('heapUsedBytes', mebi)]),
      panel('Data directory', 'MiB', ['bytes', all('dataBytes', mebi)]),
      panel('Log segments', 'files', ['segments', all('segments')]),
      panel('Open descriptors', 'files', ['descriptors', all('openDescriptors')]),
      panel('Messages that are not settled', 'messages', ['messages', all('messages')]),
      panel('Rates', 'a second', ['sent', all('sentPerSecond')], ['acked', all('ackedPerSecond')]),
      panel('CPU of the broker', '% of a core', ['CPU', all('cpuShare', 100)]),
      panel('Event loop, longest delay in each second', 'ms', ['delay', all('lagMaxMs')]),
    ],
  }
}

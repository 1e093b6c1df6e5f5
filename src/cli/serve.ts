/**
 * A broker's life as a process: opens the HTTP port, starts the broker, says on stdout that it serves, and stays
 * until something ends it:
 *
 *   SIGTERM, SIGINT    the broker stops in order → 0; past the deadline, or at a second signal → 1
 *   broker.failed      it stopped itself, because its disk failed for example → 1; while a system call of the disk
 *                      does not return → SIGKILL to itself
 *   uncaughtException  a defect: nothing in memory can be trusted, so nothing more is written → 1
 *
 * Whatever an abrupt end leaves behind is recovered by the next start, so when in doubt the process ends.
 */
import { pino } from 'pino'
import pretty from 'pino-pretty'
import { type Broker, type Logger, startBroker } from '../broker/broker.ts'
import type { StartOptions } from '../config.ts'
import type { Clock } from '../env.ts'
import { MqError } from '../errors.ts'
import { Exposition } from '../observe/exposition.ts'
import { type HttpServer, startHttp } from '../observe/http.ts'
import { writeMetrics } from '../observe/metrics.ts'
import { ProcessMetrics } from '../observe/process-metrics.ts'
import { openLmdbStore } from '../storage/lmdb.ts'
import { systemClock, systemRandom } from '../system.ts'
import { formatAddress } from '../units.ts'
import { socketNetwork } from '../wire/sockets.ts'
import { exitCodeOf, failureLine } from './failure.ts'
import { note, print, ReaderGone } from './output.ts'

/** Promised: a stop takes less than ten seconds. */
const stopMs = 9500
/** A terminal sends Ctrl-C to npm and to us, and npm passes it on: signals so close together are one. */
const sameSignalMs = 200
/** Log text that waits for stderr: a stuck terminal costs lines, never the broker's time. */
const logBytesMax = 1 << 20

/** Does not return: the process ends by `process.exit`, since a log or a socket could keep it alive. */
export async function serve(options: StartOptions, json: boolean): Promise<never> {
  const { log, flushLog } = createLog(options.logLevel)
  const exit = (code: number, line?: string): never => {
    flushLog()
    if (line !== undefined) note(line)
    process.exit(code)
  }
  const fail = (error: unknown): never => {
    // An orderly exit joins every thread, also the one that is stuck in the disk.
    if (error instanceof MqError && error.details?.['stuck'] === true) {
      flushLog()
      note(failureLine(error))
      process.kill(process.pid, 'SIGKILL')
    }
    return exit(exitCodeOf(error), failureLine(error))
  }

  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'a defect: the broker ends at once, so that it cannot do harm')
    fail(error)
  })
  const stopping = stopSignal(systemClock, log, (why) =>
    exit(1, `mq-broker: stopped at once, because ${why}; the next start recovers.`),
  )
  try {
    const running = await start(options, log)
    // Whenever it fails, also while it stops.
    void running.broker.failed.then(fail)
    if (!stopping.begun) await announce(running, json, log)
    await stopping.signal
    await running.broker.stop()
    await running.http.close()
  } catch (error) {
    fail(error)
  }
  return exit(0)
}

interface Running {
  readonly http: HttpServer
  readonly broker: Broker
}

/** HTTP first: recovery may take a while, and a service manager that asks meanwhile should hear that we live. */
async function start(options: StartOptions, log: Logger): Promise<Running> {
  const { dataDir, listen, nodeId, segmentBytes, heartbeatMs } = options
  const { maxConnections, maxUnreadBytes, maxQueues, maxPartitions } = options
  let broker: Broker | undefined = undefined
  const readiness = () => broker?.readiness() ?? ['starting']
  const ofProcess = new ProcessMetrics(systemClock)
  const metrics = async () => {
    const out = new Exposition()
    if (broker !== undefined) await writeMetrics(broker.measured, systemClock, out)
    ofProcess.write(out)
    return out.toString()
  }
  const http = await startHttp({ address: options.http, readiness, metrics })
  const env = {
    clock: systemClock,
    random: systemRandom,
    network: socketNetwork,
    store: openLmdbStore(dataDir),
  }
  broker = await startBroker(env, {
    listen,
    nodeId,
    log,
    maxConnections,
    maxUnreadBytes,
    maxQueues,
    maxPartitions,
    segmentBytes,
    heartbeatMs,
  })
  return { http, broker }
}

async function announce({ http, broker }: Running, json: boolean, log: Logger): Promise<void> {
  const facts = {
    node: broker.nodeId,
    listen: formatAddress(broker.address),
    http: formatAddress(http.address),
    pid: process.pid,
  }
  const { pid, ...places } = facts
  // The log has the process's id in each line.
  log.info(places, 'serving')
  const { node, listen } = facts
  const text = `Node ${node} serves clients on ${listen} and HTTP on ${facts.http}, as process ${pid}.`
  try {
    await print(`${json ? JSON.stringify(facts) : text}\n`)
  } catch (error) {
    // That nobody reads it is no reason not to serve.
    if (!(error instanceof ReaderGone)) throw error
  }
}

interface StopSignal {
  /** Whether a stop was asked for. */
  readonly begun: boolean
  /** Resolves when it is. */
  readonly signal: Promise<void>
}

/** From the first SIGTERM or SIGINT on the clock runs; `atOnce` is called for a second one, or past the deadline. */
function stopSignal(clock: Clock, log: Logger, atOnce: (why: string) => void): StopSignal {
  let begunMs: number | undefined
  const signal = new Promise<void>((resolve) => {
    const onSignal = (name: NodeJS.Signals) => {
      const nowMs = clock.monotonicMs()
      if (begunMs === undefined) {
        begunMs = nowMs
        log.info({ signal: name }, 'told to stop')
        clock.after(stopMs, () => atOnce(`the stop took longer than ${stopMs / 1000} s`))
        resolve()
      } else if (nowMs - begunMs > sameSignalMs) {
        atOnce(`${name} came again`)
      }
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
  })
  return {
    signal,
    get begun() {
      return begunMs !== undefined
    },
  }
}

/**
 * Logs go to stderr: JSON, or for people where a person sees them. Formatted in this thread, without streams in
 * between, so that the last line before an end is written too.
 */
function createLog(level: StartOptions['logLevel']) {
  const stderr = pino.destination({ dest: 2, sync: false, maxLength: logBytesMax })
  const format = pretty.prettyFactory({
    colorize: process.stderr.hasColors?.() ?? false,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,hostname',
  })
  const destination = process.stderr.isTTY
    ? { write: (line: string) => void stderr.write(String(format(line))) }
    : stderr
  const log = pino({ level, timestamp: pino.stdTimeFunctions.isoTime }, destination)
  return { log, flushLog: () => stderr.flushSync() }
}

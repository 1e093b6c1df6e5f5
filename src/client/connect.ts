import type { ClientEnv } from '../env.ts'
import { MqError } from '../errors.ts'
import { AbortWatch } from './abort-watch.ts'
import { Activity } from './activity.ts'
import { BuilderPool } from './builder-pool.ts'
import { MqClient } from './client.ts'
import type { Core } from './core.ts'
import { Deadlines } from './deadlines.ts'
import { Emitter } from './emitter.ts'
import type { ClientEvents } from './events.ts'
import { checkConnectOptions, type ClientSettings, type ConnectOptions } from './options.ts'
import { Producer } from './producer.ts'
import { Queues } from './queues.ts'
import { Receiver } from './receiver.ts'
import { Session } from './session.ts'
import { Turn } from './turn.ts'

/**
 * Connects on a given world: what `connect` does on the real one.
 * @throws MqError INVALID_OPTION, UNSUPPORTED; DISCONNECTED or TIMEOUT when no broker answers within `timeoutMs`;
 *   ABORTED; what the broker says, if it refuses the connection
 */
export async function connectWith(env: ClientEnv, options: ConnectOptions = {}): Promise<MqClient> {
  const settings = checkConnectOptions(options)
  const { clock, random } = env
  const events = new Emitter<ClientEvents>()
  const clientId = Buffer.from(random.bytes(16)).toString('latin1')
  const { failsOffline } = settings
  const session = new Session(
    env,
    {
      servers: settings.servers,
      name: settings.name,
      clientId,
      failsOffline,
      attemptTimeoutMs: attemptTimeoutMs(settings),
    },
    events,
  )
  const gate: { closed: MqError | null } = { closed: null }
  const core: Core = {
    clock,
    random,
    session,
    events,
    deadlines: new Deadlines(clock),
    activity: new Activity(),
    turn: new Turn(clock),
    aborts: new AbortWatch(),
    failsOffline,
    checkOpen() {
      if (gate.closed !== null) throw gate.closed
    },
  }
  const queues = new Queues(core, new BuilderPool(), clientId)
  const producer = new Producer(core, queues, settings.serializer, settings.maxPendingBytes)
  const receiver = new Receiver(core, queues, settings.serializer)
  session.onReady = () => queues.pump()
  session.onOffline = () => {
    if (failsOffline) core.activity.abandon('DISCONNECTED')
  }
  await opened(session, env, settings.timeoutMs, settings.signal)
  const { serializer } = settings
  const subscriptions = { core, queues, serializer }
  return new MqClient({ core, events, queues, producer, receiver, subscriptions, serializer, gate })
}

/** A server that says nothing must leave the others their time; but a slow one deserves a second, if there is one. */
function attemptTimeoutMs({ timeoutMs, servers }: ClientSettings): number {
  return Math.max(Math.ceil(timeoutMs / servers.length), Math.min(timeoutMs, 1000))
}

/** The first connection, within its time. */
function opened(
  session: Session,
  env: ClientEnv,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (run: () => void): void => {
      timer.cancel()
      signal?.removeEventListener('abort', onAbort)
      run()
    }
    const fail = (error: MqError): void => {
      end(() => {
        session.close(false)
        reject(error)
      })
    }
    const timer = env.clock.after(timeoutMs, () => {
      const cause = session.lastError
      // Nobody listened in all that time, which says more than that the time is over.
      const code = cause?.code === 'DISCONNECTED' ? 'DISCONNECTED' : 'TIMEOUT'
      const why = cause === null ? '' : `: ${cause.message}`
      fail(
        new MqError(code, `no broker could be reached within ${timeoutMs} ms${why}`, {
          outcome: 'failed',
          cause,
        }),
      )
    })
    const onAbort = (): void => {
      fail(new MqError('ABORTED', 'connecting was aborted', { outcome: 'failed', cause: signal?.reason }))
    }
    signal?.addEventListener('abort', onAbort)
    session.open().then(
      () => end(resolve),
      (error: unknown) => end(() => reject(error instanceof Error ? error : new Error(String(error)))),
    )
  })
}

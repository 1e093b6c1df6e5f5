/** Accepts connections, within a bound, and keeps the table of sessions: one live session a client. */
import type { Address, Env, Listener as NetworkListener, Socket } from '../env.ts'
import { errorTable, MqError } from '../errors.ts'
import { LimitedLog } from '../observe/limited-log.ts'
import type { ProducerId } from '../types.ts'
import type { Credit } from '../wire/messages.ts'
import { Session, type Request, type SessionHost } from './session.ts'
import { UnreadBytes } from './unread.ts'

/** Connections beyond the bound that are told why they are refused; past it they are cut without a word. */
const refusedMax = 64

/** The broker behind the listener. */
export interface Backend {
  readonly clusterId: string
  readonly nodeId: string
  readonly options: {
    readonly heartbeatMs: number
    readonly maxConnections: number
    readonly maxUnreadBytes: number
  }
  readonly logger: {
    debug(fields: object, message: string): void
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
  }
  readonly log: { readonly backlogged: boolean }
  fail(error: MqError): void
}

/** Carries requests out. */
export interface RequestHandler {
  handle(session: Session, request: Request, frame: Uint8Array, headroom: number): void
  credit(session: Session, credit: Credit): void
  drained(session: Session): void
}

export class Listener implements SessionHost {
  readonly #backend: Backend
  readonly #handler: RequestHandler
  readonly #env: Env
  readonly #log: LimitedLog
  #listener!: NetworkListener
  readonly #sessions = new Set<Session>()
  readonly unread: UnreadBytes
  readonly #byClient = new Map<ProducerId, Session>()
  /** Those of the sessions that were refused when they came and have not gone yet: at most `refusedMax`. */
  readonly #refused = new Set<Session>()
  /** Why nobody is let in, if so. */
  #refusal: MqError | null = new MqError('STOPPING', 'the broker is starting')
  #whenEmpty: (() => void) | null = null

  private constructor(env: Env, backend: Backend, handler: RequestHandler) {
    this.#env = env
    this.#backend = backend
    this.#handler = handler
    this.#log = new LimitedLog(backend.logger, env.clock)
    const { maxUnreadBytes } = backend.options
    this.unread = new UnreadBytes(maxUnreadBytes, this.#sessions, env.clock, () => this.#hasRoom())
  }

  /** Takes the address. Whoever connects is told to come again, until `accept`. */
  static async open(
    env: Env,
    address: Address,
    backend: Backend,
    handler: RequestHandler,
  ): Promise<Listener> {
    const self = new Listener(env, backend, handler)
    self.#listener = await env.network.listen(address, (socket) => self.#accept(socket))
    return self
  }

  /** From now on whoever connects is let in. */
  accept(): void {
    this.#refusal = null
  }

  get address(): Address {
    return this.#listener.address
  }

  get connections(): number {
    return this.#sessions.size
  }

  get clusterId(): string {
    return this.#backend.clusterId
  }

  get nodeId(): string {
    return this.#backend.nodeId
  }

  get heartbeatMs(): number {
    return this.#backend.options.heartbeatMs
  }

  get backlogged(): boolean {
    return this.#backend.log.backlogged
  }

  handle(session: Session, request: Request, frame: Uint8Array, headroom: number): void {
    this.#handler.handle(session, request, frame, headroom)
  }

  credit(session: Session, credit: Credit): void {
    this.#handler.credit(session, credit)
  }

  drained(session: Session): void {
    this.#handler.drained(session)
  }

  broken(error: unknown): void {
    this.#backend.fail(
      new MqError('INTERNAL', `a defect: ${String(error instanceof Error ? error.stack : error)}`),
    )
  }

  /** The log has caught up: sessions read on. */
  relieved(): void {
    for (const session of this.#sessions) session.updateFlow()
  }

  /** There is room for answers again: those that were not served are. */
  #hasRoom(): void {
    for (const session of this.#sessions) {
      session.updateFlow()
      if (session.canTake) this.#handler.drained(session)
    }
  }

  opened(session: Session): boolean {
    const older = this.#byClient.get(session.clientId)
    if (older !== undefined) {
      if (older.number >= session.number) return false
      // Its frames that are still on the way would otherwise pass for new ones behind their own retries.
      older.close(new MqError('SESSION_REPLACED', 'the client has connected again'))
    }
    this.#byClient.set(session.clientId, session)
    this.#log.write('info', 'client connected', { ...who(session), connection: session.number })
    return true
  }

  closed(session: Session, error: MqError | undefined): void {
    this.#sessions.delete(session)
    this.unread.gone(session)
    const wasRefused = this.#refused.delete(session)
    if (this.#byClient.get(session.clientId) === session) this.#byClient.delete(session.clientId)
    const said = { ...who(session), openMs: Math.round(this.#env.clock.monotonicMs() - session.acceptedMs) }
    if (error !== undefined) {
      const { code, message } = error
      // A broker that starts or stops will take no connection, which is nobody's fault.
      if (wasRefused && code === 'STOPPING') this.#log.write('info', 'connection refused', { ...said, code })
      else this.#log.write('warn', 'connection ended by an error', { ...said, code, reason: message })
    } else if (session.number > 0) {
      this.#log.write('info', 'client disconnected', said)
    }
    if (this.#sessions.size === 0) this.#whenEmpty?.()
  }

  refused(session: Session, error: MqError): void {
    const { code, message } = error
    // That a client gave up is its own affair; that its connection ends is told when it has.
    if (code === 'CANCELLED' || errorTable[code].closes) return
    this.#log.write('info', 'request refused', { ...who(session), code, reason: message })
  }

  /** No new connections; those that are open are told. */
  async stopAccepting(): Promise<void> {
    this.#refusal = new MqError('STOPPING', 'the broker is stopping')
    await this.#listener.close()
    for (const session of this.#sessions) session.goAway('stopping')
  }

  /** Sends what was answered and ends every connection; those that do not read are cut after a second. */
  async close(): Promise<void> {
    this.#refusal = new MqError('STOPPING', 'the broker is stopping')
    await this.#listener.close()
    this.unread.stop()
    if (this.#sessions.size > 0) await this.#endAll()
    this.#log.close()
  }

  async #endAll(): Promise<void> {
    const empty = new Promise<void>((resolve) => (this.#whenEmpty = resolve))
    for (const session of [...this.#sessions]) session.end()
    const timer = this.#env.clock.after(1000, () => this.destroy())
    await empty
    timer.cancel()
  }

  /** Cuts every connection: nothing more is said. */
  destroy(): void {
    this.#refusal = new MqError('STOPPING', 'the broker is stopping')
    void this.#listener.close()
    this.unread.stop()
    for (const session of [...this.#sessions]) session.destroy()
  }

  #accept(socket: Socket): void {
    const refusal = this.#whyNot()
    if (refusal !== null && this.#refused.size >= refusedMax) {
      const { code } = refusal
      this.#log.write('warn', 'connection cut without a word', { remote: socket.remote, code })
      return socket.destroy()
    }
    const session = new Session(socket, this.#env.clock, this)
    this.#sessions.add(session)
    if (refusal === null) return
    this.#refused.add(session)
    session.close(refusal)
  }

  /** Why one more connection is too many. */
  #whyNot(): MqError | null {
    if (this.#refusal !== null) return this.#refusal
    const { maxConnections } = this.#backend.options
    if (this.#sessions.size - this.#refused.size < maxConnections) return null
    return new MqError('TOO_MANY_CONNECTIONS', `${maxConnections} connections are open`)
  }
}

/** A session as the log names it. */
function who(session: Session): { client: string; remote: string } {
  return { client: session.clientName, remote: session.remote }
}

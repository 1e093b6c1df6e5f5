/** The HTTP port: whether the process lives and whether it serves, and its metrics. For machines that look after it. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Address } from '../env.ts'
import { listenError } from '../wire/sockets.ts'
import { expositionType } from './exposition.ts'

/** Probes are few and short; whoever wants more of this port waits. */
const connectionsMax = 64
const headerBytesMax = 8 << 10
const headersMs = 5000
const requestMs = 10_000
const idleMs = 5000
const plainType = 'text/plain; charset=utf-8'

export interface HttpOptions {
  readonly address: Address
  /** Why requests cannot be served now; empty when they can. */
  readonly readiness: () => readonly string[]
  /** What `/metrics` answers, in Prometheus's text format. */
  readonly metrics: () => Promise<string>
}

export interface HttpServer {
  /** Where it really listens: a port of 0 is resolved. */
  readonly address: Address
  /** Ends all connections. Idempotent. */
  close(): Promise<void>
}

/** @throws MqError ADDRESS_IN_USE, ADDRESS_NOT_AVAILABLE */
export async function startHttp({ address, readiness, metrics }: HttpOptions): Promise<HttpServer> {
  const shared = once(metrics)
  const server = createServer(
    {
      maxHeaderSize: headerBytesMax,
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      keepAliveTimeout: idleMs,
      connectionsCheckingInterval: 1000,
    },
    (request, response) => answer(request, response, readiness, shared),
  )
  server.maxConnections = connectionsMax
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, address, ' (HTTP)')))
    server.listen({ host: address.host, port: address.port }, () => {
      server.removeAllListeners('error')
      // A connection that could not be accepted (no descriptor left) is its client's trouble, not the server's.
      server.on('error', () => {})
      resolve()
    })
  })
  const bound = server.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : address.port
  return {
    address: { host: address.host, port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  readiness: () => readonly string[],
  metrics: () => Promise<string>,
): void {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD')
    return reply(response, 405, 'Only GET and HEAD are answered here.\n')
  }
  const path = (request.url ?? '').split('?', 1)[0] ?? ''
  switch (path) {
    case '/healthz':
      return reply(response, 200, 'ok\n')
    case '/readyz': {
      const reasons = readiness()
      return reply(response, reasons.length === 0 ? 200 : 503, { ready: reasons.length === 0, reasons })
    }
    case '/metrics':
      metrics().then(
        (text) => reply(response, 200, text, expositionType),
        () => reply(response, 500, 'The metrics could not be read.\n'),
      )
      return
    default:
      return reply(response, 404, 'There is nothing here; see /healthz, /readyz and /metrics.\n')
  }
}

/** Whoever asks while an answer is being made gets the same: many scrapers cost no more than one. */
function once(make: () => Promise<string>): () => Promise<string> {
  let making: Promise<string> | null = null
  return () => {
    making ??= make().finally(() => (making = null))
    return making
  }
}

function reply(response: ServerResponse, status: number, body: string | object, type = plainType): void {
  const isText = typeof body === 'string'
  const bytes = Buffer.from(isText ? body : `${JSON.stringify(body)}\n`)
  response.writeHead(status, {
    'content-type': isText ? type : 'application/json',
    'content-length': bytes.length,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  })
  // Node leaves the body away for HEAD.
  response.end(bytes)
}

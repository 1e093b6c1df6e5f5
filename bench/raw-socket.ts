/**
 * What the path between two processes can do by itself. One writes frames into a loopback connection as fast as it
 * takes them, the other reads them and looks at none; the reader connects: only then does Node let it read into one
 * buffer, as the broker and its client do. Or many connections have one frame each on its way, and wait for its answer, by
 * what `net` does when nobody asks for more.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { secondsSince } from './load.ts'
import { nowMs } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface AskTask {
  readonly port: number
  readonly sockets: number
  readonly frameBytes: number
  readonly warmMs: number
  readonly durationMs: number
}

export interface WriteTask {
  readonly frameBytes: number
  readonly durationMs: number
}

const readBytes = 64 << 10
/** Of the answer to a frame: about what confirms a send. */
const answerBytes = 32

let writer: Promise<Socket>

const steps = {
  /**
   * @param bufferBytes frames are handed to the socket until it holds so much that the kernel has not taken
   * @returns the port
   */
  async listen({ bufferBytes }: { bufferBytes: number }): Promise<number> {
    const server = createServer({ highWaterMark: bufferBytes, noDelay: true }).listen(0, '127.0.0.1')
    writer = once(server, 'connection').then(([socket]) => socket as Socket)
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  },

  async write({ frameBytes, durationMs }: WriteTask) {
    const socket = await writer
    const frame = randomBytes(frameBytes)
    const cpu = process.cpuUsage()
    const startMs = nowMs()
    const deadlineMs = performance.now() + durationMs
    let frames = 0
    const burst = Math.ceil(socket.writableHighWaterMark / frameBytes)
    while (performance.now() < deadlineMs) {
      // One write to the kernel for what one turn sends, as the broker and its client do.
      socket.cork()
      for (let i = 0; i < burst; i++, frames++) socket.write(frame)
      socket.uncork()
      await (socket.writableNeedDrain ? once(socket, 'drain') : setImmediate())
    }
    socket.end()
    return { frames, startMs, cpuSeconds: secondsSince(cpu) }
  },

  /** Resolves once the writer has ended it. */
  async read({ port }: { port: number }) {
    const cpu = process.cpuUsage()
    let bytes = 0
    const onread = {
      buffer: Buffer.allocUnsafeSlow(readBytes),
      callback(length: number) {
        bytes += length
        return true
      },
    }
    const socket = connect({ host: '127.0.0.1', port, onread })
    await once(socket, 'end')
    return { bytes, endMs: nowMs(), cpuSeconds: secondsSince(cpu) }
  },

  /**
   * Answers each frame of each connection.
   * @returns the port
   */
  async answer({ frameBytes }: { frameBytes: number }): Promise<number> {
    const answer = Buffer.alloc(answerBytes)
    const server = createServer({ noDelay: true }, (socket) => {
      let bytes = 0
      socket.on('data', (chunk) => {
        bytes += chunk.length
        for (; bytes >= frameBytes; bytes -= frameBytes) socket.write(answer)
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  },

  /** Each connection sends a frame when the one before it was answered. */
  async ask({ port, sockets, frameBytes, warmMs, durationMs }: AskTask) {
    const frame = randomBytes(frameBytes)
    let answers = 0
    let isOver = false
    const all = Array.from({ length: sockets }, () => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true })
      let bytes = 0
      socket.on('connect', () => socket.write(frame))
      socket.on('data', (chunk) => {
        bytes += chunk.length
        if (bytes < answerBytes) return
        bytes -= answerBytes
        answers++
        if (isOver) socket.end()
        else socket.write(frame)
      })
      return once(socket, 'close')
    })
    const watch = async () => {
      await setTimeout(warmMs)
      const cpu = process.cpuUsage()
      const before = answers
      const startMs = nowMs()
      await setTimeout(durationMs)
      isOver = true
      return { answers: answers - before, elapsedMs: nowMs() - startMs, cpuSeconds: secondsSince(cpu) }
    }
    const [result] = await Promise.all([watch(), ...all])
    return result
  },
}

export type SocketSteps = typeof steps

serveSteps(steps)

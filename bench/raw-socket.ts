/**
 * What the path between two processes can do by itself: one writes frames into a loopback connection as fast as it
 * takes them, the other reads them and looks at none. The reader connects: only then does Node let it read into one
 * buffer, as the broker and its client do.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { secondsSince } from './load.ts'
import { nowMs } from './statistics.ts'
import { serveSteps } from './steps.ts'

export interface WriteTask {
  readonly frameBytes: number
  readonly durationMs: number
}

const readBytes = 64 << 10

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
}

export type SocketSteps = typeof steps

serveSteps(steps)

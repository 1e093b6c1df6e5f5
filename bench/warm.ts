/**
 * Touches memory and goes. A virtual machine's memory costs the host a fault at its first use, which halves whatever
 * is measured meanwhile: so it is used once before anything is measured.
 */
import { serveSteps } from './steps.ts'

const chunkBytes = 64 << 20

const steps = {
  touch({ bytes }: { bytes: number }): number {
    const chunks: Buffer[] = []
    for (let touched = 0; touched < bytes; touched += chunkBytes) chunks.push(Buffer.alloc(chunkBytes, 1))
    return chunks.length * chunkBytes
  },
}

export type WarmSteps = typeof steps

serveSteps(steps)

/**
 * How the bench talks to its load generators: each is a process that offers named steps; the bench calls one and
 * gets its result. Several may be under way at once (a consumer that drains, and is told when to stop).
 */
import { fork, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { childEnvironment, ownChild, within } from './broker-process.ts'

export type Steps = Record<string, (argument: never) => unknown>

interface Call {
  readonly id: number
  readonly step: string
  readonly argument: unknown
}
type Answer = { readonly id: number } & ({ readonly result: unknown } | { readonly error: string })

/** The step that ends the process in order, so that its profile is written. */
const stopStep = '#stop'
const stopMs = 20_000

/** In the child: answers calls until the parent goes. */
export function serveSteps(steps: Steps): void {
  process.on('disconnect', () => process.exit())
  process.on('message', ({ id, step, argument }: Call) => {
    if (step === stopStep) process.exit()
    const run = async () => steps[step]!(argument as never)
    run().then(
      (result) => process.send!({ id, result } satisfies Answer),
      (error: unknown) => process.send!({ id, error: textOf(error) } satisfies Answer),
    )
  })
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? `${String(error.code)}: ` : ''
  return code + (error.stack ?? error.message)
}

/** In the bench: a child and its steps. */
export class Worker<S extends Steps> {
  readonly name: string
  readonly #child: ChildProcess
  readonly #calls = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>()
  readonly #exited: Promise<void>
  #lastId = 0

  /** @param name of the compiled file beside this one */
  constructor(name: string, execArgv: readonly string[] = []) {
    this.name = name
    const file = fileURLToPath(new URL(`./${name}.js`, import.meta.url))
    this.#child = fork(file, [], {
      execArgv: [...execArgv],
      env: childEnvironment(),
      // Typed arrays, of a number a message, cross as they are.
      serialization: 'advanced',
    })
    ownChild(this.#child)
    this.#child.on('message', (answer: Answer) => {
      const call = this.#calls.get(answer.id)
      if (call === undefined) return
      this.#calls.delete(answer.id)
      if ('error' in answer) call.reject(new Error(`${name}: ${answer.error}`))
      else call.resolve(answer.result as never)
    })
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        for (const call of this.#calls.values()) {
          call.reject(new Error(`the ${name} ended with ${signal ?? code} before it was done`))
        }
        this.#calls.clear()
        resolve()
      })
    })
  }

  get pid(): number {
    return this.#child.pid!
  }

  call<K extends keyof S & string>(
    step: K,
    argument: Parameters<S[K]>[0],
    timeoutMs: number,
  ): Promise<Awaited<ReturnType<S[K]>>> {
    const id = ++this.#lastId
    const result = new Promise<Awaited<ReturnType<S[K]>>>((resolve, reject) => {
      this.#calls.set(id, { resolve, reject })
      this.#child.send({ id, step, argument } satisfies Call, (error) => {
        if (error !== null) reject(error)
      })
    })
    return within(timeoutMs, `${step} of the ${this.name}`, result)
  }

  /** Idempotent. */
  async stop(): Promise<void> {
    if (this.#child.connected) this.#child.send({ id: 0, step: stopStep, argument: null }, () => undefined)
    await within(stopMs, `the ${this.name} to end`, this.#exited).catch(() => this.#child.kill('SIGKILL'))
  }
}

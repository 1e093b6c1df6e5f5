/**
 * The peers' npm clients. They live in bench/node_modules by a package.json of their own, so that nobody who uses
 * mq-broker installs them and the project compiles without them: hence they are loaded at run time, and what is
 * called of them is declared where it is called.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { projectRoot } from '../broker-process.ts'

const home = (): string => join(projectRoot(), 'bench')

/** A client that can be required. */
export function loadClient<T>(name: string): T {
  return createRequire(join(home(), 'package.json'))(name) as T
}

/** A client that is an ES module only, by the path of its main file. */
export async function importClient<T>(name: string): Promise<T> {
  const { main = 'index.js' } = readManifest(name)
  return (await import(pathToFileURL(join(home(), 'node_modules', name, main)).href)) as T
}

export function clientVersion(name: string): string {
  return readManifest(name).version
}

function readManifest(name: string): { version: string; main?: string } {
  return JSON.parse(readFileSync(join(home(), 'node_modules', name, 'package.json'), 'utf8')) as {
    version: string
    main?: string
  }
}

/** Those of `names` that are not installed. */
export function missingClients(names: readonly string[]): string[] {
  return [...new Set(names)].filter((name) => !existsSync(join(home(), 'node_modules', name, 'package.json')))
}

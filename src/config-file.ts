/** The one place that reads a configuration file from the disk. */
import { closeSync, openSync, readSync } from 'node:fs'
import { parse } from 'yaml'
import { MqError } from './errors.ts'

/** A configuration file that is longer is some other file. */
const fileBytesMax = 1 << 20

/**
 * Reads a YAML file of options. Every value comes back as the text that stands there: the failsafe schema makes
 * no number of `node-id: 007`, and an option has one parser wherever it was written.
 * @throws MqError INVALID_OPTION
 */
export function readConfigFile(path: string): ReadonlyMap<unknown, unknown> {
  const text = readText(path)
  let content: unknown
  try {
    content = parse(text, { schema: 'failsafe', mapAsMap: true, logLevel: 'error' }) as unknown
  } catch (error) {
    // The first line says what and where; the rest draws the place.
    const [what = 'cannot be parsed'] = (error as Error).message.split('\n')
    throw new MqError('INVALID_OPTION', `${path} is not valid YAML: ${what.replace(/:$/, '')}`, {
      cause: error,
    })
  }
  // An empty file, or one of comments only.
  if (content === null || content === '') return new Map()
  if (!(content instanceof Map)) {
    throw new MqError('INVALID_OPTION', `${path} must hold options as 'name: value' lines`)
  }
  return content
}

/** Reads at most the limit, whatever it is that `path` names: a pipe and /dev/zero included. */
function readText(path: string): string {
  try {
    const file = openSync(path, 'r')
    try {
      const bytes = Buffer.alloc(fileBytesMax + 1)
      let length = 0
      for (;;) {
        const read = readSync(file, bytes, length, bytes.length - length, null)
        length += read
        if (read === 0) return bytes.toString('utf8', 0, length)
        if (length > fileBytesMax) {
          throw new MqError(
            'INVALID_OPTION',
            `${path} is larger than 1 MiB: it cannot be a configuration file`,
          )
        }
      }
    } finally {
      closeSync(file)
    }
  } catch (error) {
    if (error instanceof MqError) throw error
    throw new MqError('INVALID_OPTION', `the configuration file ${path} cannot be read (${codeOf(error)})`, {
      cause: error,
    })
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error)
}

/** `mq-broker start` */
import { type Command, Option } from 'commander'
import { readConfigFile } from '../config-file.ts'
import { resolveStartOptions, startFlags, type StartOptions } from '../config.ts'

export function define(start: Command): void {
  for (const { flag, placeholder, help } of startFlags) {
    start.addOption(new Option(placeholder === undefined ? `--${flag}` : `--${flag} <${placeholder}>`, help))
  }
  start
    .option('--json', 'print where it serves as JSON: {"node","listen","http","pid"}')
    .addHelpText(
      'after',
      '\nEach option may also be set by the variable named with it, or in the file of --config under the name of its\n' +
        'flag. A flag wins over the variable, and the variable over the file.',
    )
    .action(async (given: Readonly<Record<string, string | true | undefined>>) => {
      const options = resolveStartOptions({
        flags: flagTexts(given),
        environment: process.env,
        readFile: readConfigFile,
      })
      // Loaded once the options are known to be good: the store's native code is not needed to refuse them.
      const { serve } = await import('./serve.ts')
      await serve(options, given.json === true)
    })
}

/** From commander's names, which follow the flags, to those of the options. */
function flagTexts(given: Readonly<Record<string, string | true | undefined>>) {
  const texts: Partial<Record<keyof StartOptions, string>> = {}
  for (const { name, flag, placeholder } of startFlags) {
    const value = given[new Option(placeholder === undefined ? `--${flag}` : `--${flag} <_>`).attributeName()]
    if (value !== undefined) texts[name] = value === true ? 'true' : value
  }
  return texts
}

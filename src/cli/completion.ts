/** `mq-broker completion SHELL`: a script made of what the program itself knows of its commands and flags. */
import { Argument, type Command, type Option } from 'commander'
import { print } from './output.ts'

export function define(completion: Command): void {
  completion
    .addArgument(new Argument('<SHELL>').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      '\nTo try it:  source <(mq-broker completion bash)   or, with fish:  mq-broker completion fish | source\n' +
        'To keep it: the same line in ~/.bashrc or ~/.zshrc; with fish, the output as\n' +
        '~/.config/fish/completions/mq-broker.fish',
    )
    .action((shell: 'bash' | 'zsh' | 'fish') => print(scripts[shell](wordsOf(completion.parent!))))
}

interface Words {
  /** Names of the commands that lead here, from below the program itself. */
  readonly path: readonly string[]
  readonly subcommands: readonly { readonly name: string; readonly description: string }[]
  readonly flags: readonly Option[]
  /** What may stand for an argument, if that is a closed list. */
  readonly choices: readonly string[]
}

function wordsOf(command: Command, path: readonly string[] = []): Words[] {
  const help = command.createHelp()
  const subcommands = command.commands.map((each) => ({ name: each.name(), description: each.description() }))
  const flags = help.visibleOptions(command).filter(({ long }) => long !== undefined && long !== null)
  const choices = command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? [])
  return [
    { path, subcommands, flags, choices },
    ...command.commands.flatMap((each) => wordsOf(each, [...path, each.name()])),
  ]
}

const allWords = ({ subcommands, flags, choices }: Words): string =>
  [...subcommands.map(({ name }) => name), ...choices, ...flags.map(({ long }) => long)].join(' ')

const scripts = { bash, zsh, fish }

/** The longest path that is a command decides: `queue create …` before `queue …`. */
function cases(words: readonly Words[], then: (list: string) => string): string {
  return words.map((each) => `    '${each.path.join(' ')}') ${then(allWords(each))} ;;`).join('\n')
}

function bash(words: readonly Words[]): string {
  return `# bash completion of mq-broker
_mq_broker_words() {
  case "$1" in
${cases(words, (list) => `echo '${list}'`)}
    *) return 1 ;;
  esac
}
_mq_broker() {
  local current="\${COMP_WORDS[COMP_CWORD]}" words=''
  local first='' second=''
  [ "$COMP_CWORD" -gt 1 ] && first="\${COMP_WORDS[1]}"
  [ "$COMP_CWORD" -gt 2 ] && second="\${COMP_WORDS[2]}"
  words="$(_mq_broker_words "$first $second" || _mq_broker_words "$first" || true)"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _mq_broker mq-broker
`
}

function zsh(words: readonly Words[]): string {
  return `#compdef mq-broker
_mq_broker_words() {
  case "$1" in
${cases(words, (list) => `echo '${list}'`)}
    *) return 1 ;;
  esac
}
_mq_broker() {
  local found='' first='' second=''
  (( CURRENT > 2 )) && first="$words[2]"
  (( CURRENT > 3 )) && second="$words[3]"
  found="$(_mq_broker_words "$first $second" || _mq_broker_words "$first")" || true
  compadd -- \${=found}
  _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _mq_broker mq-broker
`
}

function fish(words: readonly Words[]): string {
  const lines = ['# fish completion of mq-broker']
  const quoted = (text: string): string => `'${text.replace(/[\\']/g, '\\$&')}'`
  for (const { path, subcommands, flags, choices } of words) {
    const names = subcommands.map(({ name }) => name)
    const seen = path.map((name) => `__fish_seen_subcommand_from ${name}`)
    const here = seen.length === 0 ? ['__fish_use_subcommand'] : seen
    const notFurther =
      names.length === 0 || path.length === 0 ? [] : [`not __fish_seen_subcommand_from ${names.join(' ')}`]
    const condition = quoted([...here, ...notFurther].join('; and '))
    const line = `complete -c mq-broker -n ${condition}`
    for (const { name, description } of subcommands) {
      lines.push(`${line} -f -a ${quoted(name)} -d ${quoted(description)}`)
    }
    if (choices.length > 0) lines.push(`${line} -f -a ${quoted(choices.join(' '))}`)
    for (const { long, description, required } of flags) {
      lines.push(`${line} -l ${quoted(long!.slice(2))}${required ? ' -x' : ''} -d ${quoted(description)}`)
    }
  }
  return `${lines.join('\n')}\n`
}

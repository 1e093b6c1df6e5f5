/** What a shell proposes, as bash itself says; the others' scripts are made of the same words. */
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { assertOneLine, run } from './process.ts'

const script = async (shell: string) => (await run(['completion', shell])).stdout

/** What bash proposes for the last of these words. */
function proposed(script: string, ...words: string[]): string[] {
  const line = ['mq-broker', ...words].map((word) => `'${word}'`).join(' ')
  const program = `${script}
    COMP_WORDS=(${line}) COMP_CWORD=${words.length}
    _mq_broker
    printf '%s\\n' "\${COMPREPLY[@]}"`
  return execFileSync('bash', ['-c', program], { encoding: 'utf8' }).trim().split('\n')
}

t.test('bash proposes commands, subcommands and flags', async (t) => {
  const bash = await script('bash')
  t.strictSame(proposed(bash, 're'), ['receive'])
  t.strictSame(proposed(bash, 'queue', 'p'), ['purge'])
  t.strictSame(proposed(bash, 'queue', 'create', 'orders', '--vis'), ['--visibility-timeout'])
  t.strictSame(proposed(bash, 'receive', 'orders', '--ma'), ['--max'])
  t.strictSame(proposed(bash, 'completion', 'f'), ['fish'])
  t.strictSame(proposed(bash, 'dlq', ''), ['ls', 'redrive', '--help'])
  t.strictSame(proposed(bash, 'dlq', 'redrive', 'orders.dlq', '--'), [
    '--server',
    '--json',
    '--to',
    '--max',
    '--rate',
    '--dry-run',
    '--help',
  ])
  t.strictSame(proposed(bash, 'bench', '--se'), ['--server', '--seconds'])
  t.strictSame(proposed(bash, 'queue', 'edit', 'orders', '--un'), ['--unset'])
})

/** What completes is tried where there is such a shell; where everything is to be tried, there has to be one. */
const isOptional = process.env['CI'] === undefined
const isThere = (shell: string): boolean => spawnSync(shell, ['-c', 'true']).status === 0
const hasTerminal = spawnSync('script', ['--version']).status === 0
const noTerminal = !hasTerminal && isOptional && 'no script(1) here, which makes a terminal'

t.test('a line that is completed by bash itself, at the tab key', { skip: noTerminal }, async (t) => {
  const startup = `${await script('bash')}
    mq-broker() { printf '<%s>\\n' "$*"; }`
  const rc = join(t.testdir({ rc: startup }), 'rc')
  const { stdout } = spawnSync('script', ['-qec', `bash --noprofile --rcfile ${rc} -i`, '/dev/null'], {
    input: 'mq-broker dlq redr\torders.dlq --dr\t\nexit\n',
    encoding: 'utf8',
  })
  t.match(stdout, '<dlq redrive orders.dlq --dry-run')
})

for (const shell of ['bash', 'zsh', 'fish']) {
  t.test(
    `${shell} can read its script`,
    { skip: !isThere(shell) && isOptional && `no ${shell} here` },
    async (t) => {
      t.ok(isThere(shell), `${shell} is there: else install it`)
      const file = join(t.testdir({ completion: await script(shell) }), 'completion')
      const { status, stderr } = spawnSync(shell, ['-n', file], { encoding: 'utf8' })
      t.equal(stderr, '')
      t.equal(status, 0)
    },
  )
}

t.test(
  'fish itself completes a line',
  { skip: !isThere('fish') && isOptional && 'no fish here' },
  async (t) => {
    const file = join(t.testdir({ completion: await script('fish') }), 'completion')
    for (const [line, wanted] of [
      ['mq-broker que', 'queue'],
      ['mq-broker dlq redr', 'redrive'],
      ['mq-broker dlq redrive x --dr', '--dry-run'],
    ]) {
      const { stdout } = spawnSync('fish', ['-c', `source ${file}; complete -C '${line}'`], {
        encoding: 'utf8',
      })
      t.equal(stdout.split('\t')[0], wanted)
    }
  },
)

t.test('bash proposes nothing of its own where nothing is known', async (t) => {
  t.strictSame(proposed(await script('bash'), 'nothing', 'x'), [''])
})

t.test('zsh and fish know the same commands', async (t) => {
  const zsh = await script('zsh')
  t.match(zsh, /^#compdef mq-broker\n/)
  t.match(zsh, /'queue purge'\) echo '--dry-run|'queue purge'\) echo '.*--dry-run/)
  const fish = await script('fish')
  t.match(fish, /-f -a 'purge' -d '/)
  t.match(fish, /__fish_seen_subcommand_from queue; and __fish_seen_subcommand_from purge' -l 'dry-run' -d '/)
})

t.test('a shell that is none of them is wrong usage', async (t) => {
  const { code, stderr } = await run(['completion', 'cmd'])
  t.equal(code, 2)
  assertOneLine(t, stderr, /bash, zsh, fish/)
})

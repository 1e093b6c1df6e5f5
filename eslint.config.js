import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'

/*
 * Two promises of the design are kept here rather than by memory:
 * - time, randomness, disk and network reach the code through `env` only, so that the simulator can replace them;
 *   the few files that talk to the real world are named below, each with what it may use;
 * - imports point downward.
 */

const throughEnv = 'comes in through env (src/env.ts), so that the simulator can replace it'

/** Modules that only the named adapters may import. `node:` and bare names are both covered. */
const worldModules = {
  net: ['net', 'tls', 'dgram'],
  http: ['http', 'https', 'http2'],
  fs: ['fs', 'fs/promises'],
  timers: ['timers', 'timers/promises'],
}

/** @param {string[]} names */
const builtins = (names) =>
  names.flatMap((name) => [name, `node:${name}`]).map((name) => ({ name, message: `${name} ${throughEnv}.` }))

const randomNames = [
  'randomBytes',
  'randomUUID',
  'randomInt',
  'randomFill',
  'randomFillSync',
  'getRandomValues',
  'webcrypto',
]

/**
 * What a file of src may not import.
 * @param {{ may?: ('net' | 'http' | 'fs' | 'timers' | 'random' | 'lmdb')[], layer?: { regex: string, message: string }[] }} file
 */
function imports({ may = [], layer = [] } = {}) {
  const paths = [
    {
      name: 'msgpackr',
      allowTypeImports: true,
      message: 'Import msgpackr/pack or msgpackr/unpack: the main entry brings streams along.',
    },
  ]
  for (const [group, names] of Object.entries(worldModules)) {
    if (!may.includes(group)) paths.push(...builtins(names))
  }
  if (!may.includes('lmdb')) paths.push({ name: 'lmdb', message: 'lmdb has one home: src/storage/lmdb.ts.' })
  if (!may.includes('random')) {
    for (const name of ['crypto', 'node:crypto']) {
      paths.push({ name, importNames: randomNames, message: `Randomness ${throughEnv}.` })
    }
  }
  return { '@typescript-eslint/no-restricted-imports': ['error', { paths, patterns: layer }] }
}

/**
 * A folder that knows only the leaf modules and itself. `up` leads from a file to src/.
 * @param {string} up
 */
const leavesOnly = (up) => [
  {
    regex: `^${up.replaceAll('.', '\\.')}(?!(types|errors|env|buffers|wire\\/(msgpack|batch))\\.ts$)`,
    message: 'This folder may import only types, errors, env, buffers, wire/msgpack, wire/batch and itself.',
  },
]

const noServerFolders = [
  {
    regex: '^(\\.\\./)+(partition|storage|replication|coordinator|broker|frontend|cli|observe|sim)(/|$)',
    message: 'The client never imports server folders.',
  },
]

const worldGlobals = [
  'setTimeout',
  'setInterval',
  'setImmediate',
  'clearTimeout',
  'clearInterval',
  'clearImmediate',
]

const worldProperties = [
  { object: 'Date', property: 'now' },
  { object: 'performance', property: 'now' },
  { object: 'performance', property: 'timeOrigin' },
  { object: 'process', property: 'hrtime' },
  { object: 'Math', property: 'random' },
  ...randomNames.map((property) => ({ object: 'crypto', property })),
]

const world = {
  'no-restricted-globals': [
    'error',
    {
      globals: worldGlobals.map((name) => ({ name, message: `${name} ${throughEnv}.` })),
      checkGlobalObject: true,
    },
  ],
  'no-restricted-properties': [
    'error',
    ...worldProperties.map((rule) => ({ ...rule, message: `This ${throughEnv}.` })),
  ],
  'no-restricted-syntax': [
    'error',
    {
      selector: ":matches(NewExpression[arguments.length=0], CallExpression)[callee.name='Date']",
      message: `The time ${throughEnv}.`,
    },
    {
      selector:
        'ImportExpression[source.value=/^(node:)?(net|tls|dgram|https?|http2|fs|timers)(\\u002F|$)|^(lmdb|msgpackr)$/]',
      message: `This module ${throughEnv}.`,
    },
  ],
}

export default defineConfig(
  { ignores: ['dist/', 'build/', 'node_modules/', '.tap/', '.tsimp/', 'data/', 'bench/results/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },

  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: false },
      ],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-unused-vars': [
        'error',
        {
          argsIgnorePattern: '^_',
          varsIgnorePattern: '^_',
          caughtErrorsIgnorePattern: '^_',
          ignoreRestSiblings: true,
        },
      ],
      // An async method without await is how an in-memory version of an interface looks.
      '@typescript-eslint/require-await': 'off',
      eqeqeq: 'error',
      'no-console': 'error',
    },
  },

  { files: ['src/**/*.ts'], rules: { ...world, ...imports() } },

  // Layers.
  { files: ['src/client/**/*.ts'], rules: imports({ layer: noServerFolders }) },
  { files: ['src/{wire,partition}/*.ts'], rules: imports({ layer: leavesOnly('../') }) },
  { files: ['src/{wire,partition}/*/**/*.ts'], rules: imports({ layer: leavesOnly('../../') }) },

  // The adapters: the real world, one door each.
  {
    files: ['src/system.ts'],
    rules: {
      ...imports({ may: ['timers', 'random'] }),
      'no-restricted-globals': 'off',
      'no-restricted-properties': 'off',
      'no-restricted-syntax': 'off',
    },
  },
  { files: ['src/wire/sockets.ts'], rules: imports({ may: ['net'], layer: leavesOnly('../') }) },
  { files: ['src/storage/lmdb.ts'], rules: imports({ may: ['fs', 'lmdb'] }) },
  { files: ['src/storage/lmdb-pages.ts'], rules: imports({ may: ['fs'] }) },
  { files: ['src/config-file.ts'], rules: imports({ may: ['fs'] }) },
  { files: ['src/observe/http.ts'], rules: imports({ may: ['http'] }) },
  { files: ['src/observe/process-metrics.ts'], rules: imports({ may: ['fs'] }) },
  { files: ['src/cli/**/*.ts'], rules: imports({ may: ['fs'] }) },

  // Tests and benches handle JSON and other people's output, and print.
  {
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafePromises: [
            { from: 'package', package: '@tapjs/core', name: 'PromiseWithSubtest' },
          ],
        },
      ],
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      'no-console': 'off',
    },
  },
)

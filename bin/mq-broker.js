#!/usr/bin/env node
// CommonJS, by the package.json beside it: libuv reads the size of its thread pool when the pool is first used, and
// loading an ES module is such a use. Here nothing has run yet, unless node was given --import: then only a variable
// that was set outside counts. Eight, because name look-ups, log lines and the store's calls share the pool with each
// other, and the default of four lets one slow disk hold up the rest.
process.env.UV_THREADPOOL_SIZE ||= '8'

// Messages lie outside of V8's heap, which is small beside them. V8 counts both, and when it took the heap for one that
// grows slowly it collected all of it eight times a second under load, for half of the broker's CPU; in which mode it was,
// was a matter of luck. So it waits for four times what lives, the most that it waits for by itself.
require('node:v8').setFlagsFromString('--heap-growing-percent=300')

const { existsSync } = require('node:fs')
const { join } = require('node:path')
const { pathToFileURL } = require('node:url')

const entry = join(__dirname, '..', 'dist', 'cli', 'main.js')

if (existsSync(entry)) {
  import(pathToFileURL(entry).href).then(({ main }) => main(process.argv))
} else {
  console.error('mq-broker is not built yet: run `npm run build`')
  process.exitCode = 1
}

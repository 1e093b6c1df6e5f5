#!/usr/bin/env node
import { existsSync } from 'node:fs'

const entry = new URL('../dist/cli/main.js', import.meta.url)

if (existsSync(entry)) {
  const { main } = await import(entry.href)
  await main(process.argv)
} else {
  console.error('mq-broker is not built yet: run `npm run build`')
  process.exitCode = 1
}

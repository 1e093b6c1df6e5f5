/** Copies of this package with changed sources, whose broker is run: one in a hurry, and wrong ones. */
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { compilePatched, type Change } from '../patched.ts'

/** What takes the broker minutes takes it no time; it does nothing else than otherwise. */
export const inAHurry: readonly Change[] = [
  { file: 'src/storage/log.ts', find: `  retentionMs: 1000,`, replace: `  retentionMs: 20,` },
  { file: 'src/storage/log.ts', find: `  copyAfterMs: 30_000,`, replace: `  copyAfterMs: 200,` },
  // Its bytes mean nothing, and each of them is recorded.
  { file: 'src/storage/log.ts', find: `  reserveBytes: 64 << 20,`, replace: `  reserveBytes: 64 << 10,` },
  { file: 'src/storage/log.ts', find: `  journalBytes: 4 << 20,`, replace: `  journalBytes: 64 << 10,` },
  {
    file: 'src/storage/log.ts',
    find: `  journaledBytesMax: 64 << 10,`,
    replace: `  journaledBytesMax: 8 << 10,`,
  },
]

/**
 * @param root of the package, whose dist/ is built
 * @param folder where the copy will be
 * @throws Error the text of a change is not in its file, or more than once
 */
export function copyPackage(root: string, folder: string, changes: readonly Change[]): void {
  mkdirSync(folder)
  for (const part of ['dist', 'bin', 'package.json'])
    cpSync(join(root, part), join(folder, part), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  for (const file of new Set(changes.map((change) => change.file))) {
    writeFileSync(
      join(folder, file.replace(/^src/, 'dist').replace(/\.ts$/, '.js')),
      compilePatched(root, file, changes),
    )
  }
}

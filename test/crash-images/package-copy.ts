/** Copies of this package with changed sources, whose broker is run: one in a hurry, and wrong ones. */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import type { PlantedBug } from '../sim/planted.ts'

export type Change = Pick<PlantedBug, 'file' | 'find' | 'replace'>

/** What takes the broker minutes takes it no time; it does nothing else than otherwise. */
export const inAHurry: readonly Change[] = [
  { file: 'src/storage/log.ts', find: `  retentionMs: 1000,`, replace: `  retentionMs: 20,` },
  { file: 'src/storage/log.ts', find: `  copyAfterMs: 30_000,`, replace: `  copyAfterMs: 200,` },
  // Its bytes mean nothing, and each of them is recorded.
  { file: 'src/storage/log.ts', find: `  reserveBytes: 64 << 20,`, replace: `  reserveBytes: 64 << 10,` },
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
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path))
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  // One file by itself cannot tell from a package.json that it is a module.
  const compilerOptions = { ...options, module: ts.ModuleKind.ESNext, sourceMap: false }
  for (const file of new Set(changes.map((change) => change.file))) {
    let source = readFileSync(join(root, file), 'utf8')
    for (const { find, replace } of changes.filter((change) => change.file === file)) {
      const places = source.split(find).length - 1
      if (places !== 1)
        throw new Error(`the text to be changed is ${places} times in ${file}, not once: ${find}`)
      source = source.replace(find, () => replace)
    }
    const { outputText } = ts.transpileModule(source, { compilerOptions, fileName: file })
    writeFileSync(join(folder, file.replace(/^src/, 'dist').replace(/\.ts$/, '.js')), outputText)
  }
}

/** Bugs are planted in copies of the source, never in it: one file with some of its text replaced. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'

export interface Change {
  readonly file: string
  readonly find: string
  readonly replace: string
}

/**
 * A source file with the changes that are for it, compiled.
 * @param root of the source
 * @throws Error the text of a change is not in the file, or more than once
 */
export function compilePatched(root: string, file: string, changes: readonly Change[]): string {
  let source = readFileSync(join(root, file), 'utf8')
  for (const { find, replace } of changes.filter((change) => change.file === file)) {
    const places = source.split(find).length - 1
    if (places !== 1)
      throw new Error(`the text to be changed is ${places} times in ${file}, not once: ${find}`)
    source = source.replace(find, () => replace)
  }
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path))
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  // One file by itself cannot tell from a package.json that it is a module.
  const compilerOptions = { ...options, module: ts.ModuleKind.ESNext, sourceMap: false }
  return ts.transpileModule(source, { compilerOptions, fileName: file }).outputText
}

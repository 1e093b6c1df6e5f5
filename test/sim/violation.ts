export class Violation extends Error {
  override readonly name = 'Violation'
  /** Of correctness.md; '' where it is none of those. */
  readonly rule: string

  constructor(rule: string, message: string) {
    super(rule === '' ? message : `invariant ${rule}: ${message}`)
    this.rule = rule
  }
}

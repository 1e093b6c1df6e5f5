/** Names in ascending order, for answers that come in pages. What was added is sorted in when somebody asks. */
export class SortedNames {
  #sorted: string[] = []
  #added: string[] = []

  add(name: string): void {
    this.#added.push(name)
  }

  delete(name: string): void {
    this.#settle()
    const at = this.#place(name)
    if (this.#sorted[at] === name) this.#sorted.splice(at, 1)
  }

  /** Up to `limit` names above `name`, or the first. */
  after(name: string | null, limit: number): string[] {
    this.#settle()
    let at = name === null ? 0 : this.#place(name)
    if (name !== null && this.#sorted[at] === name) at++
    return this.#sorted.slice(at, at + limit)
  }

  /** One by one while they are few; all at once after a start, where each would move all others. */
  #settle(): void {
    const added = this.#added
    if (added.length === 0) return
    this.#added = []
    if (added.length > 32) {
      this.#sorted = [...this.#sorted, ...added].sort()
      return
    }
    for (const name of added) this.#sorted.splice(this.#place(name), 0, name)
  }

  /** Where the first name that is not below `name` is. */
  #place(name: string): number {
    let low = 0
    let high = this.#sorted.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#sorted[middle]! < name) low = middle + 1
      else high = middle
    }
    return low
  }
}

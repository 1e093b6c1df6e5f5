/** Names near a mistyped one, nearest first, at most three: for the message of QUEUE_NOT_FOUND. */
export function similarNames(name: string, names: Iterable<string>): string[] {
  const near: { name: string; distance: number }[] = []
  const most = Math.max(1, Math.min(3, Math.floor(name.length / 3)))
  for (const candidate of names) {
    if (Math.abs(candidate.length - name.length) > most) continue
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase(), most)
    if (distance <= most) near.push({ name: candidate, distance })
  }
  near.sort((a, b) => a.distance - b.distance || (a.name < b.name ? -1 : 1))
  return near.slice(0, 3).map((n) => n.name)
}

/**
 * Levenshtein distance, two rows at a time (Wagner and Fischer, 1974), looking only where it can still be ≤ `most`
 * (Ukkonen's band, 1985): a lookup of a missing name must not cost more because there are many long ones.
 * @returns the distance, or more than `most` when it is more
 */
function editDistance(a: string, b: string, most: number): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = new Array<number>(b.length + 1).fill(most + 1)
    if (i <= most) row[0] = i
    let least = row[0]!
    for (let j = Math.max(1, i - most); j <= Math.min(b.length, i + most); j++) {
      const substituted = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row[j] = Math.min(previous[j]! + 1, row[j - 1]! + 1, substituted)
      least = Math.min(least, row[j]!)
    }
    if (least > most) return least
    previous = row
  }
  return previous[b.length]!
}

/** Why a text is no well-formed SVG as the bench writes it; null: it is. No numbers went wrong on the way, either. */
export function whyNotWellFormed(svg: string): string | null {
  if (!svg.startsWith('<svg xmlns="http://www.w3.org/2000/svg"')) return 'it does not begin as one'
  const odd = /NaN|undefined|Infinity/.exec(svg)
  if (odd !== null) return `it has ${odd[0]}`
  const open: string[] = []
  // Tags with their attributes, each quoted; what is between them must have neither < nor a lone &.
  const tag = /<(\/?)([a-z]+)((?: [\w:-]+="[^"<]*")*)(\/?)>/y
  for (let at = 0; at < svg.length;) {
    tag.lastIndex = at
    const found = tag.exec(svg)
    if (found === null) {
      const end = svg.indexOf('<', at)
      const words = svg.slice(at, end < 0 ? undefined : end)
      if (words === '' || /&(?!(amp|lt|gt);)/.test(words)) return `at ${at}: ${svg.slice(at, at + 40)}`
      if (open.length === 0 && words.trim() !== '') return `text outside: ${words}`
      at += words.length
      continue
    }
    const [text, isEnd, name, , isEmpty] = found
    if (isEnd === '/') {
      if (open.pop() !== name) return `at ${at}: ${text} closes another`
    } else if (isEmpty !== '/') open.push(name!)
    at += text.length
  }
  return open.length === 0 ? null : `not closed: ${open.join(', ')}`
}

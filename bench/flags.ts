/** Values of command lines. All throw an Error with a sentence for whoever typed them. */

/** Each once, in the order of the known ones: an order of one's own would change nothing but the table. */
export function oneOfEach<T extends string>(flag: string, text: string, known: readonly T[]): T[] {
  const chosen = text.split(',').map((part) => oneOf(flag, part, known))
  return known.filter((name) => chosen.includes(name))
}

export function oneOf<T extends string>(flag: string, text: string, known: readonly T[]): T {
  const found = known.find((name) => name === text)
  if (found === undefined) throw new Error(`--${flag}: '${text}' is none of ${known.join(', ')}`)
  return found
}

/** A list, each once. */
export function wholes(flag: string, text: string, min: number, max: number): number[] {
  return [...new Set(text.split(',').map((part) => whole(flag, part, min, max)))]
}

export function whole(flag: string, text: string, min: number, max: number): number {
  const value = number(flag, text, min, max)
  if (!Number.isInteger(value)) throw new Error(`--${flag}: '${text}' is not a whole number`)
  return value
}

export function number(flag: string, text: string, min: number, max: number): number {
  const value = Number(text)
  if (text.trim() === '' || !(value >= min && value <= max)) {
    throw new Error(`--${flag}: '${text}' is not a number from ${min} to ${max}`)
  }
  return value
}

/** It becomes the name of a file, not a path. */
export function fileName(flag: string, text: string): string {
  if (!/^[\w][\w.-]*$/.test(text) || text === 'tmp') {
    throw new Error(`--${flag}: '${text}' is not a name of letters, digits, '.', '_' and '-'`)
  }
  return text
}

/**
 * A body is a peer's bytes: it is walked before it is decoded, so that a small one cannot decode to something huge,
 * deep, or of a class nobody expects. It may hold more than a frame may (`wire/scan.ts`): dates, `undefined`, typed
 * arrays, any number. The same walk runs over what this client encodes, so what could not be read is not sent.
 */

/** Containers inside containers. */
export const valueNestingMax = 128

const timestamp = 0xff
const undefinedValue = 0x00
const typedArray = 0x74

/** Why the bytes are not one value that may be decoded, as the end of a sentence, or null when they are. */
export function scanBody(bytes: Uint8Array): string | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const end = bytes.length
  /** Items still to come in each container around the current one. */
  const around: number[] = []
  let left = 1
  let at = 0
  for (;;) {
    while (left === 0) {
      const outer = around.pop()
      if (outer === undefined) return at === end ? null : 'has bytes behind its end'
      left = outer
    }
    left--
    if (at >= end) return 'is not complete'
    const token = bytes[at++]!
    if (token < 0x80 || token >= 0xe0) continue

    let payload = 0
    let items = -1
    if (token < 0x90) items = 2 * (token & 0x0f)
    else if (token < 0xa0) items = token & 0x0f
    else if (token < 0xc0) payload = token & 0x1f
    else if (token === 0xc1) return 'has the byte C1, which is no value'
    else if (token >= 0xc4) {
      const form = forms[token - 0xc4]!
      if (at + form.lengthBytes > end) return 'is not complete'
      let length = form.fixed
      if (form.lengthBytes === 1) length = bytes[at]!
      else if (form.lengthBytes === 2) length = view.getUint16(at)
      else if (form.lengthBytes === 4) length = view.getUint32(at)
      at += form.lengthBytes
      if (form.kind === 'bytes') payload = length
      else if (form.kind === 'extension') {
        if (at >= end) return 'is not complete'
        const type = bytes[at++]!
        if (type !== timestamp && type !== undefinedValue && type !== typedArray) {
          return 'has something other than plain data, dates and bytes'
        }
        payload = length
      } else items = form.kind === 'map' ? 2 * length : length
    }
    if (payload > end - at) return 'is not complete'
    at += payload
    if (items < 0) continue
    if (items > end - at) return 'is not complete'
    if (around.length === valueNestingMax) return `is nested deeper than ${valueNestingMax}`
    around.push(left)
    left = items
  }
}

interface Form {
  kind: 'bytes' | 'extension' | 'array' | 'map'
  lengthBytes: 0 | 1 | 2 | 4
  /** The length, where it isn't written. */
  fixed: number
}

const form = (kind: Form['kind'], lengthBytes: Form['lengthBytes'], fixed = 0): Form => ({
  kind,
  lengthBytes,
  fixed,
})

/** Tokens 0xC4 … 0xDF. */
const forms: readonly Form[] = [
  // bin
  form('bytes', 1),
  form('bytes', 2),
  form('bytes', 4),
  // ext
  form('extension', 1),
  form('extension', 2),
  form('extension', 4),
  // float, uint, int
  ...[4, 8, 1, 2, 4, 8, 1, 2, 4, 8].map((size) => form('bytes', 0, size)),
  // fixext
  ...[1, 2, 4, 8, 16].map((size) => form('extension', 0, size)),
  // str
  form('bytes', 1),
  form('bytes', 2),
  form('bytes', 4),
  form('array', 2),
  form('array', 4),
  form('map', 2),
  form('map', 4),
]

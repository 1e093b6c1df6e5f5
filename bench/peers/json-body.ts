/** Bodies for those that carry JSON only: bytes as base64, a third longer. */

export interface JsonBody {
  readonly b: string
}

export function toJson(body: Buffer): JsonBody {
  return { b: body.toString('base64') }
}

export function fromJson({ b }: JsonBody): Buffer {
  return Buffer.from(b, 'base64')
}

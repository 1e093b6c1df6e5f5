/** One delivery of a message, under a lease. */
export interface Grant {
  readonly epoch: number
  readonly lease: number
  readonly deliveryCount: number
  /** Of the receive: the lease was granted no earlier. */
  readonly fromMs: number
  /** The broker's unplanned ends by then. */
  readonly crashesBefore: number
  /** Of the receive: the lease was granted no later. */
  readonly seenMs: number
  /** It was good at least until then, if the broker did not end unplanned. */
  goodUntilMs: number
  /** An extension of it may or may not have happened, or may yet happen. */
  extendDoubt: boolean
  /** A loop or a worker may renew it by so much at any time, whatever it was extended by; Infinity: nobody does. */
  readonly renewalMs: number
  /** Extensions on their way. */
  extends: number
  /** Acks, nacks, releases and dead-letters of this very lease that have begun. */
  settles: number
  /** Nacks and releases among them that may have been carried out. */
  returns: number
  /** Releases among those. */
  releases: number
  /** Why it was dead-lettered, by each who tried; undefined: for no reason given. */
  readonly rejections: (string | undefined)[]
  /** What ended this lease, as far as anybody was told. */
  endedBy: Settle | null
  /** After a nack that was confirmed: no delivery before that. */
  restsUntilMs: number
}

export type Settle = 'ack' | 'nack' | 'release' | 'dead-letter'

export function isBefore(a: Grant, b: Grant): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.lease < b.lease)
}

export function grantName(grant: Grant): string {
  return `${grant.epoch}/${grant.lease}`
}

/** All peers, by name. */
import { mqBroker } from './mq-broker.ts'
import type { Peer, PeerName } from './peer.ts'
import { redis } from './redis.ts'

export const peers: Readonly<Record<PeerName, Peer>> = {
  redis,
  adapter: mqBroker,
} as never

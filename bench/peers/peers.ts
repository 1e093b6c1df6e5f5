/** All peers, by name. */
import { beanstalkd } from './beanstalkd.ts'
import { bullmq, bullmqOnPostgres } from './bullmq.ts'
import { jetstream } from './jetstream.ts'
import { mqBroker } from './mq-broker.ts'
import type { Peer, PeerName } from './peer.ts'
import { pgBoss } from './pg-boss.ts'
import { rabbitmq } from './rabbitmq.ts'
import { redis } from './redis.ts'

export const peers: Readonly<Record<PeerName, Peer>> = {
  redis,
  rabbitmq,
  bullmq,
  'bullmq-pg': bullmqOnPostgres,
  jetstream,
  'pg-boss': pgBoss,
  beanstalkd,
  adapter: mqBroker,
}

/** Names of the headers that tell a dead letter's story: see PROTOCOL.md. */
export const deadLetterHeader = {
  reason: 'mq-dead-letter-reason',
  error: 'mq-dead-letter-error',
  originQueue: 'mq-dead-letter-origin-queue',
  originId: 'mq-dead-letter-origin-id',
  deliveries: 'mq-dead-letter-deliveries',
  at: 'mq-dead-letter-at',
} as const

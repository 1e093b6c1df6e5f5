/** Metrics of a real process, as its HTTP port tells them. */
import { join } from 'node:path'
import { test } from 'tap'
import { startBroker } from '../cli/process.ts'
import { parseExposition } from './parse-exposition.ts'

test('a running broker tells what the contract names, and of its process', async (t) => {
  const broker = await startBroker(t, join(t.testdir(), 'data'))
  await broker.run(['queue', 'create', 'orders'])
  const answer = await fetch(`http://${broker.http}/metrics`)
  const families = parseExposition(await answer.text())
  t.strictSame([...families.keys()].filter((name) => name.startsWith('mq_')).sort(), [
    'mq_acked_messages_total',
    'mq_commit_seconds',
    'mq_connections',
    'mq_dead_lettered_messages_total',
    'mq_delivered_messages_total',
    'mq_delivery_latency_seconds',
    'mq_event_loop_lag_seconds',
    'mq_failed_deliveries_total',
    'mq_queue_messages',
    'mq_queue_oldest_age_seconds',
    'mq_segment_bytes',
    'mq_send_confirm_seconds',
    'mq_sent_messages_total',
    'mq_verified_bytes_total',
    'mq_verify_problems_total',
  ])
  const resident = families.get('process_resident_memory_bytes')!.samples.get('process_resident_memory_bytes')
  t.ok(resident! > 1e6)
  const started = families.get('process_start_time_seconds')!.samples.get('process_start_time_seconds')!
  t.ok(Math.abs(started - Date.now() / 1000) < 600)
})

/** Every confirm follows a sync: seen in the broker's system calls, not in what the broker says of itself. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { BrokerProcess } from '../../bench/broker-process.ts'
import { connect } from '../../src/index.ts'
import { parseTrace } from './trace.ts'

const sends = 25
const tracedCalls = 'openat,fdatasync,fsync,msync,pwrite64,pwritev,read,recvfrom,write,writev,sendto,sendmsg'

test(
  'a send is confirmed only after a sync that began once its bytes had been read',
  { timeout: 110_000 },
  async (t) => {
    if (spawnSync('strace', ['-V']).error !== undefined) {
      t.fail('this test needs strace: apt-get install strace')
      return
    }
    const dir = t.testdir()
    const dataDir = join(dir, 'data')
    const traceFile = join(dir, 'trace')
    mkdirSync(dataDir)
    // -yy says what a descriptor is; 8 KiB of each buffer, so that a body is seen whole.
    const wrapper = ['strace', '-f', '-yy', '-s', '8192', '-e', `trace=${tracedCalls}`, '-o', traceFile]
    const broker = await BrokerProcess.start({ dataDir, wrapper })
    t.teardown(() => broker.kill())
    const mq = await connect({ servers: [broker.listen], name: 'sync-count' })
    t.teardown(() => mq.close())
    await mq.createQueue('synced')
    // Every second one is more than the journal takes at once, and goes to its segment.
    const isLarge = (i: number) => i % 2 === 1
    for (let i = 0; i < sends; i++) {
      const body = `body-number-${i}-of-the-trace`.padEnd(isLarge(i) ? 100_000 : 0, '.')
      const { storage } = await mq.send('synced', body)
      t.equal(storage, 'disk', `send ${i} says that it is on disk`)
    }
    await mq.close()
    await broker.stop()

    const calls = parseTrace(readFileSync(traceFile, 'utf8'))
    const isSocket = (about: string) => about.startsWith('TCP')
    const isSegment = (about: string) => about.includes(dataDir) && about.includes('.mdb')
    const isSync = (name: string) => name === 'fdatasync' || name === 'fsync' || name === 'msync'
    const isSocketWrite = (name: string) => ['write', 'writev', 'sendto', 'sendmsg'].includes(name)
    // LMDB writes the page that makes a commit count through a descriptor of its own, which syncs by itself.
    const syncing = new Set(
      calls
        .filter(({ name, text }) => name === 'openat' && /O_D?SYNC/.test(text))
        .map(({ result }) => result),
    )

    const reads = Array.from({ length: sends }, (_, i) =>
      calls.find(
        ({ name, about, text }) =>
          (name === 'read' || name === 'recvfrom') &&
          isSocket(about) &&
          text.includes(`body-number-${i}-of-`),
      ),
    )
    t.notOk(reads.includes(undefined), 'every body was seen on its way in')
    for (const [i, read] of reads.entries()) {
      if (read === undefined) continue
      const confirm = calls
        .filter(({ name, about, began }) => isSocketWrite(name) && about === read.about && began > read.ended)
        .sort((a, b) => a.began - b.began)[0]
      t.ok(confirm, `send ${i} was answered`)
      if (confirm === undefined) continue
      const between = calls.filter(({ began, ended }) => began > read.ended && ended < confirm.began)
      if (!isLarge(i)) {
        const written = between.find(
          ({ name, about, fd, text, result }) =>
            name === 'pwrite64' &&
            about.endsWith('/JOURNAL') &&
            syncing.has(fd) &&
            text.includes(`body-number-${i}-of-`) &&
            result > 0,
        )
        t.ok(written, `send ${i}: read, then written to the journal and synced with that, then confirmed`)
        continue
      }
      const sync = between.find(({ name, about, result }) => isSync(name) && isSegment(about) && result === 0)
      t.ok(sync, `send ${i}: read, then synced, then confirmed`)
      const meta = between.find(
        ({ name, fd, began }) =>
          name.startsWith('pwrite') && syncing.has(fd) && began > (sync?.ended ?? Infinity),
      )
      t.ok(meta, `send ${i}: its commit's own page was written and synced before the confirm`)
    }
  },
)

/** Who is held and who is cut off when many do not read, by bytes and seconds alone. */
import t from 'tap'
import { UnreadBytes, type Reader } from '../../src/frontend/unread.ts'
import { SimWorld } from '../../src/sim/world.ts'

const bytesMax = 8000

function setUp() {
  const world = new SimWorld({ seed: 1 })
  const readers = new Set<Reader>()
  let rooms = 0
  const unread = new UnreadBytes(bytesMax, readers, world.process('broker').env.clock, () => rooms++)

  class Peer implements Reader {
    unreadBytes = 0
    sentBytes = 0
    isEnding = false
    code: string | undefined
    #counted = 0

    sent(bytes: number): this {
      this.sentBytes += bytes
      this.unreadBytes += bytes
      this.count()
      return this
    }

    /** As the system takes bytes: nobody is told. */
    read(bytes: number): void {
      this.unreadBytes -= bytes
    }

    count(): void {
      unread.add(this.unreadBytes - this.#counted)
      this.#counted = this.unreadBytes
    }

    close({ code }: { code: string }): void {
      this.code = code
      this.isEnding = true
    }

    /** Its connection is gone. */
    gone(): void {
      this.unreadBytes = 0
      this.count()
      readers.delete(this)
      unread.gone(this)
    }
  }
  const peer = (): Peer => {
    const it = new Peer()
    readers.add(it)
    return it
  }
  return { world, unread, peer, rooms: () => rooms }
}

t.test('the less room there is, the less each may have unread', async (t) => {
  const { unread, peer } = setUp()
  t.equal(unread.shareBytes, 1000)
  peer().sent(4000)
  t.equal(unread.shareBytes, 500)
  peer().sent(4000)
  t.equal(unread.shareBytes, 0)
  peer().sent(100)
  t.equal(unread.shareBytes, 0)
  t.equal(unread.roomBytes, -100)
})

t.test('those that are served by their shares leave room, however many they are', async (t) => {
  const { unread, peer } = setUp()
  const greedy = Array.from({ length: 100 }, peer)
  for (let served = true; served;) {
    served = false
    for (const each of greedy) {
      if (each.unreadBytes >= unread.shareBytes) continue
      each.sent(1)
      served = true
    }
  }
  t.ok(unread.roomBytes > 0)
  t.ok(peer().unreadBytes < unread.shareBytes, 'one that reads is served')
})

t.test(
  'who has not read what waited for it in 5 s is cut off, the largest first, as few as will do',
  async (t) => {
    const { world, peer } = setUp()
    const [small, large, larger] = [peer().sent(1000), peer().sent(3000), peer().sent(3500)]
    await world.advance(5900)
    t.strictSame([small.code, large.code, larger.code], [undefined, undefined, undefined])
    await world.advance(200)
    t.strictSame([small.code, large.code, larger.code], [undefined, undefined, 'SLOW_CONSUMER'])
    await world.advance(5000)
    t.equal(large.code, undefined, 'while one is going, there is room to come')
    larger.gone()
    await world.advance(60_000)
    t.strictSame([small.code, large.code], [undefined, undefined], 'it is enough')
  },
)

t.test('within the bound nobody is cut off, however long it does not read', async (t) => {
  const { world, peer } = setUp()
  const idle = peer().sent(7000)
  await world.advance(600_000)
  t.equal(idle.code, undefined)
})

t.test('one that reads what waited for it stays, though some always waits', async (t) => {
  const { world, peer } = setUp()
  const reading = peer().sent(7500)
  for (let second = 0; second < 60; second++) {
    reading.read(2000)
    reading.sent(2000)
    await world.advance(1000)
  }
  t.equal(reading.code, undefined)
})

t.test('one that reads a little now and then does not stay', async (t) => {
  const { world, peer } = setUp()
  const trickling = peer().sent(7900)
  for (let second = 0; second < 10; second++) {
    trickling.read(10)
    await world.advance(1000)
  }
  t.equal(trickling.code, 'SLOW_CONSUMER')
})

t.test('that there is room again is told once, when it is worth it', async (t) => {
  const { world, peer, rooms } = setUp()
  const one = peer().sent(8000)
  const other = peer().sent(900)
  one.read(950)
  one.count()
  t.equal(rooms(), 0, 'hardly any')
  other.gone()
  one.read(100)
  one.count()
  t.equal(rooms(), 1)
  one.gone()
  t.equal(rooms(), 1)

  const slow = peer().sent(8000)
  slow.read(500)
  await world.advance(1000)
  t.equal(rooms(), 2, 'or little, after a second')
})

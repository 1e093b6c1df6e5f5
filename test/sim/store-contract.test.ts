import { test } from 'tap'
import { SimStore } from '../../src/sim/store.ts'
import { storeContract } from '../storage/store-contract.ts'

test('the simulated store keeps what every store promises', (t) =>
  storeContract(t, () => {
    const disk = new SimStore()
    return () => disk.attach()
  }))

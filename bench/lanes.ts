/** Works number 0 to `count` − 1, so many at the same time. */
export async function inLanes(
  count: number,
  lanes: number,
  work: (number: number) => Promise<unknown>,
): Promise<void> {
  let next = 0
  const lane = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: Math.min(count, lanes) }, lane))
}

import type { PeersReport } from './report.ts'
export function renderPicture(_report: PeersReport): string {
  return ''
}

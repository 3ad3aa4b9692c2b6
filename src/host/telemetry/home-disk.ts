/** The file system that holds the home. */
import { statfs } from 'node:fs/promises';
import { gaugeBy, type Metric } from '../../base/metrics.ts';

type StatFs = (path: string) => Promise<{ readonly bavail: number; readonly blocks: number; readonly bsize: number }>;

export class HomeDisk {
  /** Without samples until the first `ask`. */
  readonly metric: Metric;
  readonly #dir: string;
  readonly #statfs: StatFs;
  #bytes: { readonly free: number; readonly size: number } | undefined;

  constructor(dir: string, statFs: StatFs = statfs) {
    this.#dir = dir;
    this.#statfs = statFs;
    this.metric = gaugeBy(
      'neurovisor_home_disk_bytes',
      'File system of the home: bytes that this user can still write (free), and all (size).',
      ['state'],
      () => Object.entries(this.#bytes ?? {}).map(([state, bytes]) => [{ state }, bytes]),
    );
  }

  /** Reads it again. @throws as statfs(2); the last values stay */
  async ask(): Promise<void> {
    const { bavail, blocks, bsize } = await this.#statfs(this.#dir);
    this.#bytes = { free: bavail * bsize, size: blocks * bsize };
  }
}

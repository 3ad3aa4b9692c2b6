/**
 * Paths on the host, below one directory, `$NEUROVISOR_HOME` (default `~/.neurovisor`):
 *
 *     cache/   what `setup` builds and downloads, by digest; safe to delete
 *     data/    the store: paused sandboxes and snapshots
 *     run/     one directory per running sandbox, and the daemon's socket; otherwise empty
 */
import { createHash } from 'node:crypto';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

export interface Home {
  readonly dir: string;
  readonly cacheDir: string;
  readonly runDir: string;
}

/**
 * `sun_path` holds 108 bytes (unix(7)). Below the run directory come `/<20 letters>/v_65535` and a NUL.
 */
const RUN_DIR_BYTES_MAX = 108 - 1 - '/v.vhost_65535'.length - 21;

/** @param home the configured directory; empty: `~/.neurovisor` */
export function resolveHome(home: string): Home {
  const dir = resolve(home || join(homedir(), '.neurovisor'));
  const inHome = join(dir, 'run');
  // Sockets of a home with a long path live in a directory of its own with a short path.
  const short = join(
    tmpdir(),
    `nv-${process.getuid?.() ?? 0}-${createHash('sha256').update(dir).digest('hex').slice(0, 12)}`,
  );
  const runDir = Buffer.byteLength(inHome) <= RUN_DIR_BYTES_MAX ? inHome : short;
  return { dir, cacheDir: join(dir, 'cache'), runDir };
}

/** The socket of this home's daemon. */
export function daemonSocket(home: Pick<Home, 'runDir'>): string {
  return join(home.runDir, 'daemon.sock');
}

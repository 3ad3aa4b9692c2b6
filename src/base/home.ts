/**
 * Paths on the host, below one directory, `$NEUROVISOR_HOME` (default `~/.neurovisor`):
 *
 *     cache/     what `setup` builds and downloads, by digest; safe to delete
 *     templates/ the definitions of named templates
 *     data/      the store: paused sandboxes and snapshots
 *     data.key   the key of the requests in the store
 *     run/       one directory per running sandbox, and the daemon's socket; otherwise empty
 */
import { mkdirSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { CodedError } from './errors.ts';
import { privateDirFault, sharedDirFault } from './private-dir.ts';

/** Another user could have prepared, or could replace, the run directory in the temporary directory. */
export class HomeError extends CodedError<'run_dir_unsafe'> {}

export interface Home {
  readonly dir: string;
  readonly cacheDir: string;
  readonly runDir: string;
}

/** `sun_path` holds 108 bytes (unix(7)). Below the run directory come `/<20 letters>/v_65535` and a NUL. */
const RUN_DIR_BYTES_MAX = 108 - 1 - '/v.vhost_65535'.length - 21;

/** @param home the configured directory; empty means `~/.neurovisor` */
export function resolveHome(home: string): Home {
  const dir = resolve(home || join(homedir(), '.neurovisor'));
  const inHome = join(dir, 'run');
  const isShort = Buffer.byteLength(inHome) <= RUN_DIR_BYTES_MAX;
  return { dir, cacheDir: join(dir, 'cache'), runDir: isShort ? inHome : shortRunDir(dir) };
}

/** A home with a long path has its sockets in a separate directory with a short path. */
function shortRunDir(dir: string): string {
  // Loaded here: few homes need it, and it would slow the start of every command (decision 39).
  const { createHash } = process.getBuiltinModule('node:crypto');
  const digest = createHash('sha256').update(dir).digest('hex').slice(0, 12);
  return join(resolve(tmpdir()), `nv-${process.getuid?.() ?? 0}-${digest}`);
}

/**
 * Creates the run directory, or accepts an existing one that no other user can have prepared.
 * @throws HomeError; a Node error if it can't be created
 */
export function requireRunDir(runDir: string): void {
  // Before mkdir, too: its errors about a file or a dangling link name no remedy.
  checkRunDir(runDir);
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  checkRunDir(runDir);
}

/**
 * Refuses a run directory in the temporary directory that is not this user's alone: its sockets receive environments
 * and secrets, and its records name processes to kill. One in the home is as safe as the home. A missing one is
 * accepted.
 * @throws HomeError
 */
export function checkRunDir(runDir: string): void {
  const parent = dirname(runDir);
  if (parent !== resolve(tmpdir())) return;
  const cause = privateDirFault(runDir) ?? sharedDirFault(parent);
  if (cause === undefined) return;
  throw new HomeError('run_dir_unsafe', `could not use the run directory ${runDir}`, {
    cause,
    remedy: 'set NEUROVISOR_HOME to a directory with a shorter path, so that it holds the run directory',
  });
}

export function daemonSocket(home: Pick<Home, 'runDir'>): string {
  return join(home.runDir, 'daemon.sock');
}

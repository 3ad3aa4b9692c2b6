/**
 * A wildcard of names for programs whose resolver is the C library's: in a mount namespace of theirs, `/etc/hosts` is a
 * file that the test extends. Needs root.
 */
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Names extends Disposable {
  /** Makes a name resolve to 127.0.0.1. */
  add(name: string): void;
  /** The command line that runs a program with these names. */
  wrap(program: string, args: readonly string[]): { program: string; args: readonly string[] };
}

export function openNames(): Names {
  const dir = mkdtempSync(join(tmpdir(), 'nv-names-'));
  const path = join(dir, 'hosts');
  writeFileSync(path, '127.0.0.1 localhost\n');
  const script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"';
  return {
    add: (name) => appendFileSync(path, `127.0.0.1 ${name}\n`),
    wrap: (program, args) => ({
      program: 'unshare',
      args: ['--mount', 'sh', '-c', script, 'sh', path, program, ...args],
    }),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}

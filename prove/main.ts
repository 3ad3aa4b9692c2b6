/**
 * Runs the proofs that its arguments name in the current network namespace and prints them as JSON. The first argument
 * is a private directory for its files, which its parent removes.
 */
import { rmSync } from 'node:fs';
import { basename } from 'node:path';
import { assert } from '../src/base/assert.ts';
import { CodedError, describeError } from '../src/base/errors.ts';
import { silentLog } from '../src/base/log.ts';
import { DIR_PREFIX } from './map.ts';
import { proveEgress } from './network/egress-proof.ts';
import { proveMetadata } from './network/metadata-proof.ts';
import { proveNeighbors } from './network/neighbors-proof.ts';
import { proveSecrets } from './network/secrets-proof.ts';
import { proveXdp } from './network/xdp-proof.ts';
import type { Proof } from './proof.ts';
import { createWorld, type World } from './world.ts';

const PROOFS: Readonly<Record<string, (world: World) => Promise<Proof>>> = {
  metadata: proveMetadata,
  egress: proveEgress,
  secrets: proveSecrets,
  xdp: proveXdp,
  neighbors: proveNeighbors,
};

const [dir = '', ...names] = process.argv.slice(2);
assert(basename(dir).startsWith(DIR_PREFIX), 'a directory of its own');
process.env['TMPDIR'] = dir;

const say = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);

/** The parent is gone, perhaps killed, so this process removes the directory. */
function leave(): void {
  rmSync(dir, { recursive: true, force: true });
  process.exit(1);
}
process.stdin.resume().once('end', leave);
process.stdout.once('error', leave);

try {
  await using world = await createWorld(silentLog);
  for (const name of names) {
    const prove = PROOFS[name];
    if (prove !== undefined) say({ proof: await prove(world) });
  }
} catch (error) {
  const { code, remedy } = error instanceof CodedError ? error : { code: 'internal', remedy: undefined };
  say({ error: { code, message: describeError(error), remedy } });
}
process.exit(0);

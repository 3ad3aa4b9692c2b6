/** Proves what its arguments name, in the network namespace that it was started in; prints them as JSON. */

import { CodedError, describeError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { proveEgress } from './egress-proof.ts';
import { proveMetadata } from './metadata-proof.ts';
import type { Proof } from './proof.ts';
import { proveSecrets } from './secrets-proof.ts';
import { createWorld, type World } from './world.ts';
import { proveXdp } from './xdp-proof.ts';

const PROOFS: Readonly<Record<string, (world: World) => Promise<Proof>>> = {
  metadata: proveMetadata,
  egress: proveEgress,
  secrets: proveSecrets,
  xdp: proveXdp,
};

const say = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);

// Whoever wanted to know is gone.
process.stdin.resume().once('end', () => process.exit(1));

try {
  await using world = await createWorld(silentLog);
  for (const name of process.argv.slice(2)) {
    const prove = PROOFS[name];
    if (prove !== undefined) say({ proof: await prove(world) });
  }
} catch (error) {
  const { code, remedy } =
    error instanceof CodedError ? error : { code: 'internal', remedy: undefined };
  say({ error: { code, message: describeError(error), remedy } });
}
process.exit(0);

/** The floods proof holds, and fails for a daemon that takes long turns. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { FLOOD_KINDS } from '../../prove/api/flood-worker.ts';
import { proveFloods } from '../../prove/api/floods-proof.ts';
import type { Proof } from '../../prove/proof.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';

const context = { config: readConfig(process.env), log: silentLog };
const failed = ({ tried }: Proof) => tried.filter(({ ok }) => !ok);

it('prove floods: holds, with a control for each flood', async () => {
  const proof = await proveFloods(context);
  expect(failed(proof)).toEqual([]);
  const controls = proof.tried.filter(({ what }) => what.startsWith('control: a flood'));
  expect(controls).toHaveLength(FLOOD_KINDS.length);
});

it('prove floods: does not hold for a daemon that parses a large body in a turn of 200 ms', async () => {
  const preload = join(import.meta.dirname, '../fixtures/long-turn.ts');
  const proof = await proveFloods({ ...context, preload, kinds: ['REST'] });
  expect(failed(proof).map(({ what }) => what)).toContain('/v1/health of another tenant in a flood of REST');
});

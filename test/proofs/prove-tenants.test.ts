/** The tenants proof holds, and fails for a caller that no ceiling stops, and where nobody else made the run directory. */
import { expect, it } from 'vitest';
import { proveTenants } from '../../prove/api/tenants-proof.ts';
import type { Proof } from '../../prove/proof.ts';
import { STEERING, steers } from '../../prove/terminal.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';

const context = { config: readConfig(process.env), log: silentLog };
const failed = ({ tried }: Proof) => tried.filter(({ ok }) => !ok).map(({ what }) => what);

it('prove tenants: holds', async () => {
  const proof = await proveTenants(context);
  expect(failed(proof)).toEqual([]);
  expect(proof.tried.filter(({ what }) => what.startsWith('control:')).length).toBeGreaterThan(4);
});

it('prove tenants: does not hold for the operator’s key, and a run directory of our own', async () => {
  const what = failed(await proveTenants({ ...context, asOperator: true, ownRunDirectory: true }));
  expect(what).toContain('a start with a private network');
  expect(what).toContain('the tenant reads /v1/keys');
  expect(what).toContain('control: a refused call leaves a record');
  expect(what).toContain('`neurovisor ls` where another user made the run directory');
  expect(what).toContain('… its daemon.sock gets a connection');
});

it('prove tenants: text that steers a terminal is recognized', () => {
  expect([STEERING, '\x9b2J', 'a\rb', 'plain\n\ttext é'].map(steers)).toEqual([true, true, true, false]);
});

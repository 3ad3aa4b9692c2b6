/** The package gateway in front of this machine's own Python index. */
import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { NO_PACKAGES } from '../../src/base/request/package-policy.ts';
import { findHostIndexes } from '../support/host-index.ts';
import { fetchPackage, openPackageWorld } from '../support/package-world.ts';
import { need } from '../support/requires.ts';

interface Page {
  readonly files: readonly { readonly url: string; readonly hashes: { readonly sha256: string } }[];
}

it('host index: a real page and file pass, without a name of the index', { timeout: 60_000 }, async (context) => {
  const indexes = need(context, 'python-index', await findHostIndexes());
  await using world = await openPackageWorld(() => indexes, { isPublic: undefined });
  const socket = await world.attach({ ...NO_PACKAGES, ecosystems: ['pip'] });
  const accept = 'application/vnd.pypi.simple.v1+json';
  const page = await fetchPackage(socket, '/pypi/simple/six/', { accept });
  expect(page.status).toBe(200);
  const text = page.body.toString();
  expect(text).not.toMatch(/https?:/);
  const last = (JSON.parse(text) as Page).files.at(-1);
  const path = new URL(last?.url ?? '', 'http://x/pypi/simple/six/').pathname;
  const file = await fetchPackage(socket, path);
  expect(file.status).toBe(200);
  expect(createHash('sha256').update(file.body).digest('hex')).toBe(last?.hashes.sha256);
});

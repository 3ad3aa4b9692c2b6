/** `neurovisor prove packages` holds, and detects a gateway that does not keep its promise. */
import { expect, it } from 'vitest';
import { provePackages } from '../../prove/packages/packages-proof.ts';

it('prove packages: holds', { timeout: 60_000 }, async () => {
  const { tried, holds } = await provePackages();
  expect(tried.filter(({ ok }) => !ok)).toEqual([]);
  expect([holds, tried.length > 60]).toEqual([true, true]);
});

it('prove packages: detects a gateway that connects to private addresses', { timeout: 60_000 }, async () => {
  const { tried, holds } = await provePackages({ isPublic: () => true });
  expect(holds).toBe(false);
  const failed = tried.filter(({ ok }) => !ok).map(({ what }) => what);
  expect(failed).toContain('link: http://127.0.0.1:PORT/x');
  expect(failed).toContain('link: /files/redirect');
  expect(failed).toContain('link behind a proxy: https://169.254.169.254/latest/meta-data/');
  expect(failed).toContain('requests that reached the internal service');
});

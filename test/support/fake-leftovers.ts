/** Checks that must hold after a test with a fake host. */
import { expect } from 'vitest';
import type { FakeHost } from './fake-host.ts';

/** Empty `FakeHost.holdings`. */
export const NOTHING = {};
/** Empty `FakeHost.stored`. */
export const NOTHING_STORED = { files: 0, staged: 0, trash: 0, snapshots: 0 };

/** Ends everything; then no resource is in use or stored, and every planned step has happened. */
export async function requireNothing(host: FakeHost): Promise<void> {
  const { control, script } = host;
  for (const { id } of await control.list()) await control.remove(id);
  for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
  await control.setPool({ min: 0, max: 0 });
  expect(script.unused).toEqual([]);
  expect(await control.list()).toEqual([]);
  expect(await host.holdings()).toEqual(NOTHING);
  // Work that was under way when its sandbox ended still removes its own files.
  await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
}

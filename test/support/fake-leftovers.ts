/** What must be true when a test with a fake host is over. */
import { expect } from 'vitest';
import type { FakeHost } from './fake-host.ts';

/** Of `FakeHost.holdings`. */
export const NOTHING = {};
/** Of `FakeHost.stored`. */
export const NOTHING_STORED = { files: 0, staged: 0, trash: 0, snapshots: 0 };

/** Ends all that can be ended; then nothing is held or stored, and all that was planned has happened. */
export async function requireNothing(host: FakeHost): Promise<void> {
  const { control, script } = host;
  for (const { id } of await control.list()) await control.remove(id);
  for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
  await control.setPool({ min: 0, max: 0 });
  expect(script.unused).toEqual([]);
  expect(await control.list()).toEqual([]);
  expect(await host.holdings()).toEqual(NOTHING);
  // What was under way when its sandbox ended still puts its own files away.
  await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
}

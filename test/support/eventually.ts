/** Waits until a check no longer throws: as long as a busy machine may need, not as long as it should. */
import { vi } from 'vitest';

export const eventually = <T>(check: () => T | Promise<T>): Promise<T> =>
  vi.waitFor(check, { timeout: 60_000, interval: 20 });

/** Counts the bytes of a channel over time (I/O). */
import type { ChannelStats } from '../../src/base/channel.ts';
import { sleep } from '../../src/base/clock.ts';
import type { Count } from './rate-verdict.ts';

const GAP_MS = 20;

/** Guest → host, and host → guest. */
export type Both<T> = readonly [T, T];

export interface Counting {
  /** Resolves when the first count is taken. */
  readonly begun: Promise<void>;
  /** Takes a last count and returns all. */
  stop(): Promise<Both<readonly Count[]>>;
}

/** Counts both directions until `stop`, about 50 times a second. */
export function countBytes(
  stats: () => Promise<Pick<ChannelStats, 'bytesGuestToHost' | 'bytesHostToGuest'>>,
): Counting {
  const counts: Both<Count[]> = [[], []];
  let isDone = false;
  const count = async (): Promise<void> => {
    const askedAtMs = performance.now();
    const { bytesGuestToHost, bytesHostToGuest } = await stats();
    const times = { askedAtMs, answeredAtMs: performance.now() };
    counts[0].push({ ...times, bytes: bytesGuestToHost });
    counts[1].push({ ...times, bytes: bytesHostToGuest });
  };
  const begun = count();
  const ended = (async () => {
    for (await begun; !isDone; await sleep(GAP_MS)) await count();
    await count();
  })();
  return {
    begun,
    async stop() {
      isDone = true;
      await ended;
      return counts;
    },
  };
}

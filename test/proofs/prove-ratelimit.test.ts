/** The proof of channel limits against sandboxes of its own making, which keep their limits or do not. */
import { PassThrough, Readable, Writable } from 'node:stream';
import { expect, it } from 'vitest';
import { Notes } from '../../prove/proof.ts';
import { type Control, proveChannels } from '../../prove/vms/ratelimit-proof.ts';
import type { ChannelLimits, ChannelStats } from '../../src/base/channel.ts';
import { sleep } from '../../src/base/clock.ts';
import { type BucketLimit, TokenBucket } from '../../src/base/token-bucket.ts';
import { KIB } from '../../src/base/units.ts';

const CHUNK_BYTES = 16 * KIB;
const TICK_MS = 5;
const ROUND_TRIP_MS = 2;
const PHASE_MS = 1_500;

interface Faults {
  /** How the host changes a limit before it applies it. */
  readonly applied?: (limit: BucketLimit, changes: number) => BucketLimit | undefined;
  /** Bytes that pass uncounted beside the counted ones. */
  readonly uncounted?: number;
  /** Milliseconds that a flood adds to a neighbor's round trip. */
  readonly costs?: (isLimited: boolean) => number;
}

type Direction = 'guestToHostBytes' | 'hostToGuestBytes';
type Program = Awaited<ReturnType<Awaited<ReturnType<Control['guest']>>['exec']>>;

/** One sandbox: two buckets, and programs that send and get through them. */
class Sandbox {
  readonly buckets: Record<Direction, TokenBucket>;
  readonly bytes: Record<Direction, number> = { guestToHostBytes: 0, hostToGuestBytes: 0 };
  isLimited = false;
  isFlooded = false;
  got = 0;
  #changes = 0;
  readonly #faults: Faults;

  constructor(faults: Faults, limits: ChannelLimits) {
    this.#faults = faults;
    const bucket = () => new TokenBucket(undefined, performance.now());
    this.buckets = { guestToHostBytes: bucket(), hostToGuestBytes: bucket() };
    this.limit(limits);
  }

  limit(limits: ChannelLimits): void {
    const { applied = (limit: BucketLimit) => limit } = this.#faults;
    this.isLimited = limits.guestToHostBytes !== undefined;
    for (const direction of ['guestToHostBytes', 'hostToGuestBytes'] as const) {
      const limit = limits[direction];
      const own = limit && applied(limit, this.#changes);
      this.buckets[direction].setLimit(own, performance.now());
    }
    this.#changes += 1;
  }

  async pass(direction: Direction): Promise<void> {
    const bucket = this.buckets[direction];
    while (!bucket.tryOpen(performance.now())) await sleep(TICK_MS);
    bucket.spend(CHUNK_BYTES);
    this.bytes[direction] += CHUNK_BYTES - (this.#faults.uncounted ?? 0);
    if (!bucket.isLimited) await sleep(TICK_MS);
  }

  exec(argv: readonly string[], delayMs: () => number): Program {
    const exit = Promise.withResolvers<never>();
    exit.promise.catch(() => undefined);
    let isKilled = false;
    const kill = (): void => {
      isKilled = true;
      this.isFlooded = false;
      exit.reject(new Error('killed'));
    };
    const made = { pid: 1, warm: false, stderr: Readable.from([]), kill, exit: exit.promise };
    const rest = { ...made, resize: async () => undefined };
    if (argv[0] === 'cat') {
      const stdout = new PassThrough();
      const write = async (bytes: Buffer, done: () => void): Promise<void> => {
        await sleep(delayMs());
        stdout.write(bytes);
        done();
      };
      const stdin = new Writable({ write: (bytes, _, done) => void write(bytes, done) });
      return { ...rest, stdin, stdout };
    }
    this.isFlooded = true;
    if (argv[2]?.includes('os.write(1')) {
      const stdout: Readable = new Readable({
        read: () =>
          void this.pass('guestToHostBytes').then(() => {
            if (!isKilled) stdout.push(Buffer.alloc(CHUNK_BYTES));
          }),
      });
      return { ...rest, stdin: new PassThrough(), stdout };
    }
    const take = async (bytes: Buffer, done: () => void): Promise<void> => {
      for (let at = 0; at < bytes.length && !isKilled; at += CHUNK_BYTES) {
        await this.pass('hostToGuestBytes');
        this.got += CHUNK_BYTES;
      }
      done();
    };
    const stdin = new Writable({ write: (bytes, _, done) => void take(bytes, done) });
    return { ...rest, stdin, stdout: new PassThrough() };
  }
}

async function prove(faults: Faults): Promise<string[]> {
  const sandboxes: Sandbox[] = [];
  const of = (id: string): Sandbox => sandboxes[Number(id)] as Sandbox;
  const { costs = (isLimited: boolean) => (isLimited ? 0 : 10) } = faults;
  const delayMs = (): number => {
    const flooding = sandboxes.find(({ isFlooded }) => isFlooded);
    return ROUND_TRIP_MS + (flooding === undefined ? 0 : costs(flooding.isLimited));
  };
  const control: Control = {
    create: async ({ channelLimits = {} }) => {
      sandboxes.push(new Sandbox(faults, channelLimits));
      return { id: `${sandboxes.length - 1}` };
    },
    update: async (id, { channelLimits = {} }) => {
      of(id).limit(channelLimits);
      return undefined as never;
    },
    channelStats: async (id) => {
      const { guestToHostBytes, hostToGuestBytes } = of(id).bytes;
      const stats = { bytesGuestToHost: guestToHostBytes, bytesHostToGuest: hostToGuestBytes };
      return stats as ChannelStats;
    },
    guest: async (id) => ({
      exec: async ({ argv }) => of(id).exec(argv, delayMs),
      files: { readAll: async () => Buffer.from(`${of(id).got}`) },
    }),
  };
  const notes = new Notes();
  await proveChannels(control, notes, PHASE_MS);
  const { tried } = notes.proof('ratelimit');
  expect(tried.length).toBe(13);
  return tried.filter(({ ok }) => !ok).map(({ what }) => what.replace(/:? between.*| of \d+$/, ''));
}

const windows = (what: string): string => `${what}: bytes in any window`;
const BOTH = ['guest → host', 'host → guest'];
const CHANGED = BOTH.map((what) => `${what}, after a change to half`);

it.each([
  ['holds for a host that keeps its limits', {}, []],
  ['finds a host without limits', { applied: () => undefined }, [...BOTH, ...CHANGED].map(windows)],
  [
    'finds a change without effect',
    { applied: ({ size }: BucketLimit) => ({ size, refillPerSecond: 256 * KIB }) },
    CHANGED.map(windows),
  ],
  [
    'finds a limit that blocks',
    { applied: ({ size }: BucketLimit) => ({ size, refillPerSecond: 1 }) },
    CHANGED.map((what) => `${what}: share of the rate`),
  ],
  [
    'finds bytes that are not counted',
    {
      uncounted: CHUNK_BYTES / 2,
      applied: ({ size, refillPerSecond: rate }: BucketLimit) => ({ size: 2 * size, refillPerSecond: 2 * rate }),
    },
    ['guest → host: received by the program on the host', 'host → guest: received by the program in the guest'],
  ],
  [
    'finds a limit that does not help the neighbor',
    { costs: () => 20 },
    ['round trip of the neighbor beside a limited flood, lower quartile'],
  ],
] as const)('prove ratelimit: %s', async (_, faults: Faults, failed) => {
  const seen = await prove(faults);
  expect(seen).toEqual(failed.length === 0 ? [] : expect.arrayContaining([...failed]));
});

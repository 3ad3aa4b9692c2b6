/**
 * Proves that a channel carries no more bytes than its limit allows, in any window of time, and not much less; that a
 * change of the limit counts at once; and that a guest that floods its channel does not take the host from a neighbor.
 *
 *     noisy guest ══ floods, both directions ══► limit ──► bytes counted by the device, and by both ends
 *     polite guest ── round trips of one byte ───────────► times: alone, beside the flood with and without a limit
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { ChannelLimits } from '../../src/base/channel.ts';
import { sleep } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { KIB } from '../../src/base/units.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import { eventually, Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { type Both, type Counting, countBytes } from './rate-counts.ts';
import {
  type Count,
  freeTry,
  limitBelow,
  limitedTries,
  type NeighborTimes,
  neighborTry,
  perSecondOf,
  type Rate,
} from './rate-verdict.ts';

type ControlPlane = Awaited<ReturnType<typeof openControlPlane>>['control'];
/** The parts of a control plane that the proof uses. */
export type Control = Pick<ControlPlane, 'update' | 'channelStats'> & {
  create(request: Parameters<ControlPlane['create']>[0]): Promise<{ readonly id: string }>;
  guest(id: string): Promise<Guest>;
};
type Guest = Pick<Awaited<ReturnType<ControlPlane['guest']>>, 'exec'> & {
  readonly files: Pick<Awaited<ReturnType<ControlPlane['guest']>>['files'], 'readAll'>;
};
type Program = Awaited<ReturnType<Guest['exec']>>;

const SIZE = { memoryMib: 192, diskMib: 64 } as const;
const PHASE_MS = 5_000;
/** Bytes that the device moves at a time, the one buffer that may pass beyond the limit. */
const TURN_BYTES = 64 * KIB;
/** More than the messages that start programs. */
const FLOWING_BYTES = 128 * KIB;
const CHUNK = Buffer.alloc(64 * KIB);
const ROUND_TRIPS = 15;
/** Other load on the host may hide the effect of a limit in one round. */
const [ROUNDS_MIN, ROUNDS_MAX] = [2, 8];
const DIRECTIONS = ['guest → host', 'host → guest'] as const;
const GOT_PATH = 'got';

const SEND = 'import os\nwhile True: os.write(1, bytes(65536))';
/** Keeps the number of bytes that it has read in a file. */
const RECEIVE = `
import os
total = 0
while part := os.read(0, 65536):
    total += len(part)
    with open('${GOT_PATH}.new', 'w') as file: file.write(str(total))
    os.rename('${GOT_PATH}.new', '${GOT_PATH}')
`;

export async function proveRatelimit(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  const dir = await mkdtemp(join(tmpdir(), 'nv-prove-'));
  const runtime = await openProofRuntime(context);
  try {
    await using opened = await openControlPlane(runtime, context.log, { dataDir: join(dir, 'data') });
    await proveChannels(opened.control, notes);
  } finally {
    await runtime.close();
    await rm(dir, { recursive: true, force: true });
  }
  return notes.proof('ratelimit');
}

/** @param phaseMs how long bytes are counted at each limit */
export async function proveChannels(control: Control, notes: Notes, phaseMs = PHASE_MS): Promise<void> {
  const polite = new Channel(control, (await control.create(SIZE)).id, phaseMs);
  const fast = limitBelow(await polite.freePerSecond());
  const { id } = await control.create({ ...SIZE, channelLimits: limitsOf(fast) });
  const noisy = new Channel(control, id, phaseMs);
  await proveBytes(noisy, fast, notes);
  await proveNeighbor(noisy, polite, fast / 2, notes);
}

/** Each direction at a rate, at a lower one, and without one, by changes while bytes flow. */
/** @param fast bytes per second */
async function proveBytes(noisy: Channel, fast: number, notes: Notes): Promise<void> {
  const counting = noisy.countBytes();
  await counting.begun;
  const sinceMs = performance.now();
  const flood = await noisy.flood();
  await noisy.flows();
  const flowsSinceMs = performance.now();
  await sleep(noisy.phaseMs);
  tell(notes, await counting.stop(), fast, '', flowsSinceMs);
  await tellReceived(notes, flood, fast, sinceMs);
  await noisy.limit(limitsOf(fast / 2));
  tell(notes, await noisy.phase(), fast / 2, ', after a change to half');
  await noisy.limit({});
  const free = await noisy.phase();
  for (const [n, what] of DIRECTIONS.entries()) {
    notes.add(freeTry(what, free[n] ?? [], rateOf(fast)));
  }
  await flood.stop();
}

function tell(notes: Notes, counts: Both<readonly Count[]>, perSecond: number, when: string, sinceMs?: number): void {
  for (const [n, what] of DIRECTIONS.entries()) {
    const tries = limitedTries(`${what}${when}`, counts[n] ?? [], rateOf(perSecond), sinceMs);
    for (const each of tries) notes.add(each);
  }
}

/** The ends of the channel must not have received more than the device counts. */
async function tellReceived(notes: Notes, flood: Flood, fast: number, sinceMs: number): Promise<void> {
  const ends = [
    ['guest → host: received by the program on the host', () => flood.fromGuest()],
    ['host → guest: received by the program in the guest', () => flood.inGuest()],
  ] as const;
  for (const [what, received] of ends) {
    const bytes = await received();
    const ms = performance.now() - sinceMs;
    const { size, turn, perSecond } = rateOf(fast);
    const most = size + turn + (perSecond * ms) / 1000;
    const seen = `${(bytes / KIB).toFixed(0)} KiB in ${ms.toFixed(0)} ms`;
    notes.note(what, `at most ${(most / KIB).toFixed(0)} KiB`, seen, bytes > 0 && bytes <= most);
  }
}

async function proveNeighbor(noisy: Channel, polite: Channel, slow: number, notes: Notes): Promise<void> {
  const times = { alone: [], limited: [], unlimited: [] } as {
    readonly [K in keyof NeighborTimes]: number[];
  };
  await using echo = await polite.echo();
  let verdict = neighborTry(times);
  for (let round = 1; round <= ROUNDS_MAX; round += 1) {
    if (round > ROUNDS_MIN && verdict.ok) break;
    await noisy.limit(limitsOf(slow));
    times.alone.push(...(await echo.roundTrips(ROUND_TRIPS)));
    const flood = await noisy.flood();
    // The start of programs in an emulated guest costs the neighbor more than their bytes.
    await noisy.flows();
    times.limited.push(...(await echo.roundTrips(ROUND_TRIPS)));
    await noisy.limit({});
    await noisy.flows();
    times.unlimited.push(...(await echo.roundTrips(ROUND_TRIPS)));
    await flood.stop();
    verdict = neighborTry(times);
  }
  notes.add(verdict);
}

interface Flood {
  /** Bytes of the guest that a program on the host has read. */
  fromGuest(): Promise<number>;
  /** Bytes of the host that a program in the guest has read. */
  inGuest(): Promise<number>;
  stop(): Promise<void>;
}

interface Echo extends AsyncDisposable {
  /** Milliseconds of each round trip. */
  roundTrips(count: number): Promise<number[]>;
}

class Channel {
  readonly #control: Control;
  readonly #id: string;
  readonly phaseMs: number;

  constructor(control: Control, id: string, phaseMs: number) {
    this.#control = control;
    this.#id = id;
    this.phaseMs = phaseMs;
  }

  async limit(channelLimits: ChannelLimits): Promise<void> {
    await this.#control.update(this.#id, { channelLimits });
  }

  countBytes(): Counting {
    return countBytes(() => this.#control.channelStats(this.#id));
  }

  /** Waits until the programs of a flood run, which takes a while in an emulated guest. */
  async flows(): Promise<void> {
    const count = () => this.#control.channelStats(this.#id);
    const before = await count();
    await eventually(async () => {
      const now = await count();
      const bytes = [now.bytesGuestToHost - before.bytesGuestToHost, now.bytesHostToGuest - before.bytesHostToGuest];
      return bytes.every((each) => each > FLOWING_BYTES);
    });
  }

  /** Bytes per second of the slower direction, without a limit. */
  async freePerSecond(): Promise<number> {
    const flood = await this.flood();
    await this.flows();
    const counts = await this.phase();
    await flood.stop();
    return Math.min(...counts.map(perSecondOf));
  }

  async phase(): Promise<Both<readonly Count[]>> {
    const counting = this.countBytes();
    await sleep(this.phaseMs);
    return await counting.stop();
  }

  async flood(): Promise<Flood> {
    const guest = await this.#control.guest(this.#id);
    const sender = await guest.exec({ argv: ['python3', '-c', SEND], stdin: false });
    const receiver = await guest.exec({ argv: ['python3', '-c', RECEIVE], stdin: true });
    let received = 0;
    sender.stdout.on('data', (bytes: Buffer) => {
      received += bytes.length;
    });
    receiver.stdout.resume();
    const source = new Readable({ read: () => void source.push(CHUNK) });
    receiver.stdin.on('error', (error) => ignore(error, 'the flood is over'));
    source.pipe(receiver.stdin);
    return {
      fromGuest: async () => received,
      inGuest: async () => Number((await guest.files.readAll(GOT_PATH)).toString()),
      stop: async () => {
        source.unpipe();
        source.destroy();
        for (const program of [sender, receiver]) await killed(program);
      },
    };
  }

  /** A program in the guest that returns each byte. */
  async echo(): Promise<Echo> {
    const guest = await this.#control.guest(this.#id);
    const program = await guest.exec({ argv: ['cat'], stdin: true });
    return {
      async roundTrips(count) {
        const times: number[] = [];
        for (let n = 0; n < count; n += 1) {
          const startMs = performance.now();
          const answer = new Promise((resolve) => program.stdout.once('data', resolve));
          program.stdin.write('x');
          await answer;
          times.push(performance.now() - startMs);
        }
        return times;
      },
      [Symbol.asyncDispose]: () => killed(program),
    };
  }
}

async function killed(program: Program): Promise<void> {
  program.stdout.resume();
  program.kill();
  await program.exit.catch((error: unknown) => ignore(error, 'it has ended in any case'));
}

function limitsOf(perSecond: number): ChannelLimits {
  const bucket = { size: perSecond, refillPerSecond: perSecond };
  return { guestToHostBytes: bucket, hostToGuestBytes: bucket };
}

const rateOf = (perSecond: number): Rate => ({ size: perSecond, perSecond, turn: TURN_BYTES });

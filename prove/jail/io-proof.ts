/**
 * Proves that a guest can't exceed the limits of its disks, nor its VMM those of its control group.
 *
 * The workload measures its own throughput. A busy machine gives less, so a control counts its best of many tries.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Log } from '../../src/base/log.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { type IoLimits, ioLimits } from '../../src/machine/jail/disk-io.ts';
import { openCgroups } from '../../src/machine/jail/open.ts';
import { Notes, type Proof } from '../proof.ts';
import { type JailContext, openProofRuntime } from '../proof-runtime.ts';
import { Injector } from './inject.ts';

/** A fraction of the throughput in software emulation. */
const BYTES_PER_SECOND = MIB;
const OPS_PER_SECOND = 20;
const TRIES_MAX = 20;
const OUTPUT_BYTES_MAX = 4 * 1024;
/** Tolerance for the clocks and timers of guest and host. */
const ROUNDING = 1.05;
/** The allowed burst, as a time: QEMU's bucket and a slice of the kernel's. */
const BURST_S = 0.3;
/** More than the allowed burst of either VMM (docs/security.md). */
const SPENT_BYTES = 3 * MIB;

interface Got {
  readonly amount: number;
  readonly seconds: number;
}

interface Work {
  readonly way: 'read' | 'write';
  /** Requests before the measured ones. */
  readonly spent: number;
  readonly count: number;
  readonly bytes: number;
  readonly how: 'direct' | 'buffered';
}

const LARGE = { spent: SPENT_BYTES / (256 * KIB), count: 16, bytes: 256 * KIB } as const;
const SMALL = { spent: 0, count: 60, bytes: 4 * KIB } as const;

/**
 * Runs in the guest on its own disk: first uses up the burst, then prints the nanoseconds of the rest. Buffered data
 * must have reached the disk.
 */
const SCRIPT = `
import mmap, os, sys, time
way, spent, count, size, how = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
fd = os.open('/var/io-proof', os.O_CREAT | os.O_RDWR | (os.O_DIRECT if how == 'direct' else 0), 0o600)
page = mmap.mmap(-1, size)
page.write(os.urandom(4096))
def work(first, end):
    for n in range(first, end):
        (os.pwritev if way == 'write' else os.preadv)(fd, [page], n * size)
    if how == 'buffered':
        os.fsync(fd)
    return time.monotonic_ns()
print(-work(0, spent) + work(spent, spent + count))
`;

export async function proveIo(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  await guestIsHeld(notes, context);
  await vmmIsHeld(notes, context.log);
  return notes.proof('io');
}

async function guestIsHeld(notes: Notes, context: JailContext): Promise<void> {
  const runtime = await openProofRuntime(context, { jail: 'enforce' });
  try {
    const diskLimits = { bytesPerSecond: BYTES_PER_SECOND };
    const sandbox = await runtime.startVm({ memoryMib: 256, diskMib: 128, diskLimits });
    const bytes = (of: Pick<Work, 'way' | 'how'>) => () =>
      inGuest(sandbox, { ...LARGE, ...of }, LARGE.count * LARGE.bytes);
    const ops = () => inGuest(sandbox, { ...SMALL, way: 'read', how: 'direct' }, SMALL.count);
    const ways = [
      ['writes past its page cache', bytes({ way: 'write', how: 'direct' })],
      ['writes into its page cache, then fsync', bytes({ way: 'write', how: 'buffered' })],
      ['reads past its page cache', bytes({ way: 'read', how: 'direct' })],
    ] as const;
    for (const [what, go] of ways) await held(notes, `guest ${what}`, go, BYTES);
    await sandbox.settings.setLimits({ diskLimits: { opsPerSecond: OPS_PER_SECOND } });
    await held(notes, 'guest reads 4 KiB at a time', ops, OPS);
    await sandbox.settings.setLimits({ diskLimits: {} });
    for (const [what, go] of ways) await free(notes, `guest ${what}`, go, BYTES);
    await free(notes, 'guest reads 4 KiB at a time', ops, OPS);
  } finally {
    await runtime.close();
  }
}

type Sandbox = Awaited<ReturnType<Runtime['startVm']>>;

async function inGuest(sandbox: Sandbox, work: Work, amount: number): Promise<Got> {
  const { way, spent, count, bytes, how } = work;
  const argv = ['python3', '-c', SCRIPT, way, ...[spent, count, bytes].map(String), how];
  const { stdout } = await sandbox.guest().exec({ stdin: false, user: 'root', argv });
  let text = '';
  for await (const chunk of stdout) text = (text + chunk.toString()).slice(0, OUTPUT_BYTES_MAX);
  return { amount, seconds: Number.parseInt(text, 10) / 1e9 };
}

/** The control group of a VMM, which limits even a compromised VMM. */
async function vmmIsHeld(notes: Notes, log: Log): Promise<void> {
  const cgroups = await openCgroups(log);
  const dir = await mkdtemp(join(tmpdir(), 'nv-prove-io-'));
  try {
    const io: IoLimits = { ...ioLimits([dir], {}), bytesPerSecond: BYTES_PER_SECOND };
    if (cgroups?.controllers.includes('blkio') !== true || io.disks.length === 0) {
      const what = 'control group of a VMM: not tried, since no group can limit its disk here';
      notes.note(what, 'only the VMM limits its guest', 'only the VMM limits its guest', true);
      return;
    }
    await using injector = await Injector.make();
    const write = async (limits: IoLimits | null): Promise<Got> => {
      const { count, bytes } = LARGE;
      const path = join(dir, 'file');
      const worker = injector.worker('write', path, String(count), String(bytes / KIB));
      const plain = { memoryBytes: 64 * MIB, tasks: 8, cpus: 1 };
      const group = cgroups.create('prove', limits === null ? plain : { ...plain, io: limits });
      group.add(worker.pid);
      try {
        const ms = /^wrote in (\d+) ms$/.exec(await worker.go())?.[1];
        return { amount: count * bytes, seconds: Number(ms) / 1000 };
      } finally {
        await group.remove();
      }
    };
    const what = 'process in the group of a VMM writes past the page cache';
    await held(notes, what, () => write(io), BYTES);
    await free(notes, what, () => write(null), BYTES);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

interface Limit {
  readonly perSecond: number;
  /** The largest request, which may go into debt. */
  readonly largest: number;
  readonly inWords: (perSecond: number) => string;
}

const BYTES: Limit = {
  perSecond: BYTES_PER_SECOND,
  largest: MIB,
  inWords: (perSecond) => `${(perSecond / MIB).toFixed(1)} MiB/s`,
};
const OPS: Limit = {
  perSecond: OPS_PER_SECOND,
  largest: 1,
  inWords: (perSecond) => `${perSecond.toFixed(0)} a second`,
};

async function held(notes: Notes, what: string, go: () => Promise<Got>, limit: Limit) {
  const got = await go();
  const ok = got.seconds > 0 && got.amount <= mostOf(got, limit);
  notes.note(what, `about ${limit.inWords(limit.perSecond)}`, inWords(got, limit), ok);
}

async function free(notes: Notes, what: string, go: () => Promise<Got>, limit: Limit) {
  let got = await go();
  for (let n = 1; n < TRIES_MAX && !(got.amount > mostOf(got, limit)); n += 1) got = await go();
  const expected = `more than ${limit.inWords(limit.perSecond)}`;
  const ok = got.amount > mostOf(got, limit);
  notes.note(`control: ${what}, without a limit`, expected, inWords(got, limit), ok);
}

function mostOf({ seconds }: Got, { perSecond, largest }: Limit): number {
  return ROUNDING * perSecond * (seconds + BURST_S) + largest;
}

function inWords({ amount, seconds }: Got, limit: Limit): string {
  return Number.isFinite(seconds) ? limit.inWords(amount / seconds) : 'nothing';
}

/**
 * Proves that a sandbox close to OOM sends an event before a program is killed, names the victim and continues, and
 * that an ended sandbox has a cause.
 */
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '../../src/base/clock.ts';
import { memoryGroup } from '../../src/host/probes/vmm-memory.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { vmmOf } from '../vmm-of.ts';
import { proveGrowth } from './oom-growth.ts';

type Sandbox = Awaited<ReturnType<Runtime['startVm']>>;
type End = Awaited<Sandbox['ended']>;

const SIZE = { memoryMib: 192, diskMib: 64 } as const;
const ROUNDS = 5;
/** Enough time to pause a sandbox, or to begin to save it. */
const LEAD_MS = 500;
const MODEST = 'kept = bytearray(8 << 20)';
/** Allocates as fast as Python can, so that the kernel kills soonest. */
const BALLOON = 'kept = []\nwhile True: kept.append(bytearray(1 << 20))';
const REBOOT = 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)';
/** Time limit from the end of a program to the event of its kill. */
const EVENT_MS_MAX = 10_000;
const POLL_MS = 20;

export async function proveOom({ config, log }: JailContext): Promise<Proof> {
  const notes = new Notes();
  // Warnings of memory pressure are expected here.
  const calm = { ...log, warn: () => undefined };
  const runtime = await openProofRuntime({ config, log: calm });
  try {
    await proveWarnings(runtime, notes);
    await proveGrowth(runtime, calm, notes);
    await proveEndings(runtime, notes);
  } finally {
    await runtime.close();
  }
  return notes.proof('oom');
}

async function proveWarnings(runtime: Runtime, notes: Notes): Promise<void> {
  const sandbox = await runtime.startVm(SIZE);
  const seen: { readonly type: string; readonly atMs: number }[] = [];
  sandbox.events.listen(({ type }) => void seen.push({ type, atMs: performance.now() }));
  const timeOf = (type: string): number | undefined => seen.find((each) => each.type === type)?.atMs;
  const run = async (code: string) => {
    seen.length = 0;
    const program = await sandbox.guest().python({ script: { code }, stdin: false });
    program.stdout.resume();
    program.stderr.resume();
    return await program.exit;
  };
  const modest = await run(MODEST);
  const types = seen.map(({ type }) => type).join(', ');
  const isQuiet = modest.exitCode === 0 && types === '';
  const quiet = `status ${modest.exitCode}; ${types || 'no events'}`;
  notes.note('control: a program of 8 MiB', 'status 0; no events', quiet, isQuiet);
  for (let round = 1; round <= ROUNDS; round += 1) {
    const exit = await run(BALLOON);
    await until(() => timeOf('oom') !== undefined);
    const [near, killed] = [timeOf('near_oom'), timeOf('oom')];
    const lead = near === undefined || killed === undefined ? null : killed - near;
    notes.note(
      `a program that allocates without limit, ${round}: near_oom before the kill`,
      `at least ${LEAD_MS} ms`,
      lead === null ? 'no event' : `${lead.toFixed(0)} ms`,
      lead !== null && lead >= LEAD_MS,
    );
    const victim = exit.oomVictim;
    const seenVictim = victim === null ? 'none' : `${victim.name}, ${Math.floor(victim.rssBytes / 2 ** 20)} MiB`;
    const isNamed = exit.oomKilled && victim !== null && victim.rssBytes > 32 << 20;
    notes.note('… its result names the killed process', 'name and memory', seenVictim, isNamed);
  }
  const after = await run(MODEST);
  notes.same('the sandbox continues', 'status 0', `status ${after.exitCode}`);
  const stopped = await sandbox.stop();
  notes.same('ends: its owner removes it', 'stopped', stopped.cause);
}

async function proveEndings(runtime: Runtime, notes: Notes): Promise<void> {
  const ends: readonly (readonly [string, string, (sandbox: Sandbox) => Promise<unknown>])[] = [
    ['its guest reboots', 'guest-shutdown', (sandbox) => asRoot(sandbox, REBOOT)],
    [
      'its VMM is killed',
      'vmm-killed',
      async (sandbox) => process.kill(await vmmOf(runtime, sandbox.spec.id), 'SIGKILL'),
    ],
    [
      'its control group runs out of memory',
      'host-oom',
      async (sandbox) => {
        await limit(await vmmOf(runtime, sandbox.spec.id));
        await asRoot(sandbox, 'kept = bytearray(100 << 20)');
      },
    ],
  ];
  for (const [what, cause, end] of ends) {
    const sandbox = await runtime.startVm(SIZE);
    const ended: Promise<End> = sandbox.ended;
    await end(sandbox);
    notes.same(`ends: ${what}`, cause, (await ended).cause);
  }
}

/** Runs Python code as the guest's root; it ends with the sandbox at the latest. */
async function asRoot(sandbox: Sandbox, code: string): Promise<void> {
  const argv = ['python3', '-c', code];
  const program = await sandbox.guest().exec({ argv, user: 'root', stdin: false });
  program.stdout.resume();
  program.stderr.resume();
  program.exit.catch(() => undefined);
}

/** Limits the group to slightly more memory than it uses now, v1 or v2. */
async function limit(pid: number): Promise<void> {
  const dir = memoryGroup(`${pid}`) ?? '';
  const now = await readFile(join(dir, 'memory.usage_in_bytes'), 'utf8').catch(() =>
    readFile(join(dir, 'memory.current'), 'utf8'),
  );
  const bytes = String(Number(now) + 24 * 2 ** 20);
  await writeFile(join(dir, 'memory.limit_in_bytes'), bytes, { flag: 'r+' }).catch(() =>
    appendFile(join(dir, 'memory.max'), bytes),
  );
}

async function until(is: () => boolean): Promise<void> {
  for (let waitedMs = 0; !is() && waitedMs < EVENT_MS_MAX; waitedMs += POLL_MS) await sleep(POLL_MS);
}

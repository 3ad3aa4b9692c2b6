/**
 * Leftovers of sandboxes that are created, forked, paused, resumed, saved and killed at random: memory, descriptors and
 * files of the daemon with no sandbox left, minute by minute. A round is a minute; the baseline is the state after the
 * second.
 */
import { readdirSync, readlinkSync, statSync } from 'node:fs';
import { sleep } from '../../src/base/clock.ts';
import { errorCode } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB, STAT_BLOCK_BYTES } from '../../src/base/units.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import { openBenchControl } from '../control.ts';

const ROUND_MS = 60_000;
/** Rounds that warm caches up, whose growth does not count. */
const WARM_ROUNDS = 2;
const SANDBOXES_MAX = 6;
/** Time that shared memory without users may stay, plus a margin. */
const UNUSED_MS = 65_000;

const FIGURES = {
  'endurance.memory': { unit: 'MiB', of: () => process.memoryUsage().rss / MIB },
  'endurance.shared': { unit: 'MiB', of: () => sharedMib() },
  'endurance.descriptors': { unit: 'index', of: () => readdirSync('/proc/self/fd').length },
} as const;
type Figure = keyof typeof FIGURES;

export const enduranceBenchmark: Benchmark = {
  names: Object.keys(FIGURES),
  summary:
    'minutes of create, exec, fork, pause, resume, snapshot and kill at random (a round each): what the daemon keeps afterwards',
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    const samples = new Map<Figure, number[]>();
    const before = new Map<Figure, number[]>();
    const attempts = new Attempts(signal);
    let done = 0;
    await using opened = await openBenchControl(context);
    const pids = (): readonly number[] => [...runtime.metrics.vmmPids()];
    for (let round = 1; round <= rounds + WARM_ROUNDS; round += 1) {
      say(`minute ${round} of ${rounds + WARM_ROUNDS}, ${done} operations`);
      const end = performance.now() + ROUND_MS;
      while (performance.now() < end) {
        await attempts.run(() => orRefused(operate(opened.control, pids, signal)));
        done += 1;
      }
      await endAll(opened.control);
      if (round === rounds + WARM_ROUNDS) await sleep(UNUSED_MS, signal);
      globalThis.gc?.();
      const into = round === WARM_ROUNDS ? before : round > WARM_ROUNDS ? samples : null;
      for (const [name, { of }] of Object.entries(FIGURES) as [Figure, { of(): number }][])
        into?.set(name, [...(into.get(name) ?? []), of()]);
    }
    return (Object.keys(FIGURES) as Figure[]).map(
      (name): Measurement => ({
        name,
        unit: FIGURES[name].unit,
        accelerator: runtime.driver.accelerator,
        samples: samples.get(name) ?? [],
        baseline: { name: `after ${WARM_ROUNDS} minutes`, samples: before.get(name) ?? [] },
        ...attempts.failures(`${done} operations; last value ${samples.get(name)?.at(-1)?.toFixed(1)}`),
      }),
    );
  },
};

/** One operation on a random sandbox; a killed one may refuse. */
async function operate(control: LocalControlPlane, pids: () => readonly number[], signal: AbortSignal): Promise<void> {
  const all = await control.list();
  const one = all[Math.floor(Math.random() * all.length)];
  if (one === undefined || (all.length < SANDBOXES_MAX && Math.random() < 0.4)) {
    await control.create({}, signal);
    return;
  }
  const { id } = one;
  const run = async (): Promise<void> => {
    const guest = await control.guest(id);
    const code = `x = bytearray(${Math.floor(Math.random() * 16)} << 20); print(1)`;
    const process = await guest.python({ script: { code }, stdin: false }, signal);
    process.stdout.resume();
    process.stderr.resume();
    await process.exit;
  };
  const kill = async (): Promise<void> => {
    const running = pids();
    const pid = running[Math.floor(Math.random() * running.length)];
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
  };
  const name = `endurance-${Math.floor(Math.random() * 4)}`;
  const choices = [
    run,
    run,
    () => control.pause(id, 'disk'),
    () => control.resume(id),
    () => control.pause(id, 'memory'),
    async () => {
      if (all.length < SANDBOXES_MAX) await control.fork(id, { count: 2 });
    },
    async () => {
      await control.removeSnapshot(name).catch((error: unknown) => ignore(error, 'there is none'));
      await control.snapshot(id, { name });
    },
    () => control.remove(id),
    kill,
  ];
  await choices[Math.floor(Math.random() * choices.length)]?.();
}

async function endAll(control: LocalControlPlane): Promise<void> {
  for (const { id } of await control.list()) await control.remove(id);
  for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
}

/** A refusal in the sandbox's state, or since its VMM was killed, is no failure. */
async function orRefused(operation: Promise<void>): Promise<void> {
  try {
    await operation;
  } catch (error) {
    if (!EXPECTED.has(errorCode(error) ?? '')) throw error;
    ignore(error, 'refused');
  }
}

const EXPECTED = new Set(['not_ready', 'gone', 'not_found', 'name_taken', 'vm_gone', 'connection_lost']);

/** Memory files that this process has open. */
function sharedMib(): number {
  const blocks = new Map<number, number>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const path = `/proc/self/fd/${fd}`;
      if (!readlinkSync(path).startsWith('/memfd:')) continue;
      const file = statSync(path);
      blocks.set(file.ino, file.blocks);
    } catch (error) {
      ignore(error, 'it was closed meanwhile');
    }
  }
  return ([...blocks.values()].reduce((sum, count) => sum + count, 0) * STAT_BLOCK_BYTES) / MIB;
}

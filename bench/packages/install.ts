/**
 * The time of `pip install` in a guest, through the package gateway: against the host's own pip, from the same index.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { runTool } from '../../src/artifacts/image/tool.ts';
import { MIB } from '../../src/base/units.ts';
import type { Guest } from '../../src/machine/guest/guest.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import { openOwnRuntime } from '../own-runtime.ts';
import { findProgram } from '../program.ts';
import { type Wheel, WheelIndex } from './wheel-index.ts';

const WHEEL_MIB = 8;
const PIP = 'pip3';
const ARGUMENTS = ['install', '--quiet', '--no-deps', '--no-cache-dir', '--disable-pip-version-check'];
const KINDS = ['miss', 'hit'] as const;

interface Samples {
  readonly miss: number[];
  readonly hit: number[];
  readonly host: number[];
}

export const installBenchmark: Benchmark = {
  names: KINDS.map((kind) => `packages.install/${kind}`),
  summary: `pip installs a wheel of ${WHEEL_MIB} MiB in a guest, not in or in the gateway's cache: against the host's pip`,
  async measure(context) {
    const { runtime, signal } = context;
    const dir = await mkdtemp(join(runtime.home.dir, 'bench-'));
    const wheels: Wheel[] = [];
    try {
      await using index = await WheelIndex.start(dir);
      const pip = { baseUrl: index.url };
      const vmm = runtime.driver.name === 'firecracker' ? 'firecracker' : 'qemu';
      await using own = await openOwnRuntime(context, { packageIndexes: async () => ({ pip }) }, { vmm });
      const sandbox = await own.startVm({ packages: { ecosystems: ['pip'] } }, signal);
      try {
        return await measureInstalls(context, { index, guest: sandbox.guest(), dir, wheels });
      } finally {
        await sandbox.stop();
      }
    } finally {
      await rm(dir, { recursive: true, force: true });
      await forget(join(runtime.home.cacheDir, 'packages'), wheels);
    }
  },
};

async function measureInstalls(
  { runtime, rounds, signal, say }: BenchContext,
  parts: { readonly index: WheelIndex; readonly guest: Guest; readonly dir: string; readonly wheels: Wheel[] },
): Promise<Measurement[]> {
  const { index, guest, dir, wheels } = parts;
  const program = findProgram(PIP, process.env);
  const attempts = new Attempts(signal);
  const samples: Samples = { miss: [], hit: [], host: [] };
  // The first round fills page caches and is not counted.
  for (let round = 0; round <= rounds; round += 1) {
    say(`install ${round} of ${rounds}`);
    const wheel = await index.add(`nvbench${round}`, WHEEL_MIB * MIB, signal);
    wheels.push(wheel);
    await attempts.run(async () => {
      const times = { miss: 0, hit: 0 };
      for (const kind of KINDS) {
        const before = index.fetched;
        times[kind] = await guestMs(guest, wheel, signal);
        const fetched = index.fetched - before;
        if (fetched !== (kind === 'miss' ? 1 : 0)) {
          throw new Error(`the index gave the wheel ${fetched} times, for a ${kind}`);
        }
      }
      if (round > 0) for (const kind of KINDS) samples[kind].push(times[kind]);
    });
    if (program === null) continue;
    const hostMs = await installHereMs(program, index.url, wheel, join(dir, 'target'), signal);
    if (round > 0) samples.host.push(hostMs);
  }
  const baseline = program === null ? null : (['pip on the host, the same index', samples.host] as const);
  const missing = `not compared: ${PIP} is not in PATH (Debian: apt-get install python3-pip)`;
  const size = `a wheel of ${wheels[0]?.bytes} bytes, an index on loopback, pip without a cache`;
  const note = program === null ? `${size}; ${missing}` : size;
  const row = rowsOf('ms', runtime.driver.accelerator);
  return KINDS.map((kind) => row(`packages.install/${kind}`, samples[kind], baseline, attempts.failures(note)));
}

async function guestMs(guest: Guest, { name }: Wheel, signal: AbortSignal): Promise<number> {
  const target = `/tmp/${name}`;
  const argv = ['pip', ...ARGUMENTS, '--target', target, name];
  const began = performance.now();
  await inGuest(guest, argv, signal);
  const ms = performance.now() - began;
  await inGuest(guest, ['rm', '-r', `${target}/${name}/data`, target], signal);
  return ms;
}

/** @throws with the program's output if it fails */
async function inGuest(guest: Guest, argv: readonly string[], signal: AbortSignal): Promise<void> {
  const program = await guest.exec({ argv, stdin: false }, signal);
  program.stdout.resume();
  let words = '';
  program.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString()).slice(-1_000);
  });
  const { exitCode } = await program.exit;
  if (exitCode !== 0) throw new Error(`${argv[0]} ended ${exitCode}: ${words.trim()}`);
}

async function installHereMs(
  program: string,
  url: string,
  { name }: Wheel,
  target: string,
  signal: AbortSignal,
): Promise<number> {
  const began = performance.now();
  const env = { PIP_CONFIG_FILE: '/dev/null' };
  const args = [...ARGUMENTS, '--index-url', url, '--target', target, name];
  try {
    await runTool(program, args, { signal, env });
    return performance.now() - began;
  } finally {
    await rm(target, { recursive: true, force: true });
  }
}

async function forget(cache: string, wheels: readonly Wheel[]): Promise<void> {
  for (const { digest } of wheels) await rm(join(cache, `sha256-${digest}`), { force: true });
}

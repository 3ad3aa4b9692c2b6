/**
 * The only way in which tests get virtual machines: a runtime on this machine's home, with the kernel and image from
 * set-up, and sandboxes that end with the test file.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { resolveHome } from '../../src/base/home.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { type OpenControlPlane, openControlPlane } from '../../src/host/runtime/control.ts';
import { Runtime, type RuntimeOptions } from '../../src/host/runtime/runtime.ts';
import type { UsageRecord } from '../../src/inference/bridge/bridge.ts';
import type { Guest, ProcessExit, PythonSpec } from '../../src/machine/guest/link.ts';
import type { TemplateSpec } from '../../src/sandbox/contract/spec.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { testLane } from './lane.ts';

export interface RuntimeFixture {
  /** Valid inside tests. */
  readonly runtime: Runtime;
  readonly usage: readonly UsageRecord[];
}

/**
 * A runtime with a home of its own, since tests look at what is left in it; it shares the user's cache.
 * @param upstream `engine`, a URL or `unix:/path`; a function is called when the tests begin
 */
export function useRuntime(upstream: string | (() => string) = 'engine', log: Log = silentLog): RuntimeFixture {
  let runtime: Runtime | undefined;
  let home: string | undefined;
  const usage: UsageRecord[] = [];
  beforeAll(async () => {
    const where = typeof upstream === 'string' ? upstream : upstream();
    home = await temporaryHome();
    runtime = await Runtime.open({
      config: { ...readConfig(process.env), home, upstream: where },
      progress: silentProgress,
      log,
      signal: new AbortController().signal,
      onUsage: (record) => void usage.push(record),
    });
  });
  afterAll(async () => {
    await runtime?.close();
    if (home !== undefined) await rm(home, { recursive: true });
  });
  return {
    get runtime() {
      if (runtime === undefined) throw new Error('the runtime is open only inside tests');
      return runtime;
    },
    usage,
  };
}

/** A template that takes a few seconds to build and a moment to copy. */
export const SMALL: TemplateSpec = { cpus: 1, memoryMib: 192, diskMib: 64, warm: ['json'] };

export interface ControlFixture extends RuntimeFixture {
  readonly control: LocalControlPlane;
  readonly dataDir: string;
}

/**
 * A control plane with a home of its own, so that the user's store and sandboxes are not touched: it shares set-up's
 * artifacts and the tests' templates. `SMALL` exists when the tests begin.
 */
export function useControlPlane(
  upstream: () => string,
  log: Log = silentLog,
  packageIndexes?: RuntimeOptions['packageIndexes'],
): ControlFixture {
  let runtime: Runtime | undefined;
  let opened: OpenControlPlane | undefined;
  let home: string | undefined;
  const usage: UsageRecord[] = [];
  beforeAll(async () => {
    home = await temporaryHome({ templates: 'tests' });
    runtime = await Runtime.open({
      config: { ...readConfig(process.env), home, upstream: upstream() },
      progress: silentProgress,
      log,
      signal: new AbortController().signal,
      onUsage: (record) => void usage.push(record),
      packageIndexes,
    });
    opened = await openControlPlane(runtime, log, { basesKeptMs: 0 });
    await runtime.templates.prepare(SMALL);
  });
  afterAll(async () => {
    await opened?.[Symbol.asyncDispose]();
    await runtime?.close();
    if (home !== undefined) await rm(home, { recursive: true });
  });
  const open = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('the control plane is open only inside tests');
    return value;
  };
  return {
    get runtime() {
      return open(runtime);
    },
    get control() {
      return open(opened).control;
    },
    get dataDir() {
      return join(open(home), 'data');
    },
    usage,
  };
}

/** Pid of a sandbox's VMM, from the record for its next owner. */
export async function vmmOf({ runtime }: RuntimeFixture, id: string): Promise<number> {
  const record = await readFile(join(runtime.home.runDir, id, 'owner.json'), 'utf8');
  return (JSON.parse(record) as { vmm: { pid: number } }).vmm.pid;
}

/** Entries that a cache does not share with set-up's. */
const OWN_IN_CACHE = new Set(['template', 'oci', 'tmp', 'setup.lock', 'jail']);

/** Templates that test files share and may not damage, on the file system of temporary homes. */
const TEST_TEMPLATES = join(tmpdir(), `neurovisor-test-${process.getuid?.() ?? 0}`, `template-${testLane()}`);

/**
 * A new home that shares the artifacts of this machine's set-up.
 * @param options.templates those of the user's home (default), or those that tests share
 */
export async function temporaryHome(options: { templates?: 'user' | 'tests' } = {}): Promise<string> {
  const { templates = 'user' } = options;
  const home = await mkdtemp(join(tmpdir(), 'nv-home-'));
  const { cacheDir } = resolveHome(readConfig(process.env).home);
  if (templates === 'user') {
    await symlink(cacheDir, join(home, 'cache'));
    return home;
  }
  await mkdir(join(home, 'cache'));
  for (const name of await readdir(cacheDir)) {
    if (!OWN_IN_CACHE.has(name)) {
      await symlink(join(cacheDir, name), join(home, 'cache', name));
    }
  }
  await mkdir(TEST_TEMPLATES, { recursive: true, mode: 0o700 });
  await symlink(TEST_TEMPLATES, join(home, 'cache/template'));
  return home;
}

export interface Outcome extends ProcessExit {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs Python code in the guest and collects its output. */
export async function python(guest: Guest, code: string, options: Omit<PythonSpec, 'script'> = {}): Promise<Outcome> {
  const process = await guest.python({ stdin: false, ...options, script: { code } });
  return await collect(process);
}

/** Runs a program in the guest and collects its output. */
export async function exec(guest: Guest, argv: readonly string[], options: { user?: string } = {}): Promise<Outcome> {
  return await collect(await guest.exec({ stdin: false, ...options, argv }));
}

async function collect(process: Awaited<ReturnType<Guest['exec']>>): Promise<Outcome> {
  const read = async (stream: AsyncIterable<Buffer>): Promise<string> => {
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    return Buffer.concat(chunks).toString('utf8');
  };
  const [stdout, stderr, exit] = await Promise.all([read(process.stdout), read(process.stderr), process.exit]);
  return { ...exit, stdout, stderr };
}

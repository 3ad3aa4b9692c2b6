/** The parts of a template's build, with the fake driver and a scripted guest. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { makeMemory } from '../../src/host/runtime/ram/memory.ts';
import { makeWorkspace } from '../../src/host/runtime/workspace.ts';
import type { GuestIdentity } from '../../src/machine/guest/identity.ts';
import type { ExecSpec, Guest, GuestEvent, Process, WarmModule } from '../../src/machine/guest/link.ts';
import type { TemplateParts } from '../../src/sandbox/start/template-builder.ts';
import { createFakeDriver } from './fake-vmm/driver.ts';

export type Step = 'memory' | 'model' | 'listener' | 'hello' | 'script' | 'keepMemory' | 'keepDisk' | 'pip';

/** State of the current test. */
export const world = {
  root: '',
  steps: [] as string[],
  identity: undefined as GuestIdentity | undefined,
  /** Identities of all VMs, in order. */
  identities: [] as GuestIdentity[],
};

/** Registers the hooks that create and remove the world of each test. */
export function useTemplateWorld(): void {
  beforeEach(() => {
    world.root = mkdtempSync(join(tmpdir(), 'nv-build-'));
    world.steps = [];
    world.identities = [];
    for (const name of ['kernel', 'image']) writeFileSync(join(world.root, name), '');
  });
  afterEach(() => rmSync(world.root, { recursive: true }));
}

export function fakeProcess(exitCode: number, output = ''): Process {
  const ended = { exitCode, signal: null, timedOut: false, oomKilled: false, truncated: false };
  return {
    stdout: Readable.from(output === '' ? [] : [Buffer.from(output)]),
    stderr: Readable.from([Buffer.from('why')]),
    exit: Promise.resolve({ ...ended, durationMs: 1 }),
  } as unknown as Process;
}

/** Events of a guest during its imports. */
export const events = (modules: readonly WarmModule[]): readonly GuestEvent[] => [{ type: 'warm', modules }];

export function parts(fail: Step | null, told: readonly GuestEvent[]): TemplateParts {
  const step = async (name: Step): Promise<void> => {
    world.steps.push(name);
    if (fail === name) throw new Error(`${name} failed`);
  };
  const guest = {
    events: (listener: (event: GuestEvent) => void) => {
      const timer = setImmediate(() => told.forEach(listener));
      return () => clearImmediate(timer);
    },
    python: async () => {
      world.steps.push('script');
      return fakeProcess(fail === 'script' ? 3 : 0);
    },
    files: { write: async (_path: string, text: string) => void world.steps.push(`wrote ${text}`) },
    exec: async ({ argv, detached = false }: ExecSpec) => {
      if (detached) {
        world.steps.push('start');
        const exit = fakeProcess(3);
        const never = new Promise<never>(() => undefined);
        return argv[2]?.endsWith('exit 3') === true ? exit : { ...exit, exit: never };
      }
      if (argv[0] === 'sh') {
        world.steps.push(argv[2] === 'probe' ? 'ready' : 'make log');
        return fakeProcess(0);
      }
      const isPip = argv.includes('pip');
      world.steps.push(isPip ? 'pip' : `list ${argv.slice(4).join(' ')}`);
      return isPip ? fakeProcess(fail === 'pip' ? 1 : 0) : fakeProcess(0, 'pandas\n../x\nbroken\n');
    },
    settle: async () => undefined,
    suspend: () => undefined,
  } as unknown as Guest;
  return {
    driver: createFakeDriver({ clock: systemClock }),
    kernelPath: join(world.root, 'kernel'),
    rootImagePath: join(world.root, 'image'),
    makeWorkspace: (spec) => makeWorkspace(join(world.root, 'run'), spec.id),
    makeOverlay: (path) => writeFile(path, 'disk'),
    allocateCid: () => ({ cid: 3, release: () => void world.steps.push('cid released') }),
    listenForGuest: async (_path, given) => {
      world.identity = given;
      world.identities.push(given);
      await step('listener');
      return {
        ready: async () => {
          await step('hello');
          return guest;
        },
        setIdentity: () => undefined,
        close: async () => void world.steps.push('listener closed'),
      };
    },
    serveCannedModel: async () => {
      await step('model');
      return { close: async () => void world.steps.push('model closed') };
    },
    makeMemory: (bytes) => {
      world.steps.push('memory');
      if (fail === 'memory') throw new Error('memory failed');
      return makeMemory(bytes);
    },
    keepMemory: async (from, to) => {
      await step('keepMemory');
      await copyFile(from, to);
    },
    keepDisk: async (from, to) => {
      await step('keepDisk');
      await copyFile(from, to);
    },
    moveDisk: rename,
    attachPackages: async (_id, _path, policy) => {
      const age = policy?.minAgeMs == null ? '' : ` older than ${policy.minAgeMs}`;
      world.steps.push(`gateway ${policy?.ecosystems.join()}${age}`);
      return { setPolicy: () => undefined, close: async () => void world.steps.push('gateway closed') };
    },
    env: { A: 'b' },
    hostCpus: 2,
    clock: systemClock,
    log: silentLog,
  };
}

export const IMPORTED: readonly WarmModule[] = [{ name: 'json', durationMs: 1, error: null }];

/** The host's side of the VM of a stage; the VM is a function that gets a plan and prints. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type StageDisks, StepFault } from '../../src/artifacts/dockerfile/stage-vm.ts';
import { startStageVm } from '../../src/host/builds/stage-vm.ts';
import type { BuilderVms } from '../../src/host/runtime/image-builder.ts';
import type { ExecSpec, Process } from '../../src/machine/guest/guest.ts';
import type { DiskTrouble, VmDisk } from '../../src/machine/vmm/driver.ts';
import type { SandboxOptions, SandboxSpec } from '../../src/sandbox/contract/spec.ts';

type Plan = Record<string, unknown>;
interface Said {
  readonly stdout?: string;
  readonly stderr?: string;
  readonly exitCode?: number;
}

describe('startStageVm', () => {
  let dir: string;
  let plans: Plan[];
  let disks: readonly VmDisk[];
  let options: SandboxOptions;
  let written: Map<string, string>;
  let trouble: (trouble: DiskTrouble) => void;
  /** Output of a task; `null`: it never ends. */
  let onTask: (plan: Plan, archive: string) => Said | null;
  const { signal } = new AbortController();
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-stage-vm-'));
    mkdirSync(join(dir, 'run'), { mode: 0o700 });
    for (const name of ['tools', 'base', 'other']) writeFileSync(join(dir, name), name);
    plans = [];
    written = new Map();
    onTask = () => ({ stdout: '{}' });
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const exec = async ({ argv }: ExecSpec): Promise<Process> => {
    const exit = Promise.withResolvers<object>();
    const chunks: Buffer[] = [];
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    const end = (said: Said | null): void => {
      if (said === null) return;
      stdout.end(said.stdout ?? '');
      stderr.end(said.stderr ?? '');
      const ended = { exitCode: said.exitCode ?? 0, signal: null, oomKilled: false };
      setTimeout(() => exit.resolve(ended), 10);
    };
    const stdin = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        chunks.push(chunk);
        done();
      },
      final: (done) => {
        const all = Buffer.concat(chunks);
        const length = Number(argv.at(-1));
        const plan = JSON.parse(all.subarray(0, length).toString()) as Plan;
        plans.push(plan);
        end(onTask(plan, all.subarray(length).toString()));
        done();
      },
    });
    if (argv[0] === 'mount') end({});
    return { stdin, stdout, stderr, exit: exit.promise, kill: () => end({}) } as unknown as Process;
  };

  const start = async (more: Partial<StageDisks> = {}, network: SandboxOptions['network'] = null) => {
    const vms: BuilderVms = {
      runDir: join(dir, 'run'),
      toolsPath: join(dir, 'tools'),
      hostCpus: 1,
      start: async (given, _signal, { makeWorkspace }) => {
        options = given;
        const place = await makeWorkspace?.({ id: 'a'.repeat(20) } as SandboxSpec);
        disks = place?.disks ?? [];
        const files = {
          write: async (path: string, content: Uint8Array) => {
            written.set(path, Buffer.from(content).toString());
          },
        };
        return {
          guest: () => ({ exec, files }),
          vm: {
            onDiskTrouble(listener: typeof trouble) {
              trouble = listener;
            },
          },
          stop: async () => {
            await place?.remove();
          },
        } as unknown as Awaited<ReturnType<BuilderVms['start']>>;
      },
    };
    const size = { cpus: 2, memoryMib: 512, diskMib: 64, network: network ?? null };
    const stage: StageDisks = {
      base: { kind: 'file', path: join(dir, 'base'), digest: 'x' },
      fillScratch: null,
      sources: [],
      fillCaches: null,
      packs: false,
      ...more,
    };
    return await startStageVm(vms, size, stage, signal);
  };
  const RUN = { argv: ['a'], program: null, env: {}, user: '', workdir: '/', mounts: [] };

  it('disks: each has its device, one file is attached once, and only ours are writable', async () => {
    const base = { kind: 'file', path: join(dir, 'base'), digest: 'x' } as const;
    const vm = await start({
      sources: [
        { base, scratch: join(dir, 'other') },
        { base: { kind: 'system', path: '', digest: 'y' }, scratch: null },
      ],
      fillCaches: async (path) => writeFileSync(path, 'caches'),
      packs: true,
    });
    expect(plans).toEqual([
      {
        task: 'mount',
        base: '/dev/vdd',
        scratch: '/dev/vde',
        sources: [
          { base: '/dev/vdd', scratch: '/dev/vdf' },
          { base: '/dev/vda', scratch: null },
        ],
        caches: '/dev/vdg',
      },
    ]);
    expect(disks.map(({ access }) => access)).toEqual([...['read', 'read', 'write', 'read', 'write', 'write']]);
    expect(options).toMatchObject({
      cpus: 1,
      network: null,
      packages: { ecosystems: ['pip', 'npm', 'go', 'cargo', 'apt'] },
    });
    expect(readFileSync(vm.disks.caches ?? '', 'utf8')).toBe('caches');
    await vm.stop();
    expect(readdirSync(join(dir, 'run'))).toEqual([]);
  });

  it('too many disks: an error with that reason, and nothing is left behind', async () => {
    const sources = Array.from({ length: 7 }, (_, index) => ({
      base: { kind: 'file', path: `/${index}`, digest: 'x' } as const,
      scratch: null,
    }));
    await expect(start({ sources })).rejects.toMatchObject({ code: 'instruction_unsupported' });
    expect(readdirSync(join(dir, 'run'))).toEqual([]);
  });

  it('run: output and status of the command; package variables only if there is a network', async () => {
    const vm = await start();
    let said = '';
    onTask = () => ({ stdout: 'out\n', stderr: 'err\n', exitCode: 5 });
    const end = await vm.run({ ...RUN, network: true }, (stream, chunk) => {
      said += `${stream}:${chunk.toString()}`;
    });
    expect(end.exitCode).toBe(5);
    expect(said).toBe('stdout:out\nstderr:err\n');
    await vm.run({ ...RUN, network: false }, () => undefined);
    const [, first, second] = plans;
    expect(first?.['env']).toMatchObject({ PIP_INDEX_URL: expect.any(String) });
    expect(second?.['env']).toEqual({});
  });

  it('run: a command that can not start is a fault, not output; one that exits with 125 is no fault', async () => {
    const vm = await start();
    let said = '';
    const run = async () =>
      await vm.run({ ...RUN, network: true }, (_stream, chunk) => {
        said += chunk.toString();
      });
    onTask = ({ mark }) => ({
      stderr: `before\n${String(mark)}{"code": "failed", "detail": "no such user"}\n`,
      exitCode: 125,
    });
    await expect(run()).rejects.toThrow(new StepFault('failed', 'no such user'));
    expect(said).toBe('before\n');
    onTask = () => ({ stderr: '{"code": "failed", "detail": "x"}\n', exitCode: 125 });
    expect(await run()).toMatchObject({ exitCode: 125 });
  });

  it('secrets: are sent to the guest’s memory, not in the plan', async () => {
    const vm = await start();
    const owner = { mode: 0o400, uid: 0, gid: 0 };
    const secret = { type: 'secret', secret: Buffer.from('a-secret'), target: '/x', variable: null, ...owner } as const;
    await vm.run({ ...RUN, network: true, mounts: [secret] }, () => undefined);
    expect([...written]).toEqual([['/run/neurovisor-secrets/1', 'a-secret']]);
    expect(JSON.stringify(plans)).not.toContain('a-secret');
  });

  it('copy: plan and archive are sent one after the other; a source that changes is named', async () => {
    const vm = await start();
    const plan = {
      ...{ from: null, patterns: [], named: ['a'], target: '/', owner: null, mode: null },
      extracts: false,
      packed: 'context' as const,
    };
    let archive = '';
    onTask = (_plan, rest) => {
      archive = rest;
      return { stdout: '{}' };
    };
    await vm.copy(plan, Readable.from([Buffer.from('archive')]));
    expect(archive).toBe('archive');
    const changing = (async function* () {
      yield Buffer.from('x');
      throw Object.assign(new Error('f changed while it was copied'), { code: 'invalid_source' });
    })();
    await expect(vm.copy(plan, changing)).rejects.toMatchObject({ code: 'context_invalid' });
  });

  it('pack: the disk is truncated to the length that the VM reports, within its size', async () => {
    const vm = await start({ packs: true });
    onTask = () => ({ stdout: '{"bytes": 8192}' });
    const output = disks.at(-1)?.path ?? '';
    writeFileSync(output, Buffer.alloc(9000, 'i'), { flag: 'r+' });
    await vm.pack(join(dir, 'result'));
    expect(readFileSync(join(dir, 'result'))).toEqual(Buffer.alloc(8192, 'i'));
    const greedy = await start({ packs: true });
    onTask = () => ({ stdout: `{"bytes": ${2 ** 46}}` });
    await expect(greedy.pack(join(dir, 'second'))).rejects.toThrow('no valid answer');
    await greedy.stop();
    expect(readdirSync(dir)).not.toContain('second');
  });

  it.each(['', 'rubbish', '{"bytes": 1}', '{"code": "x", "detail": "y"}', `"${'x'.repeat(20_000)}"`])(
    'a VM that answers %.20j is refused',
    async (stdout) => {
      const vm = await start();
      onTask = () => ({ stdout });
      await expect(vm.makeDirectory('/x')).rejects.toThrow(StepFault);
    },
  );

  it('a full disk of the host ends the waiting step', async () => {
    const vm = await start();
    onTask = () => null;
    const waiting = vm.run({ ...RUN, network: true }, () => undefined);
    await expect.poll(() => plans.length).toBe(2);
    trouble({ kind: 'full', path: 'x', freeBytes: 0 });
    await expect(waiting).rejects.toMatchObject({ code: 'disk_full' });
  });
});

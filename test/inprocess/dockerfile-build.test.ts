/** Builds from Dockerfiles; the VM of a stage is a function that appends to its scratch disk. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type BuildParts, type BuildRequest, buildDockerfile } from '../../src/artifacts/dockerfile/build.ts';
import { BuildCache } from '../../src/artifacts/dockerfile/cache.ts';
import { EMPTY_CONFIG } from '../../src/artifacts/dockerfile/evaluate.ts';
import { madeStage } from '../../src/artifacts/dockerfile/made-stage.ts';
import {
  type CopyPlan,
  type RunPlan,
  type StageDisks,
  type StageVm,
  StepFault,
} from '../../src/artifacts/dockerfile/stage-vm.ts';
import type { BuildEvent } from '../../src/sandbox/contract/contents.ts';

interface Started {
  readonly disks: StageDisks;
  readonly runs: RunPlan[];
  readonly copies: CopyPlan[];
  /** Contents of the scratch disk at the start. */
  readonly start: string;
  stopped: boolean;
}

describe('buildDockerfile', () => {
  let dir: string;
  let vms: Started[];
  let events: BuildEvent[];
  /** Result of a command: its exit status, or an error. */
  let onRun: (argv: string) => number | Promise<number>;
  /** Size limit of the cache; undefined: the default. */
  let bytesMax: number | undefined;
  let diskBytes: number;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-dockerfile-'));
    for (const name of ['context', 'work', 'environments']) mkdirSync(join(dir, name));
    vms = [];
    events = [];
    onRun = () => 0;
    bytesMax = undefined;
    diskBytes = 0;
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const startVm = async (disks: StageDisks): Promise<StageVm> => {
    const place = mkdtempSync(join(dir, 'work/vm-'));
    const scratch = join(place, 'scratch');
    const caches = disks.fillCaches === null ? null : join(place, 'caches');
    if (disks.fillScratch === null) writeFileSync(scratch, '');
    else await disks.fillScratch(scratch);
    await disks.fillCaches?.(caches ?? '');
    if (caches !== null && !existsSync(caches)) writeFileSync(caches, '');
    const vm: Started = { disks, runs: [], copies: [], start: readFileSync(scratch, 'utf8'), stopped: false };
    vms.push(vm);
    const write = (text: string): void => writeFileSync(scratch, `${text}\n`, { flag: 'a' });
    return {
      disks: { scratch, caches },
      async run(plan, onOutput) {
        vm.runs.push(plan);
        const text = plan.argv.at(-1) ?? '';
        onOutput('stdout', Buffer.from(`says ${text}\n`));
        const exitCode = await onRun(text);
        write(text);
        if (caches !== null) writeFileSync(caches, `${text}\n`, { flag: 'a' });
        return { exitCode, signal: null, oomKilled: false };
      },
      async placeFiles(archive) {
        let bytes = 0;
        for await (const chunk of archive) bytes += chunk.length;
        write(`placed ${bytes > 0}`);
      },
      async copy(plan, archive) {
        vm.copies.push(plan);
        let bytes = 0;
        for await (const chunk of archive ?? []) bytes += chunk.length;
        write(`copy ${plan.named.join()} ${bytes > 0}`);
      },
      async makeDirectory(path) {
        write(`mkdir ${path}`);
      },
      async pack(outPath) {
        writeFileSync(outPath, readFileSync(scratch));
      },
      async stop() {
        vm.stopped = true;
        rmSync(place, { recursive: true, force: true });
      },
    };
  };

  const build = async (
    dockerfile: string,
    request: Partial<BuildRequest> = {},
    signal = new AbortController().signal,
  ) => {
    const parts: BuildParts = {
      architecture: 'amd64',
      cache: new BuildCache(join(dir, 'cache'), bytesMax),
      diskBytes,
      base: async (source) => ({
        disk: {
          kind: source.kind === 'agent' ? 'system' : 'file',
          ...(source.kind === 'image' ? {} : { hasUser: true }),
          path: '/base',
          digest: `sha256:${source.kind === 'image' ? source.reference : 'agent'}`,
        },
        config: { ...EMPTY_CONFIG, env: { FROM_BASE: '1' } },
      }),
      startVm,
      hasEnvironment: async (key) => existsSync(join(dir, 'environments', key)),
      environmentPath: async (key) => join(dir, 'environments', `${key}.new`),
      keepEnvironment: async (key) => {
        const path = join(dir, 'environments', key);
        writeFileSync(path, readFileSync(`${path}.new`));
      },
      onEvent: (event) => events.push(event),
    };
    const whole: BuildRequest = {
      dockerfile: Buffer.from(dockerfile),
      dockerfilePath: null,
      contextDir: join(dir, 'context'),
      buildArgs: {},
      target: null,
      secrets: new Map(),
      noCache: false,
      ...request,
    };
    return await buildDockerfile(parts, whole, signal);
  };
  const result = (key: string): string => readFileSync(join(dir, 'environments', key), 'utf8');
  const left = (): string[] => [
    ...readdirSync(join(dir, 'work')),
    ...readdirSync(join(dir, 'environments')).filter((name) => name.endsWith('.new')),
    ...readdirSync(join(dir, 'cache/steps')).filter((name) => !name.endsWith('.ext4')),
  ];

  it('steps: run in order, with user, directory and variables of their place', async () => {
    const built = await build('FROM a\nENV A=1\nRUN one\nWORKDIR /w\nUSER u\nENV A=2\nRUN two\nCMD ["c"]');
    expect(result(built.key)).toBe('one\nmkdir /w\ntwo\n');
    expect(vms).toHaveLength(1);
    expect(vms[0]?.runs).toMatchObject([
      { user: '', workdir: '/', env: { A: '1', FROM_BASE: '1' } },
      { user: 'u', workdir: '/w', env: { A: '2' } },
    ]);
    expect(built.config).toMatchObject({ cmd: ['c'], user: 'u', workdir: '/w' });
    expect(built.steps).toEqual({ run: 3, cached: 0 });
    expect(left()).toEqual([]);
  });

  it('made steps: files of an archive, identified by its digest, wherever it is', async () => {
    const sha256 = 'a'.repeat(64);
    const made = async (bytes: Buffer, digest = sha256, name = 'one') => {
      const path = join(dir, name);
      writeFileSync(path, bytes);
      const copy = { kind: 'copy', isFresh: false, archive: { sha256: digest } } as const;
      const paths = { source: 'app', target: '/app', owner: null, mode: null };
      const base = { source: { kind: 'agent' }, kind: 'environment', user: '' } as const;
      const dockerfile = madeStage(base, [{ ...copy, ...paths }], () => 'nonce');
      return await build('', { dockerfile, archives: new Map([[digest, path]]) });
    };
    const first = await made(gzipSync('x'));
    expect(vms[0]?.copies).toMatchObject([
      { packed: 'gzip', patterns: ['app'], from: null, owner: 'user', target: '/app' },
    ]);
    expect(first.config).toMatchObject({ user: 'user', workdir: '/home/user' });
    expect((await made(gzipSync('x'), sha256, 'two')).key).toBe(first.key);
    expect(vms).toHaveLength(1);
    await made(Buffer.from('x'), 'b'.repeat(64));
    expect(vms[1]?.copies).toMatchObject([{ packed: 'tar' }]);
    expect(left()).toEqual([]);
  });

  it('cache: an unchanged prefix is not run again, nor is a whole build', async () => {
    await build('FROM a\nRUN one\nRUN two\nRUN three');
    const again = await build('\n# moved\nFROM a\nRUN one\nRUN two\nRUN other');
    expect(vms).toHaveLength(2);
    expect(vms[1]?.start).toBe('one\ntwo\n');
    expect(again.steps).toEqual({ run: 1, cached: 2 });
    expect(result(again.key)).toBe('one\ntwo\nother\n');
    const third = await build('FROM a\nRUN one\nRUN two\nRUN three\nLABEL x=y');
    expect(third.steps).toEqual({ run: 0, cached: 3 });
    expect(vms).toHaveLength(2);
  });

  it('cache: another base, variable or file of COPY runs the step again', async () => {
    const text = 'FROM a\nARG V=1\nRUN one\nCOPY f /\nRUN two';
    writeFileSync(join(dir, 'context/f'), '1');
    await build(text);
    writeFileSync(join(dir, 'context/f'), '2');
    expect((await build(text)).steps).toEqual({ run: 2, cached: 1 });
    expect((await build(text, { buildArgs: { V: '2' } })).steps).toEqual({ run: 3, cached: 0 });
    expect((await build(text.replace('FROM a', 'FROM b'))).steps.run).toBe(3);
    expect((await build(text, { noCache: true })).steps).toEqual({ run: 3, cached: 0 });
  });

  it('stages: only those that the target needs, each in a VM of its own', async () => {
    const text =
      'FROM a AS one\nRUN one\nFROM a AS unused\nRUN unused\nFROM one AS two\nRUN two\n' +
      'FROM scratch\nCOPY --from=two /x /y\nCOPY --from=busybox /z /\n';
    const built = await build(text);
    expect(vms.map(({ runs }) => runs.map(({ argv }) => argv.at(-1)))).toEqual([['one'], ['two'], []]);
    expect(vms[1]?.start).toBe('one\n');
    const [last] = vms.slice(-1);
    expect(last?.disks.base.kind).toBe('none');
    expect(last?.disks.sources).toMatchObject([
      { base: { digest: 'sha256:a' }, scratch: expect.stringMatching(/steps/) },
      { base: { digest: 'sha256:busybox' }, scratch: null },
    ]);
    expect(last?.copies.map(({ from }) => from)).toEqual([0, 1]);
    expect(built.config.env).toEqual({});
    expect((await build(text, { target: 'two' })).steps).toMatchObject({ run: 0 });
  });

  it('a failing command: reports line, command, status and last lines; nothing of it is cached', async () => {
    onRun = (text) => (text === 'bad' ? 3 : 0);
    const failing = await build('FROM a\nRUN good\n\nRUN bad\nRUN never').catch((e: unknown) => e);
    expect(failing).toMatchObject({
      code: 'step_failed',
      line: 4,
      message: 'line 4: RUN bad ended with status 3',
      cause: 'says bad',
    });
    expect(vms[0]?.stopped).toBe(true);
    expect(left()).toEqual([]);
    onRun = () => 0;
    expect((await build('FROM a\nRUN good\n\nRUN bad\nRUN never')).steps).toEqual({ run: 2, cached: 1 });
  });

  it('errors for a full guest disk and for a missing file in a stage name the line', async () => {
    onRun = () => Promise.reject(new StepFault('full', 'x'));
    await expect(build('FROM a\nRUN x')).rejects.toMatchObject({
      message: expect.stringMatching(/^line 2: .*the disk is full/),
      remedy: expect.stringContaining('--disk'),
    });
    onRun = () => Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }));
    await expect(build('FROM a\nRUN x')).rejects.toMatchObject({ code: 'disk_full' });
  });

  it('secrets: a required one is requested before anything runs; none changes a key', async () => {
    const text = 'FROM a\nRUN one\nRUN --mount=type=secret,id=t,required two';
    await expect(build(text)).rejects.toMatchObject({ code: 'secret_missing', line: 3 });
    expect(vms).toEqual([]);
    const first = await build(text, { secrets: new Map([['t', Buffer.from('1')]]) });
    expect(vms[0]?.runs[1]?.mounts).toMatchObject([{ type: 'secret', target: '/run/secrets/t' }]);
    const second = await build(text, { secrets: new Map([['t', Buffer.from('2')]]) });
    expect(second.key).toBe(first.key);
  });

  it('mounts of the context: their files are placed before the command, and are in its key', async () => {
    writeFileSync(join(dir, 'context/uv.lock'), '1');
    writeFileSync(join(dir, 'context/other'), '1');
    const text =
      'FROM a\nWORKDIR /w\nRUN --mount=type=bind,source=uv.lock,target=uv.lock ' +
      '--mount=type=tmpfs,target=/t --mount=target=/all uv sync';
    const first = await build(text);
    expect(vms[0]?.runs[0]?.mounts).toEqual([
      { type: 'bind', source: null, path: '0', target: 'uv.lock' },
      { type: 'tmpfs', target: '/t' },
      { type: 'bind', source: null, path: '1', target: '/all' },
    ]);
    expect(result(first.key)).toBe('mkdir /w\nplaced true\nuv sync\n');
    expect((await build(text)).steps.run).toBe(0);
    writeFileSync(join(dir, 'context/other'), '2');
    expect((await build(text)).steps.run).toBeGreaterThan(0);
    await expect(build('FROM a\nRUN --mount=source=none,target=/x y')).rejects.toThrow(
      'line 2: "none" is not in the context',
    );
  });

  it('cache mounts: their disk is passed from build to build, and is in no key', async () => {
    const text = (command: string) => `FROM a\nRUN --mount=type=cache,target=/c ${command}`;
    await build(text('one'));
    await build(text('two'));
    const [path = ''] = readdirSync(join(dir, 'cache/mounts'));
    expect(readFileSync(join(dir, 'cache/mounts', path), 'utf8')).toBe('one\ntwo\n');
  });

  it('two concurrent equal builds are one', async () => {
    const gate = Promise.withResolvers<number>();
    onRun = () => gate.promise;
    const text = 'FROM a\nRUN slow';
    const both = Promise.all([build(text), build(text)]);
    await expect.poll(() => vms.length).toBe(1);
    gate.resolve(0);
    const [one, two] = await both;
    expect(one.key).toBe(two.key);
    expect(vms).toHaveLength(1);
  });

  it('abort: the VM is stopped, and nothing is left behind', async () => {
    const aborter = new AbortController();
    onRun = async () => {
      aborter.abort();
      throw new Error('the connection ended');
    };
    await expect(build('FROM a\nRUN x', {}, aborter.signal)).rejects.toMatchObject({ code: 'cancelled' });
    expect(vms[0]?.stopped).toBe(true);
    expect(left()).toEqual([]);
  });

  it('a stage without steps is the stage that it continues', async () => {
    const text = 'FROM a AS one\nRUN one\nFROM one AS two\nFROM two AS three\n';
    const signal = AbortSignal.timeout(10_000);
    expect(result((await build(`${text}RUN x`, {}, signal)).key)).toBe('one\nx\n');
    const copied = await build(
      `${text}RUN other\nFROM scratch\nCOPY --from=two /x /y\nCOPY --from=three /x /z`,
      {},
      signal,
    );
    expect(result(copied.key)).toBe('copy  false\ncopy  false\n');
  });

  it('a graph of stages: time does not grow with the number of paths', async () => {
    const stages = Array.from({ length: 60 }, (_, index) =>
      index < 2
        ? `FROM a AS s${index}\nRUN --mount=type=secret,id=t s${index}`
        : `FROM s${index - 1} AS s${index}\nCOPY --from=s${index - 2} /x /`,
    );
    expect((await build(stages.join('\n'))).steps.run).toBe(60);
  });

  it('a stage that continues another has its shell and its arguments', async () => {
    await build(
      'FROM a AS one\nARG V=1\nSHELL ["bash", "-ec"]\nFROM one AS two\nRUN x\nFROM a\nCOPY --from=two /x /y\nRUN y',
    );
    const runs = vms.flatMap((vm) => vm.runs);
    expect(runs.map(({ argv }) => argv)).toEqual([
      ['bash', '-ec', 'x'],
      ['/bin/sh', '-c', 'y'],
    ]);
    expect(runs.map(({ env }) => env['V'])).toEqual(['1', undefined]);
  });

  it('cache mounts: builds of another context do not see them', async () => {
    const text = (command: string) => `FROM a\nRUN --mount=type=cache,id=i,target=/c ${command}`;
    mkdirSync(join(dir, 'other'));
    await build(text('one'));
    await build(text('two'), { contextDir: join(dir, 'other') });
    const disks = readdirSync(join(dir, 'cache/mounts'));
    const contents = disks.map((name) => readFileSync(join(dir, 'cache/mounts', name), 'utf8'));
    expect(contents.sort()).toEqual(['one\n', 'two\n']);
  });

  it('cache mounts: a stage has the same disk wherever its cached steps end', async () => {
    const text = (command: string) =>
      `FROM a\nRUN --mount=type=cache,target=/c one\nRUN --mount=type=cache,target=/d ${command}`;
    await build(text('two'));
    await build(text('three'));
    const disks = readdirSync(join(dir, 'cache/mounts'));
    expect(disks).toHaveLength(1);
    expect(readFileSync(join(dir, 'cache/mounts', disks[0] ?? ''), 'utf8')).toBe('one\ntwo\nthree\n');
  });

  it('cache: a larger disk than that of the cached steps starts over', async () => {
    await build('FROM a\nRUN one');
    diskBytes = 1_000;
    expect((await build('FROM a\nRUN one\nRUN two')).steps).toEqual({ run: 2, cached: 0 });
    expect((await build('FROM a\nRUN one')).steps).toEqual({ run: 0, cached: 1 });
  });

  it('a file that changes after its digest was taken is not cached under that digest', async () => {
    const path = join(dir, 'context/f');
    writeFileSync(path, '1');
    onRun = () => {
      writeFileSync(path, '2');
      return 0;
    };
    const text = 'FROM a\nRUN x\nCOPY f /';
    await expect(build(text)).rejects.toThrow('changed');
    writeFileSync(path, '1');
    expect((await build(text)).steps).toEqual({ run: 1, cached: 1 });
  });

  it('cache: failed and running builds respect the limit, too', async () => {
    let most = 0;
    const used = (): number => readdirSync(join(dir, 'cache/steps')).filter((name) => name.endsWith('.ext4')).length;
    bytesMax = 200_000;
    onRun = (text) => {
      most = Math.max(most, used());
      return text === 'bad' ? 1 : 0;
    };
    const steps = Array.from({ length: 6 }, (_, index) => `RUN ${index}${'x'.repeat(60_000)}`);
    const source = `FROM a AS s\n${steps[0]}\n`;
    const text = `${source}FROM a\n${steps.join('\n')}\nCOPY --from=s /x /y`;
    await expect(build(`${text}\nRUN bad`)).rejects.toMatchObject({ code: 'step_failed' });
    // Sizes are 60, 120, 180 … KB: keeps those that fit, those in use, and the last one.
    expect(most).toBeLessThanOrEqual(3);
    expect(used()).toBeLessThanOrEqual(3);
    bytesMax = undefined;
    expect(readFileSync(vms.at(-1)?.disks.sources[0]?.scratch ?? '', 'utf8')).toContain('0xxx');
  });

  it('our environments: the result has their user and home, unless the Dockerfile sets others', async () => {
    expect((await build('FROM agent\nRUN x')).config).toMatchObject({ user: 'user', workdir: '/home/user' });
    expect(vms[0]?.runs[0]).toMatchObject({ user: '', workdir: '/' });
    expect((await build('FROM base\nRUN x')).config).toMatchObject({ user: 'user' });
    expect((await build('FROM agent\nUSER root\nWORKDIR /x')).config).toMatchObject({ user: 'root', workdir: '/x' });
  });

  it('a result without files, and an undeclared argument', async () => {
    await expect(build('FROM scratch\nCMD x')).rejects.toThrow('the result has no files');
    const built = await build('FROM a\nRUN x', { buildArgs: { NOPE: '1' } });
    expect(built.warnings).toEqual([expect.stringContaining('NOPE')]);
    expect(events).toContainEqual({ kind: 'warning', text: expect.stringContaining('NOPE') });
  });
});

describe('BuildCache', () => {
  it('locks: an old one that is held stays', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-build-cache-'));
    try {
      const cache = new BuildCache(join(dir, 'cache'));
      await cache.make();
      const key = `sha256:${'a'.repeat(64)}`;
      const path = join(dir, 'cache/locks', 'a'.repeat(64));
      writeFileSync(path, '');
      utimesSync(path, 1, 1);
      const { signal } = new AbortController();
      await cache.alone(key, signal, () => cache.enforceBound(new Set()));
      expect(existsSync(path)).toBe(true);
      utimesSync(path, 1, 1);
      await cache.enforceBound(new Set());
      expect(existsSync(path)).toBe(false);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it('limit: the least recently used entries are removed', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-build-cache-'));
    try {
      const cache = new BuildCache(join(dir, 'cache'), 40_000);
      await cache.make();
      const keys = ['a', 'b', 'c'].map((digit) => `sha256:${digit.repeat(64)}`);
      for (const key of keys) {
        writeFileSync(join(dir, 'disk'), Buffer.alloc(16_384, 1));
        await cache.keep('steps', key, join(dir, 'disk'));
        await new Promise((done) => setTimeout(done, 20));
      }
      await cache.has('steps', keys[0] ?? '');
      await cache.enforceBound(new Set());
      const there = await Promise.all(keys.map((key) => cache.has('steps', key)));
      expect(there).toEqual([true, false, true]);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});

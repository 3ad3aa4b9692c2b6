/** `--build DIR`: the sandbox gets the Dockerfile's result; a build that is already cached starts no VM. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BuildRequest } from '../../src/artifacts/dockerfile/build.ts';
import { silentLog } from '../../src/base/log.ts';
import { type CreateFlags, create } from '../../src/cli/commands/create.ts';
import { imageBuild } from '../../src/cli/commands/image-build.ts';
import { resolveEnvironment } from '../../src/host/runtime/images.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { imagesOf, keepBuilt } from '../support/built-image.ts';
import { cli as runCli } from '../support/cli.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { API_KEY, startHomeDaemon } from '../support/home-daemon.ts';
import { testCli } from '../support/test-cli.ts';

const FLAGS: CreateFlags = { env: [], warm: [], alias: [], allowModel: [], allowOut: [], denyOut: [], label: [] };
const { signal } = new AbortController();

describe('--build', () => {
  let dir: string;
  let home: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-cli-build-'));
    home = join(dir, 'home');
    mkdirSync(join(home, 'cache'), { recursive: true });
    write('Dockerfile', 'FROM scratch\nVOLUME /x\nCOPY app /\nENTRYPOINT ["/app"]\nCMD ["a"]\n');
    write('app', 'the program');
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const write = (name: string, text: string): void => writeFileSync(join(dir, name), text);
  const keepResult = (disk: string, more?: Partial<BuildRequest>) => keepBuilt(home, dir, disk, more);

  it('create: requests the built image by its digest, which a daemon finds; shows nothing', async () => {
    write('.dockerignore', 'home\n');
    await keepResult('the disk');
    const asked: CreateRequest[] = [];
    await using control = new FakeControlPlane({ beforeCreate: (request) => void asked.push(request) });
    const { cli, stderr } = testCli({ env: { NEUROVISOR_HOME: home } });
    expect(await create(cli, control, { ...FLAGS, build: dir })).toBe(0);
    expect(stderr()).not.toMatch(/warning|#1|pack/);
    const name = asked[0]?.image ?? '';
    expect(name).toMatch(/^sha256:[0-9a-f]{64}$/);
    const found = await resolveEnvironment(imagesOf(home), name, { signal, log: silentLog, readsHost: false });
    expect(readFileSync(found.path, 'utf8')).toBe('the disk');
    expect(found.environment).toMatchObject({ image: name, imageDigest: name, entrypoint: ['/app'], cmd: ['a'] });
  });

  it('create: a daemon elsewhere gets the files, and builds the same image', async () => {
    write('.dockerignore', 'home\nthere\n');
    const there = join(dir, 'there');
    await keepBuilt(there, dir, 'the disk');
    await using stack = new AsyncDisposableStack();
    const { url } = await startHomeDaemon(there, stack);
    const asked: CreateRequest[] = [];
    const control = stack.use(new FakeControlPlane({ beforeCreate: (request) => void asked.push(request) }));
    const env = { NEUROVISOR_HOME: home, NEUROVISOR_URL: url, NEUROVISOR_API_KEY: API_KEY };
    const { cli } = testCli({ env });
    expect(await create(cli, control, { ...FLAGS, build: dir })).toBe(0);
    const name = asked[0]?.image ?? '';
    const found = await resolveEnvironment(imagesOf(there), name, { signal, log: silentLog, readsHost: false });
    expect(readFileSync(found.path, 'utf8')).toBe('the disk');
    expect(readdirSync(join(there, 'run')).filter((entry) => entry.length === 20)).toEqual([]);
    expect(readdirSync(home)).toEqual(['cache']);
  });

  it('image build: --build-arg and --target select the build', async () => {
    write('.dockerignore', 'home\n');
    write('Dockerfile', 'FROM scratch AS a\nARG NAME\nCOPY $NAME /\nFROM scratch\nCOPY none /\n');
    await keepResult('the disk', { buildArgs: { NAME: 'app' }, target: 'a' });
    const build = async (buildArg: readonly string[], target: string): Promise<unknown> => {
      const { cli, stdout } = testCli({ json: true, env: { NEUROVISOR_HOME: home, NAME: 'app' } });
      const rules = { allowOut: [], denyOut: [] };
      expect(await imageBuild(cli, dir, { buildArg, target, buildSecret: [], cache: true, ...rules })).toBe(0);
      return JSON.parse(stdout()).digest;
    };
    const digest = await build(['NAME=app'], 'a');
    expect(digest).toMatch(/^sha256:/);
    expect(await build(['NAME'], 'a')).toBe(digest);
    await expect(build(['NAME'], 'b')).rejects.toThrow('b');
  });

  it('run: an invalid Dockerfile, or one that lacks a secret, exits with 125 and the fault', async () => {
    write('Dockerfile', 'FROM scratch\nFROB x\n');
    const env = { NEUROVISOR_HOME: home };
    const { status, stdout, stderr } = await runCli(['run', '--build', dir], { env }).result;
    expect([status, stdout]).toEqual([125, '']);
    expect(stderr).toContain('line 2');
    write('Dockerfile', 'FROM scratch\nCOPY app /\nRUN --mount=type=secret,id=t,required true\n');
    const secret = await runCli(['run', '--build', dir], { env }).result;
    expect(secret.status).toBe(125);
    expect(secret.stderr).toContain('--build-secret id=t,src=FILE (an option of neurovisor image build');
  });
});

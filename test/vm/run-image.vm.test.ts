/** Sandboxes that run in a container image: its programs, its user, and what outlives the image. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { GIB } from '../../src/base/units.ts';
import { openImages } from '../../src/host/runtime/images.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { makeImage, tar, writeLayout } from '../support/oci-images.ts';
import { exec, useControlPlane } from '../support/vm.ts';

const fixture = useControlPlane(() => 'engine');
const dir = mkdtempSync(join(tmpdir(), 'nv-environment-vm-'));
const { signal } = new AbortController();
/** In no way the built-in system: one program, one user, and no directory for our own. */
const image = `oci:${join(dir, 'layout')}:latest`;

beforeAll(() => {
  const program = join(dir, 'program');
  const source = join(import.meta.dirname, '../fixtures/image-program.c');
  execFileSync('gcc', ['-O2', '-Wall', '-static', '-s', '-o', program, source]);
  const layer = tar([
    { name: 'opt/', type: 'dir' },
    { name: 'opt/tool', data: readFileSync(program), mode: 0o755 },
    // So that no template of an earlier run fits.
    { name: 'opt/run', data: randomBytes(8).toString('hex') },
    { name: 'etc/', type: 'dir' },
    { name: 'etc/passwd', data: 'root:x:0:0::/:/none\napp:x:4242:4243::/data:/none\n' },
    { name: 'etc/group', data: 'root:x:0:\napp:x:4243:\n' },
    { name: 'data/', type: 'dir', uid: 4242, gid: 4243 },
    { name: 'data/file', data: 'of the image\n', uid: 4242, gid: 4243 },
  ]);
  const config = {
    User: 'app',
    WorkingDir: '/data',
    Env: ['PATH=/opt', 'MODE=image'],
    Entrypoint: ['/opt/tool'],
    Cmd: ['who'],
  };
  writeLayout(join(dir, 'layout'), makeImage([{ tar: layer }], config));
});

const run = async (id: string, ...words: readonly string[]) => {
  const { stdout, stderr, exitCode } = await exec(await fixture.control.guest(id), ['tool', ...words]);
  return { output: stdout + stderr, exitCode };
};

const templates = async (): Promise<readonly string[]> =>
  (await fixture.runtime.templates.list())
    .filter(({ spec }) => spec.environment?.image === image)
    .flatMap(({ key }) => key ?? []);

afterAll(async () => {
  for (const key of await templates()) await fixture.runtime.templates.remove(key);
  rmSync(dir, { recursive: true });
});

describe('a sandbox with an image', () => {
  let first: SandboxInfo;
  beforeAll(async () => {
    first = await fixture.control.create({ image });
  });

  it('runs its program, as its user, in its directory, with its environment', async () => {
    expect(await run(first.id, 'who')).toEqual({ output: '4242:4243 /data image\n', exitCode: 0 });
    expect(await run(first.id, 'read', 'file')).toEqual({ output: 'of the image\n', exitCode: 0 });
    expect(await run(first.id, 'read', '/usr/bin/python3')).toMatchObject({ exitCode: 1 });
    expect(first.image).toMatchObject({ name: image, entrypoint: ['/opt/tool'], cmd: ['who'] });
  });

  it('has no Python: a script is refused, and the sandbox continues', async () => {
    const guest = await fixture.control.guest(first.id);
    await expect(guest.python({ script: { code: 'print(1)' }, stdin: false })).rejects.toThrow(/Python/);
    expect((await run(first.id, 'who')).exitCode).toBe(0);
  });

  it('the next one is a clone of the same template, with its own environment', async () => {
    const made = await templates();
    expect([first.origin, made.length]).toEqual(['clone', 1]);
    const second = await fixture.control.create({ image, env: { MODE: 'mine' } });
    expect([second.origin, await templates()]).toEqual(['clone', made]);
    expect((await run(second.id, 'who')).output).toBe('4242:4243 /data mine\n');
    await fixture.control.remove(second.id);
  });

  it('clones, forks and written files survive the removal of the image, and a pause to disk', async () => {
    const { control, runtime } = fixture;
    const guest = await control.guest(first.id);
    await guest.files.write('/data/new', 'written\n');
    const program = await guest.exec({ argv: ['tool', 'wait'] });
    program.stdin.write('x\n');
    expect(`${(await program.stdout.take(1).toArray())[0]}`).toBe('1\n');
    const images = openImages({
      home: runtime.home,
      progress: silentProgress,
      signal,
      log: silentLog,
      quotaBytes: GIB,
      runtime: async () => runtime,
    });
    const removed = await images.remove([image], '/', signal);
    expect(removed.bytes).toBeGreaterThan(0);
    const [fork] = await control.fork(first.id, { count: 1 });
    if (fork?.ok !== true) throw new Error(`no fork: ${JSON.stringify(fork)}`);
    expect((await run(fork.sandbox.id, 'read', 'new')).output).toBe('written\n');
    expect((await run(fork.sandbox.id, 'who')).output).toBe('4242:4243 /data image\n');
    await control.remove(fork.sandbox.id);
    await control.pause(first.id, 'disk');
    await control.resume(first.id);
    expect((await run(first.id, 'read', '/data/new')).output).toBe('written\n');
    expect((await run(first.id, 'read', 'file')).output).toBe('of the image\n');
    const running = await (await control.guest(first.id)).processes();
    expect(running.map(({ argv }) => argv)).toEqual([['tool', 'wait']]);
    await control.remove(first.id);
  });
});

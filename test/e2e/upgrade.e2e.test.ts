/** Sandboxes of one version in the daemon of the next, which has another system image. */
import { appendFile, cp, mkdir, mkdtemp, readdir, realpath, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { ROOT } from '../support/cli.ts';
import { type DaemonHome, leftIn, useDaemonHome, watchDaemon } from '../support/daemon.ts';

const home = useDaemonHome();

/** What set-up of a version reads. */
const SOURCES = ['src', 'guest', 'image', 'kernel', 'bpf', 'policy', 'environments', 'spec', 'package.json'];

/** A copy of the program whose agent, and so its image, differs. */
async function otherVersion(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-version-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  for (const name of SOURCES) await cp(join(ROOT, name), join(dir, name), { recursive: true });
  await symlink(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
  await appendFile(join(dir, 'guest/agent/neurovisor_agent/__init__.py'), '\n# another version\n');
  return dir;
}

/** Images that only this home has, beside those of the machine's set-up. */
async function ownImages({ dir }: DaemonHome): Promise<string> {
  const cache = join(dir, 'cache');
  const users = await realpath(cache);
  await rm(cache);
  const images = join(cache, 'rootfs');
  await mkdir(images, { recursive: true });
  for (const name of await readdir(users)) {
    if (!['rootfs', 'jail', 'locks', 'tmp', 'template', 'setup.lock'].includes(name)) {
      await symlink(join(users, name), join(cache, name));
    }
  }
  for (const key of await readdir(join(users, 'rootfs'))) {
    await symlink(join(users, 'rootfs', key), join(images, key));
  }
  return images;
}

it('what the version before paused goes on with its own image, which goes when nothing needs it', async () => {
  const images = await ownImages(home);
  const known = new Set(await readdir(images));
  const { env, dir } = home;
  const flags = ['-o', 'json', '--pool', '0', '--on-stop', 'pause'];
  const more = { ...env, NEUROVISOR_UPSTREAM: home.upstream.target.baseUrl ?? '' };
  const old = watchDaemon(process.execPath, [join(await otherVersion(), 'src/cli/main.ts'), 'serve', ...flags], more);
  onTestFinished(() => old.kill('SIGKILL'));
  await old.ready();
  const [made = ''] = (await readdir(images)).filter((key) => !known.has(key));
  const id = await home.says('create', '--boot');
  const counter = 'i=0; while :; do i=$((i + 1)); echo $i > n.new; mv n.new n; sleep 0.05; done';
  await home.says('exec', '--detach', id, '--', 'bash', '-c', counter);
  const counted = async (of: string): Promise<number> => Number(await home.says('exec', of, '--', 'cat', 'n'));
  await expect.poll(() => home.says('exec', id, '--', 'ls')).toMatch(/^n$/m);
  await home.says('snapshot', 'create', id, '--name', 'before');
  const first = await counted(id);
  old.kill('SIGTERM');
  expect(await old.ended).toBe(0);
  // As set-up does after further versions.
  await rm(join(images, made), { recursive: true });

  const next = home.serve(...flags);
  await next.ready();
  await expect.poll(() => counted(id)).toBeGreaterThan(first);
  await home.says('pause', id);
  const saved = await counted(id);
  await expect.poll(() => counted(id)).toBeGreaterThan(saved);
  const [copy = ''] = (await home.says('fork', id)).split('\n');
  expect(await counted(copy)).toBeGreaterThan(saved);
  const restored = await home.says('create', '--snapshot', 'before');
  expect(await counted(restored)).toBeGreaterThan(0);
  // Side by side.
  await home.says('create', '--boot');
  const all = JSON.parse(await home.says('ls', '-o', 'json')) as SandboxInfo[];
  expect(all.map(({ foreignPause }) => foreignPause)).toEqual([null, null, null, null]);
  const kept = async (): Promise<number> =>
    (await readdir(join(dir, 'data/platforms'))).filter((name) => /^\w{64}$/.test(name)).length;
  expect(await kept()).toBe(3);
  await home.says('rm', '--all');
  await home.says('snapshot', 'rm', 'before');
  next.kill('SIGTERM');
  expect(await next.ended).toBe(0);
  const last = home.serve(...flags);
  await last.ready();
  expect(await kept()).toBe(2);
  last.kill('SIGTERM');
  expect(await last.ended).toBe(0);
  expect(await leftIn(home)).toEqual([]);
});

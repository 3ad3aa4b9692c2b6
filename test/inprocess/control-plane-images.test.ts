/** Sandboxes that run in a container image. No VMs. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { EnvironmentSource, SandboxEnvironment } from '../../src/sandbox/contract/environment.ts';
import { REFILL_DELAY_MS } from '../../src/sandbox/start/pools.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';

const ENVIRONMENT: SandboxEnvironment = {
  image: 'app:1',
  imageDigest: `sha256:${'a'.repeat(64)}`,
  digest: `sha256:${'b'.repeat(64)}`,
  user: 'app:users',
  workdir: '/srv',
  env: { PATH: '/opt/bin:/bin', MODE: 'image', OLLAMA_HOST: '0.0.0.0', NEUROVISOR_SANDBOX_ID: 'of the image' },
  entrypoint: ['/bin/app'],
  cmd: ['serve'],
  exposedPorts: ['80/tcp'],
  stopSignal: 'SIGINT',
};
const INFO = {
  name: 'app:1',
  digest: ENVIRONMENT.imageDigest,
  user: 'app:users',
  workdir: '/srv',
  entrypoint: ['/bin/app'],
  cmd: ['serve'],
  exposedPorts: ['80/tcp'],
  stopSignal: 'SIGINT',
};

let dir = '';
let image: EnvironmentSource;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-control-images-'));
  image = { environment: ENVIRONMENT, path: join(dir, 'image') };
  writeFileSync(image.path, 'the disk');
});
afterEach(() => rmSync(dir, { recursive: true }));

const open = (): Promise<FakeHost> => FakeHost.open({ images: { 'app:1': image } });

/** The content of the VM's extra disk. */
function diskOf(host: FakeHost, id: string): string {
  const [disk, ...more] = host.vm(id).disks;
  expect(more).toEqual([]);
  expect(disk?.access).toBe('read');
  return readFileSync(disk?.path ?? '', 'utf8');
}

describe('LocalControlPlane: images', () => {
  it.each([true, false])('create: the guest gets the disk and the image’s settings (boot: %s)', async (boot) => {
    await using host = await open();
    const info = await host.control.create({ image: 'app:1', boot, env: { MODE: 'mine' } });
    expect(info.image).toEqual(INFO);
    expect(diskOf(host, info.id)).toBe('the disk');
    expect(host.vm(info.id).bootArgs).toEqual(boot ? ['neurovisor_environment=/dev/vdc'] : []);
    expect(host.identities.at(-1)).toMatchObject({
      environment: { user: 'app:users', workdir: '/srv' },
      env: { PATH: '/opt/bin:/bin', MODE: 'mine', OLLAMA_HOST: '0.0.0.0', NEUROVISOR_SANDBOX_ID: info.id },
    });
    expect((await host.control.remove(info.id)).image).toEqual(INFO);
    await requireNothing(host);
    expect(statSync(image.path).nlink).toBe(1);
  });

  it('create: without an image, there is no extra disk and no image setting', async () => {
    await using host = await open();
    const { id, image: none } = await host.control.create({ boot: true });
    expect([none, host.vm(id).disks, host.vm(id).bootArgs]).toEqual([null, [], []]);
    expect(host.identities.at(-1)?.environment).toBeUndefined();
    expect(host.identities.at(-1)?.env).toMatchObject({ OLLAMA_HOST: 'http://127.0.0.1:11434' });
  });

  it.each([
    ['other:1', 'not_found'],
    ['a\u0007', 'spec_invalid'],
  ])('create: the image %j is refused (%s), and nothing is started', async (name, code) => {
    await using host = await open();
    await expect(host.control.create({ image: name })).rejects.toMatchObject({ code });
    expect(host.started).toBe(0);
    await requireNothing(host);
  });

  it('create: the image’s variables count against the same limits as the sandbox’s', async () => {
    const environment = { ...ENVIRONMENT, env: { BIG: 'x'.repeat(2 ** 20) } };
    await using host = await FakeHost.open({ images: { big: { ...image, environment } } });
    await expect(host.control.create({ image: 'big' })).rejects.toMatchObject({
      code: 'spec_invalid',
      message: expect.stringContaining('bytes in all'),
    });
  });

  it('fork, pause, snapshot: no longer need the image', async () => {
    await using host = await open();
    const { control } = host;
    const { id } = await control.create({ image: 'app:1' });
    rmSync(image.path);
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    expect([fork.sandbox.image, diskOf(host, fork.sandbox.id)]).toEqual([INFO, 'the disk']);
    await control.remove(fork.sandbox.id);
    await control.snapshot(id, { name: 'kept' });
    await control.pause(id, 'disk');
    expect((await control.get(id)).image).toEqual(INFO);
    await control.resume(id);
    expect(diskOf(host, id)).toBe('the disk');
    expect(host.identities.at(-1)?.environment).toEqual({ user: 'app:users', workdir: '/srv' });
    // For a sandbox on disk.
    await control.pause(id, 'disk');
    await control.snapshot(id, { name: 'copied' });
    const [second] = await control.fork(id, { count: 1 });
    expect(second?.ok === true && diskOf(host, second.sandbox.id)).toBe('the disk');
    await control.remove(id);
    for (const snapshot of ['kept', 'copied']) {
      const restored = await control.create({ snapshot });
      expect([restored.image, diskOf(host, restored.id)]).toEqual([INFO, 'the disk']);
    }
    await expect(control.create({ snapshot: 'kept', image: 'app:1' })).rejects.toMatchObject({
      message: 'a snapshot has its own image',
    });
    await requireNothing(host);
  });

  it('the store keeps one file for all snapshots with the same image', async () => {
    await using host = await open();
    const { control } = host;
    const { id } = await control.create({ image: 'app:1' });
    await control.snapshot(id, { name: 'one' });
    const { files } = await host.stored();
    await control.snapshot(id, { name: 'two' });
    const digests = (await host.store.snapshots.list()).map((row) => row.files.environment);
    expect(digests).toEqual(['b'.repeat(64), 'b'.repeat(64)]);
    expect((await host.stored()).files).toBeLessThan(2 * files);
    await control.removeSnapshot('one');
    const { id: restored } = await control.create({ snapshot: 'two' });
    expect(diskOf(host, restored)).toBe('the disk');
    await requireNothing(host);
  });

  it('a pool member becomes a sandbox with the image of the request', async () => {
    await using host = await open();
    await host.control.setPool({ min: 1, max: 1 }, { image: 'app:1' });
    host.clock.advance(REFILL_DELAY_MS);
    await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(1);
    const plain = await host.control.create({});
    expect([plain.origin, plain.image]).toEqual(['clone', null]);
    const { id, origin, image: shown } = await host.control.create({ image: 'app:1' });
    expect([origin, shown, diskOf(host, id)]).toEqual(['pool', INFO, 'the disk']);
    await host.control.setPool({ min: 0, max: 0 }, { image: 'app:1' });
    await requireNothing(host);
  });
});

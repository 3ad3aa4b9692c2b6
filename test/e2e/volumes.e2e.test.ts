/** `neurovisor volume` and `--volume` as processes, with real VMs: what one sandbox writes, the next ones read. */
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox, Volume, VolumeError, VolumePathNotFoundError } from 'e2b';
import { beforeAll, expect, it } from 'vitest';
import type { SandboxInfo, VolumeInfo } from '../../src/sandbox/contract/control.ts';
import { useDaemonHome } from '../support/daemon.ts';
import { CLIENT_VERSIONS, E2B_CLIENTS_DIR, pythonClient, runWithClient } from '../support/e2b-clients.ts';
import { requires } from '../support/requires.ts';

const home = useDaemonHome();
const { there, says } = home;

const KIB = 1024;
const READ = 'print(open("/data/a").read())';

let server: { readonly url: string; readonly apiKey: string };

beforeAll(async () => {
  const { url, apiKeyPath } = await home.serve('-o', 'json', '--pool', '0', '--port', '0').ready();
  server = { url: url ?? '', apiKey: (await readFile(apiKeyPath ?? '', 'utf8')).trim() };
});

it('run, create --volume: one sandbox writes, the next ones and their forks read, a second writer is refused', async () => {
  expect(await says('volume', 'create', 'data', '--size', '64M')).toBe('data');
  await says('run', '--volume', 'data:/data', '-c', 'open("/data/a", "w").write("first")');

  const writer = await says('create', '--volume', 'data:/data');
  expect(await says('exec', writer, '-c', READ)).toBe('first');
  const refused = await there(['run', '--volume', 'data:/data', '-c', '']).result;
  expect(refused.status).toBe(125);
  expect(refused.stderr).toContain(`sandbox ${writer} has volume data`);
  expect(refused.stderr).toContain('(:ro)');
  expect((await there(['volume', 'rm', 'data']).result).stderr).toContain(writer);
  await says('rm', writer);

  const readers = [
    await says('create', '--volume', 'data:/data:ro'),
    await says('create', '--volume', 'data:/data:ro'),
  ];
  for (const reader of readers) {
    expect(await says('exec', reader, '-c', READ)).toBe('first');
    const write = await there(['exec', reader, '-c', 'open("/data/a", "w")']).result;
    expect(write.stderr).toContain('Read-only file system');
  }
  const fork = await says('fork', readers[0] ?? '');
  expect(await says('exec', fork, '-c', READ)).toBe('first');
  expect((await there(['volume', 'rm', 'data']).result).status).toBe(1);
  await says('rm', fork, ...readers);
  await says('volume', 'rm', 'data');
});

it('run --volume: a corrupt volume is refused with a remedy, and hurts nothing else', async () => {
  const other = await says('create');
  await says('volume', 'create', 'bad', '--size', '16M');
  const [info] = JSON.parse(await says('volume', 'inspect', 'bad')) as VolumeInfo[];
  const [path = ''] = (await readdir(home.dir, { recursive: true })).filter((one) =>
    one.endsWith(`volumes/${info?.id}`),
  );
  const file = await open(join(home.dir, path), 'r+');
  // The superblock and what follows.
  await file.write(Buffer.alloc(64 * KIB, 0x5a), 0, 64 * KIB, 0);
  await file.close();

  for (const how of ['bad:/data', 'bad:/data:ro']) {
    const { status, stderr } = await there(['run', '--volume', how, '-c', '']).result;
    expect(status).toBe(125);
    expect(stderr).toMatch(/volume '\/data' could not be mounted/);
    expect(stderr).toContain('can only be removed');
  }
  expect(await says('exec', other, '-c', 'print(6 * 7)')).toBe('42');
  const left = JSON.parse(await says('ls', '-o', 'json')) as SandboxInfo[];
  expect(left.map(({ id }) => id)).toEqual([other]);
  await says('volume', 'rm', 'bad');
  await says('rm', other);
});

it('volume cp: copies trees both ways, also while a sandbox has the volume, and leaves no sandbox', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-volume-cp-'));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(dir, { recursive: true }));
  await mkdir(join(dir, 'tree'));
  await writeFile(join(dir, 'tree/a'), 'first');
  await says('volume', 'create', 'copied', '--size', '64M');
  await says('volume', 'cp', join(dir, 'tree'), 'copied:/tree');
  await says('volume', 'cp', 'copied:/tree', join(dir, 'back'));
  expect(await readFile(join(dir, 'back/a'), 'utf8')).toBe('first');
  expect(JSON.parse(await says('ls', '-o', 'json'))).toEqual([]);

  const id = await says('create', '--volume', 'copied:/data');
  expect(await says('exec', id, '--', 'cat', '/data/tree/a')).toBe('first');
  expect(await says('volume', 'cp', 'copied:/tree/a', '-')).toBe('first');
  await says('volume', 'cp', join(dir, 'tree/a'), 'copied:/b');
  expect(await says('exec', id, '--', 'cat', '/data/b')).toBe('first');
  await says('pause', id);
  const refused = await there(['volume', 'cp', 'copied:/b', '-']).result;
  expect(refused).toMatchObject({ status: 125, stderr: expect.stringContaining(`sandbox ${id} has volume copied`) });
  await says('rm', id);
  for (const [path, why] of [
    ['copied:b', 'not an absolute path'],
    ['none:/b', 'there is no volume none'],
    ['copied:/none', 'none'],
  ] as const) {
    expect((await there(['volume', 'cp', path, '-']).result).stderr).toContain(why);
  }
  await says('volume', 'rm', 'copied');
});

it('E2B’s JavaScript client: a volume’s files while no sandbox has it, and while one does', async () => {
  const { url, apiKey } = server;
  const client = { apiKey, apiUrl: url, sandboxUrl: url };
  const files = { apiUrl: url };
  const volume = await Volume.create('js', client);
  const written = await volume.writeFile('/a/b.txt', 'first', { ...files, mode: 0o640, uid: 1234 });
  expect(written).toMatchObject({ name: 'b.txt', path: '/a/b.txt', size: 5, mode: 0o640, uid: 1234, type: 'file' });
  expect(Math.abs(Date.now() - written.mtime.getTime())).toBeLessThan(600_000);
  await expect(volume.writeFile('/a/b.txt', 'x', { ...files, force: false })).rejects.toThrow('exists');
  await expect(volume.makeDir('/x/y', files)).rejects.toThrow(VolumePathNotFoundError);
  await volume.makeDir('/x/y', { ...files, force: true });
  const big = 'x'.repeat(3_000_000);
  // Requests at once share one guest.
  await Promise.all(['/x/1', '/x/2'].map((path) => volume.writeFile(path, big, files)));
  expect(await volume.readFile('/x/2', files)).toBe(big);
  const listed = await volume.list('/', { ...files, depth: 2 });
  expect(listed.map(({ path }) => path).filter((path) => path !== '/lost+found')).toEqual([
    ...['/a', '/a/b.txt', '/x', '/x/1', '/x/2', '/x/y'],
  ]);
  expect(await volume.updateMetadata('/a/b.txt', { mode: 0o644 }, files)).toMatchObject({ mode: 0o644, uid: 1234 });
  expect(await Sandbox.list(client).nextItems()).toEqual([]);

  const sandbox = await Sandbox.create('agent', { ...client, volumeMounts: { '/data': volume } });
  // A link leads nowhere outside of the volume.
  await sandbox.commands.run('cat /data/a/b.txt > /data/c; ln -s /etc /data/out; ln -s /etc/passwd /data/passwd');
  expect(await volume.readFile('/c', files)).toBe('first');
  expect(await volume.getInfo('/passwd', files)).toMatchObject({ type: 'symlink', target: '/etc/passwd' });
  for (const path of ['/passwd', '/out/passwd', '/../etc/passwd']) {
    await expect(volume.readFile(path, files)).rejects.toThrow(VolumePathNotFoundError);
  }
  await expect(volume.writeFile('/out/x', 'x', files)).rejects.toThrow(VolumePathNotFoundError);
  await expect(Volume.destroy(volume.volumeId, client)).rejects.toThrow(VolumeError);
  await sandbox.kill();
  await volume.remove('/x', files);
  expect(await volume.exists('/x/1', files)).toBe(false);
  await expect(volume.remove('/', files)).rejects.toThrow('the volume itself');
  expect(await Volume.destroy(volume.volumeId, client)).toBe(true);
});

for (const version of CLIENT_VERSIONS) {
  requires('generators', pythonClient(version)).describe(`E2B’s Python client ${version}`, (client) => {
    it('writes, lists, reads and removes files of a volume', async () => {
      const script = join(E2B_CLIENTS_DIR, 'volumes.py');
      const { stdout, stderr } = await runWithClient(client, server, script, [], { E2B_VOLUME_API_URL: server.url });
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual({
        written: ['b.txt', '/a/b.txt', 5, 0o640, 1234, 'file'],
        made: ['/dir/deep', 'directory'],
        read: 'first',
        listed: ['/a', '/a/b.txt', '/dir', '/dir/deep'],
        exists: [true, false],
        set: 0o600,
        'in the sandbox': 'first',
        'while it runs': 'second\n',
        'its write': 'third',
        removed: false,
        destroyed: true,
      });
    });
  });
}

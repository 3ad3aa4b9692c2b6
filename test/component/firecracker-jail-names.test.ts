/** Attacks of a compromised VMM on names in its jail, made by a process with its user and root. Needs root. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { SharedRam } from '../../src/host/runtime/ram/shared-ram.ts';
import type { VmSpec } from '../../src/machine/vmm/driver.ts';
import { ApiClient } from '../../src/machine/vmm/firecracker/api-client.ts';
import type { JailSpec } from '../../src/machine/vmm/firecracker/jail/jailer.ts';
import { makeJailPlace, openJailPlace } from '../../src/machine/vmm/firecracker/jail/place.ts';
import type { Place } from '../../src/machine/vmm/firecracker/place.ts';
import { PipeReader } from '../../src/machine/vmm/firecracker/process/pipe-reader.ts';
import { createMemFd } from '../../src/sys/fd.ts';
import { makeFifo } from '../../src/sys/fifo.ts';
import { requiresRoot } from '../support/requires.ts';

const UID = 1_999_000_001;
const BINARY = '/usr/bin/firecracker';
/** Needs several reads to copy. */
const MEMORY_BYTES = 8 * 1024 * 1024;
const GOLDEN = 'golden'.repeat(1000);
const HTTP: RequestListener = (request, response) => {
  response.end(JSON.stringify({ asked: request.url }));
};

requiresRoot().describe('names in a jail of Firecracker', () => {
  let base: string;
  let golden: string;
  let spec: VmSpec;
  let jail: JailSpec;
  let place: Place;
  const descriptors: number[] = [];
  const servers: Server[] = [];

  beforeEach(async () => {
    base = mkdtempSync(join(tmpdir(), 'nv-names-'));
    const dir = join(base, 'vm');
    for (const made of [dir, join(base, 'jails')]) mkdirSync(made, { mode: 0o700 });
    golden = join(base, 'golden');
    writeFileSync(golden, GOLDEN, { mode: 0o644 });
    const overlayPath = join(dir, 'overlay');
    writeFileSync(overlayPath, 'disk', { mode: 0o640 });
    spec = {
      id: 'abc',
      dir,
      channelPath: join(dir, 'v'),
      overlayPath,
      kernelPath: golden,
      rootImagePath: golden,
      cpus: 1,
      memoryMib: 8,
      guestCid: 3,
      console: 'log',
    };
    jail = { jailer: '/usr/bin/jailer', baseDir: join(base, 'jails'), uid: UID, gid: UID };
    await listen(join(dir, 'v_1'));
    place = await makeJailPlace(spec, BINARY, jail);
    await place.provide('fc/root', golden, 'read');
  });
  afterEach(async () => {
    await place.release();
    for (const fd of descriptors.splice(0)) closeSync(fd);
    for (const server of servers.splice(0)) {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    }
    rmSync(base, { recursive: true, force: true });
  });

  const root = (): string => join(base, 'jails/firecracker/abc/root');

  async function listen(path: string): Promise<void> {
    const server = createServer(HTTP).listen(path);
    servers.push(server);
    await once(server, 'listening');
  }

  function memory(text: string): number {
    const fd = createMemFd('test', MEMORY_BYTES);
    descriptors.push(fd);
    writeSync(fd, text, 0);
    return fd;
  }

  function textIn(fd: number, bytes: number): string {
    const read = Buffer.alloc(bytes);
    readSync(fd, read, 0, bytes, 0);
    return read.toString();
  }

  const hostile = (python: string): string[] => [
    '-c',
    `import mmap, os, socket
os.chroot(${JSON.stringify(root())}); os.chdir('/'); os.setgroups([]); os.setgid(${UID}); os.setuid(${UID})
${python}`,
  ];

  /** Runs each line as the VMM. @returns the lines that the kernel allowed */
  function asVmm(...lines: string[]): string[] {
    const tries = lines.map((line) => `try:\n  ${line}; print(${JSON.stringify(line)})\nexcept OSError: pass`);
    const done = execFileSync('python3', hostile(tries.join('\n')), { encoding: 'utf8' });
    return done.split('\n').filter((line) => line !== '');
  }

  it('fc: the VMM cannot make, rename or remove files, and can open its own', async () => {
    const refused = [
      "os.rename('/fc/root', '/fc/memory')",
      "os.rename('/fc/root', '/fc/s/root')",
      "os.unlink('/fc/root')",
      "os.symlink('/x', '/fc/memory')",
      "os.mkfifo('/fc/memory')",
      "os.rename('/fc/s', '/fc/memory')",
      "os.open('/fc/root', os.O_RDWR)",
    ];
    const may = [
      "os.open('/fc/root', os.O_RDONLY)",
      "os.open('/fc/overlay', os.O_RDWR)",
      "socket.socket(socket.AF_UNIX).bind('/fc/s/a')",
    ];
    await place.provide('fc/overlay', spec.overlayPath, 'write');
    expect(asVmm(...refused, ...may)).toEqual(may);
  });

  it('shared RAM: the VMM maps it without a copy, and cannot change it, its rights or its names', async () => {
    writeFileSync(join(base, 'ram'), GOLDEN, { mode: 0o600 });
    mkdirSync(join(base, 'run'), { mode: 0o700 });
    const shared = new SharedRam(join(base, 'run'));
    const { path, close } = await (await shared.copy({ path: join(base, 'ram') })).open('us');
    expect(lstatSync(path)).toMatchObject({ uid: 0, mode: 0o100444, nlink: 1 });
    await place.provide('fc/memory', path, 'read');
    const { ino, nlink } = lstatSync(join(root(), 'fc/memory'));
    expect([ino, nlink]).toEqual([lstatSync(path).ino, 2]);
    const map = 'f = os.open("/fc/memory", os.O_RDONLY)';
    const may = [`${map}; m = mmap.mmap(f, 4096, mmap.MAP_PRIVATE, 3); m[0] = 1`];
    const refused = [
      "os.open('/fc/memory', os.O_RDWR)",
      "os.open('/fc/memory', os.O_WRONLY)",
      "os.open('/fc/memory', os.O_RDONLY | os.O_TRUNC)",
      "os.truncate('/fc/memory', 0)",
      "os.chmod('/fc/memory', 0o666)",
      `os.chown('/fc/memory', ${UID}, ${UID})`,
      "os.utime('/fc/memory')",
      "os.setxattr('/fc/memory', 'user.x', b'y')",
      "os.rename('/fc/memory', '/fc/s/memory')",
      "os.unlink('/fc/memory')",
      `${map}; mmap.mmap(f, 4096, mmap.MAP_SHARED, 3)`,
      `${map}; os.ftruncate(f, 0)`,
      `${map}; os.posix_fallocate(f, 0, 1 << 20)`,
      `${map}; os.write(f, b'evil')`,
    ];
    expect(asVmm(...may, ...refused)).toEqual(may);
    expect(readFileSync(path, 'utf8')).toBe(GOLDEN);
    expect(readFileSync(join(base, 'ram'), 'utf8')).toBe(GOLDEN);
    // The copy of a clone's RAM takes the name, not the file.
    await place.lendMemory(memory('own'));
    expect(lstatSync(path)).toMatchObject({ ino, nlink: 1, uid: 0, mode: 0o100444 });
    await close();
    await shared.close();
    await shared.close();
    expect(readdirSync(join(base, 'run'))).toEqual([]);
  });

  it('lendMemory: does not lend a file that takes the name during the copy', async () => {
    const from = join(root(), 'fc/root');
    const to = join(root(), 'fc/memory');
    const byVmm = (): string[] => asVmm("os.rename('/fc/root', '/fc/memory')");
    // The VMM can't write the directory; root tests the second wall.
    const byRoot = (): void => renameSync(from, to);
    for (const rename of [byVmm, byRoot]) {
      rmSync(to, { force: true });
      const lent = place.lendMemory(memory('x'.repeat(MEMORY_BYTES)));
      while (!existsSync(to)) await nextTurn();
      // The copy waits until this has ended.
      const done = rename();
      await lent;
      expect(lstatSync(golden).uid).toBe(0);
      if (rename === byVmm) expect(done).toEqual([]);
    }
    expect(asVmm("open('/fc/root', 'r+').write('evil')")).toEqual([]);
    expect(readFileSync(golden, 'utf8')).toBe(GOLDEN);
  });

  it('returnMemory: returns the lent file, whatever file has its name now', async () => {
    const path = join(root(), 'fc/memory');
    const other = memory('other');
    const plants = [
      () => symlinkSync(`/proc/self/fd/${other}`, path),
      () => makeFifo(path),
      () => linkSync(golden, path),
    ];
    for (const plant of plants) {
      const ours = memory('before');
      await place.lendMemory(ours);
      expect(asVmm("open('/fc/memory', 'r+').write('after!')")).toHaveLength(1);
      // The VMM can't write the directory; this is a second wall.
      rmSync(path);
      plant();
      await place.returnMemory(ours);
      expect(textIn(ours, 6)).toBe('after!');
      expect(existsSync(path)).toBe(false);
    }
    expect(readFileSync(golden, 'utf8')).toBe(GOLDEN);
  });

  it('returnMemory: refuses a file whose size has changed', async () => {
    const ours = memory('ours');
    for (const bytes of [4096, 2 * MEMORY_BYTES]) {
      await place.lendMemory(ours);
      asVmm(`os.truncate('/fc/memory', ${bytes})`);
      await expect(place.returnMemory(ours)).rejects.toThrow('sizes of the RAM differ');
    }
    expect(textIn(ours, 4)).toBe('ours');
  });

  it.each([
    ['a link to a socket of the host', (host: string) => symlinkSync(host, join(root(), 'fc/s/a'))],
    ['a listener of the host', () => asVmm("os.rename('/v_1', '/fc/s/a')")],
    ['a named pipe', () => asVmm("os.mkfifo('/fc/s/a')")],
    ['a file', () => asVmm("open('/fc/s/a', 'w')")],
  ])('the API: does not connect to %s in place of the socket', async (_, plant) => {
    await listen(join(base, 'host'));
    const asked: string[] = [];
    for (const server of servers) server.on('request', (request) => asked.push(`${request.url}`));
    plant(join(base, 'host'));
    const api = new ApiClient(() => place.apiPath(), systemClock);
    await expect(api.call({ method: 'GET', path: '/' })).rejects.toMatchObject({ code: 'vmm_command_failed' });
    expect(asked).toEqual([]);
  });

  it('the API: keeps the socket that it found first', async () => {
    const api = new ApiClient(() => place.apiPath(), systemClock);
    const call = { method: 'GET', path: '/vm' } as const;
    await expect(api.call(call)).rejects.toMatchObject({ code: 'vm_gone' });
    await listen(join(root(), 'fc/s/a'));
    expect(await api.call(call)).toEqual({ asked: '/vm' });
    await listen(join(base, 'host'));
    rmSync(join(root(), 'fc/s/a'));
    symlinkSync(join(base, 'host'), join(root(), 'fc/s/a'));
    const asked: string[] = [];
    servers.at(-1)?.on('request', (request) => asked.push(`${request.url}`));
    expect(await api.call(call)).toEqual({ asked: '/vm' });
    expect(asked).toEqual([]);
  });

  it('connectChannel: does not connect to a link, a file or a listener of the host', async () => {
    const plants = [
      () => symlinkSync(join(base, 'vm/v_1'), join(root(), 'v')),
      () => asVmm("open('/v', 'w')"),
      () => asVmm("os.rename('/v_1', '/v')"),
    ];
    for (const plant of plants) {
      plant();
      await expect(place.connectChannel()).rejects.toMatchObject({ code: 'vmm_start_failed' });
      expect(existsSync(spec.channelPath)).toBe(false);
      rmSync(join(root(), 'v'));
    }
  });

  it('provide: does not lend a hard link, a symbolic link or a pipe for writing', async () => {
    linkSync(golden, join(base, 'second'));
    const wrong = [golden, join(base, 'link'), join(base, 'pipe')];
    symlinkSync(golden, join(base, 'link'));
    makeFifo(join(base, 'pipe'));
    for (const path of wrong) {
      await expect(place.provide('fc/state', path, 'write')).rejects.toMatchObject({ code: 'vmm_start_failed' });
    }
    expect(lstatSync(golden).uid).toBe(0);
    expect(existsSync(join(root(), 'fc/state'))).toBe(false);
  });

  it('withdraw: restores owner and mode of the file, whatever its name', async () => {
    await place.provide('fc/overlay', spec.overlayPath, 'write');
    asVmm("os.chmod('/fc/overlay', 0o4777)", "os.link('/fc/overlay', '/kept')");
    await place.withdraw('fc/overlay');
    expect(lstatSync(spec.overlayPath)).toMatchObject({ uid: 0, gid: 0, mode: 0o100640 });
    expect(asVmm("os.open('/kept', os.O_RDONLY)")).toEqual([]);
  });

  it('release: ends processes of the VMM before it removes the directory', async () => {
    const script = hostile("print('ready', flush=True)\nimport time; time.sleep(600)");
    const child = spawn('python3', script, { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(child, 'exit');
    try {
      await once(child.stdout, 'data');
      await place.release();
    } finally {
      child.kill('SIGTERM');
    }
    expect(await ended).toEqual([null, 'SIGKILL']);
    expect(existsSync(root())).toBe(false);
  });

  it('openJailPlace: does not take over a jail whose fc the VMM has made', async () => {
    expect(asVmm("os.rename('/fc', '/old')", "os.mkdir('/fc')")).toHaveLength(2);
    const { takeOver } = await openJailPlace(spec, BINARY, jail);
    await expect(takeOver()).rejects.toMatchObject({
      code: 'vmm_start_failed',
      cause: expect.stringContaining('the host does not own'),
    });
  });

  it('PipeReader: reads only a named pipe', () => {
    const path = join(base, 'file');
    writeFileSync(path, 'of the host');
    const make = (): PipeReader => new PipeReader(path, () => undefined);
    expect(make).toThrow('not a named pipe');
  });
});

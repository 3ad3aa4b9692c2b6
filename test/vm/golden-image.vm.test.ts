/**
 * The golden image is the same file for all sandboxes, so no guest may change it (R-G-5, S5, S7): root of one
 * guest tries every way to write, then the file is hashed in full and a second sandbox looks at it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digestFile } from '../../src/image/verify.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { exec, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
let sandbox: Supervisor;
let digestBefore: string;

beforeAll(async () => {
  digestBefore = await digestFile(fixture.runtime.artifacts.rootImagePath);
  sandbox = await fixture.runtime.startVm({ memoryMib: 256, diskMib: 64 });
});
afterAll(() => sandbox.stop());

/** BLKROSET (linux/fs.h) asks the kernel to forget that the device is read-only. */
const ATTACKS: Readonly<Record<string, string>> = {
  'plain write': `
fd = os.open('/dev/vda', os.O_WRONLY)
os.write(fd, b'x' * 4096)
os.fsync(fd)`,
  'write after BLKROSET': `
import fcntl, struct
fd = os.open('/dev/vda', os.O_RDONLY)
fcntl.ioctl(fd, 0x125D, struct.pack('i', 0))
fd = os.open('/dev/vda', os.O_RDWR)
os.pwrite(fd, b'x' * 4096, 1024)
os.fsync(fd)`,
  'write past the page cache': `
import mmap
page = mmap.mmap(-1, 4096)
page.write(b'x' * 4096)
fd = os.open('/dev/vda', os.O_RDWR | os.O_DIRECT)
os.writev(fd, [page])`,
  'shared mapping': `
import mmap
fd = os.open('/dev/vda', os.O_RDWR)
page = mmap.mmap(fd, 4096, mmap.MAP_SHARED)
page[:8] = b'hostile!'
page.flush()`,
  discard: `
import fcntl, struct
fd = os.open('/dev/vda', os.O_RDWR)
fcntl.ioctl(fd, 0x1277, struct.pack('QQ', 0, 4096))`,
};

describe('the golden image', () => {
  it.each(Object.entries(ATTACKS))(
    'a guest’s root user can not write to it: %s',
    async (_, attack) => {
      const program = `import os\n${attack}\nprint('WRITTEN')`;
      const outcome = await exec(sandbox.guest(), ['python3', '-c', program], { user: 'root' });
      expect(outcome.stdout).toBe('');
      expect(outcome.exitCode).not.toBe(0);
      expect(outcome.stderr).toMatch(/OSError|PermissionError/);
    },
  );

  it('it can not be mounted for writing', async () => {
    const script = `
mkdir /tmp/image
mount -o rw -t erofs /dev/vda /tmp/image && touch /tmp/image/probe && echo WRITTEN
mount -o ro -t erofs /dev/vda /tmp/image && echo mounted
mount -o remount,rw /tmp/image && echo WRITTEN
touch /tmp/image/probe && echo WRITTEN
true`;
    const outcome = await exec(sandbox.guest(), ['sh', '-c', script], { user: 'root' });
    expect(outcome.stdout).toBe('mounted\n');
    expect(outcome.stderr).toMatch(/write-protected.*Read-only/s);
  });

  it('it is bit-identical after attacks, and no guest sees the writes of another', async () => {
    const own = 'echo mine > /usr/lib/probe && rm /etc/hostname && sync';
    expect(await exec(sandbox.guest(), ['sh', '-c', own], { user: 'root' })).toMatchObject({
      exitCode: 0,
    });
    const { rootImagePath, rootImageDigest } = fixture.runtime.artifacts;
    expect(digestBefore).toBe(rootImageDigest);
    expect(await digestFile(rootImagePath)).toBe(rootImageDigest);
    const sibling = await fixture.runtime.startVm({ memoryMib: 256, diskMib: 64 });
    try {
      const look = 'ls /usr/lib/probe; test -e /etc/hostname && echo clean';
      const outcome = await exec(sibling.guest(), ['sh', '-c', look], { user: 'root' });
      expect(outcome.stdout).toBe('clean\n');
    } finally {
      await sibling.stop();
    }
  });
});

describe('the guest', () => {
  it('it has the requested kernel and limits (R-G-1, R-G-2)', async () => {
    const script =
      'cat /proc/cmdline; ls /proc/modules /proc/kallsyms /dev/mem /proc/kcore 2>&1; id';
    const outcome = await exec(sandbox.guest(), ['sh', '-c', script], { user: 'user' });
    const [cmdline, ...rest] = outcome.stdout.split('\n');
    expect(cmdline).toMatch(/(^| )ro( |$)/);
    expect(rest.filter((line) => line.includes('No such file'))).toHaveLength(4);
    expect(rest.join()).toContain('uid=1000(user)');
  });

  it('it imports NumPy and LangChain without a network (R-G-7)', async () => {
    const program = 'import numpy, langchain, langchain_openai; print(numpy.ones(3).sum())';
    const outcome = await exec(sandbox.guest(), ['python3', '-c', program], { user: 'user' });
    expect(outcome).toMatchObject({ exitCode: 0, stdout: '3.0\n' });
  });
});

/** Programs in an image that is not ours: its users, its Python or none, whatever it has in the places that we need. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SandboxEnvironment } from '../../src/sandbox/contract/environment.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { requires } from '../support/requires.ts';
import { exec, python, SMALL, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
const dir = mkdtempSync(join(tmpdir(), 'nv-environments-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Static, without a shell beside it; set-up installs it for the tests. */
const BUSYBOX = '/bin/busybox';
/** cap_chown, permitted and effective (linux/capability.h: struct vfs_cap_data, revision 2). */
const CAP_CHOWN = '0x0100000201000000000000000000000000000000';

/** Without a shell, Python, /bin or /tmp, and with traps in the places that init mounts over or the agent reads. */
function oddImage(): string {
  const root = join(dir, 'odd');
  mkdirSync(join(root, 'etc/hosts'), { recursive: true });
  cpSync(BUSYBOX, join(root, 'busybox'), { dereference: true });
  // The name says which program of it runs.
  cpSync(join(root, 'busybox'), join(root, 'capable/busybox'));
  execFileSync('python3', [
    '-c',
    'import os, sys; os.setxattr(sys.argv[1], "security.capability", bytes.fromhex(sys.argv[2][2:]))',
    join(root, 'capable/busybox'),
    CAP_CHOWN,
  ]);
  writeFileSync(join(root, 'etc/users'), `app:x:1234:1234::/srv/home\n`);
  symlinkSync('../../../../etc/users', join(root, 'etc/passwd'));
  writeFileSync(join(root, 'etc/group'), `tools:x:77:app\n`);
  symlinkSync('/etc', join(root, 'proc'));
  symlinkSync('../../../../run/disk', join(root, 'run'));
  symlinkSync('/busybox', join(root, 'dev'));
  symlinkSync('/nowhere', join(root, 'sys'));
  symlinkSync('/etc/users', join(root, 'etc/machine-id'));
  const image = join(dir, 'odd.erofs');
  execFileSync('mkfs.erofs', ['--quiet', image, root]);
  return image;
}

async function start(path: string, more: Partial<SandboxEnvironment>): Promise<Supervisor> {
  const digest = `sha256:${'a'.repeat(64)}`;
  const environment: SandboxEnvironment = {
    image: 'test:1',
    imageDigest: digest,
    digest,
    user: '',
    workdir: '',
    env: {},
    entrypoint: [],
    cmd: [],
    exposedPorts: [],
    stopSignal: '',
    ...more,
  };
  const { runtime } = fixture;
  const spec = runtime.makeSpec({ ...SMALL, warm: [], environment });
  const sandbox = runtime.supervise(spec, { linkEnvironment: async (target) => linkSync(path, target) });
  await sandbox.start();
  return sandbox;
}

describe('an image without a shell, a Python and our directories', () => {
  let sandbox: Supervisor;
  beforeAll(async () => {
    sandbox = await start(oddImage(), { user: 'app:tools', workdir: '/made/deep', env: { PATH: '/none:/' } });
  });
  afterAll(() => sandbox.stop());
  const busybox = async (...argv: string[]): Promise<string> =>
    (await exec(sandbox.guest(), ['busybox', ...argv])).stdout;

  it('programs run as the image’s user, in its working directory and PATH', async () => {
    expect(sandbox.guest().info.problems).toEqual([]);
    expect(await busybox('id')).toMatch(/^uid=1234(\(app\))? gid=77(\(tools\))?( groups=77(\(tools\))?)?\n$/);
    expect(await busybox('pwd')).toBe('/made/deep\n');
    const env = await busybox('env');
    expect(env).toContain('HOME=/srv/home\n');
    expect(env).toContain('PATH=/none:/\n');
  });

  it.each([
    ['0', /^uid=0 gid=0/],
    ['4242', /^uid=4242 gid=0/],
    ['4242:77', /^uid=4242 gid=77/],
    ['1234', /^uid=1234\(?.*gid=1234/],
  ])('user %s', async (user, expected) => {
    const process = await exec(sandbox.guest(), ['busybox', 'id'], { user });
    expect(process.stdout).toMatch(expected);
    await expect(sandbox.guest().exec({ argv: ['busybox'], user: 'nobody' })).rejects.toMatchObject({
      code: 'not_found',
    });
  });

  it('identity, kernel file systems and a narrow /dev are in place, whatever the image has there', async () => {
    expect(await busybox('cat', '/etc/hosts')).toContain(sandbox.spec.hostname);
    expect(await busybox('cat', '/etc/machine-id')).toMatch(/^[0-9a-f]{32}\n$/);
    expect(await busybox('cat', '/proc/1/comm')).toBe('neurovisor-init\n');
    expect(await busybox('ls', '/dev')).not.toMatch(/vd[abc]/);
    expect(await busybox('ls', '/sys/class')).toContain('net');
    expect(await busybox('stat', '-c', '%a %u', '/tmp')).toBe('1777 0\n');
    expect(await busybox('dd', 'if=/dev/zero', 'of=/dev/null', 'count=1')).toBe('');
  });

  it('files and terminals', async () => {
    const { files } = sandbox.guest();
    await files.write('/tmp/own', 'text');
    expect(await files.stat('/tmp/own')).toMatchObject({ owner: 'app', group: 'tools' });
    await expect(files.write('own', 'text')).rejects.toMatchObject({ code: 'permission_denied' });
    const terminal = await sandbox.guest().exec({ argv: ['busybox', 'tty'], pty: { cols: 80, rows: 24 } });
    const [text] = (await terminal.stdout.take(1).toArray()) as Buffer[];
    expect(`${text}`).toContain('/dev/pts/');
    await terminal.exit;
  });

  it('a script is refused with the remedy', async () => {
    for (const script of [{ code: 'print(1)' }, { code: 'print(1)', name: 'a.py' }]) {
      await expect(sandbox.guest().python({ script })).rejects.toMatchObject({
        code: 'not_found',
        message: expect.stringContaining('no Python 3.10 or newer: use exec'),
      });
    }
  });

  it('capabilities of the image’s files count', async () => {
    await sandbox.guest().files.write('/tmp/given', 'text');
    expect(await exec(sandbox.guest(), ['/busybox', 'chown', '5', '/tmp/given'])).toMatchObject({ exitCode: 1 });
    expect(await exec(sandbox.guest(), ['/capable/busybox', 'chown', '5', '/tmp/given'])).toMatchObject({
      exitCode: 0,
    });
  });
});

/** Its python3 says that it is warm, leaves a process behind, and answers nothing. */
const SILENT_PYTHON = `#!/busybox sh
case "$*" in
*fork-server*)
  busybox sleep 1000 &
  for n in $(busybox seq 500); do echo flood >&2; done
  echo '{"type":"warm","modules":[]}' >&3
  exec busybox sleep 1000 ;;
*) echo cold; exit 3 ;;
esac
`;

function hostileImage(): string {
  const root = join(dir, 'hostile');
  mkdirSync(join(root, 'srv/etc'), { recursive: true });
  cpSync(BUSYBOX, join(root, 'busybox'), { dereference: true });
  writeFileSync(join(root, 'python3'), SILENT_PYTHON, { mode: 0o755 });
  symlinkSync('/srv/etc', join(root, 'etc'));
  for (const name of ['tmp', '.cargo']) writeFileSync(join(root, name), 'a file');
  execFileSync('mkfifo', [join(root, 'run'), join(root, 'sys')]);
  execFileSync('mknod', [join(root, 'dev'), 'b', '254', '0']);
  const image = join(dir, 'hostile.erofs');
  execFileSync('mkfs.erofs', ['--quiet', image, root]);
  return image;
}

describe('a hostile image', () => {
  let sandbox: Supervisor;
  beforeAll(async () => {
    sandbox = await start(hostileImage(), { workdir: '/../..', env: { PATH: '/' } });
  });
  afterAll(() => sandbox.stop());
  const sh = async (code: string): Promise<string> =>
    (await exec(sandbox.guest(), ['busybox', 'sh', '-c', code])).stdout;

  it('files, pipes and devices in the places of our mounts are hidden', async () => {
    expect(await sh('pwd; busybox stat -c "%F %a" /tmp /run /dev /sys')).toBe(
      '/\ndirectory 1777\ndirectory 755\ndirectory 755\ndirectory 555\n',
    );
    expect(await sh('busybox cat /etc/hostname')).toBe(`${sandbox.spec.hostname}\n`);
  });

  it('a Python that answers nothing is replaced, and its script fails', async () => {
    await expect(sandbox.guest().python({ script: { code: '' } })).rejects.toMatchObject({
      code: 'guest_failed',
      message: expect.stringContaining('fork server'),
    });
    expect(await sh('echo ran')).toBe('ran\n');
  });

  it('signals to process 1 of the room change nothing', async () => {
    await sh('kill -STOP 1; kill -KILL 1; (busybox sleep 0 &)');
    expect(await sh('busybox ps -o stat,comm | busybox grep -c "^Z"')).toBe('0\n');
  });

  it('root that puts pipes in the agent’s files, and unmounts them, loses only the files that it broke', async () => {
    await sh(
      'cd /run/neurovisor; for n in hosts hostname machine-id resolv.conf; do busybox rm -f $n; busybox mkfifo $n; done; ' +
        'busybox umount scripts agent; busybox rmdir scripts agent',
    );
    expect(await sh('echo ran')).toBe('ran\n');
    await sandbox.guest().update({ env: { PATH: '/', A: 'b' } });
    expect(await sh('echo $A')).toBe('b\n');
  });
});

const MUSL_LOADER = `/lib/ld-musl-${process.arch === 'x64' ? 'x86_64' : 'aarch64'}.so.1`;
const musl = existsSync('/usr/bin/musl-gcc') && existsSync(MUSL_LOADER);

/** Without glibc, a shell, /etc and /usr: musl's loader, and a program in two forms. */
function muslImage(): string {
  const root = join(dir, 'musl');
  mkdirSync(join(root, 'lib'), { recursive: true });
  copyFileSync(MUSL_LOADER, join(root, MUSL_LOADER));
  const source = join(import.meta.dirname, '../fixtures/image-program.c');
  execFileSync('musl-gcc', ['-o', join(root, 'dynamic'), source]);
  execFileSync('musl-gcc', ['-static', '-o', join(root, 'static'), source]);
  const image = join(dir, 'musl.erofs');
  execFileSync('mkfs.erofs', ['--quiet', image, root]);
  return image;
}

requires('musl', musl || 'musl-gcc is missing: apt-get install musl-tools').describe(
  'an image of musl without glibc and accounts',
  () => {
    let sandbox: Supervisor;
    beforeAll(async () => {
      sandbox = await start(muslImage(), { env: { PATH: '/', MODE: 'set' } });
    });
    afterAll(() => sandbox.stop());

    it.each(['dynamic', 'static'])('a %s program runs, also as a user without an account', async (program) => {
      const guest = sandbox.guest();
      expect(guest.info.problems).toEqual([]);
      expect(await exec(guest, [program, 'who'])).toMatchObject({ stdout: '0:0 / set\n', stderr: '' });
      const other = await exec(guest, [program, 'who'], { user: '4242:77' });
      expect(other.stdout).toBe('4242:77 / set\n');
      const hosts = await exec(guest, [program, 'read', '/etc/hosts']);
      expect(hosts.stdout).toContain(sandbox.spec.hostname);
    });

    it('a script is refused with the remedy', async () => {
      await expect(sandbox.guest().python({ script: { code: 'print(1)' } })).rejects.toMatchObject({
        code: 'not_found',
        message: expect.stringContaining('no Python 3.10 or newer: use exec'),
      });
    });
  },
);

describe('an image with a Python', () => {
  let sandbox: Supervisor;
  beforeAll(async () => {
    sandbox = await start(fixture.runtime.artifacts.rootImagePath, { user: 'daemon', workdir: 'srv/app' });
  });
  afterAll(() => sandbox.stop());

  it('scripts run warm on it, as its user and in its working directory', async () => {
    const guest = sandbox.guest();
    const code = 'import os, sys; print(sys.executable, os.getcwd(), os.getuid(), os.path.isdir("/dev/pts"))';
    const warm = await guest.python({ script: { code } });
    expect(warm.warm).toBe(true);
    const [line] = (await warm.stdout.take(1).toArray()) as Buffer[];
    expect(`${line}`).toBe('/usr/bin/python3 /srv/app 1 True\n');
    await warm.exit;
    const named = await guest.python({ script: { code: 'print(__file__)', name: 'a.py' } });
    const [file] = (await named.stdout.take(1).toArray()) as Buffer[];
    expect(`${file}`).toMatch(/^\/run\/neurovisor\/scripts\/\d+\/a\.py\n$/);
    await named.exit;
    const home = await python(guest, 'import os; print(os.path.expanduser("~"))', { user: 'user' });
    expect(home).toMatchObject({ stdout: '/home/user\n', stderr: '' });
  });
});

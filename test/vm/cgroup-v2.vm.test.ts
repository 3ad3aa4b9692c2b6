/**
 * The jail's control groups on a real hierarchy of version 2. The kernel of a guest has one with memory, pids and cpu,
 * which the machine that tests run on may not; so Node.js and the sources go into a guest and run there as root.
 */
import { execFileSync } from 'node:child_process';
import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { exec, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
const ROOT = join(import.meta.dirname, '../..');
const FIXTURES = ['test/fixtures/cgroup-v2.ts', 'test/fixtures/cgroup-delegated.ts'];
/** `src/sys` calls the C library through it. */
const KOFFI = ['node_modules/koffi', 'node_modules/@koromix'];
const SOURCES = ['src/base', 'src/machine/jail', 'src/sys', 'package.json', ...KOFFI, ...FIXTURES];
/** As systemd does for a unit with `User=` and `Delegate=yes`; a shell in the group starts its arguments. */
const DELEGATED = `
group=/sys/fs/cgroup/nv.service
mkdir $group
chown 1500 $group $group/cgroup.procs $group/cgroup.threads $group/cgroup.subtree_control
chmod -R a+rX /opt
echo $$ > $group/cgroup.procs
exec setpriv --reuid 1500 --regid 1500 --clear-groups sh -c '"$@"; exit $?' sh "$@"
`;
/** 150 MB go into the guest, and Node.js is emulated there: a minute, and many on a busy machine. */
const TEST_MS_MAX = 900_000;

/** The program that runs these tests, with the loader and libraries that it has here. */
function libraries(): string[] {
  const listed = execFileSync('ldd', [process.execPath], { encoding: 'utf8' });
  return [...listed.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path);
}

it(
  'Cgroups: on cgroup v2, limits apply, processes end with their group, leftovers are removed, and a delegated group is emptied',
  async () => {
    const sandbox = await fixture.runtime.startVm({ memoryMib: 768, diskMib: 512 });
    const dir = mkdtempSync(join(tmpdir(), 'nv-cgroup-v2-'));
    try {
      const archive = join(dir, 'archive');
      const files = [process.execPath, ...libraries()];
      const bin = files.flatMap((path) => ['-C', dirname(path), basename(path)]);
      // What is a link is the file there.
      execFileSync('tar', ['-chf', archive, '-C', ROOT, ...SOURCES, ...bin]);
      const guest = sandbox.guest();
      await guest.files.write('/opt/archive', createReadStream(archive), { user: 'root' });
      const root = { user: 'root' };
      const unpacked = await exec(guest, ['tar', '-xf', '/opt/archive', '-C', '/opt'], root);
      expect(unpacked).toMatchObject({ exitCode: 0, stderr: '' });
      const loader = files.map((path) => basename(path)).find((name) => /^ld-/.test(name));
      const node = [`/opt/${loader}`, '--library-path', '/opt', `/opt/${basename(process.execPath)}`];
      const { stdout, stderr } = await exec(guest, [...node, '/opt/test/fixtures/cgroup-v2.ts'], root);
      expect(stderr).toBe('');
      const seen = JSON.parse(stdout);
      expect(seen).toEqual({
        own: expect.stringMatching(/^\/sys\/fs\/cgroup\/user\/p\d+$/),
        mount: '/sys/fs/cgroup',
        controllers: ['cpu', 'memory', 'pids'],
        missing: null,
        // Above the group of the program: that one has processes.
        dir: expect.stringMatching(/^\/sys\/fs\/cgroup\/user\/neurovisor\/vm\.\d+\.\d+$/),
        settings: [String(48 * MIB), '1', '6', '100000 100000'],
        isLeft: false,
        little: { words: 'ate 16', ended: [], wasKilled: false, besideEnd: 'SIGKILL' },
        // memory.oom.group: who is beside it is killed with it.
        much: { words: 'nothing', ended: ['SIGKILL', 'SIGKILL'], wasKilled: true, besideEnd: 'SIGKILL' },
        fork: { words: 'made 5', populated: 'populated 1', end: 'SIGKILL', isLeft: false },
        reclaim: { count: 1, names: ['foreign', 'mine'], end: 'SIGKILL' },
      });
      const service = await exec(
        guest,
        ['sh', '-ec', DELEGATED, 'sh', ...node, '/opt/test/fixtures/cgroup-delegated.ts'],
        root,
      );
      expect(service.stderr).toBe('');
      expect(JSON.parse(service.stdout)).toEqual({
        uid: 1500,
        dir: '/sys/fs/cgroup/nv.service',
        missing: [null, null],
        leaf: '/sys/fs/cgroup/nv.service/neurovisor-self',
        left: [],
        moved: true,
        vm: expect.stringMatching(/^\/sys\/fs\/cgroup\/nv\.service\/neurovisor\/vm\.\d+\.\d+$/),
        memory: String(48 * MIB),
        isLimited: true,
        isLeft: false,
      });
    } finally {
      rmSync(dir, { recursive: true });
      await sandbox.stop();
    }
  },
  TEST_MS_MAX,
);

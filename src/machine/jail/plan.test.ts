import { describe, expect, it } from 'vitest';
import { checkPlan, type JailFile, jailCommand } from './plan.ts';
import { parseUidRange } from './user-ids.ts';

const tools = { bwrap: '/b', setpriv: '/s', nsenter: '/n', unshare: '/u', mount: '/m', sh: '/sh' };
const user = { namespacePath: '/proc/1/fd/5', stageDir: '/run/x', tablePath: '/d/mounts.x' };
const tree = { dir: '/t/tree', entries: ['lib', 'usr'] };
const fds = { info: 6, block: 7, seccomp: 8 };

describe('jailCommand', () => {
  const plan = {
    id: 'x',
    argv: ['/usr/bin/qemu', '--bind', '/', '/'],
    files: [
      { path: '/k', access: 'read' },
      { path: '/d/disk', access: 'write' },
      { path: '/dev/kvm', access: 'device' },
    ],
  } as const;
  it('jailCommand: with a user of its own, drops all capabilities before the program', () => {
    const words = jailCommand(plan, { tools, tree, user, fds, owner: 7 });
    expect(words[0]).toBe('/u');
    const at = words.indexOf('/n');
    expect(words.slice(at, at + 7)).toEqual(['/n', '--user=/proc/1/fd/5', '--setuid', '0', '--setgid', '0', '--']);
    expect(words).toContain('--bounding-set');
    expect(words).not.toContain('--unshare-user');
  });
  it.each([
    [null, ['/k', '/d/disk', '/dev/kvm', '/t/tree/usr']],
    [user, ['/run/x/f0', '/run/x/f1', '/dev/kvm', '/run/x/tree/usr']],
  ])('jailCommand: no argument of the program is parsed as an option of the jail (%o)', (user, sources) => {
    const words = jailCommand(plan, { tools, tree, user, fds, owner: 7 });
    expect(words.slice(words.lastIndexOf('--'))).toEqual(['--', ...plan.argv]);
    const own = words.slice(words.indexOf('/b'), words.lastIndexOf('--'));
    expect(own.filter((word) => word === '--bind')).toHaveLength(1);
    const after = (path: string): string | undefined => own[own.indexOf(path) - 1];
    expect(sources.map(after)).toEqual(['--ro-bind', '--bind', '--dev-bind', '--ro-bind']);
    for (const word of ['--die-with-parent', '--unshare-net', '--unshare-pid', '--clearenv', '--new-session']) {
      expect(own).toContain(word);
    }
    expect(own.indexOf('--remount-ro')).toBeGreaterThan(own.indexOf('/dev/kvm'));
  });
  it('jailCommand: one that outlives its owner is tied until bubblewrap runs, which waits for its limits', () => {
    const words = jailCommand({ ...plan, outlives: true }, { tools, tree, user, fds, owner: 7 });
    expect(words).not.toContain('--die-with-parent');
    expect(words.indexOf('--pdeathsig')).toBeGreaterThan(0);
    expect(words[words.indexOf('--pdeathsig') + 1]).toBe('KILL');
    const at = words.indexOf('/b');
    expect(words.slice(at - 4, at)).toEqual(['/s', '--pdeathsig', 'clear', '--']);
    expect(words.slice(at)).toContain('--block-fd');
  });
  it('jailCommand: shows files at other paths, in order, and starts in its directory', () => {
    const files: JailFile[] = [
      { path: '/d/own', at: '/vm', access: 'own' },
      { path: '/d/fc', at: '/vm/fc', access: 'tree' },
    ];
    const plan = { id: 'x', argv: ['/p'], cwd: '/vm', files };
    const words = jailCommand(plan, { tools, tree, user: null, fds, owner: 7 }).join(' ');
    expect(words).toContain('--bind /d/own /vm --ro-bind /d/fc /vm/fc --remount-ro / --chdir /vm --');
  });
});

describe('checkPlan', () => {
  const plan = { id: 'x', argv: ['/p'], stdio: [], dir: '/d', memoryMib: 1, cpus: 1 } as const;
  const check = (file: JailFile): void => checkPlan({ ...plan, files: [file] });
  it('checkPlan: accepts a writable directory only inside the VM’s own', () => {
    expect(() => check({ path: '/d/own', at: '/vm', access: 'own' })).not.toThrow();
    expect(() => check({ path: '/d', at: '/vm', access: 'own' })).toThrow(/with this files/);
    expect(() => check({ path: '/etc', at: '/vm', access: 'own' })).toThrow(/with this files/);
    expect(() => check({ path: '/d/../etc', at: '/vm', access: 'own' })).toThrow(/with this files/);
  });
  it('checkPlan: refuses paths in the jail that are not plain', () => {
    expect(() => check({ path: '/k', at: '/vm/../k', access: 'read' })).toThrow(/with this files/);
    expect(() => checkPlan({ ...plan, files: [], cwd: '--bind' })).toThrow(/with this directory/);
  });
});

describe('parseUidRange', () => {
  it('parseUidRange: accepts ranges of unused uids', () => {
    expect(parseUidRange('1900000000:4096')).toEqual({ first: 1_900_000_000, count: 4096 });
  });
  it.each([
    '0:10',
    '999:1',
    '65530:10',
    '65534:1',
    '4294967295:1',
    '4294967294:2',
    '5000:0',
    '5000:99999',
    '5000',
    'a:b',
    '-1:5',
    '1:2:3',
    '',
  ])('parseUidRange: refuses %j', (text) => {
    expect(parseUidRange(text)).toBeUndefined();
  });
});

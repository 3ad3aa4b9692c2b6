import { describe, expect, it } from 'vitest';
import { jailCommand } from './plan.ts';
import { parseUidRange } from './user-ids.ts';

const tools = {
  bwrap: '/b',
  setpriv: '/s',
  nsenter: '/n',
  unshare: '/u',
  mount: '/m',
  sh: '/sh',
};
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
    expect(words.slice(at, at + 7)).toEqual([
      '/n',
      '--user=/proc/1/fd/5',
      '--setuid',
      '0',
      '--setgid',
      '0',
      '--',
    ]);
    expect(words).toContain('--bounding-set');
    expect(words).not.toContain('--unshare-user');
  });
  it.each([
    [null, ['/k', '/d/disk', '/dev/kvm', '/t/tree/usr']],
    [user, ['/run/x/f0', '/run/x/f1', '/dev/kvm', '/run/x/tree/usr']],
  ])('jailCommand: nothing of the program is an option of the jail (%o)', (user, sources) => {
    const words = jailCommand(plan, { tools, tree, user, fds, owner: 7 });
    expect(words.slice(words.lastIndexOf('--'))).toEqual(['--', ...plan.argv]);
    const own = words.slice(words.indexOf('/b'), words.lastIndexOf('--'));
    expect(own.filter((word) => word === '--bind')).toHaveLength(1);
    const after = (path: string): string | undefined => own[own.indexOf(path) - 1];
    expect(sources.map(after)).toEqual(['--ro-bind', '--bind', '--dev-bind', '--ro-bind']);
    for (const word of [
      '--die-with-parent',
      '--unshare-net',
      '--unshare-pid',
      '--clearenv',
      '--new-session',
    ]) {
      expect(own).toContain(word);
    }
    expect(own.indexOf('--remount-ro')).toBeGreaterThan(own.indexOf('/dev/kvm'));
  });
});

describe('parseUidRange', () => {
  it('parseUidRange: takes ranges of unused uids', () => {
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

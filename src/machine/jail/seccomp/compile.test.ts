import { describe, expect, it } from 'vitest';
import { disassemble } from '../../../../tools/seccomp/disassemble.ts';
import { compileProfile } from './compile.ts';
import { parseProfile, type ThreadFilter, withMode } from './profile.ts';

function filter(entries: readonly object[], actions: object = {}): ThreadFilter {
  const thread = { default_action: 'kill_process', filter_action: 'allow', filter: entries, ...actions };
  const [first] = parseProfile(JSON.stringify({ qemu: thread })).values();
  if (first === undefined) throw new Error('no thread');
  return first;
}

const listing = (profile: ThreadFilter, arch: 'x86_64' | 'aarch64' = 'x86_64'): string[] =>
  disassemble(compileProfile(profile, arch).program);

const argument = (op: string, val: number, index = 1, type = 'dword') => ({ index, type, op, val });

describe('compileProfile', () => {
  it('checks the architecture, then searches; merges neighbors with the same result', () => {
    const names = ['read', 'write', 'open', 'close'];
    const entries = names.map((syscall) => ({ syscall }));
    expect(listing(filter(entries, { default_action: 'trap' }))).toEqual([
      'A = arch',
      'if A == 0xc000003e goto 2 else 5',
      'A = number',
      'if A >= 0x4 goto 4 else 6',
      'if A >= 0x40000000 goto 5 else 7',
      'return kill_process',
      'return allow',
      'return trap',
    ]);
    // If the default equals the result for x32, that costs nothing.
    expect(listing(filter(entries))).toHaveLength(6);
  });

  it('compares arguments in place, loads each half once, and shares equal rules', () => {
    const args = (...values: number[]) => values.map((val) => ({ args: [argument('eq', val)] }));
    const entries = ['ioctl', 'fcntl'].flatMap((syscall) => args(1, 2).map((each) => ({ syscall, ...each })));
    const lines = listing(filter(entries));
    expect(lines.filter((line) => line === 'A = low half of argument 1')).toHaveLength(1);
    expect(lines.filter((line) => line.startsWith('if A == 0x'))).toHaveLength(3);
  });

  it('uses the call numbers of the requested architecture', () => {
    const lines = listing(filter([{ syscall: 'openat' }]), 'aarch64');
    expect(lines.slice(0, 4)).toEqual([
      'A = arch',
      'if A == 0xc00000b7 goto 2 else 5',
      'A = number',
      'if A >= 0x38 goto 4 else 5',
    ]);
    expect(lines.join('\n')).not.toContain('0x40000000');
    const open = filter([{ syscall: 'open' }]);
    expect(() => compileProfile(open, 'aarch64')).toThrow('thread "qemu": no system call "open" on aarch64');
  });

  it('uses the first matching entry, and ignores entries after one without arguments', () => {
    const deny = { action: { errno: 1 }, args: [argument('gt', 5)] };
    const first = filter([
      { syscall: 'ioctl', ...deny },
      { syscall: 'ioctl' },
      { syscall: 'ioctl', args: [argument('eq', 3)] },
    ]);
    const alone = filter([{ syscall: 'ioctl', ...deny }, { syscall: 'ioctl' }]);
    expect(listing(first)).toEqual(listing(alone));
    expect(listing(alone)).toContain('return errno 1');
  });

  it('refuses a program that is too long for the kernel', () => {
    const entries = Array.from({ length: 2300 }, (_, val) => ({ syscall: 'ioctl', args: [argument('eq', val)] }));
    expect(() => compileProfile(filter(entries), 'x86_64')).toThrow(
      /needs \d+ instructions, but the kernel accepts at most 4096/,
    );
    const { instructions } = compileProfile(filter(entries.slice(0, 2000)), 'x86_64');
    expect(instructions).toBeLessThanOrEqual(4096);
  });

  it('log: logs instead of killing, and keeps the errno of an entry', () => {
    const profile = filter([
      { syscall: 'read' },
      { syscall: 'clone3', action: { errno: 38 } },
      { syscall: 'execve', action: 'kill_process' },
    ]);
    const lines = listing(withMode(profile, 'log'));
    expect(lines.filter((line) => line.startsWith('return')).sort()).toEqual([
      'return allow',
      'return errno 38',
      // Other processors and x32, which no mode allows.
      'return kill_process',
      'return log',
    ]);
    expect(withMode(profile, 'enforce')).toBe(profile);
    const denyList = filter([{ syscall: 'bpf' }], { default_action: 'allow', filter_action: { errno: 1 } });
    expect(withMode(denyList, 'log').filterAction).toBe('log');
  });
});

import { describe, expect, it } from 'vitest';
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { parseProfile } from '../../src/machine/jail/seccomp/profile.ts';
import { proposeProfile } from './learn.ts';
import { type Since, tracedCalls } from './strace.ts';

/** As strace 6.1 writes it. */
const LAUNCHED = `7 execve(0x7ff0, 0x7ff1, 0x7ff2) = 0
7 mount(0, 0x1, 0, 0, 0)                = 0
7 clone(0x1200011, 0, 0, 0x7fe2, 0)     = 0x9
9 execve(0x7ff0, 0x7ff1, 0x7ff2)        = -1 ENOENT (No such file or directory)
9 execve(0x7ff0, 0x7ff1, 0x7ff2 <unfinished ...>
7 wait4(0x9, 0x7ffe, 0, 0 <unfinished ...>
9 <... execve resumed>)                 = 0
9 getpid()                              = 0x9
9 clone(0x3d0f00, 0x7f35, 0x7f36, 0x7f37, 0x7f38) = 0xa
10 prctl(PR_SET_NAME, "worker 0" <unfinished ...>
9 ioctl(0x5, 0xae80, 0 <unfinished ...>
10 <... prctl resumed>)                 = 0
10 ioctl(0x6, 0x5421, 0x7ff0)           = 0
9 <... ioctl resumed>)                  = 0
10 madvise(0x7f0000000000, 0x1000, 0x4) = 0
9 clone(0x11, 0, 0, 0, 0)               = 0xb
11 chroot(0x7ff0)                       = 0
9 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=11} ---
9 exit_group(0)                         = ?
9 +++ exited with 0 +++
7 <... wait4 resumed>)                  = 0x9
7 exit_group(0)                         = ?
`;
const FILTERS_ITSELF = `5 openat(0xffffff9c, 0x7f, 0, 0) = 0x3
5 clone(0x7d0f00, 0x7f35, 0x7f36, 0x7f37, 0x7f38) = 0x6
6 prctl(PR_SET_NAME, "api")             = 0
6 mmap(0, 0x1000, 0x3, 0x22, 0xffffffff, 0) = 0x7f00
6 seccomp(0x1, 0, 0x7f357edff310 <unfinished ...>
5 read(0x3, 0x7f, 0x8)                  = 0x8
6 <... seccomp resumed>)                = 0
6 accept4(0x4, 0, 0, 0x80000)           = 0x7
5 prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, {len=3, filter=0x7f}) = 0
5 write(0x1, 0x7f, 0x1)                 = 0x1
5 clone(0x7d0f00, 0x7f35, 0x7f36, 0x7f37, 0x7f38) = 0x8
8 futex(0x7f, 0x81, 0x1, 0, 0x10, 0)    = 0x1
`;

const named = (trace: string, since: Since): string[] =>
  tracedCalls([trace], since).map(({ thread, name, args }) =>
    `${thread} ${name} ${args.map((each) => each.toString(16)).join(',')}`.trim(),
  );

describe('tracedCalls', () => {
  it('since exec: uses the last program started and its threads, not its launcher', () => {
    expect(named(LAUNCHED, 'exec')).toEqual([
      'execve',
      'getpid',
      'clone 3d0f00,7f35,7f36,7f37,7f38',
      'prctl',
      'ioctl 5,ae80,0',
      'worker 0 ioctl 6,5421,7ff0',
      'worker 0 madvise 7f0000000000,1000,4',
      'clone 11,0,0,0,0',
      'exit_group 0',
    ]);
  });

  it('since an exec of a program: uses the last of that name', () => {
    const trace = LAUNCHED.replaceAll('execve(0x7ff0,', 'execve("/usr/bin/vmm",').concat(
      '12 execve("/bin/ls", 0x7ff1, 0x7ff2) = 0\n12 chdir(0x7ff0) = 0\n',
    );
    expect(named(trace, 'exec')).toEqual(['execve', 'chdir 7ff0']);
    expect(named(trace, { program: 'vmm' }).at(1)).toBe('getpid');
    expect(named(trace, { program: 'bin' })).toEqual([]);
  });

  it('since filter: uses each thread from its own filter on, and its child threads', () => {
    expect(named(FILTERS_ITSELF, 'filter')).toEqual([
      'api accept4 4,0,0,80000',
      'write 1,7f,1',
      'clone 7d0f00,7f35,7f36,7f37,7f38',
      'futex 7f,81,1,0,10,0',
    ]);
  });

  it('accepts any text, and ignores lines outside a program', () => {
    expect(named('', 'exec')).toEqual([]);
    expect(named('7 getpid() = 0x7\n7 execve(0x1', 'exec')).toEqual([]);
    expect(named(')(= \n<... resumed>\n9999999999999999999 a(0xzz) = 0', 'filter')).toEqual([]);
  });
});

describe('proposeProfile', () => {
  it('allows the recorded calls, with the arguments that distinguish them', () => {
    const calls = tracedCalls([LAUNCHED.replace(/^9 clone\(0x11.*$/m, '')], 'exec');
    const proposed = proposeProfile(calls, () => 'qemu');
    expect(proposed['qemu']?.filter.map(({ syscall }) => syscall)).toEqual([
      'clone',
      'execve',
      'exit_group',
      'getpid',
      'ioctl',
      'ioctl',
      'madvise',
      'prctl',
    ]);
    expect(proposed['qemu']?.filter.slice(4, 6)).toEqual([
      { syscall: 'ioctl', args: [{ index: 1, type: 'dword', op: 'eq', val: 0xae80 }], comment: 'seen once' },
      {
        syscall: 'ioctl',
        args: [{ index: 1, type: 'dword', op: 'eq', val: 0x5421 }],
        comment: 'seen once, by worker 0',
      },
    ]);
    const [filter] = parseProfile(JSON.stringify(proposed)).values();
    expect(filter && compileProfile(filter, 'x86_64').instructions).toBeGreaterThan(10);
  });

  it('separates the threads of a program, and allows no unrecorded new process', () => {
    const calls = tracedCalls([FILTERS_ITSELF], 'filter');
    const proposed = proposeProfile(calls, (thread) => (thread === 'api' ? 'api' : 'vmm'));
    expect(Object.keys(proposed)).toEqual(['api', 'vmm']);
    const [clone] = proposed['vmm']?.filter ?? [];
    expect(clone?.args?.[0]).toMatchObject({ op: { masked_eq: 0x1_0000 }, val: 0x1_0000 });
    const forks = proposeProfile(tracedCalls([LAUNCHED], 'exec'), () => 'x');
    expect(forks['x']?.filter[0]).toEqual({ syscall: 'clone', comment: 'seen 2 times' });
  });
});

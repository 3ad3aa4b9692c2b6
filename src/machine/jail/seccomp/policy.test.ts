/** The product's own profiles. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { interpret } from '../../../../tools/seccomp/interpret.ts';
import { actionOfReturn, compileProfile, X32_BIT } from './compile.ts';
import { type Action, type Profile, parseProfile, withMode } from './profile.ts';
import { redundantRules } from './profile-check.ts';
import { sparingFile } from './spared-file.ts';
import { AUDIT_ARCH, syscallNames, syscallNumber } from './syscalls.ts';

const read = (name: string): Profile =>
  parseProfile(readFileSync(join(import.meta.dirname, '../../../../policy', name), 'utf8'));
const LAUNCH = 'firecracker-launch-x86_64.json';
const ENGINE = 'engine-x86_64.json';
const FILES = ['qemu-x86_64.json', 'firecracker-x86_64.json', LAUNCH, ENGINE];

/** The kernel's action for a call of a thread. */
function judge(profile: Profile, thread: string) {
  const filter = profile.get(thread);
  if (filter === undefined) throw new Error(`no thread ${thread}`);
  const { program } = compileProfile(filter, 'x86_64');
  return (syscall: string, ...args: (number | bigint)[]): Action | undefined => {
    const call = {
      arch: AUDIT_ARCH.x86_64,
      number: syscallNumber(syscall, 'x86_64') ?? X32_BIT,
      args: args.map(BigInt),
    };
    return actionOfReturn(interpret(program, call).word);
  };
}

/** R-SEC-3 and more: calls that no VMM may make once it runs, whatever the arguments. */
const NEVER = [
  ['execveat', 'fork', 'vfork', 'ptrace', 'process_vm_readv', 'process_vm_writev'],
  ['mount', 'umount2', 'pivot_root', 'chroot', 'unshare', 'setns', 'open_tree', 'move_mount'],
  ['fsopen', 'fsmount', 'mount_setattr', 'swapon', 'reboot', 'kexec_load', 'kexec_file_load'],
  ['bpf', 'perf_event_open', 'io_uring_enter', 'io_uring_register', 'userfaultfd'],
  ['keyctl', 'add_key', 'request_key', 'init_module', 'finit_module', 'delete_module'],
  ['open_by_handle_at', 'name_to_handle_at', 'memfd_secret', 'personality', 'acct', 'quotactl'],
  ['setuid', 'setgid', 'setresuid', 'setresgid', 'setgroups', 'capset', 'iopl', 'ioperm'],
  ['kill', 'tkill', 'pidfd_open', 'pidfd_send_signal', 'pidfd_getfd', 'modify_ldt', 'syslog'],
  ['bind', 'listen', 'accept', 'accept4', 'symlink', 'link', 'rename', 'unlink', 'mknod'],
].flat();

describe('policy', () => {
  for (const file of FILES) {
    it(`${file}: compiles, each entry names its call site, and none is redundant`, () => {
      for (const filter of read(file).values()) {
        for (const mode of ['enforce', 'log'] as const)
          expect(compileProfile(withMode(filter, mode), 'x86_64').instructions).toBeLessThan(400);
        expect(filter.rules.filter(({ comment }) => comment === undefined)).toEqual([]);
        expect(redundantRules(filter)).toEqual([]);
      }
    });
  }

  it('QEMU: punching holes into a spared file succeeds without effect; all else is unchanged', () => {
    const plain = read('qemu-x86_64.json').get('qemu');
    if (plain === undefined) throw new Error('no QEMU');
    const spared = sparingFile(plain, 12);
    for (const mode of ['enforce', 'log'] as const) {
      const qemu = judge(new Map([['qemu', withMode(spared, mode)]]), 'qemu');
      const [size, upperHalf] = [4096, 1n << 32n];
      expect(qemu('fallocate', 12, 3, 0, size)).toEqual({ errno: 0 });
      // An int is the lower half of its register.
      expect(qemu('fallocate', 12n | upperHalf, 3n | upperHalf, 0, size)).toEqual({ errno: 0 });
      for (const fd of [11, 13, 0, 12 + 0x1000]) expect([fd, qemu('fallocate', fd, 3, 0, size)]).toEqual([fd, 'allow']);
      for (const how of [0, 1, 2, 16]) expect(qemu('fallocate', 12, how, 0, size)).toBe('allow');
      expect(qemu('read', 12)).toBe('allow');
      expect(qemu('ptrace')).toBe(mode === 'log' ? 'log' : 'kill_process');
    }
    expect(redundantRules(spared)).toEqual([]);
  });

  it('QEMU: allows no exec, no new process and no unneeded part of the kernel', () => {
    const qemu = judge(read('qemu-x86_64.json'), 'qemu');
    for (const name of NEVER) expect([name, qemu(name)]).toEqual([name, 'kill_process']);
    // A process; a thread; glibc's first try; a socket to the network; the terminal of others.
    expect(qemu('clone', 17)).toBe('kill_process');
    expect(qemu('clone', 0x3d_0f00)).toBe('allow');
    expect(qemu('clone3')).toEqual({ errno: 38 });
    expect(qemu('io_uring_setup')).toEqual({ errno: 38 });
    // It gets each of its sockets from us.
    expect([1, 2, 10, 16, 17, 40].map((family) => qemu('socket', family))).toEqual(Array(6).fill('kill_process'));
    for (const name of ['connect', 'socketpair', 'pipe', 'pipe2', 'timerfd_create', 'vmsplice', 'splice', 'tee'])
      expect([name, qemu(name)]).toEqual([name, 'kill_process']);
    expect(qemu('ioctl', 0, 0x5412)).toBe('kill_process');
    expect(qemu('ioctl', 0, 0xae80)).toBe('allow');
    expect(qemu('prctl', 4)).toBe('kill_process');
  });

  it('Firecracker: each thread has a filter of its own', () => {
    const profile = read('firecracker-x86_64.json');
    expect([...profile.keys()].sort()).toEqual(['api', 'vcpu', 'vmm']);
    const [vmm, api, vcpu] = ['vmm', 'api', 'vcpu'].map((name) => judge(profile, name));
    const own = new Set(['tkill', 'accept4']);
    for (const name of NEVER.filter((each) => !own.has(each))) {
      const all = [vmm, api, vcpu].map((thread) => thread?.(name));
      expect([name, ...all]).toEqual([name, 'trap', 'trap', 'trap']);
    }
    for (const name of ['execve', 'clone', 'clone3', 'fork', 'seccomp', 'prctl'])
      expect([vmm, api, vcpu].map((thread) => thread?.(name))).toEqual(Array(3).fill('trap'));
    const run = [vmm, api, vcpu].map((thread) => thread?.('ioctl', 5, 0xae80));
    expect(run).toEqual(['trap', 'trap', 'allow']);
    expect([vmm, api, vcpu].map((thread) => thread?.('open'))).toEqual(['allow', 'trap', 'trap']);
    expect([vmm, api, vcpu].map((thread) => thread?.('socket', 1))).toEqual(['allow', 'trap', 'trap']);
    // Memory for data, and for code: PROT_READ | PROT_WRITE, | PROT_EXEC.
    for (const [protection, action] of [
      [3, 'allow'],
      [7, 'trap'],
      [5, 'trap'],
    ] as const)
      expect([vmm, api, vcpu].map((thread) => thread?.('mmap', 0, 4096, protection))).toEqual(Array(3).fill(action));
    expect([3, 5].map((protection) => vmm?.('mprotect', 0, 4096, protection))).toEqual(['allow', 'trap']);
    // A signal to another thread is only for the kick of a vCPU, or for ending itself.
    expect([6, 9, 19, 35].map((signal) => vmm?.('tkill', 1, signal))).toEqual(['allow', 'trap', 'trap', 'allow']);
  });

  it('Firecracker’s launcher: refuses calls that no thread needs, and allows those of the jailer', () => {
    const launch = judge(read(LAUNCH), 'launch');
    const threads = ['api', 'vcpu', 'vmm'].map((name) => judge(read('firecracker-x86_64.json'), name));
    const refused = syscallNames('x86_64').filter((name) => launch(name) === 'trap');
    for (const name of refused) expect(threads.map((of) => of(name))).toEqual(Array(3).fill('trap'));
    const hostile = ['io_uring_setup', 'io_uring_enter', 'io_uring_register', 'bpf', 'ptrace', 'keyctl'];
    expect(refused).toEqual(expect.arrayContaining([...hostile, 'userfaultfd', 'execveat']));
    const jailers = ['mount', 'umount2', 'unshare', 'pivot_root', 'mknod', 'setns', 'setuid', 'execve'];
    for (const name of [...jailers, 'clone', 'seccomp', 'chroot', 'chown'])
      expect([name, launch(name)]).toEqual([name, 'allow']);
  });

  it('the engine: refuses calls that lead out, and fails those that libraries only try', () => {
    const engine = judge(read(ENGINE), 'engine');
    const ends = [
      ['mount', 'umount2', 'pivot_root', 'chroot', 'unshare', 'setns', 'open_tree', 'move_mount'],
      ['ptrace', 'process_vm_writev', 'pidfd_getfd', 'bpf', 'userfaultfd', 'init_module'],
      ['finit_module', 'kexec_load', 'kexec_file_load', 'keyctl', 'add_key', 'request_key'],
      ['open_by_handle_at', 'setuid', 'setresuid', 'setgroups', 'capset', 'mknod', 'syslog'],
    ].flat();
    for (const name of ends) expect([name, engine(name)]).toEqual([name, 'kill_process']);
    // A thread of glibc and V8; a process; processes in other namespaces.
    expect(engine('clone', 0x3d_0f00)).toBe('allow');
    expect(engine('clone', 17)).toBe('allow');
    for (const flag of [0x2_0000, 0x200_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000])
      expect(engine('clone', 17 + flag)).toBe('kill_process');
    expect(engine('socket', 1)).toBe('allow');
    for (const family of [2, 10, 16, 17, 40]) expect(engine('socket', family)).toEqual({ errno: 97 });
    for (const name of ['clone3', 'io_uring_setup', 'io_uring_enter']) expect(engine(name)).toEqual({ errno: 38 });
    for (const name of ['perf_event_open', 'process_vm_readv', 'personality'])
      expect(engine(name)).toEqual({ errno: 1 });
    for (const name of ['read', 'mmap', 'futex', 'execve', 'accept4', 'epoll_wait']) expect(engine(name)).toBe('allow');
  });

  it('decides every call of the table, and allows few', () => {
    const qemu = judge(read('qemu-x86_64.json'), 'qemu');
    const allowed = syscallNames('x86_64').filter((name) => qemu(name) === 'allow');
    expect(allowed.length).toBeLessThan(120);
    expect(syscallNames('x86_64').length).toBeGreaterThan(350);
  });
});

/** Proves that a compromised VMM can't make the syscalls that lead out of its jail. */
import { readdirSync, readFileSync } from 'node:fs';
import { ProofError } from '../errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { Injector, type SystemCall } from './inject.ts';
import { openVmms } from './open-vmms.ts';
import type { Vmm, Vmms, VmmTraits } from './vmm.ts';

/** Stands for the VMM's program. */
const OWN = '@';
const CLONE_NEWUSER = 0x1000_0000;
const SIGCHLD = 17;
const AT_FDCWD = 0xffff_ff9c;
const AF_INET = 2;
const AF_NETLINK = 16;
const BAD_FD = 0xffff_ffff;
/** An address too low to be mapped. */
const NOWHERE = 8;
const PTRACE_ATTACH = 16;
/** Above any pid. */
const NO_PID = 0x3fff_ffff;

/**
 * Syscalls that lead out of a jail, or once did. Controls make the same calls as the host's root, so the arguments must
 * be harmless: paths in a directory that can't exist, invalid descriptors and processes.
 */
export const FORBIDDEN: readonly SystemCall[] = [
  { name: 'execve of its own program', number: 59, args: [OWN, 0, 0] },
  { name: 'execve of the loader', number: 59, args: ['@/lib64/ld-linux-x86-64.so.2', 0, 0] },
  { name: 'execveat', number: 322, args: [AT_FDCWD, OWN, 0, 0, 0] },
  { name: 'fork', number: 57 },
  { name: 'vfork', number: 58 },
  { name: 'clone of a process', number: 56, args: [SIGCHLD, 0, 0, 0, 0] },
  { name: 'clone3', number: 435, args: [NOWHERE, 88] },
  { name: 'clone with a user namespace', number: 56, args: [CLONE_NEWUSER + SIGCHLD, 0, 0, 0, 0] },
  { name: 'ptrace', number: 101, args: [PTRACE_ATTACH, NO_PID, 0, 0] },
  { name: 'process_vm_writev', number: 311, args: [NO_PID, 0, 0, 0, 0, 0] },
  { name: 'mount', number: 165, args: ['@none', '@/proc/nowhere/x', '@tmpfs', 0, 0] },
  { name: 'umount2', number: 166, args: ['@/proc/nowhere/x', 0] },
  { name: 'move_mount', number: 429, args: [BAD_FD, '@x', BAD_FD, '@x', 0] },
  { name: 'pivot_root', number: 155, args: ['@/proc/nowhere/x', '@/proc/nowhere/x'] },
  { name: 'chroot', number: 161, args: ['@/proc/nowhere/x'] },
  { name: 'unshare', number: 272, args: [0] },
  { name: 'setns', number: 308, args: [BAD_FD, 0] },
  { name: 'bpf', number: 321, args: [0, NOWHERE, 8] },
  { name: 'keyctl', number: 250, args: [0, 0, 0] },
  { name: 'add_key', number: 248, args: [NOWHERE, NOWHERE, 0, 0, 0] },
  { name: 'userfaultfd', number: 323, args: [0xffff] },
  { name: 'io_uring_setup', number: 425, args: [1, NOWHERE] },
  { name: 'io_uring_enter', number: 426, args: [BAD_FD, 0, 0, 0, 0, 0] },
  { name: 'perf_event_open', number: 298, args: [NOWHERE, 0, 0, BAD_FD, 0] },
  { name: 'init_module', number: 175, args: [NOWHERE, 0, NOWHERE] },
  { name: 'finit_module', number: 313, args: [BAD_FD, NOWHERE, 0] },
  { name: 'kexec_load', number: 246, args: [0, 99, NOWHERE, 0] },
  { name: 'open_by_handle_at', number: 304, args: [BAD_FD, NOWHERE, 0] },
  { name: 'setuid', number: 105, args: [0] },
  { name: 'setresgid', number: 119, args: [0, 0, 0] },
  { name: 'capset', number: 126, args: [NOWHERE, NOWHERE] },
  { name: 'chown', number: 92, args: ['@/proc/nowhere/x', 0, 0] },
  { name: 'mknod', number: 133, args: ['@/proc/nowhere/x', 0o20600, 0x101] },
  { name: 'link', number: 86, args: ['@/proc/nowhere/x', '@/proc/nowhere/y'] },
  { name: 'socket of IPv4', number: 41, args: [AF_INET, 1, 0] },
  { name: 'socket of netlink', number: 41, args: [AF_NETLINK, 3, 0] },
  { name: 'modify_ldt', number: 154, args: [99, 0, 0] },
  { name: 'by its x32 number: getpid', number: 0x4000_0000 + 39 },
];

const ABREAST = 4;
const ENOSYS = -38;

/** @param forbidden the calls to try; for tests */
export async function proveSeccomp(context: JailContext, forbidden: readonly SystemCall[] = FORBIDDEN): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  await using vmms = await openVmms(context);
  const { traits } = vmms;
  for (const thread of traits.threads) {
    // Shows that the VMM is alive and the injection works.
    notes.same(
      `control: a jailed VMM makes ${traits.allowed.name}${by(thread, traits)}`,
      traits.allowed.returns,
      await inject(injector, () => vmms.jailed(), thread, traits.allowed),
    );
    const calls = forbidden.map((call) => ofProgram(call, traits.program));
    for (let at = 0; at < calls.length; at += ABREAST) {
      const some = calls.slice(at, at + ABREAST);
      const seen = await Promise.all(some.map((call) => tryCall(injector, vmms, thread, call)));
      for (const one of seen) noteCall(notes, one, traits);
    }
  }
  return notes.proof('seccomp');
}

interface TriedCall {
  readonly call: SystemCall;
  readonly thread: string;
  readonly jailed: string;
  readonly free: string;
}

async function tryCall(injector: Injector, vmms: Vmms, thread: string, call: SystemCall): Promise<TriedCall> {
  const jailed = await inject(injector, () => vmms.jailed(), thread, call);
  return { call, thread, jailed, free: await inject(injector, () => vmms.free(), thread, call) };
}

/** Makes the call from one thread of a new VMM. */
async function inject(
  injector: Injector,
  start: () => Promise<Vmm>,
  thread: string,
  call: SystemCall,
): Promise<string> {
  const vmm = await start();
  try {
    return await injector.call(threadOf(vmm.pid, thread), call);
  } finally {
    await vmm.end();
  }
}

/** @throws ProofError if no thread has this name */
function threadOf(pid: number, name: string): number {
  const nameOf = (task: string): string => readFileSync(`/proc/${pid}/task/${task}/comm`, 'latin1').trim();
  const tasks = readdirSync(`/proc/${pid}/task`);
  const found = tasks.find((task) => nameOf(task) === name);
  if (found !== undefined) return Number(found);
  const cause = `it has ${tasks.map(nameOf).join(', ')}`;
  throw new ProofError('no_world', `could not find the thread ${name} of a VMM`, { cause });
}

function ofProgram(call: SystemCall, program: string): SystemCall {
  return { ...call, args: (call.args ?? []).map((arg) => (arg === OWN ? `@${program}` : arg)) };
}

/** Names the thread, unless only one is tried. */
function by(thread: string, { threads }: VmmTraits): string {
  return threads.length === 1 ? '' : `, by thread ${thread}`;
}

function noteCall(notes: Notes, { call, thread, jailed, free }: TriedCall, traits: VmmTraits): void {
  const name = `${call.name}${by(thread, traits)}`;
  const isDenied = traits.refused.includes(jailed);
  notes.note(name, 'denied', isDenied ? `denied: ${jailed}` : jailed, isDenied);
  const isX32 = name.startsWith('by its x32 number');
  const got = free.startsWith('returned') && free !== `returned ${ENOSYS}`;
  // This kernel may lack a call that the jail would deny.
  const reached = got || free.startsWith('executed') || isX32 || free === `returned ${ENOSYS}`;
  const words = reached ? `the kernel answers: ${free}` : free;
  notes.note(`control: ${name} without a jail`, 'the kernel answers', words, reached && free !== jailed);
}

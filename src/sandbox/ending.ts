/**
 * Why a sandbox ended, with what speaks for it. The cause is what was seen, never a guess: a VMM that got
 * SIGKILL from somebody else is `vmm-killed`, and `host-oom` only where the host's kernel says so.
 */
import type { VmExit } from '../vmm/driver.ts';
import type { OomMark, PressureMark } from './memory-events.ts';

export const END_CAUSES = [
  /** Removed by its owner, or its host was shut down. */
  'stopped',
  /** Its time was up. */
  'timeout',
  /** The guest powered off or rebooted. */
  'guest-shutdown',
  /** The guest's kernel gave up. */
  'guest-panic',
  /** The guest's kernel gave up for want of memory. (A program that is killed for that ends alone.) */
  'guest-oom',
  /** The host's kernel killed the VMM for want of memory, of the host or of the VMM's limit. */
  'host-oom',
  /** Somebody else ended the VMM. */
  'vmm-killed',
  /** The VMM made a system call that its filter refuses, and ended by it: it has been taken over, or the filter lacks a call. */
  'seccomp-violation',
  /** The VMM ended by a fault of its own. */
  'vmm-crashed',
  /** The agent ended, or its link broke, while the VM ran. */
  'agent-lost',
  /** The host had no room for what its guest wrote; only of `run`, elsewhere it is paused. */
  'host-disk-full',
  /** The process that held it was killed; told by the next one. */
  'host-lost',
  /** It never became ready. */
  'start-failed',
] as const;

/** `saved` is no end for its owner: it goes on in another VM. */
export type EndCause = (typeof END_CAUSES)[number];

/** System calls that the VMM's filter refused or logged: how many, and the last one. */
export interface ViolationMark {
  /** Of this VMM, logged ones included. */
  readonly count: number;
  /** Number of the system call on the host's processor. */
  readonly syscall: number;
  /** Null: newer than our table. */
  readonly name: string | null;
  /** Of the instruction that made the call, `0x…`; null: not known. */
  readonly address: string | null;
  /** `logged`: the call went through (`--jail log`). */
  readonly action: 'refused' | 'logged';
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

export interface EndEvidence {
  /** Of the VMM; null: a signal ended it, it had none, or it is not known. */
  readonly exitStatus: number | null;
  readonly signal: string | null;
  readonly lastPressure: PressureMark | null;
  readonly lastOom: OomMark | null;
  /** Of the system calls that the VMM's filter refused or logged; null: none that is known. */
  readonly lastViolation: ViolationMark | null;
}

export interface SandboxEnd {
  readonly cause: EndCause | 'saved';
  /** One line for people. */
  readonly detail: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly evidence: EndEvidence;
  /** The last 64 KiB of the serial console. */
  readonly console: string;
  /** The last lines of the VMM's own log. */
  readonly vmmLog: string;
}

/** What is told of an end wherever a sandbox is described; console and log are asked for. */
export interface EndInfo {
  readonly cause: EndCause;
  readonly detail: string;
  readonly atMs: number;
  readonly evidence: EndEvidence;
}

export interface SandboxLogs {
  /** What its guest wrote to the serial console: the last 64 KiB. */
  readonly console: string;
  /** What the VMM wrote: the last lines. */
  readonly vmm: string;
}

export const NO_EVIDENCE: EndEvidence = {
  ...{ exitStatus: null, signal: null, lastPressure: null, lastOom: null, lastViolation: null },
};

const FAILURES: ReadonlySet<string> = new Set<EndCause>([
  ...(['start-failed', 'agent-lost', 'guest-panic', 'guest-oom'] as const),
  ...(['vmm-crashed', 'vmm-killed', 'host-oom', 'host-disk-full', 'seccomp-violation'] as const),
]);

/** Not as its owner or its guest wanted. */
export function isFailure(cause: SandboxEnd['cause']): boolean {
  return FAILURES.has(cause);
}

/** One that had no VM of its own at its end. */
export function endWithoutVm(cause: EndCause, detail: string, wallMs: number): SandboxEnd {
  const atMs = Math.floor(wallMs);
  return { cause, detail, atMs, evidence: NO_EVIDENCE, console: '', vmmLog: '' };
}

export function endInfo({ cause, detail, atMs, evidence }: SandboxEnd): EndInfo {
  // Nobody has seen a sandbox that ended as `saved`: it is paused.
  return { cause: cause === 'saved' ? 'stopped' : cause, detail, atMs, evidence };
}

/**
 * @param serial the tail of its console: what the guest says of itself
 * @param hostOomKills what the host's kernel says of the VMM
 */
export function causeOfExit(
  exit: VmExit,
  serial: string,
  hostOomKills: number,
): Pick<SandboxEnd, 'cause' | 'detail'> {
  if (exit.cause === 'guest-shutdown') {
    // Both reset the machine; one that powered off in order has survived what it has written before.
    const isReset = exit.detail !== 'guest-shutdown';
    const panic = isReset ? panicOf(serial) : null;
    if (panic !== null) {
      return { cause: OUT_OF_MEMORY.test(panic) ? 'guest-oom' : 'guest-panic', detail: panic };
    }
    const agent = isReset ? AGENT_ENDED.exec(serial.slice(-LAST_CHARACTERS))?.[1] : undefined;
    if (agent !== undefined) return { cause: 'agent-lost', detail: agent };
    return { cause: 'guest-shutdown', detail: exit.detail };
  }
  const { exitCode, signal } = exit;
  if (hostOomKills > 0 && signal === 'SIGKILL') {
    return { cause: 'host-oom', detail: 'the host’s kernel killed the VMM for want of memory' };
  }
  if (signal === 'SIGSYS' || exit.refusedSyscall !== undefined) {
    const which = exit.refusedSyscall === undefined ? '' : ` ${exit.refusedSyscall}`;
    return {
      cause: 'seccomp-violation',
      detail: `its filter refused the VMM’s system call${which} and ended it`,
    };
  }
  if (signal === 'SIGKILL') return { cause: 'vmm-killed', detail: 'it got SIGKILL, not from us' };
  // QEMU takes SIGTERM, SIGINT and SIGHUP, says so and from whom, and ends with status 0.
  const told = TERMINATED.exec(exit.detail)?.[0];
  if (told !== undefined) return { cause: 'vmm-killed', detail: told };
  const how = signal === null ? `it ended with status ${exitCode}` : `it got ${signal}`;
  return { cause: 'vmm-crashed', detail: exit.detail === '' ? how : `${how}: ${exit.detail}` };
}

const TERMINATED = /terminating on signal \d+( from pid \d+)?/;
/** `guest/init.c` says so before it resets the machine. */
const AGENT_ENDED = /neurovisor-init: (the agent (?:was ended by signal|ended with status) \d+)/;
const LAST_CHARACTERS = 512;
const PANIC = 'Kernel panic - not syncing: ';
const PANIC_CHARACTERS_MAX = 200;
const OUT_OF_MEMORY = /out of memory|deadlocked on memory/i;

/** The reason of the last panic; null: there is none. */
function panicOf(serial: string): string | null {
  const at = serial.lastIndexOf(PANIC);
  if (at < 0) return null;
  const [line = ''] = serial.slice(at + PANIC.length).split('\n', 1);
  return line
    .slice(0, PANIC_CHARACTERS_MAX)
    .replaceAll(/\p{Cc}/gu, ' ')
    .trim();
}

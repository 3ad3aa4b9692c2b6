/**
 * Why a sandbox ended, with the evidence. The cause is what was observed, never a guess: a VMM that another process
 * killed with SIGKILL is `vmm-killed`; `host-oom` needs a report by the host's kernel.
 */
import type { VmExit } from '../../machine/vmm/driver.ts';
import type { OomMark, PressureMark } from './memory-events.ts';

export const END_CAUSES = [
  /** Removed by its owner. */
  'stopped',
  /** The daemon, or the program that held the sandbox, was stopped. */
  'daemon-stopped',
  'timeout',
  'guest-shutdown',
  'guest-panic',
  /** The guest's kernel panicked out of memory. (An OOM kill of a program does not end the sandbox.) */
  'guest-oom',
  /** The host's OOM killer killed the VMM: the host, or the VMM's limit, was out of memory. */
  'host-oom',
  /** Another process ended the VMM. */
  'vmm-killed',
  /** The VMM's filter refused a system call: the VMM was taken over, or the filter lacks a call. */
  'seccomp-violation',
  'vmm-crashed',
  /** The agent ended, or its connection broke, while the VM ran. */
  'agent-lost',
  /** The host's file system was full. Only for `run`; elsewhere the sandbox is paused. */
  'host-disk-full',
  /** The process that owned the sandbox was killed; the next process reports it. */
  'host-lost',
  /** The sandbox never became ready. */
  'start-failed',
] as const;

/** Does not include `saved`: a saved sandbox continues in another VM. */
export type EndCause = (typeof END_CAUSES)[number];

/** Ends of a sandbox on purpose, from outside the guest. */
export type StopCause = Extract<EndCause, 'stopped' | 'timeout' | 'daemon-stopped'>;

/** One line for humans, of a sandbox with a VM. */
export const STOP_DETAILS: Readonly<Record<StopCause, string>> = {
  stopped: 'stopped by its owner',
  timeout: 'it reached its time limit',
  'daemon-stopped': 'the process that held it was stopped',
};

/**
 * @param isRestored it was paused to disk before, so its owner may expect to find that pause
 * @param why it could not be paused
 */
export function daemonStopDetail(isRestored: boolean, why?: string): string {
  const lost = isRestored ? '; it had been resumed, which used its pause up' : '';
  const unsaved = why === undefined ? '' : `, and it was not paused: ${why}`;
  return `${STOP_DETAILS['daemon-stopped']}${unsaved}${lost}`;
}

/** System calls that the VMM's filter refused or logged. */
export interface ViolationMark {
  /** All calls of this VMM, logged ones included. */
  readonly count: number;
  readonly syscall: number;
  /** `null` if the syscall is newer than our table. */
  readonly name: string | null;
  /** Address of the instruction that made the call, `0x…`; `null` if unknown. */
  readonly address: string | null;
  /** `logged`: the call went through (`--jail log`). */
  readonly action: 'refused' | 'logged';
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

export interface EndEvidence {
  /** The VMM's exit status; `null` if a signal ended it, if there was no VMM, or if unknown. */
  readonly exitStatus: number | null;
  readonly signal: string | null;
  readonly lastPressure: PressureMark | null;
  readonly lastOom: OomMark | null;
  /** `null` if no refused or logged system call is known. */
  readonly lastViolation: ViolationMark | null;
}

export interface SandboxEnd {
  readonly cause: EndCause | 'saved';
  /** One line for humans. */
  readonly detail: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly evidence: EndEvidence;
  /** The last 64 KiB of the serial console. */
  readonly console: string;
  /** The last lines of the VMM's own log. */
  readonly vmmLog: string;
}

export interface EndInfo {
  readonly cause: EndCause;
  readonly detail: string;
  readonly atMs: number;
  readonly evidence: EndEvidence;
}

export interface SandboxLogs {
  readonly console: string;
  /** The last lines of the VMM's own log. */
  readonly vmm: string;
}

export const NO_EVIDENCE: EndEvidence = {
  exitStatus: null,
  signal: null,
  lastPressure: null,
  lastOom: null,
  lastViolation: null,
};

const FAILURES: ReadonlySet<string> = new Set<EndCause>([
  'start-failed',
  'agent-lost',
  'guest-panic',
  'guest-oom',
  'vmm-crashed',
  'vmm-killed',
  'host-oom',
  'host-disk-full',
  'seccomp-violation',
]);

/** False if the owner or the guest ended the sandbox on purpose. */
export function isFailure(cause: SandboxEnd['cause']): boolean {
  return FAILURES.has(cause);
}

export function endWithoutVm(cause: EndCause, detail: string, wallMs: number): SandboxEnd {
  const atMs = Math.floor(wallMs);
  return { cause, detail, atMs, evidence: NO_EVIDENCE, console: '', vmmLog: '' };
}

export function endInfo({ cause, detail, atMs, evidence }: SandboxEnd): EndInfo {
  // A `saved` end never becomes public: the sandbox is paused instead.
  return { cause: cause === 'saved' ? 'stopped' : cause, detail, atMs, evidence };
}

/**
 * @param serial the tail of the console, with what the guest itself reports
 * @param hostOomKills OOM kills of this VM that the host's kernel reported
 */
export function causeOfExit(exit: VmExit, serial: string, hostOomKills: number): Pick<SandboxEnd, 'cause' | 'detail'> {
  if (exit.cause === 'guest-shutdown') {
    // A panic also resets the machine. After an orderly power-off, an earlier panic in the console is irrelevant.
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
    return { cause: 'host-oom', detail: 'the host’s OOM killer killed the VMM' };
  }
  if (signal === 'SIGSYS' || exit.refusedSyscall !== undefined) {
    const which = exit.refusedSyscall === undefined ? '' : ` ${exit.refusedSyscall}`;
    return { cause: 'seccomp-violation', detail: `the VMM’s filter refused system call${which} and ended the VMM` };
  }
  if (signal === 'SIGKILL') return { cause: 'vmm-killed', detail: 'another process sent SIGKILL' };
  // On SIGTERM, SIGINT and SIGHUP QEMU logs the signal and its sender, and exits with status 0.
  const terminated = TERMINATED.exec(exit.detail)?.[0];
  if (terminated !== undefined) return { cause: 'vmm-killed', detail: terminated };
  // The detail says why the exit status is unknown.
  if (signal === null && exitCode === null) return { cause: 'vmm-crashed', detail: exit.detail };
  const how = signal === null ? `it ended with status ${exitCode}` : `it got ${signal}`;
  return { cause: 'vmm-crashed', detail: exit.detail === '' ? how : `${how}: ${exit.detail}` };
}

const TERMINATED = /terminating on signal \d+( from pid \d+)?/;
/** Written by `guest/init.c` before it resets the machine. */
const AGENT_ENDED = /neurovisor-init: (the agent (?:was ended by signal|ended with status) \d+)/;
const LAST_CHARACTERS = 512;
const PANIC = 'Kernel panic - not syncing: ';
const PANIC_CHARACTERS_MAX = 200;
const OUT_OF_MEMORY = /out of memory|deadlocked on memory/i;

/** The reason of the last kernel panic, or `null`. */
function panicOf(serial: string): string | null {
  const at = serial.lastIndexOf(PANIC);
  if (at < 0) return null;
  const [line = ''] = serial.slice(at + PANIC.length).split('\n', 1);
  return line
    .slice(0, PANIC_CHARACTERS_MAX)
    .replaceAll(/\p{Cc}/gu, ' ')
    .trim();
}

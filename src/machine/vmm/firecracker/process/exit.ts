/**
 * Determines why a Firecracker process ended; pure. Its status is 0 for a guest's reset, for a triple fault and after
 * some KVM errors, so the log decides.
 */
import type { VmExit } from '../../driver.ts';

interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** We sent SIGKILL. */
  readonly killed: boolean;
  /** The tails of its log and of its stderr. */
  readonly log: string;
  readonly stderr: string;
}

/** KVM's reports of a guest that it can't continue (virt/kvm; src/machine/vmm/src/vstate/vcpu). */
const FATAL =
  /InternalError|FailEntry|FAIL_ENTRY|INTERNAL_ERROR|Unexpected (exit reason|KVM)|[Ff]ailed to run vCPU|VcpuExit|panicked at|exiting with error/;
/** RFC 3339 time, then the instance and thread in brackets. */
const LOG_PREFIX = /^\d{4}-\S+ \[[^\]]*\] /;
const DETAIL_LENGTH_MAX = 4_000;
const DETAIL_LINES_MAX = 8;

export function judgeExit(end: ProcessEnd): VmExit {
  const { exitCode, signal, killed } = end;
  const lines = [...linesOf(end.stderr), ...linesOf(end.log)];
  const isFatal = lines.some((line) => FATAL.test(line));
  const byGuest = exitCode === 0 && !killed && !isFatal;
  const cause = byGuest ? 'guest-shutdown' : killed ? 'killed' : 'vmm-crashed';
  const refused = exitCode === BAD_SYSCALL ? refusedBy(lines) : undefined;
  return {
    cause,
    exitCode,
    signal,
    detail: byGuest ? shutdownOf(lines) : lastWords(lines),
    ...(refused === undefined ? {} : { refusedSyscall: refused }),
  };
}

/** Its SIGSYS handler exits with this status (FcExitCode::BadSyscall) and logs the call. */
const BAD_SYSCALL = 148;
const REFUSED = /bad syscall \((\d{1,9})\)/;

function refusedBy(lines: readonly string[]): number | undefined {
  const told = lines.findLast((line) => REFUSED.test(line));
  const number = REFUSED.exec(told ?? '')?.[1];
  return number === undefined ? undefined : Number(number);
}

function shutdownOf(lines: readonly string[]): string {
  return lines.some((line) => line.includes('KVM_EXIT_SHUTDOWN')) ? 'triple fault' : 'reset';
}

/** Log lines of successful calls, which explain nothing. */
const CHATTER = /The API server received|The request was executed successfully|API server started/;

function lastWords(lines: readonly string[]): string {
  const told = lines.filter((line) => !CHATTER.test(line)).slice(-DETAIL_LINES_MAX);
  return told.join('\n').slice(-DETAIL_LENGTH_MAX);
}

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.replace(LOG_PREFIX, '').trim())
    .filter((line) => line !== '');
}

/** Explains why probes are not available, from the errors of the kernel and libbpf. */
import { existsSync, readlinkSync } from 'node:fs';
import { LibbpfError } from '../../sys/bpf/libbpf.ts';
import { SyscallError } from '../../sys/libc.ts';
import { ObserveError, type ObserveErrorCode } from './errors.ts';

const KERNEL_BTF = '/sys/kernel/btf/vmlinux';
/** PROC_PID_INIT_INO of linux/proc_ns.h: the namespace of the pids in tracepoints. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

const REMEDIES: Partial<Record<ObserveErrorCode, string>> = {
  not_permitted:
    'Run NeuroVisor as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, in a container that may call bpf.',
  no_btf: 'Use a kernel with CONFIG_DEBUG_INFO_BTF.',
  unsupported: 'Use Linux 5.18 or later, with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS.',
  other_processes: 'Run NeuroVisor in the first pid namespace (docker run --pid=host).',
  failed: 'Report it with this message.',
};

/** @throws ObserveError `no_btf` */
export function requireBtf(attempt: string, path: string = KERNEL_BTF): void {
  if (existsSync(path)) return;
  const cause = new Error(`${path} does not exist`);
  throw observeError('no_btf', attempt, cause);
}

/** @throws ObserveError `other_processes` */
export function requireFirstPidNamespace(attempt: string): void {
  const namespace = readlinkSync('/proc/self/ns/pid');
  if (namespace === FIRST_PID_NAMESPACE) return;
  const cause = new Error(`this process is in ${namespace}, a pid namespace of its own`);
  throw observeError('other_processes', attempt, cause);
}

/** Converts an error of loading or attaching to an `ObserveError`; returns others unchanged. */
export function explain(attempt: string, error: unknown): unknown {
  if (error instanceof LibbpfError && error.code === 'no_library') {
    const { remedy } = error;
    const cause = error;
    return new ObserveError('no_library', attempt, remedy === undefined ? { cause } : { cause, remedy });
  }
  if (!(error instanceof SyscallError)) return error;
  return observeError(codeOf(error.code), attempt, error);
}

export function observeError(code: ObserveErrorCode, attempt: string, cause: Error): ObserveError {
  const remedy = REMEDIES[code];
  return new ObserveError(code, attempt, remedy === undefined ? { cause } : { cause, remedy });
}

function codeOf(code: string): ObserveErrorCode {
  switch (code) {
    case 'EPERM':
      return 'not_permitted';
    case 'ENODEV':
      return 'no_link';
    // The kernel's types or hooks differ from the program's; the message has the verifier's reason.
    case 'EINVAL':
    case 'EACCES':
    case 'ESRCH':
    case 'ENOSYS':
    case 'ENOENT':
    case 'ENOTSUP':
      return 'unsupported';
    case 'E2BIG':
      return 'full';
    default:
      return 'failed';
  }
}

/** Why probes are not available, told from what the kernel and libbpf say. */
import { existsSync, readlinkSync } from 'node:fs';
import { LibbpfError } from '../sys/libbpf.ts';
import { SyscallError } from '../sys/libc.ts';
import { ObserveError, type ObserveErrorCode } from './errors.ts';

const KERNEL_BTF = '/sys/kernel/btf/vmlinux';
/** PROC_PID_INIT_INO of linux/proc_ns.h: of the namespace whose numbers tracepoints have. */
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
  const cause = new Error(`there is no ${path}`);
  throw observeError('no_btf', attempt, cause);
}

/** @throws ObserveError `other_processes` */
export function requireFirstPidNamespace(attempt: string): void {
  const namespace = readlinkSync('/proc/self/ns/pid');
  if (namespace === FIRST_PID_NAMESPACE) return;
  const cause = new Error(`this process is in ${namespace}, a pid namespace of its own`);
  throw observeError('other_processes', attempt, cause);
}

/** What was thrown while loading or attaching, as ours; anything else as it is. */
export function explain(attempt: string, error: unknown): unknown {
  if (error instanceof LibbpfError && error.code === 'no_library') {
    const { remedy } = error;
    return new ObserveError('no_library', attempt, remedy === undefined ? {} : { remedy });
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
    // Its types or hooks are not those that a program was made for; the verifier's reason is in the message.
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

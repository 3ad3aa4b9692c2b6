import { CodedError } from '../base/errors.ts';

/** Why something of this folder is not available, or was refused. */
export type ObserveErrorCode =
  /** Neither root nor CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or a container's seccomp. */
  | 'not_permitted'
  /** libbpf1 is not installed. */
  | 'no_library'
  /** The kernel does not tell its types (CONFIG_DEBUG_INFO_BTF). */
  | 'no_btf'
  /** Neither clang nor what it once made. */
  | 'no_compiler'
  /** clang refuses our sources: mostly headers that are missing. */
  | 'compile_failed'
  /** The kernel has no such hook, or its types are not those that a program needs. */
  | 'unsupported'
  /** Process numbers here are not the kernel's own. */
  | 'other_processes'
  /** A limit of what can be watched at once. */
  | 'full'
  /** The interface is gone. */
  | 'no_link'
  /** The interface is watched already, or has another XDP program. */
  | 'taken'
  /** The kernel refuses a program of ours, the cause says why. */
  | 'failed';

/** Everything but what was asked for goes on without it. */
export class ObserveError extends CodedError<ObserveErrorCode> {}

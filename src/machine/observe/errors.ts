import { CodedError } from '../../base/errors.ts';

export type ObserveErrorCode =
  /** Root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, is missing, or a container's seccomp filter refuses. */
  | 'not_permitted'
  /** libbpf1 is not installed. */
  | 'no_library'
  /** The kernel has no type information (CONFIG_DEBUG_INFO_BTF). */
  | 'no_btf'
  /** No shipped object fits the sources, and there is no clang and no cached object. */
  | 'no_compiler'
  /** clang fails, usually for missing headers. */
  | 'compile_failed'
  /** The kernel lacks a hook, or its types do not match. */
  | 'unsupported'
  /** This pid namespace is not the kernel's initial one. */
  | 'other_processes'
  /** Too many processes or interfaces are watched at once. */
  | 'full'
  /** The interface is gone. */
  | 'no_link'
  /** The interface is already watched, or has another XDP program. */
  | 'taken'
  /** The kernel refuses a program; the cause says why. */
  | 'failed';

/** Only the requested probe fails; everything else continues. */
export class ObserveError extends CodedError<ObserveErrorCode> {}

/**
 * TC programs for kernels without TCX (before Linux 6.6): filters of the queueing discipline clsact, by libbpf's
 * bpf_tc_… (libbpf.h). No descriptor holds them: they stay until they or their interface are removed. Only for
 * interfaces that do not outlive their purpose.
 */
import { ignore } from '../../base/ignore.ts';
import { SyscallError } from '../libc.ts';
import { checked, lib } from './libbpf.ts';

/** BPF_TC_INGRESS, BPF_TC_EGRESS. */
const POINTS = { ingress: 1, egress: 2 } as const;
export type TcWay = keyof typeof POINTS;
/** struct bpf_tc_hook: size_t sz; int ifindex; enum attach_point; u32 parent; padding. */
const HOOK = { bytes: 24, linkIndex: 8, point: 12 } as const;
/** struct bpf_tc_opts: size_t sz; int prog_fd; u32 flags, prog_id, handle, priority; padding. */
const OPTIONS = { bytes: 32, programFd: 8, handle: 20, priority: 24 } as const;
/** Our filter, one per direction of an interface: a second one is refused. */
const HANDLE = 1;
const PRIORITY = 0x6e76;

/**
 * @returns a function that detaches it, which also works if its interface is gone
 * @throws SyscallError `EEXIST`: one of ours is attached; `ENODEV`; `ENOENT`: this kernel has no clsact
 */
export function attachByClsact(programFd: number, linkIndex: number, way: TcWay): () => void {
  const isNew = createHook(hook(linkIndex, POINTS[way]));
  const attempt = `attach to ${way} of ${linkIndex}`;
  try {
    checked(lib().tcAttach(hook(linkIndex, POINTS[way]), options(programFd)), attempt);
  } catch (error) {
    if (isNew) destroyHook(linkIndex);
    throw error;
  }
  return () => {
    const result = lib().tcDetach(hook(linkIndex, POINTS[way]), options(0));
    if (result < 0) ignore(result, 'the interface is gone, and the filter with it');
    // Also removes other programs' filters, which our interfaces do not have.
    if (isNew) destroyHook(linkIndex);
  };
}

/** @returns false if it existed. @throws SyscallError */
function createHook(bytes: Uint8Array): boolean {
  const result = lib().tcHookCreate(bytes);
  if (result === -EEXIST) return false;
  checked(result, 'make a queueing discipline clsact');
  return true;
}

const EEXIST = 17;

function destroyHook(linkIndex: number): void {
  const result = lib().tcHookDestroy(hook(linkIndex, POINTS.ingress | POINTS.egress));
  if (result < 0) ignore(new SyscallError('remove clsact', -result), 'the interface is gone');
}

function hook(linkIndex: number, point: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(HOOK.bytes));
  view.setBigUint64(0, BigInt(HOOK.bytes), true);
  view.setInt32(HOOK.linkIndex, linkIndex, true);
  view.setUint32(HOOK.point, point, true);
  return new Uint8Array(view.buffer);
}

/** @param programFd 0: to detach */
function options(programFd: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(OPTIONS.bytes));
  view.setBigUint64(0, BigInt(OPTIONS.bytes), true);
  view.setInt32(OPTIONS.programFd, programFd, true);
  view.setUint32(OPTIONS.handle, HANDLE, true);
  view.setUint32(OPTIONS.priority, PRIORITY, true);
  return new Uint8Array(view.buffer);
}

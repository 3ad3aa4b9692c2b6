/**
 * Parses the kernel's audit record of a syscall that a seccomp filter refused or logged (`audit_seccomp` in
 * kernel/auditsc.c). Pure.
 */

export interface SeccompRecord {
  /** Time of the call, milliseconds since 1970. */
  readonly atMs: number;
  /** Pid in the initial pid namespace. */
  readonly pid: number;
  /** Syscall number on architecture `arch`. */
  readonly syscall: number;
  /** AUDIT_ARCH_… */
  readonly arch: number;
  /** Address of the calling instruction, `0x…`. */
  readonly address: string;
  /** `logged`: the call was allowed. */
  readonly action: 'refused' | 'logged';
}

export const AUDIT_SECCOMP = 1326;
/** `nlmsghdr` of linux/netlink.h: u32 length, u16 type, … */
const HEADER_BYTES = 16;
const RECORD_BYTES_MAX = 4 * 1024;
/** linux/seccomp.h, without the data of the action. */
const ACTION = 0xffff_0000;
const RET_LOG = 0x7ffc_0000;

/** @returns undefined for another record or an unknown format */
export function parseSeccompRecord(datagram: Uint8Array): SeccompRecord | undefined {
  if (datagram.length < HEADER_BYTES || datagram.length > RECORD_BYTES_MAX) return undefined;
  const header = new DataView(datagram.buffer, datagram.byteOffset, HEADER_BYTES);
  if (header.getUint16(4, true) !== AUDIT_SECCOMP) return undefined;
  const text = Buffer.from(datagram.subarray(HEADER_BYTES)).toString('latin1');
  // Matched after the names that the process chose: these are quoted, or have no space.
  const fields =
    /^audit\((\d+)\.(\d{1,3}):\d+\):.* pid=(\d+) comm=.* sig=\d+ arch=([0-9a-f]+) syscall=(\d+) compat=\d+ ip=(0x[0-9a-f]+) code=0x([0-9a-f]+)\0*$/.exec(
      text,
    );
  if (fields === null) return undefined;
  const [seconds, ms, pid, arch, syscall, address = '', code] = fields.slice(1);
  const action = (Number.parseInt(code ?? '', 16) & ACTION) >>> 0;
  return {
    atMs: Number(seconds) * 1000 + Number(ms),
    pid: Number(pid),
    syscall: Number(syscall),
    arch: Number.parseInt(arch ?? '', 16),
    address,
    action: action === RET_LOG ? 'logged' : 'refused',
  };
}

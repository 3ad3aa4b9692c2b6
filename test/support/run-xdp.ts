import { check, libc } from '../../src/sys/libc.ts';
import { addressOf } from '../../src/sys/memory.ts';

const cBpf = libc.func('long syscall(long number, int command, void *attributes, uint32_t bytes)');
const SYS_BPF = 321;
const BPF_PROG_TEST_RUN = 10;
/** Maximum size of a frame, in and out. */
const FRAME_BYTES_MAX = 4096;

/** Runs a program once on a frame. @returns its verdict, XDP_*. @throws SyscallError */
export function runXdp(fd: number, frame: Uint8Array): number {
  const [input, output] = [Uint8Array.from(frame).buffer, new ArrayBuffer(FRAME_BYTES_MAX)];
  const attributes = new DataView(new ArrayBuffer(72));
  attributes.setUint32(0, fd, true);
  attributes.setUint32(8, frame.length, true);
  attributes.setUint32(12, FRAME_BYTES_MAX, true);
  attributes.setBigUint64(16, BigInt(addressOf(input)), true);
  attributes.setBigUint64(24, BigInt(addressOf(output)), true);
  const bytes = new Uint8Array(attributes.buffer);
  check(cBpf(SYS_BPF, BPF_PROG_TEST_RUN, bytes, bytes.length), `BPF_PROG_TEST_RUN fd ${fd}`);
  return attributes.getUint32(4, true);
}

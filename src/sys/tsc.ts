/**
 * Measures the frequency of the processor's time stamp counter against the kernel's monotonic clock, since Linux does
 * not expose it to user space.
 */
import { readFileSync } from 'node:fs';
import koffi from 'koffi';

/** rdtsc; shl rdx, 32; or rax, rdx; ret */
const READ_TSC = Uint8Array.of(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3);
/** Twice the error of one sample (about 1 µs) over this time is 40 ppm; Linux refines it later. */
const SPAN_MS_MIN = 50;
const SAMPLES = 5;

interface Sample {
  readonly tsc: bigint;
  readonly ns: bigint;
}

interface TscMeter {
  /** kHz since the meter was created; `null` until enough time has passed. */
  read(): number | null;
}

/** @returns `null` if the counter is not constant or can't be read */
export function startTscMeter(): TscMeter | null {
  if (process.arch !== 'x64' || !hasConstantTsc()) return null;
  reader ??= makeReader();
  const readTsc = reader;
  if (readTsc === null) return null;
  const first = sample(readTsc);
  return {
    read() {
      const now = sample(readTsc);
      const ns = now.ns - first.ns;
      if (ns < BigInt(SPAN_MS_MIN) * 1_000_000n) return null;
      return Number(((now.tsc - first.tsc) * 1_000_000n + ns / 2n) / ns);
    },
  };
}

/** The pair with the smallest distance between its two clock readings. */
function sample(readTsc: () => bigint): Sample {
  let best: Sample | undefined;
  let bestGap = 0n;
  for (let i = 0; i < SAMPLES; i++) {
    const before = process.hrtime.bigint();
    const tsc = readTsc();
    const gap = process.hrtime.bigint() - before;
    if (best === undefined || gap < bestGap) {
      best = { tsc, ns: before + gap / 2n };
      bestGap = gap;
    }
  }
  return best ?? { tsc: 0n, ns: 0n };
}

function hasConstantTsc(): boolean {
  const cpuinfo = readFileSync('/proc/cpuinfo', 'latin1');
  return /^flags\s*:.*\bconstant_tsc\b/m.test(cpuinfo) && /\bnonstop_tsc\b/.test(cpuinfo);
}

/** Created once: the page is never freed, and koffi accepts each prototype's name once. */
let reader: (() => bigint) | null = null;

/** One page of code that lives as long as the process; `null` if the kernel forbids it. */
function makeReader(): (() => bigint) | null {
  const libc = koffi.load('libc.so.6');
  const mmap = libc.func('intptr_t mmap(uintptr_t, size_t, int, int, int, int64_t)');
  const mprotect = libc.func('int mprotect(uintptr_t, size_t, int)');
  const address = Number(mmap(0, PAGE_BYTES, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0));
  if (address === -1) return null;
  new Uint8Array(koffi.view(BigInt(address), PAGE_BYTES)).set(READ_TSC);
  if (mprotect(address, PAGE_BYTES, PROT_READ_EXEC) !== 0) return null;
  const readTsc = koffi.decode(BigInt(address), koffi.proto('uint64_t neurovisor_read_tsc(void)'));
  return () => BigInt(readTsc());
}

const PAGE_BYTES = 4_096;
const PROT_READ_WRITE = 3;
const PROT_READ_EXEC = 5;
const MAP_PRIVATE_ANONYMOUS = 0x22;

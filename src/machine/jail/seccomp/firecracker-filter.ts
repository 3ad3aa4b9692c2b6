/**
 * Writes the file for Firecracker's `--seccomp-filter`, from 1.15 on: the format of its own compiler, a dump of a map of
 * thread to instructions, each a u64 (`struct sock_filter`), by the Rust crate bitcode. Pure.
 *
 *     u8 threads · lengths of names · names · counts of instructions · instructions
 *
 * All numbers are little-endian. Firecracker requires these three threads and reads at most 100000 bytes, more than
 * three programs of maximum length.
 */
import { type CompiledFilter, compileProfile } from './compile.ts';
import { invalid, type Profile } from './profile.ts';
import type { Architecture } from './syscalls.ts';

/** In the order of the map. */
const FIRECRACKER_THREADS = ['api', 'vcpu', 'vmm'] as const;

/** Groups up to this size are bare bytes; larger ones begin with their packing. */
const BARE_MAX = 2;
/** Marks unpacked bytes. */
const UNPACKED = 0;
/** In a group of bytes, marks a value in the following group of u64. */
const WIDE = 255;

/**
 * @param profile with exactly Firecracker's threads
 * @throws JailError `profile_invalid`, `profile_too_large`
 */
export function firecrackerFilter(profile: Profile, arch: Architecture): Uint8Array<ArrayBuffer> {
  const other = [...profile.keys()].find((name) => !isThread(name));
  if (other !== undefined)
    throw invalid(`Firecracker has no thread "${other}", only ${FIRECRACKER_THREADS.join(', ')}`);
  const threads = FIRECRACKER_THREADS.map((name) => {
    const filter = profile.get(name);
    if (filter === undefined) throw invalid(`no filter for Firecracker's thread "${name}"`);
    return { name, compiled: compileProfile(filter, arch) };
  });
  return Uint8Array.from(bytesOf(threads));
}

interface CompiledThread {
  readonly name: string;
  readonly compiled: CompiledFilter;
}

function bytesOf(threads: readonly CompiledThread[]): number[] {
  return [
    threads.length,
    ...lengthsOf(threads.map(({ name }) => name.length)),
    ...threads.flatMap(({ name }) => [...Buffer.from(name)]),
    ...lengthsOf(threads.map(({ compiled }) => compiled.instructions)),
    UNPACKED,
    ...threads.flatMap(({ compiled }) => [...compiled.program]),
  ];
}

/** One byte each; larger ones follow in their own group. */
function lengthsOf(lengths: readonly number[]): number[] {
  const wide = lengths.filter((length) => length >= WIDE);
  return [
    ...(lengths.length > BARE_MAX ? [UNPACKED] : []),
    ...lengths.map((length) => Math.min(length, WIDE)),
    ...(wide.length === 0 ? [] : [UNPACKED, ...wide.flatMap(u64)]),
  ];
}

function u64(value: number): number[] {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(value), true);
  return [...new Uint8Array(view.buffer)];
}

function isThread(name: string): name is (typeof FIRECRACKER_THREADS)[number] {
  return FIRECRACKER_THREADS.some((each) => each === name);
}

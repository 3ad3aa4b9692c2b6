/**
 * Writes the file for Firecracker's `--seccomp-filter`: the format of its own compiler, a dump of Rust structs in one of
 * two encodings. Pure. It is a map of thread to instructions, each a u64 (`struct sock_filter`):
 *
 *     up to 1.14, bincode   u64 threads · for each: u64 length, name, u64 instructions, instructions
 *     from 1.15, bitcode    u8 threads · lengths of names · names · counts of instructions · instructions
 *
 * All numbers are little-endian. Firecracker requires these three threads and reads at most 100000 bytes, more than
 * three programs of maximal length.
 */
import { type CompiledFilter, compileProfile } from './compile.ts';
import { invalid, type Profile } from './profile.ts';
import type { Architecture } from './syscalls.ts';

/** In the order of bitcode's map. */
const FIRECRACKER_THREADS = ['api', 'vcpu', 'vmm'] as const;

export type FilterFormat = 'bincode' | 'bitcode';

/** The first version that reads bitcode. */
const BITCODE_SINCE = [1, 15] as const;
/** bitcode: groups up to this size are bare bytes; larger ones begin with their packing. */
const BARE_MAX = 2;
/** bitcode: unpacked bytes. */
const UNPACKED = 0;
/** bitcode: in a group of bytes, marks a value in the following group of u64. */
const WIDE = 255;

/** @param version e.g. `1.16.1`, as `firecracker --version` prints it */
export function filterFormatOf(version: string): FilterFormat {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const isNew =
    major > BITCODE_SINCE[0] || (major === BITCODE_SINCE[0] && minor >= BITCODE_SINCE[1]);
  return isNew ? 'bitcode' : 'bincode';
}

/**
 * @param profile with exactly the threads of Firecracker
 * @throws JailError `profile_invalid`, `profile_too_large`
 */
export function firecrackerFilter(
  profile: Profile,
  format: FilterFormat,
  arch: Architecture,
): Uint8Array<ArrayBuffer> {
  const other = [...profile.keys()].find((name) => !isThread(name));
  if (other !== undefined)
    throw invalid(`Firecracker has no thread "${other}", only ${FIRECRACKER_THREADS.join(', ')}`);
  const threads = FIRECRACKER_THREADS.map((name) => {
    const filter = profile.get(name);
    if (filter === undefined) throw invalid(`no filter for Firecracker's thread "${name}"`);
    return { name, compiled: compileProfile(filter, arch) };
  });
  return Uint8Array.from(format === 'bincode' ? bincode(threads) : bitcode(threads));
}

interface CompiledThread {
  readonly name: string;
  readonly compiled: CompiledFilter;
}

function bincode(threads: readonly CompiledThread[]): number[] {
  return [
    ...u64(threads.length),
    ...threads.flatMap(({ name, compiled }) => [
      ...u64(name.length),
      ...Buffer.from(name),
      ...u64(compiled.instructions),
      ...compiled.program,
    ]),
  ];
}

function bitcode(threads: readonly CompiledThread[]): number[] {
  return [
    threads.length,
    ...bitcodeLengths(threads.map(({ name }) => name.length)),
    ...threads.flatMap(({ name }) => [...Buffer.from(name)]),
    ...bitcodeLengths(threads.map(({ compiled }) => compiled.instructions)),
    UNPACKED,
    ...threads.flatMap(({ compiled }) => [...compiled.program]),
  ];
}

/** One byte each; larger ones follow in their own group. */
function bitcodeLengths(lengths: readonly number[]): number[] {
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

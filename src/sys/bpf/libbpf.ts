/**
 * libbpf.so.1 by FFI (libbpf.h, bpf.h of libbpf 1.0 and later): it opens and relocates objects that clang made, and the
 * kernel verifies them. Calls block their thread for milliseconds at most.
 *
 * Ownership: `BpfObject` owns an object, with its programs and maps; their descriptors are valid until `close`. The
 * caller owns descriptors of links; a link holds its program and ends with its descriptor. All are closed on exec.
 * libbpf calls back only from inside `RingBuffer.consume`, and keeps no buffer of ours except the verifier's log, which
 * the object keeps alive.
 */
import koffi from 'koffi';
import { CodedError } from '../../base/errors.ts';
import { SyscallError } from '../libc.ts';

/** `no_library`: libbpf1 is not installed; `no_symbol`: an object lacks a map, program or struct. */
type LibbpfErrorCode = 'no_library' | 'no_symbol';
export class LibbpfError extends CodedError<LibbpfErrorCode> {}

/** Addresses in the forms of koffi. */
export type Pointer = bigint | number;
const ENOENT = 2;
let bound: ReturnType<typeof bind> | undefined;

/** @throws LibbpfError `no_library` */
export function lib(): ReturnType<typeof bind> {
  bound ??= bind();
  return bound;
}

function bind() {
  const library = load();
  const pointer = 'uintptr_t';
  const ringCallback = koffi.proto('int neurovisor_ring_sample(uintptr_t context, uintptr_t data, size_t bytes)');
  const functions = {
    openFile: library.func(`${pointer} bpf_object__open_file(const char *path, void *options)`),
    load: library.func(`int bpf_object__load(${pointer} object)`),
    close: library.func(`void bpf_object__close(${pointer} object)`),
    findProgram: library.func(`${pointer} bpf_object__find_program_by_name(${pointer} object, const char *name)`),
    programFd: library.func(`int bpf_program__fd(${pointer} program)`),
    setAutoload: library.func(`int bpf_program__set_autoload(${pointer} program, bool autoload)`),
    findMap: library.func(`${pointer} bpf_object__find_map_by_name(${pointer} object, const char *name)`),
    mapFd: library.func(`int bpf_map__fd(${pointer} map)`),
    mapValueBytes: library.func(`uint32_t bpf_map__value_size(${pointer} map)`),
    setMaxEntries: library.func(`int bpf_map__set_max_entries(${pointer} map, uint32_t entries)`),
    linkCreate: library.func('int bpf_link_create(int program, int target, int attachType, void *options)'),
    tcHookCreate: library.func('int bpf_tc_hook_create(void *hook)'),
    tcHookDestroy: library.func('int bpf_tc_hook_destroy(void *hook)'),
    tcAttach: library.func('int bpf_tc_attach(const void *hook, _Inout_ void *options)'),
    tcDetach: library.func('int bpf_tc_detach(const void *hook, const void *options)'),
    rawTracepoint: library.func('int bpf_raw_tracepoint_open(const char *name, int program)'),
    lookup: library.func('int bpf_map_lookup_elem(int map, const void *key, void *value)'),
    update: library.func('int bpf_map_update_elem(int map, const void *key, const void *value, uint64_t flags)'),
    delete: library.func('int bpf_map_delete_elem(int map, const void *key)'),
    nextKey: library.func('int bpf_map_get_next_key(int map, const void *key, void *next)'),
    nextMapId: library.func('int bpf_map_get_next_id(uint32_t id, void *next)'),
    mapById: library.func('int bpf_map_get_fd_by_id(uint32_t id)'),
    info: library.func('int bpf_obj_get_info_by_fd(int fd, void *info, void *bytes)'),
    enableStats: library.func('int bpf_enable_stats(int type)'),
    cpus: library.func('int libbpf_num_possible_cpus(void)'),
    setPrint: library.func(`${pointer} libbpf_set_print(${pointer} print)`),
    ringNew: library.func(
      `${pointer} ring_buffer__new(int map, neurovisor_ring_sample *sample, ${pointer} context, ${pointer} options)`,
    ),
    ringConsume: library.func(`int ring_buffer__consume(${pointer} ring)`),
    ringFree: library.func(`void ring_buffer__free(${pointer} ring)`),
    btf: library.func(`${pointer} bpf_object__btf(${pointer} object)`),
    btfFind: library.func(`int btf__find_by_name_kind(${pointer} btf, const char *name, uint32_t kind)`),
    btfType: library.func(`${pointer} btf__type_by_id(${pointer} btf, uint32_t id)`),
    btfName: library.func(`const char *btf__name_by_offset(${pointer} btf, uint32_t offset)`),
    btfSize: library.func(`int64_t btf__resolve_size(${pointer} btf, uint32_t id)`),
  };
  // Not to stderr: our errors have the reason.
  functions.setPrint(0);
  return { ...functions, ringCallback };
}

function load(): ReturnType<typeof koffi.load> {
  try {
    return koffi.load('libbpf.so.1');
  } catch (cause) {
    const remedy = 'Install libbpf1 (Debian, Ubuntu: apt-get install libbpf1).';
    throw new LibbpfError('no_library', 'load libbpf.so.1', { cause, remedy });
  }
}

/** BPF_OBJ_GET_INFO_BY_FD. @throws SyscallError */
export function readInfo(fd: number, bytes: number): DataView<ArrayBuffer> {
  const info = new Uint8Array(bytes);
  const length = Uint32Array.of(bytes);
  checked(lib().info(fd, info, length), `read the info of descriptor ${fd}`);
  return new DataView(info.buffer);
}

/** libbpf 1 returns −errno. */
export function checked(result: number, attempt: string): number {
  if (result < 0) throw new SyscallError(attempt, -result);
  return result;
}

/** @returns false for ENOENT. @throws SyscallError for any other error */
export function present(result: number, attempt: string): boolean {
  if (result === -ENOENT) return false;
  checked(result, attempt);
  return true;
}

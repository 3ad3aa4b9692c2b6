/**
 * libbpf.so.1 by FFI (libbpf.h, bpf.h of libbpf 1.0 and later): it opens and relocates objects that clang
 * made, and the kernel verifies them. Calls block their thread for milliseconds at most.
 *
 * Who owns what: an object is `BpfObject`'s and frees its programs and maps; their descriptors are valid until
 * `close`. Descriptors of links are the caller's; a link holds its program and ends with its descriptor. All
 * are closed by exec. libbpf calls back only from inside `RingBuffer.consume`, and keeps no buffer of ours but
 * the one for the verifier's log, which the object holds.
 */
import koffi from 'koffi';
import { CodedError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { closeFd } from './fd.ts';
import { SyscallError } from './libc.ts';
import { addressOf } from './memory.ts';

/** `no_library`: libbpf1 is not installed; `no_symbol`: an object lacks what we look for in it. */
export type LibbpfErrorCode = 'no_library' | 'no_symbol';
export class LibbpfError extends CodedError<LibbpfErrorCode> {}

/** enum bpf_attach_type (linux/bpf.h); TCX since Linux 6.6. */
export const ATTACH = { xdp: 37, tcxIngress: 46, tcxEgress: 47 } as const;
/** XDP_FLAGS_* (linux/if_link.h); 0: the driver's own where it has XDP, else generic. */
export const XDP_FLAGS = { any: 0, generic: 2, driver: 4 };
/** BPF_ANY, BPF_NOEXIST. */
const UPDATE = { any: 0n, new: 1n } as const;
const STATS_RUN_TIME = 0;
/** BTF_KIND_STRUCT. */
const KIND_STRUCT = 4;
/** struct bpf_object_open_opts: offsets, and its length with kernel_log_level and padding. */
const OPEN_OPTIONS = { btfPath: 48, log: 56, logBytes: 64 } as const;
const OPEN_OPTIONS_BYTES = 80;
/** struct bpf_link_create_opts: sz, flags, iter_info, iter_info_len, target_btf_id, then a union of 24 bytes. */
const LINK_OPTIONS_BYTES = 56;
/** struct bpf_prog_info up to run_cnt. */
const PROGRAM_INFO_BYTES = 208;
/** struct bpf_map_info up to its name. */
const MAP_INFO_BYTES = 80;
const LOG_BYTES = 256 * 1024;
/** Of the verifier's log, in an error: its end says why. */
const LOG_CHARACTERS_MAX = 600;

type Pointer = bigint | number;
let bound: ReturnType<typeof bind> | undefined;

/** @throws LibbpfError `no_library` */
function lib(): ReturnType<typeof bind> {
  bound ??= bind();
  return bound;
}

function bind() {
  const library = load();
  const pointer = 'uintptr_t';
  const ringCallback = koffi.proto(
    'int neurovisor_ring_sample(uintptr_t context, uintptr_t data, size_t bytes)',
  );
  const functions = {
    openFile: library.func(`${pointer} bpf_object__open_file(const char *path, void *options)`),
    load: library.func(`int bpf_object__load(${pointer} object)`),
    close: library.func(`void bpf_object__close(${pointer} object)`),
    findProgram: library.func(
      `${pointer} bpf_object__find_program_by_name(${pointer} object, const char *name)`,
    ),
    programFd: library.func(`int bpf_program__fd(${pointer} program)`),
    setAutoload: library.func(`int bpf_program__set_autoload(${pointer} program, bool autoload)`),
    findMap: library.func(
      `${pointer} bpf_object__find_map_by_name(${pointer} object, const char *name)`,
    ),
    mapFd: library.func(`int bpf_map__fd(${pointer} map)`),
    mapValueBytes: library.func(`uint32_t bpf_map__value_size(${pointer} map)`),
    setMaxEntries: library.func(`int bpf_map__set_max_entries(${pointer} map, uint32_t entries)`),
    linkCreate: library.func(
      'int bpf_link_create(int program, int target, int attachType, void *options)',
    ),
    rawTracepoint: library.func('int bpf_raw_tracepoint_open(const char *name, int program)'),
    lookup: library.func('int bpf_map_lookup_elem(int map, const void *key, void *value)'),
    update: library.func(
      'int bpf_map_update_elem(int map, const void *key, const void *value, uint64_t flags)',
    ),
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
    btfFind: library.func(
      `int btf__find_by_name_kind(${pointer} btf, const char *name, uint32_t kind)`,
    ),
    btfType: library.func(`${pointer} btf__type_by_id(${pointer} btf, uint32_t id)`),
    btfName: library.func(`const char *btf__name_by_offset(${pointer} btf, uint32_t offset)`),
    btfSize: library.func(`int64_t btf__resolve_size(${pointer} btf, uint32_t id)`),
  };
  // It would write to stderr; what went wrong is in our errors.
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

export interface OpenOptions {
  /** Entries of a map by its name, instead of what the object says. */
  readonly maxEntries?: Readonly<Record<string, number>>;
  /** Types of another kernel than the running one. */
  readonly btfPath?: string;
  /** Programs that are not loaded. */
  readonly without?: readonly string[];
}

/** A field of a struct, as the object's BTF has it. */
export interface Field {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** An object file, loaded into the kernel. */
export class BpfObject {
  readonly #name: string;
  readonly #object: Pointer;
  readonly #log = new ArrayBuffer(LOG_BYTES);
  #closed = false;

  /**
   * @param path of an object that clang made
   * @throws LibbpfError `no_library`, `no_symbol`: a map or program of the options is not there
   * @throws SyscallError `ENOENT`, `EINVAL`: no such or no whole file; `EPERM`; `EACCES`, `EINVAL`, …: the
   * kernel refuses a program, why is in the message; `ESRCH`: its types are not those that it was made for
   */
  constructor(path: string, options: OpenOptions = {}) {
    const name = path.slice(path.lastIndexOf('/') + 1);
    this.#name = name;
    const { btfPath, maxEntries = {}, without = [] } = options;
    const btf = btfPath === undefined ? undefined : Uint8Array.from(Buffer.from(`${btfPath}\0`));
    const settings = new DataView(new ArrayBuffer(OPEN_OPTIONS_BYTES));
    settings.setBigUint64(0, BigInt(OPEN_OPTIONS_BYTES), true);
    if (btf !== undefined)
      settings.setBigUint64(OPEN_OPTIONS.btfPath, BigInt(addressOf(btf.buffer)), true);
    settings.setBigUint64(OPEN_OPTIONS.log, BigInt(addressOf(this.#log)), true);
    settings.setBigUint64(OPEN_OPTIONS.logBytes, BigInt(LOG_BYTES), true);
    this.#object = lib().openFile(path, new Uint8Array(settings.buffer));
    if (Number(this.#object) === 0) throw new SyscallError(`open ${name}`, koffi.errno());
    try {
      for (const [map, entries] of Object.entries(maxEntries))
        this.#must(lib().setMaxEntries(this.#map(map), entries), `set entries of ${map}`);
      for (const program of without)
        this.#must(lib().setAutoload(this.#program(program), false), `leave out ${program}`);
      const result = lib().load(this.#object);
      if (result < 0) throw new SyscallError(`load ${name}${this.#logEnd()}`, -result);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** @returns a descriptor of the object's. @throws LibbpfError `no_symbol` */
  programFd(name: string): number {
    return lib().programFd(this.#program(name));
  }

  /** @returns a descriptor of the object's. @throws LibbpfError `no_symbol` */
  mapFd(name: string): number {
    return lib().mapFd(this.#map(name));
  }

  /** @throws LibbpfError `no_symbol` */
  mapValueBytes(name: string): number {
    return lib().mapValueBytes(this.#map(name));
  }

  /** Fields of a struct in the order of their offsets. @throws LibbpfError `no_symbol` */
  structFields(name: string): { readonly bytes: number; readonly fields: readonly Field[] } {
    const btf = lib().btf(this.#object);
    const id = lib().btfFind(btf, name, KIND_STRUCT);
    if (id < 0) throw new LibbpfError('no_symbol', `find struct ${name} in ${this.#name}`);
    // struct btf_type: u32 name, u32 info (its low 16 bits: members), u32 size; then members of 12 bytes
    // each: u32 name, u32 type, u32 offset in bits (linux/btf.h). The memory is the object's.
    const address = Number(lib().btfType(btf, id));
    const count = new DataView(koffi.view(address, 12)).getUint32(4, true) & 0xffff;
    const view = new DataView(koffi.view(address, 12 + 12 * count));
    const fields = Array.from({ length: count }, (_, index): Field => {
      const at = 12 + 12 * index;
      return {
        name: lib().btfName(btf, view.getUint32(at, true)) ?? '',
        offset: view.getUint32(at + 8, true) / 8,
        bytes: Number(lib().btfSize(btf, view.getUint32(at + 4, true))),
      };
    });
    return { bytes: view.getUint32(8, true), fields };
  }

  /** Programs and maps that nothing else holds end. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    lib().close(this.#object);
  }

  #program(name: string): Pointer {
    return this.#symbol(lib().findProgram(this.#object, name), `program ${name}`);
  }

  #map(name: string): Pointer {
    return this.#symbol(lib().findMap(this.#object, name), `map ${name}`);
  }

  #symbol(found: Pointer, what: string): Pointer {
    if (Number(found) !== 0) return found;
    throw new LibbpfError('no_symbol', `find ${what} in ${this.#name}`);
  }

  #must(result: number, what: string): void {
    if (result < 0) throw new SyscallError(`${what} of ${this.#name}`, -result);
  }

  #logEnd(): string {
    const [text = ''] = Buffer.from(this.#log).toString('latin1').split('\0');
    const end = text.trim().slice(-LOG_CHARACTERS_MAX).replaceAll('\n', '; ');
    return end === '' ? '' : ` (${end})`;
  }
}

/**
 * Attaches a program to a network interface.
 * @returns the descriptor of a link
 * @throws SyscallError `EBUSY`, `EEXIST`: another XDP program is there; `EINVAL`: this kernel has no such place
 */
export function attachToLink(
  programFd: number,
  linkIndex: number,
  place: number,
  flags: number = XDP_FLAGS.any,
): number {
  const options = new DataView(new ArrayBuffer(LINK_OPTIONS_BYTES));
  options.setBigUint64(0, BigInt(LINK_OPTIONS_BYTES), true);
  options.setUint32(8, flags, true);
  const given = place === ATTACH.xdp ? new Uint8Array(options.buffer) : null;
  return checked(lib().linkCreate(programFd, linkIndex, place, given), `attach to ${linkIndex}`);
}

/** @returns the descriptor of a link. @throws SyscallError `ENOENT`: this kernel has no such tracepoint */
export function attachToTracepoint(programFd: number, name: string): number {
  return checked(lib().rawTracepoint(name, programFd), `attach to tracepoint ${name}`);
}

/** The kernel counts calls and time of programs until the descriptor is closed. @throws SyscallError */
export function countRunTime(): number {
  return checked(lib().enableStats(STATS_RUN_TIME), 'count the run time of BPF programs');
}

/** Since it was loaded, while `countRunTime` was on. `ns` includes none of the way there. @throws SyscallError */
export function programRunTime(programFd: number): { readonly runs: bigint; readonly ns: bigint } {
  const info = readInfo(programFd, PROGRAM_INFO_BYTES);
  return { ns: info.getBigUint64(192, true), runs: info.getBigUint64(200, true) };
}

/** How many values a per-CPU map has for each key. */
export function possibleCpus(): number {
  return checked(lib().cpus(), 'count processors');
}

/** A map by its descriptor, which stays the caller's. Keys and values are bytes of the lengths that it has. */
export class BpfMap {
  readonly fd: number;
  readonly #keyBytes: number;
  readonly #valueBytes: number;

  /** @param valueBytes of all processors together, where it is a per-CPU map */
  constructor(fd: number, sizes: { readonly keyBytes: number; readonly valueBytes: number }) {
    this.fd = fd;
    this.#keyBytes = sizes.keyBytes;
    this.#valueBytes = sizes.valueBytes;
  }

  /** @returns undefined when there is none. @throws SyscallError */
  get(key: Uint8Array): DataView<ArrayBuffer> | undefined {
    const value = new Uint8Array(this.#valueBytes);
    const result = lib().lookup(this.fd, key, value);
    return present(result, `look up in map ${this.fd}`) ? new DataView(value.buffer) : undefined;
  }

  /** @throws SyscallError `E2BIG`: the map is full; `EEXIST` for `new` */
  set(key: Uint8Array, value: Uint8Array, how: keyof typeof UPDATE = 'any'): void {
    checked(lib().update(this.fd, key, value, UPDATE[how]), `change map ${this.fd}`);
  }

  /** @returns whether it was there. @throws SyscallError */
  delete(key: Uint8Array): boolean {
    return present(lib().delete(this.fd, key), `delete from map ${this.fd}`);
  }

  /** A key that is deleted meanwhile may make it begin again; so a limit. @throws SyscallError */
  keys(max: number): Uint8Array[] {
    const keys: Uint8Array[] = [];
    let last: Uint8Array | null = null;
    while (keys.length < max) {
      const next = new Uint8Array(this.#keyBytes);
      if (!present(lib().nextKey(this.fd, last, next), `list map ${this.fd}`)) break;
      keys.push(next);
      last = next;
    }
    return keys;
  }
}

/**
 * Maps of this host with a name, of whatever process.
 * @returns descriptors that are the caller's
 * @throws SyscallError `EPERM`
 */
export function openMapsNamed(name: string): number[] {
  const found: number[] = [];
  const next = new Uint32Array(1);
  let id = 0;
  while (present(lib().nextMapId(id, next), 'list BPF maps')) {
    id = next[0] ?? 0;
    const fd = lib().mapById(id);
    // It may have ended meanwhile.
    if (fd < 0) continue;
    if (nameOfMap(fd) === name) found.push(fd);
    else closeFd(fd);
  }
  return found;
}

function nameOfMap(fd: number): string | undefined {
  const bytes = new Uint8Array(readInfo(fd, MAP_INFO_BYTES).buffer).subarray(24, 40);
  return Buffer.from(bytes).toString('latin1').split('\0')[0];
}

/** Samples of a ring buffer map, taken when asked. */
export class RingBuffer {
  readonly #ring: Pointer;
  readonly #callback: ReturnType<typeof koffi.register>;
  #taken: Uint8Array[] = [];

  /** @throws SyscallError */
  constructor(mapFd: number) {
    const sample = (_context: Pointer, data: Pointer, bytes: Pointer): number => {
      // The memory is the ring's only until this returns.
      this.#taken.push(Uint8Array.from(new Uint8Array(koffi.view(Number(data), Number(bytes)))));
      return 0;
    };
    this.#callback = koffi.register(sample, koffi.pointer(lib().ringCallback));
    this.#ring = lib().ringNew(mapFd, this.#callback, 0, 0);
    if (Number(this.#ring) === 0) {
      const errno = koffi.errno();
      koffi.unregister(this.#callback);
      throw new SyscallError(`open ring buffer ${mapFd}`, errno);
    }
  }

  /** All that are there, oldest first; at most as many as the ring holds, and those that come meanwhile. */
  consume(): readonly Uint8Array[] {
    const result = lib().ringConsume(this.#ring);
    const taken = this.#taken;
    this.#taken = [];
    if (result < 0) ignore(result, 'a ring buffer that can not be read');
    return taken;
  }

  close(): void {
    lib().ringFree(this.#ring);
    koffi.unregister(this.#callback);
  }
}

function readInfo(fd: number, bytes: number): DataView<ArrayBuffer> {
  const info = new Uint8Array(bytes);
  const length = Uint32Array.of(bytes);
  checked(lib().info(fd, info, length), `read what descriptor ${fd} is`);
  return new DataView(info.buffer);
}

/** libbpf 1 gives −errno. */
function checked(result: number, attempt: string): number {
  if (result < 0) throw new SyscallError(attempt, -result);
  return result;
}

const ENOENT = 2;

function present(result: number, attempt: string): boolean {
  if (result === -ENOENT) return false;
  checked(result, attempt);
  return true;
}

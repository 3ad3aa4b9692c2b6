/** Loads objects that clang made, and attaches their programs; see `libbpf.ts`. */
import koffi from 'koffi';
import { SyscallError } from '../libc.ts';
import { addressOf } from '../memory.ts';
import { checked, LibbpfError, lib, type Pointer, readInfo } from './libbpf.ts';

/** enum bpf_attach_type (linux/bpf.h); TCX since Linux 6.6. */
export const ATTACH = { xdp: 37, tcxIngress: 46, tcxEgress: 47 } as const;
/** XDP_FLAGS_* (linux/if_link.h); 0: native if the driver has XDP, else generic. */
export const XDP_FLAGS = { any: 0, generic: 2, driver: 4 };
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
const LOG_BYTES = 256 * 1024;
/** Length of the verifier's log in an error: its end has the reason. */
const LOG_CHARACTERS_MAX = 600;

interface OpenOptions {
  /** Number of entries by map name, instead of the object's. */
  readonly maxEntries?: Readonly<Record<string, number>>;
  /** BTF of another kernel than the running one. */
  readonly btfPath?: string;
  /** Programs to omit. */
  readonly without?: readonly string[];
}

export interface Field {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** An object file, loaded into the kernel. */
export class BpfObject {
  readonly #name: string;
  readonly #object: Pointer;
  /** Kept alive: libbpf has only their addresses. */
  readonly #log = new ArrayBuffer(LOG_BYTES);
  readonly #btfPath: ArrayBuffer | undefined;
  #closed = false;

  /**
   * @param path of an object that clang made
   * @throws LibbpfError `no_library`; `no_symbol` if a map or program of the options is missing
   * @throws SyscallError `ENOENT`, `EINVAL`: the file is missing or incomplete; `EPERM`; `EACCES`, `EINVAL`, …: the
   * kernel refuses a program, with the reason in the message; `ESRCH`: its types do not match the kernel
   */
  constructor(path: string, options: OpenOptions = {}) {
    const name = path.slice(path.lastIndexOf('/') + 1);
    this.#name = name;
    const { btfPath, maxEntries = {}, without = [] } = options;
    if (btfPath !== undefined) this.#btfPath = Uint8Array.from(Buffer.from(`${btfPath}\0`)).buffer;
    const settings = new DataView(new ArrayBuffer(OPEN_OPTIONS_BYTES));
    settings.setBigUint64(0, BigInt(OPEN_OPTIONS_BYTES), true);
    if (this.#btfPath !== undefined)
      settings.setBigUint64(OPEN_OPTIONS.btfPath, BigInt(addressOf(this.#btfPath)), true);
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

  /** @returns a descriptor, which the object owns. @throws LibbpfError `no_symbol` */
  programFd(name: string): number {
    return lib().programFd(this.#program(name));
  }

  /** @returns a descriptor, which the object owns. @throws LibbpfError `no_symbol` */
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
    // struct btf_type: u32 name, u32 info (its low 16 bits: members), u32 size; then members of 12 bytes each: u32
    // name, u32 type, u32 offset in bits (linux/btf.h). The memory is the object's.
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

  /** Frees programs and maps, unless something else refers to them. */
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
 * Attaches a program to a network interface, on another thread: TCX waits for every processor, tens of milliseconds on
 * a busy host.
 * @param programFd must stay open until then
 * @returns the descriptor of a link
 * @throws SyscallError `EBUSY`, `EEXIST`: another XDP program is attached; `EINVAL`: this kernel has no such hook
 */
export async function attachToLink(
  programFd: number,
  linkIndex: number,
  place: number,
  flags: number = XDP_FLAGS.any,
): Promise<number> {
  const options = new DataView(new ArrayBuffer(LINK_OPTIONS_BYTES));
  options.setBigUint64(0, BigInt(LINK_OPTIONS_BYTES), true);
  options.setUint32(8, flags, true);
  const given = place === ATTACH.xdp ? new Uint8Array(options.buffer) : null;
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  lib().linkCreate.async(programFd, linkIndex, place, given, (error: unknown, result: number) =>
    error === null || error === undefined ? resolve(result) : reject(error),
  );
  return checked(await promise, `attach to ${linkIndex}`);
}

/** @returns the descriptor of a link. @throws SyscallError `ENOENT`: this kernel has no such tracepoint */
export function attachToTracepoint(programFd: number, name: string): number {
  return checked(lib().rawTracepoint(name, programFd), `attach to tracepoint ${name}`);
}

/** Makes the kernel count calls and run time of programs until the descriptor is closed. @throws SyscallError */
export function countRunTime(): number {
  return checked(lib().enableStats(STATS_RUN_TIME), 'count the run time of BPF programs');
}

/** Totals since loading, while `countRunTime` was on. `ns` excludes the way to the program. @throws SyscallError */
export function programRunTime(programFd: number): { readonly runs: bigint; readonly ns: bigint } {
  const info = readInfo(programFd, PROGRAM_INFO_BYTES);
  return { ns: info.getBigUint64(192, true), runs: info.getBigUint64(200, true) };
}

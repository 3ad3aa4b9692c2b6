/** Maps of BPF programs, and the ring buffer of events; see `libbpf.ts`. */
import koffi from 'koffi';
import { ignore } from '../../base/ignore.ts';
import { closeFd } from '../fd.ts';
import { SyscallError } from '../libc.ts';
import { checked, lib, type Pointer, present, readInfo } from './libbpf.ts';

/** BPF_ANY, BPF_NOEXIST. */
const UPDATE = { any: 0n, new: 1n } as const;
/** struct bpf_map_info up to its name. */
const MAP_INFO_BYTES = 80;

/** Values per key of a per-CPU map. */
export function possibleCpus(): number {
  return checked(lib().cpus(), 'count processors');
}

/** A map by its descriptor, which the caller owns. Keys and values have the map's lengths. */
export class BpfMap {
  readonly fd: number;
  readonly #keyBytes: number;
  readonly #valueBytes: number;

  /** @param valueBytes in a per-CPU map: of all processors together */
  constructor(fd: number, sizes: { readonly keyBytes: number; readonly valueBytes: number }) {
    this.fd = fd;
    this.#keyBytes = sizes.keyBytes;
    this.#valueBytes = sizes.valueBytes;
  }

  /** @returns undefined if there is none. @throws SyscallError */
  get(key: Uint8Array): DataView<ArrayBuffer> | undefined {
    const value = new Uint8Array(this.#valueBytes);
    const result = lib().lookup(this.fd, key, value);
    return present(result, `look up in map ${this.fd}`) ? new DataView(value.buffer) : undefined;
  }

  /** @throws SyscallError `E2BIG` if the map is full; `EEXIST` for `new` */
  set(key: Uint8Array, value: Uint8Array, how: keyof typeof UPDATE = 'any'): void {
    checked(lib().update(this.fd, key, value, UPDATE[how]), `change map ${this.fd}`);
  }

  /** @returns whether the key existed. @throws SyscallError */
  delete(key: Uint8Array): boolean {
    return present(lib().delete(this.fd, key), `delete from map ${this.fd}`);
  }

  /** Limited, since a key deleted meanwhile may restart the iteration. @throws SyscallError */
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
 * Maps of this host by name, of any process.
 * @returns descriptors, which the caller owns
 * @throws SyscallError `EPERM`
 */
export function openMapsNamed(name: string): number[] {
  const found: number[] = [];
  const next = new Uint32Array(1);
  let id = 0;
  while (present(lib().nextMapId(id, next), 'list BPF maps')) {
    id = next[0] ?? 0;
    const fd = lib().mapById(id);
    // The map may have been removed meanwhile.
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

/** Reads samples of a ring buffer map on demand. */
export class RingBuffer {
  readonly #ring: Pointer;
  readonly #callback: ReturnType<typeof koffi.register>;
  #taken: Uint8Array[] = [];

  /** @throws SyscallError */
  constructor(mapFd: number) {
    const sample = (_context: Pointer, data: Pointer, bytes: Pointer): number => {
      // The memory is valid only until this returns.
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

  /** All samples, oldest first: at most the ring's content, and those that arrive meanwhile. */
  consume(): readonly Uint8Array[] {
    const result = lib().ringConsume(this.#ring);
    const taken = this.#taken;
    this.#taken = [];
    if (result < 0) ignore(result, 'the ring buffer is unreadable');
    return taken;
  }

  close(): void {
    lib().ringFree(this.#ring);
    koffi.unregister(this.#callback);
  }
}

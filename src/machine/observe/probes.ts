/**
 * The eBPF programs of `bpf/`, which measure the effects of sandboxes and host on each other:
 *
 *     latency.bpf.c ───► probes (this file) ──► latency, histogram    packet latency of guests
 *     processes.bpf.c ─► tracepoints ─────────► events                OOM, reclaim, start and end of VMMs
 *     syscalls.bpf.c ──► syscalls                                     system calls of VMMs, on demand
 *          └─ compile: objects, kept by digest
 *
 * This file loads bpf/latency.bpf.c once and attaches it to the TAPs of sandboxes and to uplinks (I/O). Descriptors of
 * this process hold all of it, so nothing remains after its end. Sandboxes do not depend on it.
 */
import { statSync } from 'node:fs';
import { ignore } from '../../base/ignore.ts';
import { attachByClsact, type TcWay } from '../../sys/bpf/clsact.ts';
import { BpfMap, openMapsNamed, possibleCpus } from '../../sys/bpf/map.ts';
import { ATTACH, attachToLink, BpfObject, programRunTime, XDP_FLAGS } from '../../sys/bpf/object.ts';
import { closeFd } from '../../sys/fd.ts';
import { SyscallError } from '../../sys/libc.ts';
import { explain, observeError } from './availability.ts';
import { type CompileOptions, objectOf } from './compile.ts';
import {
  NOTED_MAX,
  namespaceOf,
  newTapValue,
  readTap,
  SETTINGS,
  SETTINGS_BYTES,
  TAP_BYTES,
  type TapLatency,
} from './latency.ts';

const MAP = 'nv_taps';
const KEY_BYTES = 4;
/** Programs of bpf/latency.bpf.c by hook. */
const PROGRAM = { xdp: 'nv_xdp_out', tcx: 'nv_tcx_out', in: 'nv_in', uplink: 'nv_uplink' } as const;

export interface LatencyProbeOptions extends CompileOptions {
  /** Maximum unanswered packets at a time, for all TAPs. Default: 65536. */
  readonly pendingMax?: number;
  /** Maximum number of TAPs. Default: 1024. */
  readonly tapsMax?: number;
  /** Recorded packets per TAP, see `NOTED_MAX`; 0: unlimited. */
  readonly notedMax?: number;
  /** Behaves as if this kernel had no TCX, for tests. */
  readonly withoutTcx?: boolean;
}

/**
 * The hook for a guest's frames: XDP, before the rest of the host's network, in the driver or generic; or TCX, after an
 * existing XDP program on the TAP; before Linux 6.6 a clsact filter instead of TCX.
 */
export type Ingress = 'xdp-native' | 'xdp-generic' | 'tcx' | 'clsact';

const INGRESSES: readonly Ingress[] = ['xdp-native', 'xdp-generic', 'tcx', 'clsact'];

export interface TapProbe extends Disposable {
  readonly linkIndex: number;
  readonly ingress: Ingress;
  /** Values since the attachment; after `dispose`, the final ones. @throws ObserveError `no_link` */
  read(): TapLatency;
}

/** Run time of one program, while the kernel counts (`countRunTime`). */
interface RunTime {
  readonly program: keyof typeof PROGRAM;
  readonly runs: number;
  readonly ns: number;
}

/**
 * Compiles if there is no cached object, and loads.
 * @throws ObserveError
 */
export async function openLatencyProbes(options: LatencyProbeOptions): Promise<LatencyProbes> {
  const attempt = 'could not load the packet probes';
  const path = await objectOf('latency', options);
  const { pendingMax, tapsMax } = options;
  try {
    const object = new BpfObject(path, {
      maxEntries: {
        ...(pendingMax === undefined ? {} : { nv_pending: pendingMax }),
        ...(tapsMax === undefined ? {} : { [MAP]: tapsMax }),
      },
    });
    return new LatencyProbes(object, options);
  } catch (error) {
    throw explain(attempt, error);
  }
}

export class LatencyProbes implements Disposable {
  readonly #object: BpfObject;
  readonly #taps: BpfMap;
  readonly #notedMax: number;
  /** As far as known. */
  #hasTcx: boolean;
  readonly #cpus = possibleCpus();
  readonly #stack = new DisposableStack();
  readonly #uplinks = new Map<number, Promise<void>>();

  /** @param object bpf/latency.bpf.c, owned by this instance from now on */
  constructor(object: BpfObject, options: Pick<LatencyProbeOptions, 'notedMax' | 'withoutTcx'> = {}) {
    this.#object = object;
    this.#notedMax = options.notedMax ?? NOTED_MAX;
    this.#hasTcx = options.withoutTcx !== true;
    this.#settings(false);
    this.#taps = tapMap(object.mapFd(MAP), this.#cpus);
    this.#stack.defer(() => object.close());
  }

  /**
   * Measures the packets of a TAP from now on. Do not dispose of this instance before it resolves.
   * @param ingress default: the first possible one
   * @throws ObserveError `no_link`; `taken` if it is already watched or, for XDP, has another program; `full`;
   * `unsupported`
   */
  async watchTap(linkIndex: number, ingress?: Ingress): Promise<TapProbe> {
    const attempt = `could not measure packets of link ${linkIndex}`;
    const key = keyOf(linkIndex);
    using stack = new DisposableStack();
    try {
      this.#taps.set(key, newTapValue(ownNamespace(), this.#cpus), 'new');
      stack.defer(() => void this.#taps.delete(key));
      // First, since for a missing link XDP reports only an invalid argument.
      stack.defer(await this.#attachTc('in', linkIndex, 'egress'));
      const out = await this.#attachOut(linkIndex, ingress);
      stack.defer(out.detach);
      return this.#probe(linkIndex, out.ingress, stack.move());
    } catch (error) {
      throw watchError(attempt, error);
    }
  }

  /**
   * Measures when packets of watched TAPs leave by this uplink. A no-op if it is already watched.
   * @returns false before Linux 6.6, where the program would outlive this process
   * @throws ObserveError
   */
  async watchUplink(linkIndex: number): Promise<boolean> {
    if (!this.#hasTcx) return false;
    const known = this.#uplinks.get(linkIndex) ?? this.#attachUplink(linkIndex);
    this.#uplinks.set(linkIndex, known);
    try {
      await known;
      return true;
    } catch (error) {
      this.#uplinks.delete(linkIndex);
      if (isWithoutTcx(error)) return false;
      throw watchError(`could not watch uplink ${linkIndex}`, error);
    }
  }

  async #attachUplink(linkIndex: number): Promise<void> {
    const link = await this.#attach('uplink', linkIndex, ATTACH.tcxEgress);
    this.#settings(true);
    this.#stack.defer(() => closeFd(link));
  }

  runTimes(): readonly RunTime[] {
    return (Object.keys(PROGRAM) as (keyof typeof PROGRAM)[]).map((program) => {
      const { runs, ns } = programRunTime(this.#object.programFd(PROGRAM[program]));
      return { program, runs: Number(runs), ns: Number(ns) };
    });
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }

  #settings(hasUplink: boolean): void {
    const value = new DataView(new ArrayBuffer(SETTINGS_BYTES));
    value.setUint32(SETTINGS.has_uplink, hasUplink ? 1 : 0, true);
    value.setUint32(SETTINGS.noted_max, this.#notedMax, true);
    const sizes = { keyBytes: KEY_BYTES, valueBytes: SETTINGS_BYTES };
    const map = new BpfMap(this.#object.mapFd('nv_settings'), sizes);
    map.set(keyOf(0), new Uint8Array(value.buffer));
  }

  #probe(linkIndex: number, ingress: Ingress, links: DisposableStack): TapProbe {
    let final: TapLatency | undefined;
    const read = (): TapLatency => {
      const value = final === undefined ? this.#taps.get(keyOf(linkIndex)) : undefined;
      if (final !== undefined) return final;
      if (value !== undefined) return readTap(value);
      const cause = new Error('its probes are closed');
      throw observeError('no_link', `could not read latencies of link ${linkIndex}`, cause);
    };
    return {
      linkIndex,
      ingress,
      read,
      [Symbol.dispose]: () => {
        if (links.disposed) return;
        final = read();
        links.dispose();
      },
    };
  }

  async #attachOut(linkIndex: number, wanted?: Ingress): Promise<{ detach: () => void; ingress: Ingress }> {
    const tries = wanted === undefined ? INGRESSES : [wanted];
    for (const ingress of tries) {
      try {
        if (ingress === 'tcx' || ingress === 'clsact') break;
        const flags = ingress === 'xdp-native' ? XDP_FLAGS.driver : XDP_FLAGS.generic;
        const link = await this.#attach('xdp', linkIndex, ATTACH.xdp, flags);
        return { detach: () => closeFd(link), ingress };
      } catch (error) {
        if (wanted !== undefined || !(isTaken(error) || isWithoutXdp(error))) throw error;
        ignore(error, 'the link does not support this hook');
      }
    }
    const detach = await this.#attachTc('tcx', linkIndex, 'ingress');
    return { detach, ingress: this.#hasTcx ? 'tcx' : 'clsact' };
  }

  /** @returns a function that detaches it */
  async #attachTc(program: keyof typeof PROGRAM, linkIndex: number, way: TcWay) {
    const place = way === 'ingress' ? ATTACH.tcxIngress : ATTACH.tcxEgress;
    try {
      if (this.#hasTcx) {
        const link = await this.#attach(program, linkIndex, place);
        return () => closeFd(link);
      }
    } catch (error) {
      if (!isWithoutTcx(error)) throw error;
      this.#hasTcx = false;
    }
    return attachByClsact(this.#object.programFd(PROGRAM[program]), linkIndex, way);
  }

  #attach(program: keyof typeof PROGRAM, linkIndex: number, place: number, flags = XDP_FLAGS.any) {
    const fd = this.#object.programFd(PROGRAM[program]);
    return attachToLink(fd, linkIndex, place, flags);
  }
}

/**
 * Reads the latency of a TAP, measured by any process of this host.
 * @returns undefined if none measures it
 * @throws ObserveError
 */
export function readLatencyOf(linkIndex: number): TapLatency | undefined {
  const namespace = ownNamespace();
  const fds: number[] = [];
  try {
    const cpus = possibleCpus();
    fds.push(...openMapsNamed(MAP));
    for (const fd of fds) {
      const value = tapMap(fd, cpus).get(keyOf(linkIndex));
      if (value !== undefined && namespaceOf(value) === namespace) return readTap(value);
    }
    return undefined;
  } catch (error) {
    throw explain(`could not read latencies of link ${linkIndex}`, error);
  } finally {
    for (const fd of fds) closeFd(fd);
  }
}

function tapMap(fd: number, cpus: number): BpfMap {
  return new BpfMap(fd, { keyBytes: KEY_BYTES, valueBytes: TAP_BYTES * cpus });
}

function keyOf(linkIndex: number): Uint8Array {
  const key = Buffer.alloc(KEY_BYTES);
  key.writeUInt32LE(linkIndex);
  return key;
}

function ownNamespace(): bigint {
  return BigInt(statSync('/proc/self/ns/net').ino);
}

function watchError(attempt: string, error: unknown): unknown {
  return isTaken(error) ? observeError('taken', attempt, error) : explain(attempt, error);
}

function isTaken(error: unknown): error is SyscallError {
  return error instanceof SyscallError && ['EBUSY', 'EEXIST'].includes(error.code);
}

/** Linux before 6.6 has no TCX. */
function isWithoutTcx(error: unknown): boolean {
  return error instanceof SyscallError && error.code === 'EINVAL';
}

function isWithoutXdp(error: unknown): boolean {
  return error instanceof SyscallError && error.code === 'ENOTSUP';
}

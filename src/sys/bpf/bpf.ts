/**
 * bpf(2), for programs without BTF (linux/bpf.h). The caller owns descriptors, which are closed on exec. A program
 * lives as long as a descriptor or a link refers to it; a map as long as a descriptor or a program does.
 */
import { closeFd } from '../fd.ts';
import { check, libc, SyscallError } from '../libc.ts';
import { addressOf } from '../memory.ts';

const cBpf = libc.func('long syscall(long number, int command, void *attributes, uint32_t bytes)');
const SYS_BPF = 321;

const COMMAND = {
  mapCreate: 0,
  mapLookup: 1,
  mapUpdate: 2,
  mapDelete: 3,
  programLoad: 5,
  programById: 13,
  mapById: 14,
  info: 15,
} as const;
const MAP_TYPE_HASH = 1;
/** BPF_F_NO_PREALLOC: allocates memory per entry. */
const NO_PREALLOC = 1;
const KEY_BYTES = 4;
const PROGRAM_TYPE_XDP = 6;
/** BPF_OBJ_NAME_LEN without its final zero. */
const NAME_BYTES_MAX = 15;
/** Size of the verifier's log for a refused program; longer ones are cut. */
const LOG_BYTES = 64 * 1024;
/** Length of the log in an error: its end has the reason. */
const LOG_CHARACTERS_MAX = 600;
/** struct bpf_prog_info up to its map_ids. */
const PROGRAM_INFO_BYTES = 64;

/** A hash map with u32 keys. @throws SyscallError `EPERM`, `ENOSYS` */
export function createMap(name: string, valueBytes: number, entriesMax: number): number {
  const attributes = new DataView(new ArrayBuffer(44));
  attributes.setUint32(0, MAP_TYPE_HASH, true);
  attributes.setUint32(4, KEY_BYTES, true);
  attributes.setUint32(8, valueBytes, true);
  attributes.setUint32(12, entriesMax, true);
  attributes.setUint32(16, NO_PREALLOC, true);
  setName(attributes, 28, name);
  return bpf(COMMAND.mapCreate, attributes, `BPF_MAP_CREATE ${name}`);
}

/** @throws SyscallError `ENOENT` */
export function readMapEntry(fd: number, key: number, valueBytes: number): DataView {
  const value = new ArrayBuffer(valueBytes);
  mapCall(COMMAND.mapLookup, fd, key, value, 'LOOKUP');
  return new DataView(value);
}

/** Adds the entry, or replaces its value. @throws SyscallError `E2BIG` if the map is full */
export function writeMapEntry(fd: number, key: number, value: ArrayBuffer): void {
  mapCall(COMMAND.mapUpdate, fd, key, value, 'UPDATE');
}

/** @throws SyscallError `ENOENT` */
export function removeMapEntry(fd: number, key: number): void {
  mapCall(COMMAND.mapDelete, fd, key, undefined, 'DELETE');
}

function mapCall(command: number, fd: number, key: number, value: ArrayBuffer | undefined, what: string): void {
  const keyBytes = Uint32Array.of(key).buffer;
  const attributes = new DataView(new ArrayBuffer(32));
  attributes.setUint32(0, fd, true);
  setAddress(attributes, 8, keyBytes);
  if (value !== undefined) setAddress(attributes, 16, value);
  bpf(command, attributes, `BPF_MAP_${what}_ELEM ${key} of fd ${fd}`);
}

/**
 * @param instructions 8 bytes each (linux/bpf.h, `struct bpf_insn`)
 * @throws SyscallError `EPERM`: CAP_BPF and CAP_NET_ADMIN are needed; `ENOSYS`; `EACCES`, `EINVAL`: the verifier's log
 * is in the message
 */
export function loadXdp(name: string, instructions: Uint8Array<ArrayBuffer>): number {
  // Referenced until the end of the call: the kernel uses their addresses.
  const program = instructions.slice().buffer;
  const license = Uint8Array.from(Buffer.from('Apache-2.0\0')).buffer;
  const log = new ArrayBuffer(LOG_BYTES);
  const load = (withLog: boolean): number => {
    const attributes = new DataView(new ArrayBuffer(64));
    attributes.setUint32(0, PROGRAM_TYPE_XDP, true);
    attributes.setUint32(4, instructions.length / 8, true);
    setAddress(attributes, 8, program);
    setAddress(attributes, 16, license);
    if (withLog) {
      attributes.setUint32(24, 1, true);
      attributes.setUint32(28, LOG_BYTES, true);
      setAddress(attributes, 32, log);
    }
    setName(attributes, 48, name);
    return bpf(COMMAND.programLoad, attributes, `BPF_PROG_LOAD ${name}`);
  };
  try {
    return load(false);
  } catch (error) {
    if (!(error instanceof SyscallError) || !['EACCES', 'EINVAL'].includes(error.code)) throw error;
    return loadAgain(() => load(true), name, log);
  }
}

/** Loads again with a log, which costs more than the load itself. */
function loadAgain(load: () => number, name: string, log: ArrayBuffer): number {
  try {
    return load();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const [text = ''] = Buffer.from(log).toString('latin1').split('\0');
    const end = text.trim().slice(-LOG_CHARACTERS_MAX).replaceAll('\n', '; ');
    throw new SyscallError(`BPF_PROG_LOAD ${name} (${end})`, error.errno);
  }
}

/** The first map of a program on this host, by the program's id. @throws SyscallError `ENOENT`, `EPERM` */
export function openMapOfProgram(programId: number): number {
  const program = byId(COMMAND.programById, programId, `BPF_PROG_GET_FD_BY_ID ${programId}`);
  try {
    const [info, ids] = [new ArrayBuffer(PROGRAM_INFO_BYTES), new ArrayBuffer(4)];
    const view = new DataView(info);
    view.setUint32(52, 1, true);
    setAddress(view, 56, ids);
    const attributes = new DataView(new ArrayBuffer(16));
    attributes.setUint32(0, program, true);
    attributes.setUint32(4, PROGRAM_INFO_BYTES, true);
    setAddress(attributes, 8, info);
    bpf(COMMAND.info, attributes, `BPF_OBJ_GET_INFO_BY_FD fd ${program}`);
    const mapId = new DataView(ids).getUint32(0, true);
    return byId(COMMAND.mapById, mapId, `BPF_MAP_GET_FD_BY_ID ${mapId}`);
  } finally {
    closeFd(program);
  }
}

function byId(command: number, id: number, attempt: string): number {
  const attributes = new DataView(new ArrayBuffer(12));
  attributes.setUint32(0, id, true);
  return bpf(command, attributes, attempt);
}

function bpf(command: number, attributes: DataView<ArrayBuffer>, attempt: string): number {
  const bytes = new Uint8Array(attributes.buffer);
  return check(cBpf(SYS_BPF, command, bytes, bytes.length), attempt);
}

function setAddress(view: DataView, at: number, buffer: ArrayBuffer): void {
  view.setBigUint64(at, BigInt(addressOf(buffer)), true);
}

function setName(view: DataView, at: number, name: string): void {
  for (const [index, byte] of [...Buffer.from(name.slice(0, NAME_BYTES_MAX))].entries())
    view.setUint8(at + index, byte);
}

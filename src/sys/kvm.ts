/**
 * The few KVM ioctls needed to run some bytes of 64-bit code in a VM of one vCPU and 2 MiB.
 * Numbers and layouts: linux/kvm.h and asm/kvm.h (x86-64), Documentation/virt/kvm/api.rst.
 *
 *     0x1000 PML4 · 0x2000 PDPT · 0x3000 PD (one 2 MiB page, identity) · 0x4000 GDT · 0x5000 IDT
 *     0x7000 end of the stack · 0x8000 … free for code and data
 *
 * `run` blocks its thread until the guest halts, which with a broken KVM may be never: call it only in a process that
 * another process can kill.
 */
import koffi from 'koffi';
import { MIB } from '../base/units.ts';

const libc = koffi.load('libc.so.6');
const cOpen = libc.func('int open(const char *path, int flags)');
const cClose = libc.func('int close(int fd)');
/** The third argument of ioctl(2) is a number for some requests and a pointer for others. */
const ioctlNumber = libc.func('int ioctl(int fd, unsigned long request, uintptr_t value)');
const ioctlBuffer = libc.func('int ioctl(int fd, unsigned long request, void *buffer)');
const cMmap = libc.func('intptr_t mmap(uintptr_t at, size_t bytes, int protection, int flags, int fd, int64_t offset)');
const cMunmap = libc.func('int munmap(uintptr_t at, size_t bytes)');

const O_RDWR_CLOEXEC = 0o2000002;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_ANONYMOUS = 0x20;

const KVM_GET_API_VERSION = 0xae00;
const KVM_CREATE_VM = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE = 0xae04;
const KVM_GET_SUPPORTED_CPUID = 0xc008ae05;
const KVM_CREATE_VCPU = 0xae41;
const KVM_SET_USER_MEMORY_REGION = 0x4020ae46;
const KVM_SET_TSS_ADDR = 0xae47;
const KVM_RUN = 0xae80;
const KVM_GET_REGS = 0x8090ae81;
const KVM_SET_REGS = 0x4090ae82;
const KVM_GET_SREGS = 0x8138ae83;
const KVM_SET_SREGS = 0x4138ae84;
const KVM_SET_CPUID2 = 0x4008ae90;

/** The only stable version (api.rst 4.1). */
const KVM_API_VERSION = 12;
/** `exit_reason` values of struct kvm_run that `run` can meet. */
export const KVM_EXIT = { hlt: 5, shutdown: 8, failEntry: 9, internalError: 17 } as const;

const MEMORY_BYTES = 2 * MIB;
const REGS_BYTES = 144;
const SREGS_BYTES = 312;
const CPUID_ENTRIES_MAX = 256;
const RUN_EXIT_REASON_OFFSET = 8;
/** Three pages below 4 GiB that nothing else uses; needed on Intel before the first run. */
const TSS_ADDRESS = 0xfffbd000;

/** A failed call, for example `open /dev/kvm: errno 13`. */
class KvmCallError extends Error {
  override name = 'KvmCallError';
  readonly errno: number;

  constructor(call: string) {
    const errno = koffi.errno();
    super(`${call}: errno ${errno}`);
    this.errno = errno;
  }
}

/** Registers of struct kvm_regs, by their index in it. */
const REGISTER = { rax: 0, rbx: 1, rcx: 2, rdx: 3, rsi: 4, rsp: 6, rip: 16, rflags: 17 } as const;
type Registers = Readonly<Partial<Record<keyof typeof REGISTER, bigint>>>;

export interface RunResult {
  /** `exit_reason` of struct kvm_run. */
  readonly exitReason: number;
  readonly rbx: bigint;
  /** Time inside the ioctl, milliseconds. */
  readonly elapsedMs: number;
}

/** Owns its file descriptors and mappings until `close`. */
export class TinyVm {
  /** The guest's memory, from address 0. Not to be touched after `close`. */
  readonly memory: Buffer;
  readonly #undo: (() => void)[] = [];
  readonly #vcpu: number;
  readonly #run: Buffer;

  /** @throws KvmCallError */
  constructor() {
    try {
      const kvm = this.#own(check(cOpen('/dev/kvm', O_RDWR_CLOEXEC), 'open /dev/kvm'));
      const version = check(ioctlNumber(kvm, KVM_GET_API_VERSION, 0), 'KVM_GET_API_VERSION');
      if (version !== KVM_API_VERSION) throw new Error(`KVM API version is ${version}, not 12`);
      const vm = this.#own(check(ioctlNumber(kvm, KVM_CREATE_VM, 0), 'KVM_CREATE_VM'));
      check(ioctlNumber(vm, KVM_SET_TSS_ADDR, TSS_ADDRESS), 'KVM_SET_TSS_ADDR');
      const memory = this.#map(MEMORY_BYTES, MAP_SHARED | MAP_ANONYMOUS, -1);
      this.memory = memory.bytes;
      check(ioctlBuffer(vm, KVM_SET_USER_MEMORY_REGION, memoryRegion(memory.address)), 'KVM_SET_USER_MEMORY_REGION');
      const runBytes = check(ioctlNumber(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 'KVM_GET_VCPU_MMAP_SIZE');
      this.#vcpu = this.#own(check(ioctlNumber(vm, KVM_CREATE_VCPU, 0), 'KVM_CREATE_VCPU'));
      this.#run = this.#map(runBytes, MAP_SHARED, this.#vcpu).bytes;
      this.#setCpuid(kvm);
      writeTables(this.memory);
      this.#enterLongMode();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  setGate(vector: number, handler: number): void {
    const gate = this.memory.subarray(AT.idt + vector * 16, AT.idt + vector * 16 + 16);
    gate.fill(0);
    gate.writeUInt16LE(handler & 0xffff, 0);
    gate.writeUInt16LE(CODE_SELECTOR, 2);
    gate.writeUInt16LE(0x8e00, 4); // present, ring 0, 64-bit interrupt gate
    gate.writeUInt16LE(handler >>> 16, 6);
  }

  /**
   * Runs from `rip` until the VM exits, normally by HLT.
   * @throws KvmCallError if KVM_RUN itself fails
   */
  run(registers: Registers): RunResult {
    const regs = Buffer.alloc(REGS_BYTES);
    const all = { rsp: BigInt(AT.stackEnd), rflags: 2n, ...registers };
    for (const [name, value] of Object.entries(all)) {
      regs.writeBigUInt64LE(value, REGISTER[name as keyof typeof REGISTER] * 8);
    }
    check(ioctlBuffer(this.#vcpu, KVM_SET_REGS, regs), 'KVM_SET_REGS');
    const began = performance.now();
    check(ioctlNumber(this.#vcpu, KVM_RUN, 0), 'KVM_RUN');
    const elapsedMs = performance.now() - began;
    check(ioctlBuffer(this.#vcpu, KVM_GET_REGS, regs), 'KVM_GET_REGS');
    return {
      exitReason: this.#run.readUInt32LE(RUN_EXIT_REASON_OFFSET),
      rbx: regs.readBigUInt64LE(REGISTER.rbx * 8),
      elapsedMs,
    };
  }

  /** Idempotent. */
  close(): void {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) undo();
  }

  #own(fd: number): number {
    this.#undo.push(() => cClose(fd));
    return fd;
  }

  #map(bytes: number, flags: number, fd: number): { address: number; bytes: Buffer } {
    const address = Number(cMmap(0, bytes, PROT_READ_WRITE, flags, fd, 0));
    check(address === -1 ? -1 : 0, 'mmap');
    this.#undo.push(() => cMunmap(address, bytes));
    return { address, bytes: Buffer.from(koffi.view(BigInt(address), bytes)) };
  }

  /** The guest sees what the host supports; without it CR4.OSXSAVE is refused. */
  #setCpuid(kvm: number): void {
    const cpuid = Buffer.alloc(8 + CPUID_ENTRIES_MAX * 40);
    cpuid.writeUInt32LE(CPUID_ENTRIES_MAX, 0);
    check(ioctlBuffer(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), 'KVM_GET_SUPPORTED_CPUID');
    check(ioctlBuffer(this.#vcpu, KVM_SET_CPUID2, cpuid), 'KVM_SET_CPUID2');
  }

  #enterLongMode(): void {
    const sregs = Buffer.alloc(SREGS_BYTES);
    check(ioctlBuffer(this.#vcpu, KVM_GET_SREGS, sregs), 'KVM_GET_SREGS');
    writeLongMode(sregs);
    check(ioctlBuffer(this.#vcpu, KVM_SET_SREGS, sregs), 'KVM_SET_SREGS');
  }
}

const AT = { pml4: 0x1000, pdpt: 0x2000, pd: 0x3000, gdt: 0x4000, idt: 0x5000, stackEnd: 0x7000 };
const CODE_SELECTOR = 8;
const DATA_SELECTOR = 16;

/** struct kvm_userspace_memory_region: slot, flags, guest address, bytes, host address. */
function memoryRegion(hostAddress: number): Buffer {
  const region = Buffer.alloc(32);
  region.writeBigUInt64LE(BigInt(MEMORY_BYTES), 16);
  region.writeBigUInt64LE(BigInt(hostAddress), 24);
  return region;
}

function writeTables(memory: Buffer): void {
  const present = 3n; // present, writable
  memory.writeBigUInt64LE(BigInt(AT.pdpt) | present, AT.pml4);
  memory.writeBigUInt64LE(BigInt(AT.pd) | present, AT.pdpt);
  memory.writeBigUInt64LE(0x80n | present, AT.pd); // one large page
  memory.writeBigUInt64LE(0x00af9b000000ffffn, AT.gdt + CODE_SELECTOR);
  memory.writeBigUInt64LE(0x00cf93000000ffffn, AT.gdt + DATA_SELECTOR);
}

/** Offsets in struct kvm_sregs. */
const SREGS = { cs: 0, ds: 24, es: 48, ss: 120, gdt: 192, idt: 208, cr0: 224, cr3: 240, cr4: 248 };
const SREGS_EFER = 264;

function writeLongMode(sregs: Buffer): void {
  // struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable.
  const segment = (at: number, selector: number, type: number, db: number, l: number): void => {
    sregs.fill(0, at, at + 24);
    sregs.writeUInt32LE(0xffffffff, at + 8);
    sregs.writeUInt16LE(selector, at + 12);
    sregs.set([type, 1, 0, db, 1, l, 1], at + 14);
  };
  segment(SREGS.cs, CODE_SELECTOR, 11, 0, 1);
  for (const at of [SREGS.ds, SREGS.es, SREGS.ss]) segment(at, DATA_SELECTOR, 3, 1, 0);
  const table = (at: number, base: number, limit: number): void => {
    sregs.writeBigUInt64LE(BigInt(base), at);
    sregs.writeUInt16LE(limit, at + 8);
  };
  table(SREGS.gdt, AT.gdt, 23);
  table(SREGS.idt, AT.idt, 32 * 16 - 1);
  sregs.writeBigUInt64LE(0x80000033n, SREGS.cr0); // PG NE ET MP PE
  sregs.writeBigUInt64LE(BigInt(AT.pml4), SREGS.cr3);
  sregs.writeBigUInt64LE(0x40620n, SREGS.cr4); // OSXSAVE OSXMMEXCPT OSFXSR PAE
  sregs.writeBigUInt64LE(0x500n, SREGS_EFER); // LMA LME
}

function check(result: number, call: string): number {
  if (result < 0) throw new KvmCallError(call);
  return result;
}

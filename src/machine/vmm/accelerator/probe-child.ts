/**
 * The KVM probe's child process, since KVM_RUN on a broken KVM may never return. Writes one JSON line per step to
 * stdout; the first step without a line is the one that hung.
 *
 * The loop comes first: a hypervisor that emulates guest code instruction by instruction is a thousand times too slow,
 * and there the instructions after it would each leave an error in the host's log.
 */
import { writeSync } from 'node:fs';
import { KVM_EXIT, type RunResult, TinyVm } from '../../../sys/kvm.ts';
import { type KvmStep, LOOP_RATE_MIN, type StepName } from './probe.ts';

const CODE = 0x8000;
const HANDLER = 0x8800;
const DATA = 0x9000; // aligned to 64 bytes, as XRSTOR asks
const LOOP_ITERATIONS = 50_000;
const LOOP_ROUNDS = 5;
/** Per millisecond. */
const MICROSECONDS = 1_000;

function main(): void {
  // From here on, silence is KVM's fault.
  step('start', () => ({}));
  let vm: TinyVm | undefined;
  const made = step('create', () => {
    vm = new TinyVm();
    return {};
  });
  if (!made || vm === undefined) return;
  const tiny = vm;
  try {
    const ok =
      step('loop', () => timedLoop(tiny)) &&
      step('int3', () => breakpoint(tiny)) &&
      step('cmpxchg16b', () => wideExchange(tiny)) &&
      step('xrstor', () => restoreState(tiny));
    if (ok) step('done', () => ({}));
  } finally {
    tiny.close();
  }
}

/** @returns whether the next step makes sense */
function step(name: StepName, run: () => Omit<KvmStep, 'step'>): boolean {
  const beganMs = name === 'start' ? 0 : performance.now();
  let found: Omit<KvmStep, 'step' | 'ms'>;
  try {
    found = run();
  } catch (error) {
    found = { error: error instanceof Error ? error.message : String(error) };
  }
  const ms = Math.round((performance.now() - beganMs) * MICROSECONDS) / MICROSECONDS;
  const line: KvmStep = { step: name, ms, ...found };
  writeSync(1, `${JSON.stringify(line)}\n`);
  return line.error === undefined;
}

function load(vm: TinyVm, ...code: number[]): void {
  vm.memory.set([...code, 0xf4], CODE); // HLT last
}

function expectHalt(result: RunResult): RunResult {
  if (result.exitReason === KVM_EXIT.hlt) return result;
  throw new Error(`the VM exited with KVM reason ${result.exitReason} instead of halting`);
}

function timedLoop(vm: TinyVm): Omit<KvmStep, 'step'> {
  load(vm, 0x48, 0xff, 0xc9, 0x75, 0xfb); // dec rcx; jnz -5
  const run = (iterations: number): number =>
    expectHalt(vm.run({ rip: BigInt(CODE), rcx: BigInt(iterations) })).elapsedMs;
  run(1); // faults the pages in
  let bestRate = 0;
  for (let round = 0; round < LOOP_ROUNDS && bestRate < LOOP_RATE_MIN; round++) {
    bestRate = Math.max(bestRate, (2 * LOOP_ITERATIONS * 1000) / run(LOOP_ITERATIONS));
  }
  const instructionsPerSecond = Math.round(bestRate);
  return bestRate < LOOP_RATE_MIN
    ? { instructionsPerSecond, error: 'the loop ran far below native speed' }
    : { instructionsPerSecond };
}

/** Linux patches its own code through INT3 while it boots. */
function breakpoint(vm: TinyVm): Omit<KvmStep, 'step'> {
  vm.setGate(3, HANDLER);
  vm.memory.set([0xbb, 0x33, 0, 0, 0, 0x48, 0xcf], HANDLER); // mov ebx, 0x33; iretq
  load(vm, 0xcc);
  const { rbx } = expectHalt(vm.run({ rip: BigInt(CODE) }));
  return rbx === 0x33n ? {} : { error: 'the handler of INT3 did not run' };
}

/** The kernel's SLUB allocator uses it. */
function wideExchange(vm: TinyVm): Omit<KvmStep, 'step'> {
  vm.memory.fill(0, DATA, DATA + 16);
  load(vm, 0x48, 0x0f, 0xc7, 0x0e); // cmpxchg16b [rsi]
  expectHalt(vm.run({ rip: BigInt(CODE), rsi: BigInt(DATA), rbx: 0x3344n, rcx: 0x1122n }));
  const stored = vm.memory.readBigUInt64LE(DATA) === 0x3344n;
  return stored ? {} : { error: 'CMPXCHG16B stored nothing' };
}

/** The kernel uses it to restore the FPU on a return to user space. */
function restoreState(vm: TinyVm): Omit<KvmStep, 'step'> {
  vm.memory.fill(0, DATA, DATA + 1024);
  load(vm, 0x48, 0x0f, 0xae, 0x2e); // xrstor64 [rsi]
  expectHalt(vm.run({ rip: BigInt(CODE), rsi: BigInt(DATA), rax: 1n }));
  return {};
}

main();

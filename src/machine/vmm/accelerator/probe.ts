/**
 * Finds the accelerator that can run Linux guests here, by running code and never by the presence of a file.
 *
 * `/dev/kvm` may open and create VMs and still not run Linux: some cloud hosts emulate guest kernel code instruction by
 * instruction. So a child process runs a few bytes of code in a VM (`probe-child.ts`): first a plain loop against the
 * clock, then what Linux needs. The verdict is cached until the host reboots, since a refused instruction leaves an
 * error in the host's log.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../../base/clock.ts';
import { ignore, tryOr } from '../../../base/ignore.ts';
import { modulePath } from '../../../base/module-path.ts';
import { findKvmObstacle } from '../kvm-device.ts';
import { type QemuVersion, readQemuVersion } from '../qemu/installation.ts';
import { readVerdict, writeVerdict } from '../verdict-file.ts';

/** Below this many instructions per second the processor certainly does not run guest code natively. */
export const LOOP_RATE_MIN = 50e6;
/**
 * From the child's start to its first line. A busy or emulated host takes seconds, which says nothing about KVM: a
 * native host needs about 100 ms, one that is emulated and busy more than 30 s.
 */
const START_MS_MAX = 180_000;
/**
 * Maximum time between two lines. A step takes less than a millisecond natively; KVM_RUN on a broken KVM never returns.
 */
const STEP_MS_MAX = 3_000;
const CHILD_OUTPUT_BYTES_MAX = 16 * 1024;

const STEP_NAMES = ['start', 'create', 'loop', 'int3', 'cmpxchg16b', 'xrstor', 'done'] as const;
export type StepName = (typeof STEP_NAMES)[number];

const stepSchema = z.object({
  step: z.enum(STEP_NAMES),
  /** Omitted if the step succeeded. */
  error: z.string().max(500).optional(),
  /** Duration in milliseconds; for `start`, since the child's own start. Omitted if unknown. */
  ms: z.number().nonnegative().optional(),
  /** Only for the step `loop`. */
  instructionsPerSecond: z.number().nonnegative().optional(),
});
export type KvmStep = z.infer<typeof stepSchema>;

const verdictSchema = z.object({
  usable: z.boolean(),
  /** One clause, for example `/dev/kvm does not exist`. */
  reason: z.string().max(1_000),
  remedy: z.string().max(1_000).optional(),
  steps: z.array(stepSchema).max(STEP_NAMES.length),
});
type KvmVerdict = z.infer<typeof verdictSchema>;

export interface ProbeVerdict {
  readonly accelerator: 'kvm' | 'tcg' | 'none';
  /** One clause: why no better accelerator is used, or that this is the best. */
  readonly reason: string;
  readonly details: {
    readonly kvm: KvmVerdict;
    readonly qemu: QemuVersion | null;
    /** The KVM verdict comes from an earlier probe since the host booted. */
    readonly cached: boolean;
  };
}

interface ProbeOptions {
  /** Created if missing. */
  readonly cacheDir: string;
  readonly qemuBinary?: string;
  /** For tests. */
  readonly kvmDevice?: string;
  readonly child?: readonly string[];
}

/** A shortcoming of the machine is a verdict, never an error. */
export async function probeAccelerator(options: ProbeOptions): Promise<ProbeVerdict> {
  const [kvm, qemu] = await Promise.all([
    probeKvm(options),
    readQemuVersion(options.qemuBinary ?? 'qemu-system-x86_64').catch((error: unknown) => {
      ignore(error, 'QEMU is not installed');
      return null;
    }),
  ]);
  return { ...decide(kvm.verdict, qemu !== null), details: { kvm: kvm.verdict, qemu, cached: kvm.cached } };
}

export function decide(kvm: KvmVerdict, hasQemu: boolean): Pick<ProbeVerdict, 'accelerator' | 'reason'> {
  if (kvm.usable) return { accelerator: 'kvm', reason: kvm.reason };
  if (hasQemu) return { accelerator: 'tcg', reason: kvm.reason };
  return { accelerator: 'none', reason: `${kvm.reason}, and QEMU is not installed` };
}

/** The verdict on the child's steps. @param ended how the child ended */
export function judgeSteps(steps: readonly KvmStep[], ended: 'exited' | 'timed-out'): KvmVerdict {
  const last = steps.at(-1);
  const rate = steps.find((step) => step.step === 'loop')?.instructionsPerSecond;
  const verdict = (usable: boolean, reason: string): KvmVerdict => ({ usable, reason, steps: [...steps] });
  if (last?.step === 'done') return verdict(true, `KVM runs guest code natively (${inMillions(rate)})`);
  if (last === undefined && ended === 'timed-out')
    return verdict(
      false,
      `the probe of KVM did not start within ${START_MS_MAX / 1000} s, so the host is too busy to tell`,
    );
  if (last?.error === undefined) {
    const hung = STEP_NAMES[steps.length] ?? 'done';
    const how = ended === 'timed-out' ? `did not return within ${STEP_MS_MAX} ms` : 'ended the probe';
    return verdict(false, `KVM can't run Linux guests: step "${hung}" ${how}`);
  }
  switch (last.step) {
    case 'create':
      return verdict(false, `KVM can't create a VM: ${last.error}`);
    case 'loop':
      return verdict(
        false,
        rate === undefined
          ? `KVM can't run Linux guests: a plain loop failed: ${last.error}`
          : `KVM can't run Linux guests: guest code is emulated (${inMillions(rate)}, native is above 500)`,
      );
    default:
      return verdict(false, `KVM can't run Linux guests: ${last.step} failed: ${last.error}`);
  }
}

const inMillions = (rate = 0): string => `${(rate / 1e6).toFixed(1)} million instructions/s`;

async function probeKvm(options: ProbeOptions): Promise<{ verdict: KvmVerdict; cached: boolean }> {
  // Not cached: it can change without a reboot.
  const obstacle = await findKvmObstacle(options.kvmDevice);
  if (obstacle !== null) {
    return { verdict: { usable: false, ...obstacle, steps: [] }, cached: false };
  }
  const path = join(options.cacheDir, 'accelerator.json');
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const known = await readVerdict(path, cacheSchema);
  if (known?.bootId === bootId) return { verdict: known.kvm, cached: true };
  const { steps, ended } = await runChild(options.child ?? defaultChild());
  const verdict = judgeSteps(steps, ended);
  // Not cached: a timeout may come from a busy machine, and silence from a broken installation.
  if (ended === 'exited' && steps.length > 0) {
    await writeVerdict(path, { version: CACHE_VERSION, bootId, kvm: verdict });
  }
  return { verdict, cached: false };
}

function defaultChild(): string[] {
  return [process.execPath, modulePath('./probe-child.ts', import.meta.url)];
}

/** Runs the child and reads its steps, with a deadline for its start and for each step. */
export function runChild(
  argv: readonly string[],
  { startMsMax = START_MS_MAX, stepMsMax = STEP_MS_MAX } = {},
): Promise<{ steps: KvmStep[]; ended: 'exited' | 'timed-out' }> {
  const [file = '', ...args] = argv;
  return new Promise((resolve) => {
    let output = '';
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    const finish = (ended: 'exited' | 'timed-out'): void => {
      cancel();
      resolve({ steps: parseSteps(output), ended });
    };
    const giveUp = (): void => {
      child.kill('SIGKILL');
      // Not awaited: a process stuck in the kernel may not even die.
      child.stdout.destroy();
      child.unref();
      finish('timed-out');
    };
    let cancel = systemClock.after(startMsMax, giveUp);
    let seen = 0;
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (text: string) => {
      output = (output + text).slice(0, CHILD_OUTPUT_BYTES_MAX);
      const { length } = parseSteps(output);
      if (length === seen) return;
      seen = length;
      cancel();
      cancel = systemClock.after(stepMsMax, giveUp);
    });
    child.on('error', (error) => ignore(error, 'the probe could not be run'));
    child.on('close', () => finish('exited'));
  });
}

/** The steps in order; stops at the first line that is not the next step. */
export function parseSteps(output: string): KvmStep[] {
  const steps: KvmStep[] = [];
  for (const line of output.split('\n')) {
    const step = stepSchema.safeParse(tryOr(undefined, 'not JSON', () => JSON.parse(line)));
    if (!step.success || step.data.step !== STEP_NAMES[steps.length]) break;
    steps.push(step.data);
  }
  return steps;
}

/** Increment when the probe changes. */
const CACHE_VERSION = 3;
const cacheSchema = z.object({ version: z.literal(CACHE_VERSION), bootId: z.string(), kvm: verdictSchema });

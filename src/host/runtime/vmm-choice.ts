/** Chooses the VMM from the configuration and what this machine can do. */

import type { Config } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import type { JailGap } from '../../machine/jail/open.ts';
import { type ProbeVerdict, probeAccelerator } from '../../machine/vmm/accelerator/probe.ts';
import { VmmError } from '../../machine/vmm/errors.ts';
import { readFirecrackerVersion } from '../../machine/vmm/firecracker/installation.ts';
import { RuntimeError } from './errors.ts';
import type { ConfinedFirecracker } from './firecracker/firecracker.ts';
import { type Confinement, confine, judgeGaps, QEMU_BINARY } from './jail.ts';

export interface VmmChoice {
  readonly vmm: 'firecracker' | 'qemu';
  /** One clause with the reason of the choice. */
  readonly reason: string;
  /** Firecracker's jail, opened for the choice. Close it if no driver takes it. */
  readonly confined?: ConfinedFirecracker;
}

interface ChoiceOptions {
  readonly config: Config;
  readonly home: Home;
  readonly log: Log;
}

/**
 * Chooses before the set-up, which takes minutes.
 * @throws RuntimeError `no_accelerator` if the requested VMM can't run here; `jail_unavailable`
 */
export async function decideVmm(options: ChoiceOptions): Promise<VmmChoice> {
  const { config, home, log } = options;
  if (config.vmm === 'qemu') return { vmm: 'qemu', reason: AS_CONFIGURED };
  const { kvm, qemu } = (await probeAccelerator({ cacheDir: home.cacheDir })).details;
  const isAsked = config.vmm === 'firecracker';
  // Without KVM, `auto` doesn't ask for Firecracker's version.
  const isLookedFor = isAsked || kvm.usable;
  const firecracker = isLookedFor ? await judgeFirecracker(config.firecracker) : null;
  const choice = chooseVmm(config, kvm, firecracker);
  if (choice.vmm === 'qemu' || isAsked || config.jail === 'off') return choice;
  const { confineFirecracker } = await import('./firecracker/firecracker.ts');
  const chosen = await chooseByJail(choice, config.jail, {
    firecracker: () => confineFirecracker({ ...options, acceptsGaps: true }),
    qemuGaps: async () => {
      // A VMM that set-up has not installed yet can't be compared.
      if (qemu === null) return null;
      const found = await confine({ config, home, log: withoutWarnings(log), binary: QEMU_BINARY, acceptsGaps: true });
      await found.close();
      return found.gaps;
    },
  });
  judgeGaps(chosen.confined?.confinement.gaps ?? [], config.jail, log);
  return chosen;
}

/**
 * The choice of a start, without its warnings, for diagnosis. A requested Firecracker is the choice even if it can't
 * run.
 * @throws RuntimeError `jail_unavailable`
 */
export async function foreseeVmm(options: ChoiceOptions): Promise<VmmChoice> {
  if (options.config.vmm === 'firecracker') return { vmm: 'firecracker', reason: AS_CONFIGURED };
  return await decideVmm({ ...options, log: withoutWarnings(options.log) });
}

/** The jail of that VMM, with its gaps. @throws RuntimeError `jail_unavailable` */
export async function confineChoice(choice: VmmChoice, options: ChoiceOptions): Promise<Confinement> {
  if (choice.confined !== undefined) return choice.confined.confinement;
  const diagnosed = { ...options, log: withoutWarnings(options.log), acceptsGaps: true };
  if (choice.vmm === 'qemu') return await confine({ ...diagnosed, binary: QEMU_BINARY });
  const { confineFirecracker } = await import('./firecracker/firecracker.ts');
  return (await confineFirecracker(diagnosed)).confinement;
}

const withoutWarnings = (log: Log): Log => ({ ...log, warn: () => undefined });

/** Opens jails to compare them. */
interface Jails {
  firecracker(): Promise<ConfinedFirecracker>;
  /** Gaps of QEMU's jail here; `null` if unknown. */
  qemuGaps(): Promise<readonly JailGap[] | null>;
}

/** No default confines less than QEMU would: Firecracker's jail must have every protection of QEMU's. */
export async function chooseByJail(choice: VmmChoice, mode: Config['jail'], jails: Jails): Promise<VmmChoice> {
  let confined: ConfinedFirecracker;
  try {
    confined = await jails.firecracker();
  } catch (error) {
    return { vmm: 'qemu', reason: `Firecracker can't be jailed here: ${describeError(error)}` };
  }
  const { gaps } = confined.confinement;
  let lacking: readonly string[];
  try {
    lacking = gaps.length === 0 ? [] : await lackingOf(gaps, mode, jails);
  } catch (error) {
    await confined.confinement.close();
    throw error;
  }
  if (lacking.length === 0) return { ...choice, confined };
  await confined.confinement.close();
  return { vmm: 'qemu', reason: `its jail holds more than Firecracker's: ${lacking.join('; ')}` };
}

async function lackingOf(
  gaps: readonly JailGap[],
  mode: Config['jail'],
  { qemuGaps }: Jails,
): Promise<readonly string[]> {
  const texts = gaps.map(({ text }) => text);
  if (mode === 'enforce') return texts;
  try {
    const its = await qemuGaps();
    return its === null ? [] : texts.filter((text) => its.every((gap) => gap.text !== text));
  } catch (error) {
    // QEMU can't be jailed at all.
    if (error instanceof RuntimeError) return [];
    throw error;
  }
}

export interface FirecrackerVerdict {
  /** `null` if not usable. */
  readonly version: string | null;
  /** Why it is not usable, in one clause; `null` if usable. */
  readonly problem: string | null;
}

/** Never throws for a missing or unsuitable binary. */
export async function judgeFirecracker(binary: string): Promise<FirecrackerVerdict> {
  try {
    return { version: (await readFirecrackerVersion(binary)).text, problem: null };
  } catch (error) {
    const why = error instanceof VmmError ? (error.cause ?? error) : error;
    return { version: null, problem: describeError(why) };
  }
}

/**
 * Firecracker where it can run, QEMU elsewhere; ignores the jail.
 * @param firecracker `null` if not tried
 * @throws RuntimeError `no_accelerator` if the requested VMM can't run here
 */
export function chooseVmm(
  { vmm, accelerator }: Pick<Config, 'vmm' | 'accelerator'>,
  kvm: Pick<ProbeVerdict['details']['kvm'], 'usable' | 'reason' | 'remedy'>,
  firecracker: FirecrackerVerdict | null,
): VmmChoice {
  if (vmm === 'qemu') return { vmm, reason: AS_CONFIGURED };
  const noKvm = kvm.usable ? null : kvm.reason;
  const problem = firecracker?.problem ?? null;
  if (vmm === 'auto') {
    const take = (reason: string): VmmChoice => ({ vmm: 'qemu', reason });
    if (accelerator === 'tcg') return take('software emulation is configured');
    if (noKvm !== null) return take(noKvm);
    if (problem !== null) return take(`Firecracker can't be used: ${problem}`);
    return { vmm: 'firecracker', reason: `${kvm.reason}, and Firecracker is installed` };
  }
  const choose = 'choose QEMU (--vmm qemu or NEUROVISOR_VMM=qemu), or run `./neurovisor doctor`';
  const obstacle = accelerator === 'tcg' ? 'it has no software emulation' : (problem ?? noKvm);
  if (obstacle === null) return { vmm, reason: AS_CONFIGURED };
  throw new RuntimeError('no_accelerator', `cannot use Firecracker: ${obstacle}`, {
    remedy: obstacle === noKvm && kvm.remedy !== undefined ? `${kvm.remedy} Or ${choose}.` : choose,
  });
}

const AS_CONFIGURED = 'as configured';

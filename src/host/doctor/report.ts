/**
 * A report that a user can paste into a public issue: what this host is, what NeuroVisor found out about it, and how
 * fast it starts VMs. Each field is chosen: numbers, words of fixed lists, versions of a fixed form, and our own texts
 * without names, paths and addresses (`public-text.ts`).
 */
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { absentArtifacts } from '../../artifacts/image/prepared.ts';
import { type Config, DEFAULT_FIRECRACKER } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import { silentLog } from '../../base/log.ts';
import { PACKAGE_DIR, productName } from '../../base/package-dir.ts';
import { GIB } from '../../base/units.ts';
import { openCgroups } from '../../machine/jail/open.ts';
import { type ProbeVerdict, probeAccelerator } from '../../machine/vmm/accelerator/probe.ts';
import { findBinary, readJailerVersion } from '../../machine/vmm/firecracker/installation.ts';
import { withFirecracker } from '../runtime/firecracker/binary.ts';
import { Runtime } from '../runtime/runtime.ts';
import { confineChoice, foreseeVmm, judgeFirecracker } from '../runtime/vmm-choice.ts';
import { namesHere, type PrivateTexts, pathForms, publicError, publicText } from './public-text.ts';
import { type HostFacts, thisHost } from './security.ts';
import { type MeasuredStarts, measureStarts } from './starts.ts';

export interface HostReport {
  readonly neurovisor: string;
  readonly node: string;
  /** For example `debian 12`. */
  readonly distribution: string;
  readonly kernel: string;
  readonly user: 'root' | 'ordinary';
  readonly processor: {
    readonly model: string;
    readonly cpus: number;
    readonly virtualization: 'svm' | 'vmx' | 'none';
    /** Whether the host itself is a virtual machine. */
    readonly nested: boolean;
  };
  readonly memoryGib: number;
  /** Version; `null` if not installed or not usable. */
  readonly qemu: string | null;
  readonly firecracker: string | null;
  readonly jailer: string | null;
  readonly kvm: {
    readonly usable: boolean;
    readonly reason: string;
    /** The verdict comes from an earlier probe since the host booted. */
    readonly cached: boolean;
    readonly steps: readonly {
      readonly step: string;
      readonly ms: number | null;
      readonly instructionsPerSecond: number | null;
      readonly error: string | null;
    }[];
  };
  readonly accelerator: ProbeVerdict['accelerator'];
  readonly vmm: 'qemu' | 'firecracker' | null;
  readonly cgroups: { readonly version: 'v1' | 'v2' | 'hybrid' | 'none'; readonly controllers: readonly string[] };
  readonly jail: {
    readonly mode: Config['jail'];
    readonly state: 'enforced' | 'log' | 'off' | 'unavailable';
    readonly description: string;
    readonly gaps: readonly string[];
  };
  /** Seccomp filter actions that the kernel knows. */
  readonly seccomp: readonly string[];
  readonly starts: MeasuredStarts | { readonly skipped: string };
}

interface ReportOptions {
  readonly config: Config;
  readonly signal: AbortSignal;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Shows one short line of progress. */
  readonly say: (text: string) => void;
}

/**
 * Never fails because of the host: what can't be found out is `null`, `unknown` or a skip with its reason.
 * @throws the reason of the signal
 */
export async function reportHost(given: ReportOptions): Promise<HostReport> {
  const home = resolveHome(given.config.home);
  const options = { ...given, config: await withFirecracker(given.config, home) };
  const { config, env, say } = options;
  const secrets = { names: namesHere(env), paths: pathsOf(config, env) };
  say('probing');
  const [verdict, firecracker, jailer, jail, cgroups] = await Promise.all([
    probeAccelerator({ cacheDir: home.cacheDir }),
    judgeFirecracker(config.firecracker),
    jailerVersion(config),
    reportJail(config, secrets),
    openCgroups(silentLog),
  ]);
  given.signal.throwIfAborted();
  const { kvm, qemu, cached } = verdict.details;
  return {
    neurovisor: productName(),
    node: process.versions.node,
    distribution: distributionOf(thisHost.read('/etc/os-release') ?? ''),
    kernel: formed(publicText(thisHost.kernel, secrets), /^[\w.+~<>-]{1,80}$/),
    user: process.geteuid?.() === 0 ? 'root' : 'ordinary',
    processor: processorOf(thisHost.read('/proc/cpuinfo') ?? ''),
    memoryGib: Math.round((totalmem() / GIB) * 10) / 10,
    qemu: qemu?.version ?? null,
    firecracker: firecracker.version,
    jailer,
    kvm: {
      usable: kvm.usable,
      reason: publicText(kvm.reason, secrets),
      cached,
      steps: kvm.steps.map(({ step, ms = null, instructionsPerSecond = null, error }) => ({
        step,
        ms,
        instructionsPerSecond,
        error: error === undefined ? null : publicText(error, secrets),
      })),
    },
    accelerator: verdict.accelerator,
    ...jail,
    cgroups: { version: cgroupVersion(thisHost), controllers: cgroups?.controllers ?? [] },
    seccomp: (thisHost.read('/proc/sys/kernel/seccomp/actions_avail') ?? '')
      .split(' ')
      .filter((word) => /^[a-z_]{1,20}$/.test(word)),
    starts: await reportStarts(options, verdict, secrets),
  };
}

async function reportJail(config: Config, secrets: PrivateTexts): Promise<Pick<HostReport, 'vmm' | 'jail'>> {
  const home = resolveHome(config.home);
  const { jail: mode } = config;
  try {
    const options = { config, home, log: silentLog };
    const choice = await foreseeVmm(options);
    const confinement = await confineChoice(choice, options);
    await confinement.close();
    const { state, description, gaps } = confinement;
    return {
      vmm: choice.vmm,
      jail: {
        mode,
        state,
        description: publicText(description, secrets),
        gaps: gaps.map(({ text }) => publicText(text, secrets)),
      },
    };
  } catch (error) {
    const description = publicError(error, secrets);
    return { vmm: null, jail: { mode, state: 'unavailable', description, gaps: [] } };
  }
}

async function reportStarts(
  { config, signal, say }: ReportOptions,
  { accelerator }: ProbeVerdict,
  secrets: PrivateTexts,
): Promise<HostReport['starts']> {
  if (accelerator === 'none') return { skipped: 'no VMM can run here' };
  const { cacheDir } = resolveHome(config.home);
  const context = { cacheDir, sourceDir: PACKAGE_DIR, progress: () => undefined, signal, log: silentLog };
  try {
    const absent = await absentArtifacts(context, { withModel: false });
    if (absent.length > 0) return { skipped: 'not set up: run `./neurovisor setup` first' };
    await using runtime = await Runtime.open({
      // No model is asked, so none is looked for.
      config: { ...config, upstream: 'engine' },
      progress: () => undefined,
      log: silentLog,
      signal,
      withoutModel: true,
    });
    return await measureStarts(runtime, { signal, say });
  } catch (error) {
    signal.throwIfAborted();
    return { skipped: `a start failed: ${publicError(error, secrets)}` };
  }
}

/** An empty path resolves to the working directory; the default Firecracker path is a word of our own texts. */
function pathsOf({ home, firecracker, jailer }: Config, env: ReportOptions['env']): string[] {
  const paths = [resolveHome(home).dir, env['HOME'] ?? '', jailer ?? ''];
  if (firecracker !== DEFAULT_FIRECRACKER) paths.push(firecracker);
  return pathForms(paths.filter((path) => path !== ''));
}

/**
 * Version of the jailer that root's VMs would get: the configured one, the one beside Firecracker, or the one in PATH.
 */
async function jailerVersion({ jailer, firecracker }: Config): Promise<string | null> {
  const read = async (binary: string): Promise<string> => (await readJailerVersion(binary)).text;
  const unknown = (error: unknown): null => {
    ignore(error, 'not installed, or not usable');
    return null;
  };
  if (jailer !== null) return await read(jailer).catch(unknown);
  const beside = findBinary(firecracker).then((path) => read(join(dirname(path), 'jailer')));
  return (await beside.catch(unknown)) ?? (await read('jailer').catch(unknown));
}

function formed(text: string, form: RegExp): string {
  return form.test(text) ? text : 'unknown';
}

/** @param text os-release(5) */
export function distributionOf(text: string): string {
  const field = (name: string): string => new RegExp(`^${name}="?([a-z0-9._-]{1,32})"?$`, 'm').exec(text)?.[1] ?? '';
  return `${field('ID')} ${field('VERSION_ID')}`.trim() || 'unknown';
}

/** @param text /proc/cpuinfo */
export function processorOf(text: string): HostReport['processor'] {
  const field = (name: string): string => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  const flags = new Set(field('flags').split(' '));
  return {
    model: formed(field('model name'), /^[\w (),.@/+-]{1,80}$/),
    cpus: cpus().length,
    virtualization: flags.has('svm') ? 'svm' : flags.has('vmx') ? 'vmx' : 'none',
    nested: flags.has('hypervisor'),
  };
}

function cgroupVersion({ read }: HostFacts): HostReport['cgroups']['version'] {
  const mounts = (read('/proc/self/mountinfo') ?? '').split('\n');
  const has = (type: string): boolean => mounts.some((line) => line.includes(` - ${type} `));
  if (has('cgroup')) return has('cgroup2') ? 'hybrid' : 'v1';
  return has('cgroup2') ? 'v2' : 'none';
}

/**
 * Builds a template: boots a guest with a throwaway identity, lets it import and rehearse, and saves it without
 * the one device that carries identity. If the VMM can't plug a network card into a clone, a template for sandboxes
 * with a network has a card that passes nothing and that its guest never configured.
 *
 *     packages, if any: a first VM installs them into the disk (`install.ts`), and ends
 *
 *     boot ─► hello ─► import, one canned call ─► one script ─► start command, if any ─► sync, drop caches
 *          ─► unplug vsock (open connections end) ─► stop, save devices ─► RAM without zeros, disk
 *
 * Apart from installing packages and the start command, no user code runs here, so a template has nothing that a clone may
 * not see.
 */

import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { CleanupStack } from '../../base/cleanup.ts';
import type { Clock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import { NO_PACKAGES, type PackagePolicy } from '../../base/request/package-policy.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import { MIB } from '../../base/units.ts';
import type { GuestIdentity } from '../../machine/guest/identity.ts';
import type { Guest, WarmModule } from '../../machine/guest/link.ts';
import type { DiskTrouble, Vm, VmSnapshot } from '../../machine/vmm/driver.ts';
import { ENVIRONMENT_BOOT_ARGS, environmentDisk } from '../contract/environment.ts';
import { FREE_SPACE, SandboxError, type SandboxErrorCode } from '../contract/errors.ts';
import { diskFullText } from '../contract/events.ts';
import { packageVariables } from '../contract/packages.ts';
import type { GuestMemory, SandboxParts, Workspace } from '../contract/parts.ts';
import { makeSpec, type SandboxSpec, type TemplateSpec } from '../contract/spec.ts';
import { fitMemory, ramMib, vmMemory } from '../memory/size.ts';

import { NetworkCard, NO_TRAFFIC } from '../vm/network-card.ts';
import { installPackages } from './install.ts';
import { startProgram } from './start-program.ts';
import { TEMPLATE_BOOT_ARGS } from './template.ts';

export interface TemplateParts
  extends Pick<
    SandboxParts,
    | 'driver'
    | 'kernelPath'
    | 'rootImagePath'
    | 'makeWorkspace'
    | 'makeOverlay'
    | 'makeMemory'
    | 'allocateCid'
    | 'listenForGuest'
    | 'leaseNetwork'
    | 'attachPackages'
    | 'clock'
    | 'log'
  > {
  /** Variables that modules see when they are imported. */
  readonly env: Readonly<Record<string, string>>;
  readonly hostCpus: number;
  /** A fake model with one answer, which closes each connection. */
  serveCannedModel(channelPath: string): Promise<{ close(): Promise<void> }>;
  /** Copies without zeros. */
  keepMemory(from: string, to: string): Promise<void>;
  keepDisk(from: string, to: string): Promise<void>;
  /** Moves within one file system. */
  moveDisk(from: string, to: string): Promise<void>;
}

export interface TemplatePaths {
  readonly ram: string;
  readonly state: string;
  readonly disk: string;
}

export interface BuiltTemplate {
  /** False if the image has no Python that can run scripts, so no module was imported. */
  readonly hasPython: boolean;
  readonly snapshot: VmSnapshot;
  /** The warm list that the guest was given: the spec's, plus the modules of its packages. */
  readonly warm: readonly string[];
  readonly modules: readonly WarmModule[];
}

export interface BuildOptions {
  readonly spec: TemplateSpec;
  /** Path of the environment's file, which is not changed. */
  readonly environmentPath?: string | undefined;
  readonly paths: TemplatePaths;
  readonly signal: AbortSignal;
  readonly report: (detail: string) => void;
}

const PIP_ONLY: PackagePolicy = { ...NO_PACKAGES, ecosystems: ['pip'] };
/** LangChain takes 10 to 20 s in software emulation; the guest's own limit is 180 s. */
const WARM_MS_MAX = 200_000;
/**
 * Reports of memory pressure, at most one a second, before the build fails. Under constant pressure a guest crawls and
 * would use up `WARM_MS_MAX`; even if it finished, the template would be useless.
 */
const PRESSURES_MAX = 5;
/** Timeout of a step that runs the image's Python: it may never end, and the build holds the lock of all set-ups. */
const STEP_MS_MAX = 60_000;
/** Time after `STEP_MS_MAX` for the guest to report that the step timed out. */
const ANSWER_MS_MAX = 30_000;
/** The second fork of a process is four times as fast as the first. */
const FIRST_SCRIPT = 'import json; print(json.dumps([1]))';

/** @throws SandboxError `spec_invalid` for a size or module that does not work, `template_failed`, `cancelled` */
export async function buildTemplate(parts: TemplateParts, options: BuildOptions): Promise<BuiltTemplate> {
  const cleanup = new CleanupStack();
  const disk: { full: DiskTrouble | null } = { full: null };
  const onFull = (trouble: DiskTrouble): void => {
    disk.full = trouble;
  };
  try {
    return await build(parts, options, cleanup, onFull);
  } catch (error) {
    if (disk.full !== null) throw failed(diskFullText(disk.full), FREE_SPACE);
    if (options.signal.aborted) {
      throw new SandboxError('cancelled', 'building the template was canceled');
    }
    if (error instanceof SandboxError) throw error;
    throw new SandboxError('template_failed', 'the template could not be built', { cause: error });
  } finally {
    await cleanup.run();
  }
}

async function build(
  parts: TemplateParts,
  options: BuildOptions,
  cleanup: CleanupStack,
  onFull: (trouble: DiskTrouble) => void,
): Promise<BuiltTemplate> {
  const { paths, report, signal } = options;
  const { cpus, memoryMib, memoryMaxMib, diskMib, warm, card = false } = options.spec;
  const { requirements = [], environment } = options.spec;
  const place = environment === undefined ? {} : { environment };
  const size = { cpus, memoryMib, memoryMaxMib, diskMib, ...place };
  const made = makeSpec({ ...size, warm, env: parts.env }, parts.hostCpus);
  const spec = { ...made, network: card ? NO_TRAFFIC : null };
  const workspace = withEnvironment(await parts.makeWorkspace(spec), options);
  cleanup.push('workspace', () => workspace.remove());
  let offered: readonly string[] = [];
  if (requirements.length === 0) await parts.makeOverlay(workspace.overlayPath, diskMib * MIB);
  else offered = await install(parts, options, { ...made, warm: [] }, workspace.overlayPath, onFull);
  report('boot');
  const warmed = { ...spec, warm: [...new Set([...warm, ...offered])] };
  const { vm, guest, memory } = await boot(parts, warmed, workspace, signal, cleanup, onFull);
  report(`import ${warmed.warm.length} modules`);
  const within = <T>(step: Promise<T>): Promise<T> => answered(step, vm, parts.clock);
  const hasPython = environment === undefined || (await within(findsPython(guest, signal)));
  if (!hasPython && warmed.warm.length > 0) throw withoutPython();
  const modules = hasPython ? await warmUp(parts, { guest, vm, spec }, signal) : [];
  report('run a script');
  if (hasPython) {
    const script = { code: FIRST_SCRIPT };
    const starting = guest.python({ script, stdin: false, timeoutMs: STEP_MS_MAX }, signal);
    await within(runFirst(starting, environment === undefined));
  }
  const { start } = options.spec;
  if (start !== undefined) {
    const { clock } = parts;
    const starting = startProgram(guest, start, { clock, signal, report });
    await Promise.race([starting, died(vm)]);
  }
  // A clone reads from the host's page cache faster than it would copy the guest's.
  await guest.settle({ dropCaches: true }, signal);
  report('save');
  guest.suspend();
  await vm.vsockHotplug?.unplugVsock();
  signal.throwIfAborted();
  const snapshot = await vm.saveState?.(paths.state);
  if (snapshot === undefined) throw unsupported(parts);
  await parts.keepMemory(memory.path, paths.ram);
  await parts.keepDisk(workspace.overlayPath, paths.disk);
  return { snapshot, warm: warmed.warm, modules, hasPython };
}

/**
 * Creates a disk with packages, in a VM of its own: modules are imported at the next boot.
 * @returns the modules that the packages offer
 */
async function install(
  parts: TemplateParts,
  options: BuildOptions,
  spec: SandboxSpec,
  diskPath: string,
  onFull: (trouble: DiskTrouble) => void,
): Promise<readonly string[]> {
  await using cleanup = new CleanupStack();
  const { report, signal } = options;
  const { requirements = [], environment, packagesMinAgeMs = null } = options.spec;
  const policy = { ...PIP_ONLY, minAgeMs: packagesMinAgeMs };
  const env = { ...spec.env, ...packageVariables(policy, false) };
  const own = { ...spec, id: newSandboxId(), env };
  const workspace = withEnvironment(await parts.makeWorkspace(own), options);
  cleanup.push('workspace', () => workspace.remove());
  const { channelPath, overlayPath } = workspace;
  await parts.makeOverlay(overlayPath, spec.diskMib * MIB);
  report('boot a VM that installs packages');
  const port = await parts.attachPackages?.(own.id, channelPath, policy, () => undefined);
  if (port === undefined) throw failed('this host serves no packages');
  cleanup.push('package port', () => port.close());
  const { vm, guest } = await boot(parts, own, workspace, signal, cleanup, onFull);
  if (environment !== undefined) {
    const found = await answered(findsPython(guest, signal), vm, parts.clock);
    if (!found) throw withoutPython();
  }
  const installing = installPackages(guest, { requirements, report, signal });
  const modules = await Promise.race([installing, died(vm)]);
  await guest.settle({}, signal);
  await vm.kill();
  await parts.moveDisk(overlayPath, diskPath);
  return modules;
}

async function boot(
  parts: TemplateParts,
  spec: SandboxSpec,
  workspace: Workspace,
  signal: AbortSignal,
  cleanup: CleanupStack,
  onFull: (trouble: DiskTrouble) => void,
): Promise<{ vm: Vm; guest: Guest; memory: GuestMemory }> {
  const { channelPath, overlayPath, disks } = workspace;
  const memory = parts.makeMemory(ramMib(spec) * MIB);
  cleanup.push('RAM', () => memory.close());
  const model = await parts.serveCannedModel(channelPath);
  cleanup.push('canned model', () => model.close());
  const listener = await parts.listenForGuest(channelPath, throwawayIdentity(spec));
  cleanup.push('guest listener', () => listener.close());
  const lease = parts.allocateCid();
  cleanup.push('context id', () => lease.release());
  const { id, cpus, network } = spec;
  const card = new NetworkCard(id, parts);
  cleanup.push('network', () => card.release());
  const nic = network === null ? {} : { nic: await card.lease(network) };
  const { kernelPath, rootImagePath, clock } = parts;
  const place = { id, dir: workspace.dir, channelPath, overlayPath, memoryFd: memory.fd };
  const vm = await parts.driver.start(
    {
      ...place,
      cpus,
      ...vmMemory(spec),
      kernelPath,
      rootImagePath,
      guestCid: lease.cid,
      console: 'log',
      bootArgs: [...TEMPLATE_BOOT_ARGS, ...(spec.environment === undefined ? [] : ENVIRONMENT_BOOT_ARGS)],
      ...(disks === undefined ? {} : { disks }),
      ...nic,
    },
    signal,
  );
  cleanup.push('VM', () => vm.kill());
  await card.confirmHandover();
  vm.onDiskTrouble?.((trouble) => {
    if (trouble.kind !== 'full') return;
    onFull(trouble);
    void vm.kill();
  });
  if (vm.pid !== null) await workspace.recordVmm(vm.pid);
  const guest = await Promise.race([listener.ready(signal), died(vm)]);
  const hasFit = await Promise.race([fitMemory({ clock, vm, guest, signal }, spec), died(vm)]);
  if (!hasFit) throw failed('its guest did not give memory back in time');
  return { vm, guest, memory };
}

/** The VM reads the image's file in place. */
function withEnvironment(workspace: Workspace, { spec, environmentPath }: BuildOptions): Workspace {
  if (spec.environment === undefined) return workspace;
  if (environmentPath === undefined) throw failed('the disk of its image is unknown');
  return { ...workspace, disks: [environmentDisk(environmentPath)] };
}

/** The same check as the agent's: from 3.10 on it can run scripts. */
const FIND_PYTHON = 'import sys; sys.exit(sys.version_info < (3, 10))';

/** Whether the image has a Python that can run scripts. */
async function findsPython(guest: Guest, signal: AbortSignal): Promise<boolean> {
  try {
    const argv = ['python3', '-I', '-S', '-c', FIND_PYTHON];
    const process = await guest.exec({ argv, stdin: false, timeoutMs: STEP_MS_MAX }, signal);
    process.stdout.resume();
    process.stderr.resume();
    const { exitCode, timedOut } = await process.exit;
    if (timedOut) throw failed(`python3 of the image did not end within ${STEP_MS_MAX / 1000} s`);
    return exitCode === 0;
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'not_found' && code !== 'permission_denied') throw error;
    ignore(error, 'it has none');
    return false;
  }
}

/** The guest ends a step that takes too long. A guest that does not is hostile or broken. */
async function answered<T>(step: Promise<T>, vm: Vm, clock: Clock): Promise<T> {
  using limit = timeLimit(clock, STEP_MS_MAX + ANSWER_MS_MAX);
  const silent = (): SandboxError => failed('its guest did not answer');
  return await Promise.race([orAborted(step, limit.signal, silent), died(vm)]);
}

/** A throwaway identity: each clone gets its own in its hello. */
function throwawayIdentity(spec: SandboxSpec): GuestIdentity {
  const { id, warm, environment } = spec;
  const hostname = `template-${randomInt(1e6)}`;
  const env = { ...environment?.env, ...spec.env };
  const identity = { sandboxId: id, hostname, env, limits: {}, warm, rehearse: true };
  if (environment === undefined) return identity;
  const { user, workdir } = environment;
  return { ...identity, environment: { user, workdir } };
}

/** Resolves when the fork server has imported and rehearsed all modules. */
async function warmUp(
  parts: TemplateParts,
  { guest, vm, spec }: { readonly guest: Guest; readonly vm: Vm; readonly spec: TemplateSpec },
  signal: AbortSignal,
): Promise<readonly WarmModule[]> {
  const over = Promise.withResolvers<readonly WarmModule[]>();
  let pressures = 0;
  const stop = guest.events((event) => {
    if (event.type === 'warm') over.resolve(event.modules);
    if (event.type === 'pressure') pressures += 1;
    if (event.type === 'oom' || pressures > PRESSURES_MAX) over.reject(tooSmall(spec));
  });
  const cancel = parts.clock.after(WARM_MS_MAX, () =>
    over.reject(failed(`modules were not imported within ${WARM_MS_MAX} ms`)),
  );
  try {
    const modules = await orAborted(Promise.race([over.promise, died(vm)]), signal);
    // Modules of packages may need others that are not installed; they are imported if possible.
    const wrong = modules.find(({ name, error }) => error !== null && spec.warm.includes(name));
    if (wrong !== undefined) throw unfit(`module ${wrong.name}: ${wrong.error}`);
    return modules.filter(({ error }) => error === null);
  } finally {
    cancel();
    stop();
  }
}

/**
 * Without this script clones are slower, but work. An image whose Python fails the script keeps its template; otherwise
 * each of its sandboxes would build one anew and fail. Their own scripts show what is wrong.
 * @param isOurs whether the Python is ours: then a failure is a fault of the template
 */
async function runFirst(starting: ReturnType<Guest['python']>, isOurs: boolean): Promise<void> {
  try {
    await runOne(starting);
  } catch (error) {
    const isOfScript = error instanceof SandboxError || errorCode(error) === 'guest_failed';
    if (isOurs || !isOfScript) throw error;
    ignore(error, 'the Python of the image runs no script');
  }
}

async function runOne(starting: ReturnType<Guest['python']>): Promise<void> {
  const process = await starting;
  let errors = '';
  process.stdout.resume();
  process.stderr.on('data', (bytes: Buffer) => {
    errors = (errors + bytes.toString()).slice(-ERROR_LENGTH_MAX);
  });
  // Awaited together: if the guest is lost, both fail.
  const [exit] = await Promise.all([process.exit, once(process.stderr, 'close')]);
  if (exit.timedOut) throw failed(`a script did not end within ${STEP_MS_MAX / 1000} s`);
  if (exit.exitCode !== 0) throw failed(`a step ended with ${exit.exitCode}: ${errors}`);
}

const ERROR_LENGTH_MAX = 500;

async function died(vm: Vm): Promise<never> {
  const exit = await vm.exited;
  throw failed(`its VM ended: ${exit.cause} ${exit.detail}\n${vm.consoleTail().slice(-500)}`);
}

function unsupported(parts: TemplateParts): SandboxError {
  return failed(`${parts.driver.description} takes no snapshots`);
}

function tooSmall({ memoryMib, warm }: TemplateSpec): SandboxError {
  const cause = `${memoryMib} MiB of memory is too little for its modules: ${warm.join(', ')}`;
  return unfit(cause, 'give it more memory (--memory) or import fewer modules (--warm)');
}

function withoutPython(): SandboxError {
  const cause = 'the image has no Python 3.10 or newer, which packages and warm modules need';
  return unfit(cause, 'use an image with Python, or omit them (--with, --requirements, --warm)');
}

/** For a host that can build templates, but not the requested one. */
function unfit(cause: string, remedy?: string): SandboxError {
  return failed(cause, remedy, 'spec_invalid');
}

function failed(cause: string, remedy?: string, code: SandboxErrorCode = 'template_failed'): SandboxError {
  const options = remedy === undefined ? { cause } : { cause, remedy };
  return new SandboxError(code, 'the template could not be built', options);
}

/** Finds out what this machine can do by doing it. A check that fails never hides another. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm, statfs } from 'node:fs/promises';
import { connect } from 'node:net';
import { freemem } from 'node:os';
import { dirname, join } from 'node:path';
import type { Config } from '../../base/config.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import { requireRunDir, resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { productName } from '../../base/package-dir.ts';
import { GIB } from '../../base/units.ts';
import { probeUpstreams } from '../../inference/bridge/upstream/detect.ts';
import { probeAccelerator } from '../../machine/vmm/accelerator/probe.ts';
import { createVsockHost } from '../../machine/vsock/host.ts';
import { tryProbes } from '../probes/kernel-probes.ts';
import { INSTALL_FIRECRACKER, withFirecracker } from '../runtime/firecracker/binary.ts';
import { confine, QEMU_BINARY, remediesOf } from '../runtime/jail.ts';
import { readModelsFile } from '../runtime/model-servers/models-file.ts';
import { overviewOf } from '../runtime/model-servers/overview.ts';
import { ramSharingOf, SHARING_REMEDY, sharingAsConfigured } from '../runtime/ram/sharing.ts';
import { SPACE_BYTES } from '../runtime/setup.ts';
import { confineChoice, foreseeVmm, judgeFirecracker, type VmmChoice } from '../runtime/vmm-choice.ts';
import type { Check, Finding } from './check.ts';
import { checkGpu } from './gpu.ts';
import { checkKernel } from './kernel.ts';
import { checkPackages } from './packages.ts';
import { checkSetup } from './setup.ts';

export interface DoctorOptions {
  readonly config: Config;
  readonly log: Log;
}

const MEMORY_FOR_ONE_SANDBOX_BYTES = 0.75 * GIB;

interface Exam extends DoctorOptions {
  readonly choice: VmmChoice;
}

export async function examine({ config, log }: DoctorOptions): Promise<Check[]> {
  const home = resolveHome(config.home);
  const options = { config: await withFirecracker(config, home), log };
  const choice = await foreseeVmm({ ...options, home }).catch(
    (error: unknown): VmmChoice => ({ vmm: 'qemu', reason: describeError(error) }),
  );
  const exam = { ...options, choice };
  const checks: readonly [string, (exam: Exam) => Promise<Finding> | Finding][] = [
    ['neurovisor', checkProduct],
    ['node', checkNode],
    ['privileges', checkPrivileges],
    ['host packages', checkPackages],
    ['accelerator', checkAccelerator],
    ['jail', checkJail],
    ['firecracker', checkFirecracker],
    ['memory sharing', checkSharing],
    ['vsock device', checkVsock],
    ['kernel probes', checkProbes],
    ['disk', checkDisk],
    ['memory', checkMemory],
    ['setup', checkSetup],
    ['guest kernel', checkKernel],
    ['model server', checkUpstream],
    ['gpu', ({ config }) => checkGpu(config)],
  ];
  return await Promise.all(
    checks.map(async ([name, check]) => {
      try {
        return { name, ...(await check(exam)) };
      } catch (error) {
        const remedy = error instanceof CodedError ? (error.remedy ?? null) : null;
        return { name, verdict: 'missing' as const, detail: describeError(error), remedy };
      }
    }),
  );
}

const ok = (detail: string): Finding => ({ verdict: 'ok', detail, remedy: null });

function checkProduct(): Finding {
  return ok(productName());
}

function checkNode(): Finding {
  return ok(`${process.version}, runs TypeScript without a build`);
}

function checkPrivileges(): Finding {
  if (process.geteuid?.() === 0) return ok('root');
  return {
    verdict: 'limited',
    detail: 'not root: set-up can build everything but cannot install host packages',
    remedy: 'run `sudo ./neurovisor setup` once if host packages are missing',
  };
}

async function checkAccelerator({ config }: DoctorOptions): Promise<Finding> {
  const home = resolveHome(config.home);
  const verdict = await probeAccelerator({ cacheDir: home.cacheDir });
  if (verdict.accelerator === 'kvm') return ok(`KVM: ${verdict.reason}`);
  if (verdict.accelerator === 'none') {
    return { verdict: 'missing', detail: verdict.reason, remedy: 'run `./neurovisor setup` as root: it installs QEMU' };
  }
  return {
    verdict: 'limited',
    detail: `software emulation (TCG), Python is 12 to 17 times slower: ${verdict.reason}`,
    remedy:
      verdict.details.kvm.remedy ?? 'use a host whose /dev/kvm runs Linux guests (bare metal or nested virtualisation)',
  };
}

/** Reports whether Firecracker runs VMs here, and why. */
async function checkFirecracker({ config, choice }: Exam): Promise<Finding> {
  const { version, problem } = await judgeFirecracker(config.firecracker);
  if (config.vmm === 'firecracker') return await checkRequested(config, { version, problem });
  if (problem !== null) return await notInstalled(config, problem);
  if (choice.vmm === 'firecracker') return ok(`${version}, used: ${choice.reason}`);
  const why = config.vmm === 'qemu' ? 'QEMU is configured' : choice.reason;
  return { verdict: 'unused', detail: `${version} is installed, but ${why}`, remedy: null };
}

/** Has a remedy only if a start would use Firecracker. */
async function notInstalled({ home, vmm }: Config, detail: string): Promise<Finding> {
  const { kvm } = (await probeAccelerator({ cacheDir: resolveHome(home).cacheDir })).details;
  const remedy = vmm === 'auto' && kvm.usable ? INSTALL_FIRECRACKER : null;
  return { verdict: 'unused', detail, remedy };
}

async function checkRequested(
  { home }: Config,
  { version, problem }: Awaited<ReturnType<typeof judgeFirecracker>>,
): Promise<Finding> {
  const { kvm } = (await probeAccelerator({ cacheDir: resolveHome(home).cacheDir })).details;
  const why = problem ?? (kvm.usable ? null : `${version} is installed, but ${kvm.reason}`);
  if (why === null) return ok(`${version}, used as configured`);
  return { verdict: 'missing', detail: why, remedy: 'see docs/firecracker.md, or unset NEUROVISOR_VMM' };
}

/** Checks the configured mode; `doctor --security` checks whether the host is fit for it. */
async function checkJail({ choice, config, log }: Exam): Promise<Finding> {
  const found = await confineChoice(choice, { config, home: resolveHome(config.home), log });
  await found.close();
  if (found.gaps.length === 0) return ok(found.description);
  return {
    verdict: 'limited',
    detail: [
      found.description,
      ...found.gaps.map(({ text }) => text).filter((text) => !text.includes(found.description)),
    ].join('; '),
    remedy: `${remediesOf(found.gaps)} (\`neurovisor doctor --security\`, docs/security.md)`,
  };
}

/** Whether clones share their template's RAM; tried with a jailed VMM unless known. */
async function checkSharing({ choice, config, log }: Exam): Promise<Finding> {
  if (choice.vmm === 'firecracker') return ok(sharingAsConfigured(config).text);
  const home = resolveHome(config.home);
  requireRunDir(home.runDir);
  const quiet = { ...log, warn: () => undefined };
  const jail = { config, home, log: quiet, binary: QEMU_BINARY, acceptsGaps: true };
  const confinement = await confine(jail);
  try {
    const options = { config, home, confinement, binary: QEMU_BINARY };
    const { text, obstacle } = await ramSharingOf(options);
    if (obstacle === undefined) return ok(text);
    return { verdict: 'limited', detail: `${text} (${obstacle})`, remedy: SHARING_REMEDY };
  } finally {
    await confinement.close();
  }
}

/** Attaches a device in a worker, as for a sandbox, and connects to its socket. */
async function checkVsock({ config, log }: DoctorOptions): Promise<Finding> {
  const { runDir } = resolveHome(config.home);
  requireRunDir(runDir);
  const dir = await mkdtemp(join(runDir, 'doctor-'));
  const host = createVsockHost({ log });
  try {
    const channelPath = join(dir, 'v');
    const vhostSocketPath = join(dir, 'u');
    const device = await host.attach({ id: 'doctor', guestCid: 3, channelPath, vhostSocketPath });
    // The worker has answered, or could not start.
    await device.stats();
    const ended = await Promise.race([device.closed, undefined]);
    if (ended !== undefined) {
      const remedy = 'if `io_setup` failed, raise the sysctl fs.aio-max-nr';
      return { verdict: 'missing', detail: ended.detail, remedy };
    }
    await canConnect(channelPath);
    return ok('the vhost-user device answers');
  } finally {
    await host.close();
    await rm(dir, { recursive: true, force: true });
  }
}

function canConnect(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve();
    });
    socket.on('error', reject);
  });
}

/** Loads the BPF programs that a daemon would measure with, and unloads them. */
async function checkProbes({ config }: DoctorOptions): Promise<Finding> {
  const { findings, wanted } = await tryProbes(config);
  if (wanted.length === 0) return ok('disabled by NEUROVISOR_PROBES');
  const [first] = findings;
  if (first === undefined) return ok(`a daemon measures ${wanted.join(', ')}`);
  return {
    verdict: 'limited',
    detail: findings.map(({ probe, why }) => `${probe}: not available because ${why}`).join('; '),
    remedy: first.remedy,
  };
}

async function checkDisk({ config }: DoctorOptions): Promise<Finding> {
  const { dir } = resolveHome(config.home);
  let existing = dir;
  while (!existsSync(existing)) existing = dirname(existing);
  const fs = await statfs(existing);
  const free = fs.bavail * fs.bsize;
  const detail = `${gib(free)} free for ${dir}`;
  if (free >= SPACE_BYTES) return ok(detail);
  return {
    verdict: 'limited',
    detail: `${detail}; set-up needs about ${gib(SPACE_BYTES)} during the build`,
    remedy: 'free some space, or set NEUROVISOR_HOME to a directory on another disk',
  };
}

function checkMemory(): Finding {
  const free = freemem();
  if (free >= MEMORY_FOR_ONE_SANDBOX_BYTES) return ok(`${gib(free)} available`);
  return {
    verdict: 'limited',
    detail: `${gib(free)} available; a sandbox with its VMM needs about ${gib(MEMORY_FOR_ONE_SANDBOX_BYTES)}`,
    remedy: 'stop other programs, or use a smaller --memory',
  };
}

async function checkUpstream({ config }: DoctorOptions): Promise<Finding> {
  if (config.upstream === 'engine') return ok('the built-in engine, as configured');
  if (config.upstream === 'auto' && readModelsFile(config) !== null) return checkServers(config);
  const explicit = config.upstream === 'auto' ? undefined : config.upstream;
  const probes = await probeUpstreams({
    ...(explicit === undefined ? {} : { explicit }),
    ...(config.upstreamKey === null ? {} : { apiKey: config.upstreamKey }),
  });
  const answering = probes.filter((probe) => probe.target !== null);
  if (answering.length > 0) {
    return ok(answering.map((probe) => `${probe.name}: ${probe.detail}`).join('; '));
  }
  if (explicit !== undefined) {
    return {
      verdict: 'missing',
      detail: `${explicit}: ${probes[0]?.detail ?? 'no answer'}`,
      remedy: 'start the server, or correct NEUROVISOR_UPSTREAM',
    };
  }
  return ok(`none of ${probes.map((probe) => probe.name).join(', ')}; the built-in engine is used`);
}

async function checkServers(config: Config): Promise<Finding> {
  const { signal } = new AbortController();
  const { servers } = await overviewOf({ config, env: process.env, signal });
  const failed = servers.filter(({ error }) => error !== null);
  const detail = servers
    .map(({ name, kind, error, tookMs, models }) => {
      const works = tookMs === null ? 'starts when asked' : `answers, ${models?.length ?? 0} models`;
      const found = error ?? works;
      return `${name} (${kind}): ${found}`;
    })
    .join('; ');
  if (failed.length === 0) return ok(detail);
  const verdict = failed.length === servers.length ? 'missing' : 'limited';
  return { verdict, detail, remedy: 'start the servers, or correct models.toml' };
}

const gib = (bytes: number): string => `${(bytes / GIB).toFixed(1)} GiB`;

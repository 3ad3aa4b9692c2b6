/** `neurovisor setup`: prepares this machine, and lists the results. */
import { resolve } from 'node:path';
import { describeError } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import {
  explainUnused,
  type FirecrackerSource,
  hasFirecracker,
  INSTALL_FIRECRACKER,
  type InstalledPaths,
  installFirecracker,
  isUrl,
} from '../../host/runtime/firecracker/binary.ts';
import { templateSpec } from '../../host/runtime/named-templates/spec.ts';
import type { Runtime } from '../../host/runtime/runtime.ts';
import { chooseKernel, type SetupContext } from '../../host/runtime/setup.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { table } from '../output/table.ts';
import { openRuntime } from './open-runtime.ts';

export interface SetupFlags {
  readonly firecracker?: string;
  readonly sha256?: string;
  /** Absent: as chosen before. */
  readonly buildKernel?: boolean;
}

export async function setup(cli: Cli, flags: SetupFlags): Promise<number> {
  const source = firecrackerSource(flags);
  const installed = source === null ? null : await install(cli, source);
  if (flags.buildKernel !== undefined) await chooseKernel(setupContext(cli), flags.buildKernel);
  await using runtime = await openRuntime(cli, { modelLater: true });
  const template = await defaultTemplate(runtime, cli);
  const model = await runtime.artifacts.model;
  cli.progress.close();
  const { artifacts, driver, upstream, home } = runtime;
  const made = {
    home: home.dir,
    vmm: driver.description,
    vmmReason: runtime.vmmReason,
    accelerator: driver.accelerator,
    kernel: artifacts.kernelPath,
    image: artifacts.rootImagePath,
    packages: artifacts.guestPackages.description,
    template,
    models: upstream.description,
    model: model?.path ?? null,
    ...(installed === null ? {} : { firecracker: installed.firecracker }),
  };
  if (cli.json) {
    cli.printJson(made);
    return 0;
  }
  const rows = Object.entries(made).map(([name, value]) => [name, value ?? '-']);
  cli.stdout.write(`${table(['part', 'value'], rows)}\n\nready: neurovisor run FILE\n`);
  const unused = installed === null ? null : await explainUnused(cli.config, home, installed);
  if (unused !== null) cli.stderr.write(`hint: ${unused}\n`);
  if (await wantsFirecracker(cli, runtime)) cli.stderr.write(`hint: ${INSTALL_FIRECRACKER}\n`);
  return 0;
}

/** @throws UsageError */
function firecrackerSource({ firecracker: from, sha256 }: SetupFlags): FirecrackerSource | null {
  if (from === undefined && sha256 === undefined) return null;
  if (from === undefined || from === '') {
    throw new UsageError('--sha256 belongs to --firecracker', 'add --firecracker FILE|URL');
  }
  const digests = sha256?.toLowerCase().split(',') ?? [];
  if (digests.length > 0 && digests.length <= 2 && digests.every((one) => SHA256.test(one))) {
    return { from: isUrl(from) ? from : resolve(from), digests };
  }
  throw new UsageError(
    sha256 === undefined ? '--firecracker needs the digest of what it installs' : `invalid --sha256 "${sha256}"`,
    'add --sha256 with the 64 hexadecimal digits that the release names (firecracker-vVERSION-x86_64.tgz.sha256.txt)',
  );
}

const SHA256 = /^[0-9a-f]{64}$/;

/** Before anything else, which may take minutes. @throws ImageError, VmmError */
async function install(cli: Cli, source: FirecrackerSource): Promise<InstalledPaths> {
  return await installFirecracker(setupContext(cli), source);
}

function setupContext({ config, progress, log, cancelled: signal }: Cli): SetupContext {
  const { cacheDir } = resolveHome(config.home);
  return { cacheDir, sourceDir: PACKAGE_DIR, progress: progress.report, signal, log };
}

async function wantsFirecracker(cli: Cli, { driver, home }: Runtime): Promise<boolean> {
  const { config } = cli;
  if (config.vmm !== 'auto' || driver.name !== 'qemu' || driver.accelerator !== 'kvm') return false;
  return !(await hasFirecracker(config, home));
}

/** A missing template is not an error: sandboxes boot instead. */
async function defaultTemplate(runtime: Runtime, cli: Cli): Promise<string | null> {
  if (!runtime.templates.supported) return null;
  try {
    return (await runtime.templates.prepare(templateSpec({}))).key;
  } catch (error) {
    if (cli.cancelled.aborted) throw error;
    cli.log.warn('no template: sandboxes will boot', { reason: describeError(error) });
    return null;
  }
}
